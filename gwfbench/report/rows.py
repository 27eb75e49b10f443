"""The results table of finished runs: from the folder of the runs, or from a CSV that is read back to the last bit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from gwfbench.audit import rescore
from gwfbench.audit.today import Today
from gwfbench.errors import UserError
from gwfbench.store import folders
from gwfbench.store.rows import tidy

Facts = dict[str, dict[str, Any]]  # of environments, by hash


def read_all(paths: Sequence[Path]) -> tuple[pd.DataFrame, Facts]:
    """The rows and environments of several CSVs; a row that is in two of them counts once.

    Raises:
        UserError: one is no CSV of results.
    """
    read_ones = [read(path) for path in paths]
    rows = pd.concat([rows for rows, _ in read_ones], ignore_index=True)
    facts = {name: kept for _, environments in read_ones for name, kept in environments.items()}
    return rows.drop_duplicates(["run_key", "attempt", "step", "metric"]), facts


def rows_of(out: Path) -> tuple[pd.DataFrame, Facts, list[str]]:
    """The rows that count: of each run's newest attempt by today's code, values by today's metrics.

    Returns:
        The results table, the environments that its runs ran in, by hash, and a remark on all that was left out.

    Raises:
        UserError: there are none.
    """
    runs, unreadable = folders.attempts(out)
    remarks = [f"left alone: {text}" for text in unreadable]
    today = Today()
    fresh = (run for run in runs if not today.why_stale(run))  # a newer stale attempt hides no fresh one
    newest = {run.identity.key: run for run in fresh}
    stale = len({run.identity.key for run in runs}) - len(newest)
    if stale:
        remarks.append(f"left out: {stale} stale runs, made by other code than today's; run them again")
    if not newest:
        why = "".join(f"\n  {remark}" for remark in remarks)
        fix = "python -m gwfbench run --task ou --method vjko"
        raise UserError(f"--out {out}: no finished runs{why}", "at least one", fix)
    counted, left_out = rescore.current(list(newest.values()), out)
    rows = tidy(counted)
    return rows, folders.environments(out, rows["env"]), [*remarks, *left_out]


def read(path: Path) -> tuple[pd.DataFrame, Facts]:
    """The results table of a CSV, and the environments next to it, if there are any.

    Raises:
        UserError: it is not a CSV of results.
    """
    needed = {"task", "method", "seed", "metric", "metric_version", "value", "se", "n", "run_key", "attempt", "role"}
    try:
        exact = dict.fromkeys(("run_key", "attempt", "metric_code", "code", "env", "information", "value", "se"), str)
        rows = pd.read_csv(path, dtype=exact)  # some versions of pandas round floats when they read them
        missing = needed - set(rows.columns)
        if missing:
            raise ValueError(f"it has no column {', '.join(sorted(missing))}")
        rows = rows.assign(value=rows["value"].astype(float), se=rows["se"].astype(float))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: {error}", "a CSV of results", "python -m gwfbench report --write DIR makes one"
        ) from None
    rows["information"] = rows["information"].fillna("")
    try:
        facts = json.loads((path.parent / "environments.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        facts = {}
    return rows, facts
