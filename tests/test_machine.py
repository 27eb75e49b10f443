"""What a run says of its machine: units of work, memory, energy."""

import math
import time

import pandas as pd
import pytest
import torch

import gwfbench
from gwfbench.commands._suites import hours
from gwfbench.drive import machine
from gwfbench.drive.machine import Machine
from gwfbench.report.board import suites
from gwfbench.report.board.across_tasks import overall
from gwfbench.suites import suite as suite_of

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """A machine whose work takes `clock["speed"]` seconds a unit."""
    state = {"now": 0.0, "speed": 0.1, "parts": 0.0}
    monkeypatch.setattr(machine, "process_time", lambda: state["now"])
    tanh = torch.tanh

    def timed(x):
        state["now"] += state["speed"] / 400
        state["parts"] += 1 / 4
        return tanh(x)

    monkeypatch.setattr(torch, "tanh", timed)
    return state


def trained(clock, seconds, speeds):
    """The units of a run that trains so long in steps, at such speeds one after the other."""
    clock["speed"] = speeds[0]
    one = Machine(CPU)
    one.begin()
    _train(clock, one, seconds, speeds)
    return one.units


def _train(clock, one, seconds, speeds):
    for took, speed in zip(seconds, speeds, strict=True):
        clock["speed"] = speed
        one.starts()
        clock["now"] += took
        one.stops()
    one.look()


def test_units_are_seconds_over_the_unit(clock):
    assert trained(clock, [10.0], [0.1]) == pytest.approx(100)


def test_a_machine_twice_as_slow_has_the_same_units(clock):
    fast, slow = trained(clock, [3.0] * 5, [0.1] * 5), trained(clock, [6.0] * 5, [0.2] * 5)
    assert slow == pytest.approx(fast, rel=1e-9)


def test_a_slow_hour_in_the_middle_counts_by_its_own_speed(clock):
    quiet = trained(clock, [1.0] * 40, [0.1] * 40)
    noisy = trained(clock, [1.0] * 20 + [2.0] * 20, [0.1] * 20 + [0.2] * 20)
    assert noisy == pytest.approx(quiet, rel=0.03)  # the change is at one of the timings


def test_timing_takes_a_hundredth_of_training(clock):
    trained(clock, [0.01] * 10_000, [0.1] * 10_000)
    spent = clock["parts"] / 100 * 0.1
    assert spent <= 0.011 * 100


def test_one_slow_part_is_no_slow_machine(clock, monkeypatch):
    one, part, count = Machine(CPU), Machine._part, iter(range(10**6))

    def hiccup(self, *tensors):
        return part(self, *tensors) * (10 if next(count) % 10 == 0 else 1)

    monkeypatch.setattr(Machine, "_part", hiccup)
    one.begin()
    _train(clock, one, [1.0] * 10, [0.1] * 10)
    assert one.units == pytest.approx(100)


def test_a_short_run_is_timed_before_and_after(clock):
    assert trained(clock, [0.001], [0.1]) == pytest.approx(0.01)
    assert clock["parts"] == 3 * machine.FEWEST


def test_units_go_on_from_a_checkpoint(clock):
    whole = trained(clock, [5.0, 5.0], [0.1, 0.1])
    one = Machine(CPU)
    one.begin()
    _train(clock, one, [5.0], [0.1])
    two = Machine(CPU)
    two.begin()
    two.resumed(one.units)
    _train(clock, two, [5.0], [0.1])
    assert two.units == pytest.approx(whole)


def test_memory_is_that_of_training():
    one = Machine(CPU)
    one.begin()
    one.starts()
    held = torch.ones(10_000_000)
    one.stops()
    trained_with = one.memory
    del held
    if not trained_with:
        pytest.skip("this system does not say")
    large = torch.ones(100_000_000)  # a judge's
    del large
    one.starts()
    one.stops()
    assert one.memory == trained_with
    assert trained_with >= 4e7


def test_energy_by_the_kernels_counters(tmp_path, monkeypatch):
    for number, value in ((0, 5_000_000), (1, 7_000_000)):
        folder = tmp_path / f"intel-rapl:{number}"
        folder.mkdir()
        (folder / "energy_uj").write_text(f"{value}\n")
    monkeypatch.setattr(machine, "POWERCAP", tmp_path)
    one = Machine(CPU)
    one.starts()
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("6500000\n")
    one.stops()
    assert one.energy == pytest.approx(1.5)
    one.starts()
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("10\n")  # it began anew
    one.stops()
    assert one.energy == pytest.approx(1.5)


def test_no_counter_no_energy(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "POWERCAP", tmp_path / "none")
    one = Machine(CPU)
    one.starts()
    one.stops()
    assert math.isnan(one.energy)


def test_rows_have_the_unit_and_the_memory(tmp_path):
    rows = gwfbench.run("ou:horizon=0.1", "ula", seeds=2, isolate=False)
    assert (rows["unit"] > 0).all()
    assert (rows["memory"] > 1e7).all()
    assert rows["energy"].isna().all() or (rows["energy"] >= 0).all()
    board = gwfbench.leaderboard(rows)
    ula = board[board["method"] == "ula"].iloc[0]
    own = rows[rows["method"] == "ula"].groupby("run_key")[["seconds", "unit"]].max()
    assert ula["units"] == pytest.approx((own["seconds"] / own["unit"]).median())


def test_the_unit_is_the_one_of_the_speed_page():
    from benchmarks import pieces

    ours, theirs = [], []
    for _ in range(5):
        ours.append(machine.unit_here.__wrapped__())
        theirs.append(pieces.yardstick())
    assert min(ours) == pytest.approx(min(theirs), rel=0.35)


@pytest.fixture(scope="module")
def rows():
    return gwfbench.run("toy2d:shape=checkerboard", ["sliced_flow:steps=2", "mmd_flow:steps=2"], seeds=2, isolate=False,
                        curve=False, judge=["sliced_w2"])  # fmt: skip


def test_within_units(rows):
    found = suite_of.load("smoke")
    mine = rows.assign(unit=0.1, seconds=1.0)
    kept = suites.within(suites.of_suite(mine, found), found, "units", 9.0)
    assert (kept.loc[kept["role"] == "method", "status"] == "timeout").all()
    kept = suites.within(suites.of_suite(mine, found), found, "units", 11.0)
    assert (kept["status"] == "ok").all()


def test_over_tasks_machines_cancel(rows):
    both = pd.concat([rows, rows.assign(task="toy2d:shape=moons", run_key=rows["run_key"] + "b")])
    slow = both["method"] == "mmd_flow:steps=2"
    other = both.assign(
        seconds=both["seconds"].where(~slow, both["seconds"] * 100), unit=both["unit"].where(~slow, both["unit"] * 100)
    )
    pd.testing.assert_frame_equal(overall(both), overall(other))


def test_hours_of_a_suite_are_of_this_machine(monkeypatch):
    from gwfbench.commands import _suites

    found = suite_of.load("smoke")
    theirs = _suites.published(found)
    if theirs is None:
        pytest.skip("no committed rows here")
    monkeypatch.setattr(machine, "unit_here", lambda: 0.2)
    monkeypatch.setattr(_suites, "published", lambda _: theirs.assign(unit=0.1))
    twice, count = hours(found)
    monkeypatch.setattr(_suites, "published", lambda _: theirs.assign(unit=math.nan))
    assert (twice, count) == (pytest.approx(2 * hours(found)[0]), hours(found)[1])


def test_begin_is_short():
    start = time.perf_counter()
    Machine(CPU).begin()
    assert time.perf_counter() - start < 1.0
