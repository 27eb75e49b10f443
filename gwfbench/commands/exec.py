"""`gwfbench exec`: carry out a plan, or a part of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from gwfbench.commands._edge import note
from gwfbench.commands._options import METRIC, OUT, PLACE, check_metrics_of, example, execution, look, read_execution
from gwfbench.commands.run import performed, tell
from gwfbench.errors import require
from gwfbench.plugins import registry


@click.command("exec", epilog=example("exec plan.jsonl --shard 2/5 --out runs"))
@click.argument("file", type=PLACE)
@click.option(
    "--shard", default="1/1", show_default=True, help="Part of the plan to carry out: 2/5 is the second of five."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "csv"]),
    default="table",
    show_default=True,
    help="Format of standard output.",
)
@execution
@METRIC
@look
@OUT
def exec_(
    file: Path, shard: str, form: str, chosen: tuple[str, ...], out: Path, wide: bool, intervals: bool, **how: Any
) -> None:  # fmt: skip
    """Carry out a plan of `run --plan`, or one part of it.

    All lines are checked before anything runs. Runs that are finished under --out are not repeated. Parts may run on
    different machines at the same time and share one --out, where `report` finds all their rows. Exit codes are those
    of `run`.
    """
    part, parts = _read_shard(shard)
    from gwfbench.runs import plan

    options = read_execution(how)
    if options.isolate:
        from gwfbench.process import forkserver

        forkserver.warm()
    jobs = plan.read(file)
    check_metrics_of(chosen, [job.task for job in jobs])
    mine = plan.shard(jobs, part, parts)
    plan.require_devices(mine)
    for job in mine:
        registry.data_files(job.task)
    if not mine:
        note(f"part {shard} of {file}: nothing to do, its {len(jobs)} lines are in other parts")
        return
    done, _ = performed(mine, options, out, form, chosen)
    sys.exit(tell(done, out, form, chosen, wide, intervals))


def _read_shard(words: str) -> tuple[int, int]:
    """`2/5`: the second of five parts."""
    part, slash, parts = words.partition("/")
    plain = bool(slash) and all(one.isascii() and one.isdigit() and len(one) < 10 for one in (part, parts))
    good = plain and 1 <= int(part) <= int(parts)
    require(good, f"--shard {words}", "i/n with 1 <= i <= n", "for example --shard 1/4")
    return int(part), int(parts)
