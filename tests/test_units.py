"""benchmarks/units.py: the numbers of its table, and what is kept of its page."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks import pieces, units  # noqa: E402
from benchmarks.works import WORKS  # noqa: E402

sys.path.remove(str(ROOT))


def line(work, side="here", name="whole", **more):
    usual = {
        "reason": "", "rounds": 5, "part": 1, "load": 1.0, "date": "2026-01-01T00:00+00:00", "units_least": 9.0,
        "units_median": 10.0, "seconds_least": 0.9, "seconds_median": 1.0, "unit_seconds": 0.1, "all_units": "",
        "cpu": "c", "torch": "t", "python": "3", "commit": "abc",
    }  # fmt: skip
    return {"work": work, "side": side, "name": name, **usual, **more}


def test_a_round_is_the_work_over_the_unit_and_scaled_parts():
    one = pieces.timed(lambda: {"whole": 2.0, "w2": 0.5}, 10)
    assert one.parts == {"whole": 20.0, "w2": 5.0}
    assert one.unit > 0
    around = pieces.timed(lambda: pieces.yardstick() and None)
    assert around.parts["whole"] == pytest.approx(around.unit, rel=0.9)  # the unit is one unit, on a busy machine too


def test_every_work_that_bounds_another_is_there():
    assert {work.bare for work in WORKS.values() if work.bare} <= WORKS.keys()


def test_the_table_compares_with_goal_authors_bare_limit_and_the_other_checkout():
    rows = pd.DataFrame(
        [line("vjko_2"), line("vjko_2", "against", units_median=30.0), line("bare_2", units_median=5.0)]
    )
    head, first, _ = units.table(rows)
    cells = dict(zip(head, first, strict=False))
    assert (cells["/ goal"], cells["authors /"], cells["/ bare"]) == ("0.50", "5.00", "2.00")
    assert first[-3:] == ["9", "30", "3.00"]


def test_what_could_not_be_timed_says_why():
    rows = pd.DataFrame([line("judge_images", reason="no such data"), line("list")])
    assert any("not measured: no such data" in cell for cell in units.table(rows)[1])
    assert "no such data" in "\n".join(units.goals(rows))


def test_a_table_of_nothing_is_one_too():
    rows = pd.DataFrame([line("launches", reason="no device")])
    assert len(units.table(rows)) == 2
    assert units.made(rows) == "- nothing was measured"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets us adopt what a command leaves behind")
def test_seconds_of_what_a_command_leaves_behind_count(tmp_path):
    """The command ends at once; its child works on for half a second of the CPU."""
    (tmp_path / "gwfbench").mkdir()
    (tmp_path / "gwfbench/__init__.py").touch()
    work = "import os, time\nif os.fork() == 0:\n    while time.process_time() < 0.5:\n        pass\n"
    (tmp_path / "gwfbench/__main__.py").write_text(work)
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from benchmarks import pieces
pieces.gwfbench.__file__ = {str(tmp_path / "gwfbench/__init__.py")!r}
print(pieces.command("", 1)()["whole"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) > 0.5


def test_the_page_keeps_what_is_written_by_hand():
    rows = pd.DataFrame([line("vjko_2"), line("list", seconds_median=3.0)])
    first = units.page(rows, Path(units.__file__).with_name("page.md").read_text())
    assert "**1 of 2 goals are met**" in first
    written = first.replace("what is next\n", "what is next\n\nBecause.\n")
    rows["units_median"] = 40.0
    second = units.page(rows, written)
    assert "Because." in second
    assert "**0 of 2 goals are met**" in second
    assert units.page(rows, second) == second
    with pytest.raises(SystemExit, match="no such block"):
        units.page(rows, "<!-- speed nothing -->\n<!-- end -->\n")


def test_numbers_of_other_work_stay_in_the_file(tmp_path):
    path = tmp_path / "speed.csv"
    units.kept(path, pd.DataFrame([line("list"), line("vjko_2")]))
    units.kept(path, pd.DataFrame([line("list", units_median=7.0)]))
    rows = units.read(path)
    assert rows[["work", "units_median"]].to_dict("list") == {"work": ["vjko_2", "list"], "units_median": [10.0, 7.0]}


@pytest.mark.slow
def test_another_gwfbench_does_not_stand_in_for_a_checkout(monkeypatch, capsys, tmp_path):
    (tmp_path / "gwfbench").mkdir()
    (tmp_path / "gwfbench/__init__.py").touch()
    monkeypatch.setattr(sys, "argv", ["units", "help", "--rounds", "1", "--format", "json", "--against", str(tmp_path)])
    units.main()
    here, _, against = map(json.loads, capsys.readouterr().out.splitlines())
    assert here["reason"] == ""
    assert re.search("is not in this checkout|No module named", against["reason"])


@pytest.mark.slow
def test_a_piece_of_work_is_timed_in_a_process_of_its_own(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["units", "help", "--rounds", "2", "--format", "json", "--against", str(ROOT)])
    units.main()
    rows = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert [(row["side"], row["name"]) for row in rows] == [
        (s, n) for s in ("here", "against") for n in ("whole", "wall")
    ]
    assert all(row["units_least"] > 0 and row["reason"] == "" for row in rows)
