"""Options that several commands have, and what they do with them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import pandas as pd

OUT = click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("results/runs"),
    show_default=True,
    help="Folder of the runs.",
)
METRIC = click.option("--metric", "chosen", multiple=True, help="Show only this metric (repeatable).")


def _known(_context: click.Context, _option: click.Parameter, files: tuple[Path, ...]) -> None:
    if files:
        from gwfbench.registry import add_files

        add_files(files)


PLUGIN = click.Option(
    ["--plugin"],
    type=click.Path(path_type=Path),
    multiple=True,
    expose_value=False,
    is_eager=True,
    callback=_known,
    help="A file with a task or method of yours, known by the file's name (repeatable).",
)


def check_metrics(chosen: tuple[str, ...], known: set[str]) -> None:
    from gwfbench.errors import unknown

    for name in chosen:
        if name not in known:
            raise unknown("metric", name, known, see="python -m gwfbench run --help; the metrics are the task's")


def show(points: pd.DataFrame, form: str, chosen: tuple[str, ...]) -> None:
    from gwfbench.report.leaderboard import alarms, leaderboard

    board = leaderboard(points, chosen or None)
    if form == "csv":
        points = points[points["metric"].isin(chosen) | points["metric"].isna()] if chosen else points
        click.echo(points.to_csv(index=False), nl=False)
    else:
        from gwfbench.report.tables import print_board

        print_board(board)
    for line in alarms(board):
        click.echo(line, err=True)
