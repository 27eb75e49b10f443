"""The tables of docs/statistics.md are what is measured: `python tests/test_statistics_doc.py` prints them anew."""

import math
import re
from pathlib import Path

import numpy as np
import pytest

from gwfbench.report import stats
from gwfbench.report.board import suites

DOC = Path(__file__).parents[1] / "docs" / "statistics.md"
SEEDS, METHODS = (2, 3, 5, 10), (2, 8, 14)
BOARDS = {"coverage": 20_000, "error": 2000, "power": 1000}


def coverage(seeds, noise, count, rng):
    """How often the interval holds the median of the law."""
    draws = np.sort(
        {"normal": rng.normal, "lognormal": rng.normal, "t2": lambda size: rng.standard_t(2, size)}[noise](
            size=(count, seeds)
        )
    )
    logs = noise == "lognormal"
    values = np.exp(draws) if logs else draws
    ends = [stats.interval(one, logs) for one in values.tolist()]
    return np.mean([low <= (1.0 if logs else 0.0) <= high for low, high in ends])


def told(seeds, methods, noise, factor, count, rng):
    """How often the first pair, and how often any pair, is told apart; sd of a difference of logarithms: 0.5."""
    first, some = 0, 0
    for _ in range(count):
        values = (
            0.5
            / math.sqrt(2)
            * (rng.standard_t(2, size=(methods, seeds)) if noise == "t2" else rng.normal(size=(methods, seeds)))
        )
        values[0] += math.log(factor)
        apart = stats.told_apart({f"m{i}": dict(enumerate(np.exp(own).tolist())) for i, own in enumerate(values)})
        first += frozenset(("m0", "m1")) in apart
        some += bool(apart)
    return first / count, some / count


def tables(boards):
    """By name: heads of rows, heads of columns, and the shares."""
    rng = np.random.default_rng(15)
    many, several = [(m, noise) for m in METHODS for noise in ("normal", "t2")], METHODS
    return {
        "coverage": (["normal", "lognormal", "t2"], (*SEEDS[:3], 6, 7, 10),
                     lambda noise, s: coverage(s, noise, boards["coverage"], rng)),
        "error": ([f"{m}, {noise}" for m, noise in many], SEEDS,
                  lambda who, s: told(s, int(who.split(",")[0]), who.split(" ")[1], 1.0, boards["error"], rng)[1]),
        "power": ([str(m) for m in several], SEEDS,
                  lambda m, s: told(s, int(m), "normal", 3.0, boards["power"], rng)[0]),
    }  # fmt: skip


def printed(boards):
    for name, (rows, columns, measure) in tables(boards).items():
        yield f"<!-- {name} -->"
        yield "| | " + " | ".join(f"{seeds} seeds" for seeds in columns) + " |"
        yield "|:---|" + "---:|" * len(columns)
        for row in rows:
            yield f"| {row} | " + " | ".join(f"{100 * measure(row, seeds):.1f} %" for seeds in columns) + " |"
        yield "<!-- end -->"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["coverage", "error", "power"])
def test_the_document_has_what_is_measured(name):
    text = DOC.read_text(encoding="utf-8")
    block = re.search(rf"<!-- {name} -->\n(.*?)<!-- end -->", text, re.DOTALL)[1].splitlines()
    said = {
        line.split("|")[1].strip(): [float(x.strip(" %")) / 100 for x in line.split("|")[2:-1]] for line in block[2:]
    }
    boards = {"coverage": 1000, "error": 100, "power": 100}
    rows, columns, measure = tables(boards)[name]
    assert [f"{seeds} seeds" for seeds in columns] == [cell.strip() for cell in block[0].split("|")[2:-1]]
    for row in rows:
        for seeds, share in zip(columns, said[row], strict=True):
            error = math.sqrt((share * (1 - share) + 0.01) / boards[name])
            assert measure(row, seeds) == pytest.approx(share, abs=5 * error), (row, seeds)
    if name == "coverage":
        assert min(share for row in ("normal", "lognormal") for share in said[row][1:]) >= 0.9
    if name == "error":
        assert max(max(row) for row in said.values()) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / BOARDS["error"])


LAWS = {  # of a task's mean score, and its mean
    "normal": (lambda rng, k: 0.5 + 0.1 * rng.normal(size=k), 0.5),
    "all or nothing": (lambda rng, k: rng.beta(0.5, 0.5, size=k), 0.5),
    "mostly near 0": (lambda rng, k: rng.beta(0.3, 1.2, size=k), 0.2),
}


@pytest.mark.slow
def test_a_suite_s_interval_holds_the_mean_as_often_as_the_document_says():
    text = DOC.read_text(encoding="utf-8").partition("## Suites")[2]
    count, rng = 1000, np.random.default_rng(3)
    for tasks in (2, 4, 7, 14):
        (row,) = re.findall(rf"^\| {tasks} \| (.*) \|$", text, flags=re.M)
        for (draw, mean), said in zip(LAWS.values(), row.split(" | "), strict=True):
            held = 0
            for _ in range(count):
                scores = {str(i): {0: float(score)} for i, score in enumerate(draw(rng, tasks))}
                placed = suites._placed(suites.Entry("m", "", scores, {}, 0.0, 0.0, 0.0, 0))
                held += placed.low <= mean <= placed.high
            share = float(said.strip(" %")) / 100
            assert held / count == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / count) + 0.005)


def test_the_table_of_units_is_that_of_its_rows():
    import importlib.util

    import pandas as pd

    root = DOC.parents[1]
    spec = importlib.util.spec_from_file_location("scripts_units", root / "scripts" / "units.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    rows = pd.read_csv(root / "results" / "units.csv")
    assert (rows.groupby("run").size() == 20).all()
    assert made.summary(rows).to_markdown(index=False) in DOC.read_text()


if __name__ == "__main__":
    print("\n".join(printed(BOARDS)))
