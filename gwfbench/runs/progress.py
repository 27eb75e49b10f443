"""What is said of runs while they go on: a bar on a terminal or in a notebook, plain lines elsewhere."""

from __future__ import annotations

import importlib.util
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gwfbench import escape
from gwfbench.plugins import registry
from gwfbench.store.record import Run, took

if TYPE_CHECKING:
    from gwfbench.drive.job import Job
    from gwfbench.runs.events import Event, Listener

ABOVE = ("stale", "elsewhere", "folder")  # a bar: what the board does not say, as are failed runs; the rest is in it
NO_TERMINAL = "breakpoint() in a process of its own has no terminal: add --no-isolate (in Python: isolate=False)"


@contextmanager
def starting(bar: bool) -> Iterator[None]:
    """The bar before there is one: it would need a thread, and a fork of this process must have none."""
    if bar:
        sys.stderr.write(f"{'-' * 12}   0% starts\r")
        sys.stderr.flush()
    try:
        yield
    finally:
        if bar:
            sys.stderr.write("\x1b[2K")


def has_bar() -> bool:
    """Whether a bar can be drawn: in a notebook that needs ipywidgets."""
    from rich.console import Console

    here = Console(stderr=True)
    return importlib.util.find_spec("ipywidgets") is not None if here.is_jupyter else here.is_terminal


@contextmanager
def progress(say: Callable[[str], None], bar: bool, every: bool = False) -> Iterator[Listener]:
    """What to call on every event: a bar, which is there from the beginning, or lines that go to `say`.

    Args:
        every: say all there is, besides the bar too.
    """
    if bar:
        with _drawn(every) as draw:
            yield draw
        return
    start = time.monotonic()
    last: dict[Job, float] = {}  # several run at once, and each is heard

    def tell(event: Event) -> None:
        now = time.monotonic()
        if event.kind == "progress" and now - last.get(event.job, now) < 30:
            return
        last[event.job] = now
        left = "" if math.isnan(event.left) or event.share == 1 else f", about {span(event.left)} left"
        say(f"[{event.share:4.0%} {now - start:.0f} s{left}] {escape.line(_line(event))}")

    yield tell


@contextmanager
def _drawn(every: bool) -> Iterator[Listener]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskProgressColumn, TextColumn
    from rich.text import Text

    class Left(ProgressColumn):
        """Counts down between two events."""

        def render(self, task: Task) -> Text:
            left = task.fields["left"] - (time.monotonic() - task.fields["at"])
            shown = span(left) if left >= 120 else f"{left:.0f} s"
            return Text("" if math.isnan(left) else f"{shown} left" if left > 0.5 else "almost done")

    console = Console(stderr=True)
    said = max(10, console.width - 36)  # what runs, in the room that the rest leaves
    columns = (BarColumn(12), TaskProgressColumn(), Left(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=console, transient=True) as drawn:
        whole = drawn.add_task("starts", total=None, left=math.nan, at=0.0)

        def draw(event: Event) -> None:
            what = escape.line(f"{_short(event.job)}: {event.text}")
            shown = what if len(what) <= said else f"{what[: said - 1]}…"
            drawn.update(
                whole, total=1.0, completed=event.share, description=shown, left=event.left, at=time.monotonic()
            )
            failed = event.kind == "end" and event.run is not None and event.run.failed
            if failed or event.kind in ABOVE or (every and event.kind != "progress"):
                drawn.console.print(escape.rich(_line(event)), highlight=False, soft_wrap=True)

        yield draw


def span(seconds: float) -> str:
    """A length of time in words."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.{1 if seconds < 10 * size else 0}f} {unit}"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"


def who_is(job: Job) -> str:
    who = job.identity(job.seeds[0])
    return f"{who.task} {who.method} seed {','.join(map(str, job.seeds))}"


def _short(job: Job) -> str:
    who = job.identity(job.seeds[0])
    return f"{registry.short(who.method)}, seed {','.join(map(str, job.seeds))}, {who.task}"


def reason(run: Run) -> str:
    """Why a run ended as it did, as a user is told."""
    return NO_TERMINAL if run.reason.startswith("BdbQuit") else run.reason


def _line(event: Event) -> str:
    run = event.run
    if run is None:
        return event.text if event.kind == "folder" else f"{who_is(event.job)}: {event.text}"
    who, last = run.identity, run.rows[-1].step if run.rows else 0
    head = next((p for p in run.rows if p.step == last and p.value is not None), None)
    where = "" if head is None or head.t is None else f" at t = {head.t:.3g}"
    number = f", {head.metric} {head.value:.3g}{where}" if head else ""
    why = f" ({reason(run)})" if run.reason else ""
    seconds = took(run.seconds, run.sample_seconds, run.judge_seconds)
    return f"{who.task} {who.method} seed {who.seed}: {event.text}: {run.status}{why} after {seconds}{number}"
