"""The page of a paper: published values next to ours, and a verdict for each (`report.verdicts`)."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

from gwfbench import escape
from gwfbench.datasets.protocols import Called, apart
from gwfbench.papers.ledger import KINDS, Answer, Number, Paper, Table, answers
from gwfbench.plugins import registry
from gwfbench.report import verdicts
from gwfbench.report.board.leaderboard import Line, boards
from gwfbench.report.verdicts import DIFFERENCES, NOT_RUN, RULE, Difference, Ours, Verdict, Word

if TYPE_CHECKING:
    import pandas as pd

Lines = Mapping[tuple[str, str], Line]  # of boards, by task and method
OFF = """: the distance from the certified log Z that half of such runs stay within, as if their errors were normal with
the published mean and deviation. Ours is the distance of each of our runs"""
NO_RESULTS = "no results yet"
MORE = 6  # numbers of one reason, from which on they are folded


def page(
    paper: Paper, rows: pd.DataFrame, sources: Sequence[str] = (), facts: Mapping[str, Mapping[str, Any]] | None = None
) -> tuple[str, Counter[Word]]:
    """The page as Markdown, from rows alone, and how many of its lines have each verdict.

    Args:
        sources: the files that the rows are from, as a reader of the page finds them.
        facts: environments by their hash, where they are known.
    """
    own = {
        (board.task, line.spec): line
        for board in boards(rows)
        for line in board.lines
        if line.method == registry.short(line.spec)  # another precision or a budget is marked
    }
    tally: Counter[Word] = Counter()
    used: dict[Answer, None] = {}
    sections = [_section(paper, table, own, tally, used) for table in paper.tables]
    made = _made(paper, rows, sources, facts or {}, used)
    parts = [f"# {paper.title}", f"Lines: {counted(tally)}.", RULE, *sections, _settings(list(used)), made]
    return "\n\n".join(part for part in parts if part) + "\n", tally


def asked(paper: Paper) -> set[tuple[str, str]]:
    """The tasks and methods that answer its numbers."""
    every = (one for table in paper.tables for number in table.numbers for one in answers(paper, number))
    return {(one.task, one.method) for one in every}


def counted(tally: Counter[Word]) -> str:
    """How many lines have each verdict, in words."""
    return ", ".join(f"{tally[word]} {word}" for word in get_args(Word))


def _section(paper: Paper, table: Table, own: Lines, tally: Counter[Word], used: dict[Answer, None]) -> str:
    """One table of the paper: its lines, its differences, and what was not run."""
    head = [f"## {table.name}: {table.title}", _about(table)]
    if table.again:
        head.append(f"The same values stand in {table.again}: they are answered and counted there.")
        return "\n\n".join(filter(None, head))
    body, left = [], []
    for number in table.numbers:
        found = answered(paper, number, own)
        for answer, line in found:
            ours = verdicts.of_line(number, line)
            verdict = verdicts.judged(number, answer.setting, ours, control(number, own, answer.task, "still"))
            body.append(_row(number, answer, ours, verdict, table, control(number, own, answer.task, "exact")))
            tally[verdict.word] += 1
            used[answer] = None
        if not found:
            left.append(number)
            tally[NOT_RUN.word] += 1
    columns = ["", KINDS[table.kind], "ours [95 %]", "agrees within", "truth", "seeds", "settings", "verdict", "remark"]
    parts = [*head, _table(body, columns), _differences(paper, table, own, tally), _left(paper, left, table, own)]
    return "\n\n".join(filter(None, parts))


def _table(body: list[list[str]], columns: list[str]) -> str:
    import pandas as pd

    if not body:
        return ""
    unused = {i for i, name in enumerate(columns) if name in ("truth", "remark") and all(row[i] in "-" for row in body)}
    kept = [[cell for i, cell in enumerate(row) if i not in unused] for row in body]
    names = [name for i, name in enumerate(columns) if i not in unused]
    return pd.DataFrame(kept, columns=names).to_markdown(index=False, disable_numparse=True)


def _about(table: Table) -> str:
    facts = {"": table.definition, "Differs: ": table.differs, "Source: ": table.source}
    facts["Protocol: "] = _protocol(table.protocol)
    facts["On a GPU, estimated: "] = table.gpu
    chosen = Counter(number.fitted for number in table.numbers if number.fitted)
    facts["Fitted to this table: "] = "; ".join(f"{what} ({count} lines)" for what, count in chosen.items())
    facts["Off by"] = OFF if any(not math.isnan(number.truth) for number in table.numbers) else ""
    return " ".join(f"{name}{fact}{'.' if name else ''}" for name, fact in facts.items() if fact)


def _protocol(name: str) -> str:
    """What an image metric's name says, in words."""
    said = Called.read(name)
    return f"`{name}`, {said.words()}" if said else ""


def answered(paper: Paper, number: Number, own: Lines) -> list[tuple[Answer, Line]]:
    """Those answers to a number that have rows."""
    if not (number.metric and number.value):
        return []
    found = ((answer, own.get((answer.task, answer.method))) for answer in answers(paper, number))
    return [(answer, line) for answer, line in found if line and not apart(number.metric, line.cells)]


