"""Ranges of fields, declared beside the field, and the one function that checks them.

    points: Count = 4096
    "particles that carry the flow"
    step: Positive | None = None
    "step size in flow time; default: 0.1"

    __post_init__ = check_fields

A rule between two fields is a line in `__post_init__` after `check_fields(self)`:

    refuse(self, "pool", "batch", when=self.pool < self.batch, expected="a pool of at least one batch")
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any

from gwfbench.errors import UserError


@dataclass(frozen=True)
class Range:
    """Values that a field may have.

    Args:
        holds: whether a value is one of them; never asked about None.
        words: the range as `list` and errors say it.
        example: a value of it.
    """

    holds: Callable[[Any], bool]
    words: str
    example: float


def at_least(low: float) -> Range:
    return Range(lambda v: low <= v < math.inf, f"at least {low:g}", low)


def between(low: float, high: float) -> Range:
    """Both ends included."""
    return Range(lambda v: low <= v <= high, f"from {low:g} to {high:g}", low)


Count = Annotated[int, Range(lambda v: v >= 1, "at least 1", 8)]
Natural = Annotated[int, Range(lambda v: v >= 0, "at least 0", 8)]
Positive = Annotated[float, Range(lambda v: 0 < v < math.inf, "a positive number", 0.1)]
NonNegative = Annotated[float, Range(lambda v: 0 <= v < math.inf, "0 or a positive number", 0.1)]
Finite = Annotated[float, Range(math.isfinite, "a finite number", 0.5)]
Share = Annotated[float, Range(lambda v: 0 <= v < 1, "at least 0 and below 1", 0.1)]
Fraction = Annotated[float, Range(lambda v: 0 < v <= 1, "above 0 and at most 1", 0.5)]
StepOrInf = Annotated[float, Range(lambda v: v > 0, "a positive number, or inf", 0.1)]


def check_fields(plugin: Any) -> None:
    """Raise unless each field of a plug-in has a value in its range; None is allowed where the type allows it.

    Raises:
        UserError: the first field that has not.
    """
    for name, limits in ranges(type(plugin)).items():  # pyright: ignore[reportUnknownArgumentType]
        value = getattr(plugin, name)
        if value is not None and not all(limit.holds(value) for limit in limits):
            words = " and ".join(limit.words for limit in limits)
            example = f"write, for example, {_name(plugin)}:{name}={limits[0].example:g}"
            raise UserError(f"{_name(plugin)}:{name}={_text(value)}", words, example)


def refuse(plugin: Any, *names: str, when: bool, expected: str, fix: str = "") -> None:
    """Raise if values of these fields don't go together.

    Args:
        when: whether they don't.
        expected: what would be right.
        fix: what to write; empty: to change one of them or leave it out.
    """
    if when:
        got = ",".join(f"{name}={_text(getattr(plugin, name))}" for name in names)
        raise UserError(f"{_name(plugin)}:{got}", expected, fix or f"change {names[0]}, or leave it out")


@cache
def ranges(cls: type) -> dict[str, tuple[Range, ...]]:
    """The ranges of a dataclass's fields, by field; fields without any are left out."""
    hints = typing.get_type_hints(cls, include_extras=True)
    names = [field.name for field in dataclasses.fields(cls)]
    found = {name: tuple(_ranges(hints[name])) for name in names}
    return {name: limits for name, limits in found.items() if limits}


def _ranges(hint: Any) -> Iterator[Range]:
    if typing.get_origin(hint) is Annotated:
        yield from (part for part in hint.__metadata__ if isinstance(part, Range))
    elif typing.get_origin(hint) in (types.UnionType, typing.Union):
        for choice in typing.get_args(hint):
            yield from _ranges(choice)


def _name(plugin: Any) -> str:
    """As on the command line: a file holds one plug-in, and its name is the file's."""
    cls = type(plugin)  # pyright: ignore[reportUnknownVariableType]
    return cls.__module__.rpartition(".")[2] if cls.__module__ != "__main__" else cls.__name__.lower()


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)
