"""The same problem by public packages and by gwfbench, side by side: accuracy and seconds.

    python scripts/peers.py [NAME ...] [--only PEER] [--seeds 5] [--write results/peers]
    python scripts/peers.py --page results/peers

NAME is a comparison (--list shows them), PEER a package. The peers are an extra: pip install 'gwfbench[peers]'.
--write puts the numbers into results/peers.csv, in place of those of the same comparisons, and the page next to it;
--page makes the page again from the CSV and measures nothing.

Both sides get the same points, start and seeds, and one thread. Each seed is a repeat: theirs and ours take turns in
one process, the other one first at every second seed. Work that takes less than `LEAST` seconds is done several times
in a row. Seconds are CPU seconds of the process. All that happens once (compiling, reading data) comes before, and the
seconds of the first call are kept as `first`. Values are judged by the same code on both sides, off the clock.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy and JAX begin
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")

import pandas as pd
import peers_distances
import peers_flows
import peers_samplers
import torch
from peers_case import Case, Sides
from peers_page import CALL, page

from gwfbench.errors import UserError, unknown
from gwfbench.process import memory
from gwfbench.store.environment import environment

LEAST, LONG = 0.1, 20.0  # seconds of a timed piece of work, and beyond which its first call is not repeated
SECONDS = "seconds"
COLUMNS = (
    *("name", "peer", "version", "problem", "setting", "their_call", "our_call", "quantity", "kind", "theirs", "ours"),
    *("ratio", "exact", "seeds", "repeats", "all_theirs", "all_ours", "all_exact", "first_theirs", "first_ours"),
    *("calls_theirs", "calls_ours", "load", "date", "commit", "machine", "python", "torch"),
)


def cases() -> list[Case]:
    return [*peers_flows.cases(), *peers_samplers.cases(), *peers_distances.cases()]


def chosen(names: Sequence[str], only: str | None) -> list[Case]:
    """The comparisons that were asked for.

    Raises:
        UserError: there is no such comparison or peer, or a package is missing.
    """
    every = cases()
    for name in names:
        if name not in {case.name for case in every}:
            raise unknown("comparison", name, (case.name for case in every), "python scripts/peers.py --list")
    if only and only not in {case.peer for case in every}:
        raise unknown("peer", only, sorted({case.peer for case in every}), "python scripts/peers.py --list")
    mine = [case for case in every if (not names or case.name in names) and only in (None, case.peer)]
    if not mine:
        raise UserError(f"{', '.join(names)} with --only {only}", f"comparisons with {only}", "leave one of them out")
    missing = sorted({case.peer for case in mine if not all(map(importlib.util.find_spec, case.modules))})
    if missing:
        raise UserError(
            f"{', '.join(missing)}: not installed",
            "all packages that are compared with",
            f"pip install {' '.join(missing)}, or all of them: pip install 'gwfbench[peers]'; "
            "or compare with one that is there: --only PEER",
        )
    return mine


# --------------------------------------------------------------------------------------------------------- measuring


def timed(work: Callable[[], Any], times: int = 1) -> tuple[float, Any]:
    """CPU seconds of one of so many, and what the last one gave."""
    start, found = time.process_time(), None
    for _ in range(times):
        found = work()
    return (time.process_time() - start) / times, found


def measured(case: Case, seeds: int, small: bool = False) -> list[dict[str, Any]]:
    """The rows of a comparison: its seconds, and each number that was read off."""
    at = (case.small if small else case.start)()
    begin = at(0)
    first = [timed(begin.theirs)[0], timed(begin.ours)[0]]
    both = zip((begin.theirs, begin.ours), first, strict=True)
    often = [math.ceil(LEAST / max(_again(work, seconds), LEAST / 1000)) for work, seconds in both]
    load = os.getloadavg()[0]
    spent, found, calls = [], {}, []
    for seed in range(seeds):
        sides = at(seed)
        seconds, results = _turns(sides, often, seed % 2 == 1)
        spent.append(seconds)
        if sides.calls is not None:
            calls.append(sides.calls(*results))
        for quantity, numbers in sides.judge(*results).items():
            found.setdefault(quantity, []).append(numbers)
    line = {
        "name": case.name, "peer": case.peer, "version": str(version(case.peer)), "problem": case.problem,
        "setting": case.setting, "their_call": case.theirs, "our_call": case.ours, "seeds": seeds, "repeats": seeds,
        "load": round((load + os.getloadavg()[0]) / 2, 2), "first_theirs": first[0], "first_ours": first[1],
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"), **_facts(),
    }  # fmt: skip
    if calls:
        line |= {"calls_theirs": median(a for a, _ in calls), "calls_ours": median(b for _, b in calls)}
        each = [(a / m * 1e6, b / n * 1e6) for (a, b), (m, n) in zip(spent, calls, strict=True)]
        rows = [line | _row(SECONDS, "seconds", *zip(*spent, strict=True))]
        rows.append(line | _row(CALL, "seconds", *zip(*each, strict=True)))
    else:
        rows = [line | _row(SECONDS, "seconds", *zip(*spent, strict=True))]
    for quantity, each in found.items():
        exact = [one.exact for one in each if one.exact is not None]
        row = _row(quantity, each[0].kind, [one.theirs for one in each], [one.ours for one in each], exact)
        rows.append(line | row)
    return rows


def _again(work: Callable[[], Any], first: float) -> float:
    """Seconds of a second call, by which it is known how often work is done; long work is done once, whatever it is."""
    return first if first > LONG else timed(work)[0]


def _turns(sides: Sides, often: list[int], ours_first: bool) -> tuple[tuple[float, float], tuple[Any, Any]]:
    if ours_first:
        b, ours = timed(sides.ours, often[1])
        a, theirs = timed(sides.theirs, often[0])
    else:
        a, theirs = timed(sides.theirs, often[0])
        b, ours = timed(sides.ours, often[1])
    return (a, b), (theirs, ours)


def _row(quantity: str, kind: str, theirs: Any, ours: Any, exact: Any = ()) -> dict[str, Any]:
    """Medians, and all numbers they are of; the ratio, theirs over ours, is the median of those of the repeats."""
    ratios = [a / b if b else math.nan for a, b in zip(theirs, ours, strict=True)]
    return {
        "quantity": quantity, "kind": kind, "theirs": median(theirs), "ours": median(ours), "ratio": median(ratios),
        "exact": median(exact) if exact else None,
        **{f"all_{name}": " ".join(f"{value:.7g}" for value in values)
           for name, values in (("theirs", theirs), ("ours", ours), ("exact", exact))},
    }  # fmt: skip


def _facts() -> dict[str, Any]:
    facts = environment("cpu", 1)
    return {"commit": facts["commit"], "machine": facts["cpu"], "python": facts["python"], "torch": facts["torch"]}


# ----------------------------------------------------------------------------------------------------------- the file


def read(path: Path) -> pd.DataFrame:
    """The rows of the CSV, in the order of the comparisons."""
    if not path.is_file():
        raise UserError(f"{path}: no such file", "a CSV that --write made", "python scripts/peers.py --write DIR/peers")
    return pd.read_csv(path, keep_default_na=True, dtype={"all_theirs": str, "all_ours": str, "all_exact": str})


def kept(path: Path, rows: pd.DataFrame) -> None:
    """Put rows into the CSV, in place of those of the same comparisons."""
    if path.is_file():
        old = read(path)
        rows = pd.concat([old[~old["name"].isin(set(rows["name"]))], rows])
    order = {case.name: place for place, case in enumerate(cases())}
    rows = rows[rows["name"].isin(order)].sort_values("name", key=lambda names: names.map(order), kind="stable")
    rows.reindex(columns=list(COLUMNS)).to_csv(path, index=False, float_format="%.7g")


def peers() -> str:
    """The comparisons, by peer, with the version that is installed."""
    lines = []
    for case in cases():
        try:
            found = version(case.peer)
        except PackageNotFoundError:
            found = "not installed"
        lines.append(f"{case.name:34} {case.peer} ({found}): {case.problem}; {case.setting}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="comparisons to make; default: all")
    parser.add_argument("--only", metavar="PEER", help="only those with this package")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, each of which is a repeat")
    parser.add_argument("--write", type=Path, metavar="results/peers", help="put numbers into the CSV, make the page")
    parser.add_argument("--page", type=Path, metavar="results/peers", help="make the page, measure nothing")
    parser.add_argument("--list", action="store_true", help="show all comparisons")
    said = parser.parse_args()
    if said.seeds < 2:
        parser.error(f"--seeds {said.seeds}; expected 2 or more, as one shows no spread; write --seeds 5")
    if said.list:
        print(peers())
        return
    try:
        if said.page:
            said.page.with_suffix(".md").write_text(page(read(said.page.with_suffix(".csv"))), encoding="utf-8")
            return
        todo = chosen(said.names, said.only)
        torch.set_num_threads(1)
        memory.keep_pages()
        for case in todo:
            rows = pd.DataFrame(measured(case, said.seeds))
            shown = rows[["quantity", "theirs", "ours", "ratio", "exact"]].to_string(index=False)
            print(f"{case.name}: {case.problem}, {case.peer}\n{shown}", flush=True)
            if said.write:
                kept(said.write.with_suffix(".csv"), rows)
        if said.write:
            said.write.with_suffix(".md").write_text(page(read(said.write.with_suffix(".csv"))), encoding="utf-8")
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
