"""Leaderboards as text: for a terminal, and as Markdown."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from gwfbench.verify import Verdict

HEADS = {
    "seconds": "train s",
    "score_calls": "score calls",
    "sample_seconds": "sample s",
    "sample_calls": "calls/point",
}
NOTES = (
    "Median over seeds [95 % bootstrap interval] at the last judged time. exact: draws from the truth, the noise "
    "floor; <= floor: not distinguishable from it. still: never moves. seeds: finished/total. train s: evaluation off "
    "the clock. sample s, calls/point: what moving the judged points cost."
)


CLOCKS = ["seconds", "sample_seconds"]  # no number that anybody will compare to the last bit


def metric_names(board: pd.DataFrame) -> list[str]:
    return [column.removesuffix("_verdict") for column in board.columns if column.endswith("_verdict")]


def cell(row: dict[Any, Any], metric: str, break_line: str, usual: float) -> str:
    """Median, what is to be said of it, its interval, and its number of points where that is not the usual one."""
    value = row[metric]
    if pd.isna(value):
        return "-"
    mark = {"floor": "<= floor ", "alarm": "ALARM ", "": ""}[row[f"{metric}_verdict"]]
    low, high = row[f"{metric}_low"], row[f"{metric}_high"]
    interval = "" if pd.isna(low) else f"{break_line}[{low:.2g}, {high:.2g}]"
    n = f"{break_line}(n = {row[f'{metric}_n']:.0f})" if row[f"{metric}_n"] != usual else ""
    return f"{mark}{value:.3g}{interval}{n}"


def _lines(board: pd.DataFrame, break_line: str) -> tuple[list[str], list[list[str]]]:
    names = [name for name in metric_names(board) if board[name].notna().any()]
    head = ["method", *names, "seeds", *HEADS.values()]
    body = []
    usual = {name: board[f"{name}_n"].mode().iloc[-1] for name in names}
    for row in board.to_dict("records"):
        costs = ["-" if pd.isna(row[cost]) else f"{row[cost]:.3g}" for cost in HEADS]
        body.append(
            [row["method"], *(cell(row, name, break_line, usual[name]) for name in names), row["seeds"], *costs]
        )
    return head, body


def _title(board: pd.DataFrame) -> str:
    t = board["t"].iloc[0]
    return f"{board['task'].iloc[0]}" + ("" if pd.isna(t) else f" at t = {t:g}")


def print_board(board: pd.DataFrame) -> None:
    """The leaderboard as a table for a terminal; wide as needed where there is none."""
    from rich.console import Console
    from rich.table import Table

    console = Console() if sys.stdout.isatty() else Console(width=200)
    for _, part in board.groupby("task", sort=False):
        head, body = _lines(part, "\n")
        table = Table(title=_title(part), title_justify="left", header_style="bold")
        for name in head:
            table.add_column(name, justify="left" if name == "method" else "right", overflow="fold")
        for (_, row), cells in zip(part.iterrows(), body, strict=True):
            table.add_row(*cells, style="" if row["role"] == "method" else "dim")
        console.print(table)
    console.print(NOTES, style="dim")


def provenance(points: pd.DataFrame, environments: dict[str, dict[str, Any]]) -> str:
    """What ran where, as Markdown: a line for each environment, with the tasks and methods that ran in it."""
    lines = []
    for env, rows in points.groupby("env", sort=False):
        facts = environments.get(str(env)) or {"environment": f"{env}, whose facts are lost"}
        shown = ", ".join(f"{key} {value}" for key, value in facts.items())
        runs = rows.drop_duplicates(["run_key", "attempt"])
        what = "; ".join(
            f"{task}: {', '.join(dict.fromkeys(group['method']))}" for task, group in runs.groupby("task", sort=False)
        )
        lines.append(f"- {len(runs)} runs ({what}) with {shown}.")
    return "## What ran where\n\n" + "\n".join(lines) + "\n"


def pivoted(board: pd.DataFrame) -> str:
    """The leaderboard as Markdown, a section a metric, the tasks side by side."""
    tasks = list(dict.fromkeys(board["task"]))
    same = len({task.partition(":")[0] for task in tasks}) == 1
    heads = {task: (task.partition(":")[2] or task) if same else task for task in tasks}
    methods = list(dict.fromkeys(board["method"]))
    found = {(row["task"], row["method"]): row for row in board.to_dict("records")}
    names = [name for name in metric_names(board) if board[name].notna().any()]

    def section(title: str, text: Any) -> str:
        body = [[m, *(text(found[t, m]) if (t, m) in found else "-" for t in tasks)] for m in methods]
        table = pd.DataFrame(body, columns=["method", *heads.values()]).to_markdown(index=False, disable_numparse=True)
        return f"## {title}\n\n{table}\n"

    usual = {name: board[f"{name}_n"].mode().iloc[-1] for name in names}
    parts = [section(name, lambda row, name=name: cell(row, name, " ", usual[name])) for name in names]
    parts.append(section("seeds", lambda row: row["seeds"]))
    parts.append(section(HEADS["seconds"], lambda row: "-" if pd.isna(row["seconds"]) else f"{row['seconds']:.2g}"))
    return "\n".join([*parts, NOTES, ""])


def markdown(board: pd.DataFrame) -> str:
    """The leaderboard as Markdown, a section a task."""
    parts = []
    for _, part in board.groupby("task", sort=False):
        head, body = _lines(part, " ")
        rows = pd.DataFrame(body, columns=head).to_markdown(index=False, disable_numparse=True)
        parts.append(f"## {_title(part)}\n\n{rows}\n")
    return "\n".join([*parts, NOTES, ""])


def write_rows(points: pd.DataFrame, path: Path) -> None:
    """The points as CSV: values and errors to the last bit, clocks to six digits."""
    rounded = {name: points[name].map(lambda x: float(f"{x:.6g}"), na_action="ignore") for name in CLOCKS}
    points.assign(**rounded).to_csv(path, index=False)


def verified(points: pd.DataFrame, verdicts: Sequence[Verdict]) -> str:
    """How many of the runs were run again, and with what result, in a line; the newest verdict on each counts."""
    shown = set(zip(points["run_key"], points["attempt"], strict=True))
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
