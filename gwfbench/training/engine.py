"""The loop of a JKO step with its gradients written out, on buffers that are made once: what vjko trains with.

It plays the games (game.py) of one critic and one map that have no more than an energy of objectives/variational.py and
the transport cost; `by_autograd` plays all others. Both give the same numbers to rounding, from the same random ones.

An iteration is made of pieces that read and write buffers alone (replay.py): the batch, its image and the critic's
steps; the map's step. What changes from one JKO step to the next is copied into its buffer, what changes from one
iteration to the next is a row of a table, and the row's number a counter on the device. Between the pieces are the
oracle of the target, which counts its calls, and, every few iterations, the random numbers of the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from gwfbench.nn.adam import Adam
from gwfbench.nn.icnn import DenseICNN
from gwfbench.nn.icnn_by_hand import ByHand
from gwfbench.nn.mlp import MLP, ResidualMLP
from gwfbench.nn.mlp_by_hand import Keep, Perceptron, ResidualLinearByHand, ResidualMLPByHand, inner
from gwfbench.rng import Streams
from gwfbench.training.game import Game, Noise, Rounds, by_autograd
from gwfbench.training.jko_step import Frame, Functional, Network
from gwfbench.training.proposals import copied, draws, tensors
from gwfbench.training.replay import Replayed

AHEAD = 25  # iterations whose random numbers are drawn at once
IN_CACHE = 2**16  # of these numbers at once on a CPU
IN_MEMORY = 2**28  # and on a GPU


class Trainer:
    """Trains a map and a critic, from one JKO step to the next, by hand where it can.

    Args:
        adams: of the "map", and of the "critic" if there is one.
    """

    def __init__(self, adams: Mapping[str, Adam]):
        self._adams = adams
        self._engine: Engine | None = None

    def train(self, game: Game, rounds: Rounds, noise: Noise) -> None:
        """Play the game for so many rounds; the networks and their optimisers change."""
        if not written_out(game):
            by_autograd(game, rounds, self._adams, noise)
            return
        if self._engine is None or self._engine.pool is not game.pool:
            self._engine = Engine(game, self._adams)
        with torch.no_grad():
            self._engine.train(game, rounds, noise)


def written_out(game: Game) -> bool:
    """Whether the gradients of the game are written out here."""
    energy = game.energy
    known = energy is not None and energy.bound.rate_slope is not None and energy.bound.reference_slope is not None
    return known and game.before is None and game.kernel is None


class HandMap(Protocol):
    """A map trained by hand: nn/mlp_by_hand.py says what its methods do."""

    def image(self, x: Tensor) -> Tensor: ...
    def gradient(self, slope: Tensor) -> Tensor: ...


def by_hand(net: Network, points: int, keep: Keep) -> HandMap:
    """The network with its gradient written out, at that many points."""
    if isinstance(net, DenseICNN):
        return ByHand(net, points)
    return ResidualMLPByHand(net, points, keep) if isinstance(net, ResidualMLP) else ResidualLinearByHand(net, points)


class HandCritic:
    """The critic's gradients at n points of P and n of Gamma; of its coordinates, (S, 2 n, d), P's come first."""

    def __init__(self, energy: Functional, net: MLP, n: int):
        bound = energy.bound
        assert bound.rate_slope is not None and bound.reference_slope is not None  # noqa: PT018 - one question
        self._rate_slope, self._reference_slope, self._scale = bound.rate_slope, bound.reference_slope, bound.scale
        self._head, self._white, self._radial, self._n = energy.head, energy.white, energy.radial, n
        self._mean, self._axes = energy.proposal.mean.clone(), energy.proposal.axes.clone()
        self._net = Perceptron(net, 2 * n)
        self._near = Perceptron(net, n, like=self._net)
        self.seen = self._net.whole["x", 0]
        self._slope = torch.zeros_like(self.seen[..., :1])

    def move(self, energy: Functional) -> None:
        """Take the numbers of the next JKO step."""
        self._mean.copy_(energy.proposal.mean)
        self._axes.copy_(energy.proposal.axes)
        if isinstance(self._scale, Tensor):
            self._scale.copy_(torch.as_tensor(energy.bound.scale))

    def inputs(self, y: Tensor) -> Tensor:
        """What the network sees of points (S, n, d)."""
        u = (y - self._mean) @ self._axes if self._white else y
        return torch.cat([u, u.square().mean(-1, keepdim=True)], -1) if self._radial else u

    def place(self, y: Tensor) -> None:
        """Take these points of P, (S, n, d)."""
        self.seen[:, : self._n].copy_(self.inputs(y))

    def gradient(self) -> Tensor:
        """Of the critic's loss in the parameters, flat."""
        n, slope = self._n, inner(self._slope)
        h, dh = self._head.both(self._net.values().view(self._slope.shape[:2]))
        if isinstance(self._scale, Tensor):
            dh.div_(self._scale.to(dh.dtype)[:, None])
        part = self._slope[..., 0]
        torch.mul(self._rate_slope(h[:, :n]), dh[:, :n], out=part[:, :n]).div_(-n)
        torch.mul(dh[:, n:], self._reference_slope(h[:, n:]), out=part[:, n:])  # type: ignore[arg-type]
        return self._net.gradient(slope)

    def slope(self) -> Tensor:
        """Of the mean of A_h in each point of P, (S, n, d)."""
        n = self._n
        h, dh = self._head.both(self._near.values()[..., 0].view(len(self.seen), n))
        found = self._near.slope(inner(self._rate_slope(h).mul_(dh).div_(n)[..., None]))
        found = found.view(len(self.seen), n, -1)
        if self._radial:
            d = found.shape[-1] - 1
            found = found[..., :d].addcmul(self.seen[:, :n, :d], found[..., d:], value=2 / d)
        return found @ self._axes.mT if self._white else found


