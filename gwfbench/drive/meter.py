"""The clock and the counters of a run, and the rule that ends it when its budget is spent."""

from __future__ import annotations

import dataclasses
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from gwfbench.budget import Budget, BudgetSpent
from gwfbench.info import Info, Initial, LogDensity, TargetSamples
from gwfbench.protocol import Problem
from gwfbench.rng import Streams

Oracle = Literal["score", "log_prob", "draw"]


@dataclass
class Counts:
    """Points per seed that went through each oracle: the oracle counts, the method can't."""

    score: int = 0
    log_prob: int = 0
    draw: int = 0


@dataclass
class Meter:
    """Seconds and oracle calls of training, which end it at the budget; calls while judging go to `sampling`.

    Seconds run only while the method does, device work included.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    budget: Budget = field(default_factory=Budget)
    seconds: float = 0.0
    training: Counts = field(default_factory=Counts)
    sampling: Counts = field(default_factory=Counts)
    _on: bool = False

    def count(self, oracle: Oracle, n: int) -> None:
        """Note n points that go through an oracle.

        Raises:
            BudgetSpent: in training, if they go beyond the budget; they are not counted then.
        """
        counts = self.training if self._on else self.sampling
        after = getattr(counts, oracle) + n
        limit = getattr(self.budget, f"{oracle}_calls")
        if self._on and limit is not None and after > limit:
            raise BudgetSpent(f"{oracle}_calls", limit)
        setattr(counts, oracle, after)

    def require_left(self, steps: int) -> None:
        """Raise `BudgetSpent` if the seconds, or the steps after this many laws, are used up.

        A method may go on after its last oracle call: the call that goes beyond is what ends it, in `count`.
        """
        for name, used in (("seconds", self.seconds), ("steps", steps)):
            limit = getattr(self.budget, name)
            if limit is not None and used >= limit:
                raise BudgetSpent(name, limit)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Time and count the block as training; raise `BudgetSpent` inside it when its seconds end (by signal;
        elsewhere than in a POSIX main thread the runner sees it at the method's next yield)."""
        limit = self.budget.seconds
        before = None
        if limit is not None and threading.current_thread() is threading.main_thread():
            before = signal.signal(signal.SIGALRM, lambda *_: _end(limit))
            signal.setitimer(signal.ITIMER_REAL, max(limit - self.seconds, 1e-3))
        self.wait()
        start, self._on = time.perf_counter(), True
        try:
            yield
            self.wait()
        finally:
            self.seconds += time.perf_counter() - start
            self._on = False
            if before is not None:
                signal.setitimer(signal.ITIMER_REAL, 0.0)
                signal.signal(signal.SIGALRM, before)

    def wait(self) -> None:
        """Wait for the device's work that is queued."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _end(limit: float) -> None:
    raise BudgetSpent("seconds", limit)


def counted(problem: Problem, meter: Meter) -> Problem:
    """The same problem with every oracle of the target counting on the meter, n a call of (S, n, d).

    A log-density that is asked for its gradient (autograd through `log_prob`) counts as a score too. P_0 is free: it
    says nothing about the target.
    """
    return dataclasses.replace(problem, infos=tuple(_counted(info, meter) for info in problem.infos))


def _counted(info: Info, meter: Meter) -> Info:
    match info:
        case LogDensity():

            def log_prob(x: Tensor) -> Tensor:
                meter.count("log_prob", x.shape[1])
                if x.requires_grad and torch.is_grad_enabled():
                    meter.count("score", x.shape[1])
                return info.log_prob(x)

            def score(x: Tensor) -> Tensor:
                meter.count("score", x.shape[1])
                return info.score(x)

            def batch(rows: int, rng: Streams) -> LogDensity:
                assert info.batch is not None
                inner = _counted(info.batch(rows, rng), meter)
                assert isinstance(inner, LogDensity)
                return inner

            return LogDensity(log_prob, score, batch if info.batch else None)
        case TargetSamples():

            def draw(n: int, rng: Streams) -> Tensor:
                meter.count("draw", n)
                return info.draw(n, rng)

            return TargetSamples(draw)
        case Initial() | _:
            return info
