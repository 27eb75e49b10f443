"""What must stay fast for hundreds of finished runs. CPU time, and bounds of several times what a quiet core takes."""

import contextlib
import sys
import time

import pytest

from benchmarks import attempts
from gwfbench.cli import main
from gwfbench.report.board.leaderboard import leaderboard
from gwfbench.report.rows import rows_of

pytestmark = pytest.mark.usefixtures("one_process")  # what they patch must be seen

METHODS = [f"ula:step={k / 1000}" for k in range(1, 198)]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    assert attempts.write(folder, ["ou:horizon=0.5"], METHODS, 3) == 600
    return folder


def test_six_hundred_finished_runs_are_found_finished_in_seconds(out, monkeypatch, capsys):
    words = [word for method in METHODS for word in ("--method", method)]
    monkeypatch.setattr(sys, "argv", ["gwfbench", "run", "--task", "ou:horizon=0.5", *words, "--out", str(out)])
    start = time.process_time()
    with contextlib.suppress(SystemExit):
        main()
    took = time.process_time() - start
    said = capsys.readouterr().err
    assert said.count("finished before") == 600
    assert "starts" not in said
    assert took < 6


def test_thirty_thousand_rows_are_collected_into_a_leaderboard_in_seconds(out):
    start = time.process_time()
    rows, _, remarks = rows_of(out)
    board = leaderboard(rows)
    assert time.process_time() - start < 4
    assert len(rows) == 30_000
    assert len(board) == 200
    assert remarks == []