class Engine:
    """The buffers of one run and the pieces of an iteration.

    Args:
        game: of the first JKO step: later ones have the same networks, shapes and pool.
    """

    def __init__(self, game: Game, adams: Mapping[str, Adam]):
        energy, pool, n = game.energy, game.pool, game.batch
        assert energy is not None and game.raw is not None  # noqa: PT018 - one question
        self.pool, self._n, self._adams = pool, n, adams
        seeds, _, d = pool.shape
        self._blocks = pool.view(-1, n, d)  # those of the first seed come first
        self._critic = HandCritic(energy, game.raw, n)
        self._law = None if energy.target is None else copied(energy.proposal)
        frame = game.transport.frame
        self._frame = None if frame is None else Frame(frame.center.clone(), frame.size.clone())
        self._x, self._y, self._u, self._slope, self._score = (pool.new_zeros(seeds, n, d) for _ in range(5))
        self._pull = pool.new_zeros(())  # 1 / (a n)
        self._at = {  # the next row of each table
            name: torch.zeros(1, dtype=torch.int64, device=pool.device)
            for name in ("order", "reference", "dropout", "critic", "map")
        }
        self._tables: dict[str, Tensor] = {}
        self._kept, keep = _factors(game, pool)
        self._map = by_hand(game.transport.net, n, keep)
        self._pieces = self._made()

    def train(self, game: Game, rounds: Rounds, noise: Noise) -> None:
        """Play the game."""
        self._move(game, rounds, noise.shuffle)
        numbers = self._x.numel() * rounds.critic_steps
        if self._kept is not None:
            numbers += self._kept.numel() * rounds.map_steps
        room = IN_CACHE if self.pool.device.type == "cpu" else IN_MEMORY
        ahead = max(1, min(AHEAD, room // numbers))
        for first in range(0, rounds.iterations, ahead):
            count = min(ahead, rounds.iterations - first)
            self._draw(game, rounds, noise, count)
            for _ in range(count):
                self._iterate(game, rounds)
        for name, steps in (("critic", rounds.critic_steps), ("map", rounds.map_steps)):
            self._adams[name].took(rounds.iterations * steps)

    def _iterate(self, game: Game, rounds: Rounds) -> None:
        """`alternate`'s iteration."""
        self._pieces["batch" if rounds.map_steps else "still"]()
        if rounds.map_steps:
            self._follow(game)
        for _ in range(rounds.critic_steps):
            self._pieces["critic"]()
        for i in range(rounds.map_steps):
            if i:
                self._pieces["image"]()
                self._follow(game)
            if game.energy is not None and game.energy.target is not None:
                self._score.copy_(game.energy.target.score(self._y))
            self._pieces["map"]()

    def _made(self) -> dict[str, Replayed]:
        bodies = {
            "batch": self._take_batch, "still": self._take_still, "image": self._take_image,
            "critic": self._critic_step, "map": self._map_step,
        }  # fmt: skip
        return {name: Replayed(body, self.pool.device) for name, body in bodies.items()}

    # ------------------------------------------------------------------------------------- what comes from outside

    def _move(self, game: Game, rounds: Rounds, shuffle: Streams) -> None:
        """Copy in the numbers of this JKO step."""
        frame = game.transport.frame
        self._move_law(game)
        if self._frame is not None and frame is not None:
            self._frame.center.copy_(frame.center)
            self._frame.size.copy_(frame.size)
        self._pull.fill_(1 / (game.a * self._n))
        for name, steps in (("critic", rounds.critic_steps), ("map", rounds.map_steps)):
            rows = self._adams[name].schedule(rounds.rates(steps))
            self._put(name, rows.to(self.pool)[None])
        self._put("order", order(self.pool.shape[1] // self._n, rounds.iterations, shuffle))

    def _move_law(self, game: Game) -> None:
        assert game.energy is not None
        self._critic.move(game.energy)
        if self._law is not None:
            for mine, theirs in zip(tensors(self._law), tensors(game.energy.proposal), strict=True):
                mine.copy_(theirs)

    def _follow(self, game: Game) -> None:
        """Let mu follow the image that was just made."""
        if game.following is not None:
            game.following.take(self._y)
            self._move_law(game)
            self._critic.place(self._y)

    def _draw(self, game: Game, rounds: Rounds, noise: Noise, iterations: int) -> None:
        """The random numbers of the next iterations."""
        z = draws(game.gamma, iterations * rounds.critic_steps, self._n, noise.reference)
        self._put("reference", self._critic.inputs(z.flatten(1, 2)).unflatten(1, z.shape[1:3]))
        if self._kept is not None and rounds.map_steps:
            kept = noise.dropout.uniform(iterations * rounds.map_steps, *self._kept.shape[2:])
            self._put("dropout", kept.ge_(game.dropout).div_(1 - game.dropout))

    def _put(self, name: str, rows: Tensor) -> None:
        """Rows (S, many, ...) of a table, to be read from the first on. A longer table than before is a new buffer."""
        self._at[name].zero_()
        table = self._tables.get(name)
        if table is None or table.shape[1] < rows.shape[1]:
            self._tables[name], self._pieces = rows.clone(), self._made()
        else:
            table[:, : rows.shape[1]].copy_(rows)

    # ------------------------------------------------------------------------------------- pieces: buffers alone

    def _next(self, name: str) -> Tensor:
        """The next row of a table, (S, ...)."""
        row = self._tables[name].index_select(1, self._at[name]).squeeze(1)
        self._at[name] += 1
        return row

    def _take_still(self) -> None:
        torch.index_select(self._blocks, 0, self._next("order"), out=self._x)
        self._critic.place(self._x)

    def _take_batch(self) -> None:
        torch.index_select(self._blocks, 0, self._next("order"), out=self._x)
        if self._frame is not None:
            torch.sub(self._x, self._frame.center, out=self._u).div_(self._frame.size)
        self._take_image()

    def _take_image(self) -> None:
        if self._kept is not None:
            torch.index_select(self._tables["dropout"], 1, self._at["dropout"], out=self._kept)
            self._at["dropout"] += 1
        if self._frame is None:
            self._y.copy_(self._map.image(self._x))
        else:
            torch.addcmul(self._frame.center, self._map.image(self._u), self._frame.size, out=self._y)
        self._critic.place(self._y)

    def _critic_step(self) -> None:
        self._critic.seen[:, self._n :].copy_(self._next("reference"))
        self._adams["critic"].follow(self._critic.gradient(), self._next("critic")[0])

    def _map_step(self) -> None:
        torch.sub(self._y, self._x, out=self._slope).mul_(self._pull)
        self._slope.add_(self._critic.slope())
        if self._law is not None:
            self._slope.add_(self._law.score(self._y), alpha=1 / self._n).sub_(self._score, alpha=1 / self._n)
        if self._frame is not None:
            self._slope.mul_(self._frame.size)
        self._adams["map"].follow(self._map.gradient(self._slope), self._next("map")[0])


def order(blocks: int, iterations: int, rng: Streams) -> Tensor:
    """The block, of those of all seeds in one list, that each iteration takes: (S, iterations), as `batches` does."""
    passes = [rng.uniform(blocks).argsort(1) for _ in range(-(-iterations // blocks))]
    seeds = torch.arange(len(rng.seeds), device=rng.device)[:, None]
    return torch.cat(passes, 1)[:, :iterations] + blocks * seeds


def _factors(game: Game, pool: Tensor) -> tuple[Tensor | None, Keep]:
    """A buffer (S, 1, layers, n, width) of the dropout factors of the map's hidden layers, and each layer's part."""
    net = game.transport.net
    if not game.dropout or not isinstance(net, ResidualMLP):
        return None, None
    (*hidden, _), before = net.mlp.layers(), game.dropout_from - 1
    width = hidden[0][1].shape[-1]
    kept = pool.new_zeros(len(pool), 1, len(hidden[before:]), game.batch, width)
    return kept, [*[None] * before, *kept[:, 0].unbind(1)]
