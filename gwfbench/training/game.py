"""Losses of the map and the critic of a JKO step, and the loop that trains them by autograd."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from gwfbench.info import Field, TargetSamples
from gwfbench.nn.adam import Adam
from gwfbench.nn.mlp import MLP
from gwfbench.rng import Streams
from gwfbench.training.jko_step import Functional, Transport, batches, step_loss
from gwfbench.training.minmax import Decay, alternate, cosine
from gwfbench.training.proposals import Following, Proposal


@dataclass(frozen=True)
class Game:
    """One JKO step of length a from the law that the pool stands for.

    Args:
        pool: (S, n, d), whole batches.
        raw: the network under h; None, like the energy: there is only the interaction.
        gamma: the law that the critic compares with.
        before: dF/dP at P_k, where the scheme needs it.
        kernel, partners: as `step_loss`.
        dropout, dropout_from: of the map, as `Transport.dropped`.
        following: whose law gamma and the energy's proposal are, if mu follows the map's image.
    """

    pool: Tensor
    batch: int
    a: float
    transport: Transport
    raw: MLP | None
    energy: Functional | None
    gamma: Proposal | TargetSamples
    before: Field | None = None
    kernel: Field | None = None
    partners: int = 1
    scheme: str = "backward"
    dropout: float = 0.0
    dropout_from: int = 1
    following: Following | None = None


@dataclass(frozen=True)
class Rounds:
    """How the game is played, as `alternate`; with no map steps the critic learns at the pool as it is."""

    iterations: int
    critic_steps: int
    map_steps: int
    decay: Decay = "none"
    rate: float = 1.0

    def rates(self, steps: int) -> list[float]:
        """Of the learning rates, for each of so many steps an iteration."""
        every = [
            self.rate * (cosine(j, self.iterations) if self.decay == "cosine" else 1.0) for j in range(self.iterations)
        ]
        return [rate for rate in every for _ in range(steps)]


@dataclass(frozen=True)
class Noise:
    """Streams of the order of the batches, of Gamma, and of the map's dropout."""

    shuffle: Streams
    reference: Streams
    dropout: Streams


def by_autograd(game: Game, rounds: Rounds, adams: Mapping[str, Adam], noise: Noise) -> None:
    """Play the game, whatever it is made of."""
    critic_loss = now = None
    if game.energy is not None and game.raw is not None:
        critic_loss, now = game.energy.critic_loss(game.raw), game.energy.variation(game.raw)
    push: Callable[[Tensor], Tensor] = game.transport
    if not rounds.map_steps:
        push = _still
    elif game.dropout:
        push = partial(game.transport.dropped, share=game.dropout, noise=noise.dropout, first=game.dropout_from)
    if rounds.map_steps and game.following is not None:
        push = partial(_followed, push, game.following)
    alternate(
        batches(game.pool, game.batch, noise.shuffle),
        lambda: game.gamma.draw(game.batch, noise.reference),
        push,
        critic_loss,
        step_loss(game.a, now, game.before, game.kernel, game.partners, game.scheme),
        critic=adams.get("critic"),
        map_=adams["map"],
        iterations=rounds.iterations,
        critic_steps=rounds.critic_steps,
        map_steps=rounds.map_steps,
        decay=rounds.decay,
        rate=rounds.rate,
    )


def _followed(push: Callable[[Tensor], Tensor], following: Following, x: Tensor) -> Tensor:
    y = push(x)
    following.take(y)
    return y


def _still(x: Tensor) -> Tensor:
    return x
