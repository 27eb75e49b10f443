"""Variational JKO (Fan et al. 2022, Algorithm 1) for every energy of its Table 1, and interaction energies.

One JKO step of length a pushes P_k to T#P_k with (equation 8; A_h and Gamma by energy: objectives/variational.py)

    min_T  1/(2a) E_{P_k} |x - T(x)|^2 + sup_h { E_{P_k}[A_h(T(x))] - E_Gamma[B_h(z)] } + 1/2 E[W(T(x) - T(x'))].

`kl` draws z from mu_k, the Gaussian with the mean and covariance of P_k; `entropy` from a box around P_k. With
`proposal=student` mu_k is a Student law: where P_k has long tails (blr) a Gaussian is wider than its bulk, log mu falls
faster outwards than a critic can make up for, and T runs away (german: at every setting that was tried). The pair term
is there where the task offers an interaction energy, alone too. T and h start where the step before left them. P_k is a
pool of particles, pushed once a step; the judged law is T_k o ... o T_1 on fresh points, never the pool.

    backward           the step above
    forward_backward   x <- x - a grad(W * P_k)(x) first, then the step without the pair term (Section C)
    crank_nicolson     1/2 F(P) + 1/2 E[grad dF/dP(P_k)(x) . T(x)] for F: the trapezoidal rule, of second order
    section_b          1/2 F(P) + 1/2 E[dF/dP(P_k)(T(x))] for F, as printed (Section B): its slope is taken at T(x) and
                       not at x, so it is of first order, and for a potential energy no other than backward
    forward            x <- x - a grad(W * P_k)(x) alone; a seed of which a point jumps too far ends as diverged

dF/dP(P_k) comes from the critic of the step before, for P_0 from its density.

"auto" takes the energy from what the task offers: a density, kl; an internal energy, entropy; samples alone, js, whose
critic has bounded slopes (kl_dv takes the logarithm of a mean, biased in batches). Its map is linear where that is
enough, P_0 and the target both Gaussian: third differences of their log-densities are 0. Else it is PReLU, and icnn for
entropy, whose densities are then exact (Section D).

Defaults are the paper's for Ornstein-Uhlenbeck (section F.3 and the authors' code): T residual, three linear maps
d -> 64 -> 64 -> d; h an MLP d -> 64 -> 64 -> 1 with PReLU, on the output too, then squared. Ours are

- learning rates that go down to 0 within each JKO step: at constant rates (`decay=none`, the paper's) Adam now and then
  multiplies its steps near the optimum, and a JKO step that ends in such a burst ends anywhere. On ou, seed 1 was at
  SymKL 3.6e-5 from the exact JKO law before the last step and at 3.1e-2 after it; now it stays below 1e-5;
- a critic that starts near h = 1, and a squared head with a tail in place of its zero (objectives/variational.py);
- maps that are not linear, and their critics, see coordinates in which P_k has size one;
- dropout acts in training only, so that T is a map; the authors judge with it on.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial, reduce
from itertools import accumulate
from typing import ClassVar, Literal

import torch
from torch import Tensor

from gwfbench.budget import Budget
from gwfbench.errors import require
from gwfbench.info import Field, Info, Initial, InteractionEnergy, InternalEnergy, LogDensity, TargetSamples
from gwfbench.nn.adam import Adam
from gwfbench.nn.icnn import DenseICNN
from gwfbench.nn.mlp import MLP, ResidualLinear, ResidualMLP
from gwfbench.objectives import variational
from gwfbench.objectives.variational import Energy
from gwfbench.protocol import Marginal, Problem, Pushed, State
from gwfbench.rng import Streams
from gwfbench.training.jko_step import Critic, Frame, Shift, Transport, batches, move, quadratic, step_loss
from gwfbench.training.minmax import Decay, Decaying, alternate
from gwfbench.training.proposals import Box, Gaussian, Student

MAPS = ("linear", "prelu", "icnn")  # by their number in a state
NEEDS: dict[str, type[Info]] = {
    "kl": LogDensity, "kl_samples": TargetSamples, "kl_dv": TargetSamples, "js": TargetSamples,
    "entropy": InternalEnergy, "interaction": InteractionEnergy,
}  # fmt: skip
AUTO = {LogDensity: "kl", InternalEnergy: "entropy", TargetSamples: "js", InteractionEnergy: "interaction"}
HEADS = {"squared": variational.squared, "exp1": variational.exp_minus_one, "plain": variational.plain}
START = {"squared": 1.0, "exp1": 20 / 3 * math.log(math.log(2) / (20 - math.log(2))), "plain": 0.0}  # h = 1
CRANK_NICOLSON = ("crank_nicolson", "section_b")
ENERGIES = {"kl": variational.KL, "kl_samples": variational.KL, "kl_dv": variational.KL_DV, "js": variational.JS}


@dataclass(frozen=True)
class VJKO:
    energy: Literal["auto", "kl", "kl_samples", "kl_dv", "js", "entropy", "interaction"] = "auto"
    "F, beside the interaction energy; auto: by what the task offers"
    scheme: Literal["backward", "forward_backward", "crank_nicolson", "section_b", "forward"] = "backward"
    "of a step in time"
    step: float | None = None
    "JKO step a, in flow time; none: 0.05, or a 40th (steps) of the last judged time if longer; 0.1 towards a limit"
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
    pool: int | None = None
    "particles that stand for P_k, rounded down to whole batches; none: 512,000 for a linear map, else 131,072"
    map: Literal["auto", "linear", "prelu", "icnn"] = "auto"
    "T: residual, without activations or with PReLU; or the gradient of a strongly convex DenseICNN"
    head: Literal["auto", "squared", "exp1", "plain"] = "auto"
    "h from the critic's output: its square, exp(20 sigmoid(3x/20)) - 1, or itself (js and kl_dv)"
    width: int = 64
    "neurons a hidden layer, of T and h"
    depth: int = 2
    "hidden layers, of T and h"
    lr: float = 5e-3
    "Adam's learning rate, of T and h"
    critic_width: int | None = None
    "of h alone; none: width"
    critic_depth: int | None = None
    "of h alone; none: depth"
    critic_lr: float | None = None
    "of h alone; none: lr"
    decay: Decay = "cosine"
    "of the learning rates inside each JKO step"
    halve_after: int | None = None
    "JKO steps after which the learning rates are multiplied by late_lr and, towards a limit, the step by late_step"
    late_lr: float = 0.4
    "see halve_after"
    late_step: float = 0.5
    "see halve_after"
    weight_decay: float = 0.0
    "of Adam, added to the gradient, for T and h"
    dropout: float = 0.0
    "share of T's hidden units (prelu) left out in training"
    proposal: Literal["iid", "matched", "student"] = "iid"
    "mu_k of kl: Gaussian, its batches independent or moment-matched; or a Student law, for P_k with long tails"
    box: float = 1.5
    "entropy: half a side of the box, in units of the largest coordinate of P_k"
    warmup: int | None = None
    "iterations of the critic alone before the first step; none: 0 for a linear map, else as many as iterations"
    rows: int | None = None
    "of the data that each map step's likelihood sees, drawn anew each time; none: all"
    partners: int = 16
    "of each point in the interaction's pair term"
    forces: int = 2048
    "particles of P_k that give the force of a forward step"

    needs: ClassVar[frozenset[type[Info]]] = frozenset({Initial})
    one_of: ClassVar[frozenset[type[Info]]] = frozenset({LogDensity, TargetSamples, InternalEnergy, InteractionEnergy})
    clock: ClassVar[Literal["jko", "flow", "none"]] = "jko"
    seeds: ClassVar[Literal["batched", "looped"]] = "batched"
    version: ClassVar[int] = 4
    smoke: ClassVar[Mapping[str, object]] = {
        "iterations": 6, "batch": 128, "pool": 1024, "width": 16, "steps": 2, "forces": 64,
    }  # fmt: skip
    reference: ClassVar[str] = """@inproceedings{fan2022variational,
  title={Variational {W}asserstein gradient flow}, author={Fan, Jiaojiao and Zhang, Qinsheng and Taghvaei, Amirhossein
  and Chen, Yongxin}, booktitle={ICML}, year={2022}}"""

    def __post_init__(self) -> None:
        for names, ok, expected, example in (
            (("step", "lr", "critic_lr", "late_lr", "late_step"), lambda v: 0 < v < math.inf, "a positive number", .1),
            (("steps", "iterations", "critic_steps", "map_steps", "batch", "pool", "width", "depth", "critic_width",
              "critic_depth", "rows", "partners", "forces"), lambda v: v >= 1, "at least 1", 8),
            (("warmup", "halve_after"), lambda v: v >= 0, "at least 0", 20),
            (("weight_decay",), lambda v: 0 <= v < math.inf, "a number that is not negative", 1e-7),
            (("dropout",), lambda v: 0 <= v < 1, "a share, at least 0 and below 1", 0.04),
            (("box",), lambda v: 1 <= v < math.inf, "a number from 1", 1.5),
        ):  # fmt: skip
            for name in names:
                value = getattr(self, name)
                require(value is None or ok(value), f"vjko:{name}={value}", expected, f"write vjko:{name}={example}")
        require(
            self.pool is None or self.pool >= self.batch,
            f"vjko:pool={self.pool},batch={self.batch}",
            "a pool of at least one batch",
            f"write vjko:pool={self.batch}",
        )
        for field, value, fit, fix in (
            ("dropout", self.dropout, not self.dropout or self.map in ("auto", "prelu"), "map=prelu"),
            ("rows", self.rows, self.rows is None or self.energy in ("auto", "kl"), "energy=kl"),
        ):
            require(
                fit, f"vjko:{field}={value},map={self.map},energy={self.energy}", fix, f"write {fix}, or no {field}"
            )

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:
        chosen = _settled(self, problem, rng)
        size = chosen.forces if self.scheme == "forward" else (chosen.pool or 0) // self.batch * self.batch
        pool = problem[Initial].draw(size, rng.fork("pool")).contiguous()
        yield from chosen._laws(problem, rng, pool, {"k": 0})

    def resume(self, problem: Problem, budget: Budget, rng: Streams, state: State) -> Iterator[Marginal]:
        chosen = _settled(replace(self, map=MAPS[int(state["map"])]), problem, rng)
        yield from chosen._laws(problem, rng, torch.as_tensor(state["pool"]).clone(), state)

    def _laws(self, problem: Problem, rng: Streams, pool: Tensor, state: State) -> Iterator[Marginal]:
        """The laws after the state's; the pool is moved in place."""
        grid, kernel = self._grid(problem), None
        if _offers(problem, InteractionEnergy):
            kernel = problem[InteractionEnergy].kernel
        pair = None if self.scheme == "forward" else _Pair(self, problem, rng, state)
        forward = self.scheme in ("forward", "forward_backward")
        for k in range(int(state["k"]) + 1, len(grid)):
            a, pushes, transport = grid[k] - grid[k - 1], [], None
            if kernel is not None and forward:
                pushes.append(Shift(a, kernel, pool[:, : self.forces].clone()))
                move(pool, pushes[-1])
            if pair is not None:
                transport = pair.step(pool, None if forward else kernel, k, a)
                pushes.append(transport)
                move(pool, transport)
            kept = partial(self._state, k, pool, pair)
            push = lambda x, _noise, pushes=pushes: reduce(lambda y, one: one(y), pushes, x)  # noqa: E731
            if forward or transport is None:  # the density of a forward step can't be had (Section D)
                yield Pushed(grid[k], push, state=kept)
            else:
                own = transport.kept()
                yield Pushed(grid[k], push, own.log_det, own.inverse, kept)

    def _state(self, k: int, pool: Tensor, pair: _Pair | None) -> State:
        return {"k": k, "map": MAPS.index(self.map), "pool": pool.clone(), **(pair.state() if pair else {})}

    def _grid(self, problem: Problem) -> tuple[float, ...]:
        last = problem.times[-1]
        step = self.step or (0.1 if math.isinf(last) else max(0.05, last / self.steps))
        if math.isfinite(last) or self.halve_after is None:
            return (0.0, *problem.grid(step, self.steps))
        sizes = [step if k < self.halve_after else step * self.late_step for k in range(self.steps)]
        return tuple(accumulate(sizes, initial=0.0))


