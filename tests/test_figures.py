"""Figures for papers and LaTeX: names, looks, what an axis of cost has, ranks, bold and minus signs."""

import re

import pandas as pd
import pytest

from gwfbench.errors import UserError
from gwfbench.plugins import registry
from gwfbench.report import names
from gwfbench.report.board import latex
from gwfbench.report.board.leaderboard import boards
from gwfbench.report.figures.style import COLOURS, METHODS, looks

LONG = "mmd_flow:carrier=generator,steps=400"


def rows_of(values, task="one", laws=1, metric="m", **changes):
    """A run for each seed of each method, whose error halves from law to law and ends at its value."""
    roles = {"exact": "floor", "still": "control"}
    return pd.DataFrame([
        {
            "task": task, "method": name, "seed": seed, "step": law, "t": None, "metric": metric, "better": "lower",
            "metric_version": 1, "role": roles.get(name, "method"), "value": value * 2.0 ** (laws - law), "se": 0.0,
            "n": 10, "seconds": 2.0 * law, "sample_seconds": 30.0, "score_calls": 100 * law, "draw_calls": 5,
            "sample_calls": 7.0, "status": "ok", "information": "Initial LogDensity", "attempt": "a",
            "run_key": f"{task}{name}{seed}", **changes,
        }
        for name, own in values.items() for seed, value in enumerate(own) for law in range(1, laws + 1)
    ])  # fmt: skip


def test_short_names_have_what_tells_methods_apart():
    found = names.labels([LONG, "mmd_flow", "svgd:steps=9,particles=4", "vjko@ou-quick", "ula [float64]", "ula"])
    assert found == {
        LONG: "mmd_flow (generator)", "mmd_flow": "mmd_flow", "svgd:steps=9,particles=4": "svgd",
        "vjko@ou-quick": "vjko@ou-quick", "ula [float64]": "ula [float64]", "ula": "ula",
    }  # fmt: skip
    three = ["f:a=1,b=2", "f:a=1,b=3", "f:a=2,b=3"]  # no field alone tells all three apart
    assert list(names.labels(three).values()) == ["f (a=1, b=2)", "f (a=1, b=3)", "f (a=2, b=3)"]
    assert len(set(names.labels([f"f:a={i},b={j},c={k},d={m}" for i in (1, 2) for j in (1, 2) for k in (1, 2)
                                 for m in (1, 2)]).values())) == 16  # fmt: skip


def test_labels_of_ones_own():
    texts = names.given([f"{LONG}=MMD, learnt", "svgd=SVGD"])
    assert texts == {LONG: "MMD, learnt", "svgd": "SVGD"}
    assert names.labels([LONG, "mmd_flow", "svgd:steps=9"], texts) == {
        LONG: "MMD, learnt", "mmd_flow": "mmd_flow", "svgd:steps=9": "SVGD",
    }  # fmt: skip
    names.require_known(texts, [LONG, "svgd:steps=9"])
    with pytest.raises(UserError, match=r"--label gsvd"):
        names.require_known({"gsvd": "x"}, [LONG, "svgd"])
    for word in ("svgd", "=SVGD", "svgd= "):
        with pytest.raises(UserError, match="NAME=TEXT"):
            names.given([word])


def test_a_method_looks_the_same_next_to_whatever_it_stands():
    """Every method that comes with the package has a place; a new one goes to the end of METHODS."""
    here = {name for name in registry.plugins("method") if not registry.is_control(name)}
    assert here == set(METHODS)
    together = looks((name, "method") for name in METHODS)
    assert len({(one.colour, one.marker) for one in together.values()}) == len(METHODS)
    for name in METHODS:
        assert looks([(name, "method"), ("exact", "floor"), ("mine", "method")])[name] == together[name]
        assert looks([(f"{name}:steps=9", "method")])[f"{name}:steps=9"] == together[name]


def test_settings_of_one_method_share_its_colour_and_differ_in_marker():
    found = looks((name, "method") for name in ("mmd_flow", LONG, "mmd_flow@quick", "svgd"))  # svgd has this colour too
    own = [found[name] for name in ("mmd_flow", LONG, "mmd_flow@quick")]
    assert {one.colour for one in own} == {found["svgd"].colour} <= set(COLOURS)
    assert len({one.marker for one in found.values()}) == 4
    assert len({one.line for one in own}) == 3


@pytest.mark.parametrize(("x", "paid"), [("total", 32.0), ("calls", 100 + 5 + 7 * 10), ("train", 2.0)])
def test_cost_is_what_a_user_pays(x, paid):
    pytest.importorskip("matplotlib")
    from gwfbench.report.figures import papers
    from gwfbench.report.page.data import sheets
    from gwfbench.report.table import contestants

    rows = contestants(rows_of({"ula": [0.5, 0.6], "exact": [0.1, 0.2], "still": [1.0, 1.0]}))
    ((_, metric, part),) = papers._parts(rows, None)
    (sheet,) = sheets(part.assign(seconds=papers._paid(part, x)), [metric])
    style = looks((line.method, line.role) for line in sheet.board.lines)
    figure = papers._cost(papers._Plot(sheet, metric, style, names.labels(style), papers.Wanted(x)))
    (ax,) = figure.axes
    assert ax.get_xlabel() == papers.COSTS[x]
    (points,) = [line for line in ax.lines if line.get_label() == "ula"]
    assert list(points.get_xdata()) == [paid]
    assert list(points.get_ydata()) == [0.55]
    (band,) = [patch for patch in ax.patches if patch.get_label() == "exact (floor)"]
    assert band.get_extents().height > 0
    assert [text.get_text() for text in figure.legends[0].texts] == ["ula", "exact (floor)", "still"]


