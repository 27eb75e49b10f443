"""`gwfbench verify`."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import click

from gwfbench.commands._edge import note, say
from gwfbench.commands._options import OUT, PLACE, example
from gwfbench.commands._rows import selected
from gwfbench.errors import require


@click.command(epilog=example("verify --rows results/studies/ou/rows.csv --count 1"))
@click.option("--count", type=click.IntRange(1), default=3, show_default=True, help="Number of runs to repeat.")
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Random seed for the choice of runs."
)
@click.option(
    "--task", "tasks", multiple=True, help="Task to verify: NAME or NAME:KEY=VALUE (repeatable).  [default: all]"
)
@click.option(
    "--method", "methods", multiple=True, help="Method to verify: NAME or NAME:KEY=VALUE (repeatable).  [default: all]"
)
@click.option(
    "--rows",
    type=PLACE,
    help="CSV of rows, such as results/studies/ou/rows.csv, to take runs from instead of --out.",
)
@click.argument("more", nargs=-1, type=PLACE, metavar="[MORE ROWS]...")
@OUT
def verify(
    count: int,
    seed: int,
    tasks: tuple[str, ...],
    methods: tuple[str, ...],
    rows: Path | None,
    more: tuple[Path, ...],
    out: Path,
) -> None:
    """Repeat finished runs from their rows alone, and compare.

    Several CSVs may follow --rows, as in `verify --rows results/*/rows.csv`. The runs are chosen from all of them.

    The verdict on each is identical (every bit), within tolerance, like another seed (only on another processor or
    library), or different, with the value that differs. Verdicts are kept in verified.jsonl under --out, and `report`
    counts them. Exit code: 1 if a run is different or could not be run, 2 for a mistake in the command, else 0.
    """
    from gwfbench.audit import verify as again
    from gwfbench.audit.verdict import keep

    require(
        not more or rows is not None, f"verify {' '.join(map(str, more))}", "CSVs after --rows", "write --rows first"
    )
    table, facts = selected(tasks, methods, (rows, *more) if rows else None, out)
    ends: Counter[str] = Counter()
    for some in again.pick(table, count, seed):
        verdict = again.verify(some, facts.get(str(some["env"].iloc[0]), {}), table)
        keep(out, verdict)
        ends[verdict.verdict] += 1
        told = "".join(f"\n  {text}" for text in (verdict.what, verdict.why) if text)
        say(f"{verdict.task} {verdict.method} seed {verdict.seed}: {verdict.verdict} ({verdict.values} values){told}")
    note(", ".join(f"{number} {word}" for word, number in ends.most_common()))
    sys.exit(bool(ends["different"] + ends["not run"]))
