"""`gwfbench check`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from gwfbench.commands._edge import put, say
from gwfbench.plugins import registry

if TYPE_CHECKING:
    from gwfbench.check.outcome import Outcome


@click.command()
@click.argument("what", metavar="method:NAME | task:NAME")
@click.option("--task", "tasks", multiple=True, help="Check a method with this task only (repeatable).")
@click.option("--method", "methods", multiple=True, help="Check a task with this method only (repeatable).")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
def check(what: str, tasks: tuple[str, ...], methods: tuple[str, ...], form: str) -> None:
    """Check that a method or task keeps the protocol's promises, with its smoke fields and every partner that fits.

    NAME may have fields, as in `run`: NAME:key=value. Exit code: 0 if nothing failed, 1 if something did, 2 if the
    command is wrong.
    """
    from gwfbench.errors import require

    kind, _, name = what.partition(":")
    if kind in ("task", "method") and name:  # report a typing error before torch is loaded
        registry.find(kind, registry.head(name))
    require(
        not (tasks if kind == "task" else methods),
        f"check {what} --{kind}",
        "--task with a method, or --method with a task",
        f"leave --{kind} out",
    )
    from dataclasses import asdict

    from gwfbench.check.kit import Plan
    from gwfbench.store.record import to_json

    count = dict.fromkeys(("passed", "failed", "skipped"), 0)
    for outcome in Plan.read(what, tasks or methods).outcomes():
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
