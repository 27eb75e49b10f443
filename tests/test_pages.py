"""Pages of a results folder are what its rows give: made, checked, laid out, and scored over tasks by hand."""

import math
import shutil
import subprocess

import pandas as pd
import pytest

import gwfbench
from gwfbench.papers import ledger
from gwfbench.plugins import registry
from gwfbench.report import pages
from gwfbench.report.board.across_tasks import overall
from gwfbench.report.pages import Layout
from gwfbench.report.rows import rows_of

pytestmark = pytest.mark.slow

MARKS = {"exact": 1.0, "still": 11.0}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A checkout with two pages, one of curves and one of last laws, and a README with a table."""
    root = tmp_path_factory.mktemp("checkout")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry.find("task", "toy2d").load(), "metrics", ("sliced_w2", "energy_distance"))
        gwfbench.run("ou:horizon=0.1", ("ula", "gaussian_vi"), 2, out=root / "runs", isolate=False)
        gwfbench.run("toy2d", "mmd_flow:steps=4,points=1200,batch=64", 2, out=root / "runs", isolate=False)
    points, facts, _ = rows_of(root / "runs")
    for name, laws, layout in (
        ("ou", "all", Layout()),
        ("toy2d", "last", Layout("In the plane", ("sliced_w2",), True)),
    ):
        part = points[points["task"].str.startswith(name)]
        pages.keep(root / "results" / name, pages.of_laws(part, laws), facts, [], layout)
    marker = "<!-- leaderboard results/ou ou:horizon=0.1 symkl,kl -->"
    (root / "README.md").write_text(f"# Title\n\n{marker}\nold\n<!-- end -->\n\nthe rest\n")
    (root / "results" / "README.md").write_text("<!-- leaderboard ou ou:horizon=0.1 kl -->\nold\n<!-- end -->\n")
    return root


@pytest.fixture
def checkout(made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_page_is_made_and_then_stands_the_check(cli, checkout):
    code, text, err = cli("report", "pages", "results", "--check")
    assert code == 1
    assert "results/ou/leaderboard.md:1 " in err
    assert cli("report", "pages", "results")[0] == 0
    for folder in ("ou", "toy2d"):
        assert {path.suffix for path in (checkout / "results" / folder).glob("leaderboard.*")} == {
            ".md",
            ".csv",
            ".tex",
        }
    code, text, err = cli("report", "pages", "results", "--check")
    pages = 3 * len(list((checkout / "results").glob("*/rows.csv"))) + 1 + len(ledger.papers()) + 2
    assert (code, text, err) == (0, f"{pages} pages, 0 of them not what the rows give\n", "")
    assert "nothing" not in cli("report", "pages", "results")[1]


def test_a_changed_number_is_found(cli, checkout):
    cli("report", "pages", "results")
    for path in [checkout / "results" / "leaderboard.md", *(checkout / "results").glob("*/leaderboard.*")]:
        text = path.read_text()
        digit = next(i for i in range(len(text) - 1, 0, -1) if text[i].isdigit())
        path.write_text(text[:digit] + str((int(text[digit]) + 1) % 10) + text[digit + 1 :])
        code, _, err = cli("report", "pages", "results", "--check")
        assert code == 1
        assert [line for line in err.splitlines() if str(path.relative_to(checkout)) in line]
        path.write_text(text)


def test_the_readme_has_its_table_and_nothing_else_changes(cli, checkout):
    cli("report", "pages", "results")
    text = (checkout / "README.md").read_text()
    assert text.startswith("# Title\n\n<!-- leaderboard results/ou")
    assert text.endswith("<!-- end -->\n\nthe rest\n")
    assert "old" not in text
    head = next(line for line in text.splitlines() if line.startswith("| method"))
    assert [cell.strip() for cell in head.split("|")[1:5]] == ["method", "tier", "symkl", "kl"]
    assert "| method" in (checkout / "results" / "README.md").read_text()


def test_a_marker_of_no_rows_is_a_users_mistake(cli, checkout):
    readme = checkout / "README.md"
    readme.write_text(readme.read_text().replace("ou:horizon=0.1 symkl", "ou:dim=5 symkl"))
    code, _, err = cli("report", "pages", "results")
    assert code == 2
    assert "ou:dim=5" in err


def test_the_layout_is_kept_and_read(cli, checkout):
    folder = checkout / "results" / "toy2d"
    assert Layout.read(folder) == Layout("In the plane", ("sliced_w2",), True)
    cli("report", "pages", "results")
    page = (folder / "leaderboard.md").read_text()
    assert page.startswith("# In the plane\n\n## sliced_w2\n")
    assert "energy_distance" not in page
    (folder / "page.toml").write_text("pivot = 3\n")
    code, _, err = cli("report", "pages", "results")
    assert code == 2
    assert "page.toml" in err


def test_a_run_that_failed_stays_among_the_rows_of_last_laws():
    rows = pd.DataFrame(
        [{"run_key": "a", "attempt": "1", "step": step, "metric": "m"} for step in (1, 2)]
        + [{"run_key": "b", "attempt": "1", "step": None, "metric": None}]
    )
    kept = pages.of_laws(rows, "last")
    assert list(zip(kept["run_key"], kept["metric"].notna(), strict=True)) == [("a", True), ("b", False)]
    assert len(pages.of_laws(rows, "all")) == 3


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no pdflatex here")
def test_latex_compiles(cli, checkout):
    cli("report", "pages", "results")
    table = (checkout / "results" / "ou" / "leaderboard.tex").read_text()
    document = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\\tiny " + table + "\\end{document}"
    (checkout / "page.tex").write_text(document)
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "page.tex"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:]


def test_latex_has_booktabs_and_escapes(cli, checkout):
    cli("report", "pages", "results")
    text = (checkout / "results" / "ou" / "leaderboard.tex").read_text()
    assert "\\toprule" in text
    assert "gaussian\\_vi" in text
    assert " \\cdot 10^{-" in text
    assert "e-0" not in text


def run(task, method, seed, curve, status="ok", role="method", information="Initial LogDensity"):
    """Rows of a run with (value, seconds, score calls) at steps 1, 2, ..."""
    return [
        {
            "task": task, "method": method, "seed": seed, "step": step, "t": None, "metric": "m", "better": "lower",
            "metric_version": 1, "role": role, "value": value, "se": 0.0, "n": 10, "seconds": seconds, "score_calls": calls,
            "draw_calls": 0, "sample_seconds": 0.0, "sample_calls": 0.0, "status": status, "reason": "", "track": "default",
            "information": information, "run_key": f"{task}{method}{seed}", "attempt": "a",
        }
        for step, (value, seconds, calls) in enumerate(curve, 1)
    ]  # fmt: skip


def test_scores_over_tasks_by_hand():
    rows = [line for task in ("one", "two") for name, mark in MARKS.items() for line in run(
        task, name, 0, [(mark, 0, 0)], role="floor" if name == "exact" else "control", information=""
    )]  # fmt: skip
    rows += run("one", "fast", 0, [(6.0, 1, 5), (1.5, 2, 50)]) + run("one", "fast", 1, [(3.0, 1, 5), (1.0, 4, 50)])
    rows += run("two", "fast", 0, [(11.0, 9, 9)]) + run("two", "fast", 1, [(math.nan, 1, 9)], status="diverged")
    rows += run("one", "slow", 0, [(1.0, 30, 60)]) + run("two", "slow", 0, [(2.0, 40, 10), (9.0, 60, 20)])
    rows += run("one", "alone", 0, [(1.0, 1, 1)])
    rows += run("two", "fast", 2, [(9.0, 1, 9)], status="killed")  # counts as not run
    table = overall(pd.DataFrame(rows)).set_index("method")
    assert sorted(table.index) == ["fast", "slow"]  # of one task alone nothing can be said over tasks
    fast, slow = table.loc["fast"], table.loc["slow"]
    assert fast["score"] == pytest.approx(((0.05 + 0.0) / 2 + (1.0 + 1.0) / 2) / 2)
    assert slow["score"] == pytest.approx((0.0 + 0.8) / 2)
    assert (fast["failed"], slow["failed"]) == (0.25, 0.0)
    assert (fast["solved"], slow["solved"]) == (0.5, 1.0)  # slow was at target on two, and left it
    assert (fast["seconds x2"], fast["seconds x10"]) == (0.5, 0.5)  # alone, with 1 s, is in no table
    assert (slow["seconds x2"], slow["seconds x10"]) == (0.5, 1.0)
    assert (slow["calls x2"], slow["calls x10"]) == (1.0, 1.0)


def marks(*tasks):
    return [
        line
        for task in tasks
        for name, mark in MARKS.items()
        for line in run(task, name, 0, [(mark, 0, 0)], role="floor" if name == "exact" else "control", information="")
    ]


def test_only_those_are_compared_that_were_run_on_the_same_tasks():
    tasks = {"a": "xyz", "b": "xyz", "c": "xy", "d": "yz", "e": "z", "f": "wv"}
    rows = marks(*"xyzwv") + [
        line
        for name, own in tasks.items()
        for task in own
        for line in run(task, name, 0, [(6.0 if task == "z" else 2.0, 1, 1)])
    ]
    table = overall(pd.DataFrame(rows))
    found = {names: list(part["method"]) for names, part in table.groupby("tasks", sort=False)}
    assert found == {"x, y, z": ["a", "b"], "x, y": ["a", "b", "c"], "y, z": ["a", "b", "d"]}
    scores = dict(zip(table["tasks"] + table["method"], table["score"], strict=True))
    assert scores["x, y, za"] == pytest.approx(0.7 / 3)
    assert scores["x, yb"] == pytest.approx(0.1)


def test_scores_are_by_the_first_metric_that_tells_and_next_to_the_controls_of_their_seed():
    rows = []
    for task in ("one", "two"):
        for seed, still in ((0, 11.0), (1, 3.0)):
            for name, value in {"exact": 1.0, "still": still, "a": 2.0, "b": 2.0}.items():
                role = {"exact": "floor", "still": "control"}.get(name, "method")
                information = "" if role != "method" else "LogDensity"
                line = run(task, name, seed, [(value, 1, 1)], role=role, information=information)[0]
                rows += [line | {"metric": "blind", "value": 1.0 + seed, "se": 1.0}, line]
    table = overall(pd.DataFrame(rows))
    assert list(table["score"]) == pytest.approx([(0.1 + 0.5) / 2] * 2)
