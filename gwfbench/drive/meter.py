"""The clock and the counters of a run, and the rule that ends it when its budget is spent.

An oracle counts the points that it is asked for, whatever stands between it and the method: under `torch.func.vmap` the
points of the whole batch, from any thread, on any device. What is not of shape (S, n, ...) is refused, for its points
could not be counted. Each order of derivative that is taken of a call counts as a call of the score: autograd, forward
mode and the transforms of `torch.func` of a log-density give the score, and of the score the Hessian.
"""

from __future__ import annotations

import dataclasses
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Literal

import torch
from torch import Tensor
from torch._C import _functorch as functorch  # pyright: ignore[reportAttributeAccessIssue]
from torch.autograd import forward_ad

from gwfbench.budget import Budget, BudgetSpent
from gwfbench.drive.contract import whole
from gwfbench.errors import UserError
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

    Seconds run only while the method does, device work included. Calls of a thread that the method has started are
    training whenever they come.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    budget: Budget = field(default_factory=Budget)
    seconds: float = 0.0
    training: Counts = field(default_factory=Counts)
    sampling: Counts = field(default_factory=Counts)
    _on: bool = False
    _spent: tuple[str, float] | None = None  # by which limit, once one was reached
    _driver: int = field(default_factory=threading.get_ident)  # the thread that moves and judges points
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def trains(self) -> bool:
        """Whether what this thread does now is training."""
        return self._on or threading.get_ident() != self._driver

    def count(self, oracle: Oracle, n: int, trains: bool | None = None) -> None:
        """Note n points that go through an oracle.

        Args:
            trains: whether in training; None: if `trains()`.

        Raises:
            BudgetSpent: in training, if they go beyond the budget; they are not counted then.
        """
        trains = self.trains() if trains is None else trains
        counts, limit = self.training if trains else self.sampling, getattr(self.budget, f"{oracle}_calls")
        with self._lock:
            after = getattr(counts, oracle) + n
            if not trains or limit is None or after <= limit:
                setattr(counts, oracle, after)
                return
            self._spent = f"{oracle}_calls", limit
        raise BudgetSpent(f"{oracle}_calls", limit)

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
        elsewhere than in a POSIX main thread the runner sees it at the method's next yield). An oracle's budget that
        was spent where that did not end the method, in another thread or a broad `except`, ends it here."""
        limit = self.budget.seconds
        before = None
        if limit is not None and threading.current_thread() is threading.main_thread():
            before = signal.signal(signal.SIGALRM, lambda *_: _end(limit))
            signal.setitimer(signal.ITIMER_REAL, max(limit - self.seconds, 1e-3))
        self.wait()
        start, self._on, self._driver = perf_counter(), True, threading.get_ident()
        try:
            try:
                yield
            except BudgetSpent:
                self.wait()  # what is queued was asked for within the budget, and counts
                raise
            self.wait()
            if self._spent is not None:
                raise BudgetSpent(*self._spent)
        finally:
            self.seconds += perf_counter() - start
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


def counted(problem: Problem, meter: Meter, seeds: int) -> Problem:
    """The same problem with every oracle of the target counting on the meter, n a call of (S, n, ...).

    P_0 is free: it says nothing about the target.

    Args:
        seeds: S.
    """
    by = _Counting(meter, seeds, problem.shape)
    return dataclasses.replace(problem, infos=tuple(by.info(info) for info in problem.infos))


@dataclass(frozen=True)
class _Counting:
    """Oracles of points of this shape, for so many seeds, that count on the meter."""

    meter: Meter
    seeds: int
    shape: tuple[int, ...]

    def info(self, info: Info) -> Info:
        match info:
            case LogDensity():
                return self._density(info)
            case TargetSamples():
                return TargetSamples(lambda n, rng: self._draw(info, n, rng))
            case Initial() | _:
                return info

    def _density(self, info: LogDensity) -> LogDensity:
        def log_prob(x: Tensor) -> Tensor:
            n, orders, autograd = self._points("log_prob", x)
            orders += autograd
            self.meter.count("log_prob", n)
            if orders:
                self.meter.count("score", orders * n)
            return self._watched(info.log_prob(x), n, known=orders)

        def score(x: Tensor) -> Tensor:
            n, orders, _ = self._points("score", x)
            self.meter.count("score", (1 + orders) * n)
            return self._watched(info.score(x), n, known=orders)

        def batch(rows: int, rng: Streams) -> LogDensity:
            assert info.batch is not None
            return self._density(info.batch(rows, rng))

        return LogDensity(log_prob, score, batch if info.batch else None)

    def _draw(self, info: TargetSamples, count: Any, rng: Streams) -> Tensor:
        n = whole(count)
        if n is None or n < 0:
            raise UserError(f"TargetSamples.draw({count!r}, ...)", "a whole number, 0 or more", "give it as an int")
        self.meter.count("draw", n)
        points = info.draw(n, rng)
        if points.shape[0] != self.seeds:
            fix = "draw with the streams that `fit` was given, or a fork of them"
            raise UserError(f"TargetSamples.draw of {points.shape[0]} seeds", f"{self.seeds}, those of the run", fix)
        return points

    def _points(self, oracle: str, x: Any) -> tuple[int, int, bool]:
        """How many points per seed these are; how many orders of derivative are sure to be taken of a call, by
        `torch.func` or in forward mode; and whether autograd may take one.

        Raises:
            UserError: they are not (S, n, ...).
        """
        seen = tuple(x.shape) if isinstance(x, Tensor) else ()
        if len(seen) < 2 or seen[0] != self.seeds or seen[2:] != self.shape:
            got = f"LogDensity.{oracle} of a tensor {seen}" if isinstance(x, Tensor) else f"LogDensity.{oracle}({x!r})"
            expected = f"(S, n, ...) = ({', '.join(map(str, (self.seeds, 'n', *self.shape)))})"
            raise UserError(got, expected, "seeds come first, then points; unsqueeze or transpose what is not so")
        n, levels, follows, plain = seen[1], 0, False, not functorch.is_functorch_wrapped_tensor(x)
        while functorch.is_functorch_wrapped_tensor(x):
            inner = functorch.get_unwrapped(x)
            if functorch.is_batchedtensor(x):
                n *= inner.shape[functorch.maybe_get_bdim(x)]
            elif functorch.is_gradtrackingtensor(x):
                levels += 1
                follows = follows or x.requires_grad or forward_ad.unpack_dual(x).tangent is not None
            x = inner
        orders = levels if follows or levels > 1 else 0  # of outer levels it can't be seen whether they follow x
        autograd = x.requires_grad and torch.is_grad_enabled()
        orders += forward_ad.unpack_dual(x).tangent is not None
        return (n, orders, autograd) if plain else (n, orders + autograd, False)

    def _watched(self, out: Tensor, n: int, known: int) -> Tensor:
        """The oracle's value, which counts a score when autograd goes through it beyond what was counted before.

        Args:
            known: orders of derivative that were counted with the call.
        """
        if functorch.is_functorch_wrapped_tensor(out) or not out.requires_grad:
            return out
        counted, trains = [known], self.meter.trains()

        def passed(_: Tensor) -> None:
            orders = 1 + torch.is_grad_enabled()  # the pass itself, and one more if its result can be differentiated
            more, counted[0] = max(orders - counted[0], 0), max(orders, counted[0])
            if more:
                self.meter.count("score", more * n, trains)

        out.register_hook(passed)
        return out
