"""JKO-ICNN (Mokrov et al. 2021; Alvarez-Melis et al. 2021): each JKO step is the gradient of a convex network.

One step of length a pushes P_k to T#P_k, T = grad psi with psi a strongly convex DenseICNN, by descent on

    1/(2a) E |x - T(x)|^2 + F(T#P_k),   x ~ P_k,

where the density of T#P_k at T(x) is p_k(x) / det H(x), H the Hessian of psi, so that F has estimates from samples.
All that the task offers are summed:

    LogDensity          KL(T#P || Q):                -E log det H(x) - E log Q(T(x)), up to a constant
    InternalEnergy      w/(m-1) int (T#P)^m:         w/(m-1) E (p_k(x) / det H(x))^{m-1}
    InteractionEnergy   1/2 E W(T(x) - T(x')):       over pairs of the batch

`exact` builds H in closed form, O(w d^2) a point and layer, and its Cholesky factor, O(d^3) (JKO-ICNN-d of Fan et al.
2022). `cg` has only the gradient of log det H, by Hutchinson's estimator with conjugate gradients (Huang et al. 2020;
JKO-ICNN-a):

    d log det H = tr(H^-1 dH) = E_v[(H^-1 v)^T dH v],   v of independent signs,

O(w d) a point and conjugate gradient step. An internal energy weighs that gradient with det H itself, which is exact in
both. P_k is a pool of particles, pushed once a step, with p_k where F has an internal energy; the judged law is
T_k o ... o T_1 on fresh points, never the pool.

T starts near the identity, and each step where the one before left it. Mokrov et al. pretrain it to the identity by
4000 steps; here 1000 changed the distance of the first step from the exact one by at most 3 % (a Gaussian in dimension
3, 100 and 400 iterations), so that the default is none. The learning rate falls to zero in each step: at a constant
one, symkl_jko on ou ended at 7e-4 (step 10), not 2e-5.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from gwfbench.budget import Budget
from gwfbench.errors import UserError, require
from gwfbench.info import Field, Info, Initial, InteractionEnergy, InternalEnergy, LogDensity
from gwfbench.nn.adam import Adam
from gwfbench.nn.conjugate import conjugate_gradients
from gwfbench.nn.icnn import DenseICNN
from gwfbench.protocol import Marginal, Problem, Pushed, State
from gwfbench.rng import Streams

BLOCK = 2048  # points pushed at once


@dataclass(frozen=True)
class JKOICNN:
    step: float = 0.05
    "JKO step a, in flow time; shortened where it must hit a judged time"
    steps: int = 40
    "how many JKO steps, where only the limit is judged"
    iterations: int = 500
    "Adam steps a JKO step"
    batch: int = 512
    "points an iteration"
    pool: int = 256_000
    "particles that stand for P_k; rounded down to whole batches"
    width: int = 64
    "units a layer of the convex network"
    depth: int = 2
    "its layers"
    rank: int = 1
    "of the quadratic form of each unit"
    strong: float = 0.1
    "c, the strong convexity of psi"
    smooth: Literal["celu", "softplus"] = "celu"
    "activation: celu as in the papers, or softplus, whose second derivative is continuous"
    lr: float = 5e-3
    "Adam's learning rate"
    decay: Literal["none", "cosine"] = "cosine"
    "of the learning rate inside each JKO step"
    logdet: Literal["exact", "cg"] = "exact"
    "gradient of log det H: exact, or estimated with conjugate gradients"
    cg_steps: int = 10
    "cg: most conjugate gradient steps"
    probes: int = 1
    "cg: vectors v a point"
    partners: int = 32
    "interaction energy: pairs a point of the batch"
    pretrain: int = 0
    "Adam steps on |T(x) - x|^2 before the first JKO step"

    needs: ClassVar[frozenset[type[Info]]] = frozenset({Initial})
    one_of: ClassVar[frozenset[type[Info]]] = frozenset({LogDensity, InternalEnergy, InteractionEnergy})
    clock: ClassVar[Literal["jko", "flow", "none"]] = "jko"
    seeds: ClassVar[Literal["batched", "looped"]] = "batched"
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {
        "iterations": 10,
        "batch": 128,
        "pool": 1024,
        "width": 16,
        "steps": 2,
        "step": 2.0,
    }
    reference: ClassVar[str] = """@inproceedings{mokrov2021large,
  title={Large-Scale {W}asserstein Gradient Flows}, author={Mokrov, Petr and Korotin, Alexander and Li, Lingxiao and
  Genevay, Aude and Solomon, Justin and Burnaev, Evgeny}, booktitle={NeurIPS}, year={2021}}
@article{alvarezmelis2021optimizing,
  title={Optimizing Functionals on the Space of Probabilities with Input Convex Neural Networks},
  author={Alvarez-Melis, David and Schiff, Yair and Mroueh, Youssef}, journal={arXiv:2106.00774}, year={2021}}
