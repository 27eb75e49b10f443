"""Leaderboards as Markdown and as CSV."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from gwfbench import escape
from gwfbench.plugins import registry
from gwfbench.report.board.cells import NO_CELL
from gwfbench.report.board.grades import FEW, Grade
from gwfbench.report.board.leaderboard import Board, frame
from gwfbench.report.board.lines import Line

if TYPE_CHECKING:
    from gwfbench.audit.verdict import Verdict

Safe = Callable[[str], str]  # one of gwfbench.escape

HEADS = {
    "seconds": "train s",
    "units": "units",
    "score_calls": "score calls",
    "sample_seconds": "sample s",
    "sample_calls": "calls/point",
}
TO_ACCURACY = ("grads_to_accuracy", "calls to b2 < 0.01")  # a column of boards that have it
USES = {
    "LogDensity": "density",
    "TargetSamples": "samples",
    "InternalEnergy": "internal energy",
    "InteractionEnergy": "interaction",
    "Encoder": "encoder",
}
NOTES = (
    "Median over seeds [95 % interval of the median] (for two seeds: their range) at the last judged time. exact: "
    "draws from the truth, the noise floor. still: draws of P_0, never moved. <= floor: shown to be within 5 % of the "
    "way from exact to still, and not distinguishable from exact. tier, by the first metric: methods that use the "
    "same information and share a letter can't be told apart (paired t tests over seeds, on logarithms where all "
    "values are positive; Holm's correction; 5 %); -: no letter, see below the table. uses: information about the "
    "target that a method gets. seeds: finished/total; a failed seed, and one without a value, counts as the worst. "
    "train s: training time without evaluation. units: train s divided by the time of a fixed piece of work on the "
    "same device during the run; compare units, not seconds, between machines and hours; -: not timed. sample s, "
    "calls/point: cost of moving the judged points."
)
OVER_TASKS = (
    "Each table is about the tasks named below it; all its methods were run on all these tasks. score: 0 is exact, 1 "
    "is no better than still (each seed is compared with exact and still under the same seed), by the first metric of "
    "the task that tells the two apart, at the last law; mean over seeds, then over tasks; a failed seed scores 1. "
    "solved: share of tasks on which the median seed reaches a score of 0.1. seconds x2, x10: share of tasks on which "
    "it does so in at most 2 or 10 times the seconds of the fastest method of the table (in units, where all rows "
    "have them). calls x2, x10: the same for oracle calls, which are points passed to the target's score or its "
    "log-density (the larger number), or drawn from the target. Where only the last laws are kept, the cost is that "
    "of the whole run."
)
MARKS = {"floor": "<= floor ", "alarm": "ALARM ", "": ""}


def cell(line: Line, metric: str, most: float) -> str:
    """Median, verdict, interval, and the number of points where that is not the usual one."""
    its = line.cells.get(metric, NO_CELL)
    if math.isnan(its.value):
        return "-"
    shown = its.shown
    n = f"(n = {its.n:.0f})" if its.n != most else ""
    return " ".join(filter(None, [MARKS[its.verdict] + shown["value"], shown["interval"], n]))


def usual(lines: Iterable[Line], metric: str) -> float:
    """The number of points that most lines have, the largest of several."""
    counts = Counter(line.cells[metric].n for line in lines if metric in line.cells)
    return max((n for n in counts if not math.isnan(n)), key=lambda n: (counts[n], n), default=math.nan)


def costs_of(board: Board) -> dict[str, str]:
    """The costs that a board shows, and their heads."""
    judged = any(TO_ACCURACY[0] in line.costs for line in board.lines)
    timed = any(not math.isnan(line.costs.get("units", math.nan)) for line in board.lines)
    heads = HEADS if timed else {name: head for name, head in HEADS.items() if name != "units"}
    return heads | dict([TO_ACCURACY] if judged else [])


def _head(board: Board, safe: Safe) -> list[str]:
    return ["method", "tier", *map(safe, board.metrics), "seeds", *costs_of(board).values(), "uses"]


def _body(board: Board, safe: Safe) -> list[list[str]]:
    counts = {name: usual(board.lines, name) for name in board.metrics}
    costs = costs_of(board)
    return [
        [
            safe(line.method), line.tier or "-", *(cell(line, name, n) for name, n in counts.items()),
            str(line.seeds), *(_cost(line.costs.get(cost, math.nan)) for cost in costs), safe(uses(line.information)),
        ]
        for line in board.lines
    ]  # fmt: skip


def _cost(value: float, form: str = ".3g") -> str:
    return "-" if math.isnan(value) else format(value, form)


def uses(information: str) -> str:
    """The infos that a method uses, in short words; all may use P_0."""
    return ", ".join(USES.get(name, name) for name in information.split() if name != "Initial") or "-"


def title(board: Board) -> str:
    return board.task + ("" if math.isnan(board.t) else f" at t = {board.t:g}")


def provenance(rows: pd.DataFrame, environments: dict[str, dict[str, Any]]) -> str:
    """The environments as Markdown, a line for each, with the tasks and methods that ran in it."""
    lines = []
    for env, part in rows.groupby("env", sort=False):
        facts = environments.get(str(env)) or {"environment": f"{env}, whose facts are lost"}
        shown = escape.markdown(", ".join(f"{key} {value}" for key, value in facts.items()))
        runs = part.drop_duplicates(["run_key", "attempt"])
        what = escape.markdown("; ".join(
            f"{task}: {', '.join(map(registry.short, dict.fromkeys(group['method'])))}"
            for task, group in runs.groupby("task", sort=False)
        ))  # fmt: skip
        lines.append(f"- {len(runs)} runs ({what}) with {shown}.")
    return "## What ran where\n\n" + "\n".join(lines) + "\n"


def pivoted(boards: Sequence[Board]) -> str:
    """The leaderboards as Markdown, a section per metric, the tasks side by side."""
    heads = _task_heads([board.task for board in boards])
    methods = list(dict.fromkeys(line.method for board in boards for line in board.lines))
    of_task = [{line.method: line for line in board.lines} for board in boards]
    every = [line for board in boards for line in board.lines]
    names = [name for name in dict.fromkeys(name for board in boards for name in board.better)
             if any(name in board.metrics for board in boards)]  # fmt: skip

    def section(title: str, text: Callable[[Line], str]) -> str:
        body = [
            [escape.markdown(name), *(text(lines[name]) if name in lines else "-" for lines in of_task)]
            for name in methods
        ]
        table = pd.DataFrame(body, columns=["method", *map(escape.markdown, heads)])
        shown = table.to_markdown(index=False, disable_numparse=True)
        return f"## {escape.markdown(title)}\n\n{shown}\n"

    counts = {name: usual(every, name) for name in names}
    parts = [section(name, lambda line, name=name: cell(line, name, counts[name])) for name in names]
    if names:
        parts.insert(1, section(f"tier by {names[0]}", lambda line: line.tier or "-"))
    parts.append(section("seeds", lambda line: str(line.seeds)))
    parts.append(section(HEADS["seconds"], lambda line: _cost(line.costs["seconds"], ".2g")))
    said = [f"{board.task}: {remark}" for board in boards for remark in [*power(board), *board.remarks]]
    return "\n".join([*parts, *_list(said), *_list(named(boards)), NOTES, ""])


def _task_heads(tasks: Sequence[str]) -> list[str]:
    """Tasks as heads of columns: their settings alone where all are the same task."""
    same = len({task.partition(":")[0] for task in tasks}) == 1
    return [(task.partition(":")[2] or task) if same else task for task in tasks]


def texts(board: Board, safe: Safe) -> pd.DataFrame:
    """One task's board as text in cells, in which names are made safe for where it goes."""
    return pd.DataFrame(_body(board, safe), columns=_head(board, safe))


