"""`gwfbench suite`: which suites there are, and what is in one."""

from __future__ import annotations

import json

import click

from gwfbench.commands import _suites
from gwfbench.commands._edge import put, say
from gwfbench.commands._options import example


@click.group(epilog=example("suite list"))
def suite() -> None:
    """Fixed sets of tasks, methods, seeds and budget, whose boards can be quoted."""


@suite.command("list", epilog=example("suite list"))
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
def list_(form: str) -> None:
    """Show the suites: their sizes, and how long the published runs would take on one core of this machine.

    Of runs without units, how long they took where they ran.
    """
    from gwfbench.suites import suite as suites

    rows = [_suites.facts(name) for name in suites.names()]
    if form == "json":
        put("".join(json.dumps(row) + "\n" for row in rows))
        return
    from gwfbench.report import terminal

    body = [[str(value) for value in row.values()] for row in rows]
    heads = [*rows[0]]
    left = [i for i, head in enumerate(heads) if head in ("suite", "on one core", "track")]
    told = "runs: those of the methods. Each task has its controls besides, which the time has too."
    terminal.show(terminal.Table(heads, body, left, prose=True), below=[told])


@suite.command(epilog=example("suite show smoke"))
@click.argument("name")
def show(name: str) -> None:
    """Show a suite: each task with its headline metric and its methods, and all that is fixed."""
    from gwfbench.plugins import registry
    from gwfbench.suites import suite as suites

    found = suites.load(name)
    facts = _suites.facts(name) | {"seeds": found.seeds, "budget of a run": found.budget or "none"}
    say(found.title)
    for key, value in facts.items():
        if key not in ("suite", "title"):
            say(f"{key}: {value}")
    if found.judge:
        say(f"judged by: {', '.join(found.judge)}")
    say(f"laws judged: {'about 20 on the way, and the last' if found.curve else 'the last alone'}")
    for part in found.parts:
        say(f"\n{part.task}, by {found.metric(part)}:")
        for method in part.methods:
            short = registry.short(method)
            say(f"  {short}" + (f"  ({method})" if short != method else ""))
