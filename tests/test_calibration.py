"""The calibration table: power against closed forms, skipped cells, interrupts, the page, the command line."""

import math
import re
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import scipy.optimize
import scipy.stats
import torch

from gwfbench.audit import calibrate
from gwfbench.audit.calibrate import GRID, Plan, least, measure
from gwfbench.errors import UserError
from gwfbench.info import Initial
from gwfbench.protocol import Estimate, Instance, Metric, Need, Problem, Truth
from gwfbench.report import calibration_page as table

SPREAD = torch.tensor([2.0, 0.5])


def _share_right(judged):
    """The share of points right of the true mean: a metric for which higher is better, when the law is far left."""
    share = (judged.points[..., 0] > 3).double().mean(1)
    return Estimate(share, (share * (1 - share) / judged.points.shape[1]).sqrt(), judged.points.shape[1])


def _fails(judged):
    raise ValueError("not with | these points")


def _log_density(judged):
    values = judged.log_prob.double()
    return Estimate(-values.mean(1), values.std(1) / values.shape[1] ** 0.5, values.shape[1])


ENTROPY = Metric("entropy", _log_density, points=None, source="", needs=frozenset({Need.LOG_PROB}))
SHARE = Metric("share", _share_right, points=None, source="", better="higher")
FAILS = Metric("fails", _fails, points=None, source="")


@dataclass(frozen=True)
class Tiny:
    """N((3, -1), diag(4, 1/4)) from N(0, I), in two dimensions."""

    known: bool = True

    offers: ClassVar = frozenset({Initial})
    metrics: ClassVar = ("moments_mean", "kl", "share", "symkl_jko", "fails", "entropy")
    points: ClassVar = 400
    version: ClassVar = 1
    smoke: ClassVar = {}
    reference: ClassVar = ""

    def build(self, rng):
        mean = torch.tensor([3.0, -1.0])
        moments = mean.double().expand(len(rng.seeds), 2), SPREAD.double().square().diag().expand(len(rng.seeds), 2, 2)
        law = torch.distributions.Independent(torch.distributions.Normal(mean, SPREAD), 1)
        start = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(2), torch.ones(2)), 1)
        truth = Truth(
            (lambda index, n, streams: mean + SPREAD * streams.normal(n, 2)) if self.known else None,
            exact=True,
            log_prob=lambda index, x: law.log_prob(x),
            moments=lambda index: moments,
            metrics=(SHARE, FAILS, ENTROPY),
        )
        initial = Initial(lambda n, streams: streams.normal(n, 2), start.log_prob)
        return Instance(Problem((2,), (math.inf,), (initial,)), truth)


def rows(*chosen, task=None, trials=100, done=(), **more):
    more = {"power_seconds": 1e9} | more  # no clock, unless it is asked for
    plan = Plan((task or Tiny(),), chosen, trials, seeds=(0, 1, 2), **more)
    return {row.metric: row for row, _ in measure(plan, done)}


def test_the_least_size_is_the_first_on_the_grid_that_is_found_often_enough():
    assert least(lambda trial, size: size >= GRID[30], 20) == GRID[30]
    assert least(lambda trial, size: True, 20) == GRID[0]
    assert least(lambda trial, size: False, 20) == math.inf
    assert least(lambda trial, size: trial > 0, 20) == GRID[0]  # 19 of 20 are 95 %
    assert least(lambda trial, size: trial > 1, 20) == math.inf


@pytest.mark.slow
def test_power_of_the_mean_is_that_of_the_chi_square_test():
    """n |C0^-1/2 (m - m0)|^2 is chi^2_2, and non-central by n d^2 |C0^-1/2 s_u u|^2 under a shift d s_u u.

    The grid rounds up by at most 2^(1/4). A quantile from 100 trials puts the level between 1 and 12 % (5 se) and the
    power's threshold between 84 and 100 %, which moves d by at most a factor 1.45 either way.
    """
    row = rows("moments_mean")["moments_mean"]
    edge = scipy.stats.chi2.ppf(0.95, 2)
    noncentrality = scipy.optimize.brentq(lambda c: scipy.stats.ncx2.sf(edge, 2, c) - 0.95, 1, 50)
    task = Tiny()
    instance, rng = calibrate._build(task, 0)
    cell = calibrate._cell(calibrate.known_metrics()["moments_mean"], task, instance, rng)
    mean, move = calibrate._frame(cell)
    torch.testing.assert_close(mean[0, 0], torch.tensor([3.0, -1.0]))
    u = move / move.norm()
    assert float(move.norm()) == pytest.approx(float((u * SPREAD).norm()), rel=1e-5)
    expected = math.sqrt(noncentrality / 400) / float((move / SPREAD).norm())
    assert expected / 1.45 < row.shift < 1.45 * 2**0.25 * expected


