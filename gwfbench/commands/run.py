"""`gwfbench run`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gwfbench import escape
from gwfbench.commands import _config as config
from gwfbench.commands import _suites as suites
from gwfbench.commands._edge import Level, detail, note, put, say
from gwfbench.commands._options import (
    METRIC,
    OUT,
    PLACE,
    check_metrics_of,
    example,
    execution,
    look,
    read_execution,
    require_file,
    show,
)
from gwfbench.errors import require
from gwfbench.plugins import registry
from gwfbench.runs.progress import progress, reason, starting
from gwfbench.store import command_cache

if TYPE_CHECKING:
    from gwfbench.drive.job import Job
    from gwfbench.runs.events import Event
    from gwfbench.runs.options import Options
    from gwfbench.runs.order import Order
    from gwfbench.store.record import Run
    from gwfbench.suites.suite import Suite


def _read_config(context: click.Context, _option: click.Parameter, path: Path | None) -> None:
    """Take a file's values as the defaults of the options."""
    if path:
        context.default_map = config.read(path, context.command.params)


@click.command(epilog=example("run --task toy2d --method sliced_flow@quick --seeds 5"))
@click.option(
    "--config",
    "config_file",
    type=PLACE,
    is_eager=True,
    expose_value=False,
    callback=_read_config,
    help='TOML file with options of this command: task = ["ou"], seeds = 5. Options typed here come before it.',
)
@click.option(
    "--task",
    "tasks",
    multiple=True,
    help="Task: NAME or NAME:KEY=VALUE,KEY=VALUE (repeatable). KEY=1|2 is one with each value.",
)
@click.option(
    "--method",
    "methods",
    multiple=True,
    help="Method: NAME, NAME@SETTING or NAME:KEY=VALUE,KEY=VALUE (repeatable). KEY=1|2 is one with each value.",
)
@click.option("--suite", "suite_name", help="Suite whose runs to make (see `suite list`), or a TOML file of one.")
@click.option(
    "--seeds",
    default="3",
    show_default=True,
    help="Number of seeds (3: seeds 0, 1 and 2), or a list of seeds: 3,5,8; a list of one: 7,",
)
@click.option("--device", default="cpu", show_default=True, help="Device to compute on: cpu, cuda, cuda:1, ...")
@click.option(
    "--dtype", default="float32", show_default=True, help="Precision of floating-point numbers: float32 or float64."
)
@click.option(
    "--budget",
    default="",
    help="Limits on the training of each run, for example seconds=60,steps=100; names: seconds, "
    "steps, score_calls, log_prob_calls, draw_calls.  [default: none]",
)
@click.option(
    "--controls/--no-controls", default=True, show_default=True, help="Run the controls, exact and still, as well."
)
@click.option("--plan", type=PLACE, help="File to write the runs into, for `exec`, instead of running them.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "csv"]),
    default="table",
    show_default=True,
    help="Format of standard output.",
)
@click.option("--print-config", is_flag=True, help="Print these options as a file for --config, and run nothing.")
@execution
@METRIC
@look
@OUT
@click.pass_context
def run(
    context: click.Context, tasks: tuple[str, ...], methods: tuple[str, ...], suite_name: str | None, seeds: str,
    device: str, dtype: str, budget: str, controls: bool, plan: Path | None, form: str, print_config: bool,
    chosen: tuple[str, ...], wide: bool, intervals: bool, out: Path, **how: Any,
) -> None:  # fmt: skip
    """Run methods on tasks, judge them, and print the leaderboard.

    With --suite, tasks, methods, seeds and budget are the suite's; --method runs others on its tasks, and its board
    shows them among the published rows.

    Runs that are finished under --out are not repeated, failed ones included; --retry repeats failed ones, and killed
    runs are always resumed. Several commands may share one --out. Exit code: 0 if every run ended well, 1 if a run
    failed, 2 for a mistake in the command, 130 after an interrupt.
    """
    if print_config:
        put(config.text(context))
        return
    if plan:
        require_file(plan)
        require(not how["judge"], "--judge with --plan", "a plan says what runs, not how", "give --judge to `exec`")
    suite = None
    if suite_name:
        suite = suites.chosen(context, suite_name, tasks, methods)
        how |= {"curve": suite.curve, "judge": suite.judge}
    # a typing error need not wait for torch
    named = [registry.find("task", registry.head(name)) for name in tasks]
    named += [registry.find("method", head) for head in map(registry.head, methods) if not registry.is_control(head)]
    looks = {"wide": wide, "intervals": intervals}
    asked = {
        **how, "words": [tasks, methods, seeds, device, dtype, budget, controls, chosen, form],
        "look": [looks, Level.quiet, "NO_COLOR" in os.environ],
    }  # fmt: skip
    fresh = plan or suite or form == "json" or how["force"] or how["retry"]
    answers = _Answers(asked, "" if fresh else command_cache.code(named), out)
    answers.give()
    words = (tasks, methods, seeds, "cpu" if plan else device, dtype, budget, controls)  # of a plan another machine's
    with starting(_has_bar(bool(how["isolate"])) and not plan):
        orders = _orders(suite, *words, warm=how["isolate"] and not plan)
        check_metrics_of(chosen, [task for order in orders for task in order.tasks])
    if plan:
        from gwfbench.runs.order import device_name

        keep([replace(order, device=device_name(device)) for order in orders], plan, how["force"])
        return
    jobs = [job for order in orders for job in order.jobs()]
    before = command_cache.files(out) if answers.made_from else ""
    done, remarks = performed(jobs, read_execution(how), out, form, chosen, suites.expected(suite) if suite else {})
    with command_cache.heard() as (shown, told):
        if suite_name:
            suites.show(suite_name, done, out, form, **looks)
            failed = tell_failed(done)
        else:
            failed = tell(done, out, form, chosen, **looks)
    if answers.made_from and not remarks:
        files = settled(jobs, done, out, before, how["curve"], how["judge"])
        answers.keep(files, len(done), "".join(shown), "".join(told), failed)
    sys.exit(failed)


