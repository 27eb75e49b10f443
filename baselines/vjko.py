"""Variational JKO: each JKO step is a max-min problem, solved by training a transport map against a critic.

(Fan et al. 2022, Algorithm 1, for every energy of its Table 1 and for interaction energies.) A JKO step of length a
pushes P_k to T#P_k with (equation 8; A_h and Gamma by energy: objectives/variational.py)

    min_T  1/(2a) E_{P_k} |x - T(x)|^2 + sup_h { E_{P_k}[A_h(T(x))] - E_Gamma[B_h(z)] } + 1/2 E[W(T(x) - T(x'))].

`kl` draws z from mu_k, the Gaussian with the mean and covariance of P_k. With `proposal=student` mu_k is a Student law,
for P_k with long tails (blr): there a Gaussian is wider than the bulk of P_k, log mu falls faster outwards than a
critic can make up for, and T runs away. With `follow=0.1` mu moves within a step, after the images T(x) of the batches,
a tenth of the way at each (ours, not the paper's): the entropy of what mu can fit is then that of T#P_k itself, and the
step stays implicit. `entropy` draws z from any set that holds P_k (Corollary 3.4). The paper's is a box: in 16
dimensions none of its draws is where P_k is, and T does not move. The default is an ellipsoid with three times the
volume of the smallest one that holds P_k, as a step needs room for what it adds.

The pair term is there where the task offers an interaction energy. h starts where the step before left it. With
`start=previous`, as in Algorithm 1, T does too, and goes astray where the iterations don't undo the last displacement
(blr, gmm in 64 dimensions). P_k is a pool of particles, pushed once per step; the judged law is T_k o ... o T_1 on
fresh points.

As log mu_k is fixed during a step, a wrong h makes it an explicit step of the entropy. For a target whose log-density
has curvatures up to L, a step a is too long where a L is far above 1: it is 0.1 on ou, and 14 to 350 on blr at a = 0.1.
`scheme` is one of

    backward           the step above
    forward_backward   x <- x - a grad(W * P_k)(x) first, then the step without the pair term (Section C)
    crank_nicolson     1/2 F(P) + 1/2 E[grad dF/dP(P_k)(x) . T(x)] for F: the trapezoidal rule, of second order
    section_b          1/2 F(P) + 1/2 E[dF/dP(P_k)(T(x))] for F, as printed (Section B): its slope is taken at T(x) and
                       not at x, so it is of first order, and for a potential energy it is the same as backward
    forward            x <- x - a grad(W * P_k)(x) alone; a seed ends as diverged when a point jumps too far

where dF/dP(P_k) comes from the critic of the step before, and for P_0 from its density.

`energy=auto` takes kl if the task offers a density, entropy if an internal energy, and js if samples alone (kl_dv takes
the logarithm of a mean, biased in batches). `map=auto` is linear where P_0 and the target are both Gaussian, as third
differences of their log-densities are 0; otherwise PReLU, or icnn for entropy, whose densities are then exact.

Defaults are the paper's for Ornstein-Uhlenbeck (section F.3 and the authors' code): T residual, three linear maps
d -> 64 -> 64 -> d; h an MLP d -> 64 -> 64 -> 1 with PReLU, on the output too, then squared. `num_layer` in their code
is one less than the number of hidden layers; of their ICNN it is that number. These differ:

- 250 iterations of one critic step, for their 500 of three: a quarter of the updates (results/defaults.md).
- Learning rates fall to 0 within each JKO step. At constant rates (`decay=none`, the paper's) Adam now and then
  multiplies its steps near the optimum, and a JKO step that ends in such a burst ends anywhere (results/studies/ou).
- The critic starts near h = 1, and a squared head has a tail in place of its zero (objectives/variational.py).
- Maps that are not linear, and their critics, get coordinates in which P_k has size one; with `raw` the points' own.
- Dropout acts in training only, so that T is a map; the authors judge with it on, but for the first layer.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import accumulate
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from gwfbench.budget import Budget
from gwfbench.fields import Count, Interior, Natural, NonNegative, Positive, Share, at_least, check_fields, refuse
from gwfbench.info import Field, Info, Initial, InteractionEnergy, InternalEnergy, LogDensity, TargetSamples
from gwfbench.nn.adam import Adam
from gwfbench.nn.mlp import MLP
from gwfbench.objectives.variational import HEADS, TABLE, entropy
from gwfbench.protocol import Marginal, Problem, State
from gwfbench.rng import Streams
from gwfbench.training import jko_step
from gwfbench.training.engine import Trainer
from gwfbench.training.game import Game, Noise, Rounds
from gwfbench.training.jko_step import Functional, Network, Transport, gaussian, move, network, offered, pushed
from gwfbench.training.minmax import Decay
from gwfbench.training.proposals import PROPOSALS, Box, Ellipsoid, Following, Proposal
from gwfbench.training.states import below, joined


@dataclass(frozen=True)
class VJKO:
    energy: Literal["auto", "kl", "kl_samples", "kl_dv", "js", "entropy", "interaction"] = "auto"
    "functional F, in addition to the interaction energy; auto: by what the task offers"
    scheme: Literal["backward", "forward_backward", "crank_nicolson", "section_b", "forward"] = "backward"
    "time discretisation of one step"
    step: Positive | None = None
    "JKO step size a, in flow time; default: max(0.05, last judged time / steps); 5 / steps if only the limit is judged"
    steps: Count = 40
    "number of JKO steps; used only when the limit alone is judged"
    start: Literal["identity", "previous"] = "identity"
    "start of T in each JKO step; identity: the identity map; previous: T of the step before"
    iterations: Count = 250
    "number of outer iterations J1 per JKO step; the paper has 500"
    critic_steps: Count = 1
    "number of critic updates J2 per iteration; the paper has 3"
    map_steps: Count = 1
    "number of map updates J3 per iteration"
    batch: Count = 1024
    "number of points per iteration"
    pool: Count | None = None
    "number of particles that stand for P_k, in whole batches, rounded down; default: 512,000 for linear, else 131,072"
    map: Literal["auto", "linear", "prelu", "icnn"] = "auto"
    "transport map T; linear: residual, without activations; prelu: residual; icnn: gradient of a convex DenseICNN"
    head: Literal["auto", "squared", "exp1", "plain"] = "auto"
    "critic h from its network's output x: x^2, exp(20 sigmoid(3x/20)) - 1, or x itself (js, kl_dv, entropy of even m)"
    width: Count = 64
    "number of units per hidden layer, for T and h"
    depth: Count = 2
    "number of hidden layers, for T and h; of an icnn, number of layers of units"
    lr: Positive = 5e-3
    "learning rate of Adam, for T and h"
    critic_width: Count | None = None
    "number of units per hidden layer of h; default: width"
    critic_depth: Count | None = None
    "number of hidden layers of h; default: depth"
    critic_lr: Positive | None = None
    "learning rate for h; default: lr"
    decay: Decay = "cosine"
    "schedule of the learning rates within each JKO step"
    halve_after: Natural | None = None
    "number of JKO steps after which late_lr and late_step apply; default: never"
    late_lr: Positive = 0.4
    "factor of the learning rates after halve_after steps"
    late_step: Positive = 0.5
    "factor of the step size after halve_after steps, if only the limit is judged"
    weight_decay: NonNegative = 0.0
    "weight decay of Adam, added to the gradient, for T and h"
    dropout: Share = 0.0
    "fraction of T's hidden units dropped in training (map=prelu only)"
    dropout_from: Count = 1
    "first hidden layer with dropout"
    prelu_output: bool = False
    "whether what T adds to x ends in a PReLU (map=prelu only)"
    strong: Interior = 0.1
    "strong convexity c of the potential of T (map=icnn only)"
    proposal: Literal["iid", "matched", "student"] = "iid"
    "law mu_k (energy=kl only); iid: Gaussian; matched: Gaussian, batches moment-matched; student: for long tails"
    follow: Share = 0.0
    "share of a batch's image in the running moments of mu_k, which then follows T#P_k; 0: mu_k stays (energy=kl only)"
    volume: Annotated[float, at_least(1)] = 3.0
    "volume of the critic's ellipsoid, in units of the smallest one of its shape that holds P_k (energy=entropy only)"
    box: Annotated[float, at_least(1)] | None = None
    "half the side of a box in the ellipsoid's place, in units of P_k's largest coordinate; default: no box"
    raw: bool = False
    "whether T and h see the points as they are; default: in units of mu_k"
    radial: bool | None = None
    "whether the critic's network also sees the squared distance to the centre of P_k; default: on an ellipsoid only"
    warmup: Natural | None = None
    "number of iterations of the critic alone before the first step; default: 0 for a linear map, else iterations"
    rows: Count | None = None
    "number of data rows, drawn again for each evaluation of the likelihood (energy=kl only); default: all"
    partners: Count = 16
    "number of partners of each point in the interaction's pair term"
    forces: Count = 2048
    "number of particles of P_k that give the force of a forward step"

    needs: ClassVar[frozenset[type[Info]]] = frozenset({Initial})
    one_of: ClassVar[frozenset[type[Info]]] = frozenset({LogDensity, TargetSamples, InternalEnergy, InteractionEnergy})
    clock: ClassVar[Literal["jko", "flow", "none"]] = "jko"
    seeds: ClassVar[Literal["batched", "looped"]] = "batched"
    version: ClassVar[int] = 6
    smoke: ClassVar[Mapping[str, object]] = {
        "iterations": 6, "batch": 128, "pool": 1024, "width": 16, "steps": 2, "forces": 64,
    }  # fmt: skip
    later: ClassVar[Mapping[str, object]] = {"follow": 0.0, "raw": False}  # after rows had been published
    reference: ClassVar[str] = """@inproceedings{fan2022variational,
  title={Variational {W}asserstein gradient flow}, author={Fan, Jiaojiao and Zhang, Qinsheng and Taghvaei, Amirhossein
  and Chen, Yongxin}, booktitle={ICML}, year={2022}}"""

    def __post_init__(self) -> None:
        check_fields(self)
        small = self.pool is not None and self.pool < self.batch
        refuse(self, "pool", "batch", when=small, expected="a pool of at least one batch")
        other = self.map in ("linear", "icnn")
        refuse(self, "dropout", "map", when=self.dropout > 0 and other, expected="map=prelu")
        refuse(self, "prelu_output", "map", when=self.prelu_output and other, expected="map=prelu")
        refuse(self, "dropout_from", "dropout", when=self.dropout_from > 1 and not self.dropout, expected="a dropout")
        both = self.box is not None and self.volume != VJKO.volume
        refuse(self, "volume", "box", when=both, expected="one of the two: a box takes the ellipsoid's place")
        wrong = self.rows is not None and self.energy not in ("auto", "kl")
        refuse(self, "rows", "energy", when=wrong, expected="energy=kl")

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:
        settled = _settled(self, problem, rng)
        size = self.pool or max(512_000 if settled.map == "linear" else 131_072, self.batch)
        size = self.forces if self.scheme == "forward" else size // self.batch * self.batch
        pool = problem[Initial].draw(size, rng.fork("pool")).contiguous()  # stands for P_k
        if settled.energy == "entropy":
            jko_step.require_reach(settled, problem, pool, settled._region(pool))
        yield from settled._laws(problem, rng, pool, {"k": 0})

    def resume(self, problem: Problem, budget: Budget, rng: Streams, state: State) -> Iterator[Marginal]:
        settled = _settled(replace(self, map=jko_step.MAPS[int(state["map"])]), problem, rng)
        yield from settled._laws(problem, rng, torch.as_tensor(state["pool"]).clone(), state)

    def _laws(self, problem: Problem, rng: Streams, pool: Tensor, state: State) -> Iterator[Marginal]:
        """The laws after the state's; each stage of the scheme moves the pool."""
        times = self._times(problem)
        stages = [stage(self, problem, rng, state) for stage in STAGES.get(self.scheme, (_Backward,))]

        def kept(k: int) -> State:
            parts = {key: part for stage in stages for key, part in stage.state().items()}
            return {"k": k, "map": jko_step.MAPS.index(self.map), "pool": pool.clone(), **parts}

        for k in range(int(state["k"]) + 1, len(times)):
            maps = []
            for stage in stages:
                maps.append(stage.solve(pool, k, times[k] - times[k - 1]))
                move(pool, maps[-1])
            yield pushed(times[k], maps, partial(kept, k))

    def _region(self, cloud: Tensor) -> Ellipsoid | Box:
        return Box.around(cloud, self.box) if self.box else Ellipsoid.around(cloud, self.volume)

    def _times(self, problem: Problem) -> tuple[float, ...]:
        """Flow times of the JKO sequence, 0 first."""
        last = problem.times[-1]
        if math.isfinite(last):
            return (0.0, *problem.grid(self.step or max(0.05, last / self.steps), self.steps))
        step, late = self.step or jko_step.LIMIT / self.steps, self.halve_after
        if late is None:
            return (0.0, *problem.grid(step, self.steps))
        return tuple(accumulate((step if k < late else step * self.late_step for k in range(self.steps)), initial=0.0))


