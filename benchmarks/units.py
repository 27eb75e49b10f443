"""How fast it is, in units: 400 x (1024x64 @ 64x64 + tanh) on one thread, timed in the same process as the work.

    python -m benchmarks.units [NAME ...] [--rounds 5] [--quick] [--against CHECKOUT] [--format table|csv|json]
    python -m benchmarks.units --write results/speed.csv
    python -m benchmarks.units --page results/speed.csv

NAME is a piece of work of benchmarks/works.py (--list shows them); without one all are timed, --quick in two minutes
and without the slow ones. Each piece has a process of its own, and with --against another one, in which the same piece
is done by the other checkout: rounds take turns, so that both see the same load. That works for checkouts from 998e922
on; where it does not, and where something is not there, the line says so.

    seconds    CPU seconds, never wall: of the process, or of all processes that a command has started
    units      seconds of the work over those of the unit, which is timed before and after it: the less of the two
    least      and median: of the rounds
    part       where a round is a tenth (say) of the work, iterations and particles alike, its seconds are multiplied

--write keeps the numbers in a CSV. --page puts them into the page next to it, between `<!-- speed NAME -->` and
`<!-- end -->`; all else on the page stays, and where there is no page, benchmarks/page.md is its beginning.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from benchmarks.pieces import NotMeasured
from benchmarks.works import WORKS

ROOT = Path(__file__).parents[1]
HERE, AGAINST = "here", "against"
LAST = "last law"  # of the parts of a piece of work
COLUMNS = (
    *("work", "side", "reason", "name", "rounds", "part", "load", "date", "units_least", "units_median"),
    *("seconds_least", "seconds_median", "unit_seconds", "all_units", "cpu", "torch", "python", "commit"),
)
BLOCK = re.compile(r"(<!-- speed (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
# In a process of its own: benchmarks of this checkout, all else of the other one
SERVE = """
import sys
sys.path.insert(0, {here!r})
import benchmarks
sys.path[0] = {root!r}
from benchmarks.units import serve
serve({name!r}, {quick!r}, {root!r})
"""


def serve(name: str, quick: bool, root: str) -> None:
    """The process of a piece of work: it says where it is, then times a round for each line that it reads."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the work prints is no answer
    try:
        from benchmarks.pieces import settle, timed
        from gwfbench.store.environment import environment

        settle()
        facts = environment("cpu", 1)
        work = WORKS[name]
        part = work.quick if quick else work.part
        one = work.start(part)
        ours = {name: part.__file__ or root for name, part in sys.modules.items() if name.startswith("gwfbench.")}
        for module, file in ours.items():  # an installed gwfbench fills in what a checkout lacks
            if not Path(file).is_relative_to(root):
                raise NotMeasured(f"{module} is not in this checkout")
        answers.write(json.dumps({"facts": {key: facts[key] for key in ("cpu", "torch", "python", "commit")}}) + "\n")
        for _ in sys.stdin:
            answers.write(json.dumps(vars(timed(one, part * work.times))) + "\n")
    except NotMeasured as error:
        answers.write(json.dumps({"error": str(error)}) + "\n")
    except Exception as error:
        answers.write(json.dumps({"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}) + "\n")


class Peer:
    """A piece of work in a process of its own."""

    def __init__(self, root: Path, name: str, quick: bool):
        code = SERVE.format(here=str(ROOT), root=str(root), name=name, quick=quick)
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment.pop("PYTHONPATH", None)
        self._process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            stderr=subprocess.DEVNULL, env=environment,
        )  # fmt: skip
        self.facts = self._answer()["facts"]

    def round(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        return self._answer()

    def end(self) -> None:
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": "its process ended"}
        if "error" in answer:
            self.end()
            raise NotMeasured(answer["error"])
        return answer


def measured(name: str, roots: dict[str, Path], rounds: int, quick: bool) -> list[dict[str, Any]]:
    """The rows of a piece of work: one per side and part."""
    work, peers, why = WORKS[name], {}, {}
    taken: dict[str, list[dict[str, Any]]] = {side: [] for side in roots}
    for side, root in roots.items():
        try:
            peers[side] = Peer(root, name, quick)
        except NotMeasured as error:
            why[side] = str(error)
    load = os.getloadavg()[0]
    for count in range(rounds):
        for side in list(peers)[:: 1 if count % 2 else -1]:
            try:
                taken[side].append(peers[side].round())
            except NotMeasured as error:
                why[side] = str(error)
                del peers[side]
    for peer in peers.values():
        peer.end()
    facts = {
        "rounds": rounds, "part": work.quick if quick else work.part, "load": round((load + os.getloadavg()[0]) / 2, 2),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
    }  # fmt: skip
    rows = []
    for side in roots:
        line = {"work": name, "side": side, "reason": why.get(side, ""), "name": "whole", **facts}
        if side in why:
            rows.append(line)
            continue
        units = [one["unit"] for one in taken[side]]
        for part in taken[side][0]["parts"]:
            seconds = [one["parts"].get(part, float("nan")) for one in taken[side]]
            ratios = [spent / unit for spent, unit in zip(seconds, units, strict=True)]
            rows.append(line | {
                "name": part, "units_least": min(ratios), "units_median": median(ratios),
                "seconds_least": min(seconds), "seconds_median": median(seconds), "unit_seconds": median(units),
                "all_units": " ".join(f"{ratio:.4g}" for ratio in ratios), **peers[side].facts,
            })  # fmt: skip
    return rows


# The table


def value(row: Any, which: str) -> float:
    """Of a row, in the unit of its work."""
    return float(row[f"{'units' if WORKS[row['work']].unit == 'units' else 'seconds'}_{which}"])


def shown(number: float) -> str:
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"


def table(rows: pd.DataFrame) -> list[list[str]]:
    """A line for each piece of work, with its head."""
    records: list[Any] = rows[rows["name"] == "whole"].to_dict("records")
    whole = {(row["work"], row["side"]): row for row in records}
    both = AGAINST in set(rows["side"])
    lines = [["work", "in", "at 0f65f38", "least", "median", "goal", "/ goal", "authors", "authors /", "/ bare"]]
    lines[0] += ["against: least", "median", "against /"] if both else []
    for name, work in WORKS.items():
        numbers = {side: _numbers(whole, name, side) for side in (HERE, AGAINST)}
        if not any(numbers.values()):
            continue
        least, middle = numbers[HERE] or ("not run", None)
        _, limit = (work.bare and _numbers(whole, work.bare, HERE)) or ("", None)
        over = _ratio(middle, float(work.goal) if work.goal else None)
        lines.append([work.what, work.unit, work.before or "-", least, _cell(middle), work.goal or "-", over])
        lines[-1] += [work.authors or "-", _ratio(_first(work.authors), middle), _ratio(middle, limit)]
        if both:
            other, theirs = numbers[AGAINST] or ("not run", None)
            lines[-1] += [other, _cell(theirs), _ratio(theirs, middle)]
    return lines


def _numbers(whole: Mapping[tuple[str, str], Any], name: str, side: str) -> tuple[str, float | None] | None:
    """Least, or why there is none, and median; None if the work was not asked for."""
    row = whole.get((name, side))
    if row is None or not row["reason"]:
        return row and (shown(value(row, "least")), value(row, "median"))
    return f"not measured: {row['reason']}", None


def _first(text: str) -> float | None:
    """The first number; of a range, the one that flatters us least."""
    return float(re.split("[- ]", text)[0]) if text else None


def _cell(number: float | None) -> str:
    return "-" if number is None else shown(number)


def _ratio(over: float | None, under: float | None) -> str:
    return "-" if over is None or under is None else f"{over / under:.2f}"


def markdown(lines: Sequence[Sequence[str]], left: int = 1) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * width if i < left else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    sides = [str.ljust] * left + [str.rjust] * (len(widths) - left)
    ready = [
        [to(cell, width) for to, cell, width in zip(sides, line, widths, strict=True)]
        for line in (lines[0], rule, *lines[1:])
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in ready)


def parts(rows: pd.DataFrame) -> list[list[str]]:
    """CPU seconds, medians, of what those pieces of work consist of that say so; of laws the last one beside."""
    lines = [["work", "part", "CPU s", "last law"]]
    for name in [name for name in dict.fromkeys(rows["work"]) if WORKS[name].unit != "launches"]:
        mine = rows[(rows["work"] == name) & (rows["side"] == HERE) & rows["reason"].eq("")]
        seconds = dict(zip(mine["name"], mine["seconds_median"], strict=True))
        late = [part for part in seconds if part.startswith(LAST)]
        last = {part.removeprefix(LAST).strip(": ") or "whole": seconds.pop(part) for part in late}
        names = list(dict.fromkeys([*seconds, *last]))
        for part in names if len(names) > 1 else []:
            cells = [shown(found[part]) if part in found else "-" for found in (seconds, last)]
            lines.append([WORKS[name].what, part, *cells])
    return lines


def goals(rows: pd.DataFrame) -> Iterator[str]:
    """Which goals are met, by medians, and by how much the others are missed."""
    met, missed, absent = [], [], []
    for name, work in WORKS.items():
        found = rows[(rows["work"] == name) & (rows["name"] == "whole") & (rows["side"] == HERE)]
        if not work.goal or not len(found):
            continue
        row = found.iloc[0]
        if row["reason"]:
            absent.append(f"{work.what} ({row['reason']})")
            continue
        number, goal = value(row, "median"), float(work.goal)
        text = f"{work.what}: {shown(number)} {work.unit}, goal {work.goal}"
        if number <= goal:
            met.append(text)
        else:
            missed.append(f"{text}, {number / goal:.2f} times as much")
    yield f"**{len(met)} of {len(met) + len(missed)} goals are met** (medians).\n"
    for title, texts in (("Met", met), ("Missed", missed), ("Not measured", absent)):
        if texts:
            yield "\n".join([f"{title}:\n", *(f"- {text}" for text in texts), ""])


def made(rows: pd.DataFrame) -> str:
    """Where and when the numbers were made."""
    good = rows[rows["reason"].eq("")]
    if not len(good):
        return "- nothing was measured"
    facts = []
    for side in (HERE, AGAINST):
        mine = good[good["side"] == side]
        if len(mine):
            commits = ", ".join(
                f"{commit.rstrip('+')}{' with changes' if commit.endswith('+') else ''}"
                for commit in sorted(set(mine["commit"]))
            )
            facts.append(f"{side}: commit {commits}")
    loads, units, rounds = good["load"], good["unit_seconds"], sorted(set(good["rounds"]))
    facts += [
        f"processor {', '.join(sorted(set(good['cpu'])))}, one thread",
        f"torch {', '.join(sorted(set(good['torch'])))}, Python {', '.join(sorted(set(good['python'])))}",
        f"rounds: {', '.join(map(str, rounds))}; {good['date'].min()} to {good['date'].max()}",
        f"load average {loads.min():.1f} to {loads.max():.1f}; the unit took {units.min():.3f} to {units.max():.3f} s",
    ]
    return "\n".join(f"- {fact}" for fact in facts)


def page(rows: pd.DataFrame, old: str) -> str:
    """The page with its blocks made anew."""
    new = {
        "goals": "\n" + "\n".join(goals(rows)),
        "table": "\n" + markdown(table(rows)) + "\n\n",
        "parts": "\n" + markdown(parts(rows), 2) + "\n\n",
        "made": "\n" + made(rows) + "\n\n",
    }

    def block(found: re.Match[str]) -> str:
        if found[2] not in new:
            raise SystemExit(
                f"<!-- speed {found[2]} -->: no such block; expected one of {', '.join(new)}; mend the page"
            )
        return found[1] + new[found[2]] + found[3]

    return BLOCK.sub(block, old)


def read(path: Path) -> pd.DataFrame:
    try:
        rows = pd.read_csv(path, dtype={"commit": str, "python": str, "reason": str})
    except (OSError, ValueError) as error:
        raise SystemExit(f"{path}: {error}; expected numbers that --write has kept; run with --write first") from None
    return rows.assign(reason=rows["reason"].fillna(""))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.units", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT")
    parser.add_argument("--format", choices=("table", "csv", "json"), default="table")
    parser.add_argument("--write", type=Path, metavar="CSV", help="lines of other work in it are kept")
    parser.add_argument("--page", type=Path, metavar="CSV", help="time nothing: put the numbers into the page")
    parser.add_argument("--list", action="store_true", help="time nothing: show the pieces of work")
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(WORKS))
    if unknown:
        parser.error(f"no work {', '.join(unknown)}; expected {', '.join(WORKS)}")
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds}; expected 1 or more")
    if options.against and not (options.against / "gwfbench").is_dir():
        parser.error(f"--against {options.against}: no gwfbench in it; expected the folder of a checkout")
    return options