def csv(boards: Sequence[Board], form: str | None = None) -> str:
    """The leaderboards as one CSV, without a formula in it."""
    table = frame(boards)
    safe = table.map(lambda value: escape.csv(value) if isinstance(value, str) else value)
    return safe.rename(columns=escape.csv).to_csv(index=False, float_format=form)


def markdown_table(board: Board) -> str:
    """One task's board as a Markdown table."""
    return texts(board, escape.markdown).to_markdown(index=False, disable_numparse=True)


def markdown(boards: Sequence[Board]) -> str:
    """The leaderboards as Markdown, a section per task."""
    parts = []
    for board in boards:
        said = "\n".join(_list([*power(board), *board.remarks]))
        parts.append(f"## {escape.markdown(title(board))}\n\n{markdown_table(board)}\n\n{said}".rstrip("\n") + "\n")
    return "\n".join([*parts, *_list(named(boards)), NOTES, ""])


def named(boards: Sequence[Board]) -> list[str]:
    """The named settings on these boards, each with its fields, its track and its source, in a sentence."""
    names = {line.method.partition(" [")[0].partition(":")[0] for board in boards for line in board.lines}
    said = []
    for name, at, setting in (name.partition("@") for name in sorted(names)):
        found = registry.plugins("method")[name].settings[setting] if at else None
        if found:
            said.append(f"{name}@{setting} is {name}:{found.fields} (track {found.track}; {found.source}).")
    return said


