"""The paper ledger: what papers report, number by number, and the runs that answer it (gwfbench/papers/*.toml).

    [paper]    title
    [[run]]    task, method, source, note, quick: settings of the paper; with `quick`, how they are cut
    [[table]]  name, title, kind, and fields of `Number`, which hold for each of its `numbers` that says nothing else
               numbers = [{what = "row, column", value = 0.5, ...}, ...]

A number is answered by the [[run]] entries that `task` and `run` name (`vjko:map=linear`: those of the task whose
method has these fields, cut or not), by `method` as it is typed, or not at all, for the reason in `missing`. A value
that can't be read is left out, and `missing` says why.

An estimate of log Z can be too high as well as too low, and our metric is its distance from the certified value. With
`truth`, a printed mean +- deviation over seeds is held against ours as the distance that half of such runs stay within,
as if their errors were normal.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from importlib.resources import files
from statistics import NormalDist
from typing import Any, Literal, get_type_hints

from gwfbench.datasets.protocols import Called
from gwfbench.errors import UserError, require, unknown
from gwfbench.plugins import registry

FOLDER = files("gwfbench") / "papers"
Setting = Literal["paper", "quick", "ours"]
RATES = 150e12, 300e12  # operations a second, assumed of a large GPU in bf16: nothing here was measured on one
KINDS = {  # of tables, and what heads the column of their values
    "published": "published",
    "code": "authors' code",  # measured by running it, or stored with it; not in the paper
}


@dataclass(frozen=True)
class Run:
    """Settings of the paper for one task."""

    task: str
    method: str
    source: str
    note: str = ""
    quick: str = ""
    "what is cut; empty: nothing"


@dataclass(frozen=True)
class Number:
    """One cell of a paper's table."""

    what: str
    "row and column, in words"
    source: str
    "where it stands: table, section, line of the notes"
    definition: str = ""
    "what was measured, on how many points and seeds"
    value: tuple[float, ...] = ()
    "as printed; several are readings of single runs, or the ends of a range"
    rounding: float = 0.0
    "half a unit of the last digit that is printed"
    spread: float = 0.0
    "standard deviation over seeds, where that is printed"
    seeds: int = 1
    "that a mean with `spread` is over; 1 where that is not printed"
    error: float = 0.0
    "standard error of the comparison that no interval over seeds shows, as of two different test parts"
    scale: Literal["", "log10", "half"] = ""
    "log10: what is printed is the logarithm of our metric; half: half of it"
    truth: float = math.nan
    "what the printed value is an estimate of, as log Z by our certificate, if our metric is the distance from it"
    better: Literal["lower", "higher"] = "lower"
    metric: str = ""
    "ours that answers it"
    task: str = ""
    run: str = ""
    method: str = ""
    missing: str = ""
    "why nothing is run for it"
    rows: int = 0
    "test rows that a share is of; 0: not a share, or not known"
    differs: str = ""
    "what is not the same on our side, whatever comes out"
    fitted: str = ""
    "what on our side was chosen by agreement with this very table"
    note: str = ""
    "what may be behind a difference"
    curve: str = ""
    "where the paper shows it, as a curve without a number: ours is listed, and held against nothing"
    instead: str = ""
    "ours where it is another method than theirs, in words: agreement then says little"
    protocol: str = ""
    "of a printed image metric: the name that ours has by the same protocol"
    device: Literal["cpu", "cuda"] = "cpu"
    "cuda: what answers it takes a GPU, and is run with `--device cuda` alone"
    flop: float = 0.0
    "of a device cuda: operations of one seed, counted; 0: not counted"

    @property
    def command(self) -> str:
        """What makes it on a GPU, as it is typed after `python -m gwfbench`; empty where none is needed."""
        return f"run --task {self.task} --method {self.method} --device cuda" if self.device == "cuda" else ""

    @property
    def minutes(self) -> tuple[float, float]:
        """Of one seed on a GPU, from and to, by the counted operations at `RATES`; nan where they are not counted."""
        if not self.flop:
            return math.nan, math.nan
        return self.flop / RATES[1] / 60, self.flop / RATES[0] / 60

    @property
    def compared(self) -> tuple[float, ...]:
        """The values, or how far they are from the truth: what a run of ours is held against."""
        if math.isnan(self.truth):
            return self.value
        return tuple(_typical_distance(value - self.truth, self.spread) for value in self.value)


