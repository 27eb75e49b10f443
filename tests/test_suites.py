import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from gwfbench.tasks import images

from gwfbench.commands import _suites
from gwfbench.errors import UserError
from gwfbench.nn.classifier import pinned
from gwfbench.plugins import registry
from gwfbench.report import pages
from gwfbench.report.board import suites as boards
from gwfbench.suites import suite as suites

ROOT = Path(__file__).parents[1]


def metrics(task):
    """The names that a task's metrics have; of images also the FID by the classifier that comes with their data."""
    made = registry.parse("task", task)
    if registry.head(task) != "images":
        return set(made.metrics)
    data = images.network(made.data)
    size = {"digits": "360", "fashion_mnist": "10k"}[made.data]
    return {*made.metrics, f"fid_{size}_{data}@{pinned(data).sha256[:4]}"}


@pytest.mark.parametrize("name", suites.names())
def test_what_a_suite_names_is_there_and_fits(name):
    suite = suites.load(name)
    there: set[str] = set()
    for part in suite.parts:
        task = registry.find("task", registry.head(part.task))
        own = metrics(part.task)
        there |= own
        assert suite.metric(part) in own
        assert part.methods
        for method in part.methods:
            registry.require_fit(task, registry.find("method", registry.head(method)))
            assert registry.track(method) == suite.track
    assert not set(suite.judge) - there
    assert all(suite.metric(part) in suite.judge for part in suite.parts) or not suite.judge


SUITE = """
title = "Two tasks"
track = "default"
seeds = 5
budget = "score_calls=1000"
methods = ["ula", "svgd"]
[[tasks]]
task = "gaussian"
metric = "energy_distance"
[[tasks]]
task = "gmm:dim=4"
metric = "energy_distance"
"""


@pytest.fixture
def suite(tmp_path):
    path = tmp_path / "two.toml"
    path.write_text(SUITE)
    return suites.load(str(path))


def rows(
    task,
    method,
    values,
    role="method",
    calls=1000,
    budget="score_calls=1000.0",
    failed=(),
    seconds=1.0,
    step=1,
):
    """One law of each seed; failed seeds have none."""
    plain = {"task": task, "method": method, "step": step, "role": role, "attempt": f"{task}{method}", "se": 0.01, "t": math.nan,
             "device": "cpu", "dtype": "float32", "budget": budget, "information": "LogDensity" if role == "method" else "",
             "score_calls": calls, "seconds": seconds, "better": "lower", "metric_version": 1, "n": 100}  # fmt: skip
    return [
        plain | {"seed": seed, "run_key": f"{task}{method}{budget}{seed}"}
        | ({"metric": None, "value": math.nan, "status": "oom"} if seed in failed else {"metric": "energy_distance", "value": value, "status": "ok"})
        for seed, value in enumerate(values)
    ]  # fmt: skip


def controls(task, floor=0.0, still=1.0):
    noise = 1e-3 * np.array([1, -1, 0.5, -0.5, 0.2])
    return [*rows(task, "exact", floor + noise, "floor", 0, ""), *rows(task, "still", still + noise, "control", 0, "")]


TASKS = ("gaussian", "gmm:dim=4")
SPREAD = np.array([0.98, 1.01, 1.0, 1.02, 0.99])


def entries(suite, *parts):
    table = pd.DataFrame([row for part in parts for row in part])
    return {one.name: one for one in boards.entries(boards.of_suite(table, suite), suite)}


def test_scores_lie_between_the_truth_and_not_moving(suite):
    found = entries(
        suite,
        *(controls(task, 0.5, 2.5) for task in TASKS),
        rows("gaussian", "ula", 1.0 * SPREAD), rows("gmm:dim=4", "ula", 2.0 * SPREAD),
        rows("gaussian", "svgd", 0.5 * SPREAD), rows("gmm:dim=4", "svgd", [1e9] * 5),
    )  # fmt: skip
    assert found["ula"].score == pytest.approx((0.25 + 0.75) / 2, abs=0.01)
    assert found["svgd"].score == pytest.approx((0.0 + 1.0) / 2, abs=0.01), "a runaway is no worse than still"
    assert found["ula"].low <= found["ula"].score <= found["ula"].high
    assert (found["ula"].low, found["ula"].high) == (0, 1), "two tasks that differ tell nothing of others"
    assert list(found) == ["svgd", "ula"] if found["svgd"].score < found["ula"].score else ["ula", "svgd"]


