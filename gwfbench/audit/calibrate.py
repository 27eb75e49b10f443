"""What each metric sees on each task: its floor, its value for the law that never moved, and the least change it finds.

    floor   median over seeds for as many fresh draws of the truth         still   the same for the initial law
    shift   least d for which x + d s_u u is told from x                   scale   least e, for m + (1 + e)(x - m)

at the last judged time. u is a random unit direction of the first seed's problem and s_u the truth's standard deviation
along it. A change is found when the value of changed draws of the truth is beyond the 95 % quantile of the value of
unchanged ones (the 5 % quantile where higher is better) in at least 95 % of the trials. Each trial has one set of draws
for all changes (common random numbers). The least change on the grid 2^(k/4) is one that is found where the next
smaller is not; a bisection with a few of the trials says where to look. Densities follow the change.

All this means something only if the values of unchanged draws differ from trial to trial. A row is "not calibrated"
where they don't: the trials share half of their points or more (a truth of finitely many draws, of which nearly all are
drawn), their values are too few to tell the quantile (exact densities of exact draws give 0 each time), or the least
change of the grid is found.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

import torch
from torch import Tensor

from gwfbench.errors import UserError, require, unknown
from gwfbench.info import Initial
from gwfbench.metrics import choose as choose_metrics
from gwfbench.metrics import known as known_metrics
from gwfbench.plugins import registry
from gwfbench.plugins.registry import name_of, spec
from gwfbench.protocol import Estimate, Instance, Judged, Metric, Need, Task, Truth
from gwfbench.rng import Streams
from gwfbench.store import environment, fingerprint

VERSION = 3  # raised when numbers change
CHUNK = 65536  # points drawn at once
GRID = tuple(2 ** (k / 4) for k in range(-48, 17))  # 0.0002 to 16
FOUND = 0.95  # share of trials in which a change must be found
LEVEL = 0.05
DENSITIES = {Need.LOG_PROB, Need.ESTIMATE}  # at the judged points, as here no law has its own estimate of log Z
SHARED = 0.5  # share of points that two trials have in common from which on they are no trials
SAME = 1e-6  # of the largest value: differences up to this are rounding
KEPT = 2**28  # bytes of draws that are kept from one change to the next
PILOT = 25  # trials of the bisection
EFFORT = 6  # values that a search for both changes takes, over trials: the guess that is held against the budget


@dataclass(frozen=True)
class Row:
    """One metric on one task; what is not known is None."""

    task: str
    metric: str
    status: str  # ok; cut: power was left out, or cut short, for time; not calibrated; skipped; error
    note: str = ""
    t: float | None = None  # None: the limit
    better: str = "lower"
    n: int | None = None
    floor: float | None = None
    still: float | None = None
    ratio: float | None = None  # still / floor
    apart: float | None = None  # still worse than floor, in standard errors of one seed's difference
    shift: float | None = None  # inf: beyond the grid
    scale: float | None = None
    seconds: float | None = None  # of CPU, for one value
    seeds: str = ""
    trials: int = 0
    power_seconds: float = 0.0
    code: str = ""
    where: str = ""


@dataclass(frozen=True)
class Plan:
    """What is to be calibrated.

    Raises:
        UserError: something in it can't be done; nothing has run then.
    """

    tasks: tuple[Task, ...]
    metrics: tuple[str, ...] = ()  # none: those that each task names
    trials: int = 200
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    power_seconds: float = 60.0  # of CPU, a cell

    def __post_init__(self) -> None:
        require(self.trials >= 20, f"--trials {self.trials}", "at least 20", "leave it out for 200")
        good = 0 <= self.power_seconds < math.inf
        fix = "write --power-seconds 0 for no power at all"
        require(good, f"--power-seconds {self.power_seconds:g}", "a number of seconds, 0 or more", fix)
        known = set(known_metrics()).union(*(task.metrics for task in self.tasks))
        for name in self.metrics:
            if name not in known:
                raise unknown("metric", name, known, see="the metrics of each task in its file")

    @staticmethod
    def read(tasks: Iterable[str], chosen: Iterable[str], trials: int, seeds: tuple[int, ...], seconds: float) -> Plan:
        """From words: `name:key=value`; no task means all that can be used."""
        names = tuple(dict.fromkeys(tasks)) or tuple(k for k, v in registry.plugins("task").items() if not v.problem)
        built = tuple(registry.parse("task", name) for name in names)
        return Plan(built, tuple(dict.fromkeys(chosen)), trials, seeds, seconds)

    def blank(self, task: Task, metric: str) -> Row:
        """The row before anything is measured."""
        modules = [type(task).__module__]
        if metric in known_metrics():
            modules.append(known_metrics()[metric].evaluate.__module__)
        facts = environment.environment("cpu", 1)
        where = ", ".join(f"{key} {facts[key]}" for key in ("cpu", "threads", "python", "torch", "numpy", "commit"))
        return Row(
            spec(task), metric, "ok", seeds=" ".join(map(str, self.seeds)), trials=self.trials,
            power_seconds=self.power_seconds, code=f"{VERSION}-{fingerprint.code_hash(*modules)}", where=where,
        )  # fmt: skip


def measure(plan: Plan, done: Iterable[Row] = ()) -> Iterator[tuple[Row, bool]]:
    """Every row of the plan as soon as it is there, and whether it is new; those finished in `done` are kept."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    old = {(row.task, row.metric): row for row in done}
    try:
        for task in plan.tasks:
            first, built = _build(task, plan.seeds[0]), list[tuple[Instance, Streams]]()
            own = (metric.name for metric in first[0].truth.metrics)  # known once the problem is built
            for name in plan.metrics or dict.fromkeys([*task.metrics, *own]):
                blank = plan.blank(task, name)
                kept = old.get((blank.task, name))
                if kept is not None and _finished(kept, blank):
                    yield kept, False
                    continue
                built = built or [first, *(_build(task, seed) for seed in plan.seeds[1:])]
                with torch.no_grad():
                    yield _row(plan, task, name, built, blank), True
    finally:
        torch.set_num_threads(before)


