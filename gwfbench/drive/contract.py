"""What a method may hand to the runner: checked when it is taken, so that nothing else reaches a file."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import replace
from numbers import Real
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from gwfbench.protocol import Drawn, Marginal, Pushed

NEAR = 1e-6  # of two flow times that are one, relative to the time where that is above 1


class BadLaw(Exception):
    """The method yielded what the contract does not allow.

    Args:
        got: what was found.
        expected: what would have been right.
        fix: what to change in the method.
    """

    def __init__(self, got: str, expected: str, fix: str):
        super().__init__(got, expected, fix)
        self.got, self.expected, self.fix = got, expected, fix

    def __str__(self) -> str:
        return f"{self.got}; expected {self.expected}; fix: {self.fix}"


def taken(law: Any, where: str = "") -> Marginal:
    """The law that was yielded, with its numbers as Python's own.

    Args:
        where: the line that yielded it, for the error.

    Raises:
        BadLaw: it is no law, or its numbers are none.
    """
    if not isinstance(law, Drawn | Pushed):
        what = "None" if law is None else f"a {type(law).__name__}"
        raise BadLaw(f"it yielded {what}{where}", "a Drawn or a Pushed", "yield one for each law, then return")
    t = _real(law.t)
    if t is None or math.isnan(t):
        raise BadLaw(f"it yielded a law at t = {_shown(law.t)}{where}", "a number", "give the flow time as a float")
    if t is not law.t:
        law = replace(law, t=t)
    if isinstance(law, Drawn) and law.limit is not None:
        limit = whole(law.limit)
        if limit is None or limit < 1:
            got = f"it yielded a law with limit = {_shown(law.limit)}{where}"
            raise BadLaw(got, "a whole number, 1 or more, or None", "give the number of particles that there are")
        law = replace(law, limit=limit)
    return law


def require_next(law: Marginal, before: float, times: Sequence[float], limit: bool, where: str = "") -> None:
    """Raise unless this law may follow one at flow time `before`, and leaves out no judged time between the two.

    Raises:
        BadLaw: its time is not later, is not finite, or a judged time was passed without a law.
    """
    if not law.t > before:
        got = f"its flow time went from {before:g} to {law.t:g}{where}"
        raise BadLaw(got, "a time that grows", "yield the laws in the order of time")
    if limit:
        return
    if math.isinf(law.t):
        got = f"it yielded a law at t = inf{where}; the task is judged at {_listed(times)}"
        raise BadLaw(got, "a finite time", 'yield one law at each of `problem.times`, or let its clock be "none"')
    passed = [t for t in times if t > before and not same(t, before) and t < law.t and not same(t, law.t)]
    if passed:
        got = f"it went from t = {before:g} to {law.t:g}{where}, and yielded no law at {_listed(passed)}"
        raise BadLaw(got, f"one at each judged time: {_listed(times)}", "step along `problem.grid`, which has them all")


def require_whole(steps: int, last: float, times: Sequence[float], limit: bool) -> None:
    """Raise unless the laws that were yielded reach the last judged time.

    Raises:
        BadLaw: there is none, or the last one is too early.
    """
    fix = "yield a law at each of `problem.times`, before `fit` returns"
    if not steps:
        raise BadLaw("it ended without yielding a law", "at least one" if limit else f"one at {_listed(times)}", fix)
    if not limit and last < times[-1] and not same(times[-1], last):
        left = [t for t in times if t > last and not same(t, last)]
        got = f"it ended at t = {last:g}, and yielded no law at {_listed(left)}"
        raise BadLaw(got, f"a law at each judged time: {_listed(times)}", fix)


def require_shape(what: str, got: object, expected: tuple[int, ...]) -> None:
    """Raise unless the points that a law gave are of this shape.

    Raises:
        BadLaw: they are not.
    """
    if isinstance(got, Tensor) and tuple(got.shape) == tuple(expected):
        return
    shape = tuple(got.shape) if isinstance(got, Tensor) else type(got).__name__
    fix = f"give as many points as {what} is asked for"
    if what == "draw" and isinstance(got, Tensor) and got.ndim > 1 and got.shape[1] < expected[1]:
        fix = f"say how many points there are: Drawn(..., limit={got.shape[1]})"
    raise BadLaw(f"its {what} gave {shape}", f"(S, n, ...) = {tuple(expected)}", fix)


def own_log_z(law: Drawn, seeds: int) -> tuple[Tensor, Tensor] | None:
    """The law's own estimate of log Z and its standard error, (S,) each, float64; None: it has none.

    Raises:
        BadLaw: they are not one number a seed, or the error is below 0.
    """
    if law.log_z is None:
        return None
    fix = "give two tensors of one number for each seed; NaN where the error is not known"
    parts = law.log_z if isinstance(law.log_z, tuple) and len(law.log_z) == 2 else (law.log_z,)
    if not all(isinstance(part, Tensor) and tuple(part.shape) == (seeds,) for part in parts) or len(parts) != 2:
        raise BadLaw(f"its log_z is {_shown(law.log_z)}", f"value and standard error, ({seeds},) each", fix)
    value, error = (part.detach().double() for part in parts)
    if bool((error < 0).any()):
        raise BadLaw(f"its log_z has the standard error {float(error.min()):g}", "0 or more, or NaN", fix)
    return value, error


def same(one: float, other: float) -> bool:
    """Whether two flow times are one: methods add up their steps."""
    return abs(one - other) <= NEAR * max(1.0, other)


def whole(value: object) -> int | None:
    """A whole number of any library as Python's own; None if it is none."""
    try:
        return None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        return None


def _real(value: object) -> float | None:
    """A number, or a tensor of one, as a float; None if it is none."""
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
        return float(value)
    return float(value) if isinstance(value, Real) and not isinstance(value, bool) else None


def _listed(times: Sequence[float]) -> str:
    text = [f"{t:g}" for t in times]
    return f"t = {', '.join(text if len(text) <= 8 else [*text[:4], '...', *text[-3:]])}"


def _shown(value: object) -> str:
    try:
        return repr(value)[:60]
    except Exception:  # a stranger's object can do anything
        return f"a {type(value).__name__}"


# ------------------------------------------------------------------------------------------------- where it was


def line_of(laws: Iterator[Any]) -> str:
    """The line at which a generator waits, in words for an error; empty where there is none."""
    seen: Any = laws
    frame = None
    while (inner := getattr(seen, "gi_frame", None)) is not None:
        frame = inner
        seen = getattr(seen, "gi_yieldfrom", None) or frame.f_locals.get(".0")  # of `yield from`, of an expression
    return f" ({Path(frame.f_code.co_filename).name}:{frame.f_lineno})" if frame else ""


def line_in(file: str, trace: TracebackType | None) -> str:
    """The last line of a file that an error came through, in words for an error; empty where there is none."""
    line = 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == file:
            line = trace.tb_lineno
        trace = trace.tb_next
    return f" ({Path(file).name}:{line})" if line else ""
