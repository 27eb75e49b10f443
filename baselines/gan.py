"""Generative adversarial network: the loop of gwf without its proximal term, with four common losses.

    loss            critic descends                       generator descends    critic
    nonsaturating   E sp(D(G(z))) + E sp(-D(y))           E sp(-D(G(z)))        penalty at reals   Goodfellow 2014
    hinge           E (1 + D(G(z)))_+ + E (1 - D(y))_+    -E D(G(z))            penalty at reals   Lim and Ye 2017
    wgan_gp         E D(G(z)) - E D(y)                    -E D(G(z))            (|grad D| - 1)^2   Gulrajani 2017
    sngan           as hinge                              -E D(G(z))            spectrally normal  Miyato 2018

The non-saturating generator follows the flow of KL((p + q)/2 | p), not of Jensen-Shannon (objectives/adversarial.py).
Its penalty is R1, without which it circles. The weight is gamma/2 = 0.1 for vectors; for images it is 5 with beta1 = 0,
as in Mescheder et al. (2018). (With 0.1 the digits fall to one image.)

Losses are in objectives/adversarial.py, the loop in training/generator_critic.py. There are no JKO steps: a law is
yielded every `every` iterations. Rates are those of gwf. wgan_gp and sngan take 5 critic steps per iteration, as their
authors do; with one, sngan lost modes of toy2d.

Miyato et al.'s own setting on CIFAR-10 (sngan_projection, sn_cifar10_unconditional.yml) is

    gan:loss=sngan,network=sngan,iterations=50000,every=1000,batch=64,fakes=128,decay=linear,lr_end=0

This has their networks, 50,000 updates of the generator at 128 generated points, 5 critic updates at 64 real and 64
generated points between two of them, Adam at 2e-4 with betas (0, 0.9), both rates falling linearly to 0, 128 normal
latent coordinates, and no mirrored images. `every` is ours, so that a long run can stop and go on. On a GPU add
precision=bf16; TF32 is not needed then.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from gwfbench.budget import Budget
from gwfbench.fields import Count, NonNegative, Positive, Share, at_least, check_fields, refuse
from gwfbench.info import Info, TargetSamples
from gwfbench.nn.networks import Kind
from gwfbench.objectives.adversarial import SCALAR
from gwfbench.objectives.penalties import Penalty
from gwfbench.protocol import Marginal, Problem, State
from gwfbench.rng import Streams
from gwfbench.training.generator_critic import laws
from gwfbench.training.rules import IMAGE_WEIGHT, Defaults, Loop, Optim, Players, Rules

LOSSES: dict[str, tuple[str, Penalty, float]] = {
    "nonsaturating": ("shannon", "real", 0.1),
    "hinge": ("hinge", "real", 0.1),
    "wgan_gp": ("wasserstein1", "wgan", 10.0),
    "sngan": ("hinge", "none", 0.0),
}


@dataclass(frozen=True)
class GAN:
    loss: Literal["nonsaturating", "hinge", "wgan_gp", "sngan"] = "nonsaturating"
    "losses of both players, with the critic's penalty or normalisation"
    iterations: Count = 2500
    "number of generator updates in the whole run"
    every: Count = 500
    "number of iterations from one law to the next"
    critic_steps: Count | None = None
    "number of critic updates per iteration; default: 5 for wgan_gp and sngan, else 1"
    batch: Annotated[int, at_least(2)] = 256
    "number of real points, and of generated points, per update"
    fakes: Count | None = None
    "number of generated points per update of the generator; default: as many as in a batch"
    weight: NonNegative | None = None
    "weight of the penalty; default: 10 for wgan_gp, none for sngan, else 5 for images and 0.1 for vectors"
    lazy: Count = 1
    "number of critic updates per penalty; the weight of the penalty is multiplied by it"
    prior: Literal["normal", "uniform"] = "normal"
    "law of the latent points: standard normal, or uniform on [-1, 1]"
    latent: Count | None = None
    "number of latent coordinates; default: 128 for images, else d"
    network: Kind = "auto"
    "architecture of the generator and the critic"
    width: Count | None = None
    "width of the layers of both players; default: the network's"
    depth: Count | None = None
    "number of layers of both players; default: the network's"
    lr: Positive | None = None
    "learning rate of the generator; default: 2e-4 for images, else 1e-3"
    critic_lr: Positive | None = None
    "learning rate of the critic; default: the generator's"
    decay: Literal["cosine", "linear", "none"] = "cosine"
    "schedule of both learning rates over the whole run, down to lr_end"
    lr_end: NonNegative = 5e-5
    "learning rate of both players at the last iteration (not with decay=none)"
    beta1: Share | None = None
    "first beta of Adam, of both players; the second is 0.9; default: 0 for images, else 0.5"
    ema: Share = 0.0
    "share that the running average of parameters, which is judged, keeps at each update; 0: no average"
    precision: Literal["run", "bf16"] = "run"
    "number format of both networks' products; run: that of the run; bf16: bfloat16, by autocast"

    needs: ClassVar[frozenset[type[Info]]] = frozenset({TargetSamples})
    clock: ClassVar[Literal["jko", "flow", "none"]] = "none"
    seeds: ClassVar[Literal["batched", "looped"]] = "batched"
    shapes: ClassVar[Literal["vectors", "any"]] = "any"
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {"iterations": 6, "every": 2, "batch": 32, "width": 8, "depth": 2}
    reference: ClassVar[str] = """@inproceedings{goodfellow2014generative,
  title={Generative Adversarial Nets}, author={Goodfellow, Ian and Pouget-Abadie, Jean and Mirza, Mehdi and Xu, Bing and
  Warde-Farley, David and Ozair, Sherjil and Courville, Aaron and Bengio, Yoshua}, booktitle={NeurIPS}, year={2014}}
