"""A method on a task, run step by step: its laws, its points, and its side effects on the process."""

from __future__ import annotations

import dataclasses
import os
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gwfbench.budget import Budget
from gwfbench.check.outcome import expect
from gwfbench.drive import shapes
from gwfbench.drive.execute import Setting, execute
from gwfbench.drive.job import Job
from gwfbench.info import Initial
from gwfbench.plugins import registry
from gwfbench.protocol import Drawn, Marginal, Problem, Pushed, setting
from gwfbench.rng import Streams
from gwfbench.store.record import Run

SEEDS = (2, 7, 11)
POINTS = 64  # per seed, pushed along or drawn


@dataclass(frozen=True)
class Subject:
    """A plug-in as the user typed it, and its small copy, with the `smoke` fields except for those that were typed."""

    plugin: registry.Plugin
    text: str

    @staticmethod
    def read(kind: registry.Kind, text: str) -> Subject:
        """From `name:key=value`.

        Raises:
            UserError: there is no plug-in of that name, or it is unavailable.
        """
        plugin = registry.find(kind, registry.head(text))
        plugin.load()
        return Subject(plugin, text)

    @cached_property
    def cls(self) -> Any:
        return self.plugin.load()

    @cached_property
    def given(self) -> Any:
        return registry.parse(self.plugin.kind, self.text)

    @cached_property
    def small(self) -> Any:
        typed = registry.typed(self.text)
        return replace(self.given, **{key: value for key, value in self.cls.smoke.items() if key not in typed})


@dataclass(frozen=True)
class Step:
    """A law, its points, and whether gradients were on when it was yielded."""

    law: Marginal
    cloud: Tensor
    gradients: bool
    state: Mapping[str, Any] | None


@dataclass
class Trial:
    """One pair of a task and a method, and its runs so far, which checks share."""

    task: Subject
    method: Subject
    _kept: dict[Any, list[Step]] = field(default_factory=dict)
    _ended: dict[Any, Run] = field(default_factory=dict)

    @property
    def company(self) -> tuple[int, ...]:
        """The seeds that the method can train at once."""
        return SEEDS if self.method.cls.seeds == "batched" else SEEDS[1:2]

    def problem(self, seeds: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Problem:
        """The problem of the task's small copy."""
        return self.task.small.build(Streams(seeds, dtype=dtype).fork("task")).problem

    def steps(
        self, seeds: tuple[int, ...] = (7,), dtype: torch.dtype = torch.float32, nudge: float = 0.0, again: int = 0
    ) -> list[Step]:
        """The laws of a whole run of the small copies. Another `again` repeats a run."""
        key = (seeds, dtype, nudge, again)
        if key not in self._kept:
            self._kept[key] = list(self.walk(seeds, dtype, nudge))
        return self._kept[key]

    def walk(
        self,
        seeds: tuple[int, ...],
        dtype: torch.dtype = torch.float32,
        nudge: float = 0.0,
        states: bool = False,
        after: tuple[int, Tensor, Mapping[str, Any]] | None = None,
    ) -> Iterator[Step]:
        """A run, step by step. The method gets only the infos that it declares, with P_0's draws times 1 + nudge.

        Args:
            states: whether to ask each law for its state.
            after: where to resume: the number of laws so far, the points and the method's state.
        """
        streams = Streams(seeds, dtype=dtype)
        whole = self.problem(seeds, dtype)
        start = whole[Initial]
        nudged = replace(start, draw=lambda n, rng: (1 + nudge) * start.draw(n, rng))
        infos = (nudged if info is start and nudge else info for info in whole.infos)
        named = self.method.cls.needs | setting(self.method.cls, "one_of") | setting(self.method.cls, "optional")
        seen = replace(whole, infos=tuple(info for info in infos if type(info) in named))
        rng, number, cloud = streams.fork("method"), 0, (1 + nudge) * start.draw(POINTS, streams.fork("start"))
        if after is None:
            laws = shapes.laws(self.method.small, seen, Budget(), rng)
        else:
            number, cloud, state = after
            laws = shapes.laws(self.method.small, seen, Budget(), rng, state)
        while True:
            with torch.enable_grad():
                law = next(laws, None)
                gradients = torch.is_grad_enabled()
            if law is None:
                return
            number += 1
            with torch.no_grad():
                cloud = points(law, cloud, streams.fork(f"noise/{number}"))
                state = law.state() if states and law.state else None
            yield Step(law, cloud, gradients, state)

    def execute(self, method: Any, budget: Budget | None = None, points: int = 1024) -> Run:
        """A run of one seed by the real driver, on the small task, judged by its headline metric on few points."""
        key = (repr(method), budget, points)
        if key not in self._ended:
            job = Job(lean(self.task.small, points), method, (7,), budget=budget or Budget())
            (self._ended[key],) = execute(job, Setting("check"), lambda *_: None)
        return self._ended[key]


def points(law: Marginal, cloud: Tensor, noise: Streams) -> Tensor:
    """The law's points: the cloud pushed one step, or fresh draws.

    Raises:
        Failed: it is not a law.
    """
    expect(
        isinstance(law, Drawn | Pushed),
        f"fit yielded a {type(law).__name__}",
        "Drawn or Pushed of gwfbench.protocol",
        "yield a law after each step",
    )
    if isinstance(law, Pushed):
        return law.push(cloud, noise)
    return law.draw(min(POINTS, law.limit or POINTS), noise)


def lean(task: Any, points: int | None = None) -> Any:
    """The task, judged only by its headline metric and its own metrics, on fewer points."""
    cls = type(task)
    changes = {
        "metrics": cls.metrics[:1],
        "points": min(points or cls.points, cls.points),
        "__module__": cls.__module__,
    }
    fields = {each.name: getattr(task, each.name) for each in dataclasses.fields(task) if each.init}
    return type(cls.__name__, (cls,), changes)(**fields)


def surroundings() -> dict[str, Any]:
    """The global state that a plug-in must leave unchanged, as comparable values."""
    return {
        "PyTorch's global random state": torch.get_rng_state().numpy().tobytes(),
        "NumPy's global random state": str(np.random.get_state()),  # noqa: NPY002
        "Python's global random state": random.getstate(),
        "the default dtype": torch.get_default_dtype(),
        "the default device": torch.get_default_device(),
        "gradient mode": torch.is_grad_enabled(),
        "the number of threads": torch.get_num_threads(),
        "the working folder": os.getcwd(),
        "the environment's variables": dict(os.environ),
    }


def unchanged(what: Callable[[], object]) -> None:
    """Call a function.

    Raises:
        Failed: it has changed the global state of the process.
    """
    before = surroundings()
    what()
    changed = [name for name, value in surroundings().items() if value != before[name]]
    expect(
        not changed,
        f"it changed {', '.join(changed)}",
        "an unchanged process",
        "draw from `rng`; create tensors like the given ones, and change no global setting",
    )


@contextmanager
def other_luck() -> Iterator[None]:
    """Change the states of all global random generators for the block."""
    kept = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    for draw in (lambda: torch.rand(1), np.random.random, random.random):
        draw()
    try:
        yield
    finally:
        torch.set_rng_state(kept[0])
        np.random.set_state(kept[1])  # noqa: NPY002
        random.setstate(kept[2])
