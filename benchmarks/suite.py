"""asv benchmarks: imports, reading finished runs, and what a process of its own adds to a run."""

from __future__ import annotations

import importlib.util
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType

import pandas as pd

from gwfbench.plugins import registry
from gwfbench.report import rows
from gwfbench.report.board.leaderboard import leaderboard
from gwfbench.runs.options import Options
from gwfbench.runs.order import Order
from gwfbench.runs.scheduler import perform


def of_tests(name: str) -> ModuleType:
    """A helper that the tests have too."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / f"tests/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


attempts, failing = of_tests("attempts"), of_tests("failing")


def timeraw_import() -> str:
    return "import gwfbench"


def timeraw_import_torch() -> str:
    return "import torch"


def timeraw_import_everything() -> str:
    return "import gwfbench.runs.order, gwfbench.report.board.leaderboard"


class Collect:
    """100,000 rows into leaderboards: from 2,000 attempts of 50, and from one CSV."""

    timeout = 600
    warmup_time = 0
    number = 1

    def setup_cache(self) -> str:
        folder = Path(tempfile.mkdtemp())
        tasks = [f"ou:dim={dim},horizon=0.5" for dim in range(2, 22)]
        count = attempts.write(folder / "runs", tasks, [f"ula:step={k / 1000}" for k in range(1, 18)], 5)
        assert count == 2000
        rows.write(rows.rows_of(folder / "runs")[0], folder / "rows.csv")
        return str(folder)

    def time_attempts(self, folder: str) -> None:
        assert len(leaderboard(rows.rows_of(Path(folder) / "runs")[0])) == 400

    def time_csv(self, folder: str) -> None:
        assert len(leaderboard(rows.read(Path(folder) / "rows.csv")[0])) == 400

    def time_leaderboard_alone(self, folder: str) -> None:
        leaderboard(pd.read_csv(Path(folder) / "rows.csv"))


class Isolation:
    """What a process of its own adds to a run: 51 trivial runs, each isolated and in this process, side by side."""

    timeout = 300

    def setup(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        sys.path.insert(0, str(failing.install(Path(self.folder.name))))
        registry.plugins.cache_clear()
        self.jobs = list(Order.read(["tiny"], ["good"], 51, controls=False).jobs())

    def teardown(self) -> None:
        sys.path.remove(self.folder.name)
        registry.plugins.cache_clear()
        self.folder.cleanup()

    def track_milliseconds_a_run(self) -> float:
        """Median of isolated runs minus median of others; the first, which starts the server, left out."""
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for job in self.jobs:
            for isolate, taken in seconds.items():
                start = time.perf_counter()
                list(perform([job], Path(self.folder.name) / f"{isolate}", lambda *_: None, Options(isolate=isolate)))
                taken.append(time.perf_counter() - start)
        return 1000 * (statistics.median(seconds[True][1:]) - statistics.median(seconds[False][1:]))

    track_milliseconds_a_run.unit = "ms"  # type: ignore[attr-defined]