@inproceedings{huang2021convex,
  title={Convex Potential Flows: Universal Probability Distributions with Optimal Transport and Convex Optimization},
  author={Huang, Chin-Wei and Chen, Ricky T. Q. and Tsirigotis, Christos and Courville, Aaron}, booktitle={ICLR},
  year={2021}}"""

    def __post_init__(self) -> None:
        counts = ("steps", "iterations", "batch", "pool", "width", "depth", "rank", "cg_steps", "probes", "partners")
        for name in ("step", "lr", *counts):
            value = getattr(self, name)
            require(
                0 < value < math.inf,
                f"jko_icnn:{name}={value}",
                "a positive number",
                f"leave {name} out for its default",
            )
        require(
            0 < self.strong < 1, f"jko_icnn:strong={self.strong}", "a number in (0, 1)", "write jko_icnn:strong=0.1"
        )
        require(
            self.pretrain >= 0, f"jko_icnn:pretrain={self.pretrain}", "0 or more", "write jko_icnn:pretrain=0 for none"
        )
        require(
            self.pool >= self.batch,
            f"jko_icnn:pool={self.pool},batch={self.batch}",
            "a pool of at least one batch",
            f"write jko_icnn:pool={self.batch}",
        )
        require(
            self.partners < self.batch,
            f"jko_icnn:partners={self.partners},batch={self.batch}",
            "fewer partners than points in a batch",
            "write a larger batch or fewer partners",
        )

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:
        energy, net, adam = self._made(problem, rng)
        start = problem[Initial]
        pool = start.draw(self.pool // self.batch * self.batch, rng.fork("pool")).contiguous()
        log_p = start.log_prob(pool) if energy.density and start.log_prob else None
        if self.pretrain:
            _to_identity(net, _batches(pool, None, self.batch, rng.fork("pretrain")), self.pretrain, self.lr)
        yield from self._laws(problem, rng, energy, net, adam, pool, log_p, 0)

    def resume(self, problem: Problem, budget: Budget, rng: Streams, state: State) -> Iterator[Marginal]:
        energy, net, adam = self._made(problem, rng)
        adam.load({key.removeprefix("map/"): part for key, part in state.items() if key.startswith("map/")})
        pool, log_p = (torch.as_tensor(state[key]).clone() if key in state else None for key in ("pool", "log_p"))
        assert pool is not None
        yield from self._laws(problem, rng, energy, net, adam, pool, log_p, int(state["k"]))

    def _made(self, problem: Problem, rng: Streams) -> tuple[_Energy, DenseICNN, Adam]:
        require(
            len(problem.shape) == 1,
            f"jko_icnn on points of shape {problem.shape}",
            "vectors",
            "take a task of points in R^d",
        )
        energy, smooth = _Energy.of(problem, self.partners), self.smooth == "softplus"
        net = DenseICNN(problem.shape[0], self.width, self.depth, rng.fork("map"), self.rank, self.strong, smooth)
        return energy, net, Adam(net.parameters, self.lr)

    def _laws(
        self, problem: Problem, rng: Streams, energy: _Energy, net: DenseICNN, adam: Adam, pool: Tensor,
        log_p: Tensor | None, done: int,
    ) -> Iterator[Marginal]:  # fmt: skip
        """The laws after JKO step `done`; the pool and its log-densities are moved in place."""
        grid = (0.0, *problem.grid(self.step, self.steps))
        for k in range(done + 1, len(grid)):
            a, probes = grid[k] - grid[k - 1], rng.fork(f"probes/{k}")
            batches = _batches(pool, log_p, self.batch, rng.fork(f"shuffle/{k}"))
            for j, (x, part) in zip(range(self.iterations), batches, strict=False):
                adam.descend(self._loss(net, energy, x, part, a, probes), _rate(self.decay, j, self.iterations))
            law = net.copy()  # the runner may pull points back when training has gone on
            push, volume = (
                _blockwise(lambda x, law=law: law(x, True)),
                _blockwise(lambda x, law=law: law.log_det(x, True)),
            )
            if log_p is not None:
                log_p -= volume(pool)
            pool.copy_(push(pool))

            def state(k: int = k, log_p: Tensor | None = log_p) -> State:
                density = {} if log_p is None else {"log_p": log_p.clone()}
                return {"k": k, "pool": pool.clone(), **density, **_prefixed(adam.state())}

            yield Pushed(grid[k], lambda x, _noise, push=push: push(x), volume, _blockwise(law.inverse), state)

    def _loss(self, net: DenseICNN, energy: _Energy, x: Tensor, log_p: Tensor | None, a: float, rng: Streams) -> Tensor:
        """The step's objective, summed over seeds, up to a constant; with `cg` only its gradient is right."""
        if not energy.volume:
            y, log_volume = net(x), None
        elif self.logdet == "exact":
            y, log_volume = net.with_log_det(x)
        else:
            y, slope = _hutchinson(net, x, self.probes, self.cg_steps, rng)
            value = net.log_det(x, True) if energy.density else 0.0
            log_volume = slope - slope.detach() + value
        return ((x - y).square().sum(-1).mean(1) / (2 * a) + energy.value(y, log_p, log_volume)).sum()


