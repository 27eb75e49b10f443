"""IFT flow: weighted particles descend half the squared MMD, by transport and by kernel forces on their weights.

    F(q) = MMD^2(q, p) / 2,   q = sum_i w_i delta(x_i),   f = E_q k - E_p k, its first variation

    x_i <- x_i - gamma grad f(x_i)                         transport (Wasserstein), as in mmd_flow
    w   <- nearest to w - rho f(x)                         `weights` projected
    w   <- nearest to w_i exp(-rho f(x_i)) / sum           `weights` fisher_rao
    nearest of all w with sum w_i = 1, 0 <= w_i <= cap / n

(Gladin, Dvurechensky, Mielke and Zhu, NeurIPS 2024.) Their flow of laws is dq/dt = alpha div(q grad f) - beta (q - p).
Its first part is the MMD's flow in the geometry of Wasserstein. Its second part is the flow in the geometry of the MMD
itself, which goes straight to p.

On particles the second part is an implicit step over the weights, in the MMD. The authors' code replaces it by one
projected gradient step, which is `projected` here, or by a multiplicative one (theirs: "KL", not divided by the sum),
the step of Fisher-Rao geometry. Both keep the mass. Mass can be gained far from where it is lost, so that distant modes
get their right shares; transport alone leaves the shares as they are.

gamma = step x bandwidth^2. rho = rate, for `projected` in units of 1 / max_i sum_j k(x_i, x_j); at a rate of 1 and
below F can't rise. Theirs are gamma = 2 x 10^4 and rho = 0.002 (1 with "KL"), for 10^4 particles in 100 dimensions and
a Gaussian kernel of bandwidth 10. They move particles by -gamma w_i grad f, along the gradient in x_i, so that a
particle without weight does not move. That is `own`, which multiplies the velocity by n w_i. The flow in their paper
has no such factor.

Each step has fresh target points. The bandwidth falls as in drmmd, which is ours: a kernel must first reach the
particles of a wide P_0.

The law is that of weighted particles. Its points are drawn from them without replacement, by systematic sampling:
particle i is among m points with probability m w_i. That needs m w_i <= 1, which is why weights have a cap; the cap is
ours too. With cap 2 there are half as many points as particles, so `particles` is twice what it is in other methods.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from gwfbench.budget import Budget
from gwfbench.fields import Count, Fraction, NonNegative, Positive, at_least, check_fields, refuse
from gwfbench.info import Info, Initial, TargetSamples
from gwfbench.protocol import Drawn, Marginal, Problem, State
from gwfbench.rng import Streams
from gwfbench.velocity.kernels import KERNELS, Kernel, kernel_sum, rms_distance
from gwfbench.velocity.witness import Witness

ROUNDING = 1e-6  # by which a weight stays below its cap, so that no particle is drawn twice


@dataclass(frozen=True)
class IFTFlow:
    weights: Literal["projected", "fisher_rao"] = "projected"
    "step of the weights; projected: along the gradient, then projected to the simplex; fisher_rao: multiplicative"
    rate: NonNegative = 1.0
    "step size of the weights (projected: in units of the largest stable one); 0: equal weights, so the MMD flow"
    step: Positive = 2.0
    "step size of the particles, in squared bandwidths"
    steps: Count = 300
    "number of steps"
    particles: Annotated[int, at_least(2)] = 2048
    "number n of particles; a law gives n / cap points"
    cap: Annotated[float, at_least(1)] = 2.0
    "largest weight of a particle, in units of 1 / n"
    batch: Count = 1024
    "number of fresh target points per step"
    own: bool = False
    "whether a particle's velocity is multiplied by n w_i, as in the authors' code"
    kernel: Literal["gaussian", "imq", "laplace", "matern32", "matern52"] = "imq"
    "kernel k; imq has the longest range"
    bandwidth: Positive | None = None
    """kernel bandwidth h after its fall; default: `width` times the root mean square distance between the batch's
    target points"""
    width: Positive = 0.2
    "kernel bandwidth in units of that distance; ignored if `bandwidth` is given"
    wider: Annotated[float, at_least(1)] = 20.0
    "ratio of the first bandwidth to the last; 1: a constant bandwidth"
    falling: Fraction = 0.6
    "share of the steps in which the bandwidth falls, geometrically"

    needs: ClassVar[frozenset[type[Info]]] = frozenset({Initial, TargetSamples})
    clock: ClassVar[Literal["jko", "flow", "none"]] = "none"
    seeds: ClassVar[Literal["batched", "looped"]] = "batched"
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {"steps": 3, "particles": 64, "batch": 64}
    reference: ClassVar[str] = """@inproceedings{gladin2024interaction,
  title={Interaction-Force Transport Gradient Flows}, author={Gladin, Egor and Dvurechensky, Pavel and Mielke, Alexander
  and Zhu, Jia-Jie}, booktitle={NeurIPS}, year={2024}}"""

    def __post_init__(self) -> None:
        check_fields(self)
        refuse(self, "cap", "particles", when=self.cap > self.particles, expected="a cap of at most all the mass")

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:
        x = problem[Initial].draw(self.particles, rng.fork("particles"))
        return self.resume(problem, budget, rng, {"k": 0, "x": x, "w": x.new_full(x.shape[:2], 1 / self.particles)})

    def resume(self, problem: Problem, budget: Budget, rng: Streams, state: State) -> Iterator[Marginal]:
        x, w = (torch.as_tensor(state[name]).to(rng.device, rng.dtype) for name in ("x", "w"))
        for k in range(int(state["k"]) + 1, self.steps + 1):
            y = problem[TargetSamples].draw(self.batch, rng.fork(f"steps/{k}").fork("target"))
            with torch.no_grad():
                last = self.width * rms_distance(y) if self.bandwidth is None else self.bandwidth
                h = last * self.wider ** max(0.0, 1 - (k - 1) / (self.falling * self.steps))
                kernel = KERNELS[self.kernel](h)
                x = self.moved(kernel, x, w, y)
                w = self.weighed(kernel, x, w, y) if self.rate else w
            kept = {"k": k, "x": x, "w": w}
            limit = int(self.particles / self.cap)
            yield Drawn(k * self.step, partial(systematic, x, w, limit), limit=limit, state=lambda kept=kept: kept)

    def moved(self, kernel: Kernel, x: Tensor, w: Tensor, y: Tensor) -> Tensor:
        """The particles x (S, n, d) after their step, by their weights w (S, n) and points y (S, m, d) of p."""
        share = (w * x.shape[1])[..., None] if self.own else 1.0
        return x - self.step * kernel.bandwidth**2 * share * forces(kernel, x, w, y).gradient(x)

    def weighed(self, kernel: Kernel, x: Tensor, w: Tensor, y: Tensor) -> Tensor:
        """The weights w (S, n) after their step, x and y as above."""
        f = forces(kernel, x, w, y)(x)
        cap = self.cap / x.shape[1] * (1 - ROUNDING)
        if self.weights == "fisher_rao":
            return nearest((w.log() - self.rate * f).softmax(-1), cap)
        curvature = kernel_sum(kernel, x, x, x.new_ones(1, x.shape[1])).amax(1, keepdim=True)  # at least K's largest
        return nearest(w - self.rate / curvature * f, cap)


def forces(kernel: Kernel, x: Tensor, w: Tensor, y: Tensor) -> Witness:
    """f = sum_i w_i k(., x_i) - mean_j k(., y_j)."""
    return Witness(kernel, torch.cat([x, y], 1), torch.cat([w, y.new_full(y.shape[:2], -1 / y.shape[1])], 1))


def nearest(v: Tensor, cap: float) -> Tensor:
    """The nearest w to v (S, n) with 0 <= w_i <= cap and sum w_i = 1: v - t, clamped to [0, cap], for the right t.

    The sum falls with t, linearly between the places v_i, where a term begins, and v_i - cap, where it is full.
    """
    wide = v.double()
    places, order = torch.cat([wide, wide - cap], -1).sort(-1, descending=True)
    signs = torch.where(order < v.shape[-1], 1.0, -1.0).to(wide)
    slopes, heights = signs.cumsum(-1), (signs * places).cumsum(-1)  # below a place the sum is heights - t slopes
    last = (heights - places * slopes < 1).sum(-1, keepdim=True).clamp_min(1) - 1  # the last place above t
    place, slope, height = (part.gather(-1, last) for part in (places, slopes, heights))
    t = torch.where(slope > 0, (height - 1) / slope, place)  # no slope: all are full, and cap is 1 / n
    return (wide - t).clamp(0, cap).to(v)


def systematic(x: Tensor, w: Tensor, limit: int, n: int, rng: Streams) -> Tensor:
    """n of the particles x (S, N, d), each with probability n w_i <= 1, in random order: what `Drawn.draw` is.

    Raises:
        ValueError: more are asked for than the limit.
    """
    if n > limit:
        raise ValueError(f"{n} points asked of weights that give {limit}")
    upto = w.double().cumsum(-1)
    ladder = (torch.arange(n, device=x.device) + rng.fork("start").uniform(1).double()) / n * upto[:, -1:]
    chosen = torch.searchsorted(upto, ladder).clamp_max(x.shape[1] - 1)
    order = rng.fork("order").uniform(n).argsort(-1)
    return x.gather(1, chosen.gather(1, order)[..., None].expand(-1, -1, x.shape[2]))