def test_a_failed_seed_counts_as_still(suite):
    found = entries(
        suite,
        *(controls(task) for task in TASKS),
        rows("gaussian", "ula", 0.0 * SPREAD, failed=(1, 3)), rows("gmm:dim=4", "ula", 0.0 * SPREAD),
    )  # fmt: skip
    assert found["ula"].score == pytest.approx((2 / 5 + 0) / 2, abs=0.01)
    assert found["ula"].failed == 2


def test_a_killed_seed_counts_as_not_run(suite):
    killed = [row | {"status": "killed"} if row["seed"] == 1 else row for row in rows("gaussian", "ula", 0.0 * SPREAD)]
    parts = *(controls(task) for task in TASKS), killed, rows("gmm:dim=4", "ula", 0.0 * SPREAD)
    one = entries(suite, *parts)["ula"]
    assert (one.score, one.failed, sorted(one.scores["gaussian"])) == (pytest.approx(0, abs=1e-3), 0, [0, 2, 3, 4])
    short = boards.within(boards.of_suite(pd.DataFrame(killed), suite), suite, "calls", 500)
    assert short["status"].tolist() == ["timeout", "killed", "timeout", "timeout", "timeout"]


def test_letters_tell_methods_of_the_same_information_apart(suite):
    found = entries(
        suite,
        *(controls(task) for task in TASKS),
        *(rows(task, "ula", 0.2 * SPREAD) for task in TASKS),
        *(rows(task, "svgd", 0.6 * SPREAD[::-1]) for task in TASKS),
        *(rows(task, "ula:steps=9", 0.2 * SPREAD[::-1]) for task in TASKS),
    )
    assert {name: one.tier for name, one in found.items()} == {"ula": "a", "ula:steps=9": "a", "svgd": "b"}


def test_who_lacks_a_task_has_no_score(suite):
    found = entries(suite, *(controls(task) for task in TASKS), rows("gaussian", "ula", 0.2 * SPREAD),
                    *(rows(task, "svgd", 0.6 * SPREAD) for task in TASKS))  # fmt: skip
    assert math.isnan(found["ula"].score)
    assert found["ula"].tier == ""
    assert list(found) == ["svgd", "ula"]
    table = pd.DataFrame(
        [
            row
            for part in ([*controls("gaussian"), *controls("gmm:dim=4")], rows("gaussian", "ula", 0.2 * SPREAD[:3]))
            for row in part
        ]
    )
    text = boards.markdown(boards.of_suite(table, suite), suite)
    assert "Not run yet: ula on gmm:dim=4; svgd." in text
    assert "Fewer seeds than 5: ula (3)." in text


def test_only_rows_of_the_suite_count(suite):
    mine = rows("gaussian", "ula", 0.2 * SPREAD)
    others = [
        *rows("blr", "ula", SPREAD),
        *rows("gaussian", "mala", SPREAD, budget="", calls=1001),
        *rows("gaussian", "blob", SPREAD, budget="score_calls=500.0"),
        *rows("gaussian", "ula", SPREAD) [:0],
    ]  # fmt: skip
    late = [row | {"seed": 7, "run_key": "late"} for row in rows("gaussian", "ula", SPREAD)[:1]]
    more = rows("gaussian", "dds", SPREAD, budget="score_calls=1000.0,seconds=5.0")
    less = rows("gaussian", "nuts", SPREAD, budget="", calls=1000)
    kept = boards.of_suite(pd.DataFrame([*mine, *others, *late, *more, *less, *controls("gaussian")]), suite)
    assert set(kept["method"]) == {"ula", "exact", "still", "dds", "nuts"}, "a further limit is no gain, nor is none"
    assert kept["seed"].max() == 4


