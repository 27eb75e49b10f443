"""The bar of a page: who is better than it at equal oracle calls."""

import math

import pandas as pd
import pytest

from gwfbench.errors import UserError
from gwfbench.report.board.accuracy import calls
from gwfbench.report.board.bar import against, markdown, sentence
from gwfbench.report.board.leaderboard import boards
from gwfbench.report.pages import made

NOISE = (0.0, 0.3, -0.2, 0.1, -0.1)


def rows(method, value, paid, task="funnel", metric="mmd", better="lower", status="ok", log_prob=0.0, role="method"):
    """Five seeds around a value, at two laws, of which the first must not count."""
    turn = sum(map(ord, method)) % 5
    return [
        {
            "task": task, "method": method, "seed": seed, "step": step, "t": math.nan, "metric": metric,
            "better": better, "metric_version": 1, "role": role, "value": value * math.exp(0.1 * noise) if step == 2
            else 77.0, "se": 0.1, "n": 100, "seconds": 2.0, "score_calls": paid / 2 * step, "log_prob_calls": log_prob,
            "draw_calls": 0.0, "sample_seconds": 0.5, "sample_calls": 0.0, "status": status, "reason": "",
            "information": "LogDensity", "env": "e", "run_key": f"{task}{method}{seed}", "attempt": "a",
        }
        for seed, noise in enumerate((*NOISE[turn:], *NOISE[:turn]))
        for step in (1, 2)
    ]  # fmt: skip


EXACT = rows("exact", 0.5, 0, role="floor")


def pairs(*parts, metrics=None):
    return against(pd.DataFrame([row for part in (EXACT, *parts) for row in part]), "smc", metrics)


def test_a_method_stands_next_to_the_most_expensive_setting_with_no_more_calls():
    cheap, dear = rows("smc:moves=4", 5.0, 1e5), rows("smc", 2.0, 1e6)
    for paid, rival, fair in ((1e7, "smc", True), (1e6, "smc", True), (9e5, "smc:moves=4", True),
                              (9e4, "smc:moves=4", False)):  # fmt: skip
        (pair,) = pairs(cheap, dear, rows("vjko", 3.0, paid))
        assert (pair.method, pair.bar, pair.fair) == ("vjko", rival, fair)
        assert pair.outcome == ("worse" if rival == "smc" else "better")


def test_calls_are_points_through_the_score_or_the_log_density():
    row = {"score_calls": 3.0, "log_prob_calls": 5.0, "draw_calls": 1.0, "sample_calls": 2.0, "n": 10}
    assert calls(row) == 26.0
    assert calls(row | {"score_calls": 7.0}) == 28.0
    (pair,) = pairs(rows("smc", 2.0, 1e6), rows("drift_density", 1.0, 0.0, log_prob=1e7))
    assert (pair.fair, pair.outcome) == (True, "better")


def test_noise_is_no_difference_and_higher_may_be_better():
    smc = rows("smc", 2.0, 1e6)
    assert pairs(smc, rows("vjko", 2.0, 1e6))[0].outcome == "same"
    up = [rows(name, value, 1e6, better="higher") for name, value in (("smc", 2.0), ("vjko", 3.0), ("dds", 1.0))]
    exact = rows("exact", 4.0, 0, better="higher", role="floor")
    found = {
        pair.method: pair.outcome
        for pair in against(pd.DataFrame([*exact, *(row for part in up for row in part)]), "smc")
    }
    assert found == {"vjko": "better", "dds": "worse"}


def test_a_failure_counts_as_the_worst():
    failed = [row | {"value": math.nan, "status": "diverged"} for row in rows("vjko", 1.0, 1e6)]
    whole = rows("vjko", 1.0, 1e6)
    some = [row if row["seed"] < 1 else bad for row, bad in zip(whole, failed, strict=True)]
    assert pairs(rows("smc", 2.0, 1e6), whole)[0].outcome == "better"
    assert pairs(rows("smc", 2.0, 1e6), some, rows("ula", 9.0, 1e6))[0].outcome != "better"


