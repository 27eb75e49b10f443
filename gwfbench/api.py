"""What `import gwfbench` gives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gwfbench.metrics import known as known_metrics
from gwfbench.plugins import registry
from gwfbench.protocol import Method, Metric, Task
from gwfbench.runs.options import Options
from gwfbench.runs.order import Order, in_order
from gwfbench.runs.scheduler import perform
from gwfbench.store.rows import tidy

if TYPE_CHECKING:
    import pandas as pd


def tasks() -> dict[str, str]:
    """The tasks that can be named, with a line on each.

    >>> gwfbench.tasks()["ou"]
    'Ornstein-Uhlenbeck: the flow of KL(. || N(b, A^-1)) from N(0, I), Gaussian at every time.'
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
        UserError: there is no such task or field, or the value is none that it takes.

    >>> instance = gwfbench.task("ou:dim=2").build(gwfbench.Streams((0, 1)))
    >>> instance.truth.draw(17, 5, gwfbench.Streams((0, 1))).shape  # 5 draws of the last law, for each of two seeds
    torch.Size([2, 5, 2])
    """
    return registry.parse("task", spec)


def method(spec: str) -> Method:
    """A method from words, `name` or `name:key=value,key=value`.

    Raises:
        UserError: there is no such method or field, or the value is none that it takes.

    >>> gwfbench.method("ula:step=0.02").step
    0.02
    """
    return registry.parse("method", spec)


def load(out: str | Path = "results/runs") -> pd.DataFrame:
    """The rows of the finished runs under a folder: of each run's newest attempt by today's code, by today's metrics.

    Args:
        out: folder of the runs, as in `run`; or a CSV of rows that `report --write` made, which is read as it is.

    Raises:
        UserError: there are none.

    >>> _ = gwfbench.run("ou:horizon=0.05", "ula", seeds=1, out="runs", controls=False, isolate=False)
    >>> rows = gwfbench.load("runs")
    >>> sorted(set(rows["method"]))
    ['ula']
    """
    from gwfbench.report.rows import read, rows_of

    out = Path(out)
    return read(out)[0] if out.is_file() else rows_of(out)[0]


def run(
    task: str | Sequence[str], method: str | Sequence[str], seeds: int | Sequence[int] = 3, *, device: str = "cpu",
    dtype: Literal["float32", "float64"] = "float32", budget: str = "", controls: bool = True,
    out: str | Path | None = None, force: bool = False, retry: Iterable[str] = (), threads: int = 1,
    jobs: int | None = None, timeout: float | None = None, memory: float | None = None, isolate: bool = True,
    curve: bool = True,
) -> pd.DataFrame:  # fmt: skip
    """Run methods on tasks and return their results, one row for each judged (seed, time, metric).

    Args:
        task, method: `name` or `name:key=value,key=value`, one or several.
        seeds: number of seeds (0, 1, ...), or a list of them.
        budget: limits of each run, as `seconds=60,score_calls=1e6`; evaluation is off the clock.
        controls: run `exact` and `still` too, without which a leaderboard has no floor.
        out: folder that keeps the runs, and where finished ones are found; None: nothing is read or kept.
        force: run again what is finished.
        retry: statuses that are run again: "error", "oom", "timeout", "diverged".
        threads: number of threads of torch and BLAS per run.
        jobs: number of runs at once; default: one on the CPU, one per GPU.
        timeout: wall time per run, in seconds.
        memory: memory per run, in GiB.
        isolate: each run in a process of its own; False: all in this one, for a debugger.
        curve: judge about 20 laws on the way to a limit; False: the last law alone, for a quick table.

    Raises:
        UserError: something asked for can't be done; nothing has run then.

    >>> rows = gwfbench.run("ou:dim=2,horizon=0.1", "ula", seeds=2, isolate=False)
    >>> sorted(set(rows["method"]))
    ['exact', 'exact_jko', 'still', 'ula']
    """
    tasks, methods = ([value] if isinstance(value, str) else value for value in (task, method))
    order = Order.read(tasks, methods, seeds, device, dtype, budget, controls)
    options = Options(
        force=force,
        retry=frozenset(retry),
        threads=threads,
        jobs=jobs,
        timeout=timeout,
        memory=memory,
        isolate=isolate,
        curve=curve,
    )
    todo = list(order.jobs())
    done = perform(todo, Path(out) if out else None, lambda *_: None, options)
    return tidy(in_order(todo, (run for runs in done for run in runs)))
