"""Leaderboards as text: for a terminal, and as Markdown."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from gwfbench.report.board.leaderboard import Board, Line

if TYPE_CHECKING:
    from gwfbench.audit.verify import Verdict

HEADS = {
    "seconds": "train s",
    "score_calls": "score calls",
    "sample_seconds": "sample s",
    "sample_calls": "calls/point",
}
USES = {
    "LogDensity": "density",
    "TargetSamples": "samples",
    "InternalEnergy": "internal energy",
    "InteractionEnergy": "interaction",
}
NOTES = (
    "Median over seeds [95 % bootstrap interval] at the last judged time. exact: draws from the truth, the noise "
    "floor; <= floor: not distinguishable from it. still: never moves. tier, by the first metric: methods that use "
    "the same information and share a letter can't be told apart (paired t tests over seeds, on logarithms where all "
    "values are positive; Holm's correction; 5 %). uses: information about the target that a method gets. seeds: "
    "finished/total; a failed seed counts as the worst value. train s: training time without evaluation. sample s, "
    "calls/point: cost of moving the judged points."
)
OVER_TASKS = (
    "Methods that were run on at least two tasks. score: 0 is exact, 1 is no better than not moving, by each task's "
    "first metric at the last law; mean over seeds, then over tasks; a failed seed scores 1. solved: share of tasks "
    "on which the median seed reaches a score of 0.1. seconds x2: share of tasks on which it does so in at most twice "
    "the seconds of the fastest method that uses the same information; calls: points passed to the target's score or "
    "drawn from the target. Where only the last laws are kept, the cost is that of the whole run. Not all methods were "
    "run on the same tasks: compare those with the same number."
)
CLOCKS = ["seconds", "sample_seconds"]  # numbers that need not be kept to the last bit
MARKS = {"floor": "<= floor ", "alarm": "ALARM ", "": ""}


def cell(line: Line, metric: str, usual: float, break_line: str = " ") -> str:
    """Median, verdict, interval, and the number of points where that is not the usual one."""
    value = line.value(metric)
    if math.isnan(value):
        return "-"
    its = line.cells[metric]
    interval = "" if math.isnan(its.low) else f"{break_line}[{its.low:.2g}, {its.high:.2g}]"
    n = f"{break_line}(n = {its.n:.0f})" if its.n != usual else ""
    return f"{MARKS[its.verdict]}{value:.3g}{interval}{n}"


def _usual(lines: Iterable[Line], metric: str) -> float:
    """The number of points that most lines have, the largest of several."""
    counts = Counter(line.cells[metric].n for line in lines if metric in line.cells)
    return max((n for n in counts if not math.isnan(n)), key=lambda n: (counts[n], n), default=math.nan)


def _head(board: Board) -> list[str]:
    return ["method", "tier", *board.metrics, "seeds", *HEADS.values(), "uses"]


def _body(board: Board, break_line: str = " ") -> list[list[str]]:
    usual = {name: _usual(board.lines, name) for name in board.metrics}
    return [
        [
            line.method, line.tier or "-", *(cell(line, name, n, break_line) for name, n in usual.items()),
            str(line.seeds), *(_cost(line.costs[cost]) for cost in HEADS), uses(line.information),
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


def print_boards(boards: Sequence[Board]) -> None:
    """The leaderboards as tables for a terminal; wide as needed where there is none."""
    from rich.console import Console
    from rich.table import Table

    console = Console() if sys.stdout.isatty() else Console(width=200)
    for board in boards:
        table = Table(title=title(board), title_justify="left", header_style="bold")
        for name in _head(board):
            table.add_column(name, justify="left" if name == "method" else "right", overflow="fold")
        for line, cells in zip(board.lines, _body(board, "\n"), strict=True):
            table.add_row(*cells, style="" if line.role == "method" else "dim")
        console.print(table)
    console.print(NOTES, style="dim")


def provenance(rows: pd.DataFrame, environments: dict[str, dict[str, Any]]) -> str:
    """The environments as Markdown, a line for each, with the tasks and methods that ran in it."""
    lines = []
    for env, part in rows.groupby("env", sort=False):
        facts = environments.get(str(env)) or {"environment": f"{env}, whose facts are lost"}
        shown = ", ".join(f"{key} {value}" for key, value in facts.items())
        runs = part.drop_duplicates(["run_key", "attempt"])
        what = "; ".join(
            f"{task}: {', '.join(dict.fromkeys(group['method']))}" for task, group in runs.groupby("task", sort=False)
        )
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
        body = [[name, *(text(lines[name]) if name in lines else "-" for lines in of_task)] for name in methods]
        table = pd.DataFrame(body, columns=["method", *heads]).to_markdown(index=False, disable_numparse=True)
        return f"## {title}\n\n{table}\n"

    usual = {name: _usual(every, name) for name in names}
    parts = [section(name, lambda line, name=name: cell(line, name, usual[name])) for name in names]
    if names:
        parts.insert(1, section(f"tier by {names[0]}", lambda line: line.tier or "-"))
    parts.append(section("seeds", lambda line: str(line.seeds)))
    parts.append(section(HEADS["seconds"], lambda line: _cost(line.costs["seconds"], ".2g")))
    return "\n".join([*parts, NOTES, ""])


def _task_heads(tasks: Sequence[str]) -> list[str]:
    """Tasks as heads of columns: their settings alone where all are the same task."""
    same = len({task.partition(":")[0] for task in tasks}) == 1
    return [(task.partition(":")[2] or task) if same else task for task in tasks]


def texts(board: Board) -> pd.DataFrame:
    """One task's board as text in cells."""
    return pd.DataFrame(_body(board), columns=_head(board))


def markdown_table(board: Board) -> str:
    """One task's board as a Markdown table."""
    return texts(board).to_markdown(index=False, disable_numparse=True)


def markdown(boards: Sequence[Board]) -> str:
    """The leaderboards as Markdown, a section per task."""
    parts = [f"## {title(board)}\n\n{markdown_table(board)}\n{detectable(board)}" for board in boards]
    return "\n".join([*parts, NOTES, ""])


def detectable(board: Board) -> str:
    """The difference of two methods that one task's seeds would show, in a sentence; empty if it is not known."""
    found = {line.information: line.detectable for line in board.lines}
    said = [f"{gap} ({uses(information)})" for information, gap in found.items() if gap]
    if not said:
        return ""
    first = next(iter(board.better))
    gaps = "; ".join(said)
    return f"\nLeast difference in {first} between two methods that one test detects in 80 % of cases: {gaps}.\n"


def over_tasks(table: pd.DataFrame) -> str:
    """The scores over tasks as Markdown, with what they mean."""
    if not len(table):
        return ""
    shown = table.assign(
        score=table["score"].map(lambda x: f"{x:.2g}"),
        **{name: table[name].map(lambda x: f"{x:.2f}") for name in table.columns[4:]},
    )
    return f"## Over tasks\n\n{shown.to_markdown(index=False, disable_numparse=True)}\n\n{OVER_TASKS}\n"


def write_rows(rows: pd.DataFrame, path: Path) -> None:
    """The results table as CSV: values and errors to the last bit, clocks to six digits."""
    rounded = {name: rows[name].map(lambda x: float(f"{x:.6g}"), na_action="ignore") for name in CLOCKS}
    rows.assign(**rounded).to_csv(path, index=False)


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
            text += f"{one.verdict.upper()}: {one.method} on {one.task}, seed {one.seed}: {one.what}. {one.why}\n"
    return text
