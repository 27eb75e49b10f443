"""The page of a paper: published values next to ours, and a verdict for each.

With p the published value (or the range of its readings) and [l, u] our 95 % interval of the median over seeds,

    reproduced       p is in [l - w, u + w],   w = rounding + 2 sqrt(ours^2 + theirs^2 + common^2)
    better           p is outside, and we are on its good side
    not reproduced   p is outside, and we are on its bad side; or a run of ours did not finish

where `ours` is the median standard error of our values, `theirs` the published spread over seeds divided by the root
of their number (of one, if it is not printed), and `common` the ledger's `error`.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from gwfbench.papers.ledger import KINDS, Answer, Number, Paper, Table, answers
from gwfbench.report.board.cells import NO_CELL
from gwfbench.report.board.leaderboard import Line, Seeds, boards

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal["reproduced", "better", "not reproduced", "not run"]  # in the order of their count on a page
RULE = """\
**reproduced**: the published value, or the range of its readings, lies inside our 95 % bootstrap interval of the median
over seeds, widened on both sides by w = rounding + 2 sqrt(ours² + theirs² + common²). Rounding is half a unit of the
last printed digit; ours, the median standard error of our values; theirs, the printed standard deviation over seeds
divided by the square root of the number of seeds (of one seed, if their number is not printed; 0 if no deviation is);
common, an error that no interval over seeds shows, where a table states one. **better**: outside, on the good side.
**not reproduced**: outside on the bad side, or one of our runs did not finish. **not run**: see the remark. A single
seed has no interval: its value is used. The verdict compares two numbers; differences in how they were obtained are
stated above the table or in the remark."""


@dataclass(frozen=True)
class Ours:
    """One metric of one run's seeds, in the unit of the published value."""

    value: float
    "median over seeds"
    low: float
    high: float
    se: float
    "standard error, median over seeds"
    seeds: Seeds

    @property
    def whole(self) -> bool:
        """Whether every seed finished, and there is a value."""
        return not self.seeds.failed and math.isfinite(self.value)


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
    """The amount by which our interval is widened on both sides."""
    se = 0.0 if math.isnan(ours.se) else ours.se
    return number.rounding + 2 * math.hypot(se, number.spread / math.sqrt(number.seeds), number.error)


def page(paper: Paper, rows: pd.DataFrame) -> tuple[str, Counter[Verdict]]:
    """The page as Markdown, from rows alone, and how many of its lines have each verdict."""
    import pandas as pd

    own = {(board.task, line.method): line for board in boards(rows) for line in board.lines}
    tally: Counter[Verdict] = Counter()
    used: dict[Answer, None] = {}
    sections = []
    for table in paper.tables:
        body = []
        for number in table.numbers:
            for answer, ours in _answered(paper, number, own) or [(None, None)]:
                word = verdict(number, ours) if ours else "not run"
                body.append(_row(number, answer, ours, word, table))
                tally[word] += 1
                if answer:
                    used[answer] = None
        head = ["", KINDS[table.kind], "ours [95 %]", "seeds", "settings", "verdict", "remark"]
        text = pd.DataFrame(body, columns=head).to_markdown(index=False, disable_numparse=True)
        sections.append("\n\n".join(filter(None, [f"## {table.name}: {table.title}", _about(table), text])))
    made = f"Made by `python -m gwfbench reproduce {paper.key}`, which runs what there is to run and writes this page;"
    made += f"\n`reproduce {paper.key} --rows FILE --write DIR` makes it from rows alone."
    parts = [f"# {paper.title}", made, f"Lines: {counted(tally)}.", RULE, *sections, _settings(list(used))]
    return "\n\n".join(part for part in parts if part) + "\n", tally


def counted(tally: Counter[Verdict]) -> str:
    """How many lines have each verdict, in words."""
    return ", ".join(f"{tally[word]} {word}" for word in get_args(Verdict))


def _about(table: Table) -> str:
    facts = {"": table.definition, "Differs: ": table.differs, "Source: ": table.source}
    return " ".join(f"{name}{fact}{'.' if name else ''}" for name, fact in facts.items() if fact)


def _answered(paper: Paper, number: Number, own: Mapping[tuple[str, str], Line]) -> list[tuple[Answer, Ours]]:
    """Those answers to a number that have rows."""
    if not (number.metric and number.value):
        return []
    found = ((answer, own.get((answer.task, answer.method))) for answer in answers(paper, number))
    return [(answer, _ours(number, line)) for answer, line in found if line]


def _ours(number: Number, line: Line) -> Ours:
    cell = line.cells.get(number.metric, NO_CELL)
    errors = [se for _, se in cell.values.values() if not math.isnan(se)]
    se = statistics.median(errors) if errors else math.nan
    value = cell.value
    low, high = (value if math.isnan(end) else end for end in (cell.low, cell.high))  # of one seed
    if number.scale == "log10":
        se = se / (value * math.log(10)) if value > 0 else math.nan
        value, low, high = (math.log10(x) if x > 0 else math.nan for x in (value, low, high))
    return Ours(value, low, high, se, line.seeds)


def _row(number: Number, answer: Answer | None, ours: Ours | None, word: Verdict, table: Table) -> list[str]:
    remark = [number.definition if number.definition != table.definition else ""]
    printed = " to ".join(f"{value:g}" for value in number.value) or "-"
    if number.spread:
        printed += f" ± {number.spread:g}"
    if answer is None or ours is None:
        remark.append(number.missing or "no results yet")
        cells = ["-", "-", "-"]
    else:
        remark.append(f"differs: {number.differs}" if number.differs != table.differs else "")
        if not ours.whole:
            remark.append("not all of our runs finished with a value")
        elif word == "not reproduced":
            known = [answer.cut, number.note, answer.note]
            remark += known if any(known) else ["reason unknown"]
        interval = f" [{ours.low:.3g}, {ours.high:.3g}]" if ours.low != ours.high else ""
        shown = "-" if math.isnan(ours.value) else f"{ours.value:.3g}{interval}"
        cells = [shown, str(ours.seeds), answer.setting]
    row = [number.what, printed, *cells, f"**{word}**", "; ".join(filter(None, remark))]
    return [cell.replace("|", "\\|") for cell in row]


def _settings(used: list[Answer]) -> str:
    """The runs behind the lines above: specs, sources, and cuts."""
    if not used:
        return ""
    lines = []
    for one in used:
        facts = [f"cut: {one.cut}" if one.cut else "", f"source: {one.source}" if one.source else "", one.note]
        tail = "; ".join(filter(None, facts))
        lines.append(f"- {one.setting}: `{one.method}` on `{one.task}`" + (f". {tail}" if tail else "") + ".")
    about = (
        "paper: the paper's settings; quick: the same, cut as stated; ours: the defaults of this suite, except for the "
        "fields that are given."
    )
    return "\n".join(["## Settings", "", about, "", *lines])
