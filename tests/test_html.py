"""The page and the figures as text and files: what stands in them, what is escaped, and that looks are one a method."""

import base64
import gzip
import hashlib
import json
import re

import numpy as np
import pandas as pd
import pytest

import gwfbench
from gwfbench.audit.verdict import Verdict
from gwfbench.commands import _suites
from gwfbench.papers import ledger
from gwfbench.plugins import registry
from gwfbench.report import stats, verdicts
from gwfbench.report.board.leaderboard import leaderboard
from gwfbench.report.figures.style import looks
from gwfbench.report.page import build
from gwfbench.report.page.about import about
from gwfbench.report.page.data import ALONG, RUN, sheets
from gwfbench.report.page.draws import WIDE, Views, _png, views
from gwfbench.report.page.groups import of_rows, of_suite
from gwfbench.report.rows import read as read_rows
from gwfbench.runs import order as session
from gwfbench.store import folders
from gwfbench.suites.suite import Part, Suite

pytest.importorskip("jinja2")

EVIL = "evil:note=</script><script>alert('1\"')</script><img src=x onerror=alert(2)>"
ROW = {
    "task": "ou", "method": "vjko", "seed": 0, "step": 1, "t": 0.9, "metric": "w2", "metric_version": 1,
    "better": "lower", "law": "flow", "role": "method", "value": 0.5, "se": 0.01, "n": 1024, "seconds": 2.0,
    "score_calls": 100, "log_prob_calls": 0, "draw_calls": 0, "sample_seconds": 0.1, "sample_calls": 0.0,
    "metric_code": "abc", "status": "ok", "reason": "", "information": "Initial LogDensity", "track": "default",
    "dtype": "float32", "device": "cpu", "budget": "", "batch": 1, "code": "c0de", "env": "e0",
}  # fmt: skip
NOTHING = Views([], [], ["none"])


def made(*changes):
    """Rows of `ROW`, each changed so; a run of its own for each (task, method, seed)."""
    rows = [ROW | change for change in changes]
    for row in rows:
        name = f"{row['task']} {row['method']} {row['seed']}"
        row["run_key"] = hashlib.sha256(name.encode()).hexdigest()[:16]
        row["attempt"] = row["run_key"][:8]
    return pd.DataFrame(rows)


def several(**methods):
    """One row a value, by method."""
    roles = {"exact": "floor", "still": "control"}
    return made(
        *(
            {"method": name, "seed": seed, "value": value, "role": roles.get(name, "method")}
            for name, values in methods.items()
            for seed, value in enumerate(values)
        )
    )


def content_of(text):
    block = re.search(r'<script type="text/plain" id="content">(.*?)</script>', text, re.S)[1]
    return json.loads(gzip.decompress(base64.b64decode(block)))


def page_of(points, facts=None, seen=NOTHING):
    return build.page([of_rows(points)], facts or {}, seen)


def test_names_of_strangers_are_text():
    points = made({"method": EVIL}, {"method": "vjko", "task": EVIL, "information": EVIL, "env": EVIL, "track": EVIL})
    text = page_of(points, {EVIL: {"commit": EVIL}}, Views([], [], [EVIL]))
    assert EVIL not in text
    assert "<img src=x" not in text
    assert len(re.findall(r"</script", text)) == len(re.findall(r"<script", text)) == 3
    content = content_of(text)
    assert {board["task"] for board in content["groups"][0]["boards"]} == {"ou", EVIL}
    assert EVIL in content["looks"]


def test_the_policy_lets_the_two_scripts_run_and_nothing_else():
    text = page_of(several(vjko=[1.0, 2.0]))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    scripts = re.findall(r'<script(?: type="text/plain" id="plotly")?>(.*?)</script>', text, re.S)
    digests = [base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in scripts]
    assert [f"'sha256-{digest}'" in policy.replace("&#39;", "'") for digest in digests] == [True, True]
    assert policy.startswith("default-src 'none'")
    ours = text.replace(scripts[0], "")
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", ours)
    assert "@import" not in ours
    assert not re.findall(r"url\(", ours)


