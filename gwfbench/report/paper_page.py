"""The page of a paper: published values next to ours, and a verdict for each (`report.verdicts`)."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

from gwfbench.datasets.protocols import apart
from gwfbench.papers.ledger import KINDS, Answer, Number, Paper, Table, answers, short, to_run
from gwfbench.plugins import registry
from gwfbench.report import verdicts
from gwfbench.report.board.cells import Cell
from gwfbench.report.board.leaderboard import Line, boards
from gwfbench.report.paper_rows import Behind, Pairs, Runs
from gwfbench.report.paper_words import not_run, printed, protocol
from gwfbench.report.verdicts import DIFFERENCES, NOT_RUN, RULE, Difference, Ours, Verdict, Word

if TYPE_CHECKING:
    import pandas as pd

Lines = Mapping[tuple[str, str], Line]  # of boards, by task and method
OFF = """: the distance from the certified log Z that half of such runs stay within, as if their errors were normal with
the published mean and deviation. Ours is the distance of each of our runs"""
NO_RESULTS = "no results yet"
OLD = "our rows have it by an older version of the metric: to be run again"
CURVES = "What the paper shows as a curve, without a number. Ours, held against nothing:"
OPTIONAL = ("fails from", "truth", "commit", "remark")  # columns that are left out where they say nothing


@dataclass(frozen=True)
class Made:
    """What a page is made of, and what has come of it so far."""

    paper: Paper
    own: Lines
    behind: Behind
    tally: Counter[Word] = field(default_factory=Counter)
    used: dict[Answer, Runs] = field(default_factory=dict)


def page(
    paper: Paper,
    rows: pd.DataFrame,
    sources: Mapping[str, Pairs] | None = None,
    facts: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[str, Counter[Word]]:
    """The page as Markdown, from rows alone, and how many of its lines have each verdict.

    Args:
        sources: the files that the rows are from, as a reader of the page finds them, with the tasks and methods in
            each.
        facts: environments by their hash, where they are known.
    """
    own = {
        (board.task, line.spec): line
        for board in boards(rows)
        for line in board.lines
        if line.method == registry.short(line.spec)  # another precision or a budget is marked
    }
    made = Made(paper, own, Behind(rows, facts or {}, sources or {}, asked(paper)))
    sections = [_section(made, table) for table in paper.tables]
    head = [f"# {paper.title}", f"The paper: <{paper.link}>.", f"Lines: {counted(made.tally)}."]
    parts = [*head, RULE, *sections, _settings(list(made.used)), _sources(made)]
    return "\n\n".join(part for part in parts if part) + "\n", made.tally


def asked(paper: Paper) -> set[tuple[str, str]]:
    """The tasks and methods that answer its numbers."""
    every = (one for table in paper.tables for number in table.numbers for one in answers(paper, number))
    return {(one.task, one.method) for one in every}


def counted(tally: Counter[Word]) -> str:
    """How many lines have each verdict, in words."""
    return ", ".join(f"{tally[word]} {word}" for word in get_args(Word))


def _section(made: Made, table: Table) -> str:
    """One table of the paper: its lines, its differences, what is behind them, and what was not run."""
    head = [f"## {table.name}: {table.title}", _command(made.paper, table), _about(table), _evidence(table)]
    if table.again:
        head.append(f"The same values stand in {table.again}: they are answered and counted there.")
        return "\n\n".join(filter(None, [head[0], *head[2:]]))
    body, curves, left = [], [], []
    pairs, runs = dict[tuple[str, str], None](), frozenset[tuple[str, str]]()
    for number in table.numbers:
        found = answered(made.paper, number, made.own)
        for answer, line in found:
            ours, pair = verdicts.of_line(number, line), (answer.task, answer.method)
            names = "still", "exact_jko" if number.metric.endswith("_jko") else "exact"
            still, exact = (control(number, made.own, answer.task, name) for name in names)
            commits = made.behind.commits(pair, number.metric)
            if number.curve:
                curves.append(_curve(number, answer, ours, (still, exact), commits))
            else:
                verdict = verdicts.judged(number, answer.setting, ours, still)
                body.append(_row(number, answer, ours, verdict, table, (still, exact), commits))
                made.tally[verdict.word] += 1
            counting = made.behind.runs(pair, number.metric)
            made.used[answer] = made.used.get(answer, frozenset()) | counting
            pairs[pair], runs = None, runs | counting
        if not found:
            left.append(number)
            made.tally[NOT_RUN.word] += 1
    columns = ["", KINDS[table.kind], "ours [95 %]", "agrees within", "fails from", "truth", "seeds", "settings"]
    lines = _table(body, [*columns, "commit", "verdict", "remark"])
    differences = _differences(made.paper, table, made.own, made.tally)
    by_reason: dict[str, list[Number]] = defaultdict(list)
    for number in left:
        by_reason[reason(made.paper, number, made.own)].append(number)
    parts = [*head, lines, differences, _curves(curves), _behind(made, pairs, runs), not_run(by_reason, table)]
    return "\n\n".join(filter(None, parts))


def _table(body: list[list[str]], columns: list[str]) -> str:
    import pandas as pd

    if not body:
        return ""
    unused = {i for i, name in enumerate(columns) if name in OPTIONAL and all(row[i] in "-" for row in body)}
    kept = [[cell for i, cell in enumerate(row) if i not in unused] for row in body]
    names = [name for i, name in enumerate(columns) if i not in unused]
    return pd.DataFrame(kept, columns=names).to_markdown(index=False, disable_numparse=True)


def _command(paper: Paper, table: Table) -> str:
    """The command that runs a table; empty where nothing runs."""
    for cuda in (False, True):
        if to_run(paper, [table], whole=False, cuda=cuda):
            device = " --device cuda" if cuda else ""
            return f"The command: `python -m gwfbench reproduce {paper.key} --only {short(table.name)}{device}`"
    return ""


def _evidence(table: Table) -> str:
    """What is nearest to a table on other pages."""
    said = [each.partition(": ") for each in table.evidence]
    links = [f"[{where.split('/')[-2]}](../{where}): {what}" for where, _, what in said]
    return f"Nearest evidence here: {'; '.join(links)}." if links else ""


def _behind(made: Made, pairs: Pairs, runs: Runs) -> str:
    """Files and cost of the rows behind a table."""
    if not runs:
        return ""
    files = made.behind.sources(pairs)
    return f"Behind these lines: {made.behind.cost(pairs, runs)}." + (f" Rows: {', '.join(files)}." if files else "")


def _about(table: Table) -> str:
    facts = {"": table.definition, "Differs: ": table.differs, "Source: ": table.source}
    facts["Protocol: "] = protocol(table.protocol)
    chosen = Counter(number.fitted for number in table.numbers if number.fitted)
    facts["Fitted to this table: "] = "; ".join(f"{what} ({count} lines)" for what, count in chosen.items())
    facts["Off by"] = OFF if any(not math.isnan(number.truth) for number in table.numbers) else ""
    return " ".join(f"{name}{fact}{'.' if name else ''}" for name, fact in facts.items() if fact)


def answered(paper: Paper, number: Number, own: Lines) -> list[tuple[Answer, Line]]:
    """Those answers to a number that have rows."""
    if not (number.metric and (number.value or number.curve)):
        return []
    found = ((answer, own.get((answer.task, answer.method))) for answer in answers(paper, number))
    kept = ((answer, line) for answer, line in found if line and not apart(number.metric, line.cells))
    return [(answer, line) for answer, line in kept if not _old(number, line)]


def _old(number: Number, line: Line) -> bool:
    """Whether all that a line has are values of an older version of the metric: neither good nor bad."""
    cell: Cell | None = line.cells.get(number.metric)
    return bool(cell and not cell.values and not cell.worst and sum(cell.left.values()) and not line.seeds.failed)


def reason(paper: Paper, number: Number, own: Lines) -> str:
    """Why a number is not run, or why our runs don't answer it."""
    if number.missing or not number.metric:
        return number.missing or NO_RESULTS
    lines = [line for answer in answers(paper, number) if (line := own.get((answer.task, answer.method)))]
    for line in lines:
        if said := apart(number.metric, line.cells):
            return f"our runs are judged by another protocol: {said}"
    return OLD if lines else NO_RESULTS


