"""What `import gwfbench` gives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gwfbench.runs.options import Options
from gwfbench.runs.order import Order, in_order
from gwfbench.runs.scheduler import perform
from gwfbench.store.rows import tidy

if TYPE_CHECKING:
    import pandas as pd


def run(
    task: str | Sequence[str], method: str | Sequence[str], seeds: int | Sequence[int] = 3, *, device: str = "cpu",
    dtype: Literal["float32", "float64"] = "float32", budget: str = "", controls: bool = True,
    out: str | Path | None = None, force: bool = False, retry: Iterable[str] = (), threads: int = 1,
    jobs: int | None = None, timeout: float | None = None, memory: float | None = None, isolate: bool = True,
    curve: bool = True,
) -> pd.DataFrame:  # fmt: skip
    """Run methods on tasks and return tidy points, one row for each judged (seed, time, metric).

    Args:
        task, method: `name` or `name:key=value,key=value`, one or several.
        seeds: how many (0, 1, ...), or which.
        budget: of a run, as `seconds=60,score_calls=1e6`; evaluation is off the clock.
        controls: run `exact` and `still` too, without which a leaderboard has no floor.
        out: folder that keeps the runs, and where finished ones are found; None: nothing is read or kept.
        retry: run again what ended so: "error", "oom", "timeout", "diverged".
        threads: of torch and BLAS, a run.
        jobs: runs at once; None: one on the CPU, one a GPU.
        timeout: seconds of wall time of a run.
        memory: GiB of a run.
        isolate: each run in a process of its own; False: all in this one, for a debugger.
        curve: judge about 20 laws on the way to a limit; False: the last law alone, for a quick table.

    Raises:
        UserError: something asked for can't be done; nothing has run then.
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