def _settled(method: VJKO, problem: Problem, rng: Streams) -> VJKO:
    """The same with energy, head, map and radial decided.

    Raises:
        UserError: they don't go with the task, or with one another.
    """
    pairs, energy, chosen = offered(problem, InteractionEnergy), method.energy, method.map
    if energy == "auto":
        energy = next((name for name, row in TABLE.items() if offered(problem, row.needs)), "kl")
    row = TABLE[energy]
    head = row.heads[0] if method.head == "auto" and row.heads else method.head
    if method.head == "auto" and energy == "entropy" and method.box:
        head = "exp1"  # h is large on a box
    radial = energy == "entropy" and not method.box if method.radial is None else method.radial
    _require_fit(replace(method, energy=energy, head=head, radial=radial), problem)
    if chosen == "auto" and (method.dropout or method.prelu_output):
        chosen = "prelu"
    if chosen == "auto":
        plain = energy == "kl" and pairs is None
        chosen = "linear" if plain and gaussian(problem, rng.fork("probe")) else row.map
    return replace(method, energy=energy, head=head, map=chosen, radial=radial)


def _require_fit(method: VJKO, problem: Problem) -> None:
    """Raise unless the task has what the settled energy and the scheme need, and both allow the other fields."""
    row, scheme = TABLE[method.energy], method.scheme
    offers = f"this one offers {', '.join(type(info).__name__ for info in problem.infos)}"
    starts = row.starts and problem[Initial].log_prob is not None
    alone, data = method.energy == "interaction", offered(problem, LogDensity)
    internal = offered(problem, InternalEnergy)
    odd = internal is not None and internal.m % 2 != 0
    pairs = scheme not in STAGES and offered(problem, InteractionEnergy) is not None
    for names, when, expected in (
        (("energy",), offered(problem, row.needs) is None, f"a task that offers {row.needs.__name__}; {offers}"),
        (("head", "energy"), not alone and method.head not in row.heads, f"head={' or '.join(row.heads)}"),
        (("scheme",), scheme in STAGES and offered(problem, InteractionEnergy) is None,
         f"a task that offers InteractionEnergy; {offers}"),
        (("scheme", "energy"), scheme == "forward" and not alone, "energy=interaction, or scheme=forward_backward"),
        (("scheme", "energy"), scheme == "forward_backward" and alone, "a further energy, or scheme=forward"),
        (("scheme", "energy"), scheme in TRAPEZOIDS and not (alone or starts),
         "energy=kl or entropy, and a log-density of P_0, for dF/dP(P_0)"),
        (("head", "energy"), method.head == "plain" and method.energy == "entropy" and odd,
         "a task whose exponent m is even, as h may be below 0; or head=squared"),
        (("raw", "radial"), method.raw and bool(method.radial), "radial=false: its distance is in units of mu_k"),
        (("proposal", "energy"), method.proposal != "iid" and method.energy != "kl",
         "energy=kl: the others draw from the target or a region"),
        (("follow", "energy"), method.follow > 0 and method.energy != "kl",
         "energy=kl: the others draw from the target or a region"),
        (("follow", "scheme"), method.follow > 0 and scheme in TRAPEZOIDS, "scheme=backward: its mu_k is one law"),
        (("batch", "proposal"), method.proposal == "matched" and method.batch <= problem.shape[0],
         f"a batch of more than {problem.shape[0]} points, the task's dimension, to match moments"),
        (("batch",), method.batch < 2 and pairs, "a batch of 2 points or more, for the interaction energy"),
        (("rows", "energy"), method.rows is not None and not (method.energy == "kl" and data and data.batch),
         f"energy=kl of a target made of data rows (blr); {offers}"),
    ):  # fmt: skip
        refuse(method, *names, when=when, expected=expected)


