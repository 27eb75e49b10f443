"""Sinkhorn flow: particles, or a generator, descend the debiased Sinkhorn divergence with cost |x - y|^2/2.

    x <- x + h (T_qp(x) - T_qq(x)),   T the entropic transport maps

(Feydy et al. 2019; W-Flow moves a generator by the same field.) At each step both plans are solved again, between the
moving points and a fresh batch of the target. A plan that does not reach the tolerance ends the run with an error.

Second batch. T_qq of a cloud with itself keeps a share of each point's mass on that point, since there its cost is 0.
W-Flow (Han et al. 2026) takes T_qq between two independent batches of the generator instead, so that no point is its
own negative: `self_batch=other`. Here these batches are the two halves of a step's points, and each half is the second
batch of the other. The field at one point is then noisier, because the errors of T_qp and T_qq are no longer alike: at
q = p it vanishes on average only. Particles have no second batch. If their halves were fixed, the difference of the
halves' means would grow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from gwfbench.budget import Budget
from gwfbench.fields import Count, Positive, check_fields, refuse
from gwfbench.info import Info, Initial, TargetSamples
from gwfbench.protocol import Marginal, Problem
from gwfbench.rng import Streams
from gwfbench.velocity.kernels import rms_distance
from gwfbench.velocity.movers import Carrier, Network, carry
from gwfbench.velocity.sinkhorn import sinkhorn


@dataclass(frozen=True)
class SinkhornFlow:
    carrier: Carrier = "particles"
    "what the velocity field moves: particles, or the law of a generator"
    step: Positive = 0.3
    "step size h"
    steps: Count | None = None
    "number of steps; default: 50 of particles, or 500 Adam steps of a generator, as in all such methods"
    points: Count = 1024
    "number of particles, or of generated points per step"
    batch: Count = 1024
    "number of fresh target points per step"
    blur: Positive | None = None
    """square root of the entropic regularisation, a length; default: a tenth of the root mean square distance
    of two target points of the batch"""
    tolerance: Positive = 0.01
    "largest mean relative error of the plans' column sums"
    rounds: Count = 200
    "largest number of rounds per plan, each of 8 Sinkhorn updates"
    self_batch: Literal["same", "other"] = "same"
    """batch to which T_qq moves a point; same: that of the point itself; other: an independent one, the other half of a
    generator's points"""
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
    smoke: ClassVar[Mapping[str, object]] = {"steps": 3, "points": 64, "batch": 64}
    reference: ClassVar[str] = """@inproceedings{feydy2019interpolating,
  title={Interpolating between Optimal Transport and {MMD} using {S}inkhorn Divergences}, author={Feydy, Jean and
  S{\\'e}journ{\\'e}, Thibault and Vialard, Fran{\\c{c}}ois-Xavier and Amari, Shun-ichi and Trouv{\\'e}, Alain and
  Peyr{\\'e}, Gabriel}, booktitle={AISTATS}, year={2019}}
@misc{han2026wflow, title={{W}-Flow}, author={Han, Jiaqi and others}, year={2026}, eprint={2605.11755}}"""

    def __post_init__(self) -> None:
        check_fields(self)
        refuse(
            self,
            *("self_batch", "carrier"),
            when=self.self_batch == "other" and self.carrier == "particles",
            expected="self_batch=same for particles, which are one batch",
            fix="write, for example, sinkhorn_flow:carrier=generator,self_batch=other",
        )
        refuse(
            self,
            *("points", "self_batch"),
            when=self.self_batch == "other" and self.points < 2,
            expected="at least 2 points, one for each batch",
        )

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:
        def velocity(x: Tensor, y: Tensor, noise: Streams) -> Tensor:
            blur = self.blur or 0.1 * rms_distance(y)[:, 0, 0]
            if self.self_batch == "same":
                return sinkhorn(x, y, blur=blur, tolerance=self.tolerance, rounds=self.rounds)
            one, two = x.tensor_split(2, 1)
            halves = ((one, two), (two, one))
            return torch.cat(
                [sinkhorn(a, y, b, blur=blur, tolerance=self.tolerance, rounds=self.rounds) for a, b in halves], 1
            )

        return carry(
            self,
            problem,
            rng,
            velocity,
            steps=50,
            network=Network(self.latent, self.generator_width, self.generator_depth, self.generator_lr),
        )