def test_cells_are_the_leaderboards_and_tiers_those_of_stats():
    values = {
        "a": [1.0, 1.1, 1.2, 1.05],
        "b": [1.01, 1.08, 1.22, 1.06],
        "c": [9.0, 9.3, 10.0, 9.4],
        "still": [30.0] * 4,
    }
    points = several(**values)
    (sheet,) = sheets(points)
    table = leaderboard(points).set_index("method")
    for line in sheet.plain()["lines"]:
        cell, method = line["cells"]["w2"], line["method"]
        assert [cell["value"], cell["low"], cell["high"]] == pytest.approx(
            list(table.loc[method, ["w2", "w2_low", "w2_high"]]), rel=1e-6
        )
        assert [value for _, value, _ in cell["values"]] == values[method]
    tiers = {line["method"]: line["cells"]["w2"]["tier"] for line in sheet.plain()["lines"]}
    assert tiers.pop("still") == ""
    assert tiers == stats.tiers({name: dict(enumerate(values[name])) for name in tiers})
    assert set(tiers["a"]) & set(tiers["b"])
    assert not set(tiers["a"]) & set(tiers["c"])


def test_where_higher_is_better_the_first_tier_is_the_highest():
    points = several(low=[0.1, 0.11, 0.12], high=[0.9, 0.92, 0.93]).assign(better="higher")
    (sheet,) = sheets(points)
    assert {name: grade.tier for name, grade in sheet.grades["w2"].items()} == {"high": "a", "low": "b"}


def test_a_failed_seed_counts_as_the_worst():
    points = several(a=[1.0, 1.1, 1.2], b=[1.01, 1.12, 1.19], still=[5.0, 5.1, 5.2])
    lost = made(
        {
            "method": "b",
            "seed": 3,
            "metric": None,
            "value": np.nan,
            "t": np.nan,
            "step": np.nan,
            "status": "diverged",
            "reason": "nan",
        }
    )
    more = several(a=[0, 0, 0, 1.15], still=[0, 0, 0, 5.3]).query("seed == 3")
    (sheet,) = sheets(pd.concat([points, lost, more]))
    line = next(line for line in sheet.plain()["lines"] if line["method"] == "b")
    assert line["seeds"] == "3/4, 1 diverged"
    assert [run[RUN.index("reason")] for run in line["runs"]] == ["", "", "", "nan"]
    assert len(line["cells"]["w2"]["values"]) == 3


def test_curves_are_medians_over_the_seeds_that_got_there():
    rows = [
        {"seed": seed, "step": step, "t": 0.3 * step, "value": 10.0 * step + seed, "seconds": 1.0 * step + seed}
        for seed in range(3)
        for step in range(1, 4)
        if (seed, step) != (2, 3)
    ]
    (sheet,) = sheets(made(*rows))
    (line,) = sheet.histories.values()
    assert [step[ALONG.index("seconds")] for step in line.steps] == [2.0, 3.0, 3.5]
    assert [band[0] for band in line.curves["w2"]] == [11.0, 21.0, 30.5]
    assert [band[1] <= band[0] <= band[2] for band in line.curves["w2"]] == [True] * 3


def test_last_laws_at_several_steps_are_no_curve():
    (sheet,) = sheets(made(*({"seed": seed, "step": 10 + seed, "seconds": 1.0 + seed} for seed in range(3))))
    assert [history.curves for history in sheet.histories.values()] == [{}]


def test_a_runs_cost_is_training_and_sampling_and_calls_count_the_judged_points():
    (sheet,) = sheets(made({"seconds": 2.0, "sample_seconds": 3.0, "score_calls": 100, "sample_calls": 2.0, "n": 10}))
    (line,) = sheet.plain()["lines"]
    assert (line["costs"]["total"], line["costs"]["oracle"]) == (5.0, 120.0)


SUITE = Suite("mini", "A small suite", "default", 3, (
    Part("ou", "w2", ("vjko", "ula")), Part("toy2d", "sliced_w2", ("vjko", "ula")),
), budget="score_calls=1e6")  # fmt: skip


