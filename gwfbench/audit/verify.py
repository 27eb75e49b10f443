"""Run finished runs again from their rows alone, and say whether the numbers are the same.

A value is identical (every bit of it and of its standard error), within tolerance, like another seed, or different.
Both runs have the same random numbers, so that all that can differ is rounding (another processor, number of threads,
library) and what training makes of it. Tolerated is
    |new - old| <= 5 se        what the metric itself can't tell apart: the larger standard error of the two, or
    |new - old| <= 1e-3 |old|  three digits, for values whose standard error is smaller than that, or not known.
Where the code is the same, and the processor or a library is another one or not known, a value may also be like that of
another seed, then and now: inside the interval that holds one more draw in 99 % of cases, by the values of at least
four other seeds in the same rows (t, two-sided). Training can make that much of a last bit. Nothing smaller than the
spread over seeds is seen then.
Numbers of points and oracle calls, judged times and the status must be the same in any case, and no law that the run
has may lack among the rows of a metric, unless they are of the last law alone. Values that `score` made from the points
that the run kept are made in the same way again. A run that a budget of seconds cut is compared over the laws that both
have.
"""

from __future__ import annotations

import datetime
import math
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats

from gwfbench.audit import rescore
from gwfbench.audit.verdict import Verdict, Word
from gwfbench.budget import Budget
from gwfbench.drive.job import Job
from gwfbench.errors import UserError, require
from gwfbench.runs.options import Options
from gwfbench.runs.scheduler import perform
from gwfbench.store import environment, folders
from gwfbench.store.record import Run
from gwfbench.store.rows import tidy

SIGMAS, DIGITS = 5.0, 1e-3
SHARE, FEWEST = 0.99, 4  # of the interval by other seeds; the seeds that it takes
Off = tuple[Mapping[Any, Any], Mapping[Any, Any]]  # a row, and what it is now
NEEDED = (
    *("task", "method", "seed", "dtype", "device", "budget", "status", "run_key", "attempt", "code", "env"),
    *("step", "t", "metric", "metric_code", "value", "se", "n", "score_calls", "log_prob_calls", "draw_calls"),
)
EXACT = ("t", "n", "score_calls", "log_prob_calls", "draw_calls")


def pick(points: pd.DataFrame, count: int, seed: int) -> list[pd.DataFrame]:
    """The rows of `count` finished runs, chosen at random; of all if there are no more.

    Raises:
        UserError: columns are missing, or there are no finished runs.
    """
    missing = [name for name in NEEDED if name not in points.columns]
    fix = "run again, or write the rows again with report --write"
    require(not missing, f"rows without {', '.join(missing)}", "every column that a run is made from", fix)
    done = points[points["status"].isin(["ok", "budget"]) & points["metric"].notna()]
    keys = sorted(set(zip(done["run_key"], done["attempt"], strict=True)))
    require(bool(keys), "no finished runs", "at least one", "make them with python -m gwfbench run")
    chosen = np.random.default_rng(seed).permutation(len(keys))[:count]
    groups = done.groupby(["run_key", "attempt"])
    return [groups.get_group(keys[i]) for i in chosen]


def verify(rows: pd.DataFrame, facts: Mapping[str, Any], others: pd.DataFrame | None = None) -> Verdict:
    """Run one run again and compare.

    Args:
        rows: of one attempt.
        facts: of the environment that they were made in; empty if they are lost.
        others: rows of other seeds, and of anything else.
    """
    first = rows.iloc[0]
    threads = facts.get("threads")
    threads = threads if type(threads) is int and threads > 0 else 1
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
        with tempfile.TemporaryDirectory(prefix="gwfbench-verify-") as folder:
            by = first.get("judge")  # rows of before do not say
            judge = () if _missing(by) else tuple(str(by).split())
            options = Options(force=True, threads=threads, curve=_has_curve(rows), judge=judge)
            ((run,),) = perform([job], Path(folder), lambda *_: None, options)
            scored = _scored(rows, run, Path(folder))
    except UserError as error:
        return replace(blank, what=f"it can't be built any more: {error.got}")
    fresh = tidy([run])
    verdict, what, values, off = _compare(rows, [run, *scored], str(first["status"]))
    changed = [] if verdict == "identical" else list(_changes(rows, fresh, blank.code, run.code))
    why = [] if verdict == "identical" else [*changed, *_elsewhere(facts, now)]
    if off and why and not changed and others is not None and _among(off, others):
        verdict = "like another seed"
    return replace(
        blank, verdict=verdict, what=what, values=values, why="; ".join(why), code_now=run.code,
        env_now=environment.env_hash(now),
    )  # fmt: skip


def _job(first: pd.Series) -> Job:
    budget = "" if pd.isna(first["budget"]) else str(first["budget"])
    words = {name: str(first[name]) for name in ("task", "method", "device", "dtype")}
    return Job.read(words | {"seeds": [int(first["seed"])], "budget": Budget.read(budget).limits()})


def _has_curve(rows: pd.DataFrame) -> bool:
    """Whether the run judged laws on the way: one of `--no-curve` is run again without them."""
    return bool(rows["t"].notna().any()) or rows["step"].nunique() > 1


