"""What a run may spend, and the meter and counting oracles that hold a method to it."""

from __future__ import annotations

import dataclasses
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from gwfbench.errors import UserError, require
from gwfbench.info import Info, Initial, LogDensity, TargetSamples
from gwfbench.rng import Streams

if TYPE_CHECKING:
    from gwfbench.protocol import Problem

Oracle = Literal["score", "log_prob", "draw"]


@dataclass(frozen=True)
class Budget:
    """What a method is given; the runner and the oracles enforce it, a method may plan with it. None: no limit.

    seconds: of training, evaluation off the clock.    steps: laws yielded.    *_calls: points a seed through an oracle.
    """

    seconds: float | None = None
    steps: float | None = None
    score_calls: float | None = None
    log_prob_calls: float | None = None
    draw_calls: float | None = None

    @staticmethod
    def read(text: str) -> Budget:
        """From words: `seconds=60,score_calls=1e6`; empty for no limit.

        Raises:
            UserError: a part is not a known name with a positive number.
        """
        known = [one.name for one in dataclasses.fields(Budget)]
        limits: dict[str, float] = {}
        for part in filter(None, (one.strip() for one in text.split(","))):
            name, _, number = part.partition("=")
            try:
                value = float(number)
            except ValueError:
                value = math.nan
            good = name in known and name not in limits and 0 < value < math.inf
            require(
                good, f"--budget {part}", f"each once and a positive number: {', '.join(known)}", "--budget seconds=60"
            )
            limits[name] = value
        return Budget(**limits)

    @staticmethod
    def of(limits: object) -> Budget:
        """From a mapping with numbers, as a row keeps it.

        Raises:
            UserError: it is not one.
        """
        if not isinstance(limits, dict) or not all(type(value) in (int, float) for value in limits.values()):
            raise UserError(f"budget {limits!r}", "limits by name", 'for example {"seconds": 60}')
        return Budget.read(",".join(f"{name}={value!r}" for name, value in limits.items()))

    def limits(self) -> dict[str, float]:
        """The limits there are, by name."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}

    def covers(self, other: Budget) -> bool:
        """Whether nothing that `other` allows goes beyond this."""
        return all(other.limits().get(name, math.inf) <= value for name, value in self.limits().items())


class BudgetSpent(BaseException):
    """The budget ended inside a method. Not an `Exception`, so that a method's own `except` can't swallow it."""


@dataclass
class Counts:
    """Points a seed that went through each oracle: the oracle counts, the method can't."""

    score: int = 0
    log_prob: int = 0
    draw: int = 0


@dataclass
class Meter:
    """Seconds and oracle calls of training, which end it at the budget; those of judging go to `sampling`.

    Seconds run only while the method does, device work included.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    budget: Budget = field(default_factory=Budget)
    seconds: float = 0.0
    training: Counts = field(default_factory=Counts)
    sampling: Counts = field(default_factory=Counts)
    _on: bool = False

    @property
    def spent(self) -> str:
        """The first limit that is reached, in words; empty if none is."""
        used = {f"{name}_calls": count for name, count in dataclasses.asdict(self.training).items()}
        used["seconds"] = self.seconds
        for name, limit in self.budget.limits().items():
            if used.get(name, 0.0) >= limit:
                return _words(name, limit)
        return ""

    def count(self, oracle: Oracle, n: int) -> None:
        """Note n points that go through an oracle.

        Raises:
            BudgetSpent: in training, if they go beyond the budget; they are not counted then.
        """
        counts = self.training if self._on else self.sampling
        after = getattr(counts, oracle) + n
        limit = getattr(self.budget, f"{oracle}_calls")
        if self._on and limit is not None and after > limit:
            raise BudgetSpent(_words(f"{oracle}_calls", limit))
        setattr(counts, oracle, after)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Time and count the block as training; raise `BudgetSpent` inside it when its seconds end (by signal;
        elsewhere than in a POSIX main thread the runner sees it at the method's next yield)."""
        limit = self.budget.seconds
        before = None
        if limit is not None and threading.current_thread() is threading.main_thread():
            before = signal.signal(signal.SIGALRM, lambda *_: _end(limit))
            signal.setitimer(signal.ITIMER_REAL, max(limit - self.seconds, 1e-3))
        self._wait()
        start, self._on = time.perf_counter(), True
        try:
            yield
            self._wait()
        finally:
            self.seconds += time.perf_counter() - start
            self._on = False
            if before is not None:
                signal.setitimer(signal.ITIMER_REAL, 0.0)
                signal.signal(signal.SIGALRM, before)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _end(limit: float) -> None:
    raise BudgetSpent(_words("seconds", limit))


def _words(name: str, limit: float) -> str:
    unit = "s" if name == "seconds" else name.replace("_", " ")
    return f"the budget of {limit:g} {unit} was spent"


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
