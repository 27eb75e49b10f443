"""Variational generative Wasserstein flows: adversarial JKO steps of a generator (Caucheteux, Bonet and Korba 2026).

    q_k = argmin_q  W2^2(q, q_{k-1}) / (2 tau) + F(q | p),   F a sup over critics

solved for generators by Adam in turn with a critic; W2^2 is replaced by E |G(z) - G_{k-1}(z)|^2, the same z in both.
Objectives, their signs and their true names are in objectives/adversarial.py and objectives/embedding.py (`shannon` is
the non-saturating GAN, `js` the Jensen-Shannon flow), the loop in training/generator_critic.py.

`step` is tau in the norm of R^d. The authors take the mean over coordinates: their term is mean_d (G - G_{k-1})^2 /
lambda2, so tau = lambda2 d / 2, in the plane tau = lambda2 (their default, 1, is ours: d/2), on CIFAR-10 0.2 is 307.
(Their README has lambda2 = 2 tau; S-JKO's h is lambda2 / 2.) `step=inf` has no term: a GAN in the same
loop, which is their code without `--JKO`.

Their G_0 is the identity for networks that take a point and a latent, and independent noise for the others, which only
shrinks the first step's points. Here a latent generator's first step has no term, as its start means nothing; with
`prior=initial` G takes points of P_0, and its first step is proximal to P_0 itself.

Their penalties are 0.2 at real points for kl_dv and 10 at interpolated points for mmd (README); `PENALTIES` has ours.
Networks in the plane are theirs, three SiLU layers of 128, and so are the rates on images, 2e-4 and 1e-4; in the plane
ours are 1e-3 for both players and go down, as at theirs 5 x 500 iterations end before the law has settled. The interval
of their uniform latents is not known to us; ours is [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from gwfbench.budget import Budget
from gwfbench.errors import require
from gwfbench.info import Info, Initial, TargetSamples
from gwfbench.nn.networks import Kind
from gwfbench.objectives.adversarial import SCALAR, Objective, reversed_
from gwfbench.objectives.embedding import FIXED, KernelName, Mixture, embedded
from gwfbench.objectives.penalties import Penalty
from gwfbench.protocol import Marginal, Problem, State
from gwfbench.rng import Streams
from gwfbench.training.generator_critic import Prior, Rules, laws, require_duel

Divergence = Literal[
    "kl", "kl_centered", "kl_dv", "chi2", "chi2_tight", "shannon", "js", "wasserstein1", "mmd", "immd", "smmd", "ckmmd"
]
EMBEDDED = ("mmd", "immd", "smmd", "ckmmd")
PENALTIES: dict[str, tuple[Penalty, float]] = {
    **dict.fromkeys(("kl", "kl_centered", "kl_dv", "chi2", "chi2_tight", "shannon", "js"), ("real", 0.2)),
    "wasserstein1": ("interpolated", 1.0),  # WGAN-GP's, with one critic step an iteration, diverged on toy2d
    **dict.fromkeys(("mmd", "immd", "smmd", "ckmmd"), ("interpolated", 10.0)),
}


@dataclass(frozen=True)
class GWF:
    divergence: Divergence = "kl_dv"
    "F"
    reverse: bool = False
    "F(p|q) in place of F(q|p), p the data's law: kl, kl_centered, kl_dv, chi2 and chi2_tight"
    step: float | None = None
    "tau, length of a JKO step; inf: no proximal term; none: d/2, the authors' lambda2 = 1"
    steps: int = 5
    "JKO steps"
    iterations: int = 500
    "a JKO step"
    critic_steps: int = 1
    "of Adam an iteration"
    batch: int = 256
    "real, and generated, points of an Adam step"
    penalty: Literal["auto", "none", "real", "interpolated", "wgan", "r3gan"] = "auto"
    "of the critic's gradient; auto: by divergence, with its weight"
    weight: float | None = None
    "of the penalty; none: by penalty and divergence"
    kernel: KernelName = "mixture"
    "that compares embeddings: learnt mixture, or a fixed one; of mmd, immd, smmd and ckmmd"
    outputs: int | None = None
    "of the critic as embedding; none: 128 for images, else 8; ckmmd has as many as latent coordinates"
    prior: Prior = "uniform"
    "of the latent points: on [-1, 1], standard normal, or points of P_0"
    latent: int | None = None
    "its coordinates; none: 128 for images, else d; with prior=initial d and the independent ones"
    independent: int = 0
    "latent coordinates that G_{k-1} has of its own, as S-JKO's"
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

    needs: ClassVar[frozenset[type[Info]]] = frozenset({TargetSamples})
    clock: ClassVar[Literal["jko", "flow", "none"]] = "none"
    seeds: ClassVar[Literal["batched", "looped"]] = "batched"
    shapes: ClassVar[Literal["vectors", "any"]] = "any"
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {"steps": 3, "iterations": 3, "batch": 32, "width": 8, "depth": 2}
    reference: ClassVar[str] = """@inproceedings{caucheteux2026unifying,
  title={A Unifying View of Variational Generative {W}asserstein Flows}, author={Caucheteux, Paul and Bonet, Clement
  and Korba, Anna}, booktitle={ICML}, year={2026}}"""

    def __post_init__(self) -> None:
        require_duel(self, "gwf", positive=("steps", "iterations"), natural=("independent",))
        if self.reverse:
            reversed_(self.divergence)  # says which have another direction
        embeds, initial = self.divergence in EMBEDDED, self.prior == "initial"
        for ok, got, expected, fix in (
            (self.kernel == "mixture" or embeds, f"divergence={self.divergence},kernel={self.kernel}",
             f"a kernel only with {', '.join(EMBEDDED)}", "leave kernel out"),
            (self.outputs is None or (embeds and self.divergence != "ckmmd"),
             f"divergence={self.divergence},outputs={self.outputs}", "outputs only with mmd, immd and smmd",
             "leave outputs out"),
            (not initial or self.latent is None, f"prior=initial,latent={self.latent}",
             "no latent: it is a point of P_0 and the independent coordinates", "leave latent out"),
            (initial or self.independent < (self.latent or math.inf),
             f"latent={self.latent},independent={self.independent}", "fewer independent coordinates than latent ones",
             "leave independent out"),
            (self.penalty != "none" or not self.weight, f"penalty=none,weight={self.weight}", "no weight without one",
             "leave weight out"),
        ):  # fmt: skip
            require(ok, f"gwf:{got}", expected, fix)

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:
        return laws(self._rules(problem, rng), problem, rng)

    def resume(self, problem: Problem, budget: Budget, rng: Streams, state: State) -> Iterator[Marginal]:
        return laws(self._rules(problem, rng), problem, rng, state)

    def _rules(self, problem: Problem, rng: Streams) -> Rules:
        require(
            self.prior != "initial" or any(isinstance(offered, Initial) for offered in problem.infos),
            "gwf:prior=initial on a task without P_0", "a task that offers Initial", "leave prior out",
        )  # fmt: skip
        d, image = math.prod(problem.shape), len(problem.shape) > 1
        latent = d + self.independent if self.prior == "initial" else self.latent or (128 if image else d)
        objective, mixture = self._objective(rng)
        penalty, weight = PENALTIES[self.divergence]
        if self.penalty != "auto" and self.penalty != penalty:
            penalty, weight = self.penalty, WEIGHTS[self.penalty]
        lr = self.lr or (2e-4 if image else 1e-3)
        sizes = {"one": 1, "embedding": self.outputs or (128 if image else 8), "latent": latent}
        return Rules(
            objective=objective, mixture=mixture and mixture.parameters, penalty=penalty,
            weight=weight if self.weight is None else self.weight, tau=d / 2 if self.step is None else self.step,
            prior=self.prior, latent=latent, independent=self.independent, blur=0.0, network=self.network,
            spectral=False, width=self.width, depth=self.depth, outputs=sizes[objective.outputs], steps=self.steps,
            iterations=self.iterations, critic_steps=self.critic_steps, batch=self.batch, lr=lr,
            critic_lr=self.critic_lr or (1e-4 if image else lr), lr_end=self.lr_end if self.decay == "cosine" else None,
            betas=(self.beta1, 0.9), ema=self.ema,
        )  # fmt: skip

    def _objective(self, rng: Streams) -> tuple[Objective, Mixture | None]:
        if self.divergence not in EMBEDDED:
            return reversed_(self.divergence) if self.reverse else SCALAR[self.divergence], None
        mixture = Mixture(rng) if self.kernel == "mixture" else None
        return embedded(self.divergence, mixture or FIXED[self.kernel]), mixture


WEIGHTS: dict[str, float] = {"none": 0.0, "real": 0.2, "interpolated": 10.0, "wgan": 10.0, "r3gan": 0.2}
