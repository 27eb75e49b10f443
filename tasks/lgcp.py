"""Log-Gaussian Cox process: the posterior of the log-intensity of 126 pine saplings on a grid of g x g bins.

    x ~ N(mu, K),   K_mn = s^2 exp(-|m - n| / (g b)),   s^2 = 1.91,   b = 1/33,   mu = log 126 - s^2 / 2
    log gamma(x) = log N(x; mu, K) + sum_m (y_m x_m - e^{x_m} / g^2)
    score(x) = K^-1 (mu - x) + y - e^x / g^2

The dimension is d = g^2; m and n are the bins' integer places (row, column), y_m the points in bin m. The constants are
those of Moller, Syversveen and Waagepetersen 1998. The target is that of Heng et al. 2020 (controlled SMC, grid=30) and
Arbel et al. 2021 (annealed flow transport, annealed_flow_transport/densities.py, grid=40). As there, those terms of the
Poisson law that do not depend on x, log y_m! and y_m log g^2, are left out. P_0 is the prior.

`coordinates=white` has the same posterior in z = L^-1 (x - mu), K = L L', where the prior is N(0, I) and the posterior
well conditioned. log Z is the same.

`data` chooses one of two data sets that have the same name in the literature:

- pines126: the 126 points in their 10 x 10 window, moved to the unit square by (x + 5) / 10 and (y + 8) / 10. It is the
  file of annealed flow transport and its followers, of FAB and of Beyond ELBOs.
- dds127: 127 points, as in the file of denoising diffusion samplers (DDS) and of importance-corrected neural JKO. Its
  first point is there twice (for a loader that skips the first line), and the coordinates are stretched until they fill
  the square. The file itself was not available, so this is a reconstruction: each coordinate is rounded to 0.01,
  stretched from its least and largest value to [0, 1], and rounded to 0.0001. Of the roundings tried it is the one that
  gives both known facts: 63 of 1600 bins differ from pines126's, and log Z = 512.4. mu stays log 126 - s^2 / 2.

Truth (gwfbench/data/lgcp/README.md, scripts/evidence_reference.py): log Z with its standard error is by bridge
sampling, and annealed importance sampling checks it. Draws are independent: each starts at a draw of the best Gaussian
approximation and makes TRAJECTORIES steps of Hamiltonian Monte Carlo, which leave the posterior invariant and forget
the start (the certificate says how fast). Each seed gets its own draws, and metrics compare with other draws than
`exact` gives.

Mean and covariance are those of the certificate's long run, for grid=8 and 16 alone. For larger grids the file would be
too large, so the metrics that need them are missing there. `log_prob` of the truth is log gamma minus that log Z.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib import resources
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from gwfbench.errors import require
from gwfbench.fields import check_fields, refuse
from gwfbench.info import Info, Initial, LogDensity
from gwfbench.protocol import Instance, Problem, Truth
from gwfbench.rng import Streams

VARIANCE, RANGE, POINTS = 1.91, 1 / 33, 126
FOLDER = resources.files("gwfbench") / "data" / "lgcp"
TRAJECTORIES, LEAPS, STEP = 8, 6, 0.22  # of one draw
LIMITS = {8: 2048, 16: 2048, 30: 1024, 32: 1024, 40: 1024}  # draws at once: those of grid=40 take about 20 ms each
DOUBLE = torch.float64


@dataclass(frozen=True)
class LGCP:
    grid: Literal[40, 32, 30, 16, 8] = 40
    "number of bins along each side; d is its square (8: ours, for quick tests)"
    data: Literal["pines126", "dds127"] = "pines126"
    "data set; dds127: points stretched to fill the square, the first one twice, as in the file of DDS (grid=40 only)"
    coordinates: Literal["latent", "white"] = "latent"
    "coordinates of a point; latent: the log-intensity x; white: L^-1 (x - mu), in which the prior is N(0, I)"

    offers: ClassVar[frozenset[type[Info]]] = frozenset({Initial, LogDensity})
    metrics: ClassVar[tuple[str, ...]] = (
        *("energy_distance", "w2", "sliced_w2", "mmd", "ksd", "kl"),
        *("log_z", "elbo", "eubo", "ess_reverse", "ess_forward", "sliced_energy", "sinkhorn", "b2_max", "b2_mean"),
        *("moments_mean", "moments_covariance"),
    )
    files: ClassVar[tuple[str, ...]] = ("data/lgcp",)
    points: ClassVar[int] = 2048
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {"grid": 8}
    reference: ClassVar[str] = """@article{moller1998log, title={Log {Gaussian} {Cox} processes}, author={M{\\o}ller,
  Jesper and Syversveen, Anne Randi and Waagepetersen, Rasmus Plenge}, journal={Scandinavian Journal of Statistics},
  volume={25}, year={1998}}