def control(number: Number, own: Lines, task: str, name: str) -> float:
    """A control's value in the unit of a number; nan where there is none."""
    line = own.get((task, name))
    return verdicts.in_unit(number, line.value(number.metric)) if line else math.nan


def _row(
    number: Number, answer: Answer, ours: Ours, verdict: Verdict, table: Table, controls: tuple[float, float],
    commits: str,
) -> list[str]:  # fmt: skip
    still, truth = controls
    remark = [number.definition if number.definition != table.definition else ""]
    remark.append(f"differs: {number.differs}" if number.differs != table.differs else "")
    remark.append(f"another method: {number.instead}" if number.instead else "")
    if not ours.whole:
        remark.append("not all of our runs finished with a value")
    elif verdict.word in ("not reproduced", "different"):
        known = [answer.cut, number.note, answer.note]
        remark += known if any(known) else ["reason unknown"]
    unknown, shown = math.isnan(ours.value), _shown(ours)
    within = "-" if unknown else span(*verdicts.band(number, ours))
    fails = "-" if unknown else _fails(number, ours, still)
    cells = [shown, within, fails, _number(truth), str(ours.seeds), answer.setting]
    return _escaped([number.what, printed(number), *cells, commits, str(verdict), "; ".join(filter(None, remark))])


def _curve(
    number: Number, answer: Answer, ours: Ours, controls: tuple[float, float], commits: str
) -> list[str]:  # fmt: skip
    still, exact = map(_number, controls)
    cells = [number.curve, _shown(ours), exact, still, str(ours.seeds), answer.setting, commits]
    return _escaped([number.what, *cells])


