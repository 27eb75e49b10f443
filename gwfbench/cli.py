"""The command line. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gwfbench import __version__, registry
from gwfbench.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from gwfbench.record import Run
    from gwfbench.runner import Job

OUT = click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("results/runs"),
    show_default=True,
    help="Folder of the runs.",
)
METRIC = click.option("--metric", "chosen", multiple=True, help="Show only this metric (repeatable).")


def main() -> None:
    """Run the command line; a user's mistake ends with its error and exit code 2, an interrupt with 130."""
    try:
        cli(standalone_mode=False)
    except UserError as error:
        click.echo(f"gwfbench: {error}", err=True)
        sys.exit(2)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        click.echo("gwfbench: interrupted; what was finished is kept, the same command goes on from there", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone: nobody is left to tell
        sys.exit(141)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__)
def cli() -> None:
    """Benchmark and reproducibility suite for Wasserstein gradient flows."""


# ------------------------------------------------------------------------------------------------ list


@cli.command("list")
@click.option("--task", help="Show one task: its fields, and the methods that fit.")
@click.option("--method", help="Show one method: its fields, and the tasks that it fits.")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
def list_(task: str | None, method: str | None, form: str) -> None:
    """Tasks, methods, their fields, and which pairs are valid."""
    tasks = [registry.find("task", task)] if task else list(registry.plugins("task").values())
    methods = [registry.find("method", method)] if method else list(registry.plugins("method").values())
    if task and not method:
        methods = [m for m in methods if registry.fits(tasks[0], m)]
    if method and not task:
        tasks = [t for t in tasks if registry.fits(t, methods[0])]
    if form == "json":
        for plugin in [*tasks, *methods]:
            click.echo(json.dumps(_facts(plugin, methods if plugin.kind == "task" else tasks)))
        return
    from rich.console import Console

    console = Console() if sys.stdout.isatty() else Console(width=140)
    console.print(_listing("tasks", "offers", [(t, methods) for t in tasks]))
    console.print(_listing("methods", "needs", [(m, tasks) for m in methods]))
    for plugin in [*tasks, *methods]:
        if plugin.fields:
            rows = [[f.name, f.type, f.default, f.doc] for f in plugin.fields]
            console.print(_table(f"fields of {plugin.kind} {plugin.name}", ["field", "type", "default", "what"], rows))
    console.print(
        f"Controls, run on every task: {', '.join(registry.CONTROLS)}. Configure with name:key=value,key=value.",
        style="dim",
    )


def _partners(plugin: registry.Plugin, others: list[registry.Plugin]) -> list[str]:
    pairs = ((plugin, other) if plugin.kind == "task" else (other, plugin) for other in others)
    return [other.name for other, pair in zip(others, pairs, strict=True) if not other.problem and registry.fits(*pair)]


def _listing(title: str, verb: str, rows: list[tuple[registry.Plugin, list[registry.Plugin]]]) -> Any:
    body = []
    for plugin, others in rows:
        if plugin.problem:
            body.append([plugin.name, f"unavailable ({plugin.origin}): {plugin.problem}", "", ""])
        else:
            body.append(
                [
                    plugin.name,
                    plugin.summary,
                    " ".join(sorted(plugin.capabilities)),
                    " ".join(_partners(plugin, others)),
                ]
            )
    return _table(title, ["name", "what", verb, "fits"], body)


def _facts(plugin: registry.Plugin, others: list[registry.Plugin]) -> dict[str, Any]:
    verb = "offers" if plugin.kind == "task" else "needs"
    return {
        "kind": plugin.kind,
        "name": plugin.name,
        "origin": plugin.origin,
        "problem": plugin.problem or None,
        "summary": plugin.summary,
        verb: sorted(plugin.capabilities),
        "fits": _partners(plugin, others),
        "fields": {f.name: {"type": f.type, "default": f.default, "doc": f.doc} for f in plugin.fields},
    }


def _table(title: str, head: list[str], body: list[list[str]]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, title_justify="left", header_style="bold")
    for name in head:
        table.add_column(name, overflow="fold")
    for row in body:
        table.add_row(*(escape(cell) for cell in row))
    return table


# ------------------------------------------------------------------------------------------------ run