@dataclass(frozen=True)
class _Energy:
    """F, the sum of the energies that the task offers."""

    log_q: Callable[[Tensor], Tensor] | None
    internal: InternalEnergy | None
    interaction: InteractionEnergy | None
    partners: int

    @staticmethod
    def of(problem: Problem, partners: int) -> _Energy:
        offered = {type(info) for info in problem.infos}
        log_q = problem[LogDensity].log_prob if LogDensity in offered else None
        internal = problem[InternalEnergy] if InternalEnergy in offered else None
        interaction = problem[InteractionEnergy] if InteractionEnergy in offered else None
        if log_q is None and internal is None and interaction is None:
            raise UserError(
                f"jko_icnn on a task that offers {', '.join(sorted(info.__name__ for info in offered))}",
                "one of LogDensity, InternalEnergy, InteractionEnergy",
                "take a method that learns from samples; see: python -m gwfbench list",
            )
        if internal is not None and problem[Initial].log_prob is None:
            raise UserError(
                "jko_icnn with an internal energy on a task whose P_0 has no density",
                "a log_prob in Initial, as the density is carried along",
                "give the task's Initial a log_prob",
            )
        return _Energy(log_q, internal, interaction, partners)

    @property
    def volume(self) -> bool:
        """Whether log det H is asked for."""
        return self.log_q is not None or self.internal is not None

    @property
    def density(self) -> bool:
        """Whether p_k and the value of log det H are asked for."""
        return self.internal is not None

    def value(self, y: Tensor, log_p: Tensor | None, log_volume: Tensor | None) -> Tensor:
        """F of the law of y = T(x), (S,).

        Args:
            y: (S, n, d).
            log_p, log_volume: log p_k(x) and log det H(x), (S, n), where they are asked for.
        """
        total = y.new_zeros(len(y))
        if self.log_q is not None:
            assert log_volume is not None
            total = total - (log_volume + self.log_q(y)).mean(1)
        if self.internal is not None:
            assert log_p is not None
            assert log_volume is not None
            power = self.internal.m - 1
            total = total + self.internal.weight / power * (power * (log_p - log_volume)).exp().mean(1)
        if self.interaction is not None:
            total = total + 0.5 * _pairs(self.interaction.kernel, y, self.partners)
        return total


def _to_identity(net: DenseICNN, batches: Iterator[tuple[Tensor, Tensor | None]], steps: int, lr: float) -> None:
    """Train |T(x) - x|^2, by an optimizer of its own, whose rate falls to zero."""
    adam = Adam(net.parameters, lr)
    for j, (x, _) in zip(range(steps), batches, strict=False):
        adam.descend((net(x) - x).square().sum(-1).mean(1).sum(), _rate("cosine", j, steps))


def _pairs(kernel: Callable[[Tensor], Tensor], y: Tensor, partners: int) -> Tensor:
    """Mean of W(y_i - y_j) over j = i + 1 ... i + partners, cyclically: unbiased, (S,)."""
    ring = torch.cat([y, y[:, :partners]], 1)
    gaps = [y - ring[:, shift : shift + y.shape[1]] for shift in range(1, partners + 1)]
    return kernel(torch.cat(gaps, 1)).mean(1)


def _hutchinson(net: DenseICNN, x: Tensor, probes: int, steps: int, rng: Streams) -> tuple[Tensor, Tensor]:
    """T(x), and a function (S, n) of the parameters whose gradient is an estimate of that of log det H(x).

    As x is fixed, it is linear in H: (H^-1 v)^T H v with H^-1 v held.
    """
    with torch.no_grad():
        _, held = net.linearised(x, True)
        signs = [(2 * rng.integers(2, *x.shape[1:]) - 1).to(x.dtype) for _ in range(probes)]
        solved = [conjugate_gradients(held, v, steps) for v in signs]
    y, product = net.linearised(x)
    slopes = [(u * product(v)).sum(-1) for u, v in zip(solved, signs, strict=True)]
    return y, torch.stack(slopes).mean(0)


def _blockwise(field: Field) -> Field:
    """The same field, without gradients, on blocks of points whose Hessians fit the cache."""

    def apply(x: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([field(part) for part in x.split(BLOCK, 1)], 1)

    return apply


def _rate(decay: str, j: int, iterations: int) -> float:
    return 0.5 * (1 + math.cos(math.pi * j / iterations)) if decay == "cosine" else 1.0


def _prefixed(state: Mapping[str, Tensor | int]) -> dict[str, Tensor | int]:
    return {f"map/{key}": part for key, part in state.items()}


def _batches(pool: Tensor, log_p: Tensor | None, size: int, rng: Streams) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Batches (S, size, d) without end, with log-densities (S, size): the pool's consecutive blocks, which are
    independent draws, in a new random order at each pass."""
    blocks = pool.unflatten(1, (-1, size))
    seeds = torch.arange(len(pool), device=pool.device)
    while True:
        for column in rng.uniform(blocks.shape[1]).argsort(1).unbind(1):
            density = None if log_p is None else log_p.unflatten(1, (-1, size))[seeds, column]
            yield blocks[seeds, column], density
