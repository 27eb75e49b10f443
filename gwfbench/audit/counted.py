"""Which values of runs count today: those whose metric's source is what it is now (`metric_code` in their rows).

Values that `score` made stand in files next to the run's own, `scores-<metric>@<version>.jsonl`.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from gwfbench.audit.today import metric_codes
from gwfbench.store import checked, folders
from gwfbench.store.record import Row, Run

SCHEMA = 1  # of the files


def current(runs: Iterable[Run], out: Path | None) -> tuple[list[Run], list[str]]:
    """The runs with the values that count today, scored ones included, and what there is to say.

    For each judged law and metric the newest version counts; of one version, what the runner judged before what was
    scored later from fewer points.

    Args:
        out: where the attempts are; None: nothing was scored.
    """
    today = metric_codes()
    runs = list(runs)
    files = _files(runs, out)
    said, old, found = [], Counter[str](), []
    for run in runs:
        rows = run.rows
        for path in files.get(run.attempt, ()):
            more, wrong = read(path, run)
            said += [f"left alone: {wrong}"] if wrong else []
            rows = [*rows, *more]
        codes = {(row.metric, row.metric_code) for row in rows}
        cells = {(row.step, row.metric) for row in rows}
        if rows is run.rows and len(cells) == len(rows) and all(today.get(name, c) == c for name, c in codes):
            found.append(run)  # as nearly all are
            continue
        # a task's own metric is in the code of the run
        good = [row for row in rows if today.get(row.metric, row.metric_code) == row.metric_code]
        best: dict[tuple[int, str], Row] = {}
        for row in good:
            have = best.get((row.step, row.metric))
            if have is None or have.metric_version < row.metric_version:
                best[row.step, row.metric] = row
        for row in rows:
            old[row.metric] += (row.step, row.metric) not in best
        found.append(replace(run, rows=_in_order(rows, best)))
    said += [
        f"left out: {count} values of {name}, judged by other code than today's metric; "
        f"python -m gwfbench score --metric {name} makes them anew from kept points"
        for name, count in old.items()
        if count
    ]
    return found, said


def _files(runs: Sequence[Run], out: Path | None) -> dict[str, list[Path]]:
    """The files of scores of these attempts, by attempt."""
    found: dict[str, list[Path]] = defaultdict(list)
    if out and runs:
        wanted = f"*-{runs[0].attempt}" if len(runs) == 1 else "*"
        for path in sorted(out.glob(f"{wanted}/scores-*.jsonl")):
            found[folders.attempt_of(path.parent)].append(path)
    return found


def _in_order(rows: Iterable[Row], best: Mapping[tuple[int, str], Row]) -> list[Row]:
    """The values that count, law by law, metrics in the order of the rows."""
    names = list(dict.fromkeys(row.metric for row in rows))
    return sorted(best.values(), key=lambda row: (row.step, names.index(row.metric)))


def read(path: Path, run: Run) -> tuple[list[Row], str]:
    """The rows of a file, or none and what is wrong with it; no file has no rows."""
    if not path.exists():
        return [], ""
    try:
        first, _, rows = checked.read_text(path).partition("\n")
        head = checked.from_json(first)
        if head["schema"] != SCHEMA or head["sha256"] != sha256(rows):
            raise ValueError("it has changed since it was written")
        if (head["run_key"], head["attempt"]) != (run.identity.key, run.attempt):
            raise ValueError("it is of another attempt")
        return Row.read(rows.splitlines()), ""
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        return [], f"{path.parent.name}/{path.name}: {error}"


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
