"""`report` on a few runs in the plane: which rows, in which table, and the pictures."""

import io
import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import gwfbench
from gwfbench.audit.today import Today
from gwfbench.errors import UserError
from gwfbench.plugins import registry
from gwfbench.report.rows import rows_of

ROOT = Path(__file__).parents[1]
TASKS = ("toy2d:shape=moons", "toy2d:shape=swiss_roll")
FLOW = "mmd_flow:steps=4,points=1200,batch=64"


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry.find("task", "toy2d").load(), "metrics", ("sliced_w2", "energy_distance"))
        gwfbench.run(TASKS, FLOW, 2, out=out, isolate=False)
    return out


@pytest.fixture
def runs(kept, tmp_path):
    """In the place where --out is by default."""
    return shutil.copytree(kept, tmp_path / "results" / "runs")


@pytest.mark.slow
def test_pivot_puts_tasks_side_by_side(cli, runs):
    code, text, _ = cli("report", "--pivot")
    assert code == 0
    head, *_ = [line for line in text.splitlines() if line.startswith("| method")]
    assert [cell.strip() for cell in head.strip("|").split("|")] == ["method", "shape=moons", "shape=swiss_roll"]
    sections = [line for line in text.splitlines() if line.startswith("## ")]
    assert sections[:3] == ["## sliced_w2", "## tier by sliced_w2", "## energy_distance"]
    assert len([line for line in text.splitlines() if line.startswith(f"| {FLOW}")]) == 5


def test_only_the_rows_of_last_laws_are_written_where_asked(cli, runs, tmp_path):
    assert cli("report", "--write", "all")[0] == 0
    assert cli("report", "--laws", "last", "--write", "last")[0] == 0
    every, last = (pd.read_csv(tmp_path / name / "rows.csv") for name in ("all", "last"))
    assert set(every.loc[every["method"] == FLOW, "step"]) == {1, 2, 3, 4}
    assert set(last.loc[last["method"] == FLOW, "step"]) == {4}
    pages = [(tmp_path / name / "leaderboard.md").read_text() for name in ("all", "last")]
    assert pages[0] == pages[1]
    columns = ["task", "method", "seeds", "sliced_w2", "sliced_w2_low", "energy_distance"]
    boards = [cli("report", *words, "--format", "csv")[1] for words in (("--rows", "last/rows.csv"), ())]
    of_rows, of_runs = (pd.read_csv(io.StringIO(text))[columns] for text in boards)
    pd.testing.assert_frame_equal(of_rows, of_runs)


def test_methods_and_metrics_are_chosen(cli, runs):
    _, text, _ = cli("report", "--method", "mmd_flow", "--metric", "energy_distance", "--format", "csv")
    assert FLOW in text
    assert "still" not in text
    assert "sliced_w2" not in text
    code, _, err = cli("report", "--method", "vjko")
    assert code == 2
    assert "--method vjko" in err


def test_pictures_of_the_plane(cli, runs, tmp_path):
    pytest.importorskip("matplotlib")
    code, _, err = cli("report", "pictures", "pictures")
    assert code == 0
    names = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert names == ["toy2d-shape-moons.png", "toy2d-shape-swiss_roll.png"]
    assert all(f"wrote pictures/{name}" in err for name in names)
    assert cli("report", "pictures", "pictures", "--rows", "kept/rows.csv")[0] == 2  # rows have no points
    assert cli("report", "pictures", "others", "--task", "toy2d:shape=moons")[0] == 0
    assert [path.name for path in (tmp_path / "others").iterdir()] == ["toy2d-shape-moons.png"]


def test_an_ablation_is_printed_and_kept_on_the_page(cli, runs, tmp_path):
    code, _, err = cli("report", "ablate", "steps=4")
    assert code == 2
    assert "report ablate steps=4" in err
    rows, _, _ = rows_of(runs)
    other = rows[rows["method"] == FLOW].assign(
        method=FLOW.replace("steps=4,", ""), run_key=lambda x: x["run_key"] + "b"
    )
    pd.concat([rows, other]).to_csv("rows.csv", index=False)
    code, text, err = cli("report", "ablate", "steps=4", "--rows", "rows.csv", "--write", "kept", "--pivot")
    assert code == 0, err
    assert text.startswith("## What `steps=4` does to sliced_w2\n")
    assert "wrote kept/rows.csv and kept/leaderboard.md" in err
    page = (tmp_path / "kept" / "leaderboard.md").read_text()
    assert text.strip() in page
    assert "## tier by sliced_w2" in page
    assert 'ablate = "steps=4"' in (tmp_path / "kept" / "page.toml").read_text()


@pytest.mark.parametrize(
    ("words", "now"),
    [
        (["--task", "ou", "html", "page.html"], "write report html ... --task ..."),
        (["--pivot", "ablate", "step=inf"], "write report ablate ... --pivot ..."),
    ],
)
def test_options_before_a_subcommand_are_refused(cli, tmp_path, words, now):
    code, text, err = cli("report", *words)
    assert (code, text) == (2, "")
    assert now in err
    assert list(tmp_path.iterdir()) == []


