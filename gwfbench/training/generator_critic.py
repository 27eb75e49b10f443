"""A generator against a critic, with or without a proximal term: the loop of adversarial flows and GANs.

The generator's law q = G#latent; objectives (the pairs of losses) are in objectives/adversarial.py. JKO step k of
length tau is `iterations` times: `critic_steps` steps of Adam on critic loss + weight x penalty, then one on

    generator loss + E |G(z) - G_{k-1}(z')|^2 / (2 tau),

|.| the norm of R^d (a sum over coordinates), G_{k-1} the generator as the step before left it. Without a first point
there is no first term: a generator's law at the start means nothing, so step 1 has none, unless the latent points begin
with a point x of P_0, G(x, a): then G_0(x, a) = x, and the first step too is proximal. tau = inf: no term ever, a GAN.
z' is z but for its last `independent` coordinates, which are drawn anew (S-JKO's auxiliary latents).

Adam and the critic go on from step to step. The judged generator has the running average of the parameters, if asked
for: with share min(ema, (1 + i)/(10 + i)) kept at iteration i, so that the first parameters are soon forgotten.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from gwfbench.errors import require
from gwfbench.info import Initial, TargetSamples
from gwfbench.nn import networks
from gwfbench.nn.adam import Adam
from gwfbench.nn.stacked import Stacked
from gwfbench.objectives.adversarial import Objective
from gwfbench.objectives.penalties import Penalty, at_both, jacobian_norm
from gwfbench.protocol import Drawn, Marginal, Problem, State
from gwfbench.rng import Streams

Prior = Literal["uniform", "normal", "initial"]
JACOBIAN = 10.0  # weight of E |grad D|^2 in a scaled objective, Arbel et al. 2018
DRAWN = 2**20  # numbers drawn ahead at once
CHUNK = 2**22  # numbers generated at once for a judge


@dataclass(frozen=True)
class Rules:
    """All that a method chooses.

    Args:
        objective: or one made of the learnt kernel's parameters, `mixture`.
        mixture: of a learnt kernel; None: nothing beside the critic is learnt.
        penalty, weight: of the critic.
        tau: length of a JKO step, inf for none.
        prior: of the latent points: uniform on [-1, 1], standard normal, or a point of P_0 and then standard normals.
        latent: coordinates, those of a point of P_0 included.
        independent: how many of them, the last, are drawn anew for G_{k-1}.
        blur: standard deviation of Gaussian noise on real points in JKO step 1, blur/k in step k.
        lr, critic_lr: of Adam; both go down along half a cosine to lr_end at the last iteration, none: they stay.
        betas: Adam's, of both.
        ema: share kept; 0: the generator itself is judged.
    """

    objective: Objective
    mixture: Stacked | None
    penalty: Penalty
    weight: float
    tau: float
    prior: Prior
    latent: int
    independent: int
    blur: float
    network: networks.Kind
    spectral: bool
    width: int | None
    depth: int | None
    outputs: int
    steps: int
    iterations: int
    critic_steps: int
    batch: int
    lr: float
    critic_lr: float
    lr_end: float | None
    betas: tuple[float, float]
    ema: float


def require_duel(method: object, name: str, positive: tuple[str, ...] = (), natural: tuple[str, ...] = ()) -> None:
    """Check the fields that methods of this loop share, and further whole numbers from 1, or from 0.

    Raises:
        UserError: one of them is out of its range; none is always in.
    """
    fields = vars(method)
    whole = ("critic_steps", "latent", "width", "depth", "outputs", *positive)
    for names, good, expected, example in (
        (whole, lambda v: v >= 1, "at least 1", 2),
        (natural, lambda v: v >= 0, "at least 0", 0),
        (("batch",), lambda v: v >= 2, "at least 2", 256),
        (("step",), lambda v: v > 0, "a positive number, or inf for no proximal term", 1),
        (("lr", "critic_lr", "lr_end"), lambda v: 0 < v < math.inf, "a positive number", 1e-4),
        (("weight", "blur"), lambda v: 0 <= v < math.inf, "a number that is not negative", 0.2),
        (("beta1", "ema"), lambda v: 0 <= v < 1, "a share, at least 0 and below 1", 0.5),
    ):
        for field in names:
            value = fields.get(field)
            require(
                value is None or good(value), f"{name}:{field}={value}", expected, f"write {name}:{field}={example}"
            )


def laws(rules: Rules, problem: Problem, rng: Streams, state: State | None = None) -> Iterator[Marginal]:
    """The generator's law after each JKO step, at t = its number; those after the state's, if there is one."""
    duel = _Duel(rules, problem, rng, state)
    for k in range(1 if state is None else int(state["k"]) + 1, rules.steps + 1):
        duel.step(k)
        yield Drawn(float(k), duel.draw, state=partial(duel.state, k))


class _Given(Stacked):
    """The parameters of another, for an optimiser that is handed their gradient in place of a loss."""

    def __init__(self, parameters: Stacked):
        self.flat, self.leaves = parameters.flat, parameters.leaves

    def gradient(self, loss: Tensor) -> Tensor:
        return loss


class _Side:
    """One player's optimisers: of its network, and of the learnt kernel, which both players have."""

    def __init__(self, net: networks.Network, mixture: Stacked | None, lr: float, betas: tuple[float, float]):
        self._parts = [net.parameters] if mixture is None else [net.parameters, mixture]
        self.adams = [Adam(_Given(part), lr, betas) for part in self._parts]

    def descend(self, loss: Tensor, rate: float) -> None:
        """One step down the scalar loss, all gradients from one backward pass."""
        flat = [leaf for part in self._parts for leaf in part.leaves]
        gradients = iter(torch.autograd.grad(loss, flat))
        for part, adam in zip(self._parts, self.adams, strict=True):
            adam.descend(torch.cat([next(gradients).reshape(-1) for _ in part.leaves]), rate)


