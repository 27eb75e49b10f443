"""scripts/defaults.py: settings of vjko against the paper's, on rows with planted answers."""

import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

SCRIPTS = str(Path(__file__).parents[1] / "scripts")
sys.path.insert(0, SCRIPTS)
import defaults  # noqa: E402

sys.path.remove(SCRIPTS)
from gwfbench.plugins import registry  # noqa: E402

CASE = defaults.Case("gmm", "vjko:steps=20", ("ksd", "w2"), 20, ("", "", ""))
STUDY = defaults.Study((CASE,), ((30, 1), (60, 1), (125, 1), (500, 3)), (500, 3))
FACTOR = {(30, 1): 3.0, (60, 1): 1.0, (125, 1): 0.3, (500, 3): 1.0}  # of ksd; w2 is worse at 60 x 1
SEEDS = 8


@pytest.fixture
def rows():
    """Each cell has its factor, seeds share most of their spread; a cell's cost is in proportion to its iterations."""
    rng = np.random.default_rng(0)
    made = [{"task": "gmm", "method": "still", "seed": 0, "step": 1, "metric": "ksd", "value": 20.0, "seconds": 0.0}]
    for seed in range(SEEDS):
        shared = rng.normal()
        for cell, factor in FACTOR.items():
            line = {"task": "gmm", "method": CASE.spec(cell), "seed": seed, "step": 20, "seconds": cell[0] / 10 + seed}
            noise = math.exp(shared + 0.05 * rng.normal())
            made.append(line | {"metric": "ksd", "value": factor * noise})
            made.append(line | {"metric": "w2", "value": (2 if cell == (60, 1) else 1) * noise})
            made.append(line | {"metric": "ksd", "step": 1, "value": 1e6, "seconds": 0.1})  # a law on the way
    return pd.DataFrame(made).assign(status="ok")


def of(lines, cell, metric="ksd"):
    return next(line for line in lines if line.cell == cell and line.metric == metric)


def test_planted_factors_are_found(rows):
    lines = defaults.compared(STUDY, CASE, rows)
    assert [of(lines, cell).verdict for cell in STUDY.cells] == ["worse", "", "better", ""]
    worse, equal = of(lines, (30, 1)), of(lines, (60, 1))
    assert worse.scale == "factor"
    assert worse.against == pytest.approx(3, rel=0.1)
    assert worse.against_low < 3 < worse.allows
    assert equal.against_low < 1 < equal.allows < 1.2
    assert math.isnan(of(lines, (500, 3)).against)
    assert equal.cost == pytest.approx(60 * 2 / (500 * 4))
    assert equal.train_seconds == pytest.approx(6 + (SEEDS - 1) / 2)


def test_the_smallest_setting_is_the_cheapest_that_no_asked_metric_calls_worse(rows):
    lines = defaults.compared(STUDY, CASE, rows)
    assert defaults.smallest(lines, ("ksd",)).cell == (60, 1)
    assert defaults.smallest(lines, ("ksd", "w2")).cell == (125, 1)


def test_the_smallest_on_all_tasks_is_worse_on_none_and_was_run_on_each(rows):
    other = defaults.Case("gmm:dim=8", "vjko:steps=20", ("ksd", "w2"), 20, ("", "", ""))
    easy = rows[rows["method"] != CASE.spec((60, 1))].assign(task="gmm:dim=8")
    study, both = defaults.Study((CASE, other), STUDY.cells, (500, 3)), pd.concat([rows, easy])
    lines = {case: defaults.compared(study, case, both) for case in study.cases}
    assert defaults.over_all(lines) == (125, 1)
    assert defaults.over_all({CASE: lines[CASE]}) == (60, 1)


def test_a_run_that_is_not_finished_is_no_failure(rows):
    killed = (rows["method"] == CASE.spec((60, 1))) & (rows["seed"] == 3)
    rows.loc[killed, "status"] = "killed"
    line = of(defaults.compared(STUDY, CASE, rows), (60, 1))
    assert (line.seeds, line.finished, line.verdict) == (SEEDS - 1, SEEDS - 1, "")


def test_failed_runs_count_as_the_worst(rows):
    failed = (rows["method"] == CASE.spec((60, 1))) & (rows["seed"] >= 2)
    rows.loc[failed, ["metric", "value"]] = None
    line = of(defaults.compared(STUDY, CASE, rows), (60, 1))
    assert (line.seeds, line.finished, line.value, line.verdict) == (SEEDS, 2, math.inf, "worse")
    assert line.against == pytest.approx(np.exp(np.mean(np.log(20.0) * 6 / 8)), rel=3)  # 20 is the worst on the board


def test_the_page_says_what_was_not_run(rows):
    cells = (*STUDY.cells, (250, 3))
    study = defaults.Study(STUDY.cases, cells, (500, 3))
    text = "\n".join(defaults.page(study, {CASE: defaults.compared(study, CASE, rows)}, rows))
    assert "| 250 x 3 | not run |" in text
    assert "**worse**" in text
    assert "ksd: still 20" in text


@pytest.mark.parametrize(
    ("text", "fields"),
    [("vjko:steps=20", (500, 3)), ("vjko:steps=20,iterations=30", (30, 3)), ("vjko:steps=20,critic_steps=1", (500, 1))],
)
def test_rows_from_before_a_change_of_defaults_keep_their_cell(text, fields):
    assert defaults.respelled(text, (500, 3)) == CASE.spec(fields)
    assert defaults.respelled(text, (60, 7)) == CASE.spec(
        tuple(other if old == usual else old for old, usual, other in zip(fields, (500, 3), (60, 7), strict=True))
    )
    assert defaults.respelled("exact", (60, 7)) == "exact"


def test_the_study_reads_and_its_methods_and_recorded_runs_exist():
    study = defaults.Study.read(Path(defaults.__file__).with_suffix(".toml"))
    assert len({case.task for case in study.cases}) == len(study.cases) == 8
    for case in study.cases:
        assert 0 < case.seconds((30, 1)) < case.seconds((500, 3)) < math.inf


def test_the_page_is_what_its_rows_give(tmp_path, monkeypatch, capsys):
    kept = Path(SCRIPTS).parent / "results"
    words = ["defaults.py", "--out", str(kept / defaults.ROWS), "--tables", "--write", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", words)
    defaults.main()
    for name in ("defaults.md", "defaults.csv"):
        assert (tmp_path / name).read_text() == (kept / name).read_text()
    method = registry.parse("method", "vjko")
    assert f"On all of them: {method.iterations} x {method.critic_steps}." in capsys.readouterr().out