def suite_rows():
    values = {"exact": 0.1, "still": 4.1, "vjko": 0.5, "ula": 2.1}
    return made(*(
        {
            "task": task, "method": method, "seed": seed, "value": value * (1 + 0.01 * seed), "metric": metric,
            "role": {"exact": "floor", "still": "control"}.get(method, "method"), "budget": "score_calls=1000000.0",
        }
        for task, own in (("ou", ("w2",)), ("toy2d", ("mmd", "sliced_w2")))
        for method, value in values.items() for seed in range(3) for metric in own
    ))  # fmt: skip


def test_a_suite_has_scores_headlines_and_commands_that_keep_to_it():
    group = of_suite(SUITE, _suites._together(SUITE, suite_rows(), None)).plain()
    assert [entry["method"] for entry in group["entries"]] == ["vjko", "ula"]
    assert group["entries"][0]["score"] == pytest.approx(0.1)
    assert group["entries"][0]["tier"] == "a"
    assert [(board["task"], board["headline"]) for board in group["boards"]] == [("ou", "w2"), ("toy2d", "sliced_w2")]
    commands = {line["method"]: line["command"] for line in group["boards"][1]["lines"]}
    assert commands["ula"] == "python -m gwfbench run --suite mini --task toy2d --method ula"
    assert "--suite" not in commands["exact"]
    assert group["facts"] == ["3 seeds", "at most 1e6 score calls a run"]


def test_a_published_number_stands_next_to_ours_with_its_verdict():
    book = ledger.load("fan2022")
    number, answer = next(
        (number, answer) for table in book.tables for number in table.numbers if number.metric and not number.scale
        for answer in ledger.answers(book, number) if answer.setting == "ours"
    )  # fmt: skip
    rows = [
        {"task": answer.task, "method": method, "seed": seed, "metric": number.metric, "better": number.better,
         "value": value, "se": 0.0, "role": "control" if method == "still" else "method"}
        for method, value in ((answer.method, number.value[0]), ("still", number.value[0] + 1)) for seed in range(3)
    ]  # fmt: skip
    group = of_rows(made(*rows))
    those = [one for one in group.published if (one.what, one.metric) == (number.what, number.metric)]
    (line,) = (line for line in group.sheets[0].board.lines if line.role == "method")
    expected = verdicts.judged(number, answer.setting, verdicts.of_line(number, line), number.value[0] + 1)
    assert [(one.word, one.task, one.method) for one in those] == [(expected.word, answer.task, line.method)]
    assert expected.word == "consistent"
    assert those[0].printed.startswith(f"{number.value[0]:g}")


def test_all_of_a_board_has_a_sentence_and_what_to_cite():
    found = about(["ou:dim=8"], ["vjko@ou-linear", "nobody"], ["w2", "nothing"])
    assert set(found["says"]) == {"task ou", "method vjko", "metric w2"}
    assert "Standard error" not in found["says"]["metric w2"]
    assert set(found["cites"]) == {"task ou", "method vjko"}
    assert all(entry.startswith("@") for entry in found["cites"]["method vjko"])


def test_the_page_of_suites_is_made_from_published_rows_and_ones_own(cli, tmp_path, monkeypatch):
    folder = tmp_path / "results" / "smoke"
    folder.mkdir(parents=True)
    task, method = "ou", registry.canonical("method", "ula@quick")
    rows = [
        {"task": task, "method": name, "seed": seed, "value": value, "metric": "symkl", "role": role}
        for name, value, role in ((method, 0.5, "method"), ("exact", 0.1, "floor"), ("still", 4.0, "control"))
        for seed in range(3)
    ]
    made(*rows).to_csv(folder / "rows.csv", index=False)
    made(*({**row, "method": "svgd"} for row in rows[:3])).to_csv("own.csv", index=False)
    monkeypatch.setattr(_suites, "RESULTS", tmp_path / "results")
    code, _, err = cli("report", "html", "site.html", "--suite", "all", "--rows", "own.csv")
    assert code == 0, err
    smoke, papers = content_of((tmp_path / "site.html").read_text())["groups"]
    assert {line["method"] for line in smoke["boards"][0]["lines"]} == {"ula", "svgd", "exact", "still"}
    assert papers["name"] == "papers"
    assert {one["word"] for one in papers["published"]} == {"not run"}
    assert cli("report", "html", "site.html", "--suite", "nothing")[0] == 2