def test_on_a_suite_s_page_runs_within_its_budget_are_one_method_s(tmp_path):
    """Whether a run was told of a limit that it never came to changes nothing: the tables pool its seeds."""
    (tmp_path / "two.toml").write_text(SUITE)
    folder = tmp_path / "two"
    folder.mkdir()
    (folder / "page.toml").write_text(f'suite = "{tmp_path / "two.toml"}"\n')
    further = rows("gaussian", "ula", SPREAD, budget="score_calls=1000.0,log_prob_calls=1000.0")[3:]
    told, untold = [
        [row | {"status": "budget"} for row in some] for some in (rows("gaussian", "ula", SPREAD)[:3], further)
    ]
    table = pd.DataFrame([*told, *untold, *controls("gaussian")]).assign(env="e", code="c", law="", dtype="float32")
    text = pages.made(folder, table, {})[folder / "leaderboard.md"].partition("\n## ")[2]
    assert [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ula")] == ["ula"]


def test_a_roster_s_setting_goes_by_the_method_s_name(tmp_path):
    path = tmp_path / "quick.toml"
    path.write_text('title = "x"\ntrack = "quick"\nseeds = 5\n[[tasks]]\ntask = "gmm"\nmethods = ["vjko@gmm2-quick"]\n')
    suite = suites.load(str(path))
    assert suite.methods == ("vjko",)
    named = registry.canonical("method", "vjko@gmm2-quick")
    both = [*rows("gmm", named, SPREAD, budget=""), *rows("gmm", f"{named},box=2.5", SPREAD, budget="")]
    kept = boards.of_suite(pd.DataFrame(both), suite)
    assert list(dict.fromkeys(kept["method"])) == ["vjko", "vjko@gmm2-quick:box=2.5"]


def test_within_a_limit_the_last_law_inside_counts(suite):
    parts = [controls(task) for task in TASKS]
    for task in TASKS:
        parts += [
            rows(task, "ula", 0.5 * SPREAD, calls=100, step=1, seconds=1),
            rows(task, "ula", 0.1 * SPREAD, calls=900, step=2, seconds=9),
        ]
        parts += [rows(task, "svgd", 0.2 * SPREAD, calls=500, seconds=5)]
    table = boards.of_suite(pd.DataFrame([row for part in parts for row in part]), suite)

    def scores(limit, most):
        return {
            one.name: round(one.score, 2) for one in boards.entries(boards.within(table, suite, limit, most), suite)
        }

    assert scores("calls", 1000) == {"ula": 0.1, "svgd": 0.2}
    assert scores("calls", 600) == {"svgd": 0.2, "ula": 0.5}
    assert scores("calls", 200) == {"ula": 0.5, "svgd": 1.0}, "who has no law within it has not moved"
    assert scores("seconds", 6) == {"svgd": 0.2, "ula": 0.5}


def test_calls_are_those_of_the_headline_whatever_the_order_of_the_rows(suite):
    few = [row | {"metric": "w2", "n": 10, "sample_calls": 1.0} for row in rows("gaussian", "ula", SPREAD, calls=0)]
    many = [row | {"n": 10_000, "sample_calls": 1.0} for row in rows("gaussian", "ula", 0.1 * SPREAD, calls=0)]
    for mixed in ([*few, *many], [*many, *few]):
        (one,) = boards.entries(boards.of_suite(pd.DataFrame([*controls("gaussian"), *mixed]), suite), suite)
        assert one.calls == 10_000


def test_a_metric_of_fewer_points_does_not_make_a_law_cheaper(suite):
    few = [row | {"metric": "w2", "n": 10, "sample_calls": 1.0} for row in rows("gaussian", "ula", SPREAD, calls=0)]
    many = [row | {"n": 10_000, "sample_calls": 1.0} for row in rows("gaussian", "ula", 0.1 * SPREAD, calls=0)]
    table = boards.of_suite(pd.DataFrame([*controls("gaussian"), *few, *many]), suite)
    (one,) = boards.entries(boards.within(table, suite, "calls", 100), suite)
    assert set(one.scores["gaussian"].values()) == {1.0}, "10,000 points have to be moved for its headline"
    (one,) = boards.entries(table[table["metric"] != "energy_distance"], suite) or [None]
    assert one is None, "nobody has been judged by the headline"


def test_others_in_place_of_the_roster(suite):
    mine = suite.on(["mala", "ula:steps=9"])
    assert [part.methods for part in mine.parts] == [("mala", "ula:steps=9")] * 2
    with pytest.raises(UserError, match="fits no task"):
        suite.on(["porous_particles"])
    with pytest.raises(UserError, match="no method 'mula'"):
        suite.on(["mula"])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('track = "default"', 'track = "quick"', "of the track default"),
        ('methods = ["ula", "svgd"]', 'methods = ["ula:steps=3"]', "of the track own"),
        ('methods = ["ula", "svgd"]', 'methods = ["jko_icnn", "jko_icnn@blr-quick"]', "several settings of jko_icnn"),
        ("seeds = 5", "seeds = 3", "5 at least"),
        ("seeds = 5", 'seeds = "5"', "int"),
        ('title = "Two tasks"', "", "no title"),
        ('title = "Two tasks"', 'title = "x"\ntitl_ = "y"', "titl_"),
        ('metric = "energy_distance"', 'metrics = "w2"', "task, and metric"),
        ('task = "gaussian"', 'task = "gaussia"', "did you mean 'gaussian'"),
        ("[[tasks]]", "[[tasks]", "TOML|a suite"),
    ],
)  # fmt: skip
def test_a_broken_file_is_told(tmp_path, old, new, said):
    path = tmp_path / "broken.toml"
    path.write_text(SUITE.replace(old, new, 1))
    with pytest.raises(UserError) as told:
        suites.load(str(path))
    assert any(word in str(told.value) for word in said.split("|"))