@dataclass
class _Answers:
    """What the same command said when it had nothing left to run."""

    asked: dict[str, Any]
    made_from: str
    out: Path

    def give(self) -> None:
        """Say it and end, if it still holds."""
        known = command_cache.find(self.asked, self.made_from, self.out)
        if known:
            note(f"{known.runs} runs: finished before, and nothing has changed since")
            put(known.out)
            put(known.err, err=True)
            sys.exit(known.failed)

    def keep(self, files: str, count: int, shown: str, told: str, failed: bool) -> None:
        """For the next time; with an empty hash of files, it would not hold."""
        if files:
            answer = command_cache.Answer(self.made_from, files, count, shown, told, failed)
            command_cache.keep(self.asked, answer, self.out)


def _has_bar(isolate: bool) -> bool:
    """A bar would hide the prompt of a debugger, which is why one would run everything in this process."""
    return isolate and not Level.quiet and sys.stderr.isatty()


def _orders(
    suite: Suite | None, tasks: tuple[str, ...], methods: tuple[str, ...], seeds: str, device: str, dtype: str,
    budget: str, controls: bool, warm: bool,
) -> list[Order]:  # fmt: skip
    """What is to run; with it torch is loaded, and the process that runs are forked from."""
    detail("loads torch")
    if warm:
        from gwfbench.process import forkserver

        forkserver.warm()
    from gwfbench.runs.order import Order

    detail("has loaded it, and checks tasks and methods")
    if suite is None:
        return [Order.read(tasks, methods, seeds, device, dtype, budget, controls)]
    return [Order.read([p.task], p.methods, suite.seeds, device, dtype, suite.budget, controls) for p in suite.parts]


