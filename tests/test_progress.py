"""The bar, and the time that is left."""

import io
import math
import sys

import pytest

from gwfbench.drive.job import Job
from gwfbench.runs import progress
from gwfbench.runs.events import Event
from gwfbench.runs.pace import Pace

A, B = ("ou", "a"), ("ou", "b")


def test_before_anything_has_run_earlier_runs_say_how_long_it_takes():
    pace = Pace({A: 2.0, B: 10.0})
    assert pace.left([(A, 0.0), (A, 0.5), (B, 0.0)], 1) == pytest.approx(13.0)
    assert pace.left([(A, 0.0), (A, 0.5), (B, 0.0)], 2) == pytest.approx(6.5)
    assert pace.left([(B, 0.5)], 4) == pytest.approx(5.0), "one run is on one core"
    assert pace.left([], 1) == 0.0


def test_with_nothing_to_go_by_it_says_nothing():
    assert math.isnan(Pace({}).left([(A, 0.0)], 1))


def test_what_has_run_here_counts_and_tells_how_fast_the_machine_is():
    pace = Pace({A: 2.0, B: 10.0})
    pace.ended(A, 6.0)
    assert pace.left([(A, 0.0)], 1) == pytest.approx(6.0)
    assert pace.left([(B, 0.0)], 1) == pytest.approx(30.0), "three times as slow as where the rows were made"
    pace.ended(B, 12.0)
    assert pace.left([(B, 0.0)], 1) == pytest.approx(12.0)


def test_a_method_without_earlier_runs_takes_what_others_do():
    pace = Pace({})
    pace.ended(A, 6.0)
    assert pace.left([(B, 0.0), (A, 0.0)], 1) == pytest.approx(12.0)


def test_the_schedule_says_what_is_left(one_process, tmp_path):
    from gwfbench.runs.options import Options
    from gwfbench.runs.order import Order
    from gwfbench.runs.scheduler import perform

    jobs = list(Order.read(["ou:horizon=0.05"], ["ula"], "2", controls=False).jobs())
    heard: list[Event] = []
    expected = {("ou:horizon=0.05", "ula"): 1e6}
    for _ in perform(jobs, tmp_path, heard.append, Options(isolate=False), expected):
        pass
    assert heard[0].left == pytest.approx(2e6)
    assert heard[-1].left == 0.0
    ends = [event.left for event in heard if event.kind == "end"]
    assert 0 < ends[0] < 1e5, "as long as the first one took, not as was expected"


def test_a_bar_is_there_before_torch_and_without_a_thread(monkeypatch):
    import threading

    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    with progress.starting(True):
        assert "0% starts" in screen.getvalue()
        assert threading.active_count() == 1 or "rich" not in {t.name for t in threading.enumerate()}
    assert screen.getvalue().endswith("\x1b[2K"), "it makes room for the next"
    screen.truncate(0)
    with progress.starting(False):
        assert screen.getvalue() == ""


def test_a_bar_fits_eighty_columns_and_shows_what_failed(monkeypatch):
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    job = Job.read({"task": "toy2d:shape=checkerboard", "method": "mmd_flow:steps=100", "seeds": [4], "device": "cpu",
                    "dtype": "float32", "budget": {}})  # fmt: skip
    with progress.progress(print, bar=True) as tell:
        tell(Event("start", "starts", job, None, 0.5, 61.0))
    lines = [line for line in screen.getvalue().replace("\r", "\n").split("\n") if "left" in line]
    import re

    shown = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in lines]
    assert shown
    assert max(map(len, shown)) <= 80
    assert " 50% 61 s left mmd_flow@quick, seed 4," in shown[-1]
