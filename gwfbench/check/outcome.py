"""One check, and how it ended."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gwfbench.errors import UserError


class Failed(Exception):
    """The plug-in does not keep a promise: got, expected, how to fix."""

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
    """A function that raises `Failed` or `Skipped`, or returns; its docstring says what it checks."""

    run: Callable[[Any], None]

    @property
    def name(self) -> str:
        return self.run.__name__.replace("_", " ")


@dataclass(frozen=True)
class Outcome:
    """How one check of one plug-in, beside one partner or alone, ended."""

    check: str
    plugin: str
    partner: str  # empty if the check needs none
    status: Literal["passed", "failed", "skipped"]
    got: str = ""  # why, where skipped
    expected: str = ""
    fix: str = ""
    seconds: float = 0.0


def apply(check: Check, subject: Any, plugin: str, partner: str = "") -> Outcome:
    """Run the check; whatever the plug-in raises is a failure of the plug-in."""
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
            "failed", f"{type(error).__name__}: {error} ({where})", "no exception", "mend it, or what it calls"
        )
    return ended("passed")
