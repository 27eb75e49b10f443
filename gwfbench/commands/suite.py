"""`gwfbench suite`: which suites there are, and what is in one."""

from __future__ import annotations

import json

import click

from gwfbench import escape
from gwfbench.commands import _suites
from gwfbench.commands._edge import put, say


@click.group()
def suite() -> None:
    """Fixed sets of tasks, methods, seeds and budget, whose boards can be quoted.

    Example: run --suite smoke, then report --suite smoke
    """


@suite.command("list")
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
    from rich.console import Console
    from rich.table import Table

    table = Table(header_style="bold")
    for head in rows[0]:
        table.add_column(head, overflow="fold", justify="left" if head in ("suite", "title", "track") else "right")
    for row in rows:
        table.add_row(*(escape.rich(str(value)) for value in row.values()))
    Console().print(table)


@suite.command()
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
