"""Run finished runs again from their rows alone, and say whether the numbers are the same.

A value is identical (every bit of it and of its standard error), within tolerance, or different. Both runs have the
same random numbers, so that all that can differ is rounding (another processor, number of threads, library) and what
training makes of it. Tolerated is
    |new - old| <= 5 se        what the metric itself can't tell apart: the larger standard error of the two, or
    |new - old| <= 1e-3 |old|  three digits, for values whose standard error is smaller than that, or not known.
Numbers of points and oracle calls, judged times and the status must be the same in any case. A run that a budget of
seconds cut is compared over the laws that both have.
"""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from gwfbench.budget import Budget
from gwfbench.drive.job import Job
from gwfbench.errors import UserError, require
from gwfbench.runs.options import Options
from gwfbench.runs.scheduler import perform
from gwfbench.store import environment
from gwfbench.store.record import to_json
from gwfbench.store.rows import tidy

SIGMAS, DIGITS = 5.0, 1e-3
FILE = "verified.jsonl"
NEEDED = (
    *("task", "method", "seed", "dtype", "device", "budget", "status", "run_key", "attempt", "code", "env"),
    *("step", "t", "metric", "metric_code", "value", "se", "n", "score_calls", "log_prob_calls", "draw_calls"),
)
EXACT = ("t", "n", "score_calls", "log_prob_calls", "draw_calls")
Word = Literal["identical", "within tolerance", "different", "not run"]


@dataclass(frozen=True)
class Verdict:
    """What became of one run when it was run again."""

    task: str
    method: str
    seed: int
    run_key: str
    attempt: str
    verdict: Word
    what: str = ""  # the worst value: metric, t, got, expected
    why: str = ""  # known reasons for a difference
    values: int = 0  # compared
    code: str = ""  # of the rows
    env: str = ""  # of the rows
    date: str = ""
    env_now: str = ""
    code_now: str = ""


def pick(points: pd.DataFrame, count: int, seed: int) -> list[pd.DataFrame]:
    """The rows of `count` finished runs, chosen at random; of all if there are no more.

    Raises:
        UserError: columns are missing, or there are no finished runs.
    """
    missing = [name for name in NEEDED if name not in points.columns]
    fix = "rows that this version wrote: run again, or report --write"
    require(not missing, f"rows without {', '.join(missing)}", "all that a run is made from", fix)
    done = points[points["status"].isin(["ok", "budget"]) & points["metric"].notna()]
    keys = sorted(set(zip(done["run_key"], done["attempt"], strict=True)))
    require(bool(keys), "no finished runs", "at least one", "python -m gwfbench run makes them")
    chosen = np.random.default_rng(seed).permutation(len(keys))[:count]
    groups = done.groupby(["run_key", "attempt"])
    return [groups.get_group(keys[i]) for i in chosen]


def verify(rows: pd.DataFrame, facts: Mapping[str, Any]) -> Verdict:
    """Run one run again and compare.

    Args:
        rows: of one attempt.
        facts: of the environment that they were made in; empty if they are lost.
    """
    first = rows.iloc[0]
    threads = int(facts.get("threads", 1))
    blank = Verdict(
        str(first["task"]), str(first["method"]), int(first["seed"]), str(first["run_key"]), str(first["attempt"]),
        "not run", code=str(first["code"]), env=str(first["env"]),
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )  # fmt: skip
    try:
        job = _job(first)
        key = job.identity(blank.seed).key
        if key != blank.run_key:
            why = "fields or versions are others today"
            return replace(blank, what=f"run key {key} where the rows have {blank.run_key}", why=why)
        now = environment.environment(job.device, threads)
        ((run,),) = perform([job], None, lambda *_: None, Options(force=True, threads=threads))
    except UserError as error:
        return replace(blank, what=f"it can't be built any more: {error.got}")
    fresh = tidy([run])
    verdict, what, values = _compare(rows, fresh[fresh["metric"].notna()], str(first["status"]), run.status, run.reason)
    why = [] if verdict == "identical" else _reasons(rows, fresh, blank.code, run.code, facts, now)
    return replace(
        blank, verdict=verdict, what=what, values=values, why="; ".join(why), code_now=run.code,
        env_now=environment.env_hash(now),
    )  # fmt: skip