def _finished(row: Row, blank: Row) -> bool:
    same = (row.code, row.seeds, row.trials) == (blank.code, blank.seeds, blank.trials)
    more = blank.power_seconds > row.power_seconds
    return same and row.status != "error" and not (row.status == "cut" and more)


def _build(task: Task, seed: int) -> tuple[Instance, Streams]:
    streams = Streams((seed,))
    return task.build(streams.fork(f"task/{name_of(task)}")), streams.fork("calibrate")


# ------------------------------------------------------------------------------------------------ one cell


@dataclass(frozen=True)
class _Cell:
    """One metric on one seed's problem."""

    metric: Metric
    instance: Instance
    truth: Truth  # that the metric compares with: of the flow, or of the exact JKO sequence
    index: int
    n: int
    rng: Streams

    def exact(self, name: str) -> tuple[Tensor, Tensor | None]:
        """Draws of the truth, (1, n, d), and their log-density where it is known."""
        draw, density, rng = self.truth.draw, self.truth.log_prob, self.rng.fork(f"points/{name}")
        assert draw is not None
        counts = [self.n] if self.truth.limit else [min(CHUNK, self.n - k) for k in range(0, self.n, CHUNK)]
        x = torch.cat([draw(self.index, count, rng) for count in counts], 1)
        return x, self._density(x, None if density is None else lambda part: density(self.index, part))

    def still(self, name: str) -> tuple[Tensor, Tensor | None]:
        """The same of the initial law."""
        start = self.instance.problem[Initial]
        x = start.draw(self.n, self.rng.fork(f"still/{name}"))
        return x, self._density(x, start.log_prob)

    def _density(self, x: Tensor, log_prob: Callable[[Tensor], Tensor] | None) -> Tensor | None:
        if log_prob is None or not self.metric.needs & DENSITIES:
            return None
        return torch.cat([log_prob(part) for part in x.split(CHUNK, 1)], 1)

    def judge(self, law: tuple[Tensor, Tensor | None], name: str) -> Estimate:
        rng = self.rng.fork(f"metric/{self.metric.name}/{name}")
        return self.metric.evaluate(Judged(*law, self.truth, self.index, rng))


def _why_not(metric: Metric, instance: Instance) -> str:
    """Why the metric can't be calibrated on this task; empty if it can."""
    truth, problem = instance.truth, instance.problem
    if truth.draw is None:
        return "the truth has no draws"
    if metric.law == "jko" and math.isinf(problem.times[-1]):
        return "only the limit counts: no JKO sequence"
    if metric.needs & DENSITIES and truth.log_prob is None:
        return "the task's truth has no density"
    if Need.FORWARD in metric.needs:
        return "it asks a law for its density at draws of the truth"
    return truth.lacks(metric, "jko")


