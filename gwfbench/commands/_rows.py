"""The results table of a command: options that say which rows, and how it is read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gwfbench import escape
from gwfbench.commands._edge import note
from gwfbench.commands._options import OUT, PLACE
from gwfbench.errors import UserError
from gwfbench.plugins import registry

if TYPE_CHECKING:
    import pandas as pd

    from gwfbench.report.rows import Facts

TASKS = click.option("--task", "tasks", multiple=True, help="Only this task: name or name:key=value (repeatable).")
METHODS = click.option(
    "--method", "methods", multiple=True, help="Only this method: name or name:key=value (repeatable)."
)
ROWS = click.option(
    "--rows",
    "csv",
    type=PLACE,
    help="CSV of results to read instead of --out, such as results/studies/ou/rows.csv.",
)


def selection(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options --task, --method, --rows and --out; `selected` reads the rows that they choose."""
    for option in (OUT, ROWS, METHODS, TASKS):
        command = option(command)
    return command


def selected(
    tasks: tuple[str, ...], methods: tuple[str, ...], csv: Path | Sequence[Path] | None, out: Path, stale: bool = False
) -> tuple[pd.DataFrame, Facts]:
    """The rows that `selection` chooses, and their environments; of several CSVs, those of all.

    Raises:
        UserError: there are none.
    """
    from gwfbench.report import rows as results

    if isinstance(csv, Path):
        rows, facts = results.read(csv)
    elif csv:
        rows, facts = results.read_all(csv)
    else:
        rows, facts = collected(out, stale)
    return _limited(_limited(rows, "task", tasks), "method", methods), facts


def collected(out: Path, stale: bool = False) -> tuple[pd.DataFrame, Facts]:
    """The rows that count under a folder, and their environments; prints what was left out.

    Raises:
        UserError: there are none.
    """
    from gwfbench.report import rows as results

    rows, facts, remarks = results.rows_of(out, stale)
    for remark in remarks:
        note(escape.line(remark))
    return rows, facts


def asked_for(kind: registry.Kind, word: str, there: Collection[str]) -> str:
    """A task or method as rows name it, from how a user types it.

    Args:
        there: what rows name: a word that is among them, or has no fields, stays as it is.

    Raises:
        UserError: it has a field or a named setting that is not known.
    """
    name = registry.head(word)
    plain = word in there or name == word or name not in registry.plugins(kind)
    return word if plain else registry.canonical(kind, word)


def _limited(rows: pd.DataFrame, column: str, words: tuple[str, ...]) -> pd.DataFrame:
    """The rows of these tasks or methods, given as `name` or `name:key=value`; all if none is given."""
    if not words:
        return rows
    name = rows[column].astype(str)
    asked = [asked_for("task" if column == "task" else "method", word, set(name)) for word in words]
    wanted = name.isin(asked) | name.str.partition(":")[0].isin(asked)
    if not wanted.any():
        raise UserError(
            f"--{column} {' '.join(words)}: no runs of it",
            f"one of {', '.join(sorted(set(name)))}",
            "python -m gwfbench run makes them",
        )
    return rows[wanted]
