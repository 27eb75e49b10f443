"""`gwfbench report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gwfbench.commands.options import METRIC, OUT, check_metrics
from gwfbench.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


@click.command()
@click.option("--task", "tasks", multiple=True, help="Only tasks of this name, or this name:key=value (repeatable).")
@click.option("--rows", type=click.Path(path_type=Path), help="A CSV of points instead of --out, as results/rows.csv.")
@click.option(
    "--format", "form", type=click.Choice(["table", "markdown", "csv", "json"]), default="table", show_default=True
)
@click.option(
    "--write", type=click.Path(path_type=Path), help="Also write leaderboard.md and rows.csv into this folder."
)
@METRIC
@OUT
def report(
    tasks: tuple[str, ...], rows: Path | None, form: str, write: Path | None, chosen: tuple[str, ...], out: Path
) -> None:
    """The leaderboards of the runs kept under --out, newest attempt of each, stale ones left out."""
    import pandas as pd

    from gwfbench import record, store
    from gwfbench.report import tables
    from gwfbench.report.leaderboard import alarms, leaderboard

    facts: dict[str, dict[str, Any]] = {}
    if rows:
        try:
            points = pd.read_csv(rows)
            missing = {"task", "method", "seed", "metric", "value", "run_key", "role"} - set(points.columns)
            if missing:
                raise ValueError(f"it has no column {', '.join(sorted(missing))}")
        except (OSError, ValueError) as error:
            raise UserError(
                f"--rows {rows}: {error}", "a CSV of points", "python -m gwfbench report --write DIR makes one"
            ) from None
        points["information"] = points["information"].fillna("")
    else:
        points = _collect(out)
        facts = store.environments(out, points["env"])
    if tasks:
        name = points["task"].astype(str)
        wanted = name.isin(tasks) | name.str.partition(":")[0].isin(tasks)
        if not wanted.any():
            raise UserError(
                f"--task {' '.join(tasks)}: no runs of it",
                f"one of {', '.join(sorted(set(name)))}",
                "python -m gwfbench run makes them",
            )
        points = points[wanted]
    check_metrics(chosen, set(points["metric"].dropna()))
    board = leaderboard(points, chosen or None)
    if form == "table":
        tables.print_board(board)
    elif form == "markdown":
        click.echo(tables.markdown(board))
    elif form == "csv":
        click.echo(board.to_csv(index=False), nl=False)
    else:
        for row in board.to_dict("records"):
            click.echo(record.to_json(row))
    for line in alarms(board):
        click.echo(line, err=True)
    if write:
        write.mkdir(parents=True, exist_ok=True)
        points.to_csv(write / "rows.csv", index=False, float_format="%.6g")
        page = f"# Leaderboard\n\n{tables.markdown(board)}\n{tables.provenance(points, facts)}"
        (write / "leaderboard.md").write_text(page, encoding="utf-8")
        click.echo(f"wrote {write / 'leaderboard.md'} and {write / 'rows.csv'}", err=True)


def _collect(out: Path) -> pd.DataFrame:
    """Tidy points of the newest attempt of each run; what was left out is said on standard error."""
    from gwfbench import session, store

    runs, strange = store.attempts(out)
    for text in strange:
        click.echo(f"left alone: {text}", err=True)
    newest = {run.identity.key: run for run in runs}
    fresh = [run for run in newest.values() if not session.is_stale(run)]
    if len(fresh) < len(newest):
        stale = len(newest) - len(fresh)
        click.echo(f"left out: {stale} stale runs, made by other code than today's; run them again", err=True)
    if not fresh:
        raise UserError(
            f"--out {out}: no finished runs", "at least one", "python -m gwfbench run --task ou --method vjko"
        )
    return session.tidy(fresh)
