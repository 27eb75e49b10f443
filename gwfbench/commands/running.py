"""`gwfbench run`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gwfbench import registry
from gwfbench.commands.options import METRIC, OUT, check_metrics, execution, read_execution, show
from gwfbench.commands.progress import progress

if TYPE_CHECKING:
    from gwfbench.record import Run


@click.command()
@click.option("--task", "tasks", multiple=True, help="name or name:key=value,key=value (repeatable).")
@click.option("--method", "methods", multiple=True, help="name or name:key=value,key=value (repeatable).")
@click.option(
    "--seeds", default="3", show_default=True, help="How many (3 means 0 1 2), or which: 3,5,8; one alone: 7,"
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, ...")
@click.option("--dtype", default="float32", show_default=True, help="float32 or float64.")
@click.option(
    "--budget", default="", help="Of a run: seconds=60,steps=100,score_calls=1e6,log_prob_calls=,draw_calls=1e6."
)
@click.option("--controls/--no-controls", default=True, show_default=True, help="Run exact and still too.")
@click.option("--format", "form", type=click.Choice(["table", "json", "csv"]), default="table", show_default=True)
@execution
@METRIC
@OUT
def run(
    tasks: tuple[str, ...], methods: tuple[str, ...], seeds: str, device: str, dtype: str, budget: str, controls: bool,
    form: str, chosen: tuple[str, ...], out: Path, **how: Any,
) -> None:  # fmt: skip
    """Run methods on tasks, judge them, and print the leaderboard.

    What is finished under --out is not run again, failures included: --retry says which; what was killed is always
    taken up. Several commands may share --out. Exit code: 0 if every run ended well, 1 if one failed, 2 for a mistake
    in the command, 130 for an interrupt.
    """
    for name in tasks:  # a typing error need not wait for torch
        registry.find("task", registry.head(name))
    for name in methods:
        if registry.head(name) not in registry.CONTROLS:
            registry.find("method", registry.head(name))
    from gwfbench import servers

    if how["isolate"] and not out.exists():  # there is something to run: the server loads torch while we do
        servers.warm()
    from gwfbench import session
    from gwfbench.record import to_json

    order = session.Order.read(tasks, methods, seeds, device, dtype, budget, controls)
    check_metrics(chosen, {name for task in order.tasks for name in task.metrics})
    jobs, options = list(order.jobs()), read_execution(how)
    done: list[Run] = []
    with progress() as event:
        for runs in session.perform(jobs, out, event, options):
            done += runs
            if form == "json":
                for one in runs:
                    for row in one.rows():
                        if not chosen or row["metric"] in (*chosen, None):
                            click.echo(to_json(row))
    done = session.in_order(jobs, done)
    if form != "json":
        show(session.tidy(done), form, chosen)
    failed = [one for one in done if one.failed]
    for one in failed:
        who = one.identity
        click.echo(f"FAILED {who.task} {who.method} seed {who.seed}: {one.status}: {one.reason}", err=True)
    sys.exit(1 if failed else 0)
