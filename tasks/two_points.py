"""Two distant points: laws where flows stand still away from the target, and masses that must cross a gap.

    target = s N(+a e, noise^2 I) + (1 - s) N(-a e, noise^2 I),   e the first axis, s = share
    P_0    = N(0, start^2 I); or, with start_share, N(+-a e, start^2 I) with that share at +a

With start = 0 all particles start at 0, where every mean shift to two equal masses vanishes. This is a fixed point of
drifting although q is not p (V(0) = 0 for p = (delta_a + delta_-a) / 2). Particles that coincide have the same velocity
under any field that depends on x alone, so they can't separate. Batches of targets are never quite balanced, so
wherever the field is unstable the particles go to one of the two points together. Only fields that tell equal points
apart by their rank (sliced) split them.

With start > 0 a field must still act over a distance of a, while the other points of q are near. With a start_share
other than share all points are at modes, and only the masses are wrong: fields that act over short distances only do
not see that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from gwfbench.fields import Interior, NonNegative, Positive, between, check_fields
from gwfbench.info import Info, Initial, TargetSamples
from gwfbench.metrics.modes import mode_coverage
from gwfbench.protocol import Instance, Problem, Truth
from gwfbench.rng import Streams


@dataclass(frozen=True)
class TwoPoints:
    dim: Annotated[int, between(1, 1000)] = 2
    "dimension d"
    distance: Positive = 2.0
    "half the distance a between the two points"
    noise: Positive = 0.05
    "standard deviation of the target around each point"
    share: Interior = 0.5
    "mass of the target at +a"
    start: NonNegative = 0.0
    "standard deviation of P_0 around its point or points"
    start_share: Annotated[float, between(0, 1)] | None = None
    "mass of P_0 at +a, the rest being at -a; default: all of it at 0"

    offers: ClassVar[frozenset[type[Info]]] = frozenset({Initial, TargetSamples})
    metrics: ClassVar[tuple[str, ...]] = (
        *("sliced_w2", "w2", "energy_distance", "mmd", "mode_coverage", "c2st"),
        *("moments_mean", "moments_covariance"),
    )
    points: ClassVar[int] = 100_000
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {"start": 0.1}
    reference: ClassVar[str] = """@misc{gretton2026wasserstein,
  title={On the {W}asserstein Gradient Flow Interpretation of Drifting Models}, author={Gretton, Arthur and Wenliang, Li
  Kevin and Galashov, Alexandre and Thornton, James and De Bortoli, Valentin and Doucet, Arnaud}, year={2026},
  eprint={2605.05118}}"""

    __post_init__ = check_fields

    def build(self, rng: Streams) -> Instance:
        seeds, d, share = len(rng.seeds), self.dim, self.share
        axis = torch.zeros(d, dtype=torch.float64, device=rng.device)
        axis[0] = self.distance

        def at_points(n: int, streams: Streams, plus: float, s: float) -> Tensor:
            sign = torch.where(streams.uniform(n, 1) < plus, 1.0, -1.0).to(streams.dtype)
            return sign * axis.to(streams.dtype) + s * streams.normal(n, d)

        def initial(n: int, streams: Streams) -> Tensor:
            if self.start_share is None:
                return self.start * streams.normal(n, d)
            return at_points(n, streams, self.start_share, self.start)

        def draw(n: int, streams: Streams) -> Tensor:
            return at_points(n, streams, share, self.noise)

        centres = torch.stack([axis, -axis])
        shares = torch.tensor([share, 1 - share], dtype=torch.float64, device=rng.device)

        def log_prob(index: int, x: Tensor) -> Tensor:
            squares = (x.double()[..., None, :] - centres).square().sum(-1)  # (S, n, 2)
            logs = shares.log() - 0.5 * squares / self.noise**2
            return (logs.logsumexp(-1) - 0.5 * d * math.log(2 * math.pi * self.noise**2)).to(x.dtype)

        def moments(index: int) -> tuple[Tensor, Tensor]:
            spread = 4 * share * (1 - share) * torch.outer(axis, axis)
            covariance = spread + self.noise**2 * torch.eye(d).to(axis)
            return ((2 * share - 1) * axis).expand(seeds, d), covariance.expand(seeds, d, d)

        truth = Truth(
            lambda index, n, streams: draw(n, streams),
            exact=True,
            log_prob=log_prob,
            moments=moments,
            metrics=(mode_coverage(centres.expand(seeds, 2, d), shares, self.noise),),
        )
        return Instance(Problem((d,), (math.inf,), (Initial(initial), TargetSamples(draw))), truth)