def _job(first: pd.Series) -> Job:
    budget = "" if pd.isna(first["budget"]) else str(first["budget"])
    words = {name: str(first[name]) for name in ("task", "method", "device", "dtype")}
    return Job.read(words | {"seeds": [int(first["seed"])], "budget": Budget.read(budget).limits()})


def _compare(rows: pd.DataFrame, fresh: pd.DataFrame, was: str, status: str, reason: str) -> tuple[Word, str, int]:
    """The verdict, the worst value in words, and how many were compared."""
    if status != was:
        return "different", f"it ended {status} ({reason}) where it had ended {was}", 0
    new = {(row["step"], row["metric"]): row for row in fresh.to_dict("records")}
    worst: tuple[float, str] = (0.0, "")
    values = 0
    for row in rows.to_dict("records"):
        name = f"{row['metric']}" + ("" if _missing(row["t"]) else f" at t = {row['t']:g}")
        got = new.get((row["step"], row["metric"]))
        if got is None:
            if was == "budget":
                continue
            return "different", f"{name}: got no such row", values
        if row["n"] < got["n"]:  # scored later, from the points that were kept
            continue
        for field in EXACT:
            if got[field] != row[field] and not (_missing(got[field]) and _missing(row[field])):
                return "different", f"{field} of {name}: got {got[field]}, expected {row[field]}", values
        values += 1
        off = _off(row, got)
        if off > worst[0]:
            worst = off, f"{name}: got {got['value']!r}, expected {row['value']!r}, standard error {row['se']:.2g}"
    if not values:
        return "not run", "no value of it can be compared", 0
    word: Word = "different" if worst[0] > 1 else "within tolerance" if worst[0] > 0 else "identical"
    return word, worst[1], values


def _off(row: Mapping[Any, Any], got: Mapping[Any, Any]) -> float:
    """How far two values are apart, in units of what is tolerated; 0 only if they and their errors are identical."""
    value, new = (math.nan if _missing(one["value"]) else float(one["value"]) for one in (row, got))
    se, new_se = (math.nan if _missing(one["se"]) else float(one["se"]) for one in (row, got))
    if math.isnan(value) or math.isnan(new):
        return 0.0 if math.isnan(value) and math.isnan(new) else math.inf
    errors = [one for one in (se, new_se) if not math.isnan(one)]
    tolerance = max([DIGITS * abs(value), *(SIGMAS * one for one in errors)])
    if value == new:
        return 0.0 if se == new_se or not errors else 1e-300
    return abs(new - value) / tolerance if tolerance else math.inf


def _missing(value: Any) -> bool:
    return value is None or value != value


def _reasons(
    rows: pd.DataFrame, fresh: pd.DataFrame, code: str, code_now: str, facts: Mapping[str, Any], now: Mapping[str, Any]
) -> Iterator[str]:
    """What is known to differ between then and now."""
    if code != code_now:
        yield f"other code: {code_now}, then {code}"
    codes, today = (dict(zip(one["metric"], one["metric_code"], strict=True)) for one in (rows, fresh))
    changed = [name for name, then in codes.items() if today.get(name, then) != then]
    if changed:
        yield f"other code of {', '.join(changed)}"
    if not facts:
        yield "the facts of the environment then are lost"
    for name, then in facts.items():
        if name != "commit" and now.get(name) != then:
            yield f"other {name}: {now.get(name)}, then {then}"


def keep(out: Path, verdict: Verdict) -> None:
    """Append a verdict to verified.jsonl."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / FILE).open("a", encoding="utf-8") as file:
        file.write(to_json(asdict(verdict)) + "\n")


def kept(out: Path) -> tuple[list[Verdict], list[str]]:
    """The verdicts so far, and what else was found among them."""
    found, strange = [], []
    path = out / FILE
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines() if path.is_file() else (), start=1):
        try:
            found.append(Verdict(**json.loads(line)))
        except (ValueError, TypeError) as error:
            strange.append(f"{FILE}:{number}: {error}")
    return found, strange