class _Duel:
    """Both players with their optimisers, from one JKO step to the next."""

    def __init__(self, rules: Rules, problem: Problem, rng: Streams, state: State | None):
        own, shape = rules, problem.shape
        self._rules, self._problem, self._rng = rules, problem, rng
        self._generator = networks.generator(
            own.network, shape, own.latent, own.width, own.depth, rng.fork("generator")
        )
        self._critic = networks.critic(
            own.network, shape, own.outputs, own.width, own.depth, rng.fork("critic"), own.spectral
        )
        self._sides = {
            "critic": _Side(self._critic, own.mixture, own.critic_lr, own.betas),
            "generator": _Side(self._generator, own.mixture, own.lr, own.betas),
        }
        if state is not None:
            for name, adam in self._adams():
                adam.load(_below(name, state))
            self._critic.load_buffers(_below("buffers", state))
        self._judged = copy.deepcopy(self._generator) if own.ema else self._generator
        if state is not None and own.ema:
            self._judged.parameters.flat.copy_(torch.as_tensor(state["average"]))

    def _adams(self) -> Iterator[tuple[str, Adam]]:
        for name, side in self._sides.items():
            for i, adam in enumerate(side.adams):
                yield f"{name}{i}", adam

    def state(self, k: int) -> State:
        kept = {f"{name}/{key}": part for name, adam in self._adams() for key, part in adam.state().items()}
        kept |= {f"buffers/{name}": part.clone() for name, part in self._critic.buffers.items()}
        return {"k": k, **kept, **({"average": self._judged.parameters.flat.clone()} if self._rules.ema else {})}

    @torch.no_grad()
    def draw(self, n: int, rng: Streams) -> Tensor:
        """n points of the judged generator's law, (S, n, ...)."""
        rows = max(1, CHUNK // math.prod((len(rng.seeds), *self._problem.shape)))
        return torch.cat([self._judged(z, frozen=True) for z in self._latent(n, rng).split(rows, 1)], 1)

    def _latent(self, n: int, rng: Streams) -> Tensor:
        own = self._rules
        if own.prior != "initial":
            return self._noise(n, own.latent, rng)
        x = self._problem[Initial].draw(n, rng).flatten(2)
        return torch.cat([x, self._noise(n, own.independent, rng)], 2) if own.independent else x

    def _noise(self, n: int, coordinates: int, rng: Streams) -> Tensor:
        uniform = self._rules.prior == "uniform"
        return 2 * rng.uniform(n, coordinates) - 1 if uniform else rng.normal(n, coordinates)

    def step(self, k: int) -> None:
        """Train both players for JKO step k, counted from 1."""
        own, noise = self._rules, self._rng.fork(f"step/{k}")
        mix, before = noise.fork("penalty"), self._before(k, noise.fork("independent"))
        reals = self._reals(k, noise)
        latents = _ahead(
            partial(self._latent, rng=noise.fork("latent")), own.iterations * (own.critic_steps + 1), own.batch,
            own.latent,
        )  # fmt: skip
        for i in range(own.iterations):
            now = (k - 1) * own.iterations + i
            share = 0.5 * (1 + math.cos(math.pi * now / (own.steps * own.iterations)))
            real = self._train_critic(reals, latents, mix, self._rate(share, own.critic_lr))
            z = next(latents)
            fake = self._generator(z)
            loss = self._generator_loss(real, fake, z, mix)
            if before is not None:
                loss = loss + (fake - before(z)).flatten(2).square().sum(-1).mean(1) / (2 * own.tau)
            self._sides["generator"].descend(loss.sum(), self._rate(share, own.lr))
            if own.ema:
                kept = min(own.ema, (1 + now) / (10 + now))
                self._judged.parameters.flat.lerp_(self._generator.parameters.flat, 1 - kept)

    def _train_critic(self, reals: Iterator[Tensor], latents: Iterator[Tensor], mix: Streams, rate: float) -> Tensor:
        """Its steps of one iteration; gives the last batch of real points."""
        for _ in range(self._rules.critic_steps - 1):
            self._critic_step(next(reals), next(latents), mix, rate)
        real = next(reals)
        self._critic_step(real, next(latents), mix, rate)
        return real

    def _critic_step(self, real: Tensor, z: Tensor, mix: Streams, rate: float) -> None:
        with torch.no_grad():
            fake = self._generator(z, frozen=True)
        self._sides["critic"].descend(self._critic_loss(real, fake, z, mix).sum(), rate)

    def _rate(self, share: float, lr: float) -> float:
        """Factor of a learning rate that is `share` of its way above the last one."""
        end = self._rules.lr_end
        return 1.0 if end is None else (end + (lr - end) * share) / lr

    def _critic_loss(self, real: Tensor, fake: Tensor, z: Tensor, rng: Streams) -> Tensor:
        own, objective = self._rules, self._rules.objective
        on_real, on_fake, penalty = at_both(self._critic, real, fake, own.penalty, lambda: rng.uniform(real.shape[1]))
        loss = objective.critic_loss(objective.head(on_real, z), objective.head(on_fake, z))
        if objective.scaled:
            loss = loss / (1 + JACOBIAN * jacobian_norm(self._critic, real, rng))
        return loss + own.weight * penalty

    def _generator_loss(self, real: Tensor, fake: Tensor, z: Tensor, rng: Streams) -> Tensor:
        """The critic is frozen."""
        objective, critic = self._rules.objective, partial(self._critic, frozen=True)
        on_fake = objective.head(critic(fake), z)
        on_real = on_fake
        if objective.reals:
            with torch.no_grad():
                on_real = objective.head(critic(real), z)
        loss = objective.generator_loss(on_real, on_fake)
        if objective.scaled:
            loss = loss / (1 + JACOBIAN * jacobian_norm(critic, real, rng).detach())
        return loss

    def _reals(self, k: int, noise: Streams) -> Iterator[Tensor]:
        """Batches of the target, noisy if so chosen."""
        own, blur, shape = self._rules, noise.fork("blur"), self._problem.shape
        draw, source = self._problem[TargetSamples].draw, noise.fork("real")
        batches = _ahead(lambda n: draw(n, source), own.iterations * own.critic_steps, own.batch, math.prod(shape))
        return (y + own.blur / k * blur.normal(own.batch, *shape) for y in batches) if own.blur else batches

    def _before(self, k: int, rng: Streams) -> Callable[[Tensor], Tensor] | None:
        """z -> G_{k-1}(z'), cut from gradients; None where there is no proximal term."""
        own = self._rules
        if math.isinf(own.tau) or (k == 1 and own.prior != "initial"):
            return None
        if k == 1:
            d = own.latent - own.independent
            return lambda z: z[..., :d].unflatten(2, self._problem.shape)
        old = copy.deepcopy(self._generator)

        @torch.no_grad()
        def image(z: Tensor) -> Tensor:
            if own.independent:
                z = torch.cat([z[..., : -own.independent], self._noise(z.shape[1], own.independent, rng)], 2)
            return old(z, frozen=True)

        return image


def _ahead(draw: Callable[[int], Tensor], rounds: int, batch: int, size: int) -> Iterator[Tensor]:
    """`rounds` batches of independent draws, many drawn at once: a call costs more than its numbers do."""
    together = max(1, DRAWN // (batch * size))
    for first in range(0, rounds, together):
        yield from draw(min(together, rounds - first) * batch).split(batch, 1)


def _below(name: str, state: State) -> dict[str, Tensor | int | float]:
    return {key.removeprefix(f"{name}/"): part for key, part in state.items() if key.startswith(f"{name}/")}
