"""JKO-ICNN: JKO steps whose transport map is the gradient of a convex network.

(Mokrov et al. 2021; Alvarez-Melis et al. 2021.) A step of length a pushes P_k to T#P_k, where T = grad psi and psi is a
strongly convex DenseICNN. Training descends

    1/(2a) E |x - T(x)|^2 + F(T#P_k),   x ~ P_k,

where the density of T#P_k at T(x) is p_k(x) / det H(x), H the Hessian of psi, so that F has estimates from samples. F
is the sum of all energies that the task offers:

    LogDensity          KL(T#P || Q):                -E log det H(x) - E log Q(T(x)), up to a constant
    InternalEnergy      w/(m-1) int (T#P)^m:         w/(m-1) E (p_k(x) / det H(x))^{m-1}
    InteractionEnergy   1/2 E W(T(x) - T(x')):       over pairs of the batch

`exact` builds H in closed form, O(w d^2) per point and layer, and its Cholesky factor, O(d^3) (JKO-ICNN-d of Fan et al.
2022). `cg` computes only the gradient of log det H, by Hutchinson's estimator with conjugate gradients (Huang et al.
2020; JKO-ICNN-a):

    d log det H = tr(H^-1 dH) = E_v[(H^-1 v)^T dH v],   v of independent signs,

O(w d) per point and conjugate gradient step. An internal energy weighs that gradient with det H itself, which is exact
in both settings.

P_k is a pool of particles, pushed once per step, together with p_k where F has an internal energy. The judged law is
T_k o ... o T_1 on fresh points, never the pool.

T starts near the identity; each further step starts where the step before left it. Mokrov et al. first train it to the
identity, by 4000 updates. Here 1000 such updates changed the distance of the first step from the exact one by at most
3 % (a Gaussian in dimension 3, 100 and 400 iterations), so that the default is none. The learning rate falls to zero in
each step: at a constant one, symkl_jko on ou ended at 7e-4 (step 10), not 2e-5.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import ClassVar, Literal

import torch
from torch import Tensor

from gwfbench.budget import Budget
from gwfbench.errors import require
from gwfbench.fields import Count, Interior, Natural, Positive, check_fields, refuse
from gwfbench.info import Field, Info, Initial, InteractionEnergy, InternalEnergy, LogDensity
from gwfbench.nn.adam import Adam
from gwfbench.nn.conjugate import conjugate_gradients
from gwfbench.nn.icnn import DenseICNN
from gwfbench.protocol import Marginal, Problem, Pushed, State
from gwfbench.rng import Streams
from gwfbench.training.jko_step import LIMIT, batches, offered
from gwfbench.training.minmax import cosine
from gwfbench.training.states import below, joined

BLOCK = 2048  # points pushed at once


@dataclass(frozen=True)
class JKOICNN:
    step: Positive | None = None
    "JKO step size a, shortened to hit the judged times; default: 0.05, or 5 / steps if only the limit is judged"
    steps: Count = 40
    "number of JKO steps; used only when the limit alone is judged"
    iterations: Count = 500
    "number of Adam updates per JKO step"
    batch: Count = 512
    "number of points per iteration"
    pool: Count = 256_000
    "number of particles that stand for P_k, rounded down to whole batches"
    width: Count = 64
    "number of units per layer of the convex network"
    depth: Count = 2
    "number of layers of the convex network"
    rank: Count = 1
    "rank of the quadratic form of each unit"
    strong: Interior = 0.1
    "strong convexity c of psi"
    smooth: Literal["celu", "softplus"] = "celu"
    "activation: celu as in the papers, or softplus, whose second derivative is continuous"
    lr: Positive = 5e-3
    "learning rate of Adam"
    decay: Literal["none", "cosine"] = "cosine"
    "schedule of the learning rate within each JKO step"
    logdet: Literal["exact", "cg"] = "exact"
    "gradient of log det H: exact, or estimated with conjugate gradients"
    cg_steps: Count = 10
    "largest number of conjugate gradient steps (logdet=cg only)"
    probes: Count = 1
    "number of random vectors v per point (logdet=cg only)"
    partners: Count = 32
    "number of partners of each point of the batch in the interaction energy"
    pretrain: Natural = 0
    "number of Adam updates on |T(x) - x|^2 before the first JKO step"

    needs: ClassVar[frozenset[type[Info]]] = frozenset({Initial})
    one_of: ClassVar[frozenset[type[Info]]] = frozenset({LogDensity, InternalEnergy, InteractionEnergy})
    clock: ClassVar[Literal["jko", "flow", "none"]] = "jko"
    seeds: ClassVar[Literal["batched", "looped"]] = "batched"
    version: ClassVar[int] = 2
    smoke: ClassVar[Mapping[str, object]] = {
        "iterations": 10, "batch": 128, "pool": 1024, "width": 16, "steps": 2, "step": 2.0,
    }  # fmt: skip
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
        check_fields(self)
        refuse(self, "pool", "batch", when=self.pool < self.batch, expected="a pool of at least one batch")
        wrong = self.partners >= self.batch
        refuse(self, "partners", "batch", when=wrong, expected="fewer partners than points in a batch")

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:
        solver, start = _Solver(self, problem, rng), problem[Initial]
        pool = start.draw(self.pool // self.batch * self.batch, rng.fork("pool")).contiguous()
        log_p = start.log_prob(pool) if solver.energy.density and start.log_prob else None
        if self.pretrain:
            solver.to_identity(batches(pool, self.batch, rng.fork("pretrain")), self.pretrain)
        yield from solver.laws(pool, log_p, 0)

    def resume(self, problem: Problem, budget: Budget, rng: Streams, state: State) -> Iterator[Marginal]:
        solver = _Solver(self, problem, rng)
        solver.adam.load(below("map", state))
        pool = torch.as_tensor(state["pool"]).clone()
        log_p = torch.as_tensor(state["log_p"]).clone() if "log_p" in state else None
        yield from solver.laws(pool, log_p, int(state["k"]))


class _Solver:
    """psi with its optimiser, from one JKO step to the next."""

    def __init__(self, method: JKOICNN, problem: Problem, rng: Streams):
        self._method, self._problem, self._rng = method, problem, rng
        self.energy = _Energy.of(problem, method.partners)
        (d,) = problem.shape
        smooth = method.smooth == "softplus"
        self.net = DenseICNN(d, method.width, method.depth, rng.fork("map"), method.rank, method.strong, smooth)
        self.adam = Adam(self.net.parameters, method.lr)

    def laws(self, pool: Tensor, log_p: Tensor | None, done: int) -> Iterator[Marginal]:
        """The laws after JKO step `done`; the pool and its log-densities are moved in place."""
        limit, method = math.isinf(self._problem.times[-1]), self._method
        step = method.step or (LIMIT / method.steps if limit else 0.05)
        times = (0.0, *self._problem.grid(step, method.steps))

        def state(k: int) -> State:
            density = {} if log_p is None else {"log_p": log_p.clone()}
            return {"k": k, "pool": pool.clone(), **density, **joined({"map": self.adam.state()})}

        for k in range(done + 1, len(times)):
            self._train(pool, log_p, k, times[k] - times[k - 1])
            law = _law(times[k], self.net.copy(), partial(state, k))
            if log_p is not None and law.log_det is not None:
                log_p -= law.log_det(pool)
            pool.copy_(law.push(pool, self._rng))
            yield law

    def _train(self, pool: Tensor, log_p: Tensor | None, k: int, a: float) -> None:
        method, probes, shuffle = self._method, self._rng.fork(f"probes/{k}"), f"shuffle/{k}"
        xs = batches(pool, method.batch, self._rng.fork(shuffle))
        densities = repeat(None)
        if log_p is not None:
            densities = batches(log_p, method.batch, self._rng.fork(shuffle))  # in the order of the points
        for j, x, density in zip(range(method.iterations), xs, densities, strict=False):
            rate = cosine(j, method.iterations) if method.decay == "cosine" else 1.0
            self.adam.descend(self.loss(x, density, a, probes), rate)

    def loss(self, x: Tensor, log_p: Tensor | None, a: float, rng: Streams) -> Tensor:
        """The step's objective, summed over seeds, up to a constant; with `cg` only its gradient is right."""
        method, net, energy = self._method, self.net, self.energy
        if not energy.volume:
            y, log_volume = net(x), None
        elif method.logdet == "exact":
            y, log_volume = net.with_log_det(x)
        else:
            y, slope = _hutchinson(net, x, method.probes, method.cg_steps, rng)
            value = net.log_det(x, True) if energy.density else 0.0
            log_volume = slope - slope.detach() + value
        return ((x - y).square().sum(-1).mean(1) / (2 * a) + energy.value(y, log_p, log_volume)).sum()

    def to_identity(self, xs: Iterator[Tensor], steps: int) -> None:
        """Train |T(x) - x|^2, by an optimiser of its own, whose rate falls to zero."""
        adam = Adam(self.net.parameters, self._method.lr)
        for j, x in zip(range(steps), xs, strict=False):
            adam.descend((self.net(x) - x).square().sum(-1).mean(1).sum(), cosine(j, steps))


