"""JKO-Flow: adversarial JKO steps between samples, with a transport network in the points' own space.

    T_k = argmin_T E_{P_k} |x - T(x)|^2 / (2a) + F(T#P_k),  F(P) = sup_D {E_P[A(D)] - E_Q[B(D)]},  P_{k+1} = T_k#P_k

(Fan et al. 2022, sections 5.5 and G: 2 JS, UNet maps of images, P_0 = N(0, I) in pixel space.) |.| is the norm of R^d,
a sum over pixels. Algorithm 1: J1 `iterations` of J2 critic and J3 map steps on one batch of P_k, then the pool that
stands for P_k is pushed; T and D go on from where the step before left them. T(x) = x + network(x), the network 0 at
the start. The judged law is T_k o ... o T_1 on fresh points of P_0.

    loss            critic D descends                    map descends     best D         its flow
    js              E_P sp(D) + E_Q sp(-D)               -E_P sp(D)       log Q/P        2 JS(P, Q), equation 11
    nonsaturating   the same                             E_P sp(-D)       the same       2 KL((P + Q)/2 | Q)
    hinge           E_P (1 + D)_+ + E_Q (1 - D)_+        -E_P D           sign(Q - P)    2 TV(P, Q)

sp is softplus. The paper writes js, its code uses hinge: with the weight 0.1 = 1/(2a) of the transport cost, a sum over
pixels, that is a = 5. Of J2 and J3 the text says 1 and 5, its code has five critic steps a map step; the code's order
is the default here, and is also the usual one of spectrally normalised GANs (Miyato et al. 2018). The rest is theirs:
Adam at 2e-4 with betas (0, 0.9), batch 128, spectrally normalised residual critic.

With step=inf no cost is taken, and one step (`steps=1`) is a GAN with generator T and latent law P_0. For the limit,
such steps have t = 1, 2, ...

For vectors the networks are perceptrons without spectral normalisation, whose slopes cannot follow narrow modes, and
rates are higher and go down within a step, as in vjko.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from gwfbench.budget import Budget
from gwfbench.errors import require
from gwfbench.info import Info, Initial, TargetSamples
from gwfbench.nn import networks
from gwfbench.nn.adam import Adam
from gwfbench.nn.networks import Kind
from gwfbench.objectives.variational import JS
from gwfbench.protocol import Marginal, Problem, Pushed, State
from gwfbench.rng import Streams
from gwfbench.training.jko_step import batches
from gwfbench.training.minmax import Decay, alternate

POOL = 2**26  # numbers in the pool of a seed, if its size is left out: 256 MB
DRAWN = 2**20  # of the target's numbers drawn at once: a call costs more than they do
CHUNK = 2**21  # numbers pushed at once

Value = Callable[[Tensor, Tensor], Tensor]  # D at points of P and Q, (S, n) each -> (S,)


def _logistic(fake: Tensor, real: Tensor) -> Tensor:
    return JS.critic_loss(fake, real)


def _hinge(fake: Tensor, real: Tensor) -> Tensor:
    return F.relu(1 + fake).mean(1) + F.relu(1 - real).mean(1)


LOSSES: dict[str, tuple[Value, Callable[[Tensor], Tensor]]] = {
    "js": (_logistic, JS.map_loss),
    "nonsaturating": (_logistic, lambda fake: F.softplus(-fake).mean(1)),
    "hinge": (_hinge, lambda fake: -fake.mean(1)),
}


@dataclass(frozen=True)
class JKOFlow:
    loss: Literal["auto", "js", "nonsaturating", "hinge"] = "auto"
    "what stands for F; auto: hinge for images, else js"
    step: float | None = None
    "JKO step a, in flow time; inf: no transport cost; none: 5 for images, else 0.5"
    steps: int = 10
    "how many JKO steps, where only the limit is judged"
    iterations: int = 500
    "J1, a JKO step"
    critic_steps: int = 5
    "J2, critic steps an iteration"
    map_steps: int = 1
    "J3, map steps an iteration"
    batch: int | None = None
    "points of an Adam step; none: 128 for images, else 256"
    pool: int | None = None
    "particles that stand for P_k, rounded down to whole batches; none: 65,536, fewer of large images"
    network: Kind = "auto"
    "T: unet or mlp; auto: by shape"
    width: int | None = None
    "of T; none: the network's"
    depth: int | None = None
    "of T; none: the network's"
    critic: Kind = "auto"
    "D: resnet, dcgan or mlp; auto: resnet for images, else mlp"
    critic_width: int | None = None
    "of D; none: the network's"
    critic_depth: int | None = None
    "of D; none: the network's"
    spectral: bool | None = None
    "normalise D's weights; none: for images"
    lr: float | None = None
    "of T's Adam; none: 2e-4 for images, else 1e-3"
    critic_lr: float | None = None
    "of D's; none: lr"
    beta1: float = 0.0
    "Adam's, of both; the second is 0.9"
    decay: Literal["auto", "none", "cosine"] = "auto"
    "of both rates within each JKO step; auto: cosine for vectors, none for images"

    needs: ClassVar[frozenset[type[Info]]] = frozenset({Initial, TargetSamples})
    clock: ClassVar[Literal["jko", "flow", "none"]] = "jko"
    seeds: ClassVar[Literal["batched", "looped"]] = "batched"
    shapes: ClassVar[Literal["vectors", "any"]] = "any"
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {
        "steps": 2, "iterations": 3, "critic_steps": 1, "batch": 32, "pool": 128, "width": 4, "critic_width": 4,
    }  # fmt: skip
    reference: ClassVar[str] = """@inproceedings{fan2022variational,
  title={Variational {W}asserstein gradient flow}, author={Fan, Jiaojiao and Zhang, Qinsheng and Taghvaei, Amirhossein
  and Chen, Yongxin}, booktitle={ICML}, year={2022}}"""

    def __post_init__(self) -> None:
        for names, ok, expected, example in (
            (("step",), lambda v: v > 0, "a positive number, or inf", 0.5),
            (("lr", "critic_lr"), lambda v: 0 < v < math.inf, "a positive number", 2e-4),
            (("beta1",), lambda v: 0 <= v < 1, "at least 0 and below 1", 0.5),
            (("steps", "iterations", "critic_steps", "map_steps", "batch", "pool", "width", "depth", "critic_width",
              "critic_depth"), lambda v: v >= 1, "at least 1", 8),
        ):  # fmt: skip
            for name in names:
                value = getattr(self, name)
                require(
                    value is None or ok(value), f"jko_flow:{name}={value}", expected, f"write jko_flow:{name}={example}"
                )
        require(
            self.pool is None or self.batch is None or self.pool >= self.batch,
            f"jko_flow:pool={self.pool},batch={self.batch}",
            "a pool of at least one batch",
            f"write jko_flow:pool={self.batch}",
        )

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:
        batch, d = self._batch(problem), math.prod(problem.shape)
        size = self.pool or max(batch, min(65_536, POOL // d))
        pool = problem[Initial].draw(size // batch * batch, rng.fork("pool")).contiguous()
        yield from self._laws(_Pair(self, problem, rng), problem, pool, 0)

    def resume(self, problem: Problem, budget: Budget, rng: Streams, state: State) -> Iterator[Marginal]:
        pair = _Pair(self, problem, rng)
        pair.load(state)
        yield from self._laws(pair, problem, torch.as_tensor(state["pool"]).clone(), int(state["k"]))

    def _laws(self, pair: _Pair, problem: Problem, pool: Tensor, done: int) -> Iterator[Marginal]:
        """The laws after the first `done`; the pool is moved in place."""
        step = self.step or (5.0 if len(problem.shape) > 1 else 0.5)
        free = math.isinf(step)
        grid = problem.grid(1.0 if free and math.isinf(problem.times[-1]) else step, self.steps)
        for k in range(done, len(grid)):
            pair.train(pool, k, math.inf if free else grid[k] - (grid[k - 1] if k else 0.0))
            pool.copy_(pair.push(pool))
            kept = lambda k=k: {"k": k + 1, "pool": pool.clone(), **pair.state()}  # noqa: E731
            yield Pushed(grid[k], lambda x, _noise: pair.push(x), state=kept)

    def _batch(self, problem: Problem) -> int:
        return self.batch or (128 if len(problem.shape) > 1 else min(256, self.pool or 256))


class _Pair:
    """T and D, each with its optimiser, from one JKO step to the next."""

    def __init__(self, fields: JKOFlow, problem: Problem, rng: Streams):
        own, shape, images = fields, problem.shape, len(problem.shape) > 1
        self._fields, self._problem, self._rng, self._batch = own, problem, rng, own._batch(problem)
        self._loss = own.loss if own.loss != "auto" else "hinge" if images else "js"
        self._decay: Decay = own.decay if own.decay != "auto" else "none" if images else "cosine"
        self._map = networks.transport(own.network, shape, own.width, own.depth, rng.fork("map"))
        self._critic = networks.critic(
            "resnet" if images and own.critic == "auto" else own.critic, shape, 1, own.critic_width, own.critic_depth,
            rng.fork("critic"), images if own.spectral is None else own.spectral,
        )  # fmt: skip
        lr, betas = own.lr or (2e-4 if images else 1e-3), (own.beta1, 0.9)
        self._adams = {
            "map": Adam(self._map.parameters, lr, betas),
            "critic": Adam(self._critic.parameters, own.critic_lr or lr, betas),
        }

    def state(self) -> dict[str, Tensor | int]:
        kept = {f"{name}/{key}": part for name, adam in self._adams.items() for key, part in adam.state().items()}
        return kept | {f"buffers/{name}": part.clone() for name, part in self._critic.buffers.items()}

    def load(self, state: State) -> None:
        for name, adam in self._adams.items():
            adam.load(_below(name, state))
        self._critic.load_buffers(_below("buffers", state))

    @torch.no_grad()
    def push(self, x: Tensor) -> Tensor:
        """T(x), some points at a time."""
        rows = max(1, CHUNK // (x.shape[0] * math.prod(x.shape[2:])))
        return torch.cat([self._map(part, frozen=True) for part in x.split(rows, 1)], 1)

    def train(self, pool: Tensor, k: int, a: float) -> None:
        """JKO step number k, counted from 0, of length a, on the pool."""
        own, noise = self._fields, self._rng.fork(f"step/{k}")
        critic_value, map_value = LOSSES[self._loss]

        def critic_loss(y: Tensor, z: Tensor) -> Tensor:
            values = self._critic(torch.cat([y, z], 1)).squeeze(-1)
            return critic_value(*values.split([y.shape[1], z.shape[1]], 1))

        def map_loss(x: Tensor, y: Tensor) -> Tensor:
            value = map_value(self._critic(y, frozen=True).squeeze(-1))
            return value if math.isinf(a) else value + (x - y).flatten(2).square().sum(-1).mean(1) / (2 * a)

        reals = self._reals(own.iterations * own.critic_steps, noise)
        alternate(
            batches(pool, self._batch, noise.fork("shuffle")), lambda: next(reals), self._map, critic_loss, map_loss,
            critic=self._adams["critic"], map_=self._adams["map"], iterations=own.iterations,
            critic_steps=own.critic_steps, map_steps=own.map_steps, decay=self._decay,
        )  # fmt: skip

    def _reals(self, rounds: int, noise: Streams) -> Iterator[Tensor]:
        """`rounds` batches of the target."""
        draw, batch = self._problem[TargetSamples].draw, self._batch
        together = max(1, DRAWN // (batch * math.prod(self._problem.shape)))
        for first in range(0, rounds, together):
            count = min(together, rounds - first)
            yield from draw(count * batch, noise.fork(f"real/{first}")).split(batch, 1)


def _below(name: str, state: State) -> dict[str, Tensor | int | float]:
    return {key.removeprefix(f"{name}/"): part for key, part in state.items() if key.startswith(f"{name}/")}
