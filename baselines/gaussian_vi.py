"""Gaussian variational inference: the Wasserstein flow of KL(. || pi), restricted to the Gaussians N(m, C).

    m' = E s(X),   C' = 2 I + E[s(X) (X - m)'] + E[(X - m) s(X)'],   X ~ N(m, C),   s = grad log pi

(Lambert et al. 2022, equation 3: the Bures-Wasserstein gradient flow.) By Stein's identity E[s (X - m)'] = H C with
H = E grad^2 log pi, so that no Hessian is needed: H = E[s(m + R z) z'] R^-1 with C = R R', z ~ N(0, I), symmetrised.

A step of size h treats s as the linear field s0 + H (x - c), whose flow is an Ornstein-Uhlenbeck flow in closed form:

    m <- m + h phi(h H) (s0 + H (m - c)),   C <- e^{hH} C e^{hH} + 2 h phi(2 h H),   phi(z) = (e^z - 1) / z

The step is computed twice from the same start: first for h / 2 with s0 and H at c = m, then for h with s0 and H at that
midpoint. It is exact if pi is Gaussian and of second order otherwise, and C stays positive for any h, however stiff pi
is.

The points z are the same in all steps. They are pairs z, -z whose covariance is exactly I, so that all means are exact
if s is a polynomial of degree 2. Otherwise the limit is the best Gaussian as judged by these points.

If P_0 and pi are Gaussian, this is the KL flow itself. P_0's mean and covariance are estimated from `start` draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from gwfbench.budget import Budget
from gwfbench.errors import require
from gwfbench.fields import Count, Positive, at_least, check_fields, refuse
from gwfbench.info import Draw, Field, Info, Initial, LogDensity
from gwfbench.protocol import Drawn, Marginal, Problem, State
from gwfbench.rng import Streams

CHUNK = 65536  # draws of P_0 at once


@dataclass(frozen=True)
class GaussianVI:
    step: Positive = 0.05
    "step size h, in flow time; steps are shortened to hit the judged times"
    steps: Count = 200
    "number of steps; used only when the limit alone is judged"
    samples: Annotated[int, at_least(4)] | None = None
    """number of points at which the score is evaluated, twice per step; even, and more than twice the dimension;
    default: 512 or four times the dimension, the larger one"""
    start: Annotated[int, at_least(2)] = 2**20
    "number of draws of P_0 that give its mean and covariance"

    needs: ClassVar[frozenset[type[Info]]] = frozenset({Initial, LogDensity})
    clock: ClassVar[Literal["jko", "flow", "none"]] = "flow"
    seeds: ClassVar[Literal["batched", "looped"]] = "batched"
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {"steps": 3, "samples": 256, "start": 4096, "step": 0.01}
    reference: ClassVar[str] = """@inproceedings{lambert2022variational,
  title={Variational inference via {W}asserstein gradient flows}, author={Lambert, Marc and Chewi, Sinho and Bach,
  Francis and Bonnabel, Silv{\\`e}re and Rigollet, Philippe}, booktitle={NeurIPS}, year={2022}}"""

    def __post_init__(self) -> None:
        check_fields(self)
        refuse(self, "samples", when=(self.samples or 0) % 2 == 1, expected="an even number", fix="add 1")

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:
        m, c = _moments(problem[Initial].draw, self.start, rng.fork("start"))
        return self.resume(problem, budget, rng, {"k": 0, "m": m, "c": c})

    def resume(self, problem: Problem, budget: Budget, rng: Streams, state: State) -> Iterator[Marginal]:
        (d,) = problem.shape
        samples = max(512, 4 * d) if self.samples is None else self.samples
        require(
            samples > 2 * d,
            f"gaussian_vi:samples={samples} in dimension {d}",
            f"more than {2 * d}, twice the dimension, for pairs of covariance I",
            f"write gaussian_vi:samples={4 * d}",
        )
        law = Gaussian(*(torch.as_tensor(state[name]).to(rng.device, torch.float64) for name in ("m", "c")))
        half = rng.fork("points").whitened(samples // 2, d, block=samples // 2).double()
        z = torch.cat([half, -half], 1)
        score, grid = problem[LogDensity].score, (0.0, *problem.grid(self.step, self.steps))
        for k in range(int(state["k"]) + 1, len(grid)):
            with torch.no_grad():
                law = advance(law, score, z, grid[k] - grid[k - 1], rng.dtype)
            kept = {"k": k, "m": law.mean, "c": law.covariance}
            yield Drawn(grid[k], law.draw, log_prob=law.log_prob, state=lambda kept=kept: kept)


@dataclass(frozen=True)
class Gaussian:
    """N(mean, covariance), (S, d) and (S, d, d), float64."""

    mean: Tensor
    covariance: Tensor

    def draw(self, n: int, rng: Streams) -> Tensor:
        """n points in the precision of the streams."""
        root = _root(self.covariance).mT.to(rng.dtype)
        return torch.baddbmm(self.mean[:, None].to(rng.dtype), rng.normal(n, root.shape[-1]), root)

    def log_prob(self, x: Tensor) -> Tensor:
        """(S, n, d) -> (S, n)."""
        root = _root(self.covariance)
        white = torch.linalg.solve_triangular(root, (x.double() - self.mean[:, None]).mT, upper=False)
        constant = root.diagonal(dim1=-2, dim2=-1).log().sum(-1) + 0.5 * root.shape[-1] * math.log(2 * math.pi)
        return (-0.5 * white.square().sum(1) - constant[:, None]).to(x.dtype)


def advance(law: Gaussian, score: Field, z: Tensor, h: float, dtype: torch.dtype) -> Gaussian:
    """The law a time h later, by the midpoint rule of the module's docstring.

    Args:
        score: of the target, called in `dtype`.
        z: (S, n, d), float64, of mean 0 and covariance I.
    """
    between = _linear_flow(law, law, score, z, h / 2, dtype)
    return _linear_flow(law, between, score, z, h, dtype)


def _linear_flow(law: Gaussian, at: Gaussian, score: Field, z: Tensor, h: float, dtype: torch.dtype) -> Gaussian:
    """`law` moved by time h in the linear field that the score is, on average, at the law `at`."""
    root = _root(at.covariance)
    s = score((at.mean[:, None] + z @ root.mT).to(dtype)).double()
    slope = torch.linalg.solve_triangular(root, s.mT @ z / z.shape[1], upper=False, left=False)
    l, q = torch.linalg.eigh((slope + slope.mT).nan_to_num() / 2)  # noqa: E741
    l = l + 0 * slope.sum(-1)  # noqa: E741 - eigh raises at nan, so a seed that has diverged gets it back here
    force = s.mean(1) + (slope @ (law.mean - at.mean)[..., None])[..., 0]
    mean = law.mean + h * (q @ (_phi(h * l)[..., None] * (q.mT @ force[..., None])))[..., 0]
    decay = (q * (h * l).exp()[:, None]) @ q.mT
    covariance = decay @ law.covariance @ decay + (q * (2 * h * _phi(2 * h * l))[:, None]) @ q.mT
    return Gaussian(mean, (covariance + covariance.mT) / 2)


def _root(covariance: Tensor) -> Tensor:
    """Cholesky's factor; nan for a seed whose matrix is no longer a covariance: it has diverged, the others go on."""
    root, failed = torch.linalg.cholesky_ex(covariance)
    return torch.where((failed == 0)[..., None, None], root, torch.nan)


def _phi(z: Tensor) -> Tensor:
    """(e^z - 1) / z."""
    return torch.where(z == 0, 1.0, torch.expm1(z) / z.where(z != 0, 1.0))


def _moments(draw: Draw, n: int, rng: Streams) -> tuple[Tensor, Tensor]:
    """Mean (S, d) and covariance (S, d, d) of n draws, float64."""
    total, square = torch.zeros(()), torch.zeros(())
    for first in range(0, n, CHUNK):
        x = draw(min(CHUNK, n - first), rng).double()
        total, square = total + x.sum(1), square + x.mT @ x
    mean = total / n
    return mean, (square - n * mean[:, :, None] * mean[:, None]) / (n - 1)