def _offers(problem: Problem, info: type[Info]) -> bool:
    return any(isinstance(offered, info) for offered in problem.infos)


def _settled(fields: VJKO, problem: Problem, rng: Streams) -> VJKO:
    """The same with every auto and none decided.

    Raises:
        UserError: the choice of energy, head or scheme does not go with the task, or with one another.
    """
    energy = fields.energy
    if energy == "auto":
        energy = next((name for info, name in AUTO.items() if _offers(problem, info)), "auto")
    free = energy in ("kl_dv", "js")
    head = fields.head if fields.head != "auto" else "plain" if free else "squared" if energy == "kl" else "exp1"
    _require_fit(replace(fields, energy=energy, head=head), problem)
    chosen = fields.map
    if chosen == "auto":
        known = energy == "kl" and not fields.dropout and not _offers(problem, InteractionEnergy)
        linear = known and _gaussian(problem, rng.fork("probe"))
        chosen = "linear" if linear else "icnn" if energy == "entropy" else "prelu"
    simple = chosen == "linear"
    return replace(
        fields, energy=energy, head=head, map=chosen,
        pool=fields.pool or (512_000 if simple else max(131_072, fields.batch)),
        warmup=fields.warmup if fields.warmup is not None else 0 if simple else fields.iterations,
        critic_width=fields.critic_width or fields.width, critic_depth=fields.critic_depth or fields.depth,
        critic_lr=fields.critic_lr or fields.lr,
    )  # fmt: skip