def test_power_by_density_follows_the_change():
    """Minus the mean log-density of a law is its entropy, which grows by d log(1 + e); its error is sqrt(d / (2 n)).

    Found in 95 % when the growth is 3.29 errors; the grid and 100 trials as above. A shift leaves the density's values.
    """
    row = rows("entropy")["entropy"]
    expected = math.expm1(3.29 * math.sqrt(2 / 800) / 2)
    assert expected / 1.45 < row.scale < 1.45 * 2**0.25 * expected
    assert row.shift == math.inf


@dataclass(frozen=True)
class Kept(Tiny):
    """Tiny with a truth of finitely many draws."""

    draws: int = 400

    def build(self, rng):
        instance = super().build(rng)
        pool = instance.truth.draw(0, self.draws, rng.fork("pool"))

        def draw(index, n, streams):
            chosen = streams.uniform(self.draws).argsort(1)[:, :n]
            return pool.take_along_dim(chosen[..., None], 1)

        return replace(instance, truth=replace(instance.truth, draw=draw, limit=self.draws))


@pytest.mark.parametrize("metric", ["moments_mean", "share", "entropy", "sliced_w2"])
def test_trials_that_draw_the_whole_pool_are_no_trials(metric):
    """The same set each time: before, the least change of the grid was "found", or rounding decided."""
    row = rows(metric, task=Kept(), trials=20)[metric]
    assert row.status == "not calibrated"
    assert row.note.startswith("trials share 100% of their 400 points")
    assert (row.shift, row.scale) == (None, None)
    assert row.floor is not None
    assert f"| not calibrated: {row.note} |" in table.markdown([row])
    assert ",not calibrated," in table.to_csv([row])


def test_trials_that_share_points_say_so_and_few_may():
    half = rows("moments_mean", task=Kept(draws=700), trials=20)["moments_mean"]
    assert half.status == "not calibrated"
    some = rows("moments_mean", task=Kept(draws=2000), trials=20)["moments_mean"]
    assert some.status == "ok"
    assert re.search(r"trials share (1[5-9]|2[0-5])% of their 400 points", some.note)  # 400 of 2000: a fifth, +- 2 %
    many = rows("moments_mean", task=Kept(draws=40_000), trials=20)["moments_mean"]
    assert (many.status, many.note) == ("ok", "")


def test_a_null_of_one_point_is_refused():
    """KL of exact draws with their exact densities is 0.0 in each trial, and so is the gap of an objective."""
    row = rows("kl")["kl"]
    assert row.floor == 0.0
    assert row.ratio is None
    assert (row.status, row.note) == ("not calibrated", "the same value in 100 trials of unchanged draws")
    assert (row.shift, row.scale) == (None, None)


@pytest.mark.parametrize(
    ("value", "note"),
    [
        (lambda x: 1 + 1e-9 * x.mean(), "the same value in 100 trials of unchanged draws"),
        (lambda x: (x.mean() * 10).round() / 10, "different values in 100 trials of unchanged draws"),
        (
            lambda x: (x.norm(dim=1) - 1).abs().mean(),
            "a shift by 0.00024 is found: the values of unchanged draws hardly",
        ),
    ],
)
def test_nulls_with_next_to_no_variance_are_refused(value, note):
    """A value but for rounding, a coarse one, and the distance to a circle of points on it, which is mere rounding."""

    def judge(judged):
        found = torch.stack([value(one.double()) for one in judged.points])
        return Estimate(found, torch.zeros_like(found), judged.points.shape[1])

    @dataclass(frozen=True)
    class Circle(Tiny):
        metrics: ClassVar = ("own",)

        def build(self, rng):
            instance = super().build(rng)
            truth = replace(
                instance.truth,
                draw=lambda index, n, streams: torch.nn.functional.normalize(streams.normal(n, 2), dim=-1),
                metrics=(Metric("own", judge, None, ""),),
            )
            return replace(instance, truth=truth)

    row = rows("own", task=Circle())["own"]
    assert (row.status, row.shift, row.scale) == ("not calibrated", None, None)
    assert note in row.note


