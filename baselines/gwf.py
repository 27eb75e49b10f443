"""Variational generative Wasserstein flow: adversarial JKO steps of a generator.

    q_k = argmin_q  W2^2(q, q_{k-1}) / (2 tau) + F(q | p),   F a sup over critics

(Caucheteux, Bonet and Korba 2026.) G and the critic are trained by Adam in turn; W2^2 is replaced by E |G(z) -
G_{k-1}(z)|^2, with the same z in both. Objectives, their signs and their true names are in objectives/adversarial.py
and objectives/embedding.py (`shannon` is the non-saturating GAN, `js` the Jensen-Shannon flow), the loop in
training/generator_critic.py.

`step` is tau in the norm of R^d. The authors take the mean over coordinates: their term is mean_d (G - G_{k-1})^2 /
lambda2, so tau = lambda2 d / 2. In the plane tau = lambda2 (their default, 1, is ours: d/2); on CIFAR-10 lambda2 = 0.2
is tau = 307. (Their README has lambda2 = 2 tau; S-JKO's h is lambda2 / 2.) `step=inf` has no proximal term: a GAN in
the same loop, which is their code without `--JKO`.

Their first step has a proximal term with a G_0. It is the identity for the networks of the plane and the UNets
(`start=identity`), and independent noise for the other networks (`start=noise`), which only shrinks the first step's
points. By default a latent generator's first step has no such term here, as its start means nothing. With
`prior=initial` G takes points of P_0, and its first step is proximal to P_0 itself. Their generator's update draws real
points of its own (`fresh=true`).

Their penalties are 0.2 at real points for kl_dv and 10 at interpolated points for mmd (README); `PENALTIES` has ours.
Networks in the plane are theirs, three SiLU layers of 128, and so are the latents, uniform on [-1, 1].

Their rates are 2e-4 and, for the critic, 1e-4, with beta1 = 0.5. In the plane ours are 1e-3 for both players and
decrease, because at theirs 5 x 500 iterations end before the law has settled. On images ours are 2e-4 and 4e-4, with
beta1 = 0, and the weight at real points is 5, as in gan. With theirs the critic doesn't keep up on digits, and a better
critic gives most of what the proximal term seems to gain. For theirs write critic_lr=1e-4,beta1=0.5,weight=0.2.

Their networks of images are network=otm,latent=192 (Small-Net; gwfbench/nn/otm.py) with ema=0.9999. As in their code,
its batch normalisation takes the batch in training, and running averages in G_{k-1} and in the judged generator.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from gwfbench.budget import Budget
from gwfbench.fields import Count, Natural, NonNegative, Positive, Share, StepOrInf, at_least, check_fields, refuse
from gwfbench.info import Info, Initial, TargetSamples
from gwfbench.nn.networks import Kind
from gwfbench.objectives.adversarial import SCALAR, Objective, reversed_
from gwfbench.objectives.embedding import FIXED, KernelName, Mixture, embedded
from gwfbench.objectives.penalties import Penalty
from gwfbench.protocol import Marginal, Problem, State
from gwfbench.rng import Streams
from gwfbench.training.generator_critic import laws
from gwfbench.training.rules import IMAGE_WEIGHT, Defaults, Loop, Optim, Players, Prior, Rules, Start

Divergence = Literal[
    "kl", "kl_centered", "kl_dv", "chi2", "chi2_tight", "shannon", "js", "wasserstein1", "mmd", "immd", "smmd", "ckmmd"
]
EMBEDDED = ("mmd", "immd", "smmd", "ckmmd")
WITH_REALS = ("chi2_tight", "mmd", "immd", "smmd")
PENALTIES: dict[str, tuple[Penalty, float]] = {
    **dict.fromkeys(("kl", "kl_centered", "kl_dv", "chi2", "chi2_tight", "shannon", "js"), ("real", 0.2)),
    "wasserstein1": ("interpolated", 1.0),  # WGAN-GP's, with one critic step per iteration, diverged on toy2d
    **dict.fromkeys(("mmd", "immd", "smmd", "ckmmd"), ("interpolated", 10.0)),
}
WEIGHTS: dict[str, float] = {"none": 0.0, "real": 0.2, "interpolated": 10.0, "wgan": 10.0, "r3gan": 0.2}


@dataclass(frozen=True)
class GWF:
    divergence: Divergence = "kl_dv"
    """functional F; ckmmd is no divergence, as it is not 0 at q = p; chi2_tight needs a nearly optimal critic: add
    penalty=none,critic_steps=3"""
    reverse: bool = False
    "whether F(p|q) replaces F(q|p), with p the data's law (kl, kl_centered, kl_dv, chi2 and chi2_tight only)"
    step: StepOrInf | None = None
    "JKO step size tau; inf: no proximal term; default: d/2, the authors' lambda2 = 1"
    start: Literal["auto", "none", "identity", "noise"] = "auto"
    """G_0 of the first step's proximal term; none: no term; identity: the first d latent coordinates; noise: an
    independent normal point; auto: identity with prior=initial, else none"""
    steps: Count = 5
    "number of JKO steps"
    iterations: Count = 500
    "number of generator updates per JKO step"
    critic_steps: Count = 1
    "number of critic updates per iteration"
    batch: Annotated[int, at_least(2)] = 256
    "number of real points, and of generated points, per update"
    fresh: bool = False
    "whether the generator's update draws real points of its own, or reuses the critic's (chi2_tight, mmd, immd, smmd)"
    penalty: Literal["auto", "none", "real", "interpolated", "wgan", "r3gan"] = "auto"
    "penalty of the critic's gradient; auto: by divergence, with its weight"
    weight: NonNegative | None = None
    "weight of the penalty; default: by penalty and divergence, and 5 at real images"
    lazy: Count = 1
    "number of critic updates per penalty; the weight of the penalty is multiplied by it"
    kernel: KernelName = "mixture"
    "kernel on embeddings (mmd, immd, smmd and ckmmd only): a learnt mixture, or a fixed kernel"
    outputs: Count | None = None
    "dimension of the critic's embedding; default: number of latent coordinates for ckmmd, 128 for images, else 8"
    prior: Prior = "uniform"
    "law of the latent points: uniform on [-1, 1], standard normal, or that of P_0"
    latent: Count | None = None
    "number of latent coordinates; default: 128 for images, else d; with prior=initial d plus the independent ones"
    independent: Natural = 0
    "number of latent coordinates drawn independently for G_{k-1}, as S-JKO's auxiliary ones"
    network: Kind = "auto"
    "architecture of the generator and the critic"
    width: Count | None = None
    "width of the layers of both players; default: the network's"
    depth: Count | None = None
    "number of layers of both players; default: the network's"
    lr: Positive | None = None
    "learning rate of the generator; default: 2e-4 for images, else 1e-3"
    critic_lr: Positive | None = None
    "learning rate of the critic; default: 4e-4 for images, else the generator's"
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
    version: ClassVar[int] = 2
    smoke: ClassVar[Mapping[str, object]] = {"steps": 3, "iterations": 3, "batch": 32, "width": 8, "depth": 2}
    reference: ClassVar[str] = """@inproceedings{caucheteux2026unifying,
  title={A Unifying View of Variational Generative {W}asserstein Flows}, author={Caucheteux, Paul and Bonet, Clement
  and Korba, Anna}, booktitle={ICML}, year={2026}}"""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.reverse:
            reversed_(self.divergence)  # says which have another direction
        embeds, initial = self.divergence in EMBEDDED, self.prior == "initial"
        refuse(
            self, "kernel", "divergence", when=self.kernel != "mixture" and not embeds,
            expected=f"a kernel only with {', '.join(EMBEDDED)}",
        )  # fmt: skip
        refuse(
            self, "outputs", "divergence", when=self.outputs is not None and (not embeds or self.divergence == "ckmmd"),
            expected="outputs only with mmd, immd and smmd",
        )  # fmt: skip
        refuse(
            self, "latent", "prior", when=initial and self.latent is not None,
            expected="no latent: it is a point of P_0 and the independent coordinates",
        )  # fmt: skip
        refuse(
            self, "independent", "latent", when=not initial and self.independent >= (self.latent or math.inf),
            expected="fewer independent coordinates than latent ones",
        )  # fmt: skip
        refuse(
            self, "start", "prior", when=initial and self.start in ("none", "noise"),
            expected="a first step that is proximal to P_0, from which its latent points come",
        )  # fmt: skip
        refuse(
            self, "fresh", "divergence", when=self.fresh and self.divergence not in WITH_REALS,
            expected=f"fresh only with {', '.join(WITH_REALS)}, whose generator's loss depends on real points",
        )  # fmt: skip
        refuse(
            self, "weight", "penalty", when=self.penalty == "none" and bool(self.weight),
            expected="no weight without a penalty",
        )  # fmt: skip
        refuse(
            self, "lazy", "penalty", when=self.lazy > 1 and (self.penalty == "none" or self.weight == 0),
            expected="lazy only with a penalty",
        )  # fmt: skip

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:
        return laws(self._rules(problem, rng), problem, rng)

    def resume(self, problem: Problem, budget: Budget, rng: Streams, state: State) -> Iterator[Marginal]:
        return laws(self._rules(problem, rng), problem, rng, state)

    def _rules(self, problem: Problem, rng: Streams) -> Rules:
        initial = self.prior == "initial"
        refuse(
            self, "prior", when=initial and not any(isinstance(offered, Initial) for offered in problem.infos),
            expected="a task that offers Initial: this one has no P_0",
        )  # fmt: skip
        d, default = math.prod(problem.shape), Defaults.of(problem)
        latent = d + self.independent if initial else self.latent or default.latent or d
        objective, mixture = self._objective(rng)
        outputs = {"one": 1, "embedding": self.outputs or default.outputs, "latent": latent}[objective.outputs]
        penalty, weight = PENALTIES[self.divergence]
        if self.penalty not in ("auto", penalty):
            penalty, weight = self.penalty, WEIGHTS[self.penalty]
        if penalty == "real" and len(problem.shape) > 1:
            weight = IMAGE_WEIGHT
        tau = d / 2 if self.step is None else self.step
        start: Start = ("identity" if initial else "none") if self.start == "auto" else self.start
        refuse(
            self, "start", "latent", when=start == "identity" and latent < d,
            expected=f"at least {d} latent coordinates, as many as a point has",
            fix=f"write gwf:start=identity,latent={d}",
        )  # fmt: skip
        return Rules(
            objective,
            penalty,
            weight if self.weight is None else self.weight,
            Players.of(self, latent, self.prior, independent=self.independent, outputs=outputs),
            Optim.of(self, problem),
            Loop(
                self.steps,
                self.iterations,
                self.critic_steps,
                self.batch,
                tau,
                start=start,
                fresh=self.fresh,
                lazy=self.lazy,
            ),
            mixture and mixture.parameters,
        )

    def _objective(self, rng: Streams) -> tuple[Objective, Mixture | None]:
        if self.divergence not in EMBEDDED:
            return reversed_(self.divergence) if self.reverse else SCALAR[self.divergence], None
        mixture = Mixture(rng) if self.kernel == "mixture" else None
        return embedded(self.divergence, mixture or FIXED[self.kernel]), mixture