def _require_fit(chosen: VJKO, problem: Problem) -> None:
    energy, scheme = chosen.energy, chosen.scheme
    offered = ", ".join(type(info).__name__ for info in problem.infos)
    require(energy != "auto", f"a task that offers {offered}", "one with a target or an energy", "see gwfbench list")
    free, alone, pairs = energy in ("kl_dv", "js"), energy == "interaction", _offers(problem, InteractionEnergy)
    starts = energy in ("kl", "entropy") and problem[Initial].log_prob is not None
    fits_rows = chosen.rows is None or (energy == "kl" and problem[LogDensity].batch is not None)
    for ok, got, expected, fix in (
        (_offers(problem, NEEDS[energy]), f"energy={energy} on a task that offers {offered}",
         f"a task that offers {NEEDS[energy].__name__}", "leave energy out"),
        (alone or (chosen.head == "plain") == free, f"energy={energy},head={chosen.head}",
         "plain for kl_dv and js, squared or exp1 for the others", "leave head out"),
        (scheme not in ("forward", "forward_backward") or pairs, f"scheme={scheme} on a task that offers {offered}",
         "a task that offers InteractionEnergy", "write vjko:scheme=backward"),
        (scheme != "forward" or alone, f"scheme=forward,energy={energy}",
         "an interaction energy alone: the others have no forward step", "write vjko:scheme=forward_backward"),
        (scheme != "forward_backward" or not alone, f"scheme=forward_backward,energy={energy}",
         "an energy for the backward step beside the interaction energy", "write vjko:scheme=forward"),
        (scheme not in CRANK_NICOLSON or alone or starts, f"scheme={scheme},energy={energy}",
         "kl or entropy, and a log-density of P_0, for dF/dP(P_0)", "write vjko:scheme=backward"),
        (energy == "kl" or chosen.proposal == "iid", f"proposal={chosen.proposal},energy={energy}",
         "energy kl: the others draw from the target or a box", "leave proposal out"),
        (fits_rows, f"rows={chosen.rows},energy={energy} on a task that offers {offered}",
         "energy kl of a target made of data rows (blr)", "leave rows out"),
    ):  # fmt: skip
        require(ok, f"vjko:{got}", expected, fix)


