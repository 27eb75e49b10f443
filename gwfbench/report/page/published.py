"""Numbers that papers print, next to the lines of boards that answer them, with the verdict of `report.verdicts`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gwfbench.papers import ledger
from gwfbench.plugins import registry
from gwfbench.report import paper_page, verdicts
from gwfbench.report import rows as kept_rows
from gwfbench.report.page.data import Sheet, sheets
from gwfbench.report.pages import of_laws

if TYPE_CHECKING:
    import pandas as pd

    from gwfbench.report.board.lines import Line


@dataclass(frozen=True)
class Published:
    """One number of a paper, and ours, as text; without `method` there are no rows that answer it."""

    paper: str
    table: str
    what: str
    printed: str
    word: verdicts.Word
    why: str
    about: str  # what was measured, and how ours differs
    remark: str
    ours: str = ""
    interval: str = ""
    within: str = ""  # the published values that would agree with ours
    setting: str = ""
    task: str = ""
    method: str = ""  # as the board names it
    metric: str = ""


def found(made: Sequence[Sheet], whole: bool = False) -> list[Published]:
    """The numbers that these boards answer.

    Args:
        whole: also those that they don't.
    """
    own = {
        (sheet.board.task, line.spec): line
        for sheet in made
        for line in sheet.board.lines
        if " [" not in line.method  # another precision or a budget is marked
    }
    return [one for key in ledger.papers() for one in _of_paper(ledger.load(key), own, whole)]


def _of_paper(paper: ledger.Paper, own: dict[tuple[str, str], Line], whole: bool) -> Iterator[Published]:
    tasks = {registry.head(task) for task, _ in own}
    for table in paper.tables:
        for number in () if table.again else (one for one in table.numbers if not one.curve):
            head = paper.key, table.name, number.what, paper_page.printed(number)
            here = registry.head(number.task) in tasks  # what answers a number takes a while to say
            answered = paper_page.answered(paper, number, own) if here else []
            for answer, line in answered:
                ours = verdicts.of_line(number, line)
                still = paper_page.control(number, own, answer.task, "still")
                verdict = verdicts.judged(number, answer.setting, ours, still)
                known = not math.isnan(ours.value)
                yield Published(
                    *head, verdict.word, "; ".join(verdict.why), *_said(number, answer.cut, answer.note),
                    f"{ours.value:.3g}" if known else "",
                    f"[{ours.low:.3g}, {ours.high:.3g}]" if known and ours.low != ours.high else "",
                    paper_page.span(*verdicts.band(number, ours)) if known else "",
                    answer.setting, answer.task, line.method, number.metric,
                )  # fmt: skip
            if whole and not answered:
                why = paper_page.reason(paper, number, own)
                yield Published(*head, verdicts.NOT_RUN.word, why, *_said(number))


def _said(number: ledger.Number, cut: str = "", note: str = "") -> tuple[str, str]:
    """What was measured and how ours differs, and what else is to be said."""
    about = [number.definition, f"Differs: {number.differs}" if number.differs else ""]
    remark = [f"Cut: {cut}" if cut else "", number.note, note]
    about, remark = (". ".join(part.rstrip(".") for part in parts if part) for parts in (about, remark))
    return about, remark


def answering(root: Path) -> tuple[list[Sheet], kept_rows.Facts]:
    """The boards of the rows below a results folder that answer numbers of papers, and their environments."""
    import pandas as pd

    books = [ledger.load(key) for key in ledger.papers()]
    asked = set().union(*map(paper_page.asked, books))
    tasks = {task for task, _ in asked}
    metrics = {number.metric for book in books for table in book.tables for number in table.numbers}
    parts, facts = [], {}
    for path in kept_rows.files(root):
        rows, own = kept_rows.read(path)
        facts |= own
        parts.append(_last(rows[rows["task"].isin(tasks)], metrics))
    every = pd.concat(parts).drop_duplicates(["run_key", "attempt", "step", "metric"])
    return sheets(every, only=asked), facts


def _last(rows: pd.DataFrame, metrics: set[str]) -> pd.DataFrame:
    """The last laws, by these metrics alone; a run that has none of them keeps a row."""
    rows = of_laws(rows, "last")
    judged = rows["metric"].isin(metrics) | rows["metric"].isna()
    first = ~rows.duplicated(["run_key", "attempt"])
    return rows[judged | (first & ~rows["run_key"].isin(rows.loc[judged, "run_key"]))]
