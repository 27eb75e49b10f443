"""`gwfbench calibrate`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from gwfbench import escape
from gwfbench.commands._edge import note, put
from gwfbench.commands._options import PLACE, example
from gwfbench.plugins import registry


@click.command(epilog=example("calibrate --task ou --metric symkl"))
@click.option("--task", "tasks", multiple=True, help="Task: name or name:key=value (repeatable).  [default: all]")
@click.option("--metric", "chosen", multiple=True, help="Only this metric (repeatable).  [default: all of each task]")
@click.option("--trials", type=int, default=200, show_default=True, help="Trials per change in the search for power.")
@click.option("--seeds", default="5", show_default=True, help="Number of seeds for floor and still, or a list: 3,5,8.")
@click.option(
    "--power-seconds", type=float, default=60.0, show_default=True, help="Largest CPU time for the power of one metric."
)
@click.option("--format", "form", type=click.Choice(["markdown", "csv", "json"]), default="markdown", show_default=True)
@click.option("--write", type=PLACE, help="Page (.md) to write, with its CSV next to it, row by row.")
def calibrate(
    tasks: tuple[str, ...], chosen: tuple[str, ...], trials: int, seeds: str, power_seconds: float, form: str,
    write: Path | None,
) -> None:  # fmt: skip
    """Measure noise floor, value of the law that never moves, and power of every metric on every task.

    The power is the smallest change of the truth that the metric detects. With --write, rows that the CSV already has
    are not measured again. Exit code: 1 if a metric failed.
    """
    for name in tasks:
        registry.find("task", registry.head(name))
    from dataclasses import asdict

    from gwfbench.audit import calibrate as calibration
    from gwfbench.report import calibration_page as table
    from gwfbench.runs import order
    from gwfbench.store.record import to_json

    plan = calibration.Plan.read(tasks, chosen, trials, order.read_seeds(seeds), power_seconds)
    rows = []
    for row, new in table.keep(plan, write):
        rows.append(row)
        if form == "json":
            put(to_json(asdict(row)) + "\n")
        words = (f"{row.task} {row.metric}", row.status if new else "finished before", row.note)
        note(escape.line(": ".join(filter(None, words))))
    if form != "json":
        put(table.markdown(rows) if form == "markdown" else table.to_csv(rows))
    sys.exit(any(row.status == "error" for row in rows))
