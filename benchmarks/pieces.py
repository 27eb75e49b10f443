"""Pieces of work that are timed: each function starts one and gives a round of it.

A round is timed in this process: the unit, the work, the unit again. The unit is 400 x (1024x64 @ 64x64 + tanh) on one
thread. Seconds are CPU seconds of the process, or of all processes that a command starts.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import itertools
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import gwfbench
from benchmarks.plain import PlainStep, critic_products
from gwfbench.budget import Budget
from gwfbench.plugins import registry
from gwfbench.process import memory
from gwfbench.rng import Streams

ROOT = Path(__file__).parents[1]
Parts = dict[str, float]  # CPU seconds by name
Round = Callable[[], Parts | None]  # a round; what it says of itself goes before what is measured around it
WHOLE = "whole"  # the name of the number that counts
SUBREAPER = 36  # of prctl
ITERATIONS = 25, 75  # of two JKO steps that differ in nothing else


class NotMeasured(Exception):
    """A piece of work can't be timed; the text says why."""


@dataclass(frozen=True)
class Work:
    """One line of the table.

    Args:
        start: gives a round of the work, or of a part of it (10: a tenth), after all that happens once.
        part: which part a round is; what it takes is multiplied by it.
        quick: the same in a quick measurement.
        times: the whole is so many of these.
        unit: of the figures.
        authors: what the code of the methods' authors, or another program, takes.
        before: what it took at commit 0f65f38.
        slow: left out of a quick measurement.
        bare: the work by which it can't be beaten.
    """

    what: str
    start: Callable[[float], Round]
    part: float = 1
    quick: float = 1
    times: float = 1
    unit: str = "units"
    authors: str = ""
    before: str = ""
    goal: str = ""
    slow: bool = False
    bare: str = ""


@dataclass
class Timed:
    """CPU seconds of one round."""

    unit: float
    parts: Parts = field(default_factory=dict)


def settle() -> None:
    """Make this process like that of a run."""
    torch.set_num_threads(1)
    getattr(memory, "keep_pages", lambda: None)()  # the checkout that is compared with may have none


def yardstick() -> float:
    """CPU seconds of the unit."""
    x, w = torch.ones(1024, 64), torch.full((64, 64), 0.01)
    start = time.process_time()
    for _ in range(400):
        torch.tanh(x @ w)
    return time.process_time() - start


def timed(work: Round, scale: float = 1.0) -> Timed:
    """One round between two units; its parts times `scale`."""
    before = yardstick()
    start = time.process_time()
    own = work()
    parts = {WHOLE: time.process_time() - start} if own is None else own
    return Timed(min(before, yardstick()), {name: seconds * scale for name, seconds in parts.items()})


# Steps of methods


def step(task: str, method: str, part: float) -> Round:
    """The next law of a method on a task; of its iterations and its pool, if it has one, a part."""
    rng = Streams((0,))
    problem = registry.parse("task", task).build(rng.fork("task")).problem
    made = registry.parse("method", method)
    if part != 1:
        pool = made.pool and max(made.batch, round(made.pool / part))
        made = replace(made, iterations=max(1, round(made.iterations / part)), pool=pool)
    laws = made.fit(problem, Budget(), rng.fork("method"))
    next(laws)  # it makes the networks and the pool, and warms the critic up
    return lambda: next(laws) and None


def papers(task: str) -> str:
    """The method of the paper's setting of a task."""
    text = tomllib.loads((ROOT / "gwfbench/papers/fan2022.toml").read_text())
    return next(run["method"] for run in text["run"] if run["task"] == task and "quick" not in run)


def plain(dim: int, part: float) -> Round:
    """A JKO step on ou as one writes it first: autograd, nn.Module, torch.optim."""
    one = PlainStep(dim, torch.eye(dim), torch.ones(dim), round(512_000 / part))
    one(5)
    return lambda: one(round(500 / part))


def bare(dim: int, part: float) -> Round:
    """The matrix products alone of the critic updates of a JKO step, into arrays that are there."""
    products = critic_products(dim)

    def one() -> None:
        for _ in range(round(1500 / part)):
            products()

    return one