@inproceedings{arbel2021annealed, title={Annealed flow transport {M}onte {C}arlo}, author={Arbel, Michael and Matthews,
  Alexander G. D. G. and Doucet, Arnaud}, booktitle={ICML}, year={2021}}"""

    def __post_init__(self) -> None:
        check_fields(self)
        refuse(
            self,
            *("grid", "data"),
            when=self.data == "dds127" and self.grid != 40,
            expected="data=dds127 with grid=40 only, as it is used in the literature",
        )

    def build(self, rng: Streams) -> Instance:
        cox = _cox(self.grid, self.data)
        white, d, seeds = self.coordinates == "white", self.grid**2, len(rng.seeds)
        root = cox.root.to(rng.device, rng.dtype)
        log_normal = 0.5 * d * math.log(2 * math.pi) + (0 if white else float(cox.root.diagonal().log().sum()))
        problem_density, precise = (_density(cox, white, rng.device, dtype) for dtype in (rng.dtype, DOUBLE))

        def start(n: int, streams: Streams) -> Tensor:
            z = streams.normal(n, d)
            return z if white else cox.mu + z @ root.to(z.dtype).mT

        whiten = torch.linalg.inv(cox.root).to(rng.device)

        def log_start(x: Tensor) -> Tensor:
            z = x if white else (x - cox.mu) @ whiten.to(x.dtype).mT
            return -0.5 * z.square().sum(-1) - log_normal

        problem = Problem((d,), (math.inf,), (Initial(start, log_start), problem_density))
        unknown = Truth(None, exact=False, score=lambda index, x: precise.score(x.double()).to(x.dtype))
        found = reference(self.grid, self.data)
        if found is None:
            return Instance(problem, unknown)
        log_z, error = (torch.full((seeds,), found[key].item(), dtype=DOUBLE, device=rng.device) for key in LOG_Z)
        law = _Posterior(cox, torch.from_numpy(found["weight"]).double())

        @cache
        def pool() -> Tensor:
            return law.draw(LIMITS[self.grid], white, rng.fork("reference").host())

        def compare(index: int, n: int, streams: Streams) -> Tensor:
            chosen = streams.host().uniform(LIMITS[self.grid]).argsort(1)[:, :n, None]  # without replacement
            return pool().take_along_dim(chosen, 1).to(streams.device, streams.dtype)

        known = replace(
            unknown,
            draw=lambda index, n, streams: law.draw(n, white, streams).to(streams.device, streams.dtype),
            exact=True,
            limit=LIMITS[self.grid],
            reference=compare,
            log_prob=lambda index, x: (precise.log_prob(x.double()) - log_z[:, None]).to(x.dtype),
            moments=_moments(found, cox, white, rng) if "covariance" in found else None,
            log_z=(log_z, error),
        )
        return Instance(problem, known)


# ------------------------------------------------------------------------------------------------ the target


def places(data: str) -> np.ndarray:
    """Points of a data set in the unit square, float64 (126 or 127, 2)."""
    xy = np.loadtxt(FOLDER.joinpath("finpines.csv").read_text().splitlines(), delimiter=",", skiprows=1)
    if data == "pines126":
        return (xy + np.array([5.0, 8.0])) / 10
    xy = xy.round(2)
    low, high = xy.min(0), xy.max(0)
    xy = ((xy - low) / (high - low)).round(4)
    return np.concatenate([xy[:1], xy])


def counts(grid: int, data: str) -> np.ndarray:
    """Points in each bin, float64 (grid, grid), by (x, y); a point on the upper edge belongs to the last bin."""
    bins = np.minimum(np.floor(places(data) * grid).astype(int), grid - 1)
    found = np.zeros((grid, grid))
    np.add.at(found, (bins[:, 0], bins[:, 1]), 1)
    return found


@dataclass(frozen=True)
class _Cox:
    """mu, y and K of one grid, float64 on the CPU; e^x is `area` times the intensity."""

    y: Tensor
    kernel: Tensor
    mu: float = math.log(POINTS) - VARIANCE / 2

    @property
    def area(self) -> float:
        return 1 / len(self.y)

    @cached_property
    def root(self) -> Tensor:
        found: Tensor = torch.linalg.cholesky(self.kernel)
        return found


@cache
def _cox(grid: int, data: str) -> _Cox:
    place = torch.cartesian_prod(torch.arange(grid), torch.arange(grid)).double()
    distance = (place[:, None] - place).square().sum(-1).sqrt()
    return _Cox(torch.from_numpy(counts(grid, data)).flatten(), VARIANCE * torch.exp(-distance / (grid * RANGE)))


def _density(cox: _Cox, white: bool, device: torch.device, dtype: torch.dtype) -> LogDensity:
    """log gamma and its score, (S, n, d); constants are in this dtype."""
    y, root = cox.y.to(device, dtype), cox.root.to(device, dtype)
    precision = torch.cholesky_inverse(cox.root).to(device, dtype)
    normal = 0.5 * len(y) * math.log(2 * math.pi)
    half_log_det = float(cox.root.diagonal().log().sum())

    def log_likelihood(x: Tensor) -> Tensor:
        return x @ y - cox.area * x.exp().sum(-1)

    def log_prob(x: Tensor) -> Tensor:
        if white:
            return log_likelihood(cox.mu + x @ root.mT) - 0.5 * x.square().sum(-1) - normal
        centred = x - cox.mu
        return log_likelihood(x) - 0.5 * (centred * (centred @ precision)).sum(-1) - half_log_det - normal

    def score(x: Tensor) -> Tensor:
        if white:
            return (y - cox.area * (cox.mu + x @ root.mT).exp()) @ root - x
        return y - cox.area * x.exp() - (x - cox.mu) @ precision

    return LogDensity(log_prob, score)


# ------------------------------------------------------------------------------------------------ the truth


class _Posterior:
    """The posterior in coordinates v in which the Gaussian with precision K^-1 + diag(w) is N(0, I).

    Its mean is m = mu + K (y - w), and x = m + B v with B B' = (K^-1 + diag(w))^-1. For every w > 0, exactly,

        log gamma = const - |v|^2 / 2 + sum (w e + w e^2 / 2 - c exp(e)),   e = B v,   c = e^m / g^2

    so that `weight` w decides how near to normal v is, never what is drawn. The certificate's w is that of the best
    Gaussian approximation, w = E[e^x / g^2] under it.
    """

    def __init__(self, cox: _Cox, weight: Tensor) -> None:
        self.cox, self.weight = cox, weight

    @cached_property
    def mean(self) -> Tensor:
        return self.cox.mu + self.cox.kernel @ (self.cox.y - self.weight)

    @cached_property
    def spread(self) -> Tensor:
        """B = L R, R R' = (I + L' diag(w) L)^-1."""
        root = self.cox.root
        inner = torch.linalg.cholesky(torch.eye(len(root), dtype=DOUBLE) + root.mT @ (self.weight[:, None] * root))
        found: Tensor = torch.linalg.solve_triangular(inner, root.mT, upper=False).mT
        return found

    def draw(self, n: int, white: bool, rng: Streams) -> Tensor:
        """(S, n, d), float64 on the CPU; a seed's draws depend on its own stream alone."""
        keys = rng.integers(2**62, 1)[:, 0].tolist()
        v = torch.stack([self._draw(n, Streams((key,), dtype=DOUBLE)) for key in keys])
        x = self.mean + v @ self.spread.mT
        if not white:
            return x
        z: Tensor = torch.linalg.solve_triangular(self.cox.root, (x - self.cox.mu).mT, upper=False)
        return z.mT

    def _draw(self, n: int, rng: Streams) -> Tensor:
        """TRAJECTORIES steps of Hamiltonian Monte Carlo from N(0, I); the length of a step is random, one for all."""
        d = len(self.weight)
        v = rng.normal(n, d)[0]
        value, slope = self.tilt(v)
        for _ in range(TRAJECTORIES):
            h = STEP * (0.8 + 0.4 * float(rng.uniform(1)))
            p = rng.normal(n, d)[0]
            energy = 0.5 * (v.square() + p.square()).sum(1) - value
            at, new, pull = v, value, slope
            for _ in range(LEAPS):
                p = p + 0.5 * h * (pull - at)
                at = at + h * p
                new, pull = self.tilt(at)
                p = p + 0.5 * h * (pull - at)
            gain = energy - 0.5 * (at.square() + p.square()).sum(1) + new
            taken = rng.uniform(n)[0].log() < gain
            v, slope = (torch.where(taken[:, None], one, old) for one, old in ((at, v), (pull, slope)))
            value = torch.where(taken, new, value)
        return v

    def tilt(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """The sum above, and its gradient; v (n, d)."""
        e = v @ self.spread.mT
        high = self.cox.area * torch.exp(self.mean + e)
        linear = self.weight * (1 + e)
        return (self.weight * (e + 0.5 * e.square()) - high).sum(1), (linear - high) @ self.spread


LOG_Z = ("log_z", "log_z_error")


def _moments(found: Mapping[str, np.ndarray], cox: _Cox, white: bool, rng: Streams) -> Any:
    mean, packed = (torch.from_numpy(found[key]).double() for key in ("mean", "covariance"))
    d = len(mean)
    covariance = torch.zeros(d, d, dtype=DOUBLE)
    rows, columns = torch.tril_indices(d, d)
    covariance[rows, columns] = covariance[columns, rows] = packed
    if white:
        inverse = torch.linalg.inv(cox.root)
        mean, covariance = inverse @ (mean - cox.mu), inverse @ covariance @ inverse.mT
    both = mean.to(rng.device).expand(len(rng.seeds), d), covariance.to(rng.device).expand(len(rng.seeds), d, d)
    return lambda index: both


def reference(grid: int, data: str) -> dict[str, np.ndarray] | None:
    """weight (d,), log_z, log_z_error, mean and variance (d,) of x, and for grid=16 the packed covariance.

    None where there is no certificate, or one that did not pass.

    Raises:
        UserError: the certificate is of another truth or of other data.
    """
    paper = FOLDER.joinpath(f"{grid}_{data}.json")
    if not paper.is_file():
        return None
    certificate = json.loads(paper.read_text())
    if not all(certificate["checks"].values()):
        return None
    packed = FOLDER.joinpath(f"{grid}_{data}.npz").read_bytes()
    found = {"truth": hashlib.sha256(packed).hexdigest(), "data": digest(counts(grid, data))}
    for what, is_now in found.items():
        require(
            is_now == certificate["sha256"][what],
            f"the certificate of lgcp:grid={grid},data={data} does not fit its {what} (sha256 {is_now[:12]})",
            f"sha256 {certificate['sha256'][what][:12]}",
            "install gwfbench again, or make the truth anew with scripts/evidence_reference.py",
        )
    with np.load(io.BytesIO(packed)) as arrays:
        return dict(arrays)


def digest(found: np.ndarray) -> str:
    """SHA-256 of the bins' counts."""
    return hashlib.sha256(found.astype("<i4").tobytes()).hexdigest()