def test_what_is_far_worse_than_not_moving_hides_nothing():
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    from gwfbench.report.figures.papers import _upright

    (board,) = boards(rows_of({"ula": [0.5, 0.6], "exact": [0.1, 0.2], "still": [1.0, 1.0]}))
    ax = Figure().subplots()
    assert _upright(ax, [0.5, 1e7], [0.4, 1e8], board, "m") == ax.get_ylim()[1] == pytest.approx(10)
    assert ax.get_ylim()[0] < 0.2
    assert _upright(Figure().subplots(), [0.5, 3.0], [0.4], board, "m") == float("inf")


@pytest.mark.slow
def test_figures_by_the_command_line(cli, tmp_path):
    """Curves take three laws; the font is embedded as Type 42; a wide figure is seven inches."""
    pytest.importorskip("matplotlib")
    rows = rows_of({"ula": [0.5, 0.6], "svgd:steps=9": [0.3, 0.2], "exact": [0.1, 0.1]}, "a$b_1", laws=3)
    rows.to_csv("rows.csv", index=False)
    words = ["--rows", "rows.csv", "--columns", "2", "--x", "calls", "--label", "ula=Langevin $W_2$"]
    code, _, err = cli("report", "figures", "figs", *words)
    assert code == 0, err
    assert "svgd: svgd:steps=9" in err
    made = sorted(path.name for path in (tmp_path / "figs").iterdir())
    assert made == [f"a-b_1-m-{kind}-calls.{end}" for kind in ("cost", "curve") for end in ("pdf", "png")]
    text = (tmp_path / "figs" / made[0]).read_bytes()
    assert b"/CIDFontType2" in text
    assert b"/Subtype /Type3" not in text
    assert int(re.search(rb"/MediaBox \[ 0 0 (\d+)", text)[1]) == 504
    code, _, err = cli("report", "figures", "figs", "--rows", "rows.csv", "--label", "nuts=N")
    assert code == 2
    assert "--label nuts" in err
    assert "svgd, ula" in err


def test_ranks_are_by_median_and_failures_last():
    from gwfbench.report.figures.tiers import _head, _tier, ranks

    made = rows_of({"ula": [0.5, 0.6], "svgd": [0.3, 0.2], "blob": [0.1, 0.9], "exact": [0.1, 0.1]})
    failed = rows_of({"nuts": [1.0, 1.0]}, status="timeout", metric=None, value=None, n=None)
    (board,) = boards(pd.concat([made, failed], ignore_index=True))
    found = ranks(board)
    assert [line.method for line in found] == ["svgd", "blob", "ula", "nuts"]
    assert _tier(found[-1], "m") == "\N{MULTIPLICATION SIGN}"
    assert _head("barenblatt:step=0.1,steps=10") == "barenblatt:\nstep=0.1,\nsteps=10"
    assert _head("aggregation_diffusion") == "aggregation_\ndiffusion"
    assert _head("blr:data=diabetis") == "blr:\ndata=\ndiabetis"


@pytest.mark.slow
def test_a_suite_is_drawn_from_the_published_rows(cli, tmp_path):
    pytest.importorskip("matplotlib")
    assert cli("report", "figures", "figs", "--suite", "smoke", "--out", "nowhere")[0] == 0
    assert (tmp_path / "figs" / "smoke-tiers.pdf").exists()
    assert (tmp_path / "figs" / "ou-symkl-cost-total.png").exists()
    code, _, err = cli("report", "figures", "figs", "--suite", "smoke", "--metric", "w2", "--out", "nowhere")
    assert code == 2
    assert "headline metrics" in err


def test_latex_has_the_best_in_bold_true_minus_signs_and_the_full_cost():
    values = {LONG: [-2.5e-7, -2.5e-7], "mmd_flow": [0.5, 0.6], "exact": [-1.0, -1.0], "still": [1.0, 1.0]}
    text = latex.tables(boards(rows_of(values)), texts={"mmd_flow": "MMD"})
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert body[0] == r"method & tier & m & s \\"
    assert [line.split(" & ")[0] for line in body[1:]] == ["exact", r"mmd\_flow (generator)", "MMD", "still"]
    assert r"$\mathbf{-2.5 \cdot 10^{-7}}$" in body[2]
    assert text.count("mathbf") == 1, "a control is never the best"
    assert body[3].endswith(r"& $32$ \\")
    assert not re.search(r"(?<![$\d{^\[ ,-])-\d", text), "no hyphen for a minus"
    assert f"% mmd_flow (generator): {LONG}" in text
    assert text.count("\\midrule") == 3


def test_latex_side_by_side():
    rows = pd.concat([rows_of({"ula": [0.5, 0.6], "svgd": [0.3, 0.2]}), rows_of({"ula": [0.1, 0.1]}, task="two")])
    text = latex.tables(boards(rows), pivot=True)
    assert re.findall(r"^% (.*)\n\\begin\{tabular\}\{lrr\}", text, re.MULTILINE) == ["m", "training and sampling, s"]
    assert r"method & one & two \\" in text
    assert re.search(r"svgd & \$\\mathbf\{0\.25\}\$ .*& -- \\\\", text)


def test_the_command_line_gives_latex_as_it_is_asked_for(cli):
    rows_of({"ula": [0.5, 0.6], "svgd": [0.3, 0.2]}).to_csv("rows.csv", index=False)
    code, out, _ = cli("report", "--rows", "rows.csv", "--format", "latex", "--pivot", "--label", "ula=Langevin")
    assert code == 0
    assert "Langevin & " in out
    assert "method & one" in out
    code, _, err = cli("report", "--rows", "rows.csv", "--label", "ula=Langevin")
    assert code == 2
    assert "--format latex" in err
