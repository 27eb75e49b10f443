"""VGrow: the flow of an f-divergence, whose density ratio is learnt by a logistic critic.

    x <- x + h w(r) grad D(x),   D = log(p/q) = -log r,   w(r) = r f''(r)

(Gao et al. 2019.) The critic is trained between moves, on the moving points and fresh target points. `kl` is KL(q|p)
for the moving law q, with weight 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from gwfbench.budget import Budget
from gwfbench.fields import Count, Positive, check_fields
from gwfbench.info import Info, Initial, TargetSamples
from gwfbench.protocol import Marginal, Problem
from gwfbench.rng import Streams
from gwfbench.velocity.kernels import rms_distance
from gwfbench.velocity.movers import Carrier, Network, carry
from gwfbench.velocity.ratio import Critic, Divergence


@dataclass(frozen=True)
class VGrow:
    carrier: Carrier = "particles"
    "what the velocity field moves: particles, or the law of a generator"
    step: Positive = 0.02
    "step size h in units of the mean variance of a target coordinate"
    steps: Count | None = None
    "number of steps; default: 300 of particles, or 500 Adam steps of a generator, as in all such methods"
    points: Count = 1024
    "number of particles, or of generated points per step"
    batch: Count = 1024
    "number of fresh target points per step"
    divergence: Divergence = "kl"
    """f-divergence of the flow; kl: KL(q|p); reverse_kl: KL(p|q); js: Jensen-Shannon; logd: KL((p + q)/2|p);
    jeffreys: the sum of both KL; chi2: chi^2(q|p)"""
    width: Count = 64
    "width of the critic's hidden layers"
    depth: Count = 2
    "number of the critic's hidden layers"
    lr: Positive = 3e-3
    "learning rate of the critic's Adam"
    updates: Count = 5
    "number of critic updates per step"
    clip: Positive = 3.0
    "bound on log(p/q): it is clamped to [-clip, clip] in the weight"
    latent: Count | None = None
    "dimension of the generator's noise; default: 32 or the dimension of a point, the larger one"
    generator_width: Count = 256
    "width of the generator's hidden layers"
    generator_depth: Count = 3
    "number of the generator's hidden layers"
    generator_lr: Positive = 1e-3
    "learning rate of the generator's Adam"

    needs: ClassVar[frozenset[type[Info]]] = frozenset({Initial, TargetSamples})
    clock: ClassVar[Literal["jko", "flow", "none"]] = "none"
    seeds: ClassVar[Literal["batched", "looped"]] = "batched"
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {"steps": 3, "points": 64, "batch": 64, "width": 8, "updates": 1}
    reference: ClassVar[str] = """@inproceedings{gao2019deep,
  title={Deep Generative Learning via Variational Gradient Flow}, author={Gao, Yuan and Jiao, Yuling and Wang, Yang and
  Wang, Yao and Yang, Can and Zhang, Shunkang}, booktitle={ICML}, year={2019}}"""

    __post_init__ = check_fields

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:
        """Works in coordinates of unit variance, estimated from one batch, so that h and the critic have no units."""
        sample = problem[TargetSamples].draw(self.batch, rng.fork("scale")).flatten(2)
        unit = rms_distance(sample) / (2 * sample.shape[2]) ** 0.5  # root of the mean variance of a coordinate
        critic = Critic(
            sample.shape[2],
            rng.fork("critic"),
            divergence=self.divergence,
            width=self.width,
            depth=self.depth,
            lr=self.lr,
            updates=self.updates,
            clip=self.clip,
        )

        def velocity(x: Tensor, y: Tensor, noise: Streams) -> Tensor:
            return unit * critic(x / unit, y / unit, noise)

        return carry(
            self,
            problem,
            rng,
            velocity,
            steps=300,
            network=Network(self.latent, self.generator_width, self.generator_depth, self.generator_lr),
        )
