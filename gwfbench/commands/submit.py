"""`gwfbench submit`: carry out a plan as one Slurm job array."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from gwfbench.commands._edge import note, say
from gwfbench.commands._options import METRIC, OUT, PLACE, check_metrics_of, example, look, read_execution, show
from gwfbench.commands.exec import exec_
from gwfbench.commands.run import show_rows, tell_failed
from gwfbench.errors import UserError

if TYPE_CHECKING:
    from gwfbench.runs.options import Options


@click.command(
    context_settings={"ignore_unknown_options": False},
    epilog=example("submit plan.jsonl --shards 20 --time 2:00:00 --out runs --wait -- --jobs 4"),
)
@click.argument("file", type=PLACE)
@click.argument("words", nargs=-1, metavar="[-- OPTIONS OF EXEC]")
@click.option(
    "--shards", type=click.IntRange(1), required=True, help="Number of parts of the plan, each one job of the array."
)
@click.option("--parallel", type=click.IntRange(1), help="Maximum number of jobs at once.  [default: all]")
@click.option("--partition", default="", help="Slurm partition.  [default: the cluster's]")
@click.option(
    "--time",
    "limit",
    default="4:00:00",
    show_default=True,
    help="Time limit of each job, as Slurm writes it: 90 (minutes), 4:00:00.",
)
@click.option("--gpus", type=click.IntRange(0), default=0, show_default=True, help="Number of GPUs per job.")
@click.option("--cpus", type=click.IntRange(1), default=1, show_default=True, help="Number of CPU cores per job.")
@click.option("--mem", default="", help="Memory per job: 4G.  [default: the cluster's]")
@click.option("--slurm", "extra", multiple=True, help="Further option of sbatch: account=me, exclusive (repeatable).")
@click.option("--wait", is_flag=True, help="Wait until the array has ended, then report as `run` does.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "csv"]),
    default="table",
    show_default=True,
    help="Format of standard output.",
)
@METRIC
@look
@OUT
def submit(
    file: Path, words: tuple[str, ...], shards: int, parallel: int | None, partition: str, limit: str, gpus: int,
    cpus: int, mem: str, extra: tuple[str, ...], wait: bool, form: str, chosen: tuple[str, ...], out: Path,
    wide: bool, intervals: bool,
) -> None:  # fmt: skip
    """Carry out a plan as one Slurm job array.

    Only runs that are neither finished nor queued are submitted. A job that is preempted or out of time goes back into
    the queue and resumes from its last checkpoint. Logs are in slurm/ under --out, which must be a folder that all
    nodes share. Exit code with --wait: that of `run`, and 1 if a run is not finished.
    """
    options = _read_words(file, words)
    from gwfbench.runs import plan, slurm

    asked = slurm.Resources.read(shards, parallel, partition, limit, gpus, cpus, mem, extra)
    jobs = plan.read(file)
    check_metrics_of(chosen, [job.task for job in jobs])
    slurm.require_slurm()
    state = slurm.look(jobs, out, options.retry, options.judge)
    queued = len(state.queued)
    note(f"{file}: {len(state.finished)} runs are finished, {queued} queued, {state.count} to submit")
    arrays = sorted({name.partition("_")[0] for name in state.queued.values()}, key=int)
    if state.left:
        array = slurm.submit(state.left, out, asked, words)
        say(f"array {array}: {min(shards, len(state.left))} jobs of {state.count} runs", err=wait)
        arrays.append(array)
    names = ",".join(arrays)
    if arrays:
        say(f"watch:  squeue --jobs {names}", err=wait)
        say(f"rows:   python -m gwfbench status --plan {file} --out {out}", err=wait)
        say(f"logs:   {out / 'slurm'}", err=wait)
        say("go on:  after a failure, the same command submits what is then not finished", err=wait)
    if not wait:
        return
    slurm.wait(arrays, lambda text: say(text, err=True))
    state = slurm.look(jobs, out, judge=options.judge)
    if form == "json":
        show_rows(state.finished, chosen)
    elif state.finished:
        from gwfbench.store.rows import tidy

        show(tidy(state.finished), form, chosen, wide, intervals)
    failed = tell_failed(state.finished)
    for job in state.left:
        who = job.identity(job.seeds[0])
        seeds = ",".join(map(str, job.seeds))
        say(f"NOT FINISHED {who.task} {who.method} seed {seeds}: see {out / 'slurm'}", err=True)
    sys.exit(failed or bool(state.left))


def _read_words(file: Path, words: tuple[str, ...]) -> Options:
    """The options that go on to exec; they are wrong now, rather than in a queued job."""
    context = exec_.make_context("exec", [str(file), *words])
    own = {"shard": "give --shards", "force": "submit under another --out"}
    own |= {name: f"give --{name} before the --" for name in ("out", "wide", "intervals")}
    for name, fix in own.items():
        if context.get_parameter_source(name) == ParameterSource.COMMANDLINE:
            raise UserError(f"-- --{name}", "another option of exec", fix)
    said = {"file", "shard", "form", "chosen", "out", "wide", "intervals"}
    return read_execution({name: value for name, value in context.params.items() if name not in said})