def _law(t: float, net: DenseICNN, state: Callable[[], State]) -> Pushed:
    """The law pushed by a network that no longer changes: it may be pulled back when training has gone on."""
    push = _blockwise(partial(net, frozen=True))
    volume = _blockwise(partial(net.log_det, frozen=True))
    return Pushed(t, lambda x, _noise: push(x), volume, _blockwise(net.inverse), state)


@dataclass(frozen=True)
class _Energy:
    """F, the sum of the energies that the task offers."""

    log_q: Callable[[Tensor], Tensor] | None
    internal: InternalEnergy | None
    interaction: InteractionEnergy | None
    partners: int

    @staticmethod
    def of(problem: Problem, partners: int) -> _Energy:
        density, internal = offered(problem, LogDensity), offered(problem, InternalEnergy)
        interaction = offered(problem, InteractionEnergy)
        require(
            bool(density or internal or interaction),
            f"jko_icnn on a task that offers {', '.join(sorted(type(info).__name__ for info in problem.infos))}",
            "one of LogDensity, InternalEnergy, InteractionEnergy",
            "take a method that learns from samples; see: python -m gwfbench list",
        )
        require(
            internal is None or problem[Initial].log_prob is not None,
            "jko_icnn with an internal energy on a task whose P_0 has no density",
            "a log_prob in Initial, as the density is carried along",
            "give the task's Initial a log_prob",
        )
        log_q = density and density.log_prob
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
    """The same field, without gradients, on blocks of points whose Hessians fit into the cache."""

    def apply(x: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([field(part) for part in x.split(BLOCK, 1)], 1)

    return apply