def kept(path: Path, rows: pd.DataFrame) -> None:
    """Write the rows, beside those of other work that are there."""
    if path.exists():
        old = read(path)
        rows = pd.concat([old[~old["work"].isin(set(rows["work"]))], rows], ignore_index=True)
    order = {name: i for i, name in enumerate(WORKS)}
    rows = rows.sort_values("work", key=lambda names: names.map(order), kind="stable")
    rows.to_csv(path, index=False, float_format="%.5g")


def main() -> None:
    options = _options()
    if options.list:
        print(markdown([["name", "work"], *([name, work.what] for name, work in WORKS.items())], 2))
        return
    if options.page:
        at = options.page.with_suffix(".md")
        old = at if at.exists() else Path(__file__).with_name("page.md")
        at.write_text(page(read(options.page), old.read_text()))
        return
    roots = {HERE: ROOT} | ({AGAINST: options.against.resolve()} if options.against else {})
    names = options.names or [name for name, work in WORKS.items() if not (options.quick and work.slow)]
    rows: list[dict[str, Any]] = []
    for name in names:
        rows += measured(name, roots, options.rounds, options.quick)
        for row in rows:
            if (row["work"], row["name"]) == (name, "whole"):
                number = row["reason"] or f"{value(row, 'median'):.3g} {WORKS[name].unit}"
                print(f"{name}, {row['side']}: {number}", file=sys.stderr, flush=True)
    found = pd.DataFrame(rows, columns=pd.Index(COLUMNS))
    if options.write:
        kept(options.write, found)
    if options.format == "table":
        print(markdown(table(found)), *([markdown(parts(found), 2)] if len(parts(found)) > 1 else []), sep="\n\n")
        print(f"\n{made(found)}")
    elif options.format == "csv":
        print(found.to_csv(index=False), end="")
    else:
        print(found.to_json(orient="records", lines=True), end="")


if __name__ == "__main__":
    main()
