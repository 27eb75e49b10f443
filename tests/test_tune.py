"""`tune`: candidates, which is best, what it costs, and where the best one is kept."""

import math
import re

import pandas as pd
import pytest

import gwfbench
from gwfbench.commands import _search as search
from gwfbench.errors import UserError
from gwfbench.plugins import registry, settings

SHIFT = '''
"""P_0 moved by `shift`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from gwfbench.budget import Budget
from gwfbench.info import Initial, TargetSamples
from gwfbench.protocol import Drawn, Problem
from gwfbench.rng import Streams


@dataclass(frozen=True)
class Shift:
    """P_0 moved by `shift` in each coordinate."""

    needs: ClassVar = frozenset({Initial, TargetSamples})
    clock: ClassVar = "none"
    seeds: ClassVar = "looped"
    smoke: ClassVar = {}
    version: ClassVar = 1
    reference: ClassVar = ""

    shift: float = 0.0
    "of each coordinate"
    scale: float = 1.0
    "times P_0"

    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Drawn]:
        yield Drawn(1.0, lambda n, rng: self.scale * problem[Initial].draw(n, rng) + self.shift)
'''


def test_all_combinations_as_rows_name_them():
    found = search.candidates("mmd_flow:step=0.1|1,noise=0|0.1", None)
    assert len(found) == 4
    assert found == [registry.canonical("method", text) for text in found]
    assert {registry.parse("method", text).step for text in found} == {0.1, 1.0}


def test_draws_are_different_and_always_the_same():
    text = "mmd_flow:step=0.01..10,points=16..4096"
    one, two = (search.candidates(text, 20) for _ in range(2))
    assert one == two
    assert len(set(one)) == 20
    drawn = [registry.parse("method", each) for each in one]
    assert all(0.01 <= each.step <= 10 and 16 <= each.points <= 4096 for each in drawn)
    middle = sum(math.log10(each.step) for each in drawn) / 20
    assert abs(middle + 0.5) < 0.6, "uniform in the logarithm, whose middle is -0.5"
    assert len({each.points for each in drawn}) > 15


def test_draws_from_values_too():
    found = search.candidates("mmd_flow:step=0.1|1|10,noise=0|0.1", 5)
    assert len(set(found)) == 5
    assert set(found) < set(search.candidates("mmd_flow:step=0.1|1|10,noise=0|0.1", None))


def test_a_named_setting_is_where_it_starts():
    assert all("steps=100" in text for text in search.candidates("mmd_flow@quick:step=0.1|3", None))


@pytest.mark.parametrize(
    ("method", "count", "said"),
    [
        ("mmd_flow:step=1", None, "one candidate"),
        ("mmd_flow", 3, "one candidate"),
        ("mmd_flow:step=0.1..1", None, "--random"),
        ("mmd_flow:step=0.1|1", 0, "--random 0"),
        ("mmd_flow:step=0.1|1", 3, "has 2 candidates"),
        ("mmd_flow:step=1..0.1", 3, "the lower end first"),
        ("mmd_flow:stepp=0.1|1", None, "stepp"),
        ("mmd_flo:step=0.1|1", None, "mmd_flow"),
    ],
)
def test_what_gives_no_choice_is_told(method, count, said):
    with pytest.raises(UserError) as told:
        search.candidates(method, count)
    assert said in str(told.value)


@pytest.fixture(scope="module")
def rows():
    return gwfbench.run(
        ["toy2d", "toy2d:shape=moons"], ["mmd_flow:steps=1,step=0.001", "mmd_flow:steps=20,step=1.0"],
        seeds=search.seeds(2), isolate=False, curve=False, judge=["sliced_w2"],
    )  # fmt: skip


TASKS = ("toy2d", "toy2d:shape=moons")


def test_the_best_is_nearest_to_exact_over_tasks(rows):
    found = search.best(rows, TASKS, 2)
    assert [one.method for one in found] == ["mmd_flow:step=1.0,steps=20", "mmd_flow:step=0.001,steps=1"]
    assert found[0].score < 0.5 < found[1].score
    assert found[0].units > 0