def test_an_unknown_suite_is_told():
    with pytest.raises(UserError, match="no suite 'samplign'") as told:
        suites.load("samplign")
    assert "sampling" in told.value.fix


SMALL = """
title = "Small"
track = "default"
seeds = 5
judge = ["energy_distance"]
curve = false
methods = ["gaussian_vi"]
[[tasks]]
task = "gaussian"
metric = "energy_distance"
[[tasks]]
task = "gmm"
metric = "energy_distance"
"""


def test_without_a_clone_the_published_rows_are_said_to_lack(cli, tmp_path, monkeypatch):
    words = ("report", "--suite", "smoke", "--rows", str(ROOT / "results/smoke/rows.csv"))
    assert "published rows" not in cli(*words)[2]
    monkeypatch.setattr(_suites, "RESULTS", tmp_path)
    code, out, err = cli(*words)
    assert code == 0, err
    assert "no published rows: they come with a clone" in err
    assert "vjko" in out


@pytest.mark.slow
def test_the_runs_of_a_suite_and_one_s_own_method_among_them(cli, tmp_path, monkeypatch, no_files):
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    code, out, err = cli("run", "--suite", str(path), "--no-isolate", "--out", "runs")
    assert code == 0, err
    assert "(track default, 5 seeds)" in " ".join(out.split())
    assert re.search(r"^gaussian_vi .* 0\.\d{3} ±", out, re.M)
    assert cli("report", "--out", "runs", "--write", "published/small")[0] == 0
    monkeypatch.setattr(_suites, "RESULTS", tmp_path / "published")
    (tmp_path / "mine.py").write_text((ROOT / "baselines" / "gaussian_vi.py").read_text())
    code, out, err = cli(
        "run", "--suite", str(path), "--method", "mine", "--plugin", "mine.py", "--no-isolate", "--out", "own"
    )
    assert code == 0, err
    lines = [line for line in out.splitlines() if line.startswith(("mine ", "gaussian_vi "))]
    assert len(lines) == 2
    assert "gaussian_vi" not in err, "the published rows stand for the others"
    code, out, err = cli("report", "--suite", str(path), "--out", "own", "--plugin", "mine.py")
    assert code == 0, err
    assert all(line in out for line in lines)
    code, out, err = cli("report", "--suite", str(path), "--out", "own", "--plugin", "mine.py", "--format", "markdown")
    assert "| gaussian_vi | 0." in out, err
    code, out, _ = cli("report", "--suite", str(path), "--out", "nowhere", "--within", "calls=1")
    assert code == 0
    assert "Within calls=1:" in out
    for words, said in (
        (("run", "--suite", str(path), "--seeds", "3"), "--seeds with --suite"),
        (("run", "--suite", str(path), "--task", "ou"), "a task of suite"),
        (("run", "--suite", "none"), "no suite 'none'"),
        (("report", "--suite", str(path), "--within", "steps=3"), "--within steps=3"),
        (("report", "--within", "calls=3"), "--within calls=3"),
        (("report", "--suite", str(path), "--format", "csv"), "--suite with --format csv"),
    ):
        code, _, err = cli(*words)
        assert code == 2, words
        assert said in err
