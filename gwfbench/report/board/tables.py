"""Leaderboards as text: for a terminal, and as Markdown."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

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
    "floor; <= floor: not distinguishable from it. still: never moves. tier, by the first metric: methods of the same "
    "information that share a letter are not told apart (paired t tests over seeds, of logarithms where values are "
    "positive; Holm's correction; 5 %). uses: what of the target a method sees. seeds: finished/total; a failed one "
    "counts as the worst. train s: evaluation off the clock. sample s, calls/point: what moving the judged points cost."
)
OVER_TASKS = (
    "Contestants that were run on two tasks or more. score: 0 is exact, 1 is not to move or worse, by each task's "
    "first metric at the last law, mean over seeds, then tasks; a failed seed is 1. solved: tasks on which the median "
    "seed gets to a score of 0.1. seconds x2: share of its tasks on which it gets there in at most twice the seconds "
    "of the quickest that uses the same; calls: points through the target's score or drawn from it. Where only last "
    "laws are kept, the cost is the whole run's. Contestants differ in their tasks: compare where those are as many."
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
    head = ["method", "tier", *names, "seeds", *HEADS.values(), "uses"]
    body = []
    usual = {name: board[f"{name}_n"].mode().iloc[-1] for name in names}
    for row in board.to_dict("records"):
        costs = ["-" if pd.isna(row[cost]) else f"{row[cost]:.3g}" for cost in HEADS]
        body.append(
            [
                row["method"], row["tier"] or "-", *(cell(row, name, break_line, usual[name]) for name in names),
                row["seeds"], *costs, uses(row["information"]),
            ]
        )  # fmt: skip
    return head, body


def uses(information: str) -> str:
    """The infos that a method uses, in short words; all may use P_0."""
    return ", ".join(USES.get(name, name) for name in information.split() if name != "Initial") or "-"


def title(board: pd.DataFrame) -> str:
    t = board["t"].iloc[0]
    return f"{board['task'].iloc[0]}" + ("" if pd.isna(t) else f" at t = {t:g}")


def print_board(board: pd.DataFrame) -> None:
    """The leaderboard as a table for a terminal; wide as needed where there is none."""
    from rich.console import Console
    from rich.table import Table

    console = Console() if sys.stdout.isatty() else Console(width=200)
    for _, part in board.groupby("task", sort=False):
        head, body = _lines(part, "\n")
        table = Table(title=title(part), title_justify="left", header_style="bold")
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
    parts.insert(1, section(f"tier by {names[0]}", lambda row: row["tier"] or "-"))
    parts.append(section("seeds", lambda row: row["seeds"]))
    parts.append(section(HEADS["seconds"], lambda row: "-" if pd.isna(row["seconds"]) else f"{row['seconds']:.2g}"))
    return "\n".join([*parts, NOTES, ""])


def frame(board: pd.DataFrame) -> pd.DataFrame:
    """One task's board as text in cells."""
    head, body = _lines(board, " ")
    return pd.DataFrame(body, columns=head)


def markdown_table(board: pd.DataFrame) -> str:
    """One task's board as a Markdown table."""
    return frame(board).to_markdown(index=False, disable_numparse=True)


def markdown(board: pd.DataFrame) -> str:
    """The leaderboard as Markdown, a section a task."""
    parts = [
        f"## {title(part)}\n\n{markdown_table(part)}\n{detectable(part)}"
        for _, part in board.groupby("task", sort=False)
    ]
    return "\n".join([*parts, NOTES, ""])


def detectable(board: pd.DataFrame) -> str:
    """What difference of two methods one task's seeds would show, in a sentence; empty if that is not known."""
    found = dict(zip(board["information"], board["detectable"], strict=True))
    said = [f"{gap} ({uses(information)})" for information, gap in found.items() if gap]
    if not said:
        return ""
    return f"\nDetectable in {metric_names(board)[0]}, four times in five, one pair alone: {'; '.join(said)}.\n"


def over_tasks(table: pd.DataFrame) -> str:
    """The scores over tasks as Markdown, with what they mean."""
    if not len(table):
        return ""
    shown = table.assign(
        score=table["score"].map(lambda x: f"{x:.2g}"),
        **{name: table[name].map(lambda x: f"{x:.2f}") for name in table.columns[4:]},
    )
    return f"## Over tasks\n\n{shown.to_markdown(index=False, disable_numparse=True)}\n\n{OVER_TASKS}\n"


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
