"""What must stay cheap for hundreds of finished runs: ten times as many take at most ten times the calls."""

import contextlib
import importlib.util
import sys
from pathlib import Path

import pytest

from gwfbench.cli import main
from gwfbench.report.board.leaderboard import leaderboard
from gwfbench.report.rows import rows_of

spec = importlib.util.spec_from_file_location("attempts", Path(__file__).with_name("attempts.py"))
attempts = importlib.util.module_from_spec(spec)
spec.loader.exec_module(attempts)

pytestmark = pytest.mark.usefixtures("one_process")  # what they patch must be seen

METHODS = [f"ula:step={k / 1000}" for k in range(1, 18)]  # and the three controls


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """60 and 600 finished runs of 50 rows each."""
    few, many = (tmp_path_factory.mktemp("runs") for _ in range(2))
    assert attempts.write(few, ["ou:horizon=0.5"], METHODS, 3) == 60
    assert attempts.write(many, ["ou:horizon=0.5"], METHODS, 30) == 600
    return few, many


@pytest.mark.slow
def test_six_hundred_finished_runs_are_found_finished(folders, monkeypatch, capsys, calls):
    def run(folder, seeds):
        words = [word for method in METHODS for word in ("--method", method)]
        base = ["gwfbench", "run", "--task", "ou:horizon=0.5", "--seeds", str(seeds), "--out", str(folder)]
        monkeypatch.setattr(sys, "argv", [*base, *words])
        with contextlib.suppress(SystemExit):
            main()

    few, many = folders
    run(few, 2)  # what only the first call does
    assert calls(run, many, 30) < 10 * calls(run, few, 3)
    assert capsys.readouterr().err.count("finished before") == 40 + 60 + 600
    assert not list(many.glob(".partial-*"))


@pytest.mark.slow
def test_thirty_thousand_rows_are_collected_into_a_leaderboard(folders, calls):
    few, many = folders
    rows_of(few)
    assert calls(rows_of, many) < 10 * calls(rows_of, few)
    rows, _, remarks = rows_of(many)
    assert len(rows) == 30_000
    assert len(leaderboard(rows)) == 20
    assert remarks == []