def test_every_subcommand_takes_plug_ins(cli):
    for name in ("html", "figures", "pictures", "pages", "ablate"):
        code, text, _ = cli("report", name, "--help")
        assert code == 0
        assert "--plugin" in text
        assert "--html" not in text


@pytest.mark.slow
def test_a_newer_stale_attempt_hides_no_fresh_one(cli, runs, monkeypatch):
    before, _, _ = rows_of(runs)
    cls = registry.find("task", "toy2d").load()
    monkeypatch.setattr(cls, "metrics", ("sliced_w2",))
    real = Today.why_stale
    gwfbench.run(TASKS, FLOW, 2, out=runs, force=True, isolate=False)
    newest, _, remarks = rows_of(runs)
    assert set(newest["attempt"]).isdisjoint(before["attempt"])
    ours = set(newest["attempt"])
    assert remarks == []
    monkeypatch.setattr(Today, "why_stale", lambda self, run: "edited" if run.attempt in ours else real(self, run))
    pd.testing.assert_frame_equal(rows_of(runs)[0], before)
    monkeypatch.setattr(Today, "why_stale", lambda self, run: "edited")
    with pytest.raises(UserError, match=r"no finished runs\n  left out: 12 stale runs"):
        rows_of(runs)


@pytest.mark.slow
def test_stale_runs_can_be_shown_with_a_mark(cli, tmp_path, monkeypatch, no_files):
    own = tmp_path / "mine.py"
    own.write_text((ROOT / "baselines" / "gaussian_vi.py").read_text())
    words = ("--task", "gaussian", "--method", "ula", "--seeds", "1", "--no-curve", "--judge", "mmd", "--no-isolate")
    assert cli("run", *words, "--method", "mine", "--plugin", "mine.py")[0] == 0
    monkeypatch.setattr(Today, "why_stale", lambda self, run: "edited" if run.identity.method == "mine" else "")
    code, text, err = cli("report", "--out", "results/runs", "--format", "csv", "--plugin", "mine.py")
    assert (code, "mine" in text) == (0, False)
    assert "left out: 1 stale runs" in err
    code, text, err = cli("report", "--out", "results/runs", "--format", "csv", "--stale", "--plugin", "mine.py")
    assert code == 0, err
    assert "mine [stale]" in text
    assert "ula [stale]" not in text
    assert "marked: 1 stale runs" in err
    for more in (("--write", "page"), ("--rows", "x.csv"), ("--suite", "smoke")):
        code, _, err = cli("report", "--stale", *more)
        assert (code, "--stale with" in err) == (2, True)


@pytest.mark.parametrize("name", ["mine.csv", "mine.json", "mine.parquet"])
def test_rows_go_into_files_of_other_kinds(cli, tmp_path, name):
    code, _, err = cli("report", "rows", name, "--rows", str(ROOT / "results/studies/ou/rows.csv"), "--method", "ula")
    assert code == 0, err
    read = {
        "csv": pd.read_csv,
        "json": partial(pd.read_json, lines=True, precise_float=True),
        "parquet": pd.read_parquet,
    }
    found = read[name.rpartition(".")[2]](tmp_path / name)
    whole = pd.read_csv(ROOT / "results/studies/ou/rows.csv", low_memory=False)
    whole = whole[whole["method"].str.partition(":")[0] == "ula"]
    assert f"{len(whole)} rows" in err
    assert len(found) == len(whole)
    np.testing.assert_allclose(found["value"].astype(float), whole["value"], rtol=1e-12)
    assert set(found["task"]) == set(whole["task"])


def test_rows_that_can_not_be_written_are_told(cli, tmp_path, monkeypatch):
    words = ("--rows", str(ROOT / "results/studies/ou/rows.csv"))
    for name, said in (("mine.xlsx", "a name that ends in .csv, .json, .parquet"), ("none/mine.csv", "can be written")):
        code, _, err = cli("report", "rows", name, *words)
        assert (code, said in err) == (2, True), err
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    code, _, err = cli("report", "rows", "mine.parquet", *words)
    assert (code, "pip install pyarrow" in err) == (2, True), err


def test_without_a_curve_the_last_law_has_the_same_rows(monkeypatch, one_process):
    monkeypatch.setattr(registry.find("task", "toy2d").load(), "metrics", ("sliced_w2", "energy_distance"))
    whole = gwfbench.run(TASKS[0], FLOW, 1, controls=False, isolate=False)
    last = gwfbench.run(TASKS[0], FLOW, 1, controls=False, curve=False)
    assert set(last["step"]) == {4}
    columns = ["step", "metric", "value", "se", "n", "draw_calls"]
    pd.testing.assert_frame_equal(last[columns], whole.loc[whole["step"] == 4, columns].reset_index(drop=True))


def test_the_bibliography_of_a_board_has_its_methods_and_no_others(cli):
    code, out, err = cli(
        "report", "--rows", str(ROOT / "results/studies/ou/rows.csv"), "--method", "ula", "--format", "bibtex"
    )
    assert code == 0, err
    keys = {line.partition("{")[2].rstrip(",") for line in out.splitlines() if line.startswith("@")}
    assert "roberts1996exponential" in keys
    assert "lambert2022variational" not in keys, "of gaussian_vi, which is not asked for"