def reason(paper: Paper, number: Number, own: Lines) -> str:
    """Why a number is not run, or why our runs don't answer it."""
    if number.missing or not number.metric:
        return number.missing or NO_RESULTS
    lines = (own.get((answer.task, answer.method)) for answer in answers(paper, number))
    why = (apart(number.metric, line.cells) for line in lines if line)
    return next((f"our runs are judged by another protocol: {said}" for said in why if said), NO_RESULTS)


def control(number: Number, own: Lines, task: str, name: str) -> float:
    """A control's value in the unit of a number; nan where there is none."""
    line = own.get((task, name))
    return verdicts.in_unit(number, line.value(number.metric)) if line else math.nan


def _row(number: Number, answer: Answer, ours: Ours, verdict: Verdict, table: Table, truth: float) -> list[str]:
    remark = [number.definition if number.definition != table.definition else ""]
    remark.append(f"differs: {number.differs}" if number.differs != table.differs else "")
    if not ours.whole:
        remark.append("not all of our runs finished with a value")
    elif verdict.word in ("not reproduced", "different"):
        known = [answer.cut, number.note, answer.note]
        remark += known if any(known) else ["reason unknown"]
    interval = f" [{ours.low:.3g}, {ours.high:.3g}]" if ours.low != ours.high else ""
    shown = "-" if math.isnan(ours.value) else f"{ours.value:.3g}{interval}"
    within = "-" if math.isnan(ours.value) else span(*verdicts.band(number, ours))
    known_truth = "-" if math.isnan(truth) else f"{truth:.3g}"
    cells = [shown, within, known_truth, str(ours.seeds), answer.setting, str(verdict)]
    return _escaped([number.what, printed(number), *cells, "; ".join(filter(None, remark))])


def _escaped(row: list[str]) -> list[str]:
    return [cell.replace("|", "\\|").replace("\n", " ") for cell in row]


def printed(number: Number) -> str:
    spread = f" ± {number.spread:g}" if number.spread else ""
    off = " to ".join(f"{value:.3g}" for value in number.compared) if not math.isnan(number.truth) else ""
    return (" to ".join(f"{value:g}" for value in number.value) or "-") + spread + (f", off by {off}" if off else "")


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


def _left(paper: Paper, numbers: Sequence[Number], table: Table, own: Lines) -> str:
    """What was not run, by reason; the published values are folded where they are many."""
    by_reason: dict[str, list[Number]] = defaultdict(list)
    for number in numbers:
        by_reason[reason(paper, number, own)].append(number)
    parts = []
    for why, those in by_reason.items():
        words = [f"{one.what}: {printed(one)}{_aside(one, table)}" for one in those]
        listed = any(one.command for one in those)  # commands are long: a line each
        said = "\n".join(f"- {each}" for each in words) if listed else f"{'; '.join(words)}."
        if len(those) < MORE:
            parts.append(f"**not run**, {len(those)}: {why}.{chr(10) * 2 if listed else ' '}{said}")
        else:
            parts.append(f"<details><summary><b>not run</b>, {len(those)}: {why}</summary>\n\n{said}\n\n</details>")
    return "\n\n".join(parts)


def _aside(number: Number, table: Table) -> str:
    """What is a number's own, in parentheses."""
    said = [number.definition if number.definition != table.definition else ""]
    said.append(f"protocol: {_protocol(number.protocol)}" if number.protocol not in (table.protocol, "") else "")
    said.append(f"`{number.command}`" if number.command else "")
    said.append(f"on a GPU, estimated: {number.gpu}" if number.gpu != table.gpu else "")
    return f" ({'; '.join(filter(None, said))})" if any(said) else ""


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


def _made(
    paper: Paper, rows: pd.DataFrame, sources: Sequence[str], facts: Mapping[str, Mapping[str, Any]],
    used: Mapping[Answer, None],
) -> str:  # fmt: skip
    """Which rows, of which commits and machines, at which cost, are behind the lines; and how to make them."""
    import pandas as pd

    said = ["## Where this comes from", f"To run what there is to run: `python -m gwfbench reproduce {paper.key}`."]
    said[1] += f" To make this page from rows alone: `reproduce {paper.key} --rows FILE... --write DIR`."
    if sources:
        said.append(f"Made from {', '.join(f'[{name}]({name})' for name in dict.fromkeys(sources))}.")
    if used and len(rows):
        mine = pd.MultiIndex.from_frame(rows[["task", "method"]]).isin([(one.task, one.method) for one in used])
        part = rows[mine]
        runs = part.assign(seconds=pd.to_numeric(part["seconds"])).groupby(["run_key", "attempt"], sort=False)
        hours = float(runs["seconds"].max().sum()) / 3600
        said.append(f"{runs.ngroups} runs are behind the lines above, {hours:.2g} hours of training in all.")
        envs = dict.fromkeys(part["env"]) if "env" in part else {}
        known = [facts[str(env)] for env in envs if str(env) in facts]
        for name, title in (("commit", "commits"), ("cpu", "processors"), ("torch", "torch")):
            values = sorted({str(fact[name]) for fact in known if fact.get(name)})
            said.append(f"{title}: {', '.join(escape.markdown(value) for value in values)}" if values else "")
    return "\n\n".join(filter(None, said))
