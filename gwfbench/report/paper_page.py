"""The page of a paper: published values beside ours, and a verdict for each.

With p the published value (or the range of its readings) and [l, u] our 95 % interval of the median over seeds,

    reproduced       p is in [l - w, u + w],   w = rounding + 2 sqrt(ours^2 + theirs^2 + common^2)
    better           p is outside, and we are on its good side
    not reproduced   p is outside, and we are on its bad side; or a run of ours did not end well

where `ours` is the median standard error of our values at the judge, `theirs` the published spread over seeds divided
by the root of their number (of one, if it is not printed), and `common` the ledger's `error`.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from gwfbench.papers.ledger import KINDS, Answer, Number, Paper, Table, answers
from gwfbench.report.board.leaderboard import last_laws, leaderboard

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal["reproduced", "better", "not reproduced", "not run"]
RULE = """\
**reproduced**: the published value, or the range of its readings, is inside our 95 % bootstrap interval of the median
over seeds, widened on both sides by w = rounding + 2 sqrt(ours² + theirs² + common²). Rounding is half a unit of the
last printed digit; ours, the median standard error of our values at the judge; theirs, the printed standard deviation
over seeds divided by the root of their number (of one, if that is not printed; 0 if no deviation is); common, what no
interval over seeds shows, where a table says so. **better**: outside, and we are on its good side. **not reproduced**:
outside on the bad side, or one of our runs did not end well. **not run**: why. One seed has no interval: its value
stands for it. The verdict is about two numbers: what differs between them stands above the table or in the remark."""


@dataclass(frozen=True)
class Ours:
    """One metric of one run's seeds, in the unit of the published value."""

    value: float
    "median over seeds"
    low: float
    high: float
    se: float
    "of the judge, median over seeds"
    seeds: str
    "finished/total, and why the others did not"

    @property
    def whole(self) -> bool:
        done, _, total = self.seeds.partition(",")[0].partition("/")
        return done == total and math.isfinite(self.value)


def verdict(number: Number, ours: Ours) -> Verdict:
    """Compare, by the rule on top of this module."""
    if not ours.whole:
        return "not reproduced"
    w = margin(number, ours) + 1e-12
    if ours.low - w <= max(number.value) and min(number.value) <= ours.high + w:
        return "reproduced"
    ahead = ours.high < min(number.value) if number.better == "lower" else ours.low > max(number.value)
    return "better" if ahead else "not reproduced"


def margin(number: Number, ours: Ours) -> float:
    """By how much our interval is widened."""
    se = 0.0 if math.isnan(ours.se) else ours.se
    return number.rounding + 2 * math.hypot(se, number.spread / math.sqrt(number.seeds), number.error)


def page(paper: Paper, points: pd.DataFrame) -> str:
    """The page as Markdown, from rows alone."""
    import pandas as pd

    board = _Board(points)
    tally: Counter[str] = Counter()
    used: dict[Answer, None] = {}
    sections = []
    for table in paper.tables:
        body = []
        for number in table.numbers:
            for answer, ours in board.of(paper, number) or [(None, None)]:
                row = _row(number, answer, ours, table)
                body.append(row)
                tally[row[5].strip("*")] += 1
                used |= {answer: None} if answer else {}
        head = ["", KINDS[table.kind], "ours [95 %]", "seeds", "settings", "verdict", "remark"]
        text = pd.DataFrame(body, columns=head).to_markdown(index=False, disable_numparse=True)
        facts = [table.definition, f"Differs: {table.differs}." if table.differs else "", f"Source: {table.source}."]
        about = " ".join(fact for fact in facts if fact and fact != "Source: .")
        sections.append("\n\n".join(filter(None, [f"## {table.name}: {table.title}", about, text])))
    made = f"Made by `python -m gwfbench reproduce {paper.key}`, which runs what there is to run and writes this page;"
    made += f"\n`reproduce {paper.key} --rows FILE --write DIR` makes it from rows alone."
    counts = ", ".join(f"{tally[word]} {word}" for word in ("reproduced", "better", "not reproduced", "not run"))
    parts = [f"# {paper.title}", made, f"Lines: {counts}.", RULE, *sections, _settings(list(used))]
    return "\n\n".join(part for part in parts if part) + "\n"


