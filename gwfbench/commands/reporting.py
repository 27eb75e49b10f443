"""`gwfbench report`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gwfbench.commands.options import METRIC, OUT, check_metrics
from gwfbench.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

Facts = dict[str, dict[str, Any]]  # of environments, by hash


@click.command()
@click.option("--task", "tasks", multiple=True, help="Only tasks of this name, or this name:key=value (repeatable).")
@click.option("--rows", type=click.Path(path_type=Path), help="A CSV of points instead of --out, as results/rows.csv.")
@click.option(
    "--format", "form", type=click.Choice(["table", "markdown", "csv", "json"]), default="table", show_default=True
)
@click.option(
    "--write",
    type=click.Path(path_type=Path),
    help="Also write leaderboard.md, rows.csv and environments.json into this folder.",
)
@click.option("--method", "methods", multiple=True, help="Only methods of this name, or this name:key=value.")
@click.option("--pivot", is_flag=True, help="One table a metric, tasks side by side.")
@click.option(
    "--laws", type=click.Choice(["all", "last"]), default="all", show_default=True, help="Rows to be written."
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    help="Also draw fields, paths and laws in the plane, a PNG a task (extra: report).",
)
@click.option("--html", type=click.Path(path_type=Path), help="Also write one self-contained page (extra: report).")
@click.option(
    "--figures", type=click.Path(path_type=Path), help="Also draw figures for papers, PNG and PDF (extra: report)."
)
@METRIC
@OUT
def report(
    tasks: tuple[str, ...], methods: tuple[str, ...], rows: Path | None, form: str, write: Path | None, pivot: bool,
    laws: str, plot: Path | None, html: Path | None, figures: Path | None, chosen: tuple[str, ...], out: Path,
) -> None:  # fmt: skip
    """The leaderboards of the runs kept under --out, newest attempt of each, stale runs and values left out."""
    from gwfbench import record, verify
    from gwfbench.report import tables
    from gwfbench.report.leaderboard import alarms, last_laws, leaderboard, left_out

    points, facts = read_rows(rows) if rows else collect(out)
    points = limit(limit(points, "task", tasks), "method", methods)
    check_metrics(chosen, set(points["metric"].dropna()))
    board = leaderboard(points, chosen or None)
    verdicts, strange = verify.kept(out)
    for text in strange:
        click.echo(f"left alone: {text}", err=True)
    verified = tables.verified(points, verdicts)
    markdown = tables.pivoted(board) if pivot else tables.markdown(board)
    if form == "table" and not pivot:
        tables.print_board(board)
        click.echo(verified, nl=False)
    elif form in ("table", "markdown"):
        click.echo(markdown)
        click.echo(verified, nl=False)
    elif form == "csv":
        click.echo(board.to_csv(index=False), nl=False)
    else:
        for row in board.to_dict("records"):
            click.echo(record.to_json(row))
    for line in [*alarms(board), *left_out(board)]:
        click.echo(line, err=True)
    if write:
        write.mkdir(parents=True, exist_ok=True)
        page = f"# Leaderboard\n\n{markdown}\n{tables.provenance(points, facts)}"
        (write / "leaderboard.md").write_text(page + (f"\n{verified}" if verified else ""), encoding="utf-8")
        tables.write_rows(last_laws(points) if laws == "last" else points, write / "rows.csv")
        (write / "environments.json").write_text(record.to_json(facts, indent=2) + "\n", encoding="utf-8")
        click.echo(f"wrote {write / 'leaderboard.md'} and {write / 'rows.csv'}", err=True)
    if plot:
        from gwfbench.report.pictures import draw

        if rows:
            raise UserError("--plot with --rows", "the runs' folder: rows have no points", "leave --rows out")
        for line in draw(out, set(points["attempt"]), plot):
            click.echo(line, err=True)
    if html:
        from gwfbench.report import html as pages

        beside = (rows or out).parent / "calibration.csv"
        click.echo(pages.put(html, points, facts, chosen or None, verdicts, None if rows else out, beside), err=True)
    if figures:
        from gwfbench.report.figures import draw as draw_figures

        for line in draw_figures(points, chosen or None, figures):
            click.echo(line, err=True)


def read_rows(path: Path) -> tuple[pd.DataFrame, Facts]:
    """Tidy points of a CSV, and the environments that stand beside it, if they do.

    Raises:
        UserError: it is no CSV of points.
    """
    import pandas as pd

    needed = {"task", "method", "seed", "metric", "metric_version", "value", "se", "n", "run_key", "attempt", "role"}
    try:
        exact = dict.fromkeys(("run_key", "attempt", "metric_code", "code", "env", "value", "se"), str)
        points = pd.read_csv(path, dtype=exact)  # some versions of pandas read floats but nearly
        missing = needed - set(points.columns)
        if missing:
            raise ValueError(f"it has no column {', '.join(sorted(missing))}")
        points = points.assign(value=points["value"].astype(float), se=points["se"].astype(float))
    except (OSError, ValueError) as error:
        raise UserError(
            f"--rows {path}: {error}", "a CSV of points", "python -m gwfbench report --write DIR makes one"
        ) from None
    points["information"] = points["information"].fillna("")
    try:
        facts = json.loads((path.parent / "environments.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        facts = {}
    return points, facts


def collect(out: Path) -> tuple[pd.DataFrame, Facts]:
    """Tidy points of each run's newest attempt by today's code, with the values that count; what is left out is said.

    Raises:
        UserError: there are none.
    """
    from gwfbench import scoring, session, store

    runs, strange = store.attempts(out)
    for text in strange:
        click.echo(f"left alone: {text}", err=True)
    is_stale = session.staleness()
    newest = {run.identity.key: run for run in runs if not is_stale(run)}  # a newer stale attempt hides no fresh one
    fresh, stale = list(newest.values()), len({run.identity.key for run in runs}) - len(newest)
    if stale:
        click.echo(f"left out: {stale} stale runs, made by other code than today's; run them again", err=True)
    if not fresh:
        raise UserError(
            f"--out {out}: no finished runs", "at least one", "python -m gwfbench run --task ou --method vjko"
        )
    counted, said = scoring.current(fresh, out)
    for text in said:
        click.echo(text, err=True)
    points = session.tidy(counted)
    return points, store.environments(out, points["env"])


def limit(points: pd.DataFrame, column: str, words: tuple[str, ...]) -> pd.DataFrame:
    """The rows of these tasks or methods, given as `name` or `name:key=value`; all if none is given.

    Raises:
        UserError: there are none.
    """
    if not words:
        return points
    name = points[column].astype(str)
    wanted = name.isin(words) | name.str.partition(":")[0].isin(words)
    if not wanted.any():
        raise UserError(
            f"--{column} {' '.join(words)}: no runs of it",
            f"one of {', '.join(sorted(set(name)))}",
            "python -m gwfbench run makes them",
        )
    return points[wanted]