def _list(sentences: Sequence[str]) -> list[str]:
    return [*(f"- {escape.markdown(one)}" for one in sentences), ""] if sentences else []


def power(board: Board, metric: str = "", graded: Mapping[str, Grade] | None = None) -> list[str]:
    """Sentences on what one task's seeds can show in a metric, and on methods without a letter.

    Args:
        metric: and its grades; the board's first one if it is not given.
    """
    metric, graded = metric or next(iter(board.better), ""), board.graded if graded is None else graded
    information = {line.method: uses(line.information) for line in board.lines}
    gaps = {information[method]: grade for method, grade in graded.items() if grade.detectable}
    said = []
    if gaps:
        shown = "; ".join(f"{grade.detectable} ({who}{_warning(grade)})" for who, grade in gaps.items())
        said.append(f"Smallest difference of two methods in {metric} that this board finds in 80 % of cases: {shown}.")
    reasons: dict[str, list[str]] = {}
    for method, grade in graded.items():
        if grade.why and not (grade.why == FEW and grade.detectable):
            reasons.setdefault(grade.why, []).append(method)
    said += [f"No tier for {', '.join(methods)}: {why}." for why, methods in reasons.items()]
    return said


def _warning(grade: Grade) -> str:
    """What to think of letters on such a board."""
    if grade.why == FEW:
        return ": too few seeds for tiers"
    return ": a shared letter says little" if grade.weak and not grade.why else ""


def over_tasks(table: pd.DataFrame) -> str:
    """The scores over tasks as Markdown, with what they mean."""
    if not len(table):
        return ""
    parts = []
    for key, part in table.groupby(["uses", "tasks"], sort=False):
        group, tasks = map(str, key)
        shown = part.drop(columns=["uses", "tasks"]).assign(score=part["score"].map(lambda x: f"{x:.2g}"))
        for name in shown.columns[2:]:
            shown[name] = shown[name].map(lambda x: f"{x:.2f}")
        shown["method"] = shown["method"].map(escape.markdown)
        text = shown.to_markdown(index=False, disable_numparse=True)
        parts.append(f"{text}\n\nUses: {escape.markdown(group)}. Tasks: {escape.markdown(tasks)}.")
    return "\n\n".join(["## How soon, over tasks", *parts, OVER_TASKS]) + "\n"


def verified(rows: pd.DataFrame, verdicts: Sequence[Verdict]) -> str:
    """How many of the runs were run again, and with which result, in a line; the newest verdict on each counts."""
    shown = set(zip(rows["run_key"], rows["attempt"], strict=True))
    newest = {(one.run_key, one.attempt): one for one in verdicts if (one.run_key, one.attempt) in shown}
    if not newest:
        return ""
    lines = [f"Verified: {len(newest)} of {len(shown)} runs were run again from their rows alone"]
    for word, count in Counter(one.verdict for one in newest.values()).most_common():
        lines.append(f"{count} {word}")
    text = "; ".join(lines) + f" (last on {max(one.date for one in newest.values())[:10]}).\n"
    for one in newest.values():
        if one.verdict in ("different", "not run"):
            said = f"{one.verdict.upper()}: {one.method} on {one.task}, seed {one.seed}: {one.what}. {one.why}"
            text += escape.markdown(said) + "\n"
    return text