def launches(task: str, method: str, seeds: int, _: float) -> Round:
    """Kernels that an iteration of a method launches, counted on the device that is not there: no seconds.

    Raises:
        NotMeasured: this checkout has no such device.
    """
    path = ROOT / "tests/device/pretended.py"
    if not path.exists():
        raise NotMeasured("there is no test device, tests/device")
    spec = importlib.util.spec_from_file_location("pretended", path)
    assert spec is not None
    assert spec.loader is not None
    device = importlib.util.module_from_spec(spec)
    sys.modules["pretended"] = device
    spec.loader.exec_module(device)

    def one() -> Parts:
        counts = []
        for iterations in ITERATIONS:
            with device.pretended() as seen:
                rng = Streams(tuple(range(seeds)), torch.device("cuda"))
                problem = registry.parse("task", task).build(rng.fork("task")).problem
                made = replace(registry.parse("method", method), iterations=iterations)
                next(made.fit(problem, Budget(), rng.fork("method")))
            counts.append((seen.launches, seen.waits))
        more = ITERATIONS[1] - ITERATIONS[0]
        kernels, waits = ((after - before) / more for before, after in zip(*counts, strict=True))
        return {WHOLE: kernels, "waits of the host": waits}

    return one


# Judging


def judged(task: str, laws: int, _: float) -> Round:
    """Draw, density and metrics of laws that come from the truth: of the second, and in parts of the first and last."""
    from gwfbench.drive.controls import Control
    from gwfbench.drive.execute import Setting, execute
    from gwfbench.drive.job import Job
    from gwfbench.protocol import Drawn, Instance

    ends: list[float] = []
    metrics: list[Parts] = []  # of each law

    def fit(instance: Instance) -> Iterator[Drawn]:
        truth, times = instance.truth, instance.problem.times
        draw, density = truth.draw, truth.log_prob
        assert draw is not None
        for k in range(laws):
            index = min(k, len(times) - 1)
            metrics.append({})
            ends.append(time.process_time())
            yield Drawn(
                times[index] if len(times) > 1 else 0.1 * (k + 1),
                lambda n, rng, index=index: draw(index, n, rng),
                None if density is None else lambda x, index=index: density(index, x),
                truth.limit,
            )

    def one() -> Parts:
        ends.clear()
        metrics.clear()
        job = Job(registry.parse("task", task), Control("drawn", "", "jko", "flow", fit), (0,))
        with _split(metrics):
            (run,) = execute(job, Setting(""), lambda *_: None)
        if run.status != "ok":
            raise RuntimeError(f"{task}: {run.status}: {run.reason}")
        ends.append(time.process_time())
        spent = [after - before for before, after in itertools.pairwise(ends)]
        parts = {WHOLE: spent[1], "first law": spent[0], "last law": spent[-1]}
        return parts | {f"last law: {name}": own for name, own in metrics[-1].items()} | metrics[1]

    if laws > 2:  # else the last law is the second, and the first one has loaded all that it needs
        one()
    return one


@contextmanager
def _split(laws: list[Parts]) -> Iterator[None]:
    """Fill in the seconds of each metric of the newest law."""
    from gwfbench.drive.judge import Judge

    judge: Any = Judge
    usual = judge.estimate

    def estimate(self: Judge, metric: Any, *args: Any, **more: Any) -> Any:
        start = time.process_time()
        try:
            return usual(self, metric, *args, **more)
        finally:
            laws[-1][metric.name] = time.process_time() - start

    judge.estimate = estimate
    try:
        yield
    finally:
        judge.estimate = usual


def stein(dim: int, ours: bool, part: float) -> Round:
    """KSD of 1e5 / sqrt(part) points, or the two matrix products and the exponentials that it can't do without."""
    from gwfbench.metrics.kernel import BLOCK
    from gwfbench.metrics.stein import ksd_statistic

    n = round(100_000 / part**0.5)
    cloud = torch.randn(n, dim, generator=torch.Generator().manual_seed(0))
    width = (2.0 * dim) ** 0.5
    if ours:
        return lambda: ksd_statistic(cloud, -cloud, width) and None
    narrow = torch.cat([cloud, cloud[:, :2]], 1) / width
    wide = torch.cat([narrow, cloud / width], 1)
    return partial(_products, narrow, wide, BLOCK)


