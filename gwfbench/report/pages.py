"""The pages of a results folder, made from its rows alone.

    FOLDER/rows.csv, environments.json; verified.jsonl, page.toml where there are any
        -> FOLDER/leaderboard.md, leaderboard.csv, leaderboard.tex
    ROOT/*/rows.csv, ROOT/studies/*/rows.csv
        -> ROOT/leaderboard.md: the suites with their best methods, and the pages
        -> ROOT/papers/*.md: published numbers next to these
    README.md next to ROOT, and in it: tables from `<!-- leaderboard FOLDER TASK METRIC,METRIC -->` to `<!-- end -->`

page.toml: `title`, `metrics` (which, in this order), `pivot` (one table per metric, tasks side by side), `ablate`
(key=value: also the effect of this field), `suite` (whose board comes before the others), `bar` (a method: is any other
better at equal oracle calls?), `learnt` (names of methods that train a law: the page says first whether they beat the
bar).
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd

from gwfbench import escape
from gwfbench.audit import bundle, verdict
from gwfbench.audit.verdict import Verdict
from gwfbench.errors import UserError, require
from gwfbench.papers import ledger
from gwfbench.plugins import registry
from gwfbench.report import paper_page
from gwfbench.report import rows as kept_rows
from gwfbench.report.board import ablation, bar, latex, tables
from gwfbench.report.board import suites as board_of_suite
from gwfbench.report.board.across_tasks import overall
from gwfbench.report.board.cells import FINISHED
from gwfbench.report.board.leaderboard import boards
from gwfbench.store import checked
from gwfbench.store.record import to_json
from gwfbench.suites import suite as suites

PAGE = "page.toml"
BLOCK = re.compile(r"(<!-- leaderboard (\S+) (\S+) (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
BEST = (
    "best: the methods that share the best letter, with their scores (0 is exact, 1 is still). Where methods use "
    "different information about the target, the best for each. Each page has the intervals."
)


@dataclass(frozen=True)
class Layout:
    """How the page of a folder is laid out: what page.toml says."""

    title: str = "Leaderboard"
    metrics: tuple[str, ...] = ()
    pivot: bool = False
    ablate: str = ""
    suite: str = ""
    bar: str = ""
    learnt: tuple[str, ...] = ()

    @staticmethod
    def read(folder: Path) -> Layout:
        """From the folder's page.toml; the defaults where there is none.

        Raises:
            UserError: it has something else in it.
        """
        path = folder / PAGE
        if not path.exists():
            return Layout()
        try:
            said = tomllib.loads(path.read_text(encoding="utf-8"))
            found = checked.checked(Layout, {**asdict(Layout()), "metrics": [], "learnt": [], **said})
            return replace(found, metrics=tuple(found.metrics), learnt=tuple(found.learnt))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path}: {error}",
                "title, metrics (a list), pivot (true or false), ablate (key=value), suite (a name), bar (a name), "
                "learnt (a list), as TOML",
                "fix the file, or remove it",
            ) from None


def made(folder: Path, rows: pd.DataFrame, facts: kept_rows.Facts) -> dict[Path, str]:
    """The page of one folder, by file, from its rows."""
    layout, all_rows, top = Layout.read(folder), rows, ""
    if layout.suite:
        suite = suites.load(layout.suite)
        own = board_of_suite.of_suite(rows, suite)
        # within the suite's budget they are one contestant's, whatever limits they were told
        rows = rows.assign(budget=rows["budget"].mask(rows.index.isin(own.index), ""))
        soon = tables.over_tasks(overall(own[board_of_suite.headlines(own, suite)]))
        top = "\n".join(filter(None, [board_of_suite.markdown(own, suite), soon]))
    shown = boards(rows, layout.metrics or None)
    body = tables.pivoted(shown) if layout.pivot else tables.markdown(shown)
    if layout.ablate:
        effects = ablation.ablation(rows, layout.ablate, layout.metrics or None)
        body = f"{ablation.markdown(effects, layout.ablate)}\n{body}"
    if layout.bar:
        pairs = bar.against(rows, layout.bar, layout.metrics or None)
        body = f"{bar.markdown(pairs, layout.bar, layout.learnt)}\n{body}"
    body = "\n".join(filter(None, [top, body])) + _origins(folder)
    page = f"# {escape.markdown(layout.title)}\n\n{body}\n{tables.provenance(all_rows, facts)}"
    verdicts = tables.verified(all_rows, verdict.kept(folder)[0])
    return {
        folder / "leaderboard.md": page + (f"\n{verdicts}" if verdicts else ""),
        folder / "leaderboard.csv": tables.csv(shown, "%.6g"),
        folder / "leaderboard.tex": latex.tables(shown, layout.pivot),
    }


def _origins(folder: Path) -> str:
    """Who has made rows that are not the authors' own, and how far they were checked, as Markdown."""
    found = bundle.origins(folder)
    if not found:
        return ""
    table = pd.DataFrame([
        {"method": escape.markdown(registry.short(method)), "label": escape.markdown(str(one.get("label", ""))),
         "by": escape.markdown(str(one.get("by", ""))), "runs": one.get("runs", ""), "run again": one.get("again", ""),
         "made": escape.markdown(str(one.get("made", "")))}
        for method, one in sorted(found.items())
    ])  # fmt: skip
    said = "self-reported: seals and code were checked; re-run: some runs were also run again here, and none differs."
    return f"\n## Sent in by others\n\n{table.to_markdown(index=False, disable_numparse=True)}\n\n{said}\n"