def test_values_that_differ_enough_are_calibrated():
    assert calibrate._edge([float(k) for k in range(100)]) == 95.0
    assert calibrate._edge([*map(float, range(20)), *[0.0] * 80]) == 15.0
    with pytest.raises(calibrate._NoNull, match="only 19 different values in 100 trials"):
        calibrate._edge([*map(float, range(19)), *[0.0] * 81])
    with pytest.raises(calibrate._NoNull, match="the same value in 20 trials"):
        calibrate._edge([math.inf] * 20)
    with pytest.raises(ArithmeticError, match="not a number"):
        calibrate._edge([*map(float, range(50)), math.nan])


def test_floor_and_still_bracket_the_task():
    found = rows(power_seconds=0, trials=20)
    mean, share = found["moments_mean"], found["share"]
    assert mean.n == 400
    assert mean.floor < 0.15 < 2.4 < mean.still < 2.6  # |C0^-1/2 (0 - m0)| = sqrt(1.5^2 + 2^2) = 2.5
    assert mean.ratio == pytest.approx(mean.still / mean.floor)
    assert mean.apart > 5
    assert mean.note.startswith("power not sought: about ")
    assert mean.status == "cut"
    assert share.better == "higher"
    assert share.floor > 0.4 > 0.01 > share.still
    assert share.apart > 5


def test_metrics_that_are_built_with_the_problem_are_there_unasked():
    pytest.importorskip("gwfbench.nn.fidelity", reason="the extra `image`")
    found = [row for row, _ in measure(Plan.read(["images"], (), 20, (0,), 0.0))]
    fid = next(row for row in found if row.metric.startswith("fid_360_digits@"))
    assert fid.still > 10 * fid.floor > 0


def test_higher_is_better_turns_the_question():
    row = rows("share")["share"]
    assert row.shift > 0.05 or row.shift == math.inf  # blind where the random direction goes to the right


def test_what_can_t_be_calibrated_says_why():
    found = rows(power_seconds=0, trials=20)
    assert found["symkl_jko"].status == "skipped"
    assert "JKO" in found["symkl_jko"].note
    assert (found["fails"].status, found["fails"].note) == ("error", "ValueError: not with | these points")
    assert rows("objective")["objective"].note == "the task's truth has no energy"
    assert rows("kl", task=Tiny(known=False))["kl"].note == "the truth has no draws"


def test_a_metric_that_can_t_tell_the_initial_law_is_marked():
    @dataclass(frozen=True)
    class Blind(Tiny):
        def build(self, rng):
            instance = super().build(rng)
            draw = instance.truth.draw
            start = Initial(lambda n, streams: draw(0, n, streams))
            return replace(instance, problem=Problem((2,), (math.inf,), (start,)))

    assert "not clearly above" in rows("moments_mean", task=Blind(), power_seconds=0)["moments_mean"].note
    assert "initial law has no density" in rows("kl", task=Blind(), power_seconds=0)["kl"].note


def test_time_runs_out_in_the_middle(monkeypatch):
    clock = iter(range(10_000))
    monkeypatch.setattr(calibrate.time, "process_time", lambda: next(clock) / 1000)  # 1 ms a look
    monkeypatch.setattr(calibrate, "EFFORT", 1)
    row = rows("moments_mean", power_seconds=0.2, trials=100)["moments_mean"]
    assert (row.status, row.note) == ("cut", "power cut at 0.2 s")
    assert row.floor is not None
    assert row.scale is None


def test_the_same_plan_gives_the_same_numbers():
    first, again = (replace(rows("moments_mean", trials=20)["moments_mean"], seconds=None) for _ in range(2))
    assert first == again


def test_the_exact_jko_sequence_is_the_floor_of_its_own_metric():
    from gwfbench.plugins import registry

    task = registry.parse("task", "ou:horizon=0.1")
    found = rows("symkl", "symkl_jko", task=task, power_seconds=0)
    assert found["symkl_jko"].t == pytest.approx(0.1)
    assert found["symkl_jko"].floor < 1e-4 < found["symkl_jko"].still
    assert found["symkl_jko"].still != found["symkl"].still


