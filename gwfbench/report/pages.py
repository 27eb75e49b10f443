"""The pages of a results folder, made from its rows alone.

    FOLDER/rows.csv, environments.json; verified.jsonl, page.toml where there are any
        -> FOLDER/leaderboard.md, leaderboard.csv, leaderboard.tex
    ROOT/*/rows.csv -> ROOT/leaderboard.md: the pages, and scores over all of their tasks
                    -> ROOT/papers/*.md: published numbers beside these
    README.md beside ROOT: tables between `<!-- leaderboard FOLDER TASK METRIC,METRIC -->` and `<!-- end -->`

page.toml: `metrics` (which, in this order), `pivot` (a table a metric, tasks side by side), `ablate` (key=value: also
what this field does), `title`.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd

from gwfbench.audit import verify
from gwfbench.audit.verify import Verdict
from gwfbench.errors import UserError, require
from gwfbench.papers import ledger
from gwfbench.report import paper_page
from gwfbench.report import rows as kept_rows
from gwfbench.report.board import ablation, tables
from gwfbench.report.board.across_tasks import overall
from gwfbench.report.board.leaderboard import FINISHED, leaderboard
from gwfbench.store import checked
from gwfbench.store.record import to_json

PAGE = "page.toml"
BLOCK = re.compile(r"(<!-- leaderboard (\S+) (\S+) (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
POWER = re.compile(r"(-?\d+(?:\.\d+)?)e([+-])0*(\d+)")


@dataclass(frozen=True)
class Layout:
    """How the page of a folder is laid out: what page.toml says."""

    title: str = "Leaderboard"
    metrics: tuple[str, ...] = ()
    pivot: bool = False
    ablate: str = ""

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
            found = checked.checked(Layout, {**asdict(Layout()), "metrics": [], **said})
            return replace(found, metrics=tuple(found.metrics))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path}: {error}",
                "title, metrics (a list), pivot (true or false), ablate (key=value), as TOML",
                "mend it",
            ) from None


def made(folder: Path, points: pd.DataFrame, facts: kept_rows.Facts) -> dict[Path, str]:
    """The page of one folder, by file, from its rows."""
    layout = Layout.read(folder)
    board = leaderboard(points, layout.metrics or None)
    body = tables.pivoted(board) if layout.pivot else tables.markdown(board)
    if layout.ablate:
        effect = ablation.ablation(points, layout.ablate, layout.metrics or None)
        body = f"{ablation.markdown(effect, layout.ablate)}\n{body}"
    page = f"# {layout.title}\n\n{body}\n{tables.provenance(points, facts)}"
    verdicts = tables.verified(points, verify.kept(folder)[0])
    return {
        folder / "leaderboard.md": page + (f"\n{verdicts}" if verdicts else ""),
        folder / "leaderboard.csv": board.to_csv(index=False, float_format="%.6g"),
        folder / "leaderboard.tex": latex(board),
    }


def all_made(root: Path) -> dict[Path, str]:
    """Every page below the root, its index, and the tables in the README beside it, by file.

    Raises:
        UserError: there are no rows.
    """
    folders = [path.parent for path in sorted(root.glob("*/rows.csv"))]
    require(
        bool(folders), f"{root}: no folder with rows.csv", "one", f"python -m gwfbench report --write {root / 'ou'}"
    )
    files: dict[Path, str] = {}
    rows: dict[str, pd.DataFrame] = {}
    for folder in folders:
        rows[folder.name], facts = kept_rows.read(folder / "rows.csv")
        files |= made(folder, rows[folder.name], facts)
    # a run may stand on two pages
    points = pd.concat(rows.values()).drop_duplicates(["run_key", "attempt", "step", "metric"])
    files[root / "leaderboard.md"] = index(rows, points)
    for key in ledger.papers():
        files[root / "papers" / f"{key}.md"] = paper_page.page(ledger.load(key), points)
    readme = root.parent / "README.md"
    if readme.exists():
        files[readme] = BLOCK.sub(lambda found: _block(rows, found), readme.read_text(encoding="utf-8"))
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


def index(rows: Mapping[str, pd.DataFrame], points: pd.DataFrame) -> str:
    """The table of the pages, by folder, and what is said over all of their tasks."""
    lines = []
    for folder, here in rows.items():
        runs = here.drop_duplicates(["run_key", "attempt"])
        methods = runs[runs["role"] == "method"]
        lines.append({
            "page": f"[{folder}]({folder}/leaderboard.md)",
            "tasks": ", ".join(f"`{task}`" for task in dict.fromkeys(here["task"])),
            "methods": methods["method"].nunique(), "runs": len(runs),
            "failed": int((~runs["status"].isin(FINISHED)).sum()),
        })  # fmt: skip
    pages = pd.DataFrame(lines).to_markdown(index=False, disable_numparse=True)
    beside = ", ".join(f"[{key}](papers/{key}.md)" for key in ledger.papers())
    return f"# Leaderboards\n\n{pages}\n\nPapers: {beside}\n\n{tables.over_tasks(overall(points))}"


def latex(board: pd.DataFrame) -> str:
    """The boards as LaTeX tables with booktabs, one a task."""
    parts = []
    for _, part in board.groupby("task", sort=False):
        frame = tables.frame(part)
        text = frame.to_latex(index=False, escape=True, column_format="l" * len(frame.columns))
        text = POWER.sub(lambda m: f"${m[1]} \\cdot 10^{{{'-' if m[2] == '-' else ''}{m[3]}}}$", text)
        text = text.replace("<= floor", "$\\le$ floor")
        parts.append(f"% {tables.title(part)}\n{text}")
    return "% \\usepackage{booktabs}\n" + "\n".join(parts)


def _block(rows: Mapping[str, pd.DataFrame], found: re.Match[str]) -> str:
    """One table of the README."""
    start, folder, task, metrics, end = found.groups()
    name = Path(folder).name
    require(name in rows, f"{start.strip()}: no folder {folder}", f"one of {', '.join(rows)}", "mend the marker")
    points = rows[name]
    board = leaderboard(points[points["task"] == task], metrics.split(","))
    require(len(board) > 0, f"{start.strip()}: no rows of {task}", f"a task of {folder}/rows.csv", "mend the marker")
    return f"{start}\n{tables.markdown_table(board)}\n\n{end}"


def written(files: dict[Path, str]) -> list[Path]:
    """Write those that have changed."""
    changed = [path for path, text in files.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in changed:
        path.parent.mkdir(exist_ok=True)
        path.write_text(files[path], encoding="utf-8")
    return changed


def keep(
    folder: Path, points: pd.DataFrame, facts: kept_rows.Facts, verdicts: Sequence[Verdict], layout: Layout
) -> None:
    """What the page of a folder is made from."""
    folder.mkdir(parents=True, exist_ok=True)
    tables.write_rows(points, folder / "rows.csv")
    (folder / "environments.json").write_text(to_json(facts, indent=2) + "\n", encoding="utf-8")
    shown = set(zip(points["run_key"], points["attempt"], strict=True))
    lines = [to_json(asdict(one)) + "\n" for one in verdicts if (one.run_key, one.attempt) in shown]
    if lines:
        (folder / verify.FILE).write_text("".join(lines), encoding="utf-8")
    if layout != Layout():
        said = {key: value for key, value in asdict(layout).items() if value != getattr(Layout(), key)}
        text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in said.items())  # such JSON is TOML
        (folder / PAGE).write_text(text, encoding="utf-8")


def rows_of(points: pd.DataFrame, laws: str) -> pd.DataFrame:
    """The rows that a page keeps: all, or those of each run's last judged law and of runs that have none."""
    if laws == "all":
        return points
    last = points["step"] == points.groupby(["run_key", "attempt"])["step"].transform("max")
    return points[last | points["metric"].isna()]
