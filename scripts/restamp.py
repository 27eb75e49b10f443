"""Give committed rows today's hashes where that is proved, and say of the others that they are stale.

    python scripts/restamp.py [--write]

A row has the hash of the code that made it. It is fresh after changes of the code if, for one commit B that
results/same_numbers.json has (scripts/same_numbers.py B writes it), all of this holds:

1. the row's hash is what the old rules give for its task and method in the source of B; or in that of another commit C,
   and what today's rules see in the closures of task and method is the same in C and B;
2. the modules that drive every run are the same in B and in the commit that the row names. (A "+" after that commit
   says that code had uncommitted changes; the hash of task and method covers those, the driver's are not known.)
3. the row's task and method give the same numbers, bit by bit, in B and today.

A value's metric is treated likewise. Without --write it only counts.
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
from gwfbench.rng import Streams
from gwfbench.store import fingerprint

ROOT = Path(__file__).parents[1]
PAIRS: list[tuple[str, str]] = []  # names of task and method of all rows
TODAY = {name: fingerprint.metric_code(metric) for name, metric in known_metrics().items()}
CODE = ("gwfbench", "tasks", "baselines")
FIRST = "b98c5c6"  # the first commit whose rows have hashes
DRIVERS = ("runner", "cloud", "flat", "judge", "budget")  # of the commits before packages

# Run with a tree of an old commit on its path: the hashes as they were computed then, and what today's rules see in it.
PROBE = """
import importlib.util, json, sys, types
from gwfbench import metrics, provenance
asked = json.loads(sys.stdin.read())
text = open(asked["rules"]).read().replace("gwfbench.store.record", "gwfbench.record")
rules = types.ModuleType("rules")
sys.modules["rules"] = rules
exec(compile(text, "rules", "exec"), rules.__dict__)
rules.DRIVER = ()
def module(kind, name):
    return "gwfbench.controls" if name in ("exact", "still", "exact_jko") else f"gwfbench.{kind}.{name}"
def hashes(*names):
    try:
        return provenance.code_hash(*names), rules.code_hash(*names)
    except Exception as error:
        return "", repr(error)
found = {f"{t} {m}": hashes(module("tasks", t), module("baselines", m)) for t, m in asked["pairs"]}
known = {name: hashes(metric.evaluate.__module__) for name, metric in metrics.known().items()}
drivers = [rules.own_digest(f"gwfbench.{name}") for name in asked["drivers"] if rules.locate(f"gwfbench.{name}")]
print(json.dumps({"pairs": found, "metrics": known, "drivers": drivers}))
"""


@cache
def probe(commit: str) -> dict[str, Any]:
    """Of the source of a commit: old and new hashes of all pairs and metrics, and the driver's."""
    with tempfile.TemporaryDirectory(prefix="restamp-") as folder:
        packed = subprocess.run(["git", "-C", ROOT, "archive", commit], capture_output=True, check=True).stdout
        subprocess.run(["tar", "-x", "-C", folder], input=packed, check=True)
        asked = {"pairs": PAIRS, "rules": fingerprint.__file__, "drivers": DRIVERS}
        done = subprocess.run(
            [sys.executable, "-c", PROBE], input=json.dumps(asked), cwd=folder, capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": folder}, check=False,
        )  # fmt: skip
    nothing = {"pairs": {}, "metrics": {}, "drivers": [commit]}
    return nothing if done.returncode else json.loads(done.stdout)  # a commit without such modules


def read(path: Path) -> tuple[pd.DataFrame, dict[str, dict[str, Any]]]:
    """Rows as text, and their environments."""
    facts = json.loads(path.with_name("environments.json").read_text())
    return pd.read_csv(path, dtype=str, keep_default_na=False), facts


def head(text: str) -> str:
    return text.partition(":")[0]


def commits(named: set[str]) -> list[str]:
    """The commits that rows name; after one with a "+" the next ones too, where its changes were committed."""
    words = ["git", "-C", ROOT, "log", "--format=%h", "--abbrev=12", f"{FIRST}..HEAD", "--", *CODE]
    known = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    found = [name.rstrip("+") for name in sorted(named)]
    for name in sorted(named):
        if name.endswith("+"):
            at = known.index(name[:-1]) if name[:-1] in known else None
            found += known[max(at - 3, 0) : at] if at is not None else []
    return list(dict.fromkeys(found))


