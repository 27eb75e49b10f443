"""What a page is made of: groups of boards that belong together, such as those of a suite."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from gwfbench.audit.verdict import Verdict
from gwfbench.budget import Budget
from gwfbench.report.board import suites as board_of_suite
from gwfbench.report.page.data import DIGITS, Sheet, sheets, short
from gwfbench.report.page.published import Published, answering, found
from gwfbench.report.rows import Facts
from gwfbench.suites.suite import Suite

PAPERS = "papers"  # the group whose boards only stand behind numbers of papers


@dataclass(frozen=True)
class Group:
    """Boards, and what they say together."""

    name: str  # of a suite; empty: the rows of one's own
    title: str
    sheets: list[Sheet]
    published: list[Published]
    headlines: dict[str, str]  # by task; the others have their first metric
    entries: list[dict[str, Any]]  # of a suite: its methods, with scores; best first
    facts: list[str]  # about a suite: its seeds, its budget

    def plain(self) -> dict[str, Any]:
        """As values for JSON."""
        boards = [sheet.plain(self.headlines.get(sheet.board.task, "")) for sheet in self.sheets]
        for board in boards if self.entries else []:
            for line in board["lines"]:
                if line["role"] == "method":  # the suite knows seeds, budget and metrics
                    words = ["--suite", self.name, "--task", board["task"], "--method", line["spec"]]
                    line["command"] = shlex.join(["python", "-m", "gwfbench", "run", *words])
        return {
            "name": self.name, "title": self.title, "entries": self.entries, "facts": self.facts, "boards": boards,
            "published": [asdict(one) for one in self.published],
        }  # fmt: skip


def of_rows(rows: pd.DataFrame, metrics: Sequence[str] | None = None, verdicts: Iterable[Verdict] = ()) -> Group:
    """The boards of any rows."""
    made = sheets(rows, metrics, verdicts)
    return Group("", "Results", made, found(made), {}, [], [])


def of_suite(suite: Suite, rows: pd.DataFrame, metrics: Sequence[str] | None = None) -> Group:
    """The boards of a suite, and the scores of its methods over all of its tasks.

    Args:
        rows: as `report.board.suites.of_suite` gives them.
    """
    made = sheets(rows, metrics)
    order = [part.task for part in suite.parts]
    made.sort(key=lambda sheet: order.index(sheet.board.task))
    return Group(
        suite.name, suite.title, made, found(made), {part.task: suite.metric(part) for part in suite.parts},
        [_entry(one) for one in board_of_suite.entries(rows, suite)],
        [f"{suite.seeds} seeds", *_limits(suite)],
    )  # fmt: skip


def _limits(suite: Suite) -> list[str]:
    """What a run of it may cost, in words."""
    limits = Budget.read(suite.budget).limits()
    said = [f"{limit:.0e}".replace("e+0", "e") + f" {name.replace('_', ' ')}" for name, limit in limits.items()]
    return [f"at most {' and '.join(said)} a run"] if said else []


def of_papers(root: Path) -> tuple[Group, Facts]:
    """The numbers of all papers, next to ours from the rows below a results folder, and environments of these."""
    made, facts = answering(root)
    return Group(PAPERS, "Papers", made, found(made, whole=True), {}, [], []), facts


def _entry(one: board_of_suite.Entry) -> dict[str, Any]:
    return short(
        {
            "method": one.name, "information": one.information, "score": one.score, "low": one.low, "high": one.high,
            "tier": one.tier, "failed": one.failed, "units": one.units, "calls": one.calls, "train": one.seconds,
            "scores": {task: statistics.fmean(own.values()) for task, own in one.scores.items()},
            "seeds": sorted({len(own) for own in one.scores.values()}),
        },
        DIGITS,
    )  # fmt: skip