def test_the_same_values_give_the_same_block_at_any_time():
    assert base64.b64decode(build.zipped({"a": 1}))[4:8] == bytes(4)  # no date


@pytest.mark.parametrize(
    ("changes", "command"),
    [
        ([{"seed": 0}, {"seed": 1}], "python -m gwfbench run --task ou --method vjko --seeds 2"),
        ([{"seed": 7}], "python -m gwfbench run --task ou --method vjko --seeds 7,"),
        ([{"seed": 3}, {"seed": 5}], "python -m gwfbench run --task ou --method vjko --seeds 3,5"),
        (
            [{"method": "a b;rm -rf", "device": "cuda", "dtype": "float64", "budget": "seconds=60.0"}],
            "python -m gwfbench run --task ou --method 'a b;rm -rf' --seeds 1 --device cuda --dtype float64 --budget seconds=60.0",
        ),
    ],
)
def test_the_command_asks_for_the_same_seeds(changes, command):
    (sheet,) = sheets(made(*changes))
    assert next(iter(sheet.histories.values())).command == command
    if "rm" not in command:
        words = command.split()
        order = session.Order.read([words[5]], [words[7]], words[9])
        assert order.seeds == tuple(change["seed"] for change in changes)


def test_rows_of_other_code_are_stale_and_verdicts_are_counted():
    points = several(vjko=[1.0, 2.0], nobody=[1.0])
    keys = points[points["method"] == "vjko"][["run_key", "attempt"]].to_records(index=False)
    verdicts = [
        Verdict("ou", "vjko", i, *key, word)
        for i, (key, word) in enumerate(zip(keys, ["identical", "different"], strict=True))
    ]
    (sheet,) = sheets(points, verdicts=verdicts)
    line = sheet.histories
    assert line["vjko"].stale.startswith("2 of 2")
    assert "can't be built any more" in line["nobody"].stale
    assert line["vjko"].verified == {"identical": 1, "different": 1}
    assert line["nobody"].verified == {}


def test_fresh_rows_are_not_stale():
    points = gwfbench.run("ou:dim=2,horizon=0.1", "ula", 1, controls=False, isolate=False)
    (sheet,) = sheets(points)
    assert sheet.histories[points["method"].iloc[0]].stale == ""


def test_looks_are_one_a_method_whatever_the_order_and_grey_for_the_rest():
    names = [(f"m{i}", "method") for i in range(48)] + [("exact", "floor"), ("still", "control")]
    found = looks(names)
    assert found == looks(reversed(names))
    assert len({(look.colour, look.marker) for name, look in found.items() if name[0] == "m"}) == 48
    assert found["exact"].colour == found["still"].colour
    assert looks([("a", "control"), ("a", "method")])["a"].colour != found["exact"].colour


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry.find("task", "toy2d").load(), "metrics", ("sliced_w2",))
        points = gwfbench.run("toy2d", "mmd_flow:steps=4,points=1200,batch=64", 2, out=out, isolate=False)
    return out, points


def test_draws_come_back_from_the_page_as_they_were_kept(kept):
    out, points = kept
    seen = views(points, out)
    (plane,) = seen.planes
    (cloud,) = plane.clouds
    run = next(
        run for run in folders.attempts(out)[0] if run.identity.method == cloud.method and run.identity.seed == 0
    )
    (folder,) = out.glob(f"*-{run.attempt}")
    laws = np.load(folder / "draws.npz")
    x0, x1, y0, y1 = plane.box
    for text, step in zip(cloud.laws, (1, 2, 3, 4), strict=True):
        unit = np.frombuffer(base64.b64decode(text), "<u2").reshape(-1, 2) / WIDE
        back = np.array([x0, y0]) + unit * np.array([x1 - x0, y1 - y0])
        expected = laws[f"t{step}"][:512].clip([x0, y0], [x1, y1])
        np.testing.assert_allclose(back, expected, atol=0.51 * (x1 - x0) / WIDE + 1e-6)
    assert len(base64.b64decode(plane.truth)) == 512 * 4
    assert seen.grids == []