def test_of_equal_scores_the_quicker_wins(rows):
    own = rows[rows["method"] == "mmd_flow:step=1.0,steps=20"]
    twin = own.assign(method="mmd_flow:step=1.0,steps=20,points=7", run_key=own["run_key"] + "x", unit=own["unit"] / 2)
    slow = pd.concat([rows[~rows["method"].str.contains("0.001")], twin])
    assert search.best(slow, TASKS, 2)[0].method == "mmd_flow:step=1.0,steps=20"


def test_a_failure_counts_as_still(rows):
    good = rows["method"] == "mmd_flow:step=1.0,steps=20"
    failed = rows.assign(
        status=rows["status"].mask(good, "diverged"), metric=rows["metric"].mask(good), value=rows["value"].mask(good),
        reason=rows["reason"].mask(good, "it ran away"),
    )  # fmt: skip
    found = search.best(failed, TASKS, 2)
    assert found[-1].method == "mmd_flow:step=1.0,steps=20"
    assert (found[-1].score, found[-1].failed) == (1.0, 4)


def test_seeds_are_never_those_that_boards_judge():
    assert search.seeds(3) == (1000, 1001, 1002)
    from gwfbench.suites import suite

    assert all(suite.load(name).seeds < search.FIRST for name in suite.names())


def test_what_a_search_cost_is_that_of_its_runs(rows):
    words = search.told(rows)
    assert words.startswith("8 runs, ")
    mine = rows[rows["role"] == "method"].drop_duplicates("run_key")
    assert f"{(mine['seconds'] / mine['unit']).sum():.3g} units" in words


def test_the_best_is_kept_next_to_the_method_and_has_a_name(cli, tmp_path, no_files):
    (tmp_path / "mine.py").write_text(SHIFT)
    own = ("--plugin", "mine.py", "--no-isolate")
    words = ("tune", "mine:shift=0|3,scale=0.5|1|2", "--task", "toy2d", "--seeds", "2", "--out", "search", *own)
    code, out, err = cli(*words)
    assert code == 0, err
    assert "6 candidates on toy2d, seeds 1000 to 1001: 12 runs" in out
    section = out[out.index("[tuned]") :]
    assert 'track = "tuned"' in section
    code, out, err = cli(*words, "--write", "found")
    assert code == 0, err
    assert "finished before" in err
    assert "mine@found" in out
    kept = settings.read(tmp_path / "mine.toml")["found"]
    assert kept.track == "tuned"
    assert re.search(
        r"best of 6 by tune mine:.* on toy2d: score [\d.]+; 12 runs, [\d.e-]+ hours of training, .* units", kept.source
    )
    code, out, err = cli("run", "--task", "toy2d", "--method", "mine@found", "--seeds", "2", "--out", "runs", *own)
    assert code == 0, err
    assert "mine@found" in out
    code, out, err = cli("report", "--out", "runs", "--write", "page", *own[:2])
    assert code == 0, err
    page = (tmp_path / "page" / "leaderboard.md").read_text()
    assert "track tuned" in page
    assert "12 runs" in page, "what the search has cost stands on the board"
    code, _, err = cli(*words, "--write", "found")
    assert code == 2
    assert "has it" in err


def test_where_every_candidate_fails_nothing_is_kept(cli, tmp_path, no_files):
    (tmp_path / "mine.py").write_text(SHIFT.replace("+ self.shift)", "+ self.shift / 0)"))
    code, out, err = cli("tune", "mine:shift=0|3", "--task", "toy2d", "--seeds", "1", "--out", "search", "--write", "a",
                         "--plugin", "mine.py", "--no-isolate")  # fmt: skip
    assert code == 1
    assert "FAILED toy2d mine:shift=3.0 seed 1000: error: ZeroDivisionError" in err
    assert "[a]" not in out
    assert not (tmp_path / "mine.toml").exists()


def test_no_option_of_a_search_is_without_effect(cli):
    for option in ("--judge", "--no-curve"):
        code, _, err = cli("tune", "mmd_flow:step=0.1|1", "--task", "toy2d", option, "mmd")
        assert (code, "No such option" in err) == (2, True)
    code, _, err = cli("tune", "mmd_flow:step=0.1|1", "--task", "toy2d", "--device", "cuda:9")
    assert (code, "--device cuda:9" in err) == (2, True)


def test_tuning_by_a_metric_that_is_not_there_is_told(cli):
    code, _, err = cli("tune", "mmd_flow:step=0.1|1", "--task", "toy2d", "--metric", "w3")
    assert code == 2
    assert "w3" in err
