"""asv benchmarks: import, `list`, reading finished runs, a process a run, one JKO step beside the plain eager loop."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType
from unittest import mock

import pandas as pd
import torch

from benchmarks.plain import PlainStep
from gwfbench.budget import Budget
from gwfbench.info import LogDensity
from gwfbench.metrics import choose as choose_metrics
from gwfbench.plugins import registry
from gwfbench.protocol import Judged
from gwfbench.report import rows
from gwfbench.report.board.leaderboard import leaderboard
from gwfbench.rng import Streams
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
ITERATIONS = 100
POOL = 102_400


def timeraw_import() -> str:
    return "import gwfbench"


def timeraw_import_torch() -> str:
    return "import torch"


def timeraw_import_everything() -> str:
    return "import gwfbench.runs.order, gwfbench.report.board.leaderboard"


def timeraw_list() -> str:
    return """
import contextlib, io
with contextlib.redirect_stdout(io.StringIO()):
    from gwfbench.cli import cli
    cli(["list"], standalone_mode=False)
"""


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


class Finished:
    """`run` of 600 runs that are all finished, in a warm process and in a fresh one, which has to import torch."""

    timeout = 600
    warmup_time = 0
    methods = tuple(f"ula:step={k / 1000}" for k in range(1, 198))

    def setup_cache(self) -> str:
        folder = tempfile.mkdtemp()
        assert attempts.write(Path(folder), ["ou:horizon=0.5"], self.methods, 3) == 600
        return folder

    def command(self, folder: str) -> None:
        from gwfbench.cli import main

        chosen = (word for method in self.methods for word in ("--method", method))
        words = ["gwfbench", "run", "--task", "ou:horizon=0.5", *chosen, "--out", folder]
        with mock.patch.object(sys, "argv", words), contextlib.suppress(SystemExit), contextlib.ExitStack() as quiet:
            quiet.enter_context(contextlib.redirect_stdout(io.StringIO()))
            quiet.enter_context(contextlib.redirect_stderr(io.StringIO()))
            main()

    def time_command_in_a_warm_process(self, folder: str) -> None:
        self.command(folder)

    def timeraw_command(self, folder: str) -> str:
        return f"""
from benchmarks.suite import Finished
Finished().command({folder!r})
"""


class JKOStep:
    """100 iterations of Algorithm 1 on ou, paper settings, one thread: ours, the plain eager loop, and their ratio."""

    params = (2, 8, 32)
    param_names = ("dim",)
    timeout = 300
    warmup_time = 0

    def setup(self, dim: int) -> None:
        torch.set_num_threads(1)
        streams = Streams((0,))
        problem = registry.parse("task", f"ou:dim={dim}").build(streams.fork("task")).problem
        method = registry.parse("method", f"vjko:iterations={ITERATIONS},pool={POOL}")
        self.laws = method.fit(problem, Budget(), streams.fork("method"))
        score = problem[LogDensity].score
        eye, zero = torch.eye(dim)[None], torch.zeros(1, 1, dim)
        a_matrix = (score(zero) - score(eye))[0]
        b = torch.linalg.solve(a_matrix, score(zero)[0, 0])
        self.plain = PlainStep(dim, a_matrix, b, POOL)
        self.ours()
        self.plain(5)

    def ours(self) -> None:
        next(self.laws)

    def time_ours(self, dim: int) -> None:
        self.ours()

    def time_plain_eager(self, dim: int) -> None:
        self.plain(ITERATIONS)

    time_ours.number = time_plain_eager.number = 1  # type: ignore[attr-defined]
    time_ours.repeat = time_plain_eager.repeat = (3, 8, 20.0)  # type: ignore[attr-defined]

    def track_ours_over_plain(self, dim: int) -> float:
        """Median over five interleaved pairs: machine drift falls on both."""
        ratios = []
        for _ in range(5):
            start = time.perf_counter()
            self.ours()
            middle = time.perf_counter()
            self.plain(ITERATIONS)
            ratios.append((middle - start) / (time.perf_counter() - middle))
        return statistics.median(ratios)

    track_ours_over_plain.unit = "ratio"  # type: ignore[attr-defined]


class Evaluation:
    """One judged law of ou with all its metrics, 5e5 points."""

    params = (2, 32)
    param_names = ("dim",)

    def setup(self, dim: int) -> None:
        torch.set_num_threads(1)
        streams = Streams((0,))
        task = registry.parse("task", f"ou:dim={dim}")
        self.truth = task.build(streams.fork("task")).truth
        self.points = self.truth.draw(17, task.points, streams.fork("points"))
        self.log_prob = self.truth.log_prob(17, self.points)
        self.metrics = choose_metrics(task.metrics)
        self.streams = streams

    def time_all_metrics(self, dim: int) -> None:
        for metric in self.metrics:
            truth = self.truth.jko((0.05,) * 18) if metric.law == "jko" else self.truth
            part, log_prob = self.points[:, : metric.points], self.log_prob[:, : metric.points]
            metric.evaluate(Judged(part, log_prob, truth, 17, self.streams.fork(metric.name)))


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