def _products(narrow: Tensor, wide: Tensor, block: int) -> None:
    exponent, bracket = torch.empty(block * block), torch.empty(block * block)
    for i, (rows, thin) in enumerate(zip(wide.split(block), narrow.split(block), strict=True)):
        for columns, others in zip(wide.split(block)[i:], narrow.split(block)[i:], strict=True):
            shape, size = (len(rows), len(columns)), len(rows) * len(columns)
            torch.mm(rows, columns.T, out=bracket[:size].view(shape))
            torch.mm(thin, others.T, out=exponent[:size].view(shape)).exp_()


# Commands

PLUGIN = '''"""{what}."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from gwfbench.info import Initial
from gwfbench.protocol import Instance, Problem, Pushed, Truth

'''
TASK = """
@dataclass(frozen=True)
class Dots:
    name: str = "x"
    "any text"
    offers: ClassVar = frozenset({Initial})
    metrics: ClassVar = ("symkl",)
    points: ClassVar = 200
    version: ClassVar = 1
    reference: ClassVar = ""
    smoke: ClassVar = {}

    def build(self, rng):
        def moments(index):
            return torch.zeros(len(rng.seeds), 2).double(), torch.eye(2).double().expand(len(rng.seeds), 2, 2)

        truth = Truth(lambda index, n, noise: noise.normal(n, 2), exact=True, moments=moments)
        times = tuple(0.1 * k for k in range(1, 11))
        return Instance(Problem((2,), times, (Initial(lambda n, noise: 2 + noise.normal(n, 2)),)), truth)
"""
METHOD = """
@dataclass(frozen=True)
class Halves:
    number: int = 0
    "any number"
    needs: ClassVar = frozenset({Initial})
    clock: ClassVar = "flow"
    seeds: ClassVar = "batched"
    version: ClassVar = 1
    reference: ClassVar = ""
    smoke: ClassVar = {}

    def fit(self, problem, budget, rng):
        for t in problem.times:
            yield Pushed(t, lambda x, noise: x / 2)
"""


def command(words: str, _: float) -> Round:
    """A command of gwfbench with nothing kept, in processes of their own."""
    return lambda: _tree([*words.split()])


def points(isolate: bool, cached: bool, _: float) -> Round:
    """60 runs of 10 judged laws, a trivial plug-in, one metric: cold, or again when all are finished."""
    folder = tempfile.TemporaryDirectory()
    files = [Path(folder.name) / f"{name}.py" for name in ("dots", "halves")]
    for file, text in zip(files, (TASK, METHOD), strict=True):
        file.write_text(PLUGIN.format(what=file.stem.title()) + text)
    words = ["run", "--task", "dots", "--method", "halves", "--seeds", "60", "--no-controls"]
    words += ["--plugin", str(files[0]), "--plugin", str(files[1])] + ([] if isolate else ["--no-isolate"])
    fresh = itertools.count()

    def one() -> Parts:
        return _tree([*words, "--out", f"{folder.name}/{0 if cached else next(fresh)}"]) | first

    first: Parts = {}
    if cached:
        one()
        first = {"the first time again": one()[WHOLE]}  # it may keep what later ones find
    return one


def _tree(words: list[str]) -> Parts:
    """CPU seconds of a command of gwfbench and of all that it starts or leaves behind; and its wall time."""
    root = str(Path(gwfbench.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}  # for what it starts
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)  # orphans become our children, whose seconds we get
    before, start = os.times(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "gwfbench", *words], cwd=root, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    wall = time.perf_counter() - start
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()
    after = os.times()
    if done.returncode:
        raise RuntimeError(f"gwfbench {' '.join(words)}: exit code {done.returncode}: {done.stderr.strip()[-300:]}")
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return {WHOLE: spent, "wall": wall}
