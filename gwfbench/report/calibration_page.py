"""The calibration table as CSV, from which it goes on after an interrupt, and as a page of Markdown."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from gwfbench import escape
from gwfbench.audit.calibrate import GRID, Plan, Row, measure
from gwfbench.errors import UserError, require
from gwfbench.store import checked

NOTES = (
    "floor: median over seeds for fresh draws of the truth; still: the same for the initial law; apart: difference of "
    "the two in standard errors for one seed. shift, scale: the smallest change of the truth's draws that the metric "
    "detects at that n in 95 % of the trials, at level 5 %: a shift along a random direction, in standard deviations "
    "of the truth along it, and a relative widening about the mean; on a grid of ratio 2^(1/4), for the problem of the "
    f"first seed. CPU s: time for one value. > {GRID[-1]:g}: not detected at all; -: not measured, or not known. Not "
    "calibrated: the values of unchanged draws don't differ enough from trial to trial to say what chance alone does."
)
HEADS = ("metric", "n", "floor", "still", "still/floor", "apart (se)", "shift", "scale", "CPU s", "note")


def read(path: Path) -> list[Row]:
    """The rows of a CSV; none if there is no file.

    Raises:
        UserError: it is not a calibration table.
    """
    if not path.exists():
        return []
    kinds: dict[str, Any] = {"n": int, "trials": int} | dict.fromkeys(
        ("t", "floor", "still", "ratio", "apart", "shift", "scale", "seconds", "power_seconds"), float
    )
    try:
        with path.open(newline="", encoding="utf-8") as file:
            table = csv.DictReader(file, strict=True)
            if table.fieldnames != [field.name for field in fields(Row)]:
                raise ValueError("it has other columns")
            rows = list(table)
            if any(None in row or None in row.values() for row in rows):
                raise ValueError("a row has too few or too many cells")
            return [Row(**{key: _value(kinds.get(key, str), text) for key, text in row.items()}) for row in rows]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise UserError(f"{path}: {error}", "a CSV that calibrate wrote", "name another file, or remove it") from None


def _value(kind: Any, text: str) -> Any:
    return kind(text) if text or kind is str else None


def to_csv(rows: Iterable[Row]) -> str:
    """Rows as CSV; unknown values are empty."""
    text = io.StringIO()
    table = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    table.writeheader()
    for row in rows:
        cells = asdict(replace(row, note=escape.csv(row.note)))  # the words of a stranger's error
        table.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in cells.items()})
    return text.getvalue()


def keep(plan: Plan, page: Path | None) -> Iterator[tuple[Row, bool]]:
    """`calibrate.measure`, each row written as soon as it is there; those of the page's CSV are not measured again."""
    old = {(row.task, row.metric): row for row in read(csv_of(page))} if page else {}
    for row, new in measure(plan, tuple(old.values())):
        old[row.task, row.metric] = row
        if page and new:
            write(page, old.values())
        yield row, new


def csv_of(page: Path) -> Path:
    """The CSV of a page of this name.

    Raises:
        UserError: the name does not end in .md.
    """
    require(page.suffix == ".md", f"--write {page}", "a file name that ends in .md", "write --write calibration.md")
    require(not page.is_dir(), f"--write {page} is a folder", "a file", "name another one")
    return page.with_suffix(".csv")


def write(page: Path, rows: Iterable[Row]) -> None:
    """The CSV, whole or not at all, and then the page that is made from it."""
    _put(csv_of(page), to_csv(rows))
    _put(page, markdown(read(csv_of(page))))


def _put(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        checked.write(path, text)
    except OSError as error:
        raise UserError(f"--write {path}: {error.strerror}", "a file that can be written", "name another one") from None


def markdown(rows: Iterable[Row]) -> str:
    """The page: one table per task, how to read them, and where they were made."""
    rows = list(rows)
    parts = ["# Calibration of the metrics\n"]
    for task in dict.fromkeys(row.task for row in rows):
        own = [row for row in rows if row.task == task]
        t = next((row.t for row in own if row.t is not None), None)
        parts.append(f"## {escape.markdown(task)}" + (f" at t = {t:g}" if t else "") + "\n")
        lines = [HEADS, ("---",) * len(HEADS), *(_line(row) for row in own)]
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n")
    parts.append(NOTES + "\n")
    for key, what in (("seeds", "seeds {}"), ("trials", "{} trials"), ("where", "ran on: {}")):
        for value in dict.fromkeys(getattr(row, key) for row in rows):
            count = sum(getattr(row, key) == value for row in rows)
            parts.append(f"- {what.format(value)} ({count} rows)")
    return "\n".join(parts) + "\n"


def _line(row: Row) -> tuple[str, ...]:
    def number(value: float | None, form: str = ".3g") -> str:
        return "-" if value is None or math.isnan(value) else format(value, form)

    def change(value: float | None) -> str:
        return f"> {GRID[-1]:g}" if value == math.inf else number(value, ".2g")

    note = escape.markdown({"ok": row.note, "cut": row.note}.get(row.status, f"{row.status}: {row.note}"))
    name = escape.markdown(row.metric) + (" (higher is better)" if row.better == "higher" else "")
    return (
        name, number(row.n, "d"), number(row.floor), number(row.still), number(row.ratio),
        number(row.apart, ".0f"), change(row.shift), change(row.scale), number(row.seconds, ".2g"), note,
    )  # fmt: skip