def keep(orders: Sequence[Order], path: Path, force: bool) -> None:
    """Write the jobs of orders as a plan, and say so."""
    from gwfbench.runs import plan

    jobs = [job for order in orders for job in order.jobs()]
    new = plan.write(path, jobs, force)
    runs = sum(len(job.seeds) for job in jobs)
    said = f"wrote {path}" if new else f"{path} holds this plan already"
    note(f"{said}: {len(jobs)} lines, {runs} runs; nothing has run: python -m gwfbench exec {path}")


def settled(
    jobs: Sequence[Job], done: Sequence[Run], out: Path, before: str, curve: bool, judge: Sequence[str]
) -> str:  # fmt: skip
    """Hash of what is under --out, if it is what was shown and the same command would run nothing; else empty."""
    from gwfbench.runs.scheduler import finished
    from gwfbench.store import folders

    if any(registry.data_files(job.task) for job in jobs):
        return ""  # whether they have changed is not seen without the task
    after = command_cache.files(out)
    job_of = {job.identity(seed).key: job for job in jobs for seed in job.seeds}
    if not all(finished(run, job_of[run.identity.key], curve, judge) for run in done):
        return ""
    if before != after and any(folders.of_key(out, run.identity.key)[-1:] != [run] for run in done):
        return ""
    return after if command_cache.files(out) == after else ""


def performed(
    jobs: Sequence[Job], options: Options, out: Path, form: str, chosen: tuple[str, ...],
    expected: Mapping[tuple[str, str], float] | None = None,
) -> tuple[list[Run], list[str]]:  # fmt: skip
    """The runs of these jobs, in their order, and what was said of other folders; JSON rows are shown as they come.

    Args:
        expected: seconds of a run by task and method, for the time that is left.
    """
    from gwfbench.audit import counted
    from gwfbench.runs.order import in_order
    from gwfbench.runs.scheduler import perform

    for task in dict.fromkeys(job.task for job in jobs):
        for text in registry.remarks(task):
            note(escape.line(f"note: {registry.spec(task)}: {text}"))
    detail(f"{sum(len(job.seeds) for job in jobs)} runs, kept under {out}; those that are finished are not repeated")
    done: list[Run] = []
    remarks: list[str] = []
    with progress(note, _has_bar(options.isolate), Level.verbose) as tell:

        def tell_all(event: Event) -> None:
            if event.kind == "folder":
                remarks.append(event.text)
            if event.kind != "start" or Level.verbose or sys.stderr.isatty():
                tell(event)

        for runs in perform(jobs, out, tell_all, options, expected):
            done += runs
            if form == "json":
                show_rows(counted.current(runs, out)[0], chosen)
    return in_order(jobs, done), remarks


def tell(
    done: list[Run], out: Path, form: str, chosen: tuple[str, ...], wide: bool = False, intervals: bool = False
) -> bool:
    """Show the leaderboard of runs, what it leaves out, and which failed; whether one did."""
    from gwfbench.audit import counted
    from gwfbench.store.rows import tidy

    today, said = counted.current(done, out)
    for text in said:
        note(escape.line(text))
    if form != "json":
        show(tidy(today), form, chosen, wide, intervals)
    return tell_failed(done)


def show_rows(runs: list[Run], chosen: tuple[str, ...]) -> None:
    """One JSON object a line, one a judged (seed, time, metric)."""
    from gwfbench.store.record import to_json

    for one in runs:
        for row in one.tidy():
            if not chosen or row["metric"] in (*chosen, None):
                put(to_json(row) + "\n")


def tell_failed(done: list[Run]) -> bool:
    """Name the failed runs on standard error; whether there are any."""
    failed = [one for one in done if one.failed]
    for one in failed:
        who = one.identity
        text = f"FAILED {who.task} {who.method} seed {who.seed}: {one.status}: {reason(one)}"
        say(escape.line(text), err=True)
    return bool(failed)