def all_made(root: Path) -> dict[Path, str]:
    """Every page below the root, its index, and the tables in the README next to it, by file.

    Raises:
        UserError: there are no rows.
    """
    folders = [path.parent for path in kept_rows.files(root)]
    require(
        bool(folders), f"{root}: no folder with rows.csv", "one", f"python -m gwfbench report --write {root / 'ou'}"
    )
    files: dict[Path, str] = {}
    rows: dict[str, pd.DataFrame] = {}
    environments: kept_rows.Facts = {}
    for folder in folders:
        name = folder.relative_to(root).as_posix()
        rows[name], facts = kept_rows.read(folder / "rows.csv")
        environments |= facts
        files |= made(folder, rows[name], facts)
    # a run may stand on two pages
    every = pd.concat(rows.values()).drop_duplicates(["run_key", "attempt", "step", "metric"])
    files[root / "leaderboard.md"] = index(root, rows)
    answered = {name: set(zip(part["task"], part["method"], strict=True)) for name, part in rows.items()}
    for key in ledger.papers():
        book = ledger.load(key)
        asked = paper_page.asked(book)
        sources = {f"../{name}/rows.csv": own for name, own in answered.items() if asked & own}
        files[root / "papers" / f"{key}.md"], _ = paper_page.page(book, every, sources, environments)
    for readme in (root.parent / "README.md", root / "README.md"):
        if readme.exists():
            text = readme.read_text(encoding="utf-8")
            files[readme] = BLOCK.sub(lambda found: _block(rows, found, root.name), text)
    return files


def differences(files: dict[Path, str]) -> Iterator[str]:
    """A line for each file that is not what it should be."""
    for path, text in files.items():
        have = path.read_text(encoding="utf-8") if path.exists() else ""
        for number, (now, then) in enumerate(zip(f"{text}\n".split("\n"), f"{have}\n".split("\n"), strict=False), 1):
            if now != then:
                yield f"{path}:{number} is not what the rows give: {then[:80]!r}, expected {now[:80]!r}"
                break
        else:
            if text != have:
                yield f"{path} is not what the rows give: {len(have)} characters, expected {len(text)}"


