"""JKO-Flow: adversarial JKO steps from samples, with a transport network in the space of the points.

    T_k = argmin_T E_{P_k} |x - T(x)|^2 / (2a) + F(T#P_k),  F(P) = sup_D {E_P[A(D)] - E_Q[B(D)]},  P_{k+1} = T_k#P_k

(Fan et al. 2022, sections 5.5 and G: 2 JS, UNet maps of images, P_0 = N(0, I) in pixel space.) |.| is the norm of R^d,
a sum over pixels. A step is Algorithm 1: J1 `iterations` of J2 critic and J3 map steps on one batch of P_k, then the
pool that stands for P_k is pushed. T and D start from where the step before left them. T(x) = x + network(x), with the
network 0 at the start. The judged law is T_k o ... o T_1 on fresh points of P_0.

    loss            critic D descends                    map descends     best D         its flow
    js              E_P sp(D) + E_Q sp(-D)               -E_P sp(D)       log Q/P        2 JS(P, Q), equation 11
    nonsaturating   the same                             E_P sp(-D)       the same       2 KL((P + Q)/2 | Q)
    hinge           E_P (1 + D)_+ + E_Q (1 - D)_+        -E_P D           sign(Q - P)    2 TV(P, Q)

sp is softplus. The paper writes js, its code uses hinge. The code has the weight 0.1 = 1/(2a) on the transport cost, a
sum over pixels, that is a = 5. For J2 and J3 the text says 1 and 5, while the code has five critic steps per map step.
The default here is the code's order, which is also the usual one of spectrally normalised GANs (Miyato et al. 2018).

From the code come Adam at 2e-4, its betas (0, 0.9) and batches of 128 (the text has Adam's default betas). From the
text come the spectrally normalised residual critic and P_0 = N(0, I). These differ from the defaults here: their code
has no spectral normalisation, PReLU, the entries of the critic's gradient clipped at 1, 256 generated points per
generator update, a map that is a UNet with tanh at the end and no residual x, P_0 uniform on [-1, 1] and FID on the
training particles; their text has six residual blocks in the critic.

What can be had of the code is network=jkoflow_unet (their UNet, 29.5 million parameters), spectral=false and
critic_steps=5. The text's order is critic_steps=1,map_steps=5.

With step=inf there is no transport cost, and one step (`steps=1`) is a GAN with generator T and latent law P_0. Where
the limit is judged, such steps have t = 1, 2, ...

For vectors the networks are perceptrons without spectral normalisation, whose slopes could not follow narrow modes.
Their learning rates are higher and decrease within a step, as in vjko.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from gwfbench.budget import Budget
from gwfbench.fields import Count, Positive, Share, StepOrInf, check_fields, refuse
from gwfbench.info import Info, Initial, TargetSamples
from gwfbench.nn import networks
from gwfbench.nn.adam import Adam
from gwfbench.nn.networks import Kind
from gwfbench.objectives.variational import JS
from gwfbench.protocol import Marginal, Problem, Pushed, State
from gwfbench.rng import Streams
from gwfbench.training.jko_step import batches
from gwfbench.training.minmax import Decay, alternate
from gwfbench.training.states import below, joined

POOL = 2**26  # numbers in the pool per seed, if its size is left out: 256 MB
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
class _Defaults:
    loss: Literal["js", "nonsaturating", "hinge"]
    step: float
    batch: int
    critic: Kind
    spectral: bool
    lr: float
    decay: Decay

    @staticmethod
    def of(problem: Problem) -> _Defaults:
        return IMAGES if len(problem.shape) > 1 else VECTORS


VECTORS = _Defaults("js", step=0.5, batch=256, critic="mlp", spectral=False, lr=1e-3, decay="cosine")
IMAGES = _Defaults("hinge", step=5.0, batch=128, critic="resnet", spectral=True, lr=2e-4, decay="none")


@dataclass(frozen=True)
class JKOFlow:
    loss: Literal["auto", "js", "nonsaturating", "hinge"] = "auto"
    "losses that stand for F; auto: hinge for images, else js"
    step: StepOrInf | None = None
    "JKO step size a, in flow time; inf: no transport cost; default: 5 for images, else 0.5"
    steps: Count = 10
    "number of JKO steps; used only when the limit alone is judged"
    iterations: Count = 500
    "number of outer iterations J1 per JKO step"
    critic_steps: Count = 5
    "number of critic updates J2 per iteration"
    map_steps: Count = 1
    "number of map updates J3 per iteration"
    batch: Count | None = None
    "number of points per update; default: 128 for images, else 256"
    pool: Count | None = None
    """number of particles that stand for P_k, rounded down to whole batches and at most iterations x batch, as many as
    a step uses; default: 65,536, fewer for large images"""
    network: Kind = "auto"
    "architecture of T: unet, jkoflow_unet or mlp; auto: by shape"
    width: Count | None = None
    "width of T's layers; default: the network's"
    depth: Count | None = None
    "number of T's layers; default: the network's"
    critic: Kind = "auto"
    "architecture of D, one that gives a number per point; auto: resnet for images, else mlp"
    critic_width: Count | None = None
    "width of D's layers; default: the network's"
    critic_depth: Count | None = None
    "number of D's layers; default: the network's"
    spectral: bool | None = None
    "spectral normalisation of D's weights; default: for images only"
    lr: Positive | None = None
    "learning rate of T; default: 2e-4 for images, else 1e-3"
    critic_lr: Positive | None = None
    "learning rate of D; default: that of T"
    beta1: Share = 0.0
    "first beta of Adam, for T and D; the second is 0.9"
    decay: Literal["auto", "none", "cosine"] = "auto"
    "schedule of both learning rates within each JKO step; auto: cosine for vectors, none for images"
    precision: Literal["run", "bf16"] = "run"
    "number format of both networks' products; run: that of the run; bf16: bfloat16, by autocast"

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
        check_fields(self)
        refuse(
            self, "pool", "batch", when=self.pool is not None and self.pool < (self.batch or 1),
            expected="a pool of at least one batch",
        )  # fmt: skip

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:
        pair = _Pair(self, problem, rng)
        size = self.pool or max(pair.batch, min(65_536, POOL // math.prod(problem.shape)))
        size = min(size, self.iterations * pair.batch)  # no step uses more
        pool = problem[Initial].draw(size // pair.batch * pair.batch, rng.fork("pool")).contiguous()
        yield from self._laws(pair, problem, pool, 0)

    def resume(self, problem: Problem, budget: Budget, rng: Streams, state: State) -> Iterator[Marginal]:
        pair = _Pair(self, problem, rng)
        pair.load(state)
        yield from self._laws(pair, problem, torch.as_tensor(state["pool"]).clone(), int(state["k"]))

    def _laws(self, pair: _Pair, problem: Problem, pool: Tensor, done: int) -> Iterator[Marginal]:
        """The laws after the first `done`; the pool is moved in place."""
        step = self.step or _Defaults.of(problem).step
        free = math.isinf(step)
        grid = (0.0, *problem.grid(1.0 if free and math.isinf(problem.times[-1]) else step, self.steps))

        def state(k: int) -> State:
            return {"k": k, "pool": pool.clone(), **pair.state()}

        def push(x: Tensor, _noise: Streams) -> Tensor:
            return pair.push(x)

        for k in range(done + 1, len(grid)):
            pair.train(pool, k, math.inf if free else grid[k] - grid[k - 1])
            pool.copy_(pair.push(pool))
            yield Pushed(grid[k], push, state=partial(state, k))


class _Pair:
    """T and D, each with its optimiser, from one JKO step to the next."""

    def __init__(self, method: JKOFlow, problem: Problem, rng: Streams):
        self._method, self._problem, self._rng = method, problem, rng
        default = _Defaults.of(problem)
        self.batch = method.batch or min(default.batch, method.pool or default.batch)
        self._loss = default.loss if method.loss == "auto" else method.loss
        self._decay: Decay = default.decay if method.decay == "auto" else method.decay
        self._map = networks.transport(method.network, problem.shape, method.width, method.depth, rng.fork("map"))
        self._critic = networks.critic(
            default.critic if method.critic == "auto" else method.critic, problem.shape, 1, method.critic_width,
            method.critic_depth, rng.fork("critic"), default.spectral if method.spectral is None else method.spectral,
        )  # fmt: skip
        if method.precision == "bf16":
            self._map, self._critic = networks.halved(self._map), networks.halved(self._critic)
        lr, betas = method.lr or default.lr, (method.beta1, 0.9)
        self._adams = {
            "map": Adam(self._map.parameters, lr, betas),
            "critic": Adam(self._critic.parameters, method.critic_lr or lr, betas),
        }

    def state(self) -> State:
        parts: dict[str, State] = {name: adam.state() for name, adam in self._adams.items()}
        parts["buffers"] = {name: part.clone() for name, part in self._critic.buffers.items()}
        return joined(parts)

    def load(self, state: State) -> None:
        for name, adam in self._adams.items():
            adam.load(below(name, state))
        self._critic.load_buffers(below("buffers", state))

    @torch.no_grad()
    def push(self, x: Tensor) -> Tensor:
        """T(x), some points at a time."""
        rows = max(1, CHUNK // (x.shape[0] * math.prod(x.shape[2:])))
        return torch.cat([self._map(part, frozen=True) for part in x.split(rows, 1)], 1)

    def train(self, pool: Tensor, k: int, a: float) -> None:
        """JKO step k, counted from 1, of length a, on the pool."""
        method, noise = self._method, self._rng.fork(f"step/{k - 1}")
        critic_value, map_value = LOSSES[self._loss]

        def critic_loss(y: Tensor, z: Tensor) -> Tensor:
            values = self._critic(torch.cat([y, z], 1)).squeeze(-1)
            return critic_value(*values.split([y.shape[1], z.shape[1]], 1))

        def map_loss(x: Tensor, y: Tensor) -> Tensor:
            value = map_value(self._critic(y, frozen=True).squeeze(-1))
            return value if math.isinf(a) else value + (x - y).flatten(2).square().sum(-1).mean(1) / (2 * a)

        reals = self._reals(method.iterations * method.critic_steps, noise)
        alternate(
            batches(pool, self.batch, noise.fork("shuffle")), lambda: next(reals), self._map, critic_loss, map_loss,
            critic=self._adams["critic"], map_=self._adams["map"], iterations=method.iterations,
            critic_steps=method.critic_steps, map_steps=method.map_steps, decay=self._decay,
        )  # fmt: skip

    def _reals(self, rounds: int, noise: Streams) -> Iterator[Tensor]:
        """`rounds` batches of the target."""
        draw, batch = self._problem[TargetSamples].draw, self.batch
        together = max(1, DRAWN // (batch * math.prod(self._problem.shape)))
        for first in range(0, rounds, together):
            count = min(together, rounds - first)
            yield from draw(count * batch, noise.fork(f"real/{first}")).split(batch, 1)