def _curves(body: list[list[str]]) -> str:
    columns = ["", "curve", "ours [95 %]", "truth", "not moving", "seeds", "settings", "commit"]
    return f"{CURVES}\n\n{_table(body, columns)}" if body else ""


def _shown(ours: Ours) -> str:
    if math.isnan(ours.value):
        return "-"
    return f"{ours.value:.3g}" + (f" [{ours.low:.3g}, {ours.high:.3g}]" if ours.low != ours.high else "")


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"


def _fails(number: Number, ours: Ours, still: float) -> str:
    """The value of ours that would not have agreed, and how far it is on the way to not moving."""
    share = verdicts.reach(number, ours, still)
    if math.isnan(share):
        way = ""
    elif share >= 1:
        way = " (past P_0)"
    else:
        way = f" ({share:.0%})"
    return f"{verdicts.fails_from(number, ours):.3g}{way}"


def _escaped(row: list[str]) -> list[str]:
    return [cell.replace("|", "\\|").replace("\n", " ") for cell in row]


def span(low: float, high: float) -> str:
    return f"{low:.3g} to {high:.3g}"


def _differences(paper: Paper, table: Table, own: Lines, tally: Counter[Word]) -> str:
    """What the paper claims for one method over another, row by row."""
    body = []
    for what, first, second in table.claims():
        ones, others = answered(paper, first, own), answered(paper, second, own)
        if not (ones and others):
            continue
        gap = verdicts.difference(first, second, ones[0], others[0])
        if not gap.seeds:
            continue
        verdict = verdicts.judged_difference(gap)
        tally[verdict.word] += 1
        body.append(_gap(what, gap, verdict))
    columns = ["", "published", "ours", "agrees within", "seeds", "settings", "verdict"]
    return f"{DIFFERENCES}\n\n{_table(body, columns)}" if body else ""


def _gap(what: str, gap: Difference, verdict: Verdict) -> list[str]:
    cells = [f"{gap.published:+.3g}", f"{gap.ours:+.3g}", span(*gap.band), str(gap.seeds), gap.setting, str(verdict)]
    return _escaped([what, *cells])


def _settings(used: list[Answer]) -> str:
    """The runs behind the lines above: specs, sources, and cuts."""
    if not used:
        return ""
    lines = []
    for one in used:
        facts = [f"cut: {one.cut}" if one.cut else "", f"source: {one.source}" if one.source else "", one.note]
        tail = "; ".join(filter(None, facts))
        lines.append(
            f"- {one.setting}: `{registry.short(one.method)}` on `{one.task}`" + (f". {tail}" if tail else "") + "."
        )
    about = (
        "paper: the paper's settings; quick: the same, cut as stated; ours: the defaults of this suite, except for the "
        "fields that are given. A name with @ is a named setting: `python -m gwfbench list --method vjko` shows its "
        "fields."
    )
    return "\n".join(["## Settings", "", about, "", *lines])


def _sources(made: Made) -> str:
    """Which rows, of which commits and machines, at which cost, are behind the lines; and how to make them."""
    key, behind = made.paper.key, made.behind
    said = ["## Where this comes from", f"To run what there is to run: `python -m gwfbench reproduce {key}`."]
    said[1] += " `--dry-run` says what it takes."
    said[1] += f" To make this page from rows alone: `reproduce {key} --rows FILE... --write DIR`."
    if behind.files:
        said.append(f"Made from {', '.join(f'[{name}]({name})' for name in behind.files)}.")
    pairs = [(one.task, one.method) for one in made.used]
    runs = frozenset[tuple[str, str]]().union(*made.used.values())
    if runs:
        said.append(f"Behind the lines above: {behind.cost(pairs, runs)}.")
        said += behind.machines(pairs, runs)
    return "\n\n".join(filter(None, said))