@dataclass(frozen=True)
class Table:
    """A table or figure of a paper."""

    name: str
    title: str
    numbers: tuple[Number, ...]
    kind: str = "published"
    definition: str = ""
    source: str = ""
    differs: str = ""
    fitted: str = ""
    protocol: str = ""
    "as a number's: of those that say nothing else"
    evidence: tuple[str, ...] = ()
    "what is nearest to it here: pages below results, as `studies/proximal/README.md: in words`"
    again: str = ""
    "another table where the same values stand, which answers them"
    pairs: tuple[tuple[str, str], ...] = ()
    "columns that the paper compares: of `row, column: metric`, the better one by its claim first"

    def claims(self) -> Iterator[tuple[str, Number, Number]]:
        """The differences that the paper claims: in words, and the two numbers."""
        of = {number.what: number for number in self.numbers if len(number.value) == 1}
        for one, other in self.pairs:
            for what, number in of.items():
                twin = of.get(what.replace(f", {one}:", f", {other}:"))
                if f", {one}:" in what and twin:
                    yield what.replace(f", {one}:", f", {one} - {other}:"), number, twin


@dataclass(frozen=True)
class Paper:
    """What one paper reports."""

    key: str
    title: str
    link: str
    "where it can be read"
    runs: tuple[Run, ...]
    tables: tuple[Table, ...]


@dataclass(frozen=True)
class Answer:
    """A run that answers numbers, as results name it."""

    task: str
    method: str
    setting: Setting
    cut: str = ""
    source: str = ""
    note: str = ""


def papers() -> list[str]:
    """The keys of all papers."""
    return sorted(file.name.removesuffix(".toml") for file in FOLDER.iterdir() if file.name.endswith(".toml"))


def load(key: str) -> Paper:
    """A paper by its name.

    Raises:
        UserError: there is none, or its file is not as it must be.
    """
    if key not in papers():
        raise unknown("paper", key, papers(), see="gwfbench/papers")
    return parse(key, FOLDER.joinpath(f"{key}.toml").read_text(encoding="utf-8"))


def parse(key: str, text: str) -> Paper:
    """A paper from the text of its file.

    Raises:
        UserError: it is not TOML, or an entry lacks a field, has one of the wrong type or an unknown one.
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _wrong(key, str(error), "TOML") from None
    for name in raw:
        require(name in ("paper", "run", "table"), f"{key}: [{name}]", "[paper], [[run]] or [[table]]", "fix the file")
    title = raw.get("paper", {}).get("title")
    require(isinstance(title, str), f"{key}: no title", '[paper] with title = "..."', "fix the file")
    link = raw.get("paper", {}).get("link", "")
    require(str(link).startswith("https://"), f"{key}: no link", '[paper] with link = "https://..."', "fix the file")
    runs = tuple(_made(Run, entry, f"{key}: [[run]] {i + 1}") for i, entry in enumerate(raw.get("run", [])))
    tables = tuple(_table(entry, f"{key}: [[table]] {i + 1}") for i, entry in enumerate(raw.get("table", [])))
    names = [short(table.name) for table in tables]
    require(len(set(names)) == len(names), f"{key}: two tables of one name", "different names", "fix the file")
    for table in tables:
        known = not table.again or table.again in {other.name for other in tables if other is not table}
        require(known, f"{key}: {table.name}: again = {table.again}", "the name of another table", "fix the file")
    return Paper(key, title, link, runs, tables)


def short(name: str) -> str:
    """How a table may be typed: `table2` for Table 2."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def chosen(paper: Paper, words: Iterable[str]) -> tuple[Table, ...]:
    """The tables of these names, all if there are none.

    Raises:
        UserError: one is not in the paper.
    """
    known = {short(table.name): table for table in paper.tables}
    for word in words:
        if short(word) not in known:
            raise unknown("table", word, known, see=f"python -m gwfbench reproduce {paper.key} --dry-run")
    return tuple(known[name] for name in dict.fromkeys(map(short, words))) or paper.tables