def proved(kind: str, wanted: set[tuple[str, str]], base: str, others: list[str]) -> set[tuple[str, str]]:
    """Of these names and old hashes, those whose source is that of the commit `base`."""
    found: set[tuple[str, str]] = set()
    left = {one for one in wanted if one[0] in probe(base)[kind]}
    for commit in [base, *others]:
        seen = probe(commit)[kind]
        for name, code in list(left):
            if seen.get(name, ("",))[0] == code:
                left.discard((name, code))
                if seen[name][1] == probe(base)[kind][name][1]:
                    found.add((name, code))
        if not left:
            break
    return found


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--write", action="store_true", help="change the rows")
    write = words.parse_args().write
    same = json.loads((ROOT / "results/same_numbers.json").read_text())
    files = {path: read(path) for path in sorted(ROOT.glob("results/**/rows.csv"))}  # as text: nothing else changes
    rows = pd.concat([rows for rows, _ in files.values()])
    PAIRS.extend(sorted({(head(t), head(m)) for t, m in zip(rows["task"], rows["method"], strict=True)}))
    pairs = {(f"{head(t)} {head(m)}", c) for t, m, c in zip(rows["task"], rows["method"], rows["code"], strict=True)}
    metrics = set(zip(rows["metric"], rows["metric_code"], strict=True)) - {("", "")}
    named = {str(kept.get("commit", "")) for _, facts in files.values() for kept in facts.values()} - {""}
    others = commits(named)
    evidence = [
        Evidence(
            base,
            {tuple(cell) for cell in cells},
            proved("pairs", pairs, base, others),
            proved("metrics", metrics, base, others),
        )
        for base, cells in same.items()
    ]
    counts: Counter[str] = Counter()
    for path, (rows, facts) in files.items():
        rows = rows.drop(columns="track", errors="ignore")
        for _, run in rows.groupby("attempt", sort=False):
            counts[restamp(rows, run, facts, evidence)] += 1
        if write:
            rows.to_csv(path, index=False)
    for reason, count in counts.most_common():
        print(f"{count:5} runs: {reason}")


@dataclass(frozen=True)
class Evidence:
    """What is known of one commit: its cells that give today's numbers, and the hashes whose source it has."""

    base: str
    cells: set[tuple[str, ...]]
    pairs: set[tuple[str, str]]
    metrics: set[tuple[str, str]]


def restamp(rows: pd.DataFrame, run: pd.DataFrame, facts: dict[str, dict[str, Any]], evidence: list[Evidence]) -> str:
    """Write today's hashes into the rows of one run if they are proved; what was found, in words."""
    first: Any = run.iloc[0]
    task, method = str(first["task"]), str(first["method"])
    try:
        job = job_of(first)
    except UserError:
        return "stale: it can't be built any more"
    try:
        code = job.code()
    except UserError:
        return "unknown: files of its task are not on this machine"
    rows.loc[run.index, "run_key"] = job.identity(int(first["seed"])).key
    if first["code"] == code:
        return "fresh already"
    commit = str(facts.get(first["env"], {}).get("commit", "")).rstrip("+")
    source = [one for one in evidence if (f"{head(task)} {head(method)}", first["code"]) in one.pairs]
    driver = [one for one in source if commit and probe(commit)["drivers"] == probe(one.base)["drivers"]]
    good = [one for one in driver if (task, method) in one.cells]
    if not good:
        return "stale: " + (
            "its source is that of no commit that was compared" if not source else
            "it was driven by other code than that of the commits compared" if not driver else
            "its cell was not shown to give the same numbers today"
        )  # fmt: skip
    rows.loc[run.index, "code"] = code
    for index, metric, code in zip(run.index, run["metric"], run["metric_code"], strict=True):
        if metric in TODAY and any((metric, code) in one.metrics for one in good):
            rows.loc[index, "metric_code"] = TODAY[metric]
        elif metric and metric not in TODAY:
            rows.loc[index, "metric_code"] = own_code(task, metric)
    return "fresh: proved"


@cache
def own_code(task: str, name: str) -> str:
    """The hash of a metric that the task itself brings; its source is in that of the task."""
    streams = Streams((0,))
    own = registry.parse("task", task).build(streams.fork(f"task/{head(task)}")).truth.metrics
    return next((fingerprint.metric_code(metric) for metric in own if metric.name == name), "")


def job_of(row: Any) -> Job:
    kept = {"seeds": [int(row["seed"])], "device": row["device"], "dtype": row["dtype"], "budget": {}}
    return Job.read({"task": row["task"], "method": row["method"], **kept})


if __name__ == "__main__":
    main()
