"""Two result sets, cell by cell: did a change alter the results, and what is new?

A cell is a method on a task in one metric, at its last law. Its values now and then are put next to each other under
the same seeds; a seed that failed, or has no value, counts as the worst on either board.

    identical      the same seeds, with the same values and the same ends
    better, worse  the paired t test tells them apart (`stats.differs`), 5 % for all cells together (Holm); worse is
                   also a cell with more failed seeds than before
    not told apart neither; with fewer than two seeds in common nothing can be told: the values have changed, no more
    incomparable   judged by another version of the metric, or at another number of points
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd

from gwfbench import escape
from gwfbench.report import stats
from gwfbench.report.board.leaderboard import Board, boards
from gwfbench.report.board.lines import Line
from gwfbench.report.table import contestants

Outcome = Literal["identical", "better", "worse", "not told apart", "incomparable", "only now", "only then"]
ORDER: tuple[Outcome, ...] = (
    "worse", "better", "not told apart", "identical", "incomparable", "only now", "only then",
)  # fmt: skip
LISTED = ("worse", "better", "incomparable")  # cell by cell; of the others their number


@dataclass(frozen=True)
class Change:
    """One cell in two result sets; values are medians over seeds, nan where there is none."""

    task: str
    method: str
    metric: str
    outcome: Outcome
    then: float = math.nan
    now: float = math.nan
    seeds: int = 0  # in common
    p: float = math.nan  # of the test, Holm's
    why: str = ""


def changes(now: pd.DataFrame, then: pd.DataFrame, metrics: Sequence[str] | None = None) -> list[Change]:
    """All cells of two results tables, the worse ones first.

    Args:
        metrics: which; None: all.
    """
    now, then = contestants(now), contestants(then)
    versions = [_versions(rows) for rows in (now, then)]
    new, old = ({board.task: board for board in boards(rows)} for rows in (now, then))
    found: list[Change] = []
    for task in dict.fromkeys([*old, *new]):
        if task in new and task in old:
            found += _on_task(new[task], old[task], [each.get(task, {}) for each in versions])
        else:
            found += _alone(new.get(task) or old[task], "only now" if task in new else "only then")
    found = [change for change in found if not metrics or change.metric in metrics]
    tested = [change for change in found if not math.isnan(change.p)]
    corrected = dict(zip(map(id, tested), stats.holm([change.p for change in tested]), strict=True))
    settled = [_settled(replace(one, p=corrected[id(one)]) if id(one) in corrected else one) for one in found]
    return sorted(settled, key=lambda one: ORDER.index(one.outcome))


def _settled(change: Change) -> Change:
    """With the outcome that the corrected p gives; `outcome` was the direction."""
    told = change.p < stats.LEVEL or change.outcome not in ("better", "worse") or bool(change.why)
    return change if told else replace(change, outcome="not told apart")


def _versions(rows: pd.DataFrame) -> dict[str, dict[str, int]]:
    """The newest version of each metric, by task."""
    judged = rows[rows["metric"].notna()]
    newest = judged.groupby(["task", "metric"])["metric_version"].max()
    found: dict[str, dict[str, int]] = {}
    for (task, metric), version in newest.items():  # type: ignore[misc]
        found.setdefault(task, {})[metric] = int(version)
    return found


def _on_task(now: Board, then: Board, versions: Sequence[Mapping[str, int]]) -> Iterator[Change]:
    new, old = ({line.method: line for line in board.lines} for board in (now, then))
    for method in dict.fromkeys([*old, *new]):
        lines = new.get(method), old.get(method)
        for metric in dict.fromkeys([*then.metrics, *now.metrics]):
            here = [line is not None and (metric in line.cells) for line in lines]
            if all(here):
                yield _cell(metric, (now, then), lines, [each.get(metric) for each in versions])  # type: ignore[arg-type]
            elif any(here):
                yield Change(now.task, method, metric, "only now" if here[0] else "only then")


def _alone(board: Board, outcome: Outcome) -> Iterator[Change]:
    for line in board.lines:
        for metric in line.cells:
            yield Change(board.task, line.method, metric, outcome)


def _cell(metric: str, both: tuple[Board, Board], lines: tuple[Line, Line], versions: Sequence[int | None]) -> Change:
    """One cell; its p by itself."""
    new, old = (line.cells[metric] for line in lines)
    plain = Change(both[0].task, lines[0].method, metric, "identical", old.value, new.value)
    if versions[0] != versions[1]:
        return replace(plain, outcome="incomparable", why=f"version {versions[1]} of the metric, now {versions[0]}")
    if new.n != old.n:
        return replace(plain, outcome="incomparable", why=f"n = {old.n:g}, now {new.n:g}")
    sign = -1 if both[0].better[metric] == "higher" else 1
    values = {
        name: dict.fromkeys(line.seeds.failed, math.nan)
        | {seed: sign * value for seed, (value, _) in line.cells[metric].values.items()}
        for name, line in zip(("now", "then"), lines, strict=True)
    }
    if _equal(values["now"], values["then"]):
        return replace(plain, seeds=len(values["now"]))
    others = [
        sign * value
        for board in both
        for line in board.lines
        if metric in line.cells
        for value, _ in line.cells[metric].values.values()
    ]
    scaled, logs = stats.on_scale(values, others)
    shared = scaled["now"].keys() & scaled["then"].keys()
    broken = {seed for seed in shared if _failed(values["now"][seed]) and not _failed(values["then"][seed])}
    if broken:
        seeds = ", ".join(map(str, sorted(broken)))
        return replace(plain, outcome="worse", seeds=len(shared), why=f"fails on seeds that finished before: {seeds}")
    if len(shared) < 2:
        return replace(plain, outcome="not told apart", seeds=len(shared), why="fewer than two seeds in common")
    unit = stats.resolution([*others, *values["now"].values(), *values["then"].values()])
    p = stats.differs(scaled["now"], scaled["then"], unit, logs)
    gap = sum(scaled["now"][seed] - scaled["then"][seed] for seed in shared)
    return replace(plain, outcome="worse" if gap > 0 else "better", seeds=len(shared), p=p)


def _failed(value: float) -> bool:
    return not math.isfinite(value)


def _equal(one: Mapping[int, float], other: Mapping[int, float]) -> bool:
    return one.keys() == other.keys() and all(
        value == other[seed] or (math.isnan(value) and math.isnan(other[seed])) for seed, value in one.items()
    )


def sentence(found: Sequence[Change]) -> str:
    """How many cells of each kind."""
    counts = Counter(change.outcome for change in found)
    parts = [f"{counts[word]} {word}" for word in ORDER if counts[word]]
    return f"{len(found)} cells: {', '.join(parts)}."


def frame(found: Sequence[Change]) -> pd.DataFrame:
    """A row for each cell."""
    names = list(Change.__dataclass_fields__)
    return pd.DataFrame([{name: getattr(one, name) for name in names} for one in found], columns=names)


def markdown(found: Sequence[Change]) -> str:
    """The sentence, the cells that have changed, and what is in one set alone."""
    parts = [sentence(found)]
    shown = [one for one in found if one.outcome in LISTED]
    if shown:
        table = pd.DataFrame({
            "": [one.outcome for one in shown],
            "task": [escape.markdown(one.task) for one in shown],
            "method": [escape.markdown(one.method) for one in shown],
            "metric": [escape.markdown(one.metric) for one in shown],
            "then": [_number(one.then) for one in shown],
            "now": [_number(one.now) for one in shown],
            "seeds": [str(one.seeds or "-") for one in shown],
            "p": [one.why or f"{one.p:.2g}" for one in shown],
        })  # fmt: skip
        parts.append(table.to_markdown(index=False, disable_numparse=True))
    for word in ("only now", "only then"):
        alone = [one for one in found if one.outcome == word]
        whole = dict.fromkeys((one.task, one.method) for one in alone)
        if whole:
            metrics = {key: [one.metric for one in alone if (one.task, one.method) == key] for key in whole}
            names = "; ".join(f"{method} on {task} ({', '.join(own)})" for (task, method), own in metrics.items())
            parts.append(f"{word.capitalize()}: {escape.markdown(names)}.")
    parts.append(
        "Medians over seeds at the last judged law. better, worse: by paired t tests under the same seeds, "
        "at 5 % for all cells together (Holm); a failed seed counts as the worst value."
    )
    return "\n\n".join(parts) + "\n"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"