def test_an_interrupted_table_goes_on_from_its_csv(tmp_path, monkeypatch):
    page, plan = tmp_path / "new" / "table.md", Plan((Tiny(),), ("moments_mean", "kl", "share"), 20, (0, 1), 0.0)
    whole = calibrate._row

    def stop(plan, task, name, *rest):
        if name == "share":
            raise KeyboardInterrupt
        return whole(plan, task, name, *rest)

    monkeypatch.setattr(calibrate, "_row", stop)
    with pytest.raises(KeyboardInterrupt):
        list(table.keep(plan, page))
    assert [row.metric for row in table.read(page.with_suffix(".csv"))] == ["moments_mean", "kl"]
    assert "| kl |" in page.read_text()
    monkeypatch.setattr(calibrate, "_row", whole)
    assert [(row.metric, new) for row, new in table.keep(plan, page)] == [
        ("moments_mean", False), ("kl", False), ("share", True),
    ]  # fmt: skip
    assert not any(new for _, new in table.keep(plan, page))
    assert [new for _, new in table.keep(replace(plan, power_seconds=9.0), page)] == [True] * 3  # they had been cut
    assert [new for _, new in table.keep(replace(plan, trials=21), page)] == [True] * 3
    assert sorted(path.name for path in page.parent.iterdir()) == ["table.csv", "table.md"]
    text = page.read_text()
    for name in ("moments_mean", "kl", "share (higher is better)"):
        assert text.count(f"\n| {name} |") == 1
    assert "21 trials (3 rows)" in text
    assert "torch" in text


def test_an_error_s_words_are_harmless_everywhere(tmp_path):
    """Escape sequences, HTML, links and formulas in the text of a metric's error."""
    row = replace(rows("fails", power_seconds=0, trials=20)["fails"], note="=1+1 \x1b[31m <b>[x](http://y)\n| z")
    (tmp_path / "x.csv").write_text(table.to_csv([row]))
    (back,) = table.read(tmp_path / "x.csv")
    assert back.note == "'=1+1 \\x1b[31m <b>[x](http://y)\\n| z"
    assert table.to_csv([back]) == table.to_csv([row])
    text = table.markdown([row])
    assert "\x1b" not in text
    assert "<b>" not in text
    assert "[x](" not in text
    assert "\\| z" in text


def test_rows_survive_their_csv(tmp_path):
    found = list(rows(power_seconds=0, trials=20).values())
    (tmp_path / "x.csv").write_text(table.to_csv(found))
    back = table.read(tmp_path / "x.csv")
    assert [row.note for row in back] == [row.note for row in found]
    assert table.to_csv(back) == table.to_csv(found)
    text = table.markdown(back)
    for row in found:
        assert f"\n| {row.metric}" in text
    assert "these points" in text.replace("\\|", "")
    blind = replace(found[0], shift=math.inf, scale=0.25)
    assert "| > 16 | 0.25 |" in table.markdown([blind])


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "HEAD\ntiny,kl,ok\n", "HEAD\ntiny,kl,ok,,,,many" + "," * 13 + "\n"])
def test_a_file_that_is_no_table_is_refused_and_kept(tmp_path, text):
    text = text.replace("HEAD", table.to_csv([]).strip())
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(UserError, match="a CSV that calibrate wrote"):
        list(table.keep(Plan((Tiny(),), (), 20), tmp_path / "x.md"))
    assert (tmp_path / "x.csv").read_text() == text


@pytest.mark.parametrize(
    ("words", "got"),
    [
        (["--metric", "moments_meen"], "no metric 'moments_meen'"),
        (["--task", "oo"], "no task 'oo'"),
        (["--task", "ou", "--trials", "3"], "--trials 3"),
        (["--task", "ou", "--power-seconds", "nan"], "--power-seconds nan"),
        (["--task", "ou", "--seeds", "0"], "--seeds 0"),
        (["--task", "ou", "--write", "table.txt"], "--write table.txt"),
    ],
)
def test_mistakes_end_with_2(cli, tmp_path, words, got):
    code, out, err = cli("calibrate", *words)
    assert (code, out) == (2, "")
    assert err.startswith(f"gwfbench: {got}")
    assert len(err.splitlines()) == 3
    assert not list(tmp_path.iterdir())


def test_the_command_line_end_to_end(cli, tmp_path):
    words = ["--task", "ou:horizon=0.1", "--metric", "kl", "--trials", "20", "--seeds", "2", "--power-seconds", "0"]
    code, out, err = cli("calibrate", *words, "--write", "page.md", "--format", "csv")
    assert (code, err.splitlines()) == (0, ["ou:horizon=0.1 kl: cut: " + table.read(tmp_path / "page.csv")[0].note])
    assert out == (tmp_path / "page.csv").read_text()
    code, out, err = cli("calibrate", *words, "--write", "page.md")
    assert "finished before" in err
    assert out == (tmp_path / "page.md").read_text()
