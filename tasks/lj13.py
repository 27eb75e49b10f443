"""LJ13: a Lennard-Jones cluster of 13 particles in three dimensions, in a harmonic trap.

    U(x) = depth sum_{i < j} (r_ij^-12 - 2 r_ij^-6) + 1/2 sum_i |x_i - mean(x)|^2,   r_ij = |x_i - x_j|
    pi(x) = exp(-U(x)) / Z

A pair is at rest at r = 1 with energy -depth, which in the usual form 4 eps ((s / r)^12 - (s / r)^6) is eps = depth,
s = 2^(-1/6): the icosahedron has the known energy -44.3268 depth without the trap.

The published targets are two densities (Koehler et al. 2020 introduced them). `pairs=once` counts each pair once, depth
1: so do the code of Midgley et al. 2023 and its followers, over ordered pairs with a factor 1 / 2. `pairs=twice` counts
each pair twice, depth 2: so does the code of Akhound-Sadegh et al. 2024 (jarridrb/DEM), over ordered pairs with a
factor 1. The reference draws that this repository publishes obey E[z . grad U] = 36 for pairs=twice (36.0 +- 0.6) and
not for once (27.0 +- 0.3).

U is unchanged by rotations, reflections, permutations and translations, so that exp(-U) has no integral over R^39, the
space that published code takes. Here a point is z in R^36, coordinates of the mean-free subspace in an orthonormal
basis (gwfbench/metrics/clusters.py). P_0 = N(0, start^2 I) in z; start = 1 is the trap's own law.

Truth: 4096 independent draws of each density, the last states of as many chains of HMC from two starts that agree
(scripts/lj13_reference.py; certificates next to the draws). With `data_root` it is the published draws of pairs=twice:
MCMC, checked by the identity above alone. `exact` gives one half of them, and metrics compare with the other half. Each
draw is turned, reflected and its particles permuted at random, which keeps the law. log Z is not known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from gwfbench.errors import UserError, require
from gwfbench.fields import Positive, check_fields, refuse
from gwfbench.info import Info, Initial, LogDensity
from gwfbench.metrics.clusters import cluster_metrics, coordinates, pairs, positions, push
from gwfbench.protocol import Instance, Problem, Truth
from gwfbench.rng import Streams

N, D = 13, 3  # particles, dimensions
FILES = ("test_split_LJ13-1000.npy", "test_split_LJ13-1000.npz")
CHUNK = 16384  # points that the truth takes to float64 at once


@dataclass(frozen=True)
class LJ13:
    pairs: Literal["once", "twice"] = "once"
    "number of times that a pair counts; twice: wells twice as deep, as in the code of Akhound-Sadegh et al."
    start: Positive = 1.0
    "standard deviation of P_0"
    data_root: str | None = None
    "folder with the published draws of pairs=twice, test_split_LJ13-1000.npy; default: draws that come with gwfbench"

    offers: ClassVar[frozenset[type[Info]]] = frozenset({Initial, LogDensity})
    metrics: ClassVar[tuple[str, ...]] = (
        *("energy_tv", "distance_tv", "virial", "aligned_w2", "sliced_w2", "energy_distance", "mmd", "w2", "ksd"),
    )
    files: ClassVar[tuple[str, ...]] = ("data/lj13",)
    points: ClassVar[int] = 4096
    version: ClassVar[int] = 2
    singular: ClassVar[bool] = True  # 1 / r^12
    smoke: ClassVar[Mapping[str, object]] = {}
    reference: ClassVar[str] = """@inproceedings{kohler2020equivariant,
  title={Equivariant flows: Exact likelihood generative learning for symmetric densities},
  author={K{\\"o}hler, Jonas and Klein, Leon and No{\\'e}, Frank}, booktitle={ICML}, year={2020}}"""

    def __post_init__(self) -> None:
        check_fields(self)
        refuse(
            self,
            *("data_root", "pairs"),
            when=self.data_root is not None and self.pairs == "once",
            expected="no data_root: the published draws are of pairs=twice",
            fix="write lj13:pairs=twice,data_root=FOLDER, or leave out data_root",
        )

    def data_files(self) -> list[Path]:
        return [] if self.data_root is None else [_file(self.data_root)]

    def build(self, rng: Streams) -> Instance:
        d, start, depth = D * (N - 1), self.start, 1.0 if self.pairs == "once" else 2.0

        def log_initial(x: Tensor) -> Tensor:
            return -0.5 * x.square().sum(-1) / start**2 - 0.5 * d * math.log(2 * math.pi * start**2)

        density, score = partial(log_density, depth=depth), partial(log_slope, depth=depth)
        initial = Initial(lambda n, streams: start * streams.normal(n, d), log_initial)
        problem = Problem((d,), (math.inf,), (initial, LogDensity(density, score)))

        def precise(index: int, x: Tensor) -> Tensor:
            return torch.cat([score(part.double()).to(x.dtype) for part in x.split(CHUNK, 1)], 1)

        own = self.data_root is None
        points = _own(self.pairs) if self.data_root is None else _read(_file(self.data_root), depth)
        first, second = points.chunk(2)
        truth = Truth(
            partial(_draw, first),
            exact=own,
            reference=partial(_draw, second),
            limit=min(len(first), len(second)),
            score=precise,
            metrics=cluster_metrics(lambda z: -density(z), score, N, 64),
        )
        return Instance(problem, truth)


def log_density(z: Tensor, depth: float) -> Tensor:
    """-U, (S, n, 36) -> (S, n)."""
    cube = pairs(positions(z, N))[1].square().reciprocal() ** 3  # r^-6
    return -depth * (cube * (cube - 2)).sum(-1) - 0.5 * z.square().sum(-1)


def log_slope(z: Tensor, depth: float) -> Tensor:
    """-grad U, (S, n, 36)."""
    gap, distance = pairs(positions(z, N))
    inverse = distance.square().reciprocal()
    cube = inverse**3
    return coordinates(push(gap, 12 * depth * inverse * cube * (cube - 1), N)) - z


def _draw(points: Tensor, index: int, n: int, streams: Streams) -> Tensor:
    """n of the points for each seed, each turned, reflected and its particles permuted at random."""
    if n > len(points):
        raise ValueError(f"{len(points)} draws are at hand; {n} were asked for")
    host = streams.host()
    chosen = host.uniform(len(points)).argsort(1)[:, :n]  # without replacement
    names = host.uniform(n, N).argsort(-1)[..., None].expand(-1, -1, -1, D)
    turn, upper = torch.linalg.qr(host.normal(n, D, D))
    turn = turn * upper.diagonal(dim1=-2, dim2=-1).sign()[..., None, :]  # uniform over O(3)
    x = positions(points[chosen], N).gather(2, names) @ turn
    return coordinates(x).to(streams.device, streams.dtype)


def _own(name: str) -> Tensor:
    """The draws that come with gwfbench, (4096, 36), float64; independent, in random order."""
    with (files("gwfbench") / "data" / "lj13" / f"{name}.npz").open("rb") as file, np.load(file) as kept:
        return torch.from_numpy(kept["z"].astype(float) * float(kept["scale"]))


def _file(data_root: str) -> Path:
    """The file of draws.

    Raises:
        UserError: there is none.
    """
    for name in FILES:
        path = Path(data_root).expanduser() / name
        if path.is_file():
            return path
    raise UserError(
        f"no {FILES[0]} in {data_root}",
        f"that file, or {FILES[1]} with an array x, of the repository jarridrb/DEM, folder data",
        "copy it there, name its folder by data_root=, or leave out data_root for draws that come with gwfbench",
    )


def _read(path: Path, depth: float) -> Tensor:
    """The draws as points z, (n, 36), float64.

    Raises:
        UserError: they are no draws of this density.
    """
    what, fix = f"at least 2000 rows of {N * D} finite numbers", "copy the file anew from the repository jarridrb/DEM"
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            x = np.asarray(loaded["x"] if path.suffix == ".npz" else loaded, float)
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise UserError(f"{path} can't be read: {error}", what, fix) from error
    good = x.ndim == 2 and x.shape[1] == N * D and len(x) >= 2000
    require(good, f"{path} has shape {x.shape}", what, fix)
    require(bool(np.isfinite(x).all()), f"{path} has numbers that are not finite", what, fix)
    z = coordinates(torch.from_numpy(x).unflatten(1, (N, D)))
    virial = -(z * log_slope(z, depth)).sum(-1)
    mean, error = float(virial.mean()), float(virial.std()) / len(z) ** 0.5
    require(
        abs(mean - z.shape[1]) < 6 * error,
        f"{path}: the mean of z . grad U is {mean:.2f} with standard error {error:.2f}",
        f"{z.shape[1]}, as for draws of lj13:pairs=twice",
        "the file is of another density: see its source, or leave out data_root",
    )
    return z