def test_values_at_different_numbers_of_points_are_not_compared():
    few = [row | {"n": 50} for row in rows("vjko", 1.0, 1e6)]
    assert [pair.method for pair in pairs(rows("smc", 2.0, 1e6), few, rows("ula", 1.0, 1e6))] == ["ula"]


def test_a_value_that_is_too_good_to_be_true_wins_nothing():
    """Below exact draws by many standard errors: a law that is too narrow has such a w2."""
    still = rows("still", 9.0, 0, role="control")
    near, thin = ([row | {"se": 1e-3} for row in rows("vjko", value, 1e6)] for value in (0.9, 0.1))
    parts = [row | {"se": 1e-3} for row in (*EXACT, *still, *rows("smc", 2.0, 1e6))]
    assert [pair.outcome for pair in against(pd.DataFrame([*parts, *near]), "smc")] == ["better"]
    with pytest.raises(UserError, match="others next to it"):
        against(pd.DataFrame([*parts, *thin]), "smc")


def test_all_pairs_of_the_page_are_corrected_together():
    """Alone p is below 5 %; next to a hundred other pairs it isn't."""
    near = rows("vjko", 1.98, 1e6)
    near = [row | {"value": row["value"] * (1 + 0.004 * row["seed"])} for row in near]
    alone = pairs(rows("smc", 2.0, 1e6), near)[0]
    others = [rows(f"ula:step={k}", 2.0 + 1e-3 * k, 1e6) for k in range(40)]
    together = next(pair for pair in pairs(rows("smc", 2.0, 1e6), near, *others) if pair.method == "vjko")
    assert alone.p < together.p <= 1


def test_the_sentence_says_who_beats_the_bar_and_where():
    smc, metrics = rows("smc", 2.0, 1e6), ["mmd"]
    lost = pairs(smc, rows("vjko", 3.0, 1e6), rows("ula", 1.0, 1e6), metrics=metrics)
    text = sentence(lost, "smc", ("vjko", "dds"))
    assert text.startswith("No learnt method beats `smc` at equal oracle calls")
    assert "Of 1 pairs" in text
    assert "1 are worse" in text
    assert "With as few as 5 seeds" in text
    assert "(`vjko`)" in text
    assert "(not run, or no seed ended with a law): `dds`." in text
    won = pairs(smc, rows("vjko:steps=3", 1.0, 1e6), rows("dds", 0.5, 1e5))
    text = sentence(won, "smc", ("vjko", "dds"))
    assert "`vjko:steps=3` on funnel (mmd)" in text
    assert "Not compared" not in text
    assert "dds` on" not in text  # it had fewer calls than any setting of the bar
    page = markdown(won, "smc", ("vjko", "dds"))
    assert "| vjko:steps=3 | 1 / 0 / 0 |" in page
    assert "| dds | 1 / 0 / 0\\* |" in page or "| dds | 1 / 0 / 0* |" in page
    assert "no setting that cheap" in page


def test_without_the_bar_there_is_no_page_and_the_error_says_why():
    with pytest.raises(UserError, match="bar = smc"):
        pairs(rows("vjko", 3.0, 1e6))


def test_page_toml_puts_it_on_top(tmp_path):
    folder = tmp_path / "sampling"
    folder.mkdir()
    (folder / "page.toml").write_text('title = "Samplers"\nbar = "smc"\nlearnt = ["vjko"]\n')
    frame = pd.DataFrame([*EXACT, *rows("smc", 2.0, 1e6), *rows("vjko", 3.0, 1e6)])
    assert len(boards(frame)) == 1
    text = made(folder, frame, {})[folder / "leaderboard.md"]
    assert text.startswith("# Samplers\n\n**No learnt method beats `smc`")
    assert text.index("| vjko | 0 / 0 / 1 |") < text.index("## ")