def _scored(rows: pd.DataFrame, run: Run, out: Path) -> list[Run]:
    """The run again with the values that `score` makes, for each metric of the rows that has others than the run."""
    have = {(row.step, row.metric): row.n for row in run.rows}
    wanted = [row["metric"] for row in rows.to_dict("records") if have.get((row["step"], row["metric"])) != row["n"]]
    found = []
    for name in dict.fromkeys(wanted):
        try:
            found.append(replace(run, rows=rescore.again(name, run, folders.places(out)[run.attempt])))
        except (rescore.CantScore, UserError, KeyError):
            continue  # what can't be had is told as such
    return found


def _compare(rows: pd.DataFrame, made: Sequence[Run], was: str) -> tuple[Word, str, int, list[Off]]:
    """The verdict, the worst value in words, how many were compared, and those that make it different.

    Args:
        made: the run as it was made again, and after it what was scored of its points.
    """
    run, records = made[0], rows.to_dict("records")
    if run.status != was:
        return "different", f"it ended {run.status} ({run.reason}) where it had ended {was}", 0, []
    cut = was == "budget" and "seconds" in run.budget
    lacks = "" if cut else _lacking(records, made)
    if lacks:
        return "different", lacks, 0, []
    new: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for row in (row for one in made for row in one.rows):
        new[row.step, row.metric].append(vars(row))
    offs: list[tuple[float, Off]] = []
    for row in records:
        mine = new[row["step"], row["metric"]]
        if not mine:
            if cut:
                continue
            return "different", f"{_named(row)}: got no such row", len(offs), []
        got = next((one for one in mine if one["n"] == row["n"]), mine[-1])
        for field in (*EXACT, "worst"):
            then = row.get(field)
            same = got[field] == then or (_missing(got[field]) and _missing(then))
            if not same and not (field == "worst" and (_missing(then) or not then)):  # rows of before have none
                return "different", f"{field} of {_named(row)}: got {got[field]}, expected {then}", len(offs), []
        offs.append((_off(row, got), (row, got)))
    if not offs:
        return "not run", "no value of it can be compared", 0, []
    worst, (row, got) = max(offs, key=lambda one: one[0])
    said = (
        f"{_named(row)}: got {got['value']!r}, expected {row['value']!r}, standard error {row['se']:.2g}"
        if worst
        else ""
    )
    word: Word = "different" if worst > 1 else "within tolerance" if worst > 0 else "identical"
    return word, said, len(offs), [one for off, one in offs if off > 1]


def _among(off: Sequence[Off], others: pd.DataFrame) -> bool:
    """Whether each of these values, then and now, is where one more seed's might be, by those of the others."""
    for row, got in off:
        fits = others["seed"] != row["seed"]
        for name in ("task", "method", "metric", "step", "n", "code"):
            fits &= others[name] == row[name]
        found = others[fits].drop_duplicates("seed", keep="last")["value"].dropna()
        if len(found) < FEWEST or _missing(got["value"]):
            return False
        width = scipy.stats.t.ppf((1 + SHARE) / 2, len(found) - 1) * found.std() * math.sqrt(1 + 1 / len(found))
        if not max(abs(one["value"] - found.mean()) for one in (row, got)) <= width:
            return False
    return True


def _lacking(records: Sequence[Mapping[Any, Any]], made: Sequence[Run]) -> str:
    """A law that the run judges by a metric of the rows, and that they lack, in words; empty if there is none."""
    metrics, have = {row["metric"] for row in records}, {(row["step"], row["metric"]) for row in records}
    steps = {step for step, _ in have}
    last = max((row.step for run in made for row in run.rows), default=0)
    asked = steps if steps == {last} else None  # `report --laws last` kept the last law of all
    for row in (row for run in made for row in run.rows if asked is None or row.step in asked):
        if row.metric in metrics and (row.step, row.metric) not in have:
            return f"{_named(vars(row))}, step {row.step}: the rows lack it"
    return ""


def _named(row: Mapping[Any, Any]) -> str:
    return f"{row['metric']}" + ("" if _missing(row["t"]) else f" at t = {row['t']:g}")


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


def _changes(rows: pd.DataFrame, fresh: pd.DataFrame, code: str, code_now: str) -> Iterator[str]:
    """What of the code differs between then and now."""
    if code != code_now:
        yield f"other code: {code_now}, then {code}"
    codes, today = (dict(zip(one["metric"], one["metric_code"], strict=True)) for one in (rows, fresh))
    changed = [name for name, then in codes.items() if today.get(name, then) != then]
    if changed:
        yield f"other code of {', '.join(changed)}"


def _elsewhere(facts: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What of machine and libraries is known to differ between then and now, or isn't known."""
    if not facts:
        yield "the facts of the environment then are lost"
    elif "processor" not in facts:
        here = now.get("processor")
        yield f"which processor it was is not known; here it is {here}, and another kind rounds otherwise"
    for name, then in facts.items():
        if name not in ("commit", "gwfbench") and now.get(name) != then:
            yield f"other {name}: {now.get(name)}, then {then}"