def index(root: Path, rows: Mapping[str, pd.DataFrame]) -> str:
    """The table of the suites, with their best methods, and the one of all other pages."""
    whole, other = [], []
    for name, part in rows.items():
        layout = Layout.read(root / name)
        runs = part.drop_duplicates(["run_key", "attempt"])
        counts = {
            "tasks": part["task"].nunique(),
            "methods": runs.loc[runs["role"] == "method", "method"].nunique(),
            "seeds": runs["seed"].nunique(),
            "runs": len(runs),
            "failed": int((~runs["status"].isin((*FINISHED, "killed"))).sum()),
        }
        page = f"[{Path(name).name}]({name}/leaderboard.md)"
        if layout.suite:
            suite = suites.load(layout.suite)
            whole.append({"suite": page, "what": escape.markdown(suite.title), "best": _best(part, suite), **counts})
        else:
            other.append({"page": page, "what": escape.markdown(layout.title), **counts})
    papers = ", ".join(f"[{key}](papers/{key}.md)" for key in ledger.papers())
    parts = ["# Leaderboards", _table(whole), BEST if whole else "", _table(other), f"Papers: {papers}"]
    return "\n\n".join(filter(None, parts)) + "\n"


def _table(lines: Sequence[Mapping[str, object]]) -> str:
    return pd.DataFrame(lines).to_markdown(index=False, disable_numparse=True) if lines else ""


def _best(rows: pd.DataFrame, suite: suites.Suite) -> str:
    """The methods of a suite that share the best letter, for each kind of information that its methods use."""
    groups: dict[str, list[board_of_suite.Entry]] = {}
    for one in board_of_suite.entries(board_of_suite.of_suite(rows, suite), suite):
        if not math.isnan(one.score):
            groups.setdefault(one.information, []).append(one)
    said = []
    for information, found in groups.items():
        first = [one for one in found if one.tier and one.tier[0] == found[0].tier[:1]] or found[:1]
        names = ", ".join(f"{escape.markdown(one.name)} {one.score:.2g}" for one in first)
        said.append(f"{names} ({information})" if len(groups) > 1 else names)
    return "; ".join(said)


def _block(rows: Mapping[str, pd.DataFrame], found: re.Match[str], root: str) -> str:
    """One table of the README, which may name the folder with the root's name before it."""
    start, folder, task, metrics, end = found.groups()
    name = folder.removeprefix(f"{root}/")
    require(name in rows, f"{start.strip()}: no folder {folder}", f"one of {', '.join(rows)}", "fix the marker")
    shown = boards(rows[name][rows[name]["task"] == task], metrics.split(","))
    require(bool(shown), f"{start.strip()}: no rows of {task}", f"a task of {folder}/rows.csv", "fix the marker")
    return f"{start}\n{tables.markdown_table(shown[0])}\n\n{end}"


def written(files: dict[Path, str]) -> list[Path]:
    """Write those that have changed."""
    changed = [path for path, text in files.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in changed:
        path.parent.mkdir(exist_ok=True)
        path.write_text(files[path], encoding="utf-8")
    return changed


def keep(folder: Path, rows: pd.DataFrame, facts: kept_rows.Facts, verdicts: Sequence[Verdict], layout: Layout) -> None:
    """Write all that the page of a folder is made from."""
    folder.mkdir(parents=True, exist_ok=True)
    kept_rows.write(rows, folder / "rows.csv")
    (folder / "environments.json").write_text(to_json(facts, indent=2) + "\n", encoding="utf-8")
    shown = set(zip(rows["run_key"], rows["attempt"], strict=True))
    lines = [to_json(asdict(one)) + "\n" for one in verdicts if (one.run_key, one.attempt) in shown]
    if lines:
        (folder / verdict.FILE).write_text("".join(lines), encoding="utf-8")
    if layout != Layout():
        changed = {key: value for key, value in asdict(layout).items() if value != getattr(Layout(), key)}
        text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in changed.items())  # such JSON is TOML
        (folder / PAGE).write_text(text, encoding="utf-8")


def of_laws(rows: pd.DataFrame, laws: str) -> pd.DataFrame:
    """The rows that a page keeps: all, or those of each run's last judged law and of runs that have none."""
    if laws == "all":
        return rows
    last = rows["step"] == rows.groupby(["run_key", "attempt"])["step"].transform("max")
    return rows[last | rows["metric"].isna()]
