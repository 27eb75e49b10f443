"""`gwfbench check`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from gwfbench.commands._edge import put, say
from gwfbench.commands._options import example
from gwfbench.plugins import registry

if TYPE_CHECKING:
    from gwfbench.check.outcome import Outcome


@click.command(epilog=example("check method:ula --task gaussian"))
@click.argument("what", metavar="method:NAME | task:NAME | metric:NAME")
@click.option("--task", "tasks", multiple=True, help="Check a method or a metric with this task only (repeatable).")
@click.option("--method", "methods", multiple=True, help="Check a task with this method only (repeatable).")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
def check(what: str, tasks: tuple[str, ...], methods: tuple[str, ...], form: str) -> None:
    """Check that a method, a task or a metric keeps the protocol's promises: with every partner that fits, in small.

    A metric is checked with three of the tasks that list it, or with those that --task names. NAME may have fields, as
    in `run`: NAME:key=value. Exit code: 0 if nothing failed, 1 if something did, 2 if the command is wrong.
    """
    from gwfbench.errors import require

    kind, _, name = what.partition(":")
    if kind in ("task", "method") and name:  # report a typing error before torch is loaded
        registry.find(kind, registry.head(name))
    require(
        not (tasks if kind == "task" else methods),
        f"check {what} --{'task' if kind == 'task' else 'method'}",
        "--task with a method or a metric, or --method with a task",
        "leave it out",
    )
    from dataclasses import asdict

    from gwfbench.check.kit import OfMetric, Plan
    from gwfbench.store.record import to_json

    count = dict.fromkeys(("passed", "failed", "skipped"), 0)
    plan = OfMetric.read(name, tasks) if kind == "metric" and name else Plan.read(what, tasks or methods)
    for outcome in plan.outcomes():
        count[outcome.status] += 1
        put(to_json(asdict(outcome)) + "\n") if form == "json" else say(_line(outcome))
    say(", ".join(f"{number} {status}" for status, number in count.items()), err=form == "json")
    sys.exit(1 if count["failed"] else 0)


def _line(outcome: Outcome) -> str:
    where = f"{outcome.plugin} with {outcome.partner}" if outcome.partner else outcome.plugin
    head = f"{outcome.status:7} {where}: {outcome.check}"
    if outcome.status == "skipped":
        return f"{head}: {outcome.got}"
    if outcome.status == "failed":
        return f"{head}\n  got: {outcome.got}\n  expected: {outcome.expected}\n  fix: {outcome.fix}"
    return f"{head} ({outcome.seconds:.1f} s)"
