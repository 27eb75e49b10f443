"""Generative adversarial networks: the loop of gwf without its proximal term, with the four losses of most use.

    loss            critic descends                       generator descends    critic
    nonsaturating   E sp(D(G(z))) + E sp(-D(y))           E sp(-D(G(z)))        penalty at reals   Goodfellow 2014
    hinge           E (1 + D(G(z)))_+ + E (1 - D(y))_+    -E D(G(z))            penalty at reals   Lim and Ye 2017
    wgan_gp         E D(G(z)) - E D(y)                    -E D(G(z))            (|grad D| - 1)^2   Gulrajani 2017
    sngan           as hinge                              -E D(G(z))            spectrally normal  Miyato 2018

The non-saturating generator follows the flow of KL((p + q)/2 | p), not of Jensen-Shannon (objectives/adversarial.py);
its penalty is R1, without which it circles: gamma/2 = 0.1 for vectors, for images 5 with beta1 = 0, as Mescheder et al.
(2018) have it (with 0.1 the digits fall to one image). Losses are in objectives/adversarial.py, the loop in
training/generator_critic.py. There are no JKO steps: a law is yielded every `every` iterations. Rates are those of
gwf; wgan_gp and sngan take 5 critic steps an iteration, as their authors do: with one, sngan lost modes of toy2d.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from gwfbench.budget import Budget
from gwfbench.errors import require
from gwfbench.info import Info, TargetSamples
from gwfbench.nn.networks import Kind
from gwfbench.objectives.adversarial import SCALAR
from gwfbench.objectives.penalties import Penalty
from gwfbench.protocol import Marginal, Problem, State
from gwfbench.rng import Streams
from gwfbench.training.generator_critic import Rules, laws, require_duel

LOSSES: dict[str, tuple[str, Penalty, float]] = {
    "nonsaturating": ("shannon", "real", 0.1),
    "hinge": ("hinge", "real", 0.1),
    "wgan_gp": ("wasserstein1", "wgan", 10.0),
    "sngan": ("hinge", "none", 0.0),
}


@dataclass(frozen=True)
class GAN:
    loss: Literal["nonsaturating", "hinge", "wgan_gp", "sngan"] = "nonsaturating"
    "of both players, with its penalty or normalisation of the critic"
    iterations: int = 2500
    "of the generator"
    every: int = 500
    "iterations from one law to the next"
    critic_steps: int | None = None
    "of Adam an iteration; none: 5 for wgan_gp and sngan, else 1"
    batch: int = 256
    "real, and generated, points of an Adam step"
    weight: float | None = None
    "of the penalty; none: 10 for wgan_gp, else 5 for images and 0.1 for vectors; 0: no penalty; sngan has none"
    prior: Literal["normal", "uniform"] = "normal"
    "of the latent points: standard normal, or uniform on [-1, 1]"
    latent: int | None = None
    "its coordinates; none: 128 for images, else d"
    network: Kind = "auto"
    "of both players"
    width: int | None = None
    "of its layers; none: the network's"
    depth: int | None = None
    "of its layers; none: the network's"
    lr: float | None = None
    "of the generator's Adam; none: 2e-4 for images, else 1e-3"
    critic_lr: float | None = None
    "of the critic's; none: the generator's"
    decay: Literal["cosine", "none"] = "cosine"
    "of both rates, over the whole run, to lr_end"
    lr_end: float = 5e-5
    "see decay"
    beta1: float | None = None
    "Adam's, of both; none: 0 for images, else 0.5; the second is 0.9"
    ema: float = 0.0
    "share of the running average that judged parameters keep; 0: none"

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
        require_duel(self, "gan", positive=("iterations", "every"))
        for ok, got, expected, fix in (
            (self.iterations % self.every == 0, f"iterations={self.iterations},every={self.every}",
             "a whole number of laws", f"write gan:iterations={self.iterations},every={self.iterations}"),
            (self.loss != "sngan" or not self.weight, f"loss=sngan,weight={self.weight}", "no penalty: its critic is "
             "normalised", "leave weight out"),
        ):  # fmt: skip
            require(ok, f"gan:{got}", expected, fix)

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:
        return laws(self._rules(problem), problem, rng)

    def resume(self, problem: Problem, budget: Budget, rng: Streams, state: State) -> Iterator[Marginal]:
        return laws(self._rules(problem), problem, rng, state)

    def _rules(self, problem: Problem) -> Rules:
        d, image = math.prod(problem.shape), len(problem.shape) > 1
        name, penalty, weight = LOSSES[self.loss]
        weight = 5.0 if image and penalty == "real" else weight
        lr = self.lr or (2e-4 if image else 1e-3)
        return Rules(
            objective=SCALAR[name], mixture=None, penalty="none" if self.weight == 0 else penalty,
            weight=weight if self.weight is None else self.weight, tau=math.inf, prior=self.prior,
            latent=self.latent or (128 if image else d), independent=0, blur=0.0, network=self.network,
            spectral=self.loss == "sngan", width=self.width, depth=self.depth, outputs=1,
            steps=self.iterations // self.every, iterations=self.every,
            critic_steps=self.critic_steps or (5 if self.loss in ("wgan_gp", "sngan") else 1), batch=self.batch, lr=lr,
            critic_lr=self.critic_lr or lr, lr_end=self.lr_end if self.decay == "cosine" else None,
            betas=((0.0 if image else 0.5) if self.beta1 is None else self.beta1, 0.9), ema=self.ema,
        )  # fmt: skip