def test_without_draws_the_page_says_why(kept):
    _, points = kept
    assert "CSV of rows" in views(points, None).notes[0]
    out, _ = kept
    empty = out.parent / "empty"
    empty.mkdir()
    assert views(points, empty).notes == ["toy2d: no draws of its runs were kept."]


def test_grids_hold_the_images_in_their_places():
    from PIL import Image

    images = np.full((10, 1, 4, 4), -1.0)
    images[9] = 1.0  # second row, second column
    file = base64.b64decode(_png(images).partition(",")[2])
    import io

    pixels = np.asarray(Image.open(io.BytesIO(file)).convert("L"))
    assert pixels.shape == (2 * 5 - 1, 8 * 5 - 1)
    assert (pixels[5:9, 5:9] == 255).all()
    assert (pixels[5:9, 0:4] == 0).all()
    assert (pixels[0:4, 5:9] == 0).all()


@pytest.mark.slow
def test_the_command_line_writes_page_and_figures(kept, cli, tmp_path):
    pytest.importorskip("matplotlib")
    out, _ = kept
    assert cli("report", "html", "page.html", "--out", str(out))[0] == 0
    assert cli("report", "figures", "figures", "--out", str(out))[0] == 0
    names = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert names == [
        f"toy2d-sliced_w2-{kind}.{ending}" for kind in ("cost-total", "curve-total") for ending in ("pdf", "png")
    ]
    assert content_of((tmp_path / "page.html").read_text())["groups"][0]["boards"][0]["task"] == "toy2d"


def test_figures_are_the_same_bytes_from_the_same_rows(cli, tmp_path):
    pytest.importorskip("matplotlib")
    several(a=[1.0, 1.1], b=[0.0, -0.2], exact=[0.1, 0.2]).to_csv("rows.csv", index=False)
    for folder in ("one", "two"):
        code, _, err = cli("report", "figures", folder, "--rows", "rows.csv")
        assert code == 0
        assert "no curve-t of w2 on ou" in err
    for ending in ("png", "pdf"):
        first, second = ((tmp_path / folder / f"ou-w2-cost-total.{ending}").read_bytes() for folder in ("one", "two"))
        assert first == second


def test_far_values_next_to_negative_ones_have_logarithms_beyond_the_floor(tmp_path):
    """A method that runs away by 1e7 would hide all the others; its median stays on the axis, a wild interval does not."""
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    from gwfbench.report.figures.papers import _upright
    from gwfbench.report.page.data import sheets as all_sheets

    (sheet,) = all_sheets(several(a=[1.0, 1.1], exact=[-0.1, 0.2]))
    for middles, ends, scale in (
        ([1.0, 2.0], [0.5, 3.0], "log"), ([1.0, 2.0], [-0.5, 3.0], "linear"), ([-0.1, 1e7], [-1e20, 1e20], "symlog"),
    ):  # fmt: skip
        ax = Figure().subplots()
        _upright(ax, middles, ends, sheet.board, "w2")
        assert ax.get_yscale() == scale
    low, high = ax.get_ylim()
    assert -10 < low < -0.1
    assert 1e7 < high < 1e8


def test_a_page_that_cannot_be_written_is_a_users_mistake(cli, tmp_path):
    several(a=[1.0, 1.1]).to_csv("rows.csv", index=False)
    (tmp_path / "folder").mkdir()
    code, _, err = cli("report", "html", "folder", "--rows", "rows.csv")
    assert code == 2
    assert "folder: a folder" in err


def test_a_csv_with_an_evil_name_is_read_as_it_is(tmp_path):
    made({"method": EVIL}).to_csv(tmp_path / "rows.csv", index=False)
    points, _ = read_rows(tmp_path / "rows.csv")
    assert points["method"].to_list() == [EVIL]