def _gaussian(problem: Problem, rng: Streams) -> bool:
    """Whether P_0 and the target are, for all seeds, to what their log-densities between points of P_0 tell."""
    start, log_q = problem[Initial], problem[LogDensity].log_prob
    x, y = start.draw(64, rng.fork("from")), start.draw(64, rng.fork("to"))
    return start.log_prob is not None and quadratic(start.log_prob, x, y) and quadratic(log_q, x, y)


class _Pair:
    """T and the network under h, each with its optimizer, from one JKO step to the next."""

    def __init__(self, fields: VJKO, problem: Problem, rng: Streams, state: State):
        self._fields, self._problem, self._rng = fields, problem, rng
        (d,) = problem.shape
        make = {"linear": ResidualLinear, "prelu": ResidualMLP, "icnn": DenseICNN}[fields.map]
        self._net = make(d, fields.width, fields.depth, rng.fork("map"))
        self._adams = {"map": self._adam(self._net, fields.lr)}
        self._before: Gaussian | Student | Box | None = None  # the proposal of the step before
        self._fitted = Student if fields.proposal == "student" else Gaussian
        if fields.energy != "interaction":
            sizes = (d, *[fields.critic_width or 0] * (fields.critic_depth or 0), 1)
            self._raw = MLP(sizes, rng.fork("critic"), prelu="all" if fields.head == "squared" else "hidden")
            with torch.no_grad():  # start at h = 1, which is right for T = id and Gaussian P_k
                self._raw.layers()[-1][1].fill_(START[fields.head])
            self._adams["critic"] = self._adam(self._raw, fields.critic_lr or fields.lr)
        if state["k"]:
            for name, adam in self._adams.items():
                adam.load(_below(name, state))
            kept = {key: torch.as_tensor(part) for key, part in _below("before", state).items()}
            if kept:
                self._before = (Box if fields.energy == "entropy" else self._fitted)(**kept)

    def _adam(self, net: ResidualLinear | ResidualMLP | DenseICNN | MLP, lr: float) -> Adam:
        decay = self._fields.weight_decay
        return Adam(Decaying(net.parameters, decay) if decay else net.parameters, lr)

    def state(self) -> dict[str, Tensor | int]:
        parts = {name: adam.state() for name, adam in self._adams.items()}
        if self._fields.scheme in CRANK_NICOLSON and self._before is not None:
            parts["before"] = {each.name: getattr(self._before, each.name) for each in fields(self._before)}
        return {f"{name}/{key}": part for name, state in parts.items() for key, part in state.items()}

    def step(self, pool: Tensor, kernel: Field | None, k: int, a: float) -> Transport:
        """Train T and h for JKO step k, of length a, on the pool; the kernel's pair term is in it, if there is one."""
        own, mu, rng = self._fields, self._fitted.fitted(pool), self._rng
        transport = Transport(self._net, None if own.map == "linear" else Frame.of(mu))
        proposal = Box.around(pool, own.box) if own.energy == "entropy" else mu
        critic_loss = now = before = None
        if own.energy != "interaction":
            log_q = self._log_q(rng.fork(f"rows/{k}"))
            energy, h, now = self._variation(self._raw, proposal, log_q)
            before = self._variation_before(energy, proposal, log_q) if own.scheme in CRANK_NICOLSON else None
            critic_loss = lambda y, z: energy.critic_loss(*h.at_both(y, z))  # noqa: E731
        late = own.halve_after is not None and k > own.halve_after
        train = partial(
            alternate, critic_loss=critic_loss, map_loss=step_loss(a, now, before, kernel, own.partners, own.scheme),
            critic=self._adams.get("critic"), map_=self._adams["map"],
            critic_steps=own.critic_steps, rate=own.late_lr if late else 1.0,
        )  # fmt: skip
        if k == 1 and own.warmup and critic_loss:
            train(
                batches(pool, own.batch, rng.fork("warmup/shuffle")), self._draw(proposal, rng.fork("warmup/proposal")),
                lambda x: x, iterations=own.warmup, map_steps=0,
            )  # fmt: skip
        noise = rng.fork(f"dropout/{k}")
        push = partial(transport.dropped, share=own.dropout, noise=noise) if own.dropout else transport
        train(
            batches(pool, own.batch, rng.fork(f"shuffle/{k}")), self._draw(proposal, rng.fork(f"proposal/{k}")), push,
            iterations=own.iterations, map_steps=own.map_steps, decay=own.decay,
        )  # fmt: skip
        self._before = proposal
        return transport

    def _draw(self, proposal: Gaussian | Student | Box, rng: Streams) -> Callable[[], Tensor]:
        """Draws of Gamma: the proposal, or the target where that has samples alone."""
        own = self._fields
        if NEEDS[own.energy] is TargetSamples:
            return lambda: self._problem[TargetSamples].draw(own.batch, rng)
        if isinstance(proposal, Gaussian):
            return lambda: proposal.draw(own.batch, rng, own.proposal == "matched")
        return lambda: proposal.draw(own.batch, rng)

    def _variation(self, raw: MLP, proposal: Gaussian | Student | Box, log_q: Field) -> tuple[Energy, Critic, Field]:
        """The energy, h, and dF/dP by h with its parameters frozen."""
        own, energy = self._fields, ENERGIES.get(self._fields.energy)
        h = Critic(raw, HEADS[own.head], None if own.map == "linear" else proposal.white)
        if energy is None:
            assert isinstance(proposal, Box)
            internal = self._problem[InternalEnergy]
            energy = variational.entropy(internal.m, internal.weight, proposal.volume)
        if own.energy == "kl":
            assert not isinstance(proposal, Box)
            return energy, h, lambda y: energy.rate(h(y, frozen=True)) + proposal.log_prob(y) - log_q(y)
        return energy, h, lambda y: energy.rate(h(y, frozen=True))

    def _variation_before(self, energy: Energy, proposal: Gaussian | Student | Box, log_q: Field) -> Field:
        """dF/dP at P_k: by the critic as the step before has left it, or by the density of P_0."""
        if self._before is not None:
            return self._variation(copy.deepcopy(self._raw), self._before, log_q)[2]
        log_p = self._problem[Initial].log_prob
        assert log_p is not None
        if isinstance(proposal, Box):
            return lambda y: energy.rate(log_p(y).exp() * proposal.volume[:, None])
        return lambda y: log_p(y) - log_q(y)

    def _log_q(self, rng: Streams) -> Field:
        """The target's log-density, on fresh rows of the data at each call if so chosen."""
        rows = self._fields.rows
        if rows is None:
            return lambda y: self._problem[LogDensity].log_prob(y)
        batch = self._problem[LogDensity].batch
        assert batch is not None
        return lambda y: batch(rows, rng).log_prob(y)


def _below(name: str, state: State) -> dict[str, Tensor | int | float]:
    return {key.removeprefix(f"{name}/"): part for key, part in state.items() if key.startswith(f"{name}/")}