def counted(text: str) -> str:
    """The line of a page that counts its verdicts."""
    return next(line for line in text.splitlines() if line.startswith("Lines: ")).removeprefix("Lines: ").rstrip(".")


class _Board:
    """What the rows have, by task, method and metric."""

    def __init__(self, points: pd.DataFrame):
        import pandas as pd

        self._rows: dict[tuple[str, str], dict[Any, Any]] = {}
        self._errors: dict[Any, float] = {}
        if len(points):
            rows = leaderboard(points).to_dict("records")
            self._rows = {(row["task"], row["method"]): row for row in rows}
            last = last_laws(points)
            errors = pd.to_numeric(last["se"]).groupby([last["task"], last["method"], last["metric"]]).median()
            self._errors = dict(zip(errors.index.to_list(), errors.to_list(), strict=True))

    def of(self, paper: Paper, number: Number) -> list[tuple[Answer, Ours]]:
        """Those answers to a number that have rows."""
        found = [(one, self._rows[one.task, one.method]) for one in answers(paper, number) if self._has(one)]
        return [(one, self._ours(number, one, row)) for one, row in found if number.metric and number.value]

    def _has(self, answer: Answer) -> bool:
        return (answer.task, answer.method) in self._rows

    def _ours(self, number: Number, answer: Answer, row: dict[Any, Any]) -> Ours:
        name = number.metric
        value, low, high = (row.get(key, math.nan) for key in (name, f"{name}_low", f"{name}_high"))
        se = self._errors.get((answer.task, answer.method, name), math.nan)
        low, high = (value if math.isnan(end) else end for end in (low, high))  # of one seed
        if number.scale == "log10":
            se = se / (value * math.log(10)) if value > 0 else math.nan
            value, low, high = (math.log10(x) if x > 0 else math.nan for x in (value, low, high))
        return Ours(value, low, high, se, row["seeds"])


def _row(number: Number, answer: Answer | None, ours: Ours | None, table: Table) -> list[str]:
    remark = [number.definition if number.definition != table.definition else ""]
    printed = " to ".join(f"{value:g}" for value in number.value) or "-"
    if number.spread:
        printed += f" ± {number.spread:g}"
    if answer is None or ours is None:
        remark.append(number.missing or "no rows of it yet")
        cells = ["-", "-", "-", "**not run**"]
    else:
        found = verdict(number, ours)
        remark.append(f"differs: {number.differs}" if number.differs != table.differs else "")
        if not ours.whole:
            remark.append("not all of our runs ended well, or gave a value")
        elif found == "not reproduced":
            known = [answer.cut, number.note, answer.note]
            remark += known if any(known) else ["why is not known"]
        interval = f" [{ours.low:.3g}, {ours.high:.3g}]" if ours.low != ours.high else ""
        shown = "-" if math.isnan(ours.value) else f"{ours.value:.3g}{interval}"
        cells = [shown, ours.seeds, answer.setting, f"**{found}**"]
    row = [number.what, printed, *cells, "; ".join(filter(None, remark))]
    return [cell.replace("|", "\\|") for cell in row]


def _settings(used: list[Answer]) -> str:
    """What ran for the lines above: specs, sources, and what was cut."""
    if not used:
        return ""
    lines = []
    for one in used:
        facts = [f"cut: {one.cut}" if one.cut else "", f"source: {one.source}" if one.source else "", one.note]
        tail = "; ".join(filter(None, facts))
        lines.append(f"- {one.setting}: `{one.method}` on `{one.task}`" + (f". {tail}" if tail else "") + ".")
    about = (
        "paper: the paper's settings; quick: those, cut as it says; ours: this suite's defaults but for what is typed."
    )
    return "\n".join(["## Settings", "", about, "", *lines])
