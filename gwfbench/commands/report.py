"""`gwfbench report`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gwfbench.commands._options import METRIC, OUT, check_metrics
from gwfbench.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from gwfbench.audit.verify import Verdict
    from gwfbench.report.rows import Facts


@click.command()
@click.option("--task", "tasks", multiple=True, help="Only tasks of this name, or this name:key=value (repeatable).")
@click.option("--rows", type=click.Path(path_type=Path), help="A CSV of points instead of --out, as results/rows.csv.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "markdown", "csv", "json", "latex"]),
    default="table",
    show_default=True,
)
@click.option(
    "--write",
    type=click.Path(path_type=Path),
    help="Also write rows and their page (Markdown, CSV, LaTeX) into this folder.",
)
@click.option(
    "--pages",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Nothing but this: make every page below this folder from its rows.csv, and the README's tables.",
)
@click.option("--check", is_flag=True, help="With --pages: write nothing, fail if a page is not what its rows give.")
@click.option("--method", "methods", multiple=True, help="Only methods of this name, or this name:key=value.")
@click.option("--pivot", is_flag=True, help="One table a metric, tasks side by side.")
@click.option("--ablate", default="", help="Also what one field does (key=value): methods with and without it.")
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
    pages: Path | None, check: bool, ablate: str,
) -> None:  # fmt: skip
    """The leaderboards of the runs kept under --out, newest attempt of each, stale runs and values left out."""
    if check and not pages:
        raise UserError("--check", "--pages FOLDER with it", "python -m gwfbench report --pages results --check")
    if pages:
        make(pages, check)
        return
    from gwfbench.audit import verify
    from gwfbench.report import pages as paged
    from gwfbench.report import rows as kept_rows
    from gwfbench.report.board.leaderboard import alarms, leaderboard, left_out

    if plot and rows:
        raise UserError("--plot with --rows", "the runs' folder: rows have no points", "leave --rows out")
    points, facts = kept_rows.read(rows) if rows else collect(out)
    points = limit(limit(points, "task", tasks), "method", methods)
    check_metrics(chosen, set(points["metric"].dropna()))
    board = leaderboard(points, chosen or None)
    verdicts, strange = verify.kept(out)
    for text in strange:
        click.echo(f"left alone: {text}", err=True)
    show(points, board, verdicts, form, pivot)
    if ablate:
        from gwfbench.report.board import ablation

        effects = ablation.ablation(points, ablate, chosen or None)
        click.echo(ablation.markdown(effects, ablate), err=form not in ("table", "markdown"))
    for line in [*alarms(board), *left_out(board)]:
        click.echo(line, err=True)
    if write:
        layout = paged.Layout.read(write)
        if pivot or chosen or ablate:
            layout = replace(layout, pivot=pivot, metrics=chosen, ablate=ablate)
        paged.keep(write, paged.rows_of(points, laws), facts, verdicts, layout)
        changed = paged.written(paged.made(write, *kept_rows.read(write / "rows.csv")))
        said = ", ".join(map(str, changed)) or "no page: all are as they were"
        click.echo(f"wrote {write / 'rows.csv'} and {said}", err=True)
    if plot:
        from gwfbench.report.figures.flows import draw

        for line in draw(out, set(points["attempt"]), plot):
            click.echo(line, err=True)
    if html:
        from gwfbench.report.page import build as one_page

        beside = (rows or out).parent / "calibration.csv"
        click.echo(one_page.put(html, points, facts, chosen or None, verdicts, None if rows else out, beside), err=True)
    if figures:
        from gwfbench.report.figures.papers import draw as draw_figures

        for line in draw_figures(points, chosen or None, figures):
            click.echo(line, err=True)


def show(points: pd.DataFrame, board: pd.DataFrame, verdicts: Sequence[Verdict], form: str, pivot: bool) -> None:
    """The leaderboard on standard output."""
    from gwfbench.report import pages
    from gwfbench.report.board import tables
    from gwfbench.store import record

    if form in ("table", "markdown"):
        if pivot or form == "markdown":
            click.echo(tables.pivoted(board) if pivot else tables.markdown(board))
        else:
            tables.print_board(board)
        click.echo(tables.verified(points, verdicts), nl=False)
    elif form == "csv":
        click.echo(board.to_csv(index=False), nl=False)
    elif form == "latex":
        click.echo(pages.latex(board))
    else:
        for row in board.to_dict("records"):
            click.echo(record.to_json(row))


def make(root: Path, check: bool) -> None:
    """Write all pages below a folder, or tell which are not what their rows give.

    Raises:
        SystemExit: some are not, and `check` is on.
    """
    from gwfbench.report import pages

    files = pages.all_made(root)
    if check:
        found = list(pages.differences(files))
        for line in found:
            click.echo(line, err=True)
        click.echo(f"{len(files)} pages, {len(found)} of them not what the rows give")
        raise SystemExit(1 if found else 0)
    for path in pages.written(files):
        click.echo(f"wrote {path}")


def collect(out: Path) -> tuple[pd.DataFrame, Facts]:
    """Tidy points of each run's newest attempt by today's code, with the values that count; what is left out is said.

    Raises:
        UserError: there are none.
    """
    from gwfbench.audit import rescore
    from gwfbench.audit.today import Today
    from gwfbench.store import folders
    from gwfbench.store.rows import tidy

    runs, strange = folders.attempts(out)
    for text in strange:
        click.echo(f"left alone: {text}", err=True)
    today = Today()
    newest = {
        run.identity.key: run for run in runs if not today.why_stale(run)
    }  # a newer stale attempt hides no fresh one
    fresh, stale = list(newest.values()), len({run.identity.key for run in runs}) - len(newest)
    if stale:
        click.echo(f"left out: {stale} stale runs, made by other code than today's; run them again", err=True)
    if not fresh:
        raise UserError(
            f"--out {out}: no finished runs", "at least one", "python -m gwfbench run --task ou --method vjko"
        )
    counted, said = rescore.current(fresh, out)
    for text in said:
        click.echo(text, err=True)
    points = tidy(counted)
    return points, folders.environments(out, points["env"])


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
