"""A snapshot of the published boards: what a paper can cite, as pages are made again when rows are.

    python scripts/snapshot.py 2026-12            # makes results/snapshots/2026-12
    python scripts/snapshot.py 2026-12 --check    # is each file what SHA256SUMS says?

Of each suite: its rows (gzip), the environments that they ran in, and its board as Markdown, CSV and LaTeX. The papers'
pages. references.bib: gwfbench, and the tasks and methods of all rows. SHA256SUMS: for `sha256sum -c`. README.md: what
is in it, by whom made, and how to use it. The same results give the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

import gwfbench
from gwfbench.commands.list import bibliography
from gwfbench.plugins import registry
from gwfbench.report import rows as kept_rows
from gwfbench.suites import suite as suites

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
BOARDS = ("leaderboard.md", "leaderboard.csv", "leaderboard.tex", "environments.json")
SUMS = "SHA256SUMS"
CLOCKS = ["seconds", "sample_seconds", "judge_seconds"]
TEXT = """# Snapshot {name} of gwfbench {version}

The boards as they were, for papers that quote them. Files here don't change; the pages in
[results](../../README.md) do, when rows are made again.

{table}

runs: without controls. hours: of one core, by the rows; failed runs and judging count. commits: of the code that made
the rows.

```sh
sha256sum -c SHA256SUMS                                            # is each file as it was?
python -m gwfbench report --rows {example}/rows.csv.gz --format latex   # a table from these rows
python -m gwfbench verify --rows {example}/rows.csv.gz --count 3        # repeat some of its runs
```

`leaderboard.tex` needs `\\usepackage{{booktabs}}`. `references.bib` has gwfbench and every task and method of these
boards. [papers](papers) are the pages of published numbers next to ours. No run used a GPU.
"""


def main() -> None:
    """Makes the snapshot of a name, or checks it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the folder in results/snapshots, a year and a month")
    parser.add_argument("--check", action="store_true", help="only compare its files with their sums")
    chosen = parser.parse_args()
    folder = RESULTS / "snapshots" / chosen.name
    if not chosen.check:
        make(RESULTS, folder)
    wrong = differences(folder)
    for line in wrong:
        print(line, file=sys.stderr)
    print(f"{folder.relative_to(ROOT)}: {len(sums(folder))} files, {len(wrong)} differ from {SUMS}")
    sys.exit(1 if wrong else 0)


def make(results: Path, folder: Path) -> None:
    """The files of a snapshot, from a folder of results; what was in its folder goes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    lines, plugins = [], set()
    for name in suites.names():
        if not (results / name / "rows.csv").is_file():
            continue
        rows, facts = kept_rows.read(results / name / "rows.csv")
        (folder / name).mkdir()
        for file in BOARDS:
            shutil.copyfile(results / name / file, folder / name / file)
        packed = gzip.compress((results / name / "rows.csv").read_bytes(), mtime=0)
        (folder / name / "rows.csv.gz").write_bytes(packed)
        lines.append(_line(name, rows, facts))
        for kind in ("task", "method"):
            heads = {registry.head(text) for text in rows[kind]} - set(registry.CONTROLS)
            plugins |= {(kind, head) for head in heads}
    (folder / "papers").mkdir()
    for path in sorted((results / "papers").glob("*.md")):
        moved = path.read_text(encoding="utf-8").replace("](../", "](../../../")  # links to results, from here
        (folder / "papers" / path.name).write_text(moved, encoding="utf-8")
    own = (ROOT / "docs/examples/gwfbench.bib").read_text(encoding="utf-8").strip()
    entries = [own, *bibliography(registry.find(*one) for one in sorted(plugins))]
    (folder / "references.bib").write_text("\n\n".join(entries) + "\n", encoding="utf-8")
    table = pd.DataFrame(lines).to_markdown(index=False)
    text = TEXT.format(name=folder.name, version=gwfbench.__version__, table=table, example=lines[0]["suite"])
    (folder / "README.md").write_text(text, encoding="utf-8")
    found = {str(path.relative_to(folder)): digest(path) for path in _files(folder)}
    (folder / SUMS).write_text("".join(f"{sha}  {path}\n" for path, sha in found.items()), encoding="utf-8")


def _line(name: str, rows: pd.DataFrame, facts: kept_rows.Facts) -> dict[str, object]:
    """What the README's table says of a suite."""
    own = rows[rows["role"] == "method"]
    seeds = own.groupby(["task", "method"])["seed"].nunique()
    spent = rows.groupby(["run_key", "attempt"])[CLOCKS].max().sum(axis=1).sum()
    commits = sorted({str(facts.get(env, {}).get("commit", "not known"))[:8] for env in set(rows["env"])})
    return {
        "suite": name, "tasks": own["task"].nunique(), "methods": own["method"].map(registry.head).nunique(),
        "runs": own["run_key"].nunique(), "seeds": "-".join(map(str, sorted({seeds.min(), seeds.max()}))),
        "rows": len(rows), "hours": f"{spent / 3600:.1f}", "commits": ", ".join(commits),
    }  # fmt: skip


def differences(folder: Path) -> list[str]:
    """What is not as the sums say: a file that is another, is missing, or that they don't name.

    Raises:
        SystemExit: there are no sums.
    """
    said = sums(folder)
    found = {str(path.relative_to(folder)): digest(path) for path in _files(folder)}
    return [
        *(f"{path}: missing" for path in said if path not in found),
        *(f"{path}: not in {SUMS}" for path in found if path not in said),
        *(
            f"{path}: {sha[:12]}, expected {said[path][:12]}"
            for path, sha in found.items()
            if said.get(path, sha) != sha
        ),
    ]


def sums(folder: Path) -> dict[str, str]:
    """The sums that a snapshot keeps, by file."""
    if not (folder / SUMS).is_file():
        sys.exit(f"{folder / SUMS}: no such file; make it: python scripts/snapshot.py {folder.name}")
    lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    return {path: sha for sha, path in (line.split("  ", 1) for line in lines)}


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _files(folder: Path) -> Iterable[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS)


if __name__ == "__main__":
    main()
