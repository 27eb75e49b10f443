"""One check, and its result."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gwfbench.errors import UserError


class Failed(Exception):
    """The plug-in breaks a promise: got, expected, how to fix."""

    def __init__(self, got: str, expected: str, fix: str):
        super().__init__(got, expected, fix)
        self.got, self.expected, self.fix = got, expected, fix


class Skipped(Exception):
    """The check does not apply; its text says why."""


def expect(ok: bool, got: str, expected: str, fix: str) -> None:
    """Raise `Failed(got, expected, fix)` unless `ok`."""
    if not ok:
        raise Failed(got, expected, fix)


@dataclass(frozen=True)
class Check:
    """A function that returns, or raises `Failed` or `Skipped`. Its docstring says what it checks."""

    run: Callable[[Any], None]

    @property
    def name(self) -> str:
        return self.run.__name__.replace("_", " ")


@dataclass(frozen=True)
class Outcome:
    """The result of one check of one plug-in, alone or with one partner."""

    check: str
    plugin: str
    partner: str  # empty if the check needs no partner
    status: Literal["passed", "failed", "skipped"]
    got: str = ""  # the reason, if skipped
    expected: str = ""
    fix: str = ""
    seconds: float = 0.0


def apply(check: Check, subject: Any, plugin: str, partner: str = "") -> Outcome:
    """Run the check. Any exception that the plug-in raises counts as its failure."""
    start = time.perf_counter()

    def ended(status: Literal["passed", "failed", "skipped"], *words: str) -> Outcome:
        parts = dict(zip(("got", "expected", "fix"), words, strict=False))
        seconds = round(time.perf_counter() - start, 3)
        return Outcome(check.name, plugin, partner, status, **parts, seconds=seconds)

    try:
        check.run(subject)
    except Skipped as why:
        return ended("skipped", str(why))
    except (Failed, UserError) as error:
        return ended("failed", error.got, error.expected, error.fix)
    except (Exception, SystemExit) as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(frame.filename).name}:{frame.lineno}"
        return ended(
            "failed",
            f"{type(error).__name__}: {error} ({where})",
            "no exception",
            "fix the plug-in, or the code that it calls",
        )
    return ended("passed")
