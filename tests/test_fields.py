"""Ranges of fields: what is inside, what is outside, and what errors say."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import pytest

from gwfbench import fields
from gwfbench.errors import UserError
from gwfbench.fields import (
    Count,
    Finite,
    Fraction,
    Interior,
    Natural,
    NonNegative,
    Positive,
    Range,
    Share,
    StepOrInf,
    at_least,
    between,
    check_fields,
    refuse,
)

EVEN = Range(lambda v: v % 2 == 0, "an even number", 4)
INF, NAN = math.inf, math.nan


@dataclass(frozen=True)
class Odd:
    count: Count = 1
    natural: Natural = 0
    positive: Positive = 1.0
    non_negative: NonNegative = 0.0
    finite: Finite = 0.0
    share: Share = 0.0
    fraction: Fraction = 1.0
    interior: Interior = 0.5
    step: StepOrInf = INF
    least: Annotated[int, at_least(2)] = 2
    large: Annotated[float, between(1, 1e6)] = 1.0
    even: Annotated[int, at_least(4), EVEN] = 4
    optional: Positive | None = None
    optional_count: Annotated[int, at_least(2)] | None = None
    word: Literal["a", "b"] = "a"
    power: Literal[1, 9] | None = 9
    free: str = "anything"
    on: bool = False

    __post_init__ = check_fields


@dataclass(frozen=True)
class Pool:
    pool: Count = 8
    batch: Count = 4
    fast: bool = False
    fixed: Count | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        refuse(self, "pool", "batch", when=self.pool < self.batch, expected="a pool of at least one batch")
        refuse(self, "fast", "fixed", when=self.fast and self.fixed is None, expected="a number", fix="write fixed=3")


INSIDE = {
    "count": (1, 10**9, np.int64(3)),
    "natural": (0, 1),
    "positive": (1e-300, 3, 1e300),
    "non_negative": (0, 0.0, 1e300),
    "finite": (-1e300, 0, 1e300),
    "share": (0, 0.999),
    "fraction": (1e-9, 1),
    "interior": (1e-9, 0.999),
    "step": (1e-9, INF),
    "least": (2, 3),
    "large": (1, 1e6),
    "even": (4, 6),
    "optional": (None, 1),
    "optional_count": (None, 2),
    "word": ("a", "b"),
    "power": (1, 9, None),
}
OUTSIDE = {
    "count": (0, -1, NAN, None, True, "3"),
    "natural": (-1, NAN, None, False),
    "positive": (0, -1, INF, NAN, None, True),
    "non_negative": (-1e-9, INF, NAN, None),
    "finite": (INF, -INF, NAN, None),
    "share": (1, -1e-9, INF, NAN),
    "fraction": (0, 1.001, INF, NAN),
    "interior": (0, 1, INF, NAN),
    "step": (0, -INF, NAN, None),
    "least": (1, INF, NAN, None),
    "large": (0.999, 1e6 + 1, INF, NAN),
    "even": (2, 5),
    "optional": (0, INF, NAN, True),
    "optional_count": (1, NAN),
    "word": ("c", None, 1),
    "power": (2, "9"),
}


def test_every_range_here_is_tried():
    named = {name for name, value in vars(fields).items() if isinstance(value, type(Count))}
    assert named == {
        *("Count", "Natural", "Positive", "NonNegative", "Finite", "Share", "Fraction", "Interior", "StepOrInf"),
    }
    assert set(INSIDE) == set(OUTSIDE) == set(Odd.__dataclass_fields__) - {"free", "on"}
    assert set(fields.ranges(Odd)) == set(INSIDE) - {"word", "power"}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field in INSIDE for value in INSIDE[field]])
def test_inside(field, value):
    assert getattr(Odd(**{field: value}), field) is value


@pytest.mark.parametrize(("field", "value"), [(field, value) for field in OUTSIDE for value in OUTSIDE[field]])
def test_outside(field, value):
    with pytest.raises(UserError) as caught:
        Odd(**{field: value})
    error = caught.value
    text = str(value).lower() if value is None or isinstance(value, bool) else str(value)
    assert error.got == f"test_fields:{field}={text}"
    assert error.expected
    head, _, example = error.fix.rpartition("=")
    assert head == f"write, for example, test_fields:{field}"
    Odd(**{field: example if field == "word" else float(example)})  # the example is inside


@pytest.mark.parametrize("limit", [limit for limits in fields.ranges(Odd).values() for limit in limits])
def test_examples_are_inside(limit):
    assert limit.holds(limit.example)


def test_words():
    words = {name: " and ".join(limit.words for limit in limits) for name, limits in fields.ranges(Odd).items()}
    assert words["count"] == "at least 1"
    assert words["large"] == "from 1 to 1e6"
    assert words["even"] == "at least 4 and an even number"
    assert words["optional"] == "a positive number"
    with pytest.raises(UserError, match="one of 1, 9"):
        Odd(power=2)


def test_rules_between_fields():
    Pool()
    with pytest.raises(UserError) as caught:
        Pool(pool=2)
    assert caught.value.args == (
        "test_fields:pool=2,batch=4",
        "a pool of at least one batch",
        "change pool, or leave it out",
    )
    with pytest.raises(UserError) as caught:
        Pool(fast=True)
    assert caught.value.args == ("test_fields:fast=true,fixed=none", "a number", "write fixed=3")
    with pytest.raises(UserError, match="at least 1"):  # the range comes first
        Pool(pool=0)


def test_errors_call_an_entry_point_by_its_name():
    @dataclass(frozen=True)
    class Renamed:
        share: float = 0.5

        def __post_init__(self):
            refuse(self, "share", when=self.share > 1, expected="less")

    fields.give_name(Renamed, "acme_renamed")
    with pytest.raises(UserError, match="acme_renamed:share=2"):
        Renamed(share=2)


def test_text_and_words_are_not_compared_with_numbers():
    @dataclass(frozen=True)
    class Plain:
        text: str = ""

        __post_init__ = check_fields

    assert fields.ranges(Plain) == {}
    assert Plain("x").text == "x"