def answers(paper: Paper, number: Number) -> list[Answer]:
    """The runs that answer a number: those of the paper, cut and whole, then what is typed for it.

    Raises:
        UserError: a task or method does not exist, or `run` names none of the paper's runs; with `missing`, a task or
            method that is not registered yet is no error.
    """
    if not number.task or not (number.run or number.method):
        return []
    who = number.method or number.run
    if number.missing and not (_registered("task", number.task) and _registered("method", who)):
        return []
    task = _canonical("task", number.task)
    found = []
    if number.run:
        entries = [run for run in paper.runs if _meant(number.run, run.method) and task == _canonical("task", run.task)]
        if not entries:
            at_hand = [run.method for run in paper.runs if task == _canonical("task", run.task)]
            raise UserError(
                f"{paper.key}: {number.what}: no [[run]] of {task} has {number.run}",
                f"one of {'; '.join(at_hand) or 'none'}",
                "correct `run`, or write `method`",
            )
        for run in entries:
            method = _canonical("method", run.method)
            found.append(Answer(task, method, "quick" if run.quick else "paper", run.quick, run.source, run.note))
    typed = _canonical("method", number.method) if number.method else ""
    if typed and typed not in {one.method for one in found}:
        found.append(Answer(task, typed, "ours"))
    return found


def to_run(paper: Paper, tables: Iterable[Table], whole: bool, cuda: bool = False) -> dict[Answer, list[str]]:
    """The runs that these tables need, each once, with the names of the tables that it answers.

    Args:
        whole: prefer the paper's settings, where there are any; else their cut, then what is typed, then the whole.
        cuda: those that take a GPU too.
    """
    order: list[Setting] = ["paper", "ours", "quick"] if whole else ["quick", "ours", "paper"]
    todo: dict[Answer, list[str]] = {}
    for table in tables:
        for number in table.numbers:
            if number.missing and not (cuda and number.device == "cuda"):
                continue
            found = answers(paper, number)
            had = {answer.setting for answer in found}
            wanted = next((setting for setting in order if setting in had), None)
            for answer in found:
                if answer.setting == wanted:
                    names = todo.setdefault(answer, [])
                    if table.name not in names:
                        names.append(table.name)
    return todo


def _table(entry: Mapping[str, Any], where: str) -> Table:
    numbers = entry.get("numbers")
    require(isinstance(numbers, list) and bool(numbers), f"{where}: no numbers", "numbers = [{...}]", "fix the file")
    own = {"name", "title", "kind", "numbers", "again", "pairs", "evidence"}
    shared = {key: value for key, value in entry.items() if key not in own}
    where = f"{where} {entry.get('name', '')}"
    made = []
    for i, number in enumerate(numbers or []):
        one = _made(Number, shared | number, f"{where}: {number.get('what', f'number {i + 1}')}")
        _check(one, where)
        made.append(one)
    whats = [one.what for one in made]
    require(len(set(whats)) == len(whats), f"{where}: two numbers of one `what`", "different ones", "fix the file")
    names = ("name", "title", "kind", "definition", "source", "differs", "fitted", "protocol", "again")
    kept = {key: entry[key] for key in names if key in entry}
    pairs = entry.get("pairs", [])
    is_pairs = isinstance(pairs, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(name, str) for name in pair) for pair in pairs
    )
    require(is_pairs, f"{where}: pairs = {pairs!r}", 'pairs of columns, as [["Ours", "SVGD"]]', "fix the file")
    evidence = entry.get("evidence", [])
    is_list = isinstance(evidence, list) and all(isinstance(one, str) and ": " in one for one in evidence)
    require(is_list, f"{where}: evidence = {evidence!r}", '["studies/ou/README.md: what it shows"]', "fix the file")
    kept |= {"numbers": tuple(made), "pairs": tuple(map(tuple, pairs)), "evidence": tuple(evidence)}
    table = _made(Table, kept, where)
    for one, other in table.pairs:
        found = any(f"{one} - {other}:" in what for what, _, _ in table.claims())
        require(found, f"{where}: pair {one}, {other}", "two columns of the table", "fix the file")
    require(table.kind in KINDS, f"{where}: kind {table.kind}", f"one of {', '.join(KINDS)}", "fix the file")
    return table