class _Forward:
    """x - a grad(W * P_k)(x), with particles of the pool for P_k."""

    def __init__(self, method: VJKO, problem: Problem, rng: Streams, state: State):
        self._kernel, self._forces = problem[InteractionEnergy].kernel, method.forces

    def state(self) -> State:
        return {}

    def solve(self, pool: Tensor, k: int, a: float) -> jko_step.Shift:
        return jko_step.Shift(a, self._kernel, pool[:, : self._forces].clone())


class _Backward:
    """T and the network under h, each with its optimiser, from one JKO step to the next."""

    def __init__(self, method: VJKO, problem: Problem, rng: Streams, state: State):
        self._method, self._problem, self._rng = method, problem, rng
        self._row = TABLE[method.energy]
        pairs = None if method.scheme == "forward_backward" else offered(problem, InteractionEnergy)
        self._kernel = pairs and pairs.kernel
        self._last: Proposal | None = None  # the proposal of the step before, for dF/dP(P_k)
        (d,) = problem.shape
        ends = "all" if method.prelu_output else "hidden"
        self._net = network(method.map, d, method.width, method.depth, rng.fork("map"), method.strong, ends)
        self._adams = {"map": self._adam(self._net, method.lr)}
        if self._row.heads:
            hidden = [method.critic_width or method.width] * (method.critic_depth or method.depth)
            itself = method.energy == "entropy" and method.head == "plain"  # the network is h, not log h
            ends = "all" if itself or method.head == "squared" else "hidden"
            self._raw = MLP((d + bool(method.radial), *hidden, 1), rng.fork("critic"), ends)
            with torch.no_grad():  # start at h = 1, which is right for T = id and Gaussian P_k
                self._raw.layers()[-1][1].fill_(1.0 if itself else HEADS[method.head].one)
            self._adams["critic"] = self._adam(self._raw, method.critic_lr or method.lr)
        self._trainer = Trainer(self._adams)
        if state["k"]:
            self._load(state)

    def _adam(self, net: Network | MLP, lr: float) -> Adam:
        return Adam(net.parameters, lr, decay=self._method.weight_decay)

    def _load(self, state: State) -> None:
        for name, adam in self._adams.items():
            adam.load(below(name, state))
        kept = {name: torch.as_tensor(part) for name, part in below("before", state).items()}
        if kept:
            method = self._method
            region = Box if method.box else Ellipsoid
            self._last = (region if method.energy == "entropy" else PROPOSALS[method.proposal])(**kept)

    def state(self) -> State:
        last = self._last
        kept = {} if last is None else {field.name: getattr(last, field.name) for field in fields(last)}
        return joined({**{name: adam.state() for name, adam in self._adams.items()}, "before": kept})

    def solve(self, pool: Tensor, k: int, a: float) -> Transport:
        """Algorithm 1: train T and h for JKO step k, of length a, on the pool."""
        method, rng = self._method, self._rng
        mu = PROPOSALS[method.proposal].fitted(pool)
        gamma = method._region(pool) if method.energy == "entropy" else mu
        if method.start == "identity":
            self._net.to_identity()
            self._adams["map"].forget()
        transport = Transport.of(self._net, None if method.map == "linear" or method.raw else mu)
        following = None
        if method.follow and not isinstance(gamma, Box | Ellipsoid):
            following = Following(gamma, method.follow)
            gamma = following.law
        raw = energy = before = None
        if self._row.heads:
            target = None
            if method.energy == "kl":
                target = jko_step.on_rows(self._problem[LogDensity], method.rows, rng.fork(f"rows/{k}"))
            raw, energy = self._raw, self._functional(gamma, target)
            if method.scheme in TRAPEZOIDS:
                before, self._last = self._before(energy), gamma
        drawn = self._problem[TargetSamples] if self._row.needs is TargetSamples else gamma
        game = Game(
            pool, method.batch, a, transport, raw, energy, drawn, before, self._kernel, method.partners, method.scheme,
            method.dropout, method.dropout_from, following,
        )  # fmt: skip
        late = method.halve_after is not None and k > method.halve_after
        rounds = Rounds(
            method.iterations, method.critic_steps, method.map_steps, method.decay, method.late_lr if late else 1.0
        )
        warmup = 0 if method.map == "linear" else method.iterations
        warmup = warmup if method.warmup is None else method.warmup
        if k == 1 and warmup and energy:
            noise = rng.fork("warmup")
            alone = replace(rounds, iterations=warmup, map_steps=0, decay="none")
            self._trainer.train(game, alone, Noise(noise.fork("shuffle"), noise.fork("proposal"), noise))
        noise = Noise(*(rng.fork(f"{name}/{k}") for name in ("shuffle", "proposal", "dropout")))
        self._trainer.train(game, rounds, noise)
        return transport

    def _functional(self, proposal: Proposal, target: LogDensity | None) -> Functional:
        bound = self._row.bound
        if bound is None:
            assert isinstance(proposal, Ellipsoid | Box)
            internal = self._problem[InternalEnergy]
            bound = entropy(internal.m, internal.weight, proposal.log_volume)
        head, radial = HEADS[self._method.head], bool(self._method.radial)
        white = self._method.map != "linear" and not self._method.raw
        return Functional(bound, head, proposal, radial or white, radial, target)

    def _before(self, energy: Functional) -> Field:
        """dF/dP at P_k: by the critic as the step before has left it, or by the density of P_0."""
        if self._last is not None:
            return self._functional(self._last, energy.target).variation(copy.deepcopy(self._raw))
        log_p = self._problem[Initial].log_prob
        assert log_p is not None
        return energy.variation_at(log_p)


STAGES = {"forward": (_Forward,), "forward_backward": (_Forward, _Backward)}  # of other schemes: _Backward alone
TRAPEZOIDS = ("crank_nicolson", "section_b")