@cli.command()
@click.option("--task", "tasks", multiple=True, help="name or name:key=value,key=value (repeatable).")
@click.option("--method", "methods", multiple=True, help="name or name:key=value,key=value (repeatable).")
@click.option(
    "--seeds", default="3", show_default=True, help="How many (3 means 0 1 2), or which: 3,5,8; one alone: 7,"
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, ...")
@click.option("--dtype", default="float32", show_default=True, help="float32 or float64.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Of torch, on the CPU.")
@click.option("--budget-seconds", type=float, help="Seconds of training a run may take; evaluation is off the clock.")
@click.option("--controls/--no-controls", default=True, show_default=True, help="Run exact and still too.")
@click.option("--force", is_flag=True, help="Run again what is finished.")
@click.option("--format", "form", type=click.Choice(["table", "json", "csv"]), default="table", show_default=True)
@METRIC
@OUT
def run(
    tasks: tuple[str, ...], methods: tuple[str, ...], seeds: str, device: str, dtype: str, threads: int,
    budget_seconds: float | None, controls: bool, force: bool, form: str, chosen: tuple[str, ...], out: Path,
) -> None:  # fmt: skip
    """Run methods on tasks, judge them, and print the leaderboard.

    What is finished under --out is not run again. Exit code: 0 if every run ended well, 1 if one failed, 2 for a
    mistake in the command, 130 for an interrupt.
    """
    for name in tasks:  # a typing error need not wait for torch
        registry.find("task", registry.head(name))
    for name in methods:
        if registry.head(name) not in registry.CONTROLS:
            registry.find("method", registry.head(name))
    from gwfbench import session
    from gwfbench.record import to_json

    order = session.Order.read(tasks, methods, seeds, device, dtype, budget_seconds, controls)
    _check_metrics(chosen, {name for task in order.tasks for name in task.metrics})
    done: list[Run] = []
    with _progress() as event:
        for runs in session.perform(order, out, event, force, threads):
            done += runs
            if form == "json":
                for one in runs:
                    for row in one.rows():
                        if not chosen or row["metric"] in (*chosen, None):
                            click.echo(to_json(row))
    if form != "json":
        _show(session.tidy(done), form, chosen)
    failed = [one for one in done if one.failed]
    for one in failed:
        who = one.identity
        click.echo(f"FAILED {who.task} {who.method} seed {who.seed}: {one.status}: {one.reason}", err=True)
    sys.exit(1 if failed else 0)


def _check_metrics(chosen: tuple[str, ...], known: set[str]) -> None:
    from gwfbench.errors import unknown

    for name in chosen:
        if name not in known:
            raise unknown("metric", name, known, see="python -m gwfbench run --help; the metrics are the task's")


def _show(points: pd.DataFrame, form: str, chosen: tuple[str, ...]) -> None:
    from gwfbench.report.leaderboard import alarms, leaderboard

    board = leaderboard(points, chosen or None)
    if form == "csv":
        points = points[points["metric"].isin(chosen) | points["metric"].isna()] if chosen else points
        click.echo(points.to_csv(index=False), nl=False)
    else:
        from gwfbench.report.tables import print_board

        print_board(board)
    for line in alarms(board):
        click.echo(line, err=True)


@contextmanager
def _progress() -> Iterator[Any]:
    """What to call on every event: a bar where standard error is a terminal, plain lines elsewhere."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(),
            TextColumn("elapsed"), TimeElapsedColumn(), TextColumn("remaining"), TimeRemainingColumn(),
        )  # fmt: skip
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            whole = bar.add_task("", total=1.0)

            def draw(what: str, job: Job, run: Run | None, share: float) -> None:
                bar.update(whole, completed=share, description=f"{_who(job)} {what}")
                if run is not None or what.startswith(("stale", "left alone")):
                    bar.console.print(_line(what, job, run), markup=False, highlight=False)

            yield draw
        return
    start, last = time.monotonic(), time.monotonic()

    def tell(what: str, job: Job, run: Run | None, share: float) -> None:
        nonlocal last
        now = time.monotonic()
        if what.startswith("t =") and now - last < 30:
            return
        last = now
        left = f", {(now - start) * (1 - share) / share:.0f} s remaining" if share > 0.02 else ""
        click.echo(f"[{share:4.0%} {now - start:.0f} s elapsed{left}] {_line(what, job, run)}", err=True)

    yield tell


def _who(job: Job) -> str:
    who = job.identity(job.seeds[0])
    return f"{who.task} {who.method} seed {','.join(map(str, job.seeds))}"


def _line(what: str, job: Job, run: Run | None) -> str:
    if run is None:
        return what if what.startswith("left alone") else f"{_who(job)}: {what}"
    who, last = run.identity, run.points[-1].step if run.points else 0
    head = next((p for p in run.points if p.step == last and p.value is not None), None)
    where = "" if head is None or head.t is None else f" at t = {head.t:.3g}"
    number = f", {head.metric} {head.value:.3g}{where}" if head else ""
    reason = f" ({run.reason})" if run.reason else ""
    return f"{who.task} {who.method} seed {who.seed}: {what}: {run.status}{reason} after {run.seconds:.1f} s{number}"


# ------------------------------------------------------------------------------------------------ report


@cli.command()
@click.option("--task", "tasks", multiple=True, help="Only tasks of this name, or this name:key=value (repeatable).")
@click.option("--rows", type=click.Path(path_type=Path), help="A CSV of points instead of --out, as results/rows.csv.")
@click.option(
    "--format", "form", type=click.Choice(["table", "markdown", "csv", "json"]), default="table", show_default=True
)
@click.option(
    "--write", type=click.Path(path_type=Path), help="Also write leaderboard.md and rows.csv into this folder."
)
@METRIC
@OUT
def report(
    tasks: tuple[str, ...], rows: Path | None, form: str, write: Path | None, chosen: tuple[str, ...], out: Path
) -> None:
    """The leaderboards of the runs kept under --out, newest attempt of each, stale ones left out."""
    import pandas as pd

    from gwfbench import record
    from gwfbench.report import tables
    from gwfbench.report.leaderboard import alarms, leaderboard

    facts: dict[str, dict[str, Any]] = {}
    if rows:
        try:
            points = pd.read_csv(rows)
            missing = {"task", "method", "seed", "metric", "value", "run_key", "role"} - set(points.columns)
            if missing:
                raise ValueError(f"it has no column {', '.join(sorted(missing))}")
        except (OSError, ValueError) as error:
            raise UserError(
                f"--rows {rows}: {error}", "a CSV of points", "python -m gwfbench report --write DIR makes one"
            ) from None
        points["information"] = points["information"].fillna("")
    else:
        points = _collect(out)
        facts = record.environments(out, points["env"])
    if tasks:
        name = points["task"].astype(str)
        wanted = name.isin(tasks) | name.str.partition(":")[0].isin(tasks)
        if not wanted.any():
            raise UserError(
                f"--task {' '.join(tasks)}: no runs of it",
                f"one of {', '.join(sorted(set(name)))}",
                "python -m gwfbench run makes them",
            )
        points = points[wanted]
    _check_metrics(chosen, set(points["metric"].dropna()))
    board = leaderboard(points, chosen or None)
    if form == "table":
        tables.print_board(board)
    elif form == "markdown":
        click.echo(tables.markdown(board))
    elif form == "csv":
        click.echo(board.to_csv(index=False), nl=False)
    else:
        for row in board.to_dict("records"):
            click.echo(record.to_json(row))
    for line in alarms(board):
        click.echo(line, err=True)
    if write:
        write.mkdir(parents=True, exist_ok=True)
        points.to_csv(write / "rows.csv", index=False, float_format="%.6g")
        page = f"# Leaderboard\n\n{tables.markdown(board)}\n{tables.provenance(points, facts)}"
        (write / "leaderboard.md").write_text(page, encoding="utf-8")
        click.echo(f"wrote {write / 'leaderboard.md'} and {write / 'rows.csv'}", err=True)


def _collect(out: Path) -> pd.DataFrame:
    """Tidy points of the newest attempt of each run; what was left out is said on standard error."""
    from gwfbench import record, session

    runs, strange = record.attempts(out)
    for text in strange:
        click.echo(f"left alone: {text}", err=True)
    newest = {run.identity.key: run for run in runs}
    fresh = [run for run in newest.values() if not session.is_stale(run)]
    if len(fresh) < len(newest):
        stale = len(newest) - len(fresh)
        click.echo(f"left out: {stale} stale runs, made by other code than today's; run them again", err=True)
    if not fresh:
        raise UserError(
            f"--out {out}: no finished runs", "at least one", "python -m gwfbench run --task ou --method vjko"
        )
    return session.tidy(fresh)


# ------------------------------------------------------------------------------------------------ calibrate


@cli.command()
@click.option("--task", "tasks", multiple=True, help="name or name:key=value (repeatable); none: every task.")
@click.option("--metric", "chosen", multiple=True, help="Only this metric (repeatable); none: those of each task.")
@click.option("--trials", type=int, default=200, show_default=True, help="Of each change, in the search for power.")
@click.option("--seeds", default="5", show_default=True, help="Of floor and still: how many, or which.")
@click.option("--power-seconds", type=float, default=60.0, show_default=True, help="CPU, for the power of one metric.")
@click.option("--format", "form", type=click.Choice(["markdown", "csv", "json"]), default="markdown", show_default=True)
@click.option("--write", type=click.Path(path_type=Path), help="Also keep the page, and its CSV beside it, row by row.")
def calibrate(
    tasks: tuple[str, ...], chosen: tuple[str, ...], trials: int, seeds: str, power_seconds: float, form: str,
    write: Path | None,
) -> None:  # fmt: skip
    """Floor, value of the law that never moves, and power of every metric on every task."""
    for name in tasks:
        registry.find("task", registry.head(name))
    from dataclasses import asdict

    from gwfbench import calibration, session
    from gwfbench.record import to_json
    from gwfbench.report import calibration as table

    plan = calibration.Plan.read(tasks, chosen, trials, session.read_seeds(seeds), power_seconds)
    rows = []
    for row, new in table.keep(plan, write):
        rows.append(row)
        if form == "json":
            click.echo(to_json(asdict(row)))
        click.echo(f"{row.task} {row.metric}: {row.status if new else 'finished before'} {row.note}".rstrip(), err=True)
    if form != "json":
        click.echo(table.markdown(rows) if form == "markdown" else table.to_csv(rows), nl=False)
    sys.exit(any(row.status == "error" for row in rows))