def _check(one: Number, where: str) -> None:
    where = f"{where}: {one.what}"
    answered = bool(one.metric and one.task and (one.run or one.method) and (one.value or one.curve))
    for ok, expected in (
        (answered or bool(one.missing), "a value, a metric, a task, and run or method; or why they are missing"),
        (all(math.isfinite(value) for value in one.value), "finite values"),
        (not (one.value and one.curve), "a value, or the name of a curve"),
        (min(one.rounding, one.spread, one.error) >= 0 and one.seeds >= 1, "errors not negative, at least 1 seed"),
        (one.better in ("lower", "higher"), "better = lower or higher"),
        (one.scale in ("", "log10", "half"), "scale = log10 or half, or none"),
        (math.isnan(one.truth) or (not one.scale and one.better == "lower"), "truth without scale, better = lower"),
        (one.rows >= 0, "rows not negative"),
        (not one.protocol or Called.read(one.protocol), "protocol = the name of an image metric, as fid_50k_train"),
        (one.metric == one.protocol or not (one.protocol and one.metric), "the metric of the protocol"),
        (one.device in ("cpu", "cuda"), "device = cpu or cuda"),
        (one.device == "cpu" or (answered and one.missing), "with device = cuda all that a run takes, and missing"),
    ):
        require(bool(ok), f"{where}: {one}", expected, "fix the file")


def _typical_distance(bias: float, spread: float) -> float:
    """The median of |e|, where e is normal with mean `bias` and standard deviation `spread`: of one run's error."""
    bias, normal = abs(bias), NormalDist()
    low, high = 0.0, bias + spread
    for _ in range(60 if spread else 0):
        middle = (low + high) / 2
        enough = normal.cdf((middle - bias) / spread) - normal.cdf((-middle - bias) / spread) >= 0.5
        low, high = (low, middle) if enough else (middle, high)
    return high


def _made(cls: type, entry: Mapping[str, Any], where: str) -> Any:
    """An instance from an entry of the file: known fields, of their types."""
    hints, known = get_type_hints(cls), {field.name: field for field in fields(cls)}
    values = {}
    for key, value in entry.items():
        require(key in known, f"{where}: field {key}", f"one of {', '.join(known)}", "fix the file")
        if key == "value":
            value = tuple(value) if isinstance(value, list) else (value,)
        ok, expected = _fits(value, hints[key])
        require(ok, f"{where}: {key} = {value!r}", expected, "fix the file")
        values[key] = value
    try:
        return cls(**values)
    except TypeError as error:
        raise _wrong(where, str(error), "all fields that have no default") from None


def _fits(value: object, hint: Any) -> tuple[bool, str]:
    if isinstance(value, tuple):
        return all(type(part) in (float, int) for part in value) or hint != tuple[float, ...], "a number, or several"
    if hint is float:
        return type(value) in (float, int), "a number"
    if hint is int:
        return type(value) is int, "a whole number"
    return isinstance(value, str), "text"


def _meant(wanted: str, method: str) -> bool:
    """Whether a method has the name and the fields that are wanted."""
    same = registry.head(wanted) == registry.head(method)
    return same and registry.typed(wanted).items() <= registry.typed(method).items()


def _registered(kind: registry.Kind, text: str) -> bool:
    return registry.head(text) in registry.plugins(kind)


def _canonical(kind: registry.Kind, text: str) -> str:
    return registry.spec(registry.parse(kind, text))


def _wrong(where: str, got: str, expected: str) -> UserError:
    return UserError(f"{where}: {got}", expected, "fix the file")
