"""What `import gwfbench` gives."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

from gwfbench.budget import Budget
from gwfbench.errors import UserError, require
from gwfbench.metrics import known as known_metrics
from gwfbench.plugins import registry
from gwfbench.protocol import Method, Metric, Task
from gwfbench.runs.events import Event, Listener
from gwfbench.runs.options import Options
from gwfbench.runs.order import Order, in_order, read_seeds
from gwfbench.runs.progress import has_bar
from gwfbench.runs.progress import progress as progress_of
from gwfbench.runs.scheduler import perform
from gwfbench.store.rows import tidy

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from gwfbench.audit.law import Law

Given: TypeAlias = str | Task | Method | type


def tasks() -> dict[str, str]:
    """The tasks that can be named, with a line on each.

    >>> gwfbench.tasks()["ou"]
    'Ornstein-Uhlenbeck process: the flow of KL(. || N(b, A^-1)) from N(0, I), Gaussian at every time.'
    """
    return {name: plugin.summary for name, plugin in registry.plugins("task").items() if not plugin.problem}


def methods() -> dict[str, str]:
    """The methods that can be named, with a line on each.

    >>> "vjko" in gwfbench.methods()
    True
    """
    return {name: plugin.summary for name, plugin in registry.plugins("method").items() if not plugin.problem}


def metrics() -> dict[str, Metric]:
    """The metrics that any task may be judged by. A task's own ones are in the `metrics` of its truth.

    >>> gwfbench.metrics()["kl"].needs == {"density", "log_prob"}
    True
    """
    return known_metrics()


def task(spec: str) -> Task:
    """A task from words, `name` or `name:key=value,key=value`.

    Raises:
        UserError: there is no such task or field, or the field does not accept the value.

    >>> instance = gwfbench.task("ou:dim=2").build(gwfbench.Streams((0, 1)))
    >>> instance.truth.draw(17, 5, gwfbench.Streams((0, 1))).shape  # 5 draws of the last law, for each of two seeds
    torch.Size([2, 5, 2])
    """
    return registry.parse("task", spec)


def method(spec: str) -> Method:
    """A method from words, `name` or `name:key=value,key=value`.

    Raises:
        UserError: there is no such method or field, or the field does not accept the value.

    >>> gwfbench.method("ula:step=0.02").step
    0.02
    """
    return registry.parse("method", spec)


@overload
def load(out: str | Path = "results/runs") -> pd.DataFrame: ...


@overload
def load(method: str, task: str, /, *, seed: int = 0, out: str | Path = "results/runs") -> Law: ...


def load(*what: str | Path, seed: int = 0, out: str | Path = "results/runs") -> pd.DataFrame | Law:
    """The rows of the finished runs under a folder: each run's newest attempt by the current code and current metrics.

    With a method and a task, the last law of one of these runs: its `points`, their `sha256`, and `draw(n)`, which
    trains the method again for n new ones.

    Args:
        out: folder of the runs, as in `run`; or a CSV of rows that `report --write` made, which is read as it is.
        method, task: `name:key=value,key=value` or `method@setting`.
        seed: of the run.

    A warning says which runs and values are left out of the rows.

    Raises:
        UserError: there are no such runs.

    >>> _ = gwfbench.run("ou:horizon=0.05", "ula", seeds=1, out="runs", controls=False, isolate=False)
    >>> rows = gwfbench.load("runs")
    >>> sorted(set(rows["method"]))
    ['ula']
    >>> law = gwfbench.load("ula", "ou:horizon=0.05", seed=0, out="runs")
    >>> law.draw(5).shape  # new points of its last law
    torch.Size([5, 2])
    """
    from gwfbench.report.rows import read, rows_of

    require(len(what) <= 2, f"load{what!r}", "a folder, or a method and a task", "see help(gwfbench.load)")
    if len(what) == 2:
        from gwfbench.audit.law import find

        return find(str(what[0]), str(what[1]), seed, Path(out))
    out = Path(what[0] if what else out)
    if out.is_file():
        return read(out)[0]
    rows, _, remarks = rows_of(out)
    for remark in remarks:
        warnings.warn(remark, stacklevel=2)
    return rows


def run(
    task: Given | Sequence[Given], method: Given | Sequence[Given], seeds: int | Sequence[int] = 3, *,
    device: str | torch.device = "cpu", dtype: Literal["float32", "float64"] | torch.dtype = "float32",
    budget: str | Mapping[str, float] = "", controls: bool = True, out: str | Path | None = None, force: bool = False,
    retry: str | Iterable[str] = (), threads: int = 1, jobs: int | None = None, timeout: float | None = None,
    memory: float | None = None, isolate: bool = True, curve: bool = True,
    judge: str | Iterable[str] = (), progress: bool | Callable[[Event], object] | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Run methods on tasks and return their results, one row for each judged (seed, time, metric).

    Args:
        task, method: `name` or `name:key=value,key=value`; or an instance, or a class, of your own; one or several.
        seeds: number of seeds (0, 1, ...), or a list of them.
        budget: limits of each run, as `seconds=60,score_calls=1e6` or as a dict; evaluation does not count.
        controls: run `exact` and `still` too, without which a leaderboard has no floor.
        out: folder that keeps the runs, and where finished ones are found; None: nothing is read or kept.
        force: run finished runs again.
        retry: statuses that are run again: "error", "oom", "timeout", "diverged".
        threads: number of threads of torch and BLAS per run.
        jobs: number of runs at once; default: one on the CPU, one per GPU.
        timeout: wall time per run, in seconds.
        memory: memory per run, in GiB.
        isolate: each run in a process of its own; False: all in this one, for a debugger.
        curve: judge about 20 laws on the way to a limit; False: the last law alone, for a quick table.
        judge: metrics to judge by, alone and at each judged law; default: all of the task, w2 and c2st at the last law
            only. A later call that asks for more metrics runs them again.
        progress: how to report on the runs. True: a bar, or lines on standard error where there can be none; a
            function: it gets each event; None: a bar on a terminal and in a notebook, nothing elsewhere.

    A class of a notebook cell, of a console or of the script that is run needs no file. It is sent to the processes
    that run it, and its runs are identified by the source of the class and of all functions, classes and variables of
    the session that it uses. Other code finds such runs under `out` only while the class is there, so `load` and the
    command line leave them out.

    Raises:
        UserError: the call can't be carried out as it is written; nothing has run then.

    >>> sorted(set(gwfbench.run("ou:dim=2,horizon=0.1", "ula", seeds=2, isolate=False)["method"]))
    ['exact', 'exact_jko', 'still', 'ula']
    """
    try:
        numbers = read_seeds(seeds)
    except UserError as error:
        raise UserError(f"seeds={seeds!r}", error.expected, "write seeds=3 or seeds=[3, 5, 8]") from None
    tasks, methods = _several(task), _several(method)
    try:
        order = Order.read(
            *(tasks, methods, numbers, str(device), str(dtype).removeprefix("torch.")), _limits(budget), controls
        )
        options = Options(
            force=force, isolate=isolate, curve=curve, retry=frozenset(_words(retry)), judge=_words(judge),
            threads=_count("threads", threads),
            jobs=None if jobs is None else _count("jobs", jobs),
            timeout=None if timeout is None else _number("timeout", timeout),
            memory=None if memory is None else _number("memory", memory),
        )  # fmt: skip
        todo = list(order.jobs())
        for text in (f"{registry.spec(one)}: {text}" for one in order.tasks for text in registry.remarks(one)):
            warnings.warn(text, stacklevel=2)
        with _listening(progress, isolate) as tell:
            done = list(perform(todo, _place(out), tell, options))
    except UserError as error:
        raise UserError(*map(_in_python, error.args)) from None
    return tidy(in_order(todo, (run for runs in done for run in runs)))


