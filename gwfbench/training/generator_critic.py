"""A generator against a critic, with or without a proximal term: the loop of gwf, gan and sjko.

The generator's law q = G#latent; objectives (the pairs of losses) are in objectives/adversarial.py. JKO step k of
length tau is `iterations` times: `critic_steps` steps of Adam on critic loss + weight x penalty, then one on

    generator loss + E |G(z) - G_{k-1}(z')|^2 / (2 tau),

with |.| the norm of R^d (a sum over coordinates) and G_{k-1} the generator as the step before left it. A generator's
law at the start means nothing. So step 1 has no proximal term, unless `start` names a G_0: the identity on the first d
latent coordinates (where they are a point x of P_0, step 1 is proximal to P_0 itself), or independent noise, which only
shrinks points. With tau = inf there is no proximal term at all: a GAN. z' is z except for its last `independent`
coordinates, which are drawn independently (S-JKO's auxiliary latents).

With `lazy` > 1 only every lazy-th critic step has the penalty, with its weight multiplied by `lazy` (Karras et al.
2020, who also correct Adam's betas; we don't).

Where the generator's loss depends on real points (mmd, immd, smmd, chi2_tight), they are those of the critic's last
update, or new draws with `fresh`.

Adam and the critic go on from step to step. On request the judged generator has the running average of the parameters:
the average keeps the share min(ema, (1 + i)/(10 + i)) at iteration i, so that the first parameters are soon forgotten.

Batch normalisation of the judged generator takes the running averages, which an average of the parameters shares with
them. That of a generator in training takes the batch, without real points, as no critic has any batch normalisation.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from gwfbench.info import Initial, TargetSamples
from gwfbench.objectives.penalties import at_both, jacobian_norm
from gwfbench.protocol import Drawn, Marginal, Problem, State
from gwfbench.rng import Streams
from gwfbench.training.rules import Rules
from gwfbench.training.states import below, joined
from gwfbench.training.update import Side, Update

JACOBIAN = 10.0  # weight of E |grad D|^2 in a scaled objective, Arbel et al. 2018
DRAWN = 2**20  # numbers drawn ahead at once
BETWEEN = ("interpolated", "wgan")  # penalties at points between real and generated ones
CHUNK = 2**22  # numbers generated at once for a judge


def laws(rules: Rules, problem: Problem, rng: Streams, state: State | None = None) -> Iterator[Marginal]:
    """The generator's law after each JKO step, at t = its number; those after the state's, if there is one."""
    trainer = Trainer(rules, problem, rng, state)
    for k in range(1 if state is None else int(state["k"]) + 1, rules.loop.steps + 1):
        trainer.step(k)
        yield Drawn(float(k), trainer.draw, state=partial(trainer.state, k))


class Trainer:
    """Both players with their optimisers, from one JKO step to the next."""

    def __init__(self, rules: Rules, problem: Problem, rng: Streams, state: State | None = None):
        self.rules, self._problem, self._rng = rules, problem, rng
        players, optim = rules.players, rules.optim
        self.generator = players.generator(problem.shape, rng.fork("generator"))
        self.critic = players.critic(problem.shape, rng.fork("critic"))
        self._sides = {
            "critic": Side(self.critic, rules.mixture, optim.critic_lr, optim.betas),
            "generator": Side(self.generator, rules.mixture, optim.lr, optim.betas),
        }
        self.adams = {f"{name}{i}": adam for name, side in self._sides.items() for i, adam in enumerate(side.adams)}
        if state is not None:
            for name, adam in self.adams.items():
                adam.load(below(name, state))
            self.critic.load_buffers(below("buffers", state))
            self.generator.load_buffers(below("averages", state))
        self.judged = copy.deepcopy(self.generator) if optim.ema else self.generator
        self.judged.buffers = self.generator.buffers
        self._mix = rng
        nets, captured = (self.generator, self.critic), not rules.objective.scaled
        self._critic_updates = {
            penalised: Update(partial(self._critic_loss, penalised), self._sides["critic"], nets, captured)
            for penalised in (True, False)
        }
        self._generator_updates = {
            proximal: Update(self._proximal_loss, self._sides["generator"], nets, captured)
            for proximal in (True, False)
        }
        if state is not None and optim.ema:
            self.judged.parameters.flat.copy_(torch.as_tensor(state["average"]))

    def state(self, k: int) -> State:
        parts: dict[str, State] = {name: adam.state() for name, adam in self.adams.items()}
        parts["buffers"] = {name: part.clone() for name, part in self.critic.buffers.items()}
        parts["averages"] = {name: part.clone() for name, part in self.generator.buffers.items()}
        average = {"average": self.judged.parameters.flat.clone()} if self.rules.optim.ema else {}
        return {"k": k, **joined(parts), **average}

    @torch.no_grad()
    def draw(self, n: int, rng: Streams) -> Tensor:
        """n points of the judged generator's law, (S, n, ...)."""
        rows = max(1, CHUNK // math.prod((len(rng.seeds), *self._problem.shape)))
        return torch.cat([self.judged(z, frozen=True) for z in self._latent(n, rng).split(rows, 1)], 1)

    def _latent(self, n: int, rng: Streams) -> Tensor:
        players = self.rules.players
        if players.prior != "initial":
            return self._noise(n, players.latent, rng)
        x = self._problem[Initial].draw(n, rng).flatten(2)
        return torch.cat([x, self._noise(n, players.independent, rng)], 2) if players.independent else x

    def _noise(self, n: int, coordinates: int, rng: Streams) -> Tensor:
        uniform = self.rules.players.prior == "uniform"
        return 2 * rng.uniform(n, coordinates) - 1 if uniform else rng.normal(n, coordinates)

    def step(self, k: int) -> None:
        """Train both players for JKO step k, counted from 1."""
        with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=torch.backends.cudnn.allow_tf32):
            self._step(k)

    def _step(self, k: int) -> None:
        loop, optim, noise = self.rules.loop, self.rules.optim, self._rng.fork(f"step/{k}")
        before = self.before(k, noise.fork("independent"))
        self._mix = noise.fork("penalty")
        reals = self._reals(k, noise)
        latents, own = self._latents(noise)
        for i in range(loop.iterations):
            now, total = (k - 1) * loop.iterations + i, loop.steps * loop.iterations
            real = self._train_critic(reals, latents, now, optim.factor(optim.critic_lr, now, total))
            if loop.fresh:
                real = next(reals)
            z = next(own)
            held = () if before is None else (before(z),)
            self._generator_updates[bool(held)](optim.factor(optim.lr, now, total), real, z, *held)
            if optim.ema:
                kept = min(optim.ema, (1 + now) / (10 + now))
                self.judged.parameters.flat.lerp_(self.generator.parameters.flat, 1 - kept)

    def _latents(self, noise: Streams) -> tuple[Iterator[Tensor], Iterator[Tensor]]:
        """Batches of latent points for a JKO step, of the critic's updates and of the generator's."""
        loop, size = self.rules.loop, self.rules.players.latent
        draw, shared = partial(self._latent, rng=noise.fork("latent")), loop.fakes in (None, loop.batch)
        latents = ahead(draw, loop.iterations * (loop.critic_steps + shared), loop.batch, size)
        if loop.fakes is None or shared:
            return latents, latents
        return latents, ahead(partial(self._latent, rng=noise.fork("fakes")), loop.iterations, loop.fakes, size)

    def _train_critic(self, reals: Iterator[Tensor], latents: Iterator[Tensor], now: int, rate: float) -> Tensor:
        """Its steps of one iteration; gives the last batch of real points."""
        first, last = now * self.rules.loop.critic_steps, (now + 1) * self.rules.loop.critic_steps - 1
        for j in range(first, last):
            self._critic_step(next(reals), next(latents), j, rate)
        real = next(reals)
        self._critic_step(real, next(latents), last, rate)
        return real

    def _critic_step(self, real: Tensor, z: Tensor, j: int, rate: float) -> None:
        """Number j of the whole run, counted from 0."""
        penalised = j % self.rules.loop.lazy == 0
        between = penalised and self.rules.penalty in BETWEEN
        self._critic_updates[penalised](rate, real, z, *((self._mix.uniform(real.shape[1]),) if between else ()))

    def _critic_loss(self, penalised: bool, real: Tensor, z: Tensor, *between: Tensor) -> Tensor:
        """Of new fakes, by their batch; `between` are the shares of real points that the penalty's points have."""
        rules, objective = self.rules, self.rules.objective
        with torch.no_grad():
            fake = self.generator(z, frozen=True, alone=False)
        kind = rules.penalty if penalised else "none"
        on_real, on_fake, penalty = at_both(self.critic, real, fake, kind, lambda: between[0])
        loss = objective.critic_loss(objective.head(on_real, z), objective.head(on_fake, z))
        if objective.scaled:
            loss = loss / (1 + JACOBIAN * jacobian_norm(self.critic, real, self._mix))
        return loss + rules.loop.lazy * rules.weight * penalty

    def _proximal_loss(self, real: Tensor, z: Tensor, *before: Tensor) -> Tensor:
        """Of the generator; `before` are G_{k-1}'s points."""
        fake = self.generator(z)
        loss = self._generator_loss(real, fake, z)
        return (
            loss + (fake - before[0]).flatten(2).square().sum(-1).mean(1) / (2 * self.rules.loop.tau)
            if before
            else loss
        )

    def _generator_loss(self, real: Tensor, fake: Tensor, z: Tensor) -> Tensor:
        """The critic is frozen."""
        objective, critic = self.rules.objective, partial(self.critic, frozen=True)
        on_fake = objective.head(critic(fake), z)
        on_real = on_fake
        if objective.reals:
            with torch.no_grad():
                on_real = objective.head(critic(real), z)
        loss = objective.generator_loss(on_real, on_fake)
        if objective.scaled:
            loss = loss / (1 + JACOBIAN * jacobian_norm(critic, real, self._mix).detach())
        return loss

    def _reals(self, k: int, noise: Streams) -> Iterator[Tensor]:
        """Batches of the target, noisy if so chosen."""
        loop, blur, shape = self.rules.loop, noise.fork("blur"), self._problem.shape
        draw, source = self._problem[TargetSamples].draw, noise.fork("real")
        rounds = loop.iterations * (loop.critic_steps + loop.fresh)
        batches = ahead(lambda n: draw(n, source), rounds, loop.batch, math.prod(shape))
        return (y + loop.blur / k * blur.normal(loop.batch, *shape) for y in batches) if loop.blur else batches

    def before(self, k: int, rng: Streams) -> Callable[[Tensor], Tensor] | None:
        """z -> G_{k-1}(z'), cut from gradients; None where there is no proximal term."""
        players, start, shape = self.rules.players, self.rules.loop.start, self._problem.shape
        if math.isinf(self.rules.loop.tau) or (k == 1 and start == "none"):
            return None
        if k == 1 and start == "noise":
            return lambda z: rng.normal(z.shape[1], *shape)
        if k == 1:
            return lambda z: z[..., : math.prod(shape)].unflatten(2, shape)
        old = copy.deepcopy(self.generator)

        @torch.no_grad()
        def image(z: Tensor) -> Tensor:
            if players.independent:
                z = torch.cat([z[..., : -players.independent], self._noise(z.shape[1], players.independent, rng)], 2)
            return old(z, frozen=True, alone=self.rules.loop.settled)

        return image


def ahead(draw: Callable[[int], Tensor], rounds: int, batch: int, size: int) -> Iterator[Tensor]:
    """`rounds` batches of independent draws, many drawn at once: a call costs more than its numbers do."""
    together = max(1, DRAWN // (batch * size))
    for first in range(0, rounds, together):
        yield from draw(min(together, rounds - first) * batch).split(batch, 1)
