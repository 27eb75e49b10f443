"""`gwfbench status`."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gwfbench import escape
from gwfbench.commands._edge import put, say
from gwfbench.commands._options import PLACE, example
from gwfbench.commands.run import run
from gwfbench.errors import require
from gwfbench.plugins import registry
from gwfbench.runs.progress import span

if TYPE_CHECKING:
    from gwfbench.audit.status import Standing

AS_RUN = {"tasks", "methods", "seeds", "device", "dtype", "budget", "controls", "out"}
SHARED = [one for one in run.params if one.name in AS_RUN]
PLAN = click.Option(["--plan"], type=PLACE, help="Plan, written by `run --plan`, whose runs to look up.")
FORM = click.Option(
    ["--format", "form"],
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="Format of standard output.",
)


@click.command(params=[*SHARED, PLAN, FORM], epilog=example("status --task ou --method vjko --seeds 5"))
def status(tasks: tuple[str, ...], methods: tuple[str, ...], plan: Path | None, out: Path, form: str, **rest: Any):
    """State of the runs, and an estimate of the time left.

    Give the options of a `run` command, or a plan; with neither, all runs that were ever tried under --out are shown.
    States: done, failed, stale (made by code that has changed since), killed, running, missing. Exit code: 0 if all are
    done, 1 if not, 2 for a mistake in the command.
    """
    require(
        not (plan and (tasks or methods)), "--plan and --task or --method", "one of them", "the plan says which runs"
    )
    for name in tasks:
        registry.find("task", registry.head(name))
    from dataclasses import asdict

    from gwfbench.audit import status as standing
    from gwfbench.runs import order
    from gwfbench.runs import plan as plans
    from gwfbench.store.record import to_json

    if plan:
        found, strange = standing.survey(plans.read(plan), out)
    elif tasks or methods:
        found, strange = standing.survey(order.Order.read(tasks, methods, **rest).jobs(), out)
    else:
        found, strange = standing.survey_all(out)
        require(
            bool(found or strange),
            f"--out {out}: no runs",
            "at least one",
            "python -m gwfbench run --task ou --method vjko",
        )
    if form == "json":
        for one in found:
            put(to_json(asdict(one)) + "\n")
    else:
        _print(found)
    say(summary(found), err=form == "json")
    for text in strange:
        say(f"not counted: {escape.line(text)}", err=True)
    sys.exit(bool(strange) or any(one.state != "done" for one in found))


def summary(found: list[Standing]) -> str:
    """Number of runs in each state, and the time that the rest will take, one after another."""
    from gwfbench.audit.status import LEFT

    counts = Counter(one.state for one in found)
    states = ", ".join(f"{counts[state]} {state}" for state in ("done", "failed", *sorted(LEFT)) if counts[state])
    text = f"{len(found)} run{'s' * (len(found) != 1)}: {states}"
    left = [one for one in found if one.state in LEFT]
    known = [one.expected for one in left if one.expected is not None]
    if known:
        text += f"; the rest will take about {span(sum(known))}, one after another"
    if len(known) < len(left):
        text += f"; no estimate for {len(left) - len(known)} of them: their methods have never been run"
    return text


def _print(found: list[Standing]) -> None:
    from gwfbench.report import terminal

    groups: dict[tuple[str, ...], list[Standing]] = defaultdict(list)
    for one in found:
        end = one.status if one.state == "failed" else ""
        groups[one.task, one.method, f"{one.state}{': ' * bool(end)}{end}", one.reason].append(one)
    tables: dict[str, list[list[str]]] = defaultdict(list)
    for (task, method, state, reason), some in groups.items():
        took = [one.seconds for one in some if one.seconds is not None]
        expected = [one.expected for one in some if one.expected is not None]
        why = "; ".join(filter(None, (reason, f"from {some[0].basis}" if expected else "")))
        spans = [span(sum(part)) if part else "-" for part in (took, expected)]
        tables[task].append([method, state, _seeds([one.seed for one in some]), *spans, why])
    for task, rows in tables.items():
        heads = ["method", "state", "seeds", "took", "will take", "why"]
        terminal.show(terminal.Table(heads, rows, left=(0, 1, 2, 5), prose=True), task)
        terminal.put([("", "")])


def _seeds(seeds: list[int]) -> str:
    """`0-4, 7`."""
    ends: list[list[int]] = []
    for seed in sorted(seeds):
        if ends and ends[-1][1] == seed - 1:
            ends[-1][1] = seed
        else:
            ends.append([seed, seed])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in ends)