def _cell(metric: Metric, task: Task, instance: Instance, rng: Streams) -> _Cell:
    times = instance.problem.times
    truth, index = metric.against(instance.truth, (0.0, *times), len(times) - 1)
    n = min(count for count in (truth.points or task.points, metric.points, truth.limit) if count)
    return _Cell(metric, instance, truth, index, n, rng)


def _row(plan: Plan, task: Task, name: str, built: list[tuple[Instance, Streams]], blank: Row) -> Row:
    instance = built[0][0]
    last = instance.problem.times[-1]
    try:
        metric = choose_metrics([name], instance.truth.metrics)[0]
    except UserError:
        return replace(blank, status="skipped", note="a metric of other tasks")
    blank = replace(blank, t=last if math.isfinite(last) else None, better=metric.better)
    reason = _why_not(metric, instance)
    if reason:
        return replace(blank, status="skipped", note=reason)
    # a task's own metrics are built with the problem: each seed has its own
    cells = [_cell(choose_metrics([name], one.truth.metrics)[0], task, one, rng) for one, rng in built]
    try:
        return _power(plan, cells[0], _bracket(cells, blank))
    except (ValueError, ArithmeticError, RuntimeError) as error:
        text = " ".join(str(error).split())
        return replace(blank, status="error", n=cells[0].n, note=f"{type(error).__name__}: {text}")


def _bracket(cells: list[_Cell], row: Row) -> Row:
    """The row with floor and still: each seed's own problem, both laws judged by the same random numbers."""
    floor: list[Estimate] = []
    still: list[Estimate] = []
    seconds = []
    for cell in cells:
        start = time.process_time()
        floor.append(cell.judge(cell.exact("floor"), "floor"))
        seconds.append(time.process_time() - start)
        law = cell.still("floor")
        if law[1] is not None or not cell.metric.needs & DENSITIES:
            still.append(cell.judge(law, "floor"))
    low = statistics.median(float(one.value) for one in floor)
    if not math.isfinite(low):
        raise ArithmeticError(f"its value for draws of the truth is {low:g}")
    row = replace(row, n=floor[0].n, floor=low, seconds=min(seconds))
    if not still:
        return replace(row, note="the initial law has no density")
    high = statistics.median(float(one.value) for one in still)
    error = math.hypot(*(statistics.median(float(one.se) for one in some) for some in (floor, still)))
    worse = high - low if row.better == "lower" else low - high
    apart = worse / error if error > 0 and math.isfinite(error) else None
    note = "" if worse > 5 * error or math.isinf(high) else "still is not clearly above the floor"
    return replace(row, still=high, ratio=high / low if low > 0 else None, apart=apart, note=note)


# ------------------------------------------------------------------------------------------------ power


class _Cut(Exception):
    """The cell's time is spent."""


class _NoNull(Exception):
    """The values of unchanged draws say nothing about chance; the text says why."""


def _power(plan: Plan, cell: _Cell, row: Row) -> Row:
    """The row with the least shift and scale that the metric finds, as far as the time goes."""
    assert row.seconds is not None
    guess = EFFORT * plan.trials * row.seconds
    found: dict[str, float] = {}
    try:
        row = replace(row, note=_join(row.note, _shared(cell)))
        if guess > plan.power_seconds:
            return replace(row, status="cut", note=_join(row.note, f"power not sought: about {guess:.0f} s"))
        _search(plan, cell, found)
        return replace(row, **found)
    except _NoNull as reason:
        return replace(row, status="not calibrated", note=_join(str(reason), row.note))
    except _Cut:
        return replace(row, **found, status="cut", note=_join(row.note, f"power cut at {plan.power_seconds:g} s"))


def _shared(cell: _Cell) -> str:
    """What to say of the points that two trials have in common, where the truth has finitely many draws."""
    if cell.truth.limit is None:
        return ""
    one, other = ([bytes(x.numpy()) for x in cell.exact(f"trial/{i}")[0][0].cpu()] for i in range(2))
    share = len(set(one).intersection(other)) / len(set(one))
    text = f"trials share {share:.0%} of their {cell.n} points"
    if share >= SHARED:
        raise _NoNull(f"{text}: the truth has too few draws for this n")
    return text if share >= 0.05 else ""