@inproceedings{gulrajani2017improved, title={Improved Training of {W}asserstein {GAN}s}, author={Gulrajani, Ishaan and
  Ahmed, Faruk and Arjovsky, Martin and Dumoulin, Vincent and Courville, Aaron}, booktitle={NeurIPS}, year={2017}}
@inproceedings{miyato2018spectral, title={Spectral Normalization for Generative Adversarial Networks},
  author={Miyato, Takeru and Kataoka, Toshiki and Koyama, Masanori and Yoshida, Yuichi},
  booktitle={ICLR}, year={2018}}"""

    def __post_init__(self) -> None:
        check_fields(self)
        refuse(
            self, "every", "iterations", when=self.iterations % self.every > 0,
            expected="a whole number of laws: iterations divisible by every",
            fix=f"write gan:iterations={self.iterations},every={self.iterations}",
        )  # fmt: skip
        refuse(
            self, "weight", "loss", when=self.loss == "sngan" and bool(self.weight),
            expected="no penalty: the critic of sngan is normalised",
        )  # fmt: skip
        refuse(
            self, "lazy", "loss", when=self.lazy > 1 and (self.loss == "sngan" or self.weight == 0),
            expected="lazy only with a penalty",
        )  # fmt: skip

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:
        return laws(self._rules(problem), problem, rng)

    def resume(self, problem: Problem, budget: Budget, rng: Streams, state: State) -> Iterator[Marginal]:
        return laws(self._rules(problem), problem, rng, state)

    def _rules(self, problem: Problem) -> Rules:
        name, penalty, weight = LOSSES[self.loss]
        if penalty == "real" and len(problem.shape) > 1:
            weight = IMAGE_WEIGHT
        latent = self.latent or Defaults.of(problem).latent or math.prod(problem.shape)
        critic_steps = self.critic_steps or (5 if self.loss in ("wgan_gp", "sngan") else 1)
        return Rules(
            SCALAR[name],
            "none" if self.weight == 0 else penalty,
            weight if self.weight is None else self.weight,
            Players.of(self, latent, self.prior, spectral=self.loss == "sngan"),
            Optim.of(self, problem, gan=True),
            Loop(
                self.iterations // self.every,
                self.every,
                critic_steps,
                self.batch,
                math.inf,
                lazy=self.lazy,
                fakes=self.fakes,
            ),
        )
