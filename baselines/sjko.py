"""S-JKO: JKO steps of a generator, solved as semi-dual unbalanced optimal transport.

(Choi, Choi and Kang 2024.) Phase k of length tau trains T and D in turn:

    D descends   E phi*(-D(y)) + E D(T(x, a))
    T descends   E |T(x, a) - T_{k-1}(x, a')|^2 / (2 tau) - E D(T(x, a))

Here x is drawn from P_0, T_0(x, a) = x, and a and a' are independent auxiliary latents. With D = -h this is VWGF's
max-min (a test checks it). phi* by `divergence` (objectives/adversarial.py): kl e^x - 1; chi y^2/4 + y, y = max(x, -2);
softplus 2 sp(x) - 2 log 2; jsd is the authors' `train_JSD.py`, whose generator is the non-saturating one and so follows
KL((p + q)/2 | p).

`step` is tau in the norm of R^d. The authors' h divides a mean over coordinates, (1/2h) mean_d, so tau = h d. Their h
is 1 on toys, our default, and 0.1 on CIFAR-10 (tau = 307). Their R1 weight is lambda/2, with lambda = 0.2 on images and
no penalty on toys. Real points get Gaussian noise of standard deviation 1/(32 k) in phase k.

Here T is a network of (x, a) as one latent vector; theirs is residual in x. Learning rates on images are the authors',
2e-4 and 1e-4. Those for vectors, and the numbers of iterations, are gwf's; on toys theirs are 1e-4 and 2e-5, and 10 x
5000 iterations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

from gwfbench.budget import Budget
from gwfbench.fields import Count, Natural, NonNegative, Positive, Share, StepOrInf, at_least, check_fields, refuse
from gwfbench.info import Info, Initial, TargetSamples
from gwfbench.nn.networks import Kind
from gwfbench.objectives.adversarial import SCALAR
from gwfbench.protocol import Marginal, Problem, State
from gwfbench.rng import Streams
from gwfbench.training.generator_critic import laws
from gwfbench.training.rules import Defaults, Loop, Optim, Players, Rules

CONJUGATES = {"kl": "kl_centered", "chi": "chi", "softplus": "softplus", "jsd": "shannon"}
IMAGE_CRITIC_LR = 1e-4  # the authors'; with gwf's 4e-4 and their penalty digits were worse, FID 33 for 8.5


@dataclass(frozen=True)
class SJKO:
    divergence: Literal["kl", "chi", "softplus", "jsd"] = "softplus"
    "functional F by its conjugate phi*"
    step: StepOrInf | None = None
    "phase length tau; inf: no proximal term; default: d, the authors' h = 1"
    steps: Count = 5
    "number of phases"
    iterations: Count = 500
    "number of generator updates per phase"
    critic_steps: Count = 1
    "number of critic updates per iteration"
    batch: Annotated[int, at_least(2)] = 256
    "number of real points, and of generated points, per update"
    weight: NonNegative = 0.1
    "weight of the penalty at real points, the authors' lambda/2; 0: no penalty"
    lazy: Count = 1
    "number of critic updates per penalty; the weight of the penalty is multiplied by it"
    blur: NonNegative = 1 / 32
    "standard deviation of the noise on real points in phase 1; divided by k in phase k"
    auxiliary: Natural | None = None
    "number of latent coordinates in addition to the point of P_0; default: 100 for images, else d"
    network: Kind = "auto"
    "architecture of the generator and the critic"
    width: Count | None = None
    "width of the layers of both players; default: the network's"
    depth: Count | None = None
    "number of layers of both players; default: the network's"
    lr: Positive | None = None
    "learning rate of the generator; default: 2e-4 for images, else 1e-3"
    critic_lr: Positive | None = None
    "learning rate of the critic; default: 1e-4 for images, else the generator's"
    decay: Literal["cosine", "linear", "none"] = "cosine"
    "schedule of both learning rates over the whole run, down to lr_end"
    lr_end: NonNegative = 5e-5
    "learning rate of both players at the last iteration (not with decay=none)"
    beta1: Share = 0.5
    "first beta of Adam, of both players; the second is 0.9"
    ema: Share = 0.0
    "share that the running average of parameters, which is judged, keeps at each update; 0: no average"
    precision: Literal["run", "bf16"] = "run"
    "number format of both networks' products; run: that of the run; bf16: bfloat16, by autocast"

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
        check_fields(self)
        refuse(
            self, "lazy", "weight", when=self.lazy > 1 and not self.weight, expected="lazy only with a penalty"
        )  # fmt: skip

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:
        return laws(self._rules(problem), problem, rng)

    def resume(self, problem: Problem, budget: Budget, rng: Streams, state: State) -> Iterator[Marginal]:
        return laws(self._rules(problem), problem, rng, state)

    def _rules(self, problem: Problem) -> Rules:
        d, auxiliary = math.prod(problem.shape), self.auxiliary
        if auxiliary is None:
            auxiliary = Defaults.of(problem).auxiliary or d
        tau = d if self.step is None else self.step
        optim = Optim.of(self, problem)
        if self.critic_lr is None and len(problem.shape) > 1:
            optim = replace(optim, critic_lr=IMAGE_CRITIC_LR)
        return Rules(
            SCALAR[CONJUGATES[self.divergence]],
            "real" if self.weight else "none",
            self.weight,
            Players.of(self, d + auxiliary, "initial", independent=auxiliary),
            optim,
            Loop(
                self.steps,
                self.iterations,
                self.critic_steps,
                self.batch,
                tau,
                self.blur,
                "identity",
                lazy=self.lazy,
                settled=False,  # their T_{k-1} normalises by its batch
            ),
        )
