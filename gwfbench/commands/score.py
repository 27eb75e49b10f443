"""`gwfbench score`."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import click

from gwfbench import escape
from gwfbench.commands._edge import note, say
from gwfbench.commands._options import OUT, example
from gwfbench.commands._rows import asked_for
from gwfbench.errors import UserError, require
from gwfbench.plugins import registry


@click.command(epilog=example("score --metric radius --plugin radius.py"))
@click.option("--metric", "name", required=True, help="Metric to evaluate: a new one, or one that has changed.")
@click.option(
    "--task", "tasks", multiple=True, help="Task to score: NAME or NAME:KEY=VALUE (repeatable).  [default: all]"
)
@click.option(
    "--method", "methods", multiple=True, help="Method to score: NAME or NAME:KEY=VALUE (repeatable).  [default: all]"
)
@OUT
def score(name: str, tasks: tuple[str, ...], methods: tuple[str, ...], out: Path) -> None:
    """Evaluate a metric on the points that runs kept.

    Nothing is trained again, and `report` shows the new values. Exit code: 0 if a run was scored or was up to date, 1
    if none could be scored, 2 for a mistake in the command.
    """
    from gwfbench.audit import rescore
    from gwfbench.store import folders

    runs, strange = folders.attempts(out)
    for text in strange:
        note(escape.line(f"left alone: {text}"))
    wanted = select(runs, tasks, methods)
    require(bool(wanted), f"--out {out}: no runs that fit", "at least one", "python -m gwfbench run makes them")
    own = {point.metric for run in wanted for point in run.rows}
    rescore.require_metric(own.union(*(_metrics_of(run.identity.task) for run in wanted)), name)
    skipped: Counter[str] = Counter()
    count = values = 0
    for one in rescore.score(name, out, wanted):
        who = one.run.identity
        if one.skipped:
            skipped[one.skipped] += 1
            continue
        count, values = count + 1, values + len(one.rows)
        n = ", ".join(sorted({str(point.n) for point in one.rows}))
        note(f"{who.task} {who.method} seed {who.seed}: {name} of {len(one.rows)} laws at n = {n}")
    say(f"{name}: {count} runs scored, {values} values; {sum(skipped.values())} skipped")
    for reason, number in skipped.most_common():
        note(escape.line(f"skipped {number}: {reason}"))
    sys.exit(not count and not skipped[rescore.NOT_NEEDED])


def select(runs: list, tasks: tuple[str, ...], methods: tuple[str, ...], failed: bool = False) -> list:
    """The newest attempt, or the newest whole one, of each run that has points, of these tasks and methods, given with
    or without fields; with `failed` also those without points."""
    newest = list({run.identity.key: run for run in sorted(runs, key=lambda run: not run.judge)}.values())

    tasks = tuple(asked_for("task", word, {run.identity.task for run in newest}) for word in tasks)
    methods = tuple(asked_for("method", word, {run.identity.method for run in newest}) for word in methods)

    def fits(text: str, words: tuple[str, ...]) -> bool:
        return not words or text in words or registry.head(text) in words

    newest = [r for r in newest if r.rows or failed]
    return [r for r in newest if fits(r.identity.task, tasks) and fits(r.identity.method, methods)]


def _metrics_of(task: str) -> tuple[str, ...]:
    try:
        return registry.find("task", registry.head(task)).load().metrics
    except UserError:
        return ()
