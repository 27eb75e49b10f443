"""How few iterations and critic steps of vjko give the law of the paper's 500 x 3: the study behind its defaults.

    python scripts/defaults.py --dry-run                       what it would cost, from rows that are at hand
    python scripts/defaults.py --out FOLDER [--seeds 10] [--jobs 2] [--only gmm] [-- --timeout 3600]
    python scripts/defaults.py --out FOLDER --tables           the tables of what is finished, nothing is run
    python scripts/defaults.py --out results/defaults_rows.csv --tables --write results     from rows that were kept

The study is scripts/defaults.toml (or --study FILE). Runs are those of `python -m gwfbench run`: finished ones are not
repeated, and words after -- go to it. Next to the tables (defaults.md) are their numbers (defaults.csv) and all rows
(defaults_rows.csv); --write names their folder.

    cost       updates of critic and map over those of the reference; seconds follow it, but not at the load of a day
    against    mean over seeds of the difference to the reference, and its 95 % interval (gwfbench/report/stats.py):
               a factor where all values of the metric on the task are positive
    verdict    worse or better: told apart by the paired t test, Holm's correction over the settings of a task, 5 %.
               Else nothing, which is no proof: `allows` is the end of the interval, the most by which the setting may
               be worse. A failed run counts as the worst value of its task
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

import gwfbench
from gwfbench.plugins import registry
from gwfbench.report import rows as results
from gwfbench.report import stats

ROOT = Path(__file__).parents[1]
ROWS = "defaults_rows.csv"
Cell = tuple[int, int]  # iterations and critic steps


@dataclass(frozen=True)
class Case:
    """A task of the study."""

    task: str
    method: str  # without iterations and critic_steps
    metrics: tuple[str, ...]  # the first decides
    jko_steps: int
    recorded: tuple[str, str, str]  # rows, task and method of a run whose seconds are scaled

    def spec(self, cell: Cell) -> str:
        """The method of a cell, as rows name it."""
        more = f"iterations={cell[0]},critic_steps={cell[1]}"
        return registry.spec(registry.parse("method", f"{self.method}{',' if ':' in self.method else ':'}{more}"))

    def seconds(self, cell: Cell) -> float:
        """Of training, by the recorded run: in proportion to JKO steps x updates x batch."""
        path, task, method = self.recorded
        rows = pd.read_csv(ROOT / path)
        rows = rows[(rows["task"] == task) & (rows["method"] == method)]
        return float(rows.groupby("seed")["seconds"].max().median()) * (
            self.jko_steps * updates(self.spec(cell)) / (rows["step"].max() * updates(method))
        )


def updates(method: str) -> int:
    """Of critic and map in a JKO step, times the batch."""
    fields = registry.parse("method", method)
    return fields.iterations * (fields.critic_steps + fields.map_steps) * fields.batch


@dataclass(frozen=True)
class Study:
    cases: tuple[Case, ...]
    cells: tuple[Cell, ...]
    reference: Cell
    defaults: Cell = (500, 3)  # of vjko when rows were made that are read from a CSV

    @classmethod
    def read(cls, path: Path, only: Sequence[str] = ()) -> Study:
        """The study of a file, of all tasks or of those whose name or text is given."""
        text = tomllib.loads(path.read_text())
        cases = tuple(
            Case(case["task"], case["method"], tuple(case["metrics"]), case["jko_steps"], tuple(case["recorded"]))
            for case in text["task"]
            if not only or {case["task"], registry.head(case["task"])} & set(only)
        )
        if not cases:
            raise SystemExit(f"--only {', '.join(only)}: not in {path}; expected one of its tasks")
        cells = tuple((i, c) for i in text["iterations"] for c in text["critic_steps"])
        return cls(cases, cells, tuple(text["reference"]), tuple(text["defaults"]))


@dataclass(frozen=True)
class Line:
    """A cell by one metric on one task."""

    task: str
    iterations: int
    critic_steps: int
    metric: str
    seeds: int
    finished: int
    train_seconds: float
    cost: float
    value: float
    low: float
    high: float
    scale: str  # of what follows: factor or difference
    against: float = math.nan
    against_low: float = math.nan
    allows: float = math.nan
    p: float = math.nan
    verdict: str = ""

    @property
    def cell(self) -> Cell:
        return self.iterations, self.critic_steps


def respelled(method: str, defaults: Cell) -> str:
    """A method of rows that were made when vjko had other defaults, as it is spelled today."""
    if registry.head(method) != "vjko":
        return method
    fields = {"iterations": str(defaults[0]), "critic_steps": str(defaults[1])} | registry.typed(method)
    return registry.spec(
        registry.parse("method", "vjko:" + ",".join(f"{key}={value}" for key, value in fields.items()))
    )


def run(study: Study, options: argparse.Namespace) -> None:
    """Run what is missing, a task after the other."""
    for case in study.cases:
        words = [sys.executable, "-m", "gwfbench", "run", "--task", case.task, "--seeds", str(options.seeds)]
        words += [word for cell in study.cells for word in ("--method", case.spec(cell))]
        words += ["--jobs", str(options.jobs), "--no-curve", "--format", "csv", "--out", str(options.out)]
        words += options.words
        done = subprocess.run(words, stdout=subprocess.DEVNULL, check=False)
        if done.returncode not in (0, 1):  # 1: a run failed, and has a row
            raise SystemExit(done.returncode)


def estimate(study: Study, seeds: int) -> Iterator[str]:
    """What the study takes."""
    total = 0.0
    for case in study.cases:
        costs = {cell: case.seconds(cell) for cell in study.cells}
        total += sum(costs.values())
        yield f"{case.task}  {case.method}"
        yield "  " + ", ".join(f"{name(cell)}: {cost:.0f} s" for cell, cost in costs.items())
        yield f"  all of them: {sum(costs.values()) / 60:.1f} min a seed, {sum(costs.values()) * seeds / 3600:.1f} h"
    yield f"{seeds} seeds of all tasks: {total * seeds / 3600:.1f} h of training on one core, as the rows had it"


def name(cell: Cell) -> str:
    return f"{cell[0]} x {cell[1]}"


def compared(study: Study, case: Case, rows: pd.DataFrame) -> list[Line]:
    """All cells of a task by all of its metrics."""
    rows = rows[rows["task"] == registry.spec(registry.parse("task", case.task))]
    rows = rows[rows["status"] != "killed"]  # not finished yet
    methods = {case.spec(cell): cell for cell in study.cells}
    own = {cell: rows[rows["method"] == method] for method, cell in methods.items()}
    seconds = {cell: group.groupby("seed")["seconds"].max() for cell, group in own.items() if len(group)}
    lines = []
    for metric in case.metrics:
        judged = rows[(rows["metric"] == metric) & rows["value"].notna()]
        last: list[Any] = judged.sort_values("step").groupby(["method", "seed"]).tail(1).to_dict("records")
        controls = [row["value"] for row in last if row["method"] not in methods]
        values = {cell: dict.fromkeys(map(int, own[cell]["seed"]), math.inf) for cell in seconds}
        for row in last:
            if row["method"] in methods:
                values[methods[row["method"]]][row["seed"]] = row["value"]
        lines += list(_lines(study, case, metric, values, seconds, controls))
    return lines


def scale(case: Case, rows: pd.DataFrame) -> str:
    """What the controls have: the floor, and the law that never moves."""
    rows = rows[rows["method"].isin(registry.CONTROLS) & (rows["task"] == case.task) & rows["value"].notna()]
    last = rows[rows["step"] == rows.groupby("method")["step"].transform("max")]
    medians = last.groupby(["metric", "method"])["value"].median()
    return "; ".join(
        f"{metric}: " + ", ".join(f"{control} {value:.3g}" for control, value in medians[metric].items())
        for metric in case.metrics
        if metric in medians
    )


def _lines(
    study: Study, case: Case, metric: str, values: dict[Cell, dict[int, float]],
    seconds: Mapping[Any, pd.Series], controls: list[float],
) -> Iterator[Line]:  # fmt: skip
    if study.reference not in values:
        return
    scaled, logs = stats.on_scale({name(cell): found for cell, found in values.items()}, controls)
    unit = stats.resolution([*controls, *(value for found in values.values() for value in found.values())])
    reference = scaled[name(study.reference)]
    rivals = [cell for cell in values if cell != study.reference]
    raw = [stats.differs(scaled[name(cell)], reference, unit, logs) for cell in rivals]
    ps = dict(zip(rivals, stats.holm(raw), strict=True))
    back = math.exp if logs else float
    for cell, found in values.items():
        ordered = sorted(found.values())
        low, high = stats.interval(ordered, logs)
        cost = updates(case.spec(cell)) / updates(case.spec(study.reference))
        line = (
            *(case.task, *cell, metric, len(found), sum(map(math.isfinite, ordered)), float(seconds[cell].median())),
            *(cost, float(pd.Series(ordered).median()), low, high, "factor" if logs else "difference"),
        )
        if cell == study.reference:
            yield Line(*line)
            continue
        mine = scaled[name(cell)]
        mean, half = stats.paired({seed: mine[seed] - reference[seed] for seed in mine.keys() & reference.keys()})
        apart = "" if ps[cell] >= stats.LEVEL else "worse" if mean > 0 else "better"
        yield Line(*line, back(mean), back(mean - half), back(mean + half), ps[cell], apart)


def smallest(lines: Sequence[Line], metrics: Sequence[str]) -> Line | None:
    """The cheapest setting that none of the metrics calls worse than the reference, in its line by the first metric."""
    bad = {line.cell for line in lines if line.metric in metrics and line.verdict == "worse"}
    good = [line for line in lines if line.metric == metrics[0] and line.cell not in bad]
    return min(good, key=lambda line: line.cost, default=None)


def over_all(lines: Mapping[Case, Sequence[Line]]) -> Cell | None:
    """The cheapest setting that was run on all tasks and that the metric that decides calls worse on none."""
    deciding = [line for case, found in lines.items() for line in found if line.metric == case.metrics[0]]
    cells = {
        line.cell: line.cost for line in deciding if sum(other.cell == line.cell for other in deciding) == len(lines)
    }
    worse = {line.cell for line in deciding if line.verdict == "worse"}
    return min(cells.keys() - worse, key=lambda cell: cells[cell], default=None)


def _against(line: Line) -> str:
    if math.isnan(line.against):
        return "-"
    sign = "x " if line.scale == "factor" else ""
    alone = math.isnan(line.allows)  # one seed has no interval
    ends = "" if alone else " [{}, {}]".format(*stats.outwards(line.against_low, line.allows))
    return f"{sign}{stats.rounded(line.against)}{ends}{' **' + line.verdict + '**' if line.verdict else ''}"


def _value(line: Line) -> str:
    ends = "" if math.isnan(line.low) else " [{}, {}]".format(*stats.outwards(line.low, line.high))
    failed = f", {line.seeds - line.finished} failed" if line.seeds > line.finished else ""
    return f"{stats.rounded(line.value)}{ends}{failed}"


def page(study: Study, lines: Mapping[Case, Sequence[Line]], rows: pd.DataFrame) -> Iterator[str]:
    """Findings first: the smallest settings, all tasks by the metric that decides, then each task by all metrics."""
    reference, today = name(study.reference), registry.parse("method", "vjko")
    yield "# Iterations and critic steps of `vjko`\n"
    yield (
        f"Which settings of a JKO step give a law that is not told from that of the paper's {reference}, and their "
        f"cost. `vjko`'s default is {name((today.iterations, today.critic_steps))}. Made by `python "
        "scripts/defaults.py` (its study: `scripts/defaults.toml`); rows: [defaults_rows.csv](defaults_rows.csv).\n\n"
        f"*cost*: updates of critic and map over those of {reference}. *against*: mean over seeds of the ratio "
        "(or difference), with its 95 % interval. **worse**, **better**: told apart by the paired t test "
        "at 5 %, corrected over the settings of a task (Holm). No mark is no proof that they are equal: *allows* is "
        "the end of the interval, the most by which a setting may be worse.\n"
    )
    yield f"## Smallest settings that are not told from {reference}\n"
    yield "| task | seeds | decided by | setting | cost | allows | by all metrics | cost |"
    yield "|:--|--:|:--|--:|--:|--:|--:|--:|"
    for case, found in lines.items():
        one, every = smallest(found, case.metrics[:1]), smallest(found, case.metrics)
        assert one is not None
        assert every is not None
        allows = "-" if math.isnan(one.allows) else ("x " if one.scale == "factor" else "") + stats.rounded(one.allows)
        yield (
            f"| {case.task} | {one.seeds} | {case.metrics[0]} | {name(one.cell)} | {one.cost:.3f} | {allows} "
            f"| {name(every.cell)} | {every.cost:.3f} |"
        )
    one = over_all(lines)
    yield f"\nOn all of them: {'none' if one is None else name(one)}."
    told = [
        f"{line.metric} on {line.task} ({stats.rounded(line.value)} for {stats.rounded(other.value)})"
        for found in lines.values() for line in found for other in found
        if line.cell == one and line.verdict == "worse" and (other.cell, other.metric) == (study.reference, line.metric)
    ]  # fmt: skip
    if told:
        yield f"Metrics that do not decide tell it from {reference}: {'; '.join(told)}."
    yield f"\n## Each setting against {reference}, by the metric that decides\n"
    yield "| iterations x critic steps | " + " | ".join(case.task for case in lines) + " |"
    yield "|--:|" + ":--|" * len(lines)
    for cell in study.cells:
        mine = [
            [line for line in found if line.cell == cell and line.metric == case.metrics[0]]
            for case, found in lines.items()
        ]
        yield f"| {name(cell)} | " + " | ".join(_against(part[0]) if part else "not run" for part in mine) + " |"
    for case, found in lines.items():
        yield f"\n## {case.task}\n\n`{case.method}`; {scale(case, rows)}\n"
        yield (
            "| iterations x critic steps | train s | cost | "
            + " | ".join(f"{metric} | against {reference}" for metric in case.metrics)
            + " |"
        )
        yield "|--:|--:|--:|" + ":--|:--|" * len(case.metrics)
        for cell in study.cells:
            mine = [line for line in found if line.cell == cell]
            if mine:
                parts = " | ".join(f"{_value(line)} | {_against(line)}" for line in mine)
                yield f"| {name(cell)} | {mine[0].train_seconds:.3g} | {mine[0].cost:.3f} | {parts} |"


def tables(study: Study, options: argparse.Namespace) -> None:
    """Write and print the tables of what is finished."""
    rows = gwfbench.load(options.out)
    if options.out.is_file():
        rows = rows.assign(method=[respelled(str(method), study.defaults) for method in rows["method"]])
    lines = {case: compared(study, case, rows) for case in study.cases}
    lines = {case: found for case, found in lines.items() if found}
    if not lines:
        raise SystemExit(
            f"{options.out}: no finished run of {name(study.reference)}; expected some; run without --tables"
        )
    options.write.mkdir(parents=True, exist_ok=True)
    text = "\n".join(page(study, lines, rows)) + "\n"
    (options.write / "defaults.md").write_text(text)
    pd.DataFrame([vars(line) for found in lines.values() for line in found]).to_csv(
        options.write / "defaults.csv", index=False
    )
    results.write(rows, options.write / ROWS)
    print(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, default=Path(__file__).with_suffix(".toml"))
    parser.add_argument("--out", type=Path, help="folder of the runs, or a CSV of rows with --tables")
    parser.add_argument("--write", type=Path, default=Path("defaults"), help="folder of the tables")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", action="append", default=[], help="a task, or all of this name (repeatable)")
    parser.add_argument("--dry-run", action="store_true", help="print what it would cost")
    parser.add_argument("--tables", action="store_true", help="run nothing")
    parser.add_argument("words", nargs="*", help="options of `run`, after --")
    options = parser.parse_args()
    study = Study.read(options.study, options.only)
    if options.dry_run:
        print("\n".join(estimate(study, options.seeds)))
        return
    if options.out is None:
        parser.error("no --out; expected a folder of runs; add --out FOLDER")
    if not options.tables:
        run(study, options)
    tables(study, options)


if __name__ == "__main__":
    main()
