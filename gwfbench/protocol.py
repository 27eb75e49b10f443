"""The interfaces: what a task gives, what a method yields, what a metric sees. Read this file first.

    task.build(streams)                 -> Instance(problem, truth)
    method.fit(problem, budget, streams) -> iterator of marginals (Drawn or Pushed)
    metric.evaluate(judged)             -> Estimate

A method sees only the `Problem`; metrics and controls see the `Truth` too. Shapes in one vocabulary: S seeds (always
first, S = 1 included), n points, d dimensions (or c, h, w for images); log-densities are (S, n).
"""

# An annotation in `Problem.grid` would change the code hash of every run:
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Any, ClassVar, Literal, Protocol, TypeVar, runtime_checkable

from torch import Tensor

from gwfbench.budget import Budget
from gwfbench.info import Draw, Field, Info
from gwfbench.rng import Streams

I = TypeVar("I", bound=Info)  # noqa: E741 - the contract's letter
V = TypeVar("V")
State = Mapping[str, Tensor | int | float]  # all that a method needs to go on from a law


@dataclass(frozen=True)
class Problem:
    """All that a method may see.

    Args:
        shape: of one point, (d,) or (c, h, w).
        times: flow times at which the law is judged, increasing; (inf,) where only the limit counts.
        infos: one value for each type that the task offers; `problem[LogDensity]` gets it.
    """

    shape: tuple[int, ...]
    times: tuple[float, ...]
    infos: tuple[Info, ...]

    def __getitem__(self, info: type[I]) -> I:
        for offered in self.infos:
            if isinstance(offered, info):
                return offered
        raise KeyError(f"this problem offers no {info.__name__}; add it to the method's `needs`")

    def grid(self, step: float, steps: int) -> tuple[float, ...]:
        """Flow times from 0 (left out) that hit every judged time, with steps of at most `step`, equal between two.

        Where only the limit counts: `steps` steps of `step`.
        """
        if math.isinf(self.times[-1]):
            return tuple(step * (k + 1) for k in range(steps))
        grid, start = [], 0.0
        for stop in self.times:
            count = max(1, math.ceil((stop - start) / step - 1e-9))  # 1e-9: 0.05 * 3 is not 0.15
            grid += [start + (stop - start) * i / count for i in range(1, count)] + [stop]
            start = stop
        return tuple(grid)


class Need(StrEnum):
    """What a metric needs of the truth; and of the judged law, see `OF_LAW`."""

    DRAW = "draw"
    MOMENTS = "moments"
    DENSITY = "density"
    SCORE = "score"
    ENERGY = "energy"
    LOG_Z = "log_z"
    LOG_PROB = "log_prob"
    FORWARD = "log_prob_anywhere"
    ESTIMATE = "estimate_of_log_z"


# What each law has or has not: its log-density at its own points, also at draws of the truth, and its own estimate of
# log Z or the first of these two.
OF_LAW = frozenset({Need.LOG_PROB, Need.FORWARD, Need.ESTIMATE})


@dataclass(frozen=True)
class Truth:
    """The answer, for metrics and controls only. `index` counts `problem.times`; what is not known is None.

    Args:
        draw: (index, n, streams) -> (S, n, d) independent draws of the law at that time.
        exact: closed form, or a certified reference run.
        limit: most points that one draw can give; None: any number.
        reference: like `draw`, what metrics compare with; None: `draw` itself. A truth that has only finitely many
            draws keeps the two apart (images: the test part), or exact draws would share points with their judge. It
            may give fewer than it is asked for.
        points: number of a law's points that metrics see; None: the task's own `points`.
        log_prob: (index, x) -> (S, n) normalised log-density.
        score: (index, x) -> (S, n, d) gradient of the log-density.
        moments: index -> mean (S, d) and covariance (S, d, d), float64.
        energy: index -> (S,), the energy F of the law at that time.
        integrand: (x, log-density of a law at x) -> (S, n), whose mean under that law is its energy F.
        jko: step sizes a_1 ... a_K -> the exact JKO sequence for them, as a truth with index = step - 1.
        metrics: metrics that only this task has.
        log_z: log of the integral of exp(log_prob) of the `LogDensity` that the problem offers, and its standard
            error, (S,) each, float64; the error is 0 for a closed form. Only where the limit alone counts, so that
            this `LogDensity` is the truth's log_prob + log_z.
    """

    draw: Callable[[int, int, Streams], Tensor] | None
    exact: bool
    limit: int | None = None
    reference: Callable[[int, int, Streams], Tensor] | None = None
    points: int | None = None
    log_prob: Callable[[int, Tensor], Tensor] | None = None
    score: Callable[[int, Tensor], Tensor] | None = None
    moments: Callable[[int], tuple[Tensor, Tensor]] | None = None
    energy: Callable[[int], Tensor] | None = None
    integrand: Callable[[Tensor, Tensor], Tensor] | None = None
    jko: Callable[[tuple[float, ...]], Truth] | None = None
    metrics: tuple[Metric, ...] = ()
    log_z: tuple[Tensor, Tensor] | None = None

    def lacks(self, metric: Metric, clock: Literal["jko", "flow", "none"]) -> str:
        """Why the metric can't judge laws of a contestant with this clock against this truth; empty if it can.

        What is needed of the laws (`OF_LAW`) is not asked here: each law has its own answer.
        """
        if metric.unavailable:
            return metric.unavailable
        if metric.law == "jko" and (self.jko is None or clock != "jko"):
            return "it compares JKO steps with the exact JKO sequence"
        known = {
            Need.DRAW: self.draw,
            Need.MOMENTS: self.moments,
            Need.DENSITY: self.log_prob,
            Need.SCORE: self.score,
            Need.ENERGY: self.energy and self.integrand,
            Need.LOG_Z: self.log_z,
        }
        missing = sorted(need for need in metric.needs - OF_LAW if known[Need(need)] is None)
        return f"the task's truth has no {', '.join(missing)}" if missing else ""


