"""What is said of runs while they go on: a bar on a terminal or in a notebook, plain lines elsewhere."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gwfbench import escape
from gwfbench.store.record import took

if TYPE_CHECKING:
    from gwfbench.drive.job import Job
    from gwfbench.runs.scheduler import Event, Listener

SHOWN = ("end", "stale", "elsewhere", "folder")  # above a bar; the rest is in it


def has_bar() -> bool:
    """Whether a bar can be drawn: in a notebook that needs ipywidgets."""
    from rich.console import Console

    here = Console(stderr=True)
    return importlib.util.find_spec("ipywidgets") is not None if here.is_jupyter else here.is_terminal


@contextmanager
def progress(say: Callable[[str], None], bar: bool) -> Iterator[Listener]:
    """What to call on every event: a bar, or lines that go to `say`."""
    if bar:
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
        with Progress(*columns, console=Console(stderr=True), transient=True) as drawn:
            whole = drawn.add_task("", total=1.0)

            def draw(event: Event) -> None:
                drawn.update(whole, completed=event.share, description=escape.rich(f"{who_is(event.job)} {event.text}"))
                if event.kind in SHOWN:
                    drawn.console.print(escape.rich(_line(event)), highlight=False)

            yield draw
        return
    start = time.monotonic()
    last: dict[Job, float] = {}  # several run at once, and each is heard

    def tell(event: Event) -> None:
        now, share = time.monotonic(), event.share
        if event.kind == "progress" and now - last.get(event.job, now) < 30:
            return
        last[event.job] = now
        left = f", {(now - start) * (1 - share) / share:.0f} s remaining" if share > 0.02 else ""
        say(f"[{share:4.0%} {now - start:.0f} s elapsed{left}] {escape.line(_line(event))}")

    yield tell


def who_is(job: Job) -> str:
    who = job.identity(job.seeds[0])
    return f"{who.task} {who.method} seed {','.join(map(str, job.seeds))}"


def _line(event: Event) -> str:
    run = event.run
    if run is None:
        return event.text if event.kind == "folder" else f"{who_is(event.job)}: {event.text}"
    who, last = run.identity, run.rows[-1].step if run.rows else 0
    head = next((p for p in run.rows if p.step == last and p.value is not None), None)
    where = "" if head is None or head.t is None else f" at t = {head.t:.3g}"
    number = f", {head.metric} {head.value:.3g}{where}" if head else ""
    reason = f" ({run.reason})" if run.reason else ""
    seconds = took(run.seconds, run.sample_seconds, run.judge_seconds)
    return f"{who.task} {who.method} seed {who.seed}: {event.text}: {run.status}{reason} after {seconds}{number}"