def _words(given: str | Iterable[str]) -> tuple[str, ...]:
    """Those between commas, or those of a list."""
    return tuple(part.strip() for part in (given.split(",") if isinstance(given, str) else given) if part.strip())


def _limits(budget: str | Mapping[str, float]) -> str | Budget:
    if isinstance(budget, str):
        return budget
    return Budget.of({name: _number("budget", limit) for name, limit in budget.items()})


def _several(value: Any) -> list[Any]:
    """A list of tasks or methods, of one or of several."""
    if isinstance(value, str | type) or not isinstance(value, Iterable):
        return [value]
    return list(value)


def _place(out: str | Path | None) -> Path | None:
    require(out is None or bool(str(out).strip()), f"out={out!r}", "a folder, or None", "name a folder")
    return None if out is None else Path(out)


def _number(name: str, value: Any) -> float:
    """A number, which may be one of numpy or written as text."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UserError(f"{name}={value!r}", "a positive number", f"write {name}=60") from None


def _count(name: str, value: Any) -> int:
    try:
        number = -1 if isinstance(value, bool) else index(value)
    except TypeError:
        number = -1
    require(number >= 1, f"{name}={value!r}", "a whole number, at least 1", f"write {name}=2")
    return number


def _in_python(text: str) -> str:
    """What an error says of options of the command line, in words of this function."""
    text = re.sub(r"--no-(\w+)", r"\1=False", re.sub(r"leave --(\w+) out", r"leave \1 out", text))
    text = re.sub(r"--(\w+) ([^\s,;:]+)", r"\1=\2", text)
    return re.sub(r"--(\w+)", r"\1", text)


@contextmanager
def _listening(wanted: bool | Callable[[Event], object] | None, isolate: bool) -> Iterator[Listener]:
    """The listener that gets the events of the runs."""
    if callable(wanted):
        yield wanted
        return
    drawn = isolate and has_bar()
    if wanted or (wanted is None and drawn):
        with progress_of(lambda text: print(text, file=sys.stderr), bar=drawn) as tell:
            yield tell
        return
    yield lambda _: None
