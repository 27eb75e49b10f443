"""Whether a refactoring changes a number: cells of the committed results at smoke size, by two versions of the code.

    python scripts/same_numbers.py BASE [--jobs 2] [--task gmm] [--method vjko] [--keep FOLDER]

BASE is a commit. Each (task, method) of results/**/rows.csv is run by BASE and by the working tree with the `smoke`
fields of the two, which make it end in seconds, and two seeds; controls too. Compared, bit by bit, are status, values,
standard errors, numbers of points and oracle calls of all rows. What agrees is added to results/same_numbers.json,
which scripts/restamp.py reads. Exit code 1 if a cell differs. All cells take about half an hour of two cores per side.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from gwfbench.errors import UserError
from gwfbench.plugins import registry

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "results/same_numbers.json"
COMPARED = ("step", "t", "metric", "value", "se", "n", "score_calls", "log_prob_calls", "draw_calls", "sample_calls")
ENDED = ("ok", "budget", "diverged")  # two runs that fail in the same way show nothing
Cell = tuple[str, str]
Ends = dict[tuple[str, str, int], tuple[str, list[list[Any]]]]


def cells(tasks: list[str], methods: list[str]) -> dict[Cell, Cell]:
    """Each committed (task, method), and the same at smoke size; controls are in every smoke task."""
    found: dict[Cell, Cell] = {}
    for path in sorted(ROOT.glob("results/**/rows.csv")):
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                task, method = row["task"], row["method"]
                chosen = registry.head(task) in (tasks or [registry.head(task)])
                if chosen and registry.head(method) in (methods or [registry.head(method)]):
                    found[task, method] = small("task", task), small("method", method)
    return found


def small(kind: registry.Kind, text: str) -> str:
    """The same plug-in with its smoke fields in place of what it has; a data set stays."""
    if text in registry.CONTROLS:
        return text
    plugin = registry.find(kind, registry.head(text))
    cls: Any = plugin.load()
    smoke = {name: _typed(value) for name, value in cls.smoke.items() if name != "data"}
    try:
        return registry.spec(registry.configure(cls, plugin.name, registry.typed(text) | smoke))
    except UserError:  # its fields don't go with those
        return text


def _typed(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def run(tree: Path, wanted: dict[Cell, Cell], out: Path, jobs: int) -> Ends:
    """What the code in `tree` gives; controls too where one is wanted."""
    by_task: dict[str, list[str]] = {}
    for task, method in wanted.values():
        by_task.setdefault(task, []).append(method)
    for task, asked in by_task.items():
        methods = [method for method in asked if method not in registry.CONTROLS]
        if not methods:
            continue
        words = [sys.executable, "-m", "gwfbench", "run", "--task", task, "--seeds", "2", "--jobs", str(jobs)]
        words += [] if len(methods) < len(asked) else ["--no-controls"]
        words += [word for method in dict.fromkeys(methods) for word in ("--method", method)]
        words += ["--timeout", "600", "--out", str(out), "--format", "csv"]
        done = subprocess.run(
            words, cwd=tree, env={**os.environ, "PYTHONPATH": str(tree)}, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
        if done.returncode not in (0, 1):
            print(f"{tree.name}: {task}: {done.stderr.strip()[-300:]}", flush=True)
    return ends(out)


def ends(out: Path) -> Ends:
    """Status and compared numbers of each run under a folder, whatever version wrote it."""
    found: Ends = {}
    for file in out.glob("*/run.json"):
        content = json.loads(file.read_text())
        who = content["identity"]
        lines = [line for name in ("points.jsonl", "rows.jsonl") if (file.parent / name).exists()
                 for line in (file.parent / name).read_text().splitlines()]  # fmt: skip
        rows = [[json.loads(line)[name] for name in COMPARED] for line in lines]
        found[who["task"], who["method"], who["seed"]] = content["status"], rows
    return found


def keep(base: str, same: list[Cell], other: list[Cell]) -> None:
    """Add what agrees to the file, and take out what does not."""
    known: dict[str, list[list[str]]] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    cells = ({tuple(cell) for cell in known.get(base, [])} - set(other)) | set(same)
    known[base] = [list(cell) for cell in sorted(cells)]
    KEPT.write_text(json.dumps(known, indent=1) + "\n")


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("base", help="commit to compare with")
    words.add_argument("--jobs", type=int, default=1, help="number of runs at once")
    words.add_argument("--task", action="append", default=[], help="only this task (repeatable)")
    words.add_argument("--method", action="append", default=[], help="only this method (repeatable)")
    words.add_argument("--keep", type=Path, help="folder of the runs: what is finished there is not run again")
    asked = words.parse_args()
    named = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short=12", asked.base], capture_output=True, check=True)
    base = named.stdout.decode().strip()
    wanted = cells(asked.task, asked.method)
    folder = asked.keep or Path(tempfile.mkdtemp(prefix="same-numbers-"))
    tree = folder / f"tree-{base}"
    if not tree.exists():
        tree.mkdir(parents=True)
        packed = subprocess.run(["git", "-C", ROOT, "archive", base], capture_output=True, check=True).stdout
        subprocess.run(["tar", "-x", "-C", tree], input=packed, check=True)
    before = run(tree, wanted, folder / f"runs-{base}", asked.jobs)
    now = run(ROOT, wanted, folder / "runs", asked.jobs)
    same: list[Cell] = []
    other: list[Cell] = []
    for cell, smoke in wanted.items():
        pairs = [(before.get((*smoke, seed)), now.get((*smoke, seed))) for seed in (0, 1)]
        good = all(one is not None and one == another and one[0] in ENDED for one, another in pairs)
        (same if good else other).append(cell)
        if not good:
            print(f"differs, or did not run: {' '.join(cell)} (as {' '.join(smoke)})")
    print(f"{len(same)} of {len(wanted)} cells give the same numbers bit by bit under {base} and the working tree")
    keep(base, same, other)
    sys.exit(bool(other))


if __name__ == "__main__":
    main()
