"""Give committed rows today's hashes where that is proved, and count the others.

    python scripts/restamp.py [--write]

A row has the hash of the code that made it, driver included. It gets today's if, for one commit B of
results/same_numbers.json (scripts/same_numbers.py B writes it), both hold:

1. the row's hash is what B gives for its task and method, by B's own rules, and
2. its task and method give the same numbers, bit by bit, in B and today.

The hash of a value's metric is treated likewise. Without --write it only counts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from gwfbench.drive.job import Job
from gwfbench.errors import UserError
from gwfbench.metrics import known as known_metrics
from gwfbench.plugins import registry
from gwfbench.report import rows as kept_rows
from gwfbench.rng import Streams
from gwfbench.store import fingerprint

ROOT = Path(__file__).parents[1]
TODAY = {name: fingerprint.metric_code(metric) for name, metric in known_metrics().items()}

# Run with the tree of a commit on its path: its hashes of jobs and metrics.
PROBE = """
import json, sys
from gwfbench.drive.job import Job
from gwfbench.errors import UserError
from gwfbench.metrics import known
from gwfbench.store import fingerprint
def code(words):
    try:
        return Job.read(words).code()
    except UserError:
        return ""
jobs = [(words["task"], words["method"], code(words)) for words in json.load(sys.stdin)]
print(json.dumps({"jobs": jobs, "metrics": {name: fingerprint.metric_code(one) for name, one in known().items()}}))
"""


@dataclass(frozen=True)
class Evidence:
    """Of one commit: hashes of the cells that give today's numbers, and of its metrics."""

    cells: dict[tuple[str, str], str]
    metrics: dict[str, str]


def evidence(commit: str, cells: list[list[str]]) -> Evidence:
    asked = [words_of(task, method) for task, method in cells]
    with tempfile.TemporaryDirectory(prefix="restamp-") as folder:
        packed = subprocess.run(["git", "-C", ROOT, "archive", commit], capture_output=True, check=True).stdout
        subprocess.run(["tar", "-x", "-C", folder], input=packed, check=True)
        done = subprocess.run(
            [sys.executable, "-c", PROBE], input=json.dumps(asked), cwd=folder, capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": folder}, check=False,
        )  # fmt: skip
    if done.returncode:  # a commit of another layout
        return Evidence({}, {})
    found = json.loads(done.stdout)
    return Evidence({(task, method): code for task, method, code in found["jobs"]}, found["metrics"])


def words_of(task: str, method: str, seed: int = 0, device: str = "cpu", dtype: str = "float32") -> dict[str, Any]:
    return {"task": task, "method": method, "seeds": [seed], "device": device, "dtype": dtype, "budget": {}}


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--write", action="store_true", help="change the rows")
    write = words.parse_args().write
    same = json.loads((ROOT / "results/same_numbers.json").read_text())
    known = [evidence(commit, cells) for commit, cells in same.items()]
    counts: Counter[str] = Counter()
    for path in kept_rows.files(ROOT / "results"):
        rows = pd.read_csv(path, dtype=str, keep_default_na=False)  # as text: nothing else changes
        before = rows.copy()
        for _, run in rows.groupby("attempt", sort=False):
            counts[restamp(rows, run, known)] += 1
        if write and not rows.equals(before):
            rows.to_csv(path, index=False)
    for reason, count in counts.most_common():
        print(f"{count:5} runs: {reason}")


def restamp(rows: pd.DataFrame, run: pd.DataFrame, known: list[Evidence]) -> str:
    """Write today's hashes into the rows of one run if they are proved; what was found, in words."""
    first: Any = run.iloc[0]
    task, method = str(first["task"]), str(first["method"])
    try:
        job = Job.read(words_of(task, method, int(first["seed"]), first["device"], first["dtype"]))
    except UserError:
        return "stale: it can't be built any more"
    try:
        code = job.code()
    except UserError:
        return "unknown: files of its task are not on this machine"
    if first["code"] == code:
        return "fresh already"
    good = [one for one in known if one.cells.get((task, method)) == first["code"]]
    if not good:
        return "stale: not shown to give the same numbers today (scripts/same_numbers.py)"
    rows.loc[run.index, "run_key"] = job.identity(int(first["seed"])).key
    rows.loc[run.index, "code"] = code
    for index, metric, old in zip(run.index, run["metric"], run["metric_code"], strict=True):
        if metric in TODAY and any(one.metrics.get(metric) == old for one in good):
            rows.loc[index, "metric_code"] = TODAY[metric]
        elif metric and metric not in TODAY:
            rows.loc[index, "metric_code"] = own_code(task, metric)
    return "fresh: proved"


@cache
def own_code(task: str, name: str) -> str:
    """The hash of a metric that the task itself brings; its source is in that of the task."""
    streams = Streams((0,))
    own = registry.parse("task", task).build(streams.fork(f"task/{registry.head(task)}")).truth.metrics
    return next((fingerprint.metric_code(metric) for metric in own if metric.name == name), "")


if __name__ == "__main__":
    main()
