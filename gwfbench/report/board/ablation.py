"""What one field does: every method with and without it, over the seeds that both have."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from gwfbench import escape
from gwfbench.errors import UserError
from gwfbench.plugins.registry import head, short, typed
from gwfbench.report import stats
from gwfbench.report.board.leaderboard import Board, boards
from gwfbench.report.board.lines import Line

ALL = "all of them"
NOTE = """Each cell: median without -> median with; then the mean over seeds of the ratio with / without (or of the
difference, where values are not all positive) [95 % paired t interval]. *: significant at 5 % for all pairs of the
table together (Holm). A failed seed and one without a value count as the worst on the board. No interval: the
differences of all seeds are equal. all of them: the mean over methods, seed by seed, tested alone."""


@dataclass(frozen=True)
class Effect:
    """What a field does to one metric of one method on one task; of ALL methods, before and after are nan."""

    metric: str
    task: str
    method: str  # without the field
    before: float  # medians over seeds
    after: float
    effect: float  # ratio; difference where `ratio` is false
    low: float  # 95 % interval; nan for one seed
    high: float
    ratio: bool
    seeds: int
    p: float  # Holm's, over the methods of one metric; of ALL by itself


def ablation(rows: pd.DataFrame, change: str, metrics: Sequence[str] | None = None) -> list[Effect]:
    """Each method with the field as `change` says (`key=value`), next to the same method without it.

    Args:
        rows: the results table.
        metrics: which; None: the first that there is.

    Returns:
        By metric and task an effect for each method, and one for ALL where there are several.

    Raises:
        UserError: no method is there with and without the field, or there is no such metric.
    """
    made = boards(rows)
    pairs = list(_pairs({line.method: line for board in made for line in board.lines}, change))
    judged = list(dict.fromkeys(name for board in made for name in board.better))
    chosen = list(metrics or judged[:1])
    if not pairs or not set(judged) & set(chosen):
        raise UserError(
            f"report ablate {change}", "methods that ran with this field and without it",
            "for example: run --method gwf --method gwf:step=inf, then report ablate step=inf",
        )  # fmt: skip
    found: list[Effect] = []
    for metric in chosen:
        found += _corrected([effect for board in made for effect in _effects(board, metric, pairs)])
    return found


def _effects(board: Board, metric: str, pairs: Iterable[tuple[str, str]]) -> Iterator[Effect]:
    """The effects on one metric of one task, each p by itself."""
    lines = [line for line in board.lines if metric in line.cells]
    sign = -1 if any(line.cells[metric].better == "higher" for line in lines) else 1
    values = {
        line.method: dict.fromkeys(line.seeds.failed, math.nan)
        | {seed: sign * value for seed, (value, _) in line.cells[metric].values.items()}
        for line in lines
    }
    scaled, logs = stats.on_scale(values)
    unit = stats.resolution(value for own in values.values() for value in own.values())
    gaps = []
    for before, after in pairs:
        if before in scaled and after in scaled:
            without, with_it = scaled[before], scaled[after]
            gaps.append({seed: with_it[seed] - without[seed] for seed in with_it.keys() & without.keys()})
            medians = _median(without), _median(with_it)
            p = stats.differs(with_it, without, unit, logs)
            yield _effect(metric, board.task, before, medians, gaps[-1], logs, sign, p)
    shared = set.intersection(*map(set, gaps)) if gaps else set()
    if len(gaps) > 1 and shared:
        mean = {seed: float(np.mean([gap[seed] for gap in gaps])) for seed in shared}
        p = stats.differs(mean, dict.fromkeys(mean, 0.0))
        yield _effect(metric, board.task, ALL, (math.nan, math.nan), mean, logs, sign, p)


def _median(values: Mapping[int, float]) -> float:
    return float(np.median(list(values.values())))


def _effect(
    metric: str, task: str, method: str, medians: tuple[float, float], gaps: dict[int, float], logs: bool, sign: int,
    p: float,
) -> Effect:  # fmt: skip
    """From the differences over seeds on the scale of the test."""

    def back(value: float) -> float:
        return math.exp(value) if logs else sign * value + 0.0  # no -0

    mean, half = stats.paired(gaps)
    low, high = sorted([back(mean - half), back(mean + half)]) if math.isfinite(half) else (math.nan, math.nan)
    before, after = map(back, medians)
    return Effect(metric, task, method, before, after, back(mean), low, high, logs, len(gaps), p)


def _corrected(effects: Sequence[Effect]) -> list[Effect]:
    """With Holm's p over all methods and tasks; what is over ALL methods is tested alone."""
    ps = iter(stats.holm([effect.p for effect in effects if effect.method != ALL]))
    return [effect if effect.method == ALL else replace(effect, p=next(ps)) for effect in effects]


def markdown(effects: Sequence[Effect], change: str) -> str:
    """The effects as Markdown, a section per metric, the tasks side by side."""
    parts = []
    for metric in dict.fromkeys(effect.metric for effect in effects):
        cells = {(effect.task, effect.method): _cell(effect) for effect in effects if effect.metric == metric}
        tasks, names = (list(dict.fromkeys(key[i] for key in cells)) for i in (0, 1))
        methods = [*(name for name in names if name != ALL), ALL]
        body = [[escape.markdown(name), *(cells.get((task, name), "-") for task in tasks)] for name in methods]
        table = pd.DataFrame(body, columns=["method", *map(escape.markdown, tasks)])
        shown = table.to_markdown(index=False, disable_numparse=True)
        parts.append(f"## What `{escape.markdown(change)}` does to {escape.markdown(metric)}\n\n{shown}\n")
    return "\n".join([*parts, NOTE, ""])


def _pairs(lines: Mapping[str, Line], change: str) -> Iterator[tuple[str, str]]:
    """Methods without and with the field, by name on the board, of one precision, device class and budget."""
    key, _, value = change.partition("=")
    fields = {name: (typed(line.spec), name.removeprefix(short(line.spec))) for name, line in lines.items()}
    for after, (with_it, kind) in fields.items():
        if with_it.get(key) == value:
            without = {name: text for name, text in with_it.items() if name != key}
            for before, own in fields.items():
                if head(lines[before].spec) == head(lines[after].spec) and own == (without, kind):
                    yield before, after


def _cell(effect: Effect) -> str:
    sign = "x " if effect.ratio else ""
    interval = "" if math.isnan(effect.low) else " [{}, {}]".format(*stats.outwards(effect.low, effect.high))
    star = " *" if effect.p < stats.LEVEL else ""
    medians = "" if effect.method == ALL else f"{stats.rounded(effect.before)} -> {stats.rounded(effect.after)}: "
    return f"{medians}{sign}{stats.rounded(effect.effect)}{interval}{star}"