def _edge(usual: list[float]) -> float:
    """The value above which a change is found, from those of unchanged draws."""
    usual = sorted(usual)
    if any(math.isnan(one) for one in usual):
        raise ArithmeticError("its value for some draws of the truth is not a number")
    rounding = SAME * max((abs(one) for one in usual if math.isfinite(one)), default=0.0)
    different = 1 + sum(after - before > rounding for before, after in pairwise(usual))
    if different < min(len(usual) / 2, 1 / LEVEL):
        values = "the same value" if different == 1 else f"only {different} different values"
        raise _NoNull(f"{values} in {len(usual)} trials of unchanged draws")
    return usual[math.ceil((1 - LEVEL) * (len(usual) - 1))]


def _search(plan: Plan, cell: _Cell, found: dict[str, float]) -> None:
    """Put least shift and scale into `found`, as far as the time goes.

    Raises:
        _NoNull, _Cut, ArithmeticError: there are none, or they were not reached.
    """
    mean, direction = _frame(cell)
    sign = 1 if cell.metric.better == "lower" else -1
    deadline = time.process_time() + plan.power_seconds

    def draws(trial: int) -> tuple[Tensor, Tensor | None]:
        return cell.exact(f"trial/{trial}")

    if plan.trials * cell.n * mean.numel() * mean.element_size() <= KEPT:
        draws = cache(draws)

    def value(trial: int, shift: float, scale: float) -> float:
        if time.process_time() > deadline:
            raise _Cut
        x, log_prob = draws(trial)
        if scale:
            x = mean + (1 + scale) * (x - mean)
            log_prob = None if log_prob is None else log_prob - x[0, 0].numel() * math.log1p(scale)
        return sign * float(cell.judge((x + shift * direction, log_prob), f"trial/{trial}").value)

    edge = _edge([value(trial, 0.0, 0.0) for trial in range(plan.trials)])
    for kind in ("shift", "scale"):

        def hit(trial: int, size: float, kind: str = kind) -> bool:
            return value(trial, *((size, 0.0) if kind == "shift" else (0.0, size))) > edge

        size = least(hit, plan.trials)
        if size == GRID[0]:
            raise _NoNull(f"a {kind} by {size:.2g} is found: the values of unchanged draws hardly differ")
        found[kind] = size


def least(hit: Callable[[int, float], bool], trials: int) -> float:
    """The least size on the grid that is found in 95 % of the trials; inf if the largest is not.

    Args:
        hit: trial, size -> whether it is found.
    """
    known = cache(hit)

    def found(k: int, trials: int) -> bool:
        need, hits = math.ceil(FOUND * trials), 0
        for trial in range(trials):
            hits += known(trial, GRID[k])
            if hits >= need or trial + 1 - hits > trials - need:  # decided
                break
        return hits >= need

    low, k = -1, len(GRID)  # a few trials say where to look, all of them decide
    while k - low > 1:
        middle = (low + k) // 2
        low, k = (low, middle) if found(middle, min(trials, PILOT)) else (middle, k)
    k = min(k, len(GRID) - 1)
    if not found(k, trials):
        return next((GRID[more] for more in range(k + 1, len(GRID)) if found(more, trials)), math.inf)
    while k > 0 and found(k - 1, trials):
        k -= 1
    return GRID[k]


def _frame(cell: _Cell) -> tuple[Tensor, Tensor]:
    """The truth's mean and s_u u, (1, 1, d) both: from its moments, or else from draws."""
    shape, rng = cell.instance.problem.shape, cell.rng.fork("direction").host()
    u = rng.normal(math.prod(shape))[0]
    u = u / u.norm()
    if cell.truth.moments is not None:
        mean, covariance = (part[0].cpu() for part in cell.truth.moments(cell.index))
        spread = (u @ covariance @ u).sqrt()
    else:
        x = replace(cell, n=min(CHUNK, cell.truth.limit or CHUNK)).exact("frame")[0][0].flatten(1).double()
        mean, spread = x.mean(0), (x @ u).std()
    move = spread * u
    return mean.view(1, 1, *shape).to(cell.rng.dtype), move.view(1, 1, *shape).to(cell.rng.dtype)


def _join(first: str, second: str) -> str:
    return "; ".join(filter(None, (first, second)))
