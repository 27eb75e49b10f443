"""Variational JKO (Fan et al. 2022, Algorithm 1) for the energy KL(P || Q), Q known up to a constant.

One JKO step of length a pushes P_k to T#P_k with (equation 8 and Corollary 3.3)

    min_T  1/(2a) E_{P_k} |x - T(x)|^2 + sup_h { E_{P_k}[log (h mu_k / Q)(T(x))] - E_{mu_k}[h(z)] },

mu_k the Gaussian with the mean and covariance of P_k; the best h is dP/dmu_k. T and h start where the step before left
them. P_k is a pool of particles, pushed once a step; the judged law is T_k o ... o T_1 on fresh points, never the pool.

Defaults are the paper's for Ornstein-Uhlenbeck (section F.3 and the authors' code): T residual, three linear maps
d -> 64 -> 64 -> d; h an MLP d -> 64 -> 64 -> 1 with PReLU, on the output too, then squared. Ours is the start of h
near 1: a critic whose raw output changes sign among the points can't leave that state, since log h has a pole there
(on ou, PyTorch's own start did so in one seed of three and ended at SymKL 2.5e-2 from the exact JKO law, not 1e-4).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from gwfbench.budget import Budget
from gwfbench.divergences import kl_critic_loss, kl_energy, squared
from gwfbench.errors import require
from gwfbench.info import Info, Initial, LogDensity
from gwfbench.minmax import Decay, alternate
from gwfbench.nn.adam import Adam
from gwfbench.nn.mlp import MLP, ResidualLinear, ResidualMLP
from gwfbench.protocol import Marginal, Problem, Pushed, State
from gwfbench.rng import Streams

CHUNK = 65536  # points pushed at once


@dataclass(frozen=True)
class VJKO:
    step: float = 0.05
    "JKO step a, in flow time; shortened where it must hit a judged time"
    steps: int = 40
    "how many JKO steps, where only the limit is judged"
    iterations: int = 500
    "J1, outer iterations a JKO step"
    critic_steps: int = 3
    "J2, critic steps an iteration"
    map_steps: int = 1
    "J3, map steps an iteration"
    batch: int = 1024
    "points an iteration"
    pool: int = 512_000
    "particles that stand for P_k; rounded down to whole batches"
    map: Literal["linear", "prelu"] = "linear"
    "T: residual, without activations or with PReLU"
    width: int = 64
    "neurons a hidden layer, of T and h"
    depth: int = 2
    "hidden layers, of T and h"
    lr: float = 5e-3
    "Adam's learning rate, of T and h"
    decay: Decay = "none"
    "of the learning rates inside each JKO step"
    proposal: Literal["iid", "matched"] = "iid"
    "batches of mu_k: independent draws, or moment-matched"

    needs: ClassVar[frozenset[type[Info]]] = frozenset({Initial, LogDensity})
    clock: ClassVar[Literal["jko", "flow", "none"]] = "jko"
    seeds: ClassVar[Literal["batched", "looped"]] = "batched"
    version: ClassVar[int] = 2
    smoke: ClassVar[Mapping[str, object]] = {"iterations": 20, "pool": 8192, "steps": 2}
    reference: ClassVar[str] = """@inproceedings{fan2022variational,
  title={Variational {W}asserstein gradient flow}, author={Fan, Jiaojiao and Zhang, Qinsheng and Taghvaei, Amirhossein
  and Chen, Yongxin}, booktitle={ICML}, year={2022}}"""

    def __post_init__(self) -> None:
        for name in ("step", "lr"):
            value = getattr(self, name)
            require(
                0 < value < math.inf,
                f"vjko:{name}={value}",
                "a positive number",
                f"write, for example, vjko:{name}=0.005",
            )
        for name in ("steps", "iterations", "critic_steps", "map_steps", "batch", "pool", "width", "depth"):
            value = getattr(self, name)
            require(value >= 1, f"vjko:{name}={value}", "at least 1", f"leave {name} out for the paper's value")
        require(
            self.pool >= self.batch,
            f"vjko:pool={self.pool},batch={self.batch}",
            "a pool of at least one batch",
            f"write vjko:pool={self.batch}",
        )

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:
        pair = _Pair.made(self, problem, rng)
        pool = problem[Initial].draw(self.pool // self.batch * self.batch, rng.fork("pool")).contiguous()
        yield from self._laws(problem, rng, pair, pool, 0)

    def resume(self, problem: Problem, budget: Budget, rng: Streams, state: State) -> Iterator[Marginal]:
        pair = _Pair.made(self, problem, rng)
        for name, adam in (("critic", pair.critic), ("map", pair.map_)):
            adam.load({key.removeprefix(f"{name}/"): part for key, part in state.items() if key.startswith(f"{name}/")})
        yield from self._laws(problem, rng, pair, torch.as_tensor(state["pool"]).clone(), int(state["k"]))

    def _laws(self, problem: Problem, rng: Streams, pair: _Pair, pool: Tensor, done: int) -> Iterator[Marginal]:
        """The laws after JKO step `done`; the pool is moved in place."""
        log_q, raw, transport = problem[LogDensity].log_prob, pair.raw, pair.transport
        grid = (0.0, *problem.grid(self.step, self.steps))
        for k in range(done + 1, len(grid)):
            mu, a = _Gaussian.fitted(pool), grid[k] - grid[k - 1]
            shuffle, proposal = rng.fork(f"shuffle/{k}"), rng.fork(f"proposal/{k}")
            alternate(
                _batches(pool, self.batch, shuffle),
                lambda mu=mu, proposal=proposal: mu.draw(self.batch, proposal, self.proposal == "matched"),
                transport,
                lambda y, z: _critic_loss(raw, y, z),
                lambda x, y, mu=mu, a=a: (
                    (x - y).square().sum(-1).mean(1) / (2 * a)
                    + kl_energy(squared(raw(y, frozen=True).squeeze(-1)), mu.log_prob(y), log_q(y))
                ),
                critic=pair.critic,
                map_=pair.map_,
                iterations=self.iterations,
                critic_steps=self.critic_steps,
                map_steps=self.map_steps,
                decay=self.decay,
            )
            with torch.no_grad():
                for part in pool.split(CHUNK, 1):
                    part.copy_(transport(part))
            log_det = transport.log_det if isinstance(transport, ResidualLinear) else None
            state = lambda k=k: {"k": k, "pool": pool.clone(), **pair.state()}  # noqa: E731
            yield Pushed(grid[k], lambda x, _noise: transport(x), log_det, state=state)


@dataclass(frozen=True)
class _Pair:
    """T and the network under h, each with its optimizer."""

    transport: ResidualLinear | ResidualMLP
    raw: MLP  # h = raw^2
    critic: Adam
    map_: Adam

    @staticmethod
    def made(fields: VJKO, problem: Problem, rng: Streams) -> _Pair:
        (d,) = problem.shape
        make = ResidualLinear if fields.map == "linear" else ResidualMLP
        transport = make(d, fields.width, fields.depth, rng.fork("map"))
        raw = MLP((d, *[fields.width] * fields.depth, 1), rng.fork("critic"), prelu="all")
        with torch.no_grad():
            raw.layers()[-1][1].fill_(1.0)  # start at h = 1, which is right for T = id and Gaussian P_k
        return _Pair(transport, raw, Adam(raw.parameters, fields.lr), Adam(transport.parameters, fields.lr))

    def state(self) -> dict[str, Tensor | int]:
        adams = {"critic": self.critic, "map": self.map_}
        return {f"{name}/{key}": part for name, adam in adams.items() for key, part in adam.state().items()}


def _critic_loss(raw: MLP, y: Tensor, z: Tensor) -> Tensor:
    h = squared(raw(torch.cat([y, z], 1)).squeeze(-1))  # one pass for both
    return kl_critic_loss(h[:, : y.shape[1]], h[:, y.shape[1] :])


def _batches(pool: Tensor, size: int, rng: Streams) -> Iterator[Tensor]:
    """Batches (S, size, d) without end: the pool's consecutive blocks, in a new random order at each pass.

    Blocks stay whole: independent draws need no shuffling, and moment-matched blocks keep their moments.
    """
    blocks = pool.unflatten(1, (-1, size))
    seeds = torch.arange(len(pool), device=pool.device)
    while True:
        for column in rng.uniform(blocks.shape[1]).argsort(1).unbind(1):
            yield blocks[seeds, column]


@dataclass(frozen=True)
class _Gaussian:
    """mu_k, the Gaussian with the mean and covariance of a cloud."""

    mean: Tensor  # (S, 1, d)
    root: Tensor  # (S, d, d), Cholesky factor of the covariance
    precision: Tensor

    @staticmethod
    def fitted(cloud: Tensor) -> _Gaussian:
        center = cloud.mean(1, keepdim=True, dtype=torch.float64)
        scatter = sum((x.mT @ x for part in cloud.split(CHUNK, 1) for x in [part.double() - center]), torch.zeros(()))
        root, _ = torch.linalg.cholesky_ex(scatter / cloud.shape[1])  # a diverged seed must not stop the others
        precision = torch.cholesky_inverse(root)
        return _Gaussian(*(part.to(cloud.dtype) for part in (center, root, precision)))

    def draw(self, n: int, rng: Streams, matched: bool) -> Tensor:
        d = self.mean.shape[-1]
        return torch.baddbmm(self.mean, rng.whitened(n, d, n) if matched else rng.normal(n, d), self.root.mT)

    def log_prob(self, x: Tensor) -> Tensor:
        """Up to a constant, (S, n)."""
        centered = x - self.mean
        return -0.5 * ((centered @ self.precision) * centered).sum(-1)
