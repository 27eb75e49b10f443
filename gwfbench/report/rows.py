"""The results table of finished runs: from the folder of the runs, or from a CSV that is read back to the last bit."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from gwfbench import escape
from gwfbench.audit import counted
from gwfbench.audit.today import Today
from gwfbench.errors import UserError
from gwfbench.plugins import registry
from gwfbench.report.table import TEXT, checked, kept, mapped
from gwfbench.store import folders, inputs
from gwfbench.store.record import Run, to_json
from gwfbench.store.rows import tidy
from gwfbench.suites import suite as suites

Facts = dict[str, dict[str, Any]]  # of environments, by hash
OF_RUN = ("task", "method", "seed", "status", "reason", "dtype", "device", "budget", "code")  # the same in all its rows
NAMED = 8  # of what is left out
STALE = " [stale]"  # after the name of a method
CLOCKS = ("seconds", "sample_seconds", "judge_seconds", "unit", "energy")  # not kept to the last bit


def read_all(paths: Sequence[Path]) -> tuple[pd.DataFrame, Facts]:
    """The rows and environments of several CSVs; a row that is in two of them counts once.

    Raises:
        UserError: one is no CSV of results.
    """
    read_ones = [read(path) for path in paths]
    rows = pd.concat([rows for rows, _ in read_ones], ignore_index=True)
    facts = {name: kept for _, environments in read_ones for name, kept in environments.items()}
    return rows.drop_duplicates(["run_key", "attempt", "step", "metric"]), facts


def rows_of(out: Path, stale: bool = False) -> tuple[pd.DataFrame, Facts, list[str]]:
    """The rows that count: of each run's newest attempt by today's code, values by today's metrics.

    A run that a budget has ended is another result than the same run without one: the newest of each counts.

    Args:
        stale: take also runs by other code, where today's code has made none; methods are marked `[stale]`.

    Returns:
        The results table, the environments that its runs ran in, by hash, and a remark on all that was left out.

    Raises:
        UserError: there are none.
    """
    runs, unreadable = folders.attempts(out)
    remarks = [f"left alone: {text}" for text in unreadable]
    today = Today()
    fresh = [run for run in runs if not today.why_stale(run)]  # a newer stale attempt hides no fresh one
    # nor one of `--judge` a whole one, nor one that was interrupted any that came to an end
    fresh.sort(key=lambda run: (run.status != "killed", not run.judge))
    newest = {(run.identity.key, _ended_by(run)): run for run in fresh}
    counting = {key for key, _ in newest}
    old = {run.identity.key: run for run in runs if run.identity.key not in counting}
    if old:
        whose = [run.identity for run in old.values()]
        names = Counter(f"{registry.short(who.method)} on {who.task}" for who in whose)
        shown = [f"{name} ({count})" for name, count in names.most_common(NAMED)]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        told = f"{len(old)} stale runs, made by other code than today's: {', '.join(shown)}{more}"
        remarks.append(f"{'marked' if stale else 'left out'}: {told}; run them again")
    if stale:
        newest |= {(key, _ended_by(run)): run for key, run in old.items()}
    remarks += _partly(newest.values())
    if not newest:
        why = "".join(f"\n  {remark}" for remark in remarks)
        fix = "python -m gwfbench run --task ou --method vjko"
        raise UserError(f"--out {out}: no finished runs{why}", "at least one", fix)
    current, left_out = counted.current(list(newest.values()), out)
    rows = tidy(current)
    marked = rows["run_key"].isin(old) & ~rows["method"].isin(registry.CONTROLS)
    rows["method"] = rows["method"].mask(marked, rows["method"] + STALE)
    return rows, folders.environments(out, rows["env"]), [*remarks, *left_out]


def _partly(runs: Iterable[Run]) -> list[str]:
    """How many runs were judged by some metrics alone, other than those that a suite judges its runs by."""
    asked = Counter(frozenset(run.judge) for run in runs if run.judge)
    part = asked.total() - (sum(asked[judge] for judge in _of_suites()) if asked else 0)
    said = f"{part} runs were judged by the metrics of --judge alone; without --judge, `run` has all of the task"
    return [said] if part else []


def _of_suites() -> set[frozenset[str]]:
    return {frozenset(suites.load(name).judge) for name in suites.names()}


def _ended_by(run: Run) -> str:
    """The budget that ended a run; empty if none did."""
    return repr(sorted(run.budget.items())) if run.status == "budget" else ""


def files(root: Path) -> list[Path]:
    """The rows of a results folder: those of its pages, then those of its studies."""
    return [*sorted(root.glob("*/rows.csv")), *sorted(root.glob("studies/*/rows.csv"))]


def read(path: Path) -> tuple[pd.DataFrame, Facts]:
    """The results table of a CSV, as it is or in gzip (.gz), and the environments next to it, if there are any.

    Raises:
        UserError: it is not a CSV of results.
    """
    try:
        unpacked = gzip.open if path.suffix == ".gz" else open
        with unpacked(inputs.finite(path), "rt", newline="", encoding="utf-8-sig") as file:
            head, *lines = csv.reader(file, strict=True)
        lines = [line for line in lines if line]
        for number, line in enumerate(lines, 2):
            if len(line) != len(head):
                raise ValueError(f"row {number} has {len(line)} cells, expected {len(head)}")
        if not lines:
            raise ValueError("no rows")
    except (OSError, EOFError, zlib.error, ValueError, csv.Error) as error:
        raise UserError(
            f"{path}: {error}", "a CSV of results", "python -m gwfbench report --write DIR makes one"
        ) from None
    rows = checked(pd.DataFrame(dict(zip(head, zip(*lines, strict=True), strict=True)), dtype=object), str(path))
    different = rows[["run_key", "attempt", *OF_RUN]].drop_duplicates()
    twice = different[different.duplicated(["run_key", "attempt"], keep=False)]
    if len(twice):
        key = twice["run_key"].iloc[0]
        names = ", ".join(name for name in OF_RUN if twice.loc[twice["run_key"] == key, name].nunique() > 1)
        raise UserError(
            f"{path}: rows of the run {escape.line(key)} with several values of {names}", "one value",
            "make the file again: python -m gwfbench report --write DIR",
        )  # fmt: skip
    try:
        facts = json.loads((path.parent / "environments.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        facts = {}
    known = isinstance(facts, dict) and all(isinstance(one, dict) for one in facts.values())
    made_up = {"dtype", "device", "budget", "code"} - set(head)  # who runs rows again must know that it is not said
    return rows.drop(columns=list(made_up)), facts if known else {}


def export(rows: pd.DataFrame, path: Path) -> None:
    """The results table as a file of the kind that its name says: .csv, .parquet, or .json with an object a line.

    Raises:
        UserError: it is another kind, a package is missing, or the file can't be written.
    """
    kinds = {
        ".csv": lambda: write(rows, path),
        ".json": lambda: path.write_text("".join(to_json(row) + "\n" for row in rows.to_dict("records"))),
        ".parquet": lambda: rows.to_parquet(path, index=False),
    }
    if path.suffix not in kinds:
        raise UserError(f"{path}", f"a name that ends in {', '.join(kinds)}", f"write {path.with_suffix('.csv')}")
    try:
        kinds[path.suffix]()
    except ImportError as error:
        raise UserError(f"{path}: {error}", "the package pyarrow", "pip install pyarrow") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", "a file that can be written", "name another one") from None


def write(rows: pd.DataFrame, path: Path) -> None:
    """The results table as CSV: values and errors to the last bit, clocks to six digits."""
    rounded = {name: rows[name].map(lambda x: float(f"{x:.6g}"), na_action="ignore") for name in CLOCKS}
    words = {name: mapped(rows[name], kept) for name in TEXT if name in rows}
    rows.assign(**rounded, **words).to_csv(path, index=False)
