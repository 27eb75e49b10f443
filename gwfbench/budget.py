"""What a run may spend, and the counting oracles through which a method sees its problem."""

from __future__ import annotations

import dataclasses
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gwfbench.info import Info, Initial, LogDensity, TargetSamples
from gwfbench.rng import Streams

if TYPE_CHECKING:
    from gwfbench.protocol import Problem


@dataclass(frozen=True)
class Budget:
    """What a method is given; the runner enforces it, a method may plan with it. None: no limit."""

    seconds: float | None = None  # of training, evaluation off the clock


class BudgetSpent(BaseException):
    """The budget ended inside a method. Not an `Exception`, so that a method's own `except` can't swallow it."""


@dataclass
class Counts:
    """Points a seed that went through each oracle: the oracle counts, the method can't."""

    score: int = 0
    log_prob: int = 0
    draw: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.score + other.score, self.log_prob + other.log_prob, self.draw + other.draw)

    def __sub__(self, other: Counts) -> Counts:
        return Counts(self.score - other.score, self.log_prob - other.log_prob, self.draw - other.draw)


class Clock:
    """Seconds of training: runs only while the method does, device work included, and stops it at the budget."""

    def __init__(self, device: torch.device, budget: Budget):
        self._device, self._budget = device, budget
        self.seconds = 0.0

    @property
    def spent(self) -> bool:
        return self._budget.seconds is not None and self.seconds >= self._budget.seconds

    @contextmanager
    def running(self) -> Iterator[None]:
        """Time the block; raise `BudgetSpent` inside it when the budget ends (by signal; elsewhere than in a POSIX
        main thread the runner sees it at the method's next yield)."""
        before = None
        if self._budget.seconds is not None and threading.current_thread() is threading.main_thread():
            before = signal.signal(signal.SIGALRM, _spent)
            signal.setitimer(signal.ITIMER_REAL, max(self._budget.seconds - self.seconds, 1e-3))
        self._wait()
        start = time.perf_counter()
        try:
            yield
            self._wait()
        finally:
            self.seconds += time.perf_counter() - start
            if before is not None:
                signal.setitimer(signal.ITIMER_REAL, 0.0)
                signal.signal(signal.SIGALRM, before)

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def _spent(_signal: int, _frame: object) -> None:
    raise BudgetSpent


def counted(problem: Problem, counts: Counts) -> Problem:
    """The same problem with every oracle of the target counting into `counts`, n a call of (S, n, d).

    A log-density that is asked for its gradient (autograd through `log_prob`) counts as a score too. P_0 is free: it
    says nothing about the target.
    """
    return dataclasses.replace(problem, infos=tuple(_counted(info, counts) for info in problem.infos))


def _counted(info: Info, counts: Counts) -> Info:
    match info:
        case LogDensity():

            def log_prob(x: Tensor) -> Tensor:
                counts.log_prob += x.shape[1]
                if x.requires_grad and torch.is_grad_enabled():
                    counts.score += x.shape[1]
                return info.log_prob(x)

            def score(x: Tensor) -> Tensor:
                counts.score += x.shape[1]
                return info.score(x)

            def batch(rows: int, rng: Streams) -> LogDensity:
                assert info.batch is not None
                inner = _counted(info.batch(rows, rng), counts)
                assert isinstance(inner, LogDensity)
                return inner

            return LogDensity(log_prob, score, batch if info.batch else None)
        case TargetSamples():

            def draw(n: int, rng: Streams) -> Tensor:
                counts.draw += n
                return info.draw(n, rng)

            return TargetSamples(draw)
        case Initial() | _:
            return info