@dataclass(frozen=True)
class Instance:
    """One problem and its answer, kept apart."""

    problem: Problem
    truth: Truth


@dataclass(frozen=True)
class Drawn:
    """A law given by its draws: particles (`limit` is their number), generators, ODE flows. Valid until it resumes.

    `state`, here and below: what `Resumable.resume` needs to go on from this law; called before the method goes on.
    `log_z`: the method's own estimate of log Z, and its standard error (NaN where it has none), (S,) each.
    """

    t: float
    draw: Draw
    log_prob: Field | None = None
    limit: int | None = None
    state: Callable[[], State] | None = None
    log_z: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True)
class Pushed:
    """A law got by pushing the one yielded before (the first: P_0) one step: JKO maps, Langevin steps.

    `push` maps (S, n, d) to (S, n, d), with fresh noise from the streams if it needs any; `log_det` is log |det grad T|
    before the push, (S, n). Valid until the method resumes; one that offers `inverse` keeps its own frozen map, stays
    valid, and so has its density anywhere.
    """

    t: float
    push: Callable[[Tensor, Streams], Tensor]
    log_det: Field | None = None
    inverse: Field | None = None
    state: Callable[[], State] | None = None


Marginal = Drawn | Pushed


class Task(Protocol):
    """A problem with a known answer: a frozen dataclass whose fields are its parameters, a string below each field.

    offers: types of `info.py`.    metrics: names, headline first.    points: number of points that moment metrics see.
    version: raised when numbers change.    reference: BibTeX.    smoke: fields of a copy that ends in seconds.
    It may also have `files`, `optional` and `singular`, see `Defaults`, and a method `data_files`: the paths of a
    user's own files that it reads (those of a folder that a field names), in the order that counts. It raises
    `UserError` if they are missing, before anything runs. What they hold, not where they lie, is part of a run's
    identity.
    A method `remarks` gives sentences that are printed before a run: which metrics will be missing, how to get them.
    """

    offers: ClassVar[frozenset[type[Info]]]
    metrics: ClassVar[tuple[str, ...]]
    points: ClassVar[int]
    version: ClassVar[int]
    reference: ClassVar[str]
    smoke: ClassVar[Mapping[str, object]]

    def build(self, rng: Streams) -> Instance: ...


class Method(Protocol):
    """A way to move P_0 to the target: a frozen dataclass whose fields are its hyper-parameters, a string below each.

    clock: "jko" (each yield is one JKO step of length its advance in t), "flow" (t is the flow's time), or "none" (only
    the last law means anything).    seeds: "batched" if S > 1 trains at once, else "looped" (then S is 1).
    It may also have `one_of`, `optional` and `shapes`, see `Defaults`.
    """

    needs: ClassVar[frozenset[type[Info]]]
    clock: ClassVar[Literal["jko", "flow", "none"]]
    seeds: ClassVar[Literal["batched", "looped"]]
    version: ClassVar[int]
    reference: ClassVar[str]
    smoke: ClassVar[Mapping[str, object]]

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]: ...


class Defaults:
    """Class variables that a plug-in may leave out, and what then holds; `setting` reads them.

    files: paths of the data that a task's numbers depend on, in its package or next to its file. A folder stands for
    all files in it. They are part of the identity of a run's code.
    one_of: types of `info.py` of which a method needs at least one, in addition to all of `needs`; it gets all that the
    task offers.
    optional: types of `info.py` that a task offers in some of its settings, or that a method uses where they are.
    singular: whether a task's density has points of infinite force, as where two particles meet: a method whose laws
        reach them may diverge there, and `check` says so without calling it a failure.
    shapes: "vectors" if a method knows only points (S, n, d), so that images reach it flat and what it yields is put
    back into shape; "any" if it gets points as the task has them.
    """

    files: ClassVar[tuple[str, ...]] = ()
    one_of: ClassVar[frozenset[type[Info]]] = frozenset()
    optional: ClassVar[frozenset[type[Info]]] = frozenset()
    singular: ClassVar[bool] = False
    shapes: ClassVar[Literal["vectors", "any"]] = "vectors"


