"""Many well: a product of double wells and Gaussians, with 2^m modes; the flow of KL(. || pi), judged at its limit.

    log pi(x) = sum_{i in W} p(x_i) - 1/2 sum_{i not in W} x_i^2,   P_0 = N(0, start^2 I)
    log Z = m log int e^p + (d - m) log(2 pi) / 2,   m = |W|

Two families have this name, and a result on one of the three targets is no result on another. `variant` chooses:

    fab32   p(x) = x / 2 + 6 x^2 - x^4,  d = 32, W = {0, 2, ..., 30}: 16 pairs of a well and a Gaussian. Midgley et al.
            2023 (fab-torch: fab/target_distributions/many_well.py; a = -0.5, b = -6, c = 1). The right well of each has
            84.4 % of the mass. log Z = 164.69568.
    mw5     p(x) = -(x^2 - 4)^2,  d = m = 5. Blessing et al. 2024 ("Beyond ELBOs": many_well_554). log Z = -0.54106.
    mw50    p(x) = -(x^2 - 2)^2,  d = 50, m = 5, W the first five. Berner, Richter and Ullrich 2024 (sde_sampler), and
            UnderdampedDiffusionBridges. log Z = 42.81724.

The integrals int e^p and all that follows from them (log Z, moments, the wells' shares, the cdf) are computed at each
build by Gauss-Legendre panels in float64, to about fourteen digits; the tests compare them with the constants above.
Draws are exact: each coordinate by inversion of its cdf, tabulated at 2049 points, between which the log-density is
taken as linear; this moves a draw by less than 1e-6 and leaves the mass of each interval as it is.

The problem offers log pi as it stands, not normalised. With start = 1, P_0 is what the SMC of Blessing et al. starts
from on mw5, and the base of the flows of Midgley et al. before training; for mw50 it is our choice.

`well_weights` compares the share of each well's right side, for all m wells. `mode_weights` and `emc`
(gwfbench/metrics/modes.py) compare the joint law of the sides of the first five wells, 32 modes; 2^16 modes would be
too many for any number of points that is judged.

On mw5 and mw50 the wells are equal, and by symmetry P_0 has the right shares and mean already. There these metrics and
`moments_mean` see only what a method has spoilt. On mw50, w2 and c2st hardly tell even P_0 from the target, from which
it differs in 5 of 50 coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from gwfbench.fields import Positive, check_fields
from gwfbench.info import Info, Initial, LogDensity
from gwfbench.metrics.modes import emc, mode_weights
from gwfbench.objectives.mixture import fine_uniform, in_double, normal_start
from gwfbench.protocol import Estimate, Instance, Judged, Metric, Problem, Truth
from gwfbench.rng import Streams

END = 3.5  # beyond, e^p is below e^-65 of its largest value
CELLS = 2048  # of the tabulated cdf
JOINT = 5  # wells whose joint law `mode_weights` sees


@dataclass(frozen=True)
class ManyWell:
    variant: Literal["fab32", "mw5", "mw50"] = "fab32"
    """wells and dimension; fab32: 16 unequal wells, d = 32 (Midgley et al.); mw5: 5 wells, d = 5 (Blessing et al.);
    mw50: 5 wells, d = 50 (Berner et al.)"""
    start: Positive = 1.0
    "standard deviation of P_0"

    offers: ClassVar[frozenset[type[Info]]] = frozenset({Initial, LogDensity})
    metrics: ClassVar[tuple[str, ...]] = (
        *("energy_distance", "well_weights", "mode_weights", "emc", "emc_error"),
        *("log_z", "elbo", "eubo", "ess_reverse", "ess_forward"),
        *("sliced_w2", "sinkhorn", "sliced_energy", "mmd", "w2", "c2st", "ksd", "kl"),
        *("moments_mean", "moments_covariance", "b2_max", "b2_mean"),
    )
    points: ClassVar[int] = 100_000
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {}
    reference: ClassVar[str] = """@inproceedings{midgley2023flow,
  title={Flow Annealed Importance Sampling Bootstrap}, author={Midgley, Laurence Illing and Stimper, Vincent and Simm,
  Gregor N. C. and Sch{\\"o}lkopf, Bernhard and Hern{\\'a}ndez-Lobato, Jos{\\'e} Miguel}, booktitle={ICLR}, year={2023}}
@inproceedings{blessing2024beyond, title={Beyond {ELBO}s: A Large-Scale Evaluation of Variational Methods for Sampling},
  author={Blessing, Denis and Jia, Xiaogang and Esslinger, Johannes and Vargas, Francisco and Neumann, Gerhard},
  booktitle={ICML}, year={2024}}
@article{berner2024optimal, title={An optimal control perspective on diffusion-based generative modeling},
  author={Berner, Julius and Richter, Lorenz and Ullrich, Karen}, journal={Transactions on Machine Learning Research},
  year={2024}}"""

    __post_init__ = check_fields

    def build(self, rng: Streams) -> Instance:
        target = _target(self.variant)
        well, d, m, wells = target.well, target.dim, target.count, target.wells
        zeros = torch.zeros(len(rng.seeds), d, dtype=torch.float64, device=rng.device)
        mean, variance = zeros.clone(), torch.ones_like(zeros)
        mean[:, wells], variance[:, wells] = well.mean, well.variance
        log_z = zeros[:, 0] + m * well.log_z + 0.5 * (d - m) * math.log(2 * math.pi)
        table = _Inverse.of(well, rng.device)

        def draw(index: int, n: int, streams: Streams) -> Tensor:
            x = streams.normal(n, d)
            x[..., wells] = table(fine_uniform(streams, n, m)).to(x.dtype)
            return x

        truth = Truth(
            draw=draw,
            exact=True,
            log_prob=lambda index, x: in_double(lambda part: target.log_prob(part) - log_z[:, None], x),
            score=lambda index, x: in_double(target.score, x),
            moments=lambda index: (mean, variance.diag_embed()),
            metrics=(_well_weights(target), *_joint(target, rng)),
            log_z=(log_z, zeros[:, 0]),
        )
        infos = (normal_start(d, self.start), LogDensity(target.log_prob, target.score))
        return Instance(Problem((d,), (math.inf,), infos), truth)


def _target(variant: str) -> _Target:
    match variant:
        case "fab32":
            return _Target(_Well(0.0, 0.5, 6.0), 32, slice(0, 32, 2), slice(1, 32, 2))
        case "mw5":
            return _Target(_Well(-16.0, 0.0, 8.0), 5, slice(0, 5), slice(5, 5))
        case _:
            return _Target(_Well(-4.0, 0.0, 4.0), 50, slice(0, 5), slice(5, 50))


@dataclass(frozen=True)
class _Target:
    """The well p, d, the coordinates W, and the others."""

    well: _Well
    dim: int
    wells: slice
    others: slice

    @property
    def count(self) -> int:
        return len(range(self.dim)[self.wells])

    def log_prob(self, x: Tensor) -> Tensor:
        return self.well.log_density(x[..., self.wells]).sum(-1) - 0.5 * x[..., self.others].square().sum(-1)

    def score(self, x: Tensor) -> Tensor:
        out = -x
        out[..., self.wells] = self.well.slope(x[..., self.wells])
        return out


@dataclass(frozen=True)
class _Well:
    """p(x) = level + tilt x + width x^2 - x^4, and what its integrals give."""

    level: float
    tilt: float
    width: float

    def log_density(self, x: Tensor) -> Tensor:
        return self.level + x * (self.tilt + x * (self.width - x.square()))

    def slope(self, x: Tensor) -> Tensor:
        return self.tilt + x * (2 * self.width - 4 * x.square())

    @cached_property
    def barrier(self) -> float:
        """The point between the wells where e^p is least: the middle root of p'."""
        return float(np.sort(np.roots([-4, 0, 2 * self.width, self.tilt]).real)[1])

    @cached_property
    def log_z(self) -> float:
        return math.log(_moment(self, 0).sum())

    @cached_property
    def mean(self) -> float:
        return float(_moment(self, 1).sum() * math.exp(-self.log_z))

    @cached_property
    def variance(self) -> float:
        return float(_moment(self, 2).sum() * math.exp(-self.log_z)) - self.mean**2

    @cached_property
    def right(self) -> float:
        """The share of the right well."""
        return float(_moment(self, 0, self.barrier).sum() * math.exp(-self.log_z))


def _moment(well: _Well, power: int, low: float = -END) -> np.ndarray:
    """int x^power e^p over each of CELLS equal cells of [low, END], by 8-point Gauss-Legendre."""
    nodes, weights = np.polynomial.legendre.leggauss(8)
    half = (END - low) / CELLS / 2
    x = torch.from_numpy(low + half * (2 * np.arange(CELLS)[:, None] + 1 + nodes))
    return half * (x**power * well.log_density(x).exp()).numpy() @ weights


@dataclass(frozen=True)
class _Inverse:
    """The inverse of a well's cdf: exact at the cells' edges, within a cell that of a density e^{b x}.

    Args:
        edges, cdf: (CELLS + 1,).    rise: b times a cell's width, (CELLS,).
    """

    edges: Tensor
    cdf: Tensor
    rise: Tensor

    @classmethod
    def of(cls, well: _Well, device: torch.device) -> _Inverse:
        edges = torch.linspace(-END, END, CELLS + 1, dtype=torch.float64)
        cdf = np.append(0, _moment(well, 0).cumsum())
        parts = (edges, torch.from_numpy(cdf / cdf[-1]), well.log_density(edges).diff())
        return cls(*(part.to(device) for part in parts))

    def __call__(self, u: Tensor) -> Tensor:
        cell = (torch.searchsorted(self.cdf, u, right=True) - 1).clamp(0, CELLS - 1)
        low, rise = self.cdf[cell], self.rise[cell]
        share = (u - low) / (self.cdf[cell + 1] - low)
        bent = rise.abs() > 1e-7  # below, the density is flat to the last digit
        rise = torch.where(bent, rise, 1.0)
        place = torch.where(bent, torch.log1p(share * rise.expm1()) / rise, share)
        return self.edges[cell] + (2 * END / CELLS) * place


def _joint(target: _Target, rng: Streams) -> tuple[Metric, ...]:
    """A mode says on which side of each of the first wells a point is: a binary number, last digit the first well's."""
    well, count = target.well, min(JOINT, target.count)
    sides = [[number >> bit & 1 for bit in range(count)] for number in range(2**count)]
    shares = [math.prod(well.right if side else 1 - well.right for side in each) for each in sides]
    powers = 2 ** torch.arange(count, device=rng.device)

    def labels(x: Tensor, _: Streams) -> Tensor:
        return ((x[..., target.wells][..., :count] > well.barrier) * powers).sum(-1)

    expected = torch.tensor(shares, dtype=torch.float64, device=rng.device).expand(len(rng.seeds), -1)
    return (mode_weights(labels, expected), *emc(labels, expected))


def _well_weights(target: _Target) -> Metric:
    well = target.well

    def evaluate(judged: Judged) -> Estimate:
        right = (judged.points[..., target.wells] > well.barrier).double()  # (S, n, m)
        n, gap = right.shape[1], right.mean(1) - well.right
        influence = (right * gap.sign()[:, None]).mean(2)
        return Estimate(gap.abs().mean(1), (influence.std(1) / math.sqrt(n)).clamp_min(1 / n), n)

    return Metric(
        "well_weights",
        evaluate,
        points=None,
        source="Mean over the wells of the error of the share of points right of the barrier: each well's total "
        "variation. Standard error by the delta method, at least the share of one point",
    )
