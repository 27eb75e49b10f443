"""Settings of the loop in generator_critic.py, and how a method's fields give them: players, optimisers, loop.

Defaults of vectors and of images are in `VECTORS` and `IMAGES`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from gwfbench.nn import networks
from gwfbench.nn.networks import halved
from gwfbench.nn.stacked import Stacked
from gwfbench.objectives.adversarial import Objective
from gwfbench.objectives.penalties import Penalty
from gwfbench.protocol import Problem
from gwfbench.rng import Streams
from gwfbench.training.minmax import cosine

Decay = Literal["cosine", "linear", "none"]
Precision = Literal["run", "bf16"]
Prior = Literal["uniform", "normal", "initial"]
Start = Literal["none", "identity", "noise"]


class Fields(Protocol):
    """Fields that methods of this loop share; None stands for the default in `Defaults`, or for the network's."""

    @property
    def network(self) -> networks.Kind: ...
    @property
    def width(self) -> int | None: ...
    @property
    def depth(self) -> int | None: ...
    @property
    def lr(self) -> float | None: ...
    @property
    def critic_lr(self) -> float | None: ...
    @property
    def decay(self) -> Decay: ...
    @property
    def lr_end(self) -> float: ...
    @property
    def beta1(self) -> float | None: ...
    @property
    def ema(self) -> float: ...
    @property
    def precision(self) -> Precision: ...


@dataclass(frozen=True)
class Defaults:
    """What a field that is left out stands for, by the points' shape.

    Args:
        latent: latent coordinates; None: as many as a point has.
        auxiliary: S-JKO's latent coordinates in addition to a point; None: as many as a point has.
        outputs: of a critic that embeds points.
        lr: of the generator.
        critic_lr: of the critic of a flow; None: the generator's. A GAN has the generator's always.
        beta1: of Adam.
    """

    latent: int | None
    auxiliary: int | None
    outputs: int
    lr: float
    critic_lr: float | None
    beta1: float

    @staticmethod
    def of(problem: Problem) -> Defaults:
        return IMAGES if len(problem.shape) > 1 else VECTORS


VECTORS = Defaults(latent=None, auxiliary=None, outputs=8, lr=1e-3, critic_lr=None, beta1=0.5)
IMAGES = Defaults(latent=128, auxiliary=100, outputs=128, lr=2e-4, critic_lr=4e-4, beta1=0.0)
IMAGE_WEIGHT = 5.0  # of a penalty at real images: with less, critics of images circle (Mescheder et al. 2018)


@dataclass(frozen=True)
class Players:
    """Both networks and the latent law.

    Args:
        latent: coordinates, those of a point of P_0 included.
        prior: of the latent points: uniform on [-1, 1], standard normal, or a point of P_0 and then standard normals.
        independent: number of coordinates, the last ones, that are drawn independently for G_{k-1}.
        outputs: of the critic.
        spectral: whether the critic's weights are spectrally normalised.
        precision: bf16: of both networks' products.
    """

    network: networks.Kind
    width: int | None
    depth: int | None
    latent: int
    prior: Prior
    independent: int
    outputs: int
    spectral: bool
    precision: Precision

    @staticmethod
    def of(
        method: Fields, latent: int, prior: Prior, *, independent: int = 0, outputs: int = 1, spectral: bool = False
    ) -> Players:
        return Players(
            method.network, method.width, method.depth, latent, prior, independent, outputs, spectral, method.precision
        )  # fmt: skip

    def generator(self, shape: tuple[int, ...], rng: Streams) -> networks.Network:
        net = networks.generator(self.network, shape, self.latent, self.width, self.depth, rng)
        return net if self.precision == "run" else halved(net)

    def critic(self, shape: tuple[int, ...], rng: Streams) -> networks.Network:
        net = networks.critic(self.network, shape, self.outputs, self.width, self.depth, rng, self.spectral)
        return net if self.precision == "run" else halved(net)


@dataclass(frozen=True)
class Optim:
    """Adam's rates and betas of both players, and the running average.

    Args:
        decay: how both rates go down to `lr_end` until the last iteration: along half a cosine or a line; none: they
            stay.
        ema: share kept; 0: the generator itself is judged.
    """

    lr: float
    critic_lr: float
    lr_end: float
    decay: Decay
    betas: tuple[float, float]
    ema: float

    @staticmethod
    def of(method: Fields, problem: Problem, *, gan: bool = False) -> Optim:
        default = Defaults.of(problem)
        lr = method.lr or default.lr
        critic_lr = method.critic_lr or (None if gan else default.critic_lr) or lr
        beta1 = default.beta1 if method.beta1 is None else method.beta1
        return Optim(lr, critic_lr, method.lr_end, method.decay, (beta1, 0.9), method.ema)

    def factor(self, lr: float, done: int, total: int) -> float:
        """Of a learning rate after so many of all iterations."""
        if self.decay == "none":
            return 1.0
        share = cosine(done, total) if self.decay == "cosine" else 1 - done / total
        return (self.lr_end + (lr - self.lr_end) * share) / lr


@dataclass(frozen=True)
class Loop:
    """Numbers of steps, and what a step takes.

    Args:
        steps, iterations: JKO steps, and iterations per JKO step.
        critic_steps: per iteration.
        batch: real points, and generated points, per update.
        tau: length of a JKO step, inf for no proximal term.
        blur: standard deviation of Gaussian noise on real points in JKO step 1, blur/k in step k.
        start: G_0 of the first step's proximal term: none, so that it has no term; the identity on the first latent
            coordinates; or noise, an independent standard normal point.
        fresh: whether the generator's update has real points of its own, or those of the critic's last one.
        lazy: number of critic steps per penalty, whose weight is multiplied by it (Karras et al. 2020).
        fakes: generated points per update of the generator; None: `batch`.
        settled: whether G_{k-1} has the running averages of its batch normalisation, or each batch's own statistics.
    """

    steps: int
    iterations: int
    critic_steps: int
    batch: int
    tau: float
    blur: float = 0.0
    start: Start = "none"
    fresh: bool = False
    lazy: int = 1
    fakes: int | None = None
    settled: bool = True


@dataclass(frozen=True)
class Rules:
    """All that a method chooses.

    Args:
        objective: or one made of the learnt kernel's parameters, `mixture`.
        mixture: of a learnt kernel; None: nothing but the critic is learnt.
        penalty, weight: of the critic.
    """

    objective: Objective
    penalty: Penalty
    weight: float
    players: Players
    optim: Optim
    loop: Loop
    mixture: Stacked | None = None
