"""S-JKO: JKO steps by semi-dual unbalanced optimal transport (Choi, Choi and Kang 2024).

Phase k of length tau trains T and D in turn,

    D descends   E phi*(-D(y)) + E D(T(x, a))
    T descends   E |T(x, a) - T_{k-1}(x, a')|^2 / (2 tau) - E D(T(x, a))

x of P_0, T_0(x, a) = x, a and a' independent auxiliary latents: with D = -h this is VWGF's max-min (a test holds it).
phi* by `divergence` (objectives/adversarial.py): kl e^x - 1; chi y^2/4 + y, y = max(x, -2); softplus 2 sp(x) - 2 log 2;
jsd is the authors' `train_JSD.py`, whose generator is the non-saturating one and so follows KL((p + q)/2 | p).

`step` is tau in the norm of R^d; the authors' h divides a mean over coordinates, (1/2h) mean_d, so tau = h d. Their h
is 1 on toys, our default, and 0.1 on CIFAR-10 (tau = 307). Their R1 weight is lambda/2, lambda = 0.2 on images and none
on toys. Real points get Gaussian noise of standard deviation 1/(32 k) in phase k. Here T is a network of (x, a) as one
latent vector; theirs is residual in x. Rates and numbers of iterations are gwf's; on toys theirs are 1e-4 and
2e-5, and 10 x 5000 iterations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from gwfbench.budget import Budget
from gwfbench.info import Info, Initial, TargetSamples
from gwfbench.nn.networks import Kind
from gwfbench.objectives.adversarial import SCALAR
from gwfbench.protocol import Marginal, Problem, State
from gwfbench.rng import Streams
from gwfbench.training.generator_critic import Rules, laws, require_duel

CONJUGATES = {"kl": "kl_centered", "chi": "chi", "softplus": "softplus", "jsd": "shannon"}


@dataclass(frozen=True)
class SJKO:
    divergence: Literal["kl", "chi", "softplus", "jsd"] = "softplus"
    "F by its conjugate phi*"
    step: float | None = None
    "tau, length of a phase; inf: no proximal term; none: d, the authors' h = 1"
    steps: int = 5
    "phases"
    iterations: int = 500
    "a phase"
    critic_steps: int = 1
    "of Adam an iteration"
    batch: int = 256
    "real, and generated, points of an Adam step"
    weight: float = 0.1
    "of the penalty at real points, the authors' lambda/2; 0: none"
    blur: float = 1 / 32
    "standard deviation of the noise on real points in phase 1; in phase k it is a k-th of it"
    auxiliary: int | None = None
    "latent coordinates beside the point of P_0; none: 100 for images, else d"
    network: Kind = "auto"
    "of both players"
    width: int | None = None
    "of its layers; none: the network's"
    depth: int | None = None
    "of its layers; none: the network's"
    lr: float | None = None
    "of the generator's Adam; none: 2e-4 for images, else 1e-3"
    critic_lr: float | None = None
    "of the critic's; none: 1e-4 for images, else the generator's"
    decay: Literal["cosine", "none"] = "cosine"
    "of both rates, over the whole run, to lr_end"
    lr_end: float = 5e-5
    "see decay"
    beta1: float = 0.5
    "Adam's, of both; the second is 0.9"
    ema: float = 0.0
    "share of the running average that judged parameters keep; 0: none"

    needs: ClassVar[frozenset[type[Info]]] = frozenset({Initial, TargetSamples})
    clock: ClassVar[Literal["jko", "flow", "none"]] = "none"
    seeds: ClassVar[Literal["batched", "looped"]] = "batched"
    shapes: ClassVar[Literal["vectors", "any"]] = "any"
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {"steps": 3, "iterations": 3, "batch": 32, "width": 8, "depth": 2}
    reference: ClassVar[str] = """@inproceedings{choi2024scalable,
  title={Scalable {W}asserstein Gradient Flow for Generative Modeling through Unbalanced Optimal Transport},
  author={Choi, Jaemoo and Choi, Jaewoong and Kang, Myungjoo}, booktitle={ICML}, year={2024}}"""

    def __post_init__(self) -> None:
        require_duel(self, "sjko", positive=("steps", "iterations"), natural=("auxiliary",))

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:
        return laws(self._rules(problem), problem, rng)

    def resume(self, problem: Problem, budget: Budget, rng: Streams, state: State) -> Iterator[Marginal]:
        return laws(self._rules(problem), problem, rng, state)

    def _rules(self, problem: Problem) -> Rules:
        d, image = math.prod(problem.shape), len(problem.shape) > 1
        auxiliary = (100 if image else d) if self.auxiliary is None else self.auxiliary
        lr = self.lr or (2e-4 if image else 1e-3)
        return Rules(
            objective=SCALAR[CONJUGATES[self.divergence]], mixture=None, penalty="real" if self.weight else "none",
            weight=self.weight, tau=d if self.step is None else self.step, prior="initial", latent=d + auxiliary,
            independent=auxiliary, blur=self.blur, network=self.network, spectral=False, width=self.width,
            depth=self.depth, outputs=1, steps=self.steps, iterations=self.iterations,
            critic_steps=self.critic_steps, batch=self.batch, lr=lr,
            critic_lr=self.critic_lr or (1e-4 if image else lr),
            lr_end=self.lr_end if self.decay == "cosine" else None, betas=(self.beta1, 0.9), ema=self.ema,
        )  # fmt: skip
