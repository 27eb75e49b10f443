"""Ranges of fields, declared next to the field, and the one function that checks them.

    points: Count = 4096
    "number of particles that carry the flow"
    step: Positive | None = None
    "step size in flow time; default: 0.1"
    clip: Annotated[float, at_least(1)] = 10.0
    "largest ratio of two densities"

    __post_init__ = check_fields

A rule between two fields is a line in `__post_init__` after `check_fields(self)`:

    refuse(self, "pool", "batch", when=self.pool < self.batch, expected="a pool of at least one batch")

Values of a `Literal` are checked too. A lambda written inside an annotation can't see the names of its module: give a
range of your own a name, as the ones below have.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from numbers import Real
from typing import Annotated, Any, Literal

from gwfbench.errors import UserError


@dataclass(frozen=True)
class Range:
    """Values that a field may have.

    Args:
        holds: whether a number is one of them. Never called with None, a bool or anything else that is no number.
        words: the range as `list` and errors say it.
        example: a value of it.
    """

    holds: Callable[[Any], bool]
    words: str
    example: float


def at_least(low: float) -> Range:
    return Range(lambda v: low <= v < math.inf, f"at least {_short(low)}", low)


def between(low: float, high: float) -> Range:
    """Both ends included."""
    return Range(lambda v: low <= v <= high, f"from {_short(low)} to {_short(high)}", low)


Count = Annotated[int, Range(lambda v: v >= 1, "at least 1", 8)]
Natural = Annotated[int, Range(lambda v: v >= 0, "at least 0", 8)]
Positive = Annotated[float, Range(lambda v: 0 < v < math.inf, "a positive number", 0.1)]
NonNegative = Annotated[float, Range(lambda v: 0 <= v < math.inf, "0 or a positive number", 0.1)]
Finite = Annotated[float, Range(math.isfinite, "a finite number", 0.5)]
Share = Annotated[float, Range(lambda v: 0 <= v < 1, "at least 0 and below 1", 0.1)]
Fraction = Annotated[float, Range(lambda v: 0 < v <= 1, "above 0 and at most 1", 0.5)]
Interior = Annotated[float, Range(lambda v: 0 < v < 1, "above 0 and below 1", 0.5)]
StepOrInf = Annotated[float, Range(lambda v: v > 0, "a positive number, or inf", 0.1)]


def check_fields(plugin: Any) -> None:
    """Raise unless each field of a plug-in has a value in its range; None is allowed where the type allows it.

    Raises:
        UserError: the first field whose value is outside.
    """
    cls: type = plugin.__class__
    name = _name(cls)
    for field, (optional, choices, limits) in _rules(cls).items():
        value = getattr(plugin, field)
        if value is None and optional:
            continue
        if choices and value not in choices:
            words, example = f"one of {', '.join(map(_text, choices))}", _text(choices[0])
        elif limits and not (_is_number(value) and all(limit.holds(value) for limit in limits)):
            words, example = " and ".join(limit.words for limit in limits), _short(limits[0].example)
        else:
            continue
        raise UserError(f"{name}:{field}={_text(value)}", words, f"write, for example, {name}:{field}={example}")


def refuse(plugin: Any, *names: str, when: bool, expected: str, fix: str = "") -> None:
    """Raise if values of these fields don't go together.

    Args:
        when: whether they don't.
        expected: what would be right.
        fix: what to write; empty: to change the first of them or leave it out.

    Raises:
        UserError: they don't.
    """
    if when:
        got = ",".join(f"{name}={_text(getattr(plugin, name))}" for name in names)
        raise UserError(f"{_name(plugin.__class__)}:{got}", expected, fix or f"change {names[0]}, or leave it out")


def ranges(cls: type) -> dict[str, tuple[Range, ...]]:
    """The ranges of a dataclass's fields, by field; fields without any are left out."""
    return {name: limits for name, (_, _, limits) in _rules(cls).items() if limits}


@cache
def _rules(cls: type) -> dict[str, tuple[bool, tuple[Any, ...], tuple[Range, ...]]]:
    """By field: whether it may be None, the values of its `Literal`, its ranges."""
    hints = typing.get_type_hints(cls, include_extras=True)
    found: dict[str, tuple[bool, tuple[Any, ...], tuple[Range, ...]]] = {}
    for field in dataclasses.fields(cls):
        parts = list(_parts(hints[field.name]))
        choices = next((part.values for part in parts if isinstance(part, _Choices)), ())
        limits = tuple(part for part in parts if isinstance(part, Range))
        if choices or limits:
            found[field.name] = (type(None) in parts, choices, limits)
    return found


@dataclass(frozen=True)
class _Choices:
    """The values of a `Literal`."""

    values: tuple[Any, ...]


def _parts(hint: Any) -> Iterator[Any]:
    """Of a type: each Range, the choices of each Literal, and the types that are left."""
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        yield from _parts(inside[0])
        yield from (part for part in inside[1:] if isinstance(part, Range))
    elif origin in (types.UnionType, typing.Union):
        for choice in inside:
            yield from _parts(choice)
    elif origin is Literal:
        yield _Choices(inside)
    else:
        yield hint


def _is_number(value: Any) -> bool:
    return type(value) is not bool and isinstance(value, Real)


_NAMES: dict[type, str] = {}  # of plug-ins that are not named after their file


def give_name(cls: type, name: str) -> None:
    """Let errors call the plug-ins of this class by this name: that of an entry point."""
    _NAMES[cls] = name


def _name(cls: type) -> str:
    """As on the command line: the name of the plug-in's file, unless `give_name` has given another."""
    file = cls.__module__.rpartition(".")[2] if cls.__module__ != "__main__" else cls.__name__.lower()
    return _NAMES.get(cls, file)


def _text(value: Any) -> str:
    """As it is typed on the command line."""
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def _short(number: float) -> str:
    return f"{number:g}".replace("e+0", "e")