def setting(plugin: object, name: str) -> Any:
    """A class variable of `Defaults`, as a task or method, or its class, has it."""
    return getattr(plugin, name, getattr(Defaults, name))


@runtime_checkable
class Resumable(Method, Protocol):
    """A method that can go on from the state of a law that it yielded, with the same numbers as if never stopped.

    `resume` yields the laws after that one. Noise from `rng.fork(f"step/{k}")` needs no state of its own.
    """

    def resume(self, problem: Problem, budget: Budget, rng: Streams, state: State) -> Iterator[Marginal]: ...


@dataclass(frozen=True)
class Kept:
    """Values that metrics share, kept until the next law, or until the next law to compare with."""

    of_law: dict[Hashable, Any] = field(default_factory=dict)
    of_truth: dict[Hashable, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Judged:
    """What a metric sees of one marginal: never the method.

    Args:
        points: (S, n, d).
        log_prob: (S, n) log-density of the judged law at the points, where the marginal has one.
        truth, index: the law to compare with.
        rng: for a metric's own draws; equal for all methods.
        kept: values that need not be computed twice. This changes no number: alone, a metric gives the same value.
        forward: draws of the truth, (S, m, d), the same for all laws of this time, and the law's log-density there,
            (S, m); not numbers where it could not be computed.
        log_z: the law's own estimate of log Z and its standard error, (S,) each.
    """

    points: Tensor
    log_prob: Tensor | None
    truth: Truth
    index: int
    rng: Streams
    kept: Kept = field(default_factory=Kept)
    forward: tuple[Tensor, Tensor] | None = None
    log_z: tuple[Tensor, Tensor] | None = None

    def of_law(self, what: str, make: Callable[[], V]) -> V:
        """What `make` computes from the points alone: once for all metrics that see as many of them."""
        return _once(self.kept.of_law, (what, self.points.shape[1]), make)

    def of_truth(self, what: str, make: Callable[[], V]) -> V:
        """What `make` computes from the truth, `rng` and the number of points: once for all laws of this time."""
        return _once(self.kept.of_truth, (self.rng.path, what, self.points.shape[1]), make)

    def reference(self, n: int, rng: Streams | None = None) -> Tensor:
        """Draws of the law to compare with, (S, n, d), fewer where the truth has no more.

        Args:
            rng: None: `self.rng.fork("points")`.

        Raises:
            ValueError: the truth has no draws; a metric that calls this names `Need.DRAW`.
        """
        draw = self.truth.reference or self.truth.draw
        if draw is None:
            raise ValueError("the truth has no draws")
        return draw(self.index, min(n, self.truth.limit or n), rng or self.rng.fork("points"))


def _once(kept: dict[Hashable, Any], what: Hashable, make: Callable[[], V]) -> V:
    if what not in kept:
        kept[what] = make()
    return kept[what]


@dataclass(frozen=True)
class Estimate:
    """A metric's values and standard errors, (S,) each, and the number of points used."""

    value: Tensor
    se: Tensor
    n: int


@dataclass(frozen=True)
class Metric:
    """One function of points, log-densities and truth.

    Args:
        name: as in leaderboards.
        evaluate: the function.
        points: most points it is given; None: all that the task asks for.
        needs: what must be known of the truth and of the law.
        law: "flow" compares with the flow at that time, "jko" with the exact JKO sequence for the method's own steps.
        at: "each" judged law; or the "last" one alone, for a metric that takes long: at the last judged time, or where
            only the limit counts at the end of a run. The first of a task's metrics that can judge is at each law.
        better: "lower" or "higher".
        version: raised when numbers change.
        source: paper and equation, and how the standard error is made.
        unavailable: why it can't be computed on this machine (a network's weights are missing); empty if it can.
        bound: whether no law is better than the truth except for chance, though higher is better: exact draws are then
            the floor, as they are where lower is better.
    """

    name: str
    evaluate: Callable[[Judged], Estimate]
    points: int | None
    source: str
    needs: frozenset[Need] = frozenset()
    law: Literal["flow", "jko"] = "flow"
    at: Literal["each", "last"] = "each"
    better: Literal["lower", "higher"] = "lower"
    version: int = 1
    unavailable: str = ""
    bound: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "needs", frozenset(map(Need, self.needs)))

    def against(self, truth: Truth, path: tuple[float, ...], index: int) -> tuple[Truth, int]:
        """The truth, and the index into it, that a law is compared with.

        Args:
            path: flow times of the laws so far, 0 first and the judged one last.
            index: of the judged time.

        Raises:
            ValueError: the truth knows no exact JKO sequence.
        """
        if self.law == "flow":
            return truth, index
        if truth.jko is None:
            raise ValueError("the truth knows no exact JKO sequence")
        return truth.jko(tuple(after - before for before, after in pairwise(path))), len(path) - 2
