"""The runner with methods that are wrong in every way that the contract can be broken."""

import itertools
import json
import math
import os
import signal
import sys
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from gwfbench.budget import Budget
from gwfbench.drive.controls import CONTROLS
from gwfbench.drive.execute import Setting, execute
from gwfbench.drive.job import Job
from gwfbench.drive.judge import ANYTIME
from gwfbench.drive.points import CHUNK
from gwfbench.info import Initial, LogDensity, TargetSamples
from gwfbench.plugins import registry
from gwfbench.protocol import Drawn, Estimate, Instance, Metric, Problem, Pushed, Truth
from gwfbench.report.board.leaderboard import alarms, boards, leaderboard
from gwfbench.store import folders
from gwfbench.store.rows import tidy
from gwfbench.training import engine

TASK = registry.parse("task", "ou:horizon=0.15")
EIGHT = registry.parse("task", "ou:horizon=0.05,dim=8")


def fake(body, kind="flow", together="batched"):
    """A method with this generator function as its fit."""

    @dataclass(frozen=True)
    class Fake:
        needs = frozenset({Initial, LogDensity})
        clock = kind
        seeds = together
        version = 1
        reference = ""
        smoke = {}  # noqa: RUF012

        def fit(self, problem, budget, rng):
            yield from body(problem, budget, rng)

    return Fake()


def still(x, noise):
    return x


def run(method, task=TASK, seeds=(0,), out=None, **settings):
    return execute(Job(task, method, seeds, **settings), Setting("env", out), lambda *_: None)


@pytest.mark.slow
def test_what_a_method_asks_for_is_what_it_has_used():
    def asks(problem, budget, rng):
        assert problem[TargetSamples].draw(3, rng).shape == (1, 3, 2)
        yield Drawn(math.inf, problem[Initial].draw)

    def asks_not(problem, budget, rng):
        yield Drawn(math.inf, problem[Initial].draw)

    task = registry.parse("task", "gaussian")
    (done,) = run(fake(asks_not, "none"), task)
    assert done.information == ("Initial", "LogDensity")
    (done,) = run(fake(asks, "none"), task)
    assert done.status == "ok", done.reason
    assert done.information == ("Initial", "LogDensity", "TargetSamples")  # what it needs, and what it asked for


def test_a_budget_ends_a_method_without_a_clock_whatever_it_calls_its_time():
    def endless(problem, budget, rng):
        for k in itertools.count(1):
            yield Drawn(1e6 * k, problem[Initial].draw)

    (done,) = run(fake(endless, "none"), budget=Budget(steps=3))
    assert (done.status, done.steps) == ("budget", 3)


def raises(problem, budget, rng):
    yield Pushed(0.05, still)
    raise RuntimeError("boom")


def exits(problem, budget, rng):
    yield Pushed(0.05, still)
    sys.exit(3)


def explodes(problem, budget, rng):
    yield Pushed(0.05, still)
    yield Pushed(0.10, lambda x, noise: x * math.inf)
    yield Pushed(0.15, still)


def never_yields(problem, budget, rng):
    return
    yield


def shrinks(problem, budget, rng):
    yield Pushed(0.05, lambda x, noise: x[..., :1])


def wrong_draw(problem, budget, rng):
    yield Drawn(0.05, lambda n, noise: noise.normal(n + 1, 2))


def goes_back(problem, budget, rng):
    yield Pushed(0.05, still)
    yield Pushed(0.04, still)


def leaves_out(problem, budget, rng):
    yield Pushed(0.05, still)
    yield Pushed(0.15, still)


def at_infinity(problem, budget, rng):
    yield Pushed(math.inf, still)


def yields_none(problem, budget, rng):
    yield Pushed(0.05, still)
    yield None


def stops_early(problem, budget, rng):
    yield Pushed(0.05, still)


def yields_points(problem, budget, rng):
    yield torch.zeros(1)


def mixes(problem, budget, rng):
    yield Drawn(0.05, problem[Initial].draw)
    yield Pushed(0.10, still)


def out_of_memory(problem, budget, rng):
    yield Pushed(0.05, still)
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_control_without_its_truth_is_skipped_and_that_is_no_failure():
    from dataclasses import replace

    @dataclass(frozen=True)
    class Unknown:
        offers, metrics, points, version = TASK.offers, ("symkl", "w2"), 1000, 1

        def build(self, rng):
            instance = TASK.build(rng)
            return replace(instance, truth=replace(instance.truth, draw=None))

    (exact,), (still_,) = run(CONTROLS["exact"], Unknown()), run(CONTROLS["still"], Unknown())
    assert (exact.status, "ground truth" in exact.reason, exact.failed) == ("skipped", True, False)
    assert {point.metric for point in still_.rows} == {"symkl"}


def peeks(problem, budget, rng):
    problem.truth  # noqa: B018
    yield


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "status", "reason", "points"),
    [
        (raises, "error", "RuntimeError: boom", 1),
        (exits, "error", "SystemExit: 3", 1),
        (explodes, "diverged", "points are not finite at t = 0.1", 1),
        (never_yields, "error", "it ended without yielding a law", 0),
        (shrinks, "error", "its push gave (1, 65536, 1); expected (S, n, ...) = (1, 65536, 2)", 0),
        (wrong_draw, "error", "its draw gave (1, 65537, 2)", 0),
        (goes_back, "error", "its flow time went from 0.05 to 0.04 (test_runner.py:", 1),
        (stops_early, "error", "it ended at t = 0.05, and yielded no law at t = 0.1, 0.15; expected a law at each", 1),
        (leaves_out, "error", "it went from t = 0.05 to 0.15 (test_runner.py:", 1),
        (at_infinity, "error", "; the task is judged at t = 0.05, 0.1, 0.15; expected a finite time; fix: ", 0),
        (yields_none, "error", "; expected a Drawn or a Pushed; fix: yield one for each law", 1),
        (yields_points, "error", "it yielded a Tensor (test_runner.py:", 0),
        (mixes, "error", "it yielded Pushed after Drawn", 1),
        (out_of_memory, "oom", "CUDA out of memory", 1),
        (peeks, "error", "AttributeError", 0),
    ],
)
def test_every_end_is_a_row_with_its_status_and_reason(body, status, reason, points, tmp_path):
    (ended,) = run(fake(body), out=tmp_path)
    assert ended.status == status
    assert reason in ended.reason
    judged = {point.step for point in ended.rows if point.value is not None}
    assert len(judged) == points
    assert [row["status"] for row in ended.tidy()][-1] == status
    (kept,), strange = folders.attempts(tmp_path)  # and on disk the same
    assert (kept.status, kept.reason, kept.rows) == (ended.status, ended.reason, ended.rows)
    assert not strange
    if body is explodes:  # the last good law's points stay, the bad one's are neither kept nor put in their place
        (folder,) = tmp_path.iterdir()
        with np.load(folder / "draws.npz", allow_pickle=False) as draws:
            assert list(draws) == ["t1"]
            assert draws["t1"].any()
    if body is raises:
        (folder,) = tmp_path.iterdir()
        assert 'raise RuntimeError("boom")' in (folder / "log.txt").read_text()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA driver error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        MemoryError("Unable to allocate 9.31 GiB"),
    ],
    ids=lambda error: f"{type(error).__name__}-{str(error)[:40]}",
)
def test_no_memory_left_is_oom_however_it_is_said(error):
    def body(problem, budget, rng):
        raise error
        yield

    (ended,) = run(fake(body))
    assert (ended.status, str(error).splitlines()[0] in ended.reason) == ("oom", True)


@pytest.mark.parametrize("words", ["CUDA error: an illegal memory access was encountered", "out of ideas"])
def test_another_error_of_a_card_is_an_error(words):
    def body(problem, budget, rng):
        raise torch.AcceleratorError(words)
        yield

    (ended,) = run(fake(body))
    assert ended.status == "error"


def test_float32_is_not_cut_to_tf32_in_a_run():
    seen = []

    def body(problem, budget, rng):
        seen.append(torch.backends.cudnn.allow_tf32)
        yield from ()

    before = torch.backends.cudnn.allow_tf32
    run(fake(body))
    assert seen == [False]
    assert torch.backends.cudnn.allow_tf32 == before


@pytest.mark.slow
def test_one_diverged_seed_of_a_batch_leaves_the_others_alone():
    def body(problem, budget, rng):
        poison = torch.tensor([s == 4 for s in rng.seeds]).view(-1, 1, 1)
        for t in problem.times:
            yield Pushed(t, lambda x, noise, t=t: torch.where(poison & torch.tensor(t > 0.07), math.nan, 0.5 * x))

    three = run(fake(body), seeds=(3, 4, 5))
    assert [ended.status for ended in three] == ["ok", "diverged", "ok"]
    (alone,) = run(fake(body), seeds=(5,))
    for ours, theirs in zip(three[2].rows, alone.rows, strict=True):
        assert ours.value == pytest.approx(theirs.value, rel=1e-5)
    assert max(point.t for point in three[1].rows) == 0.05


def test_an_endless_method_ends_with_its_budget():
    def body(problem, budget, rng):
        yield Pushed(0.05, still)
        while True:
            pass

    (ended,) = run(fake(body), budget=Budget(0.3))
    assert (ended.status, ended.reason) == ("budget", "the budget of 0.3 s was spent")
    assert ended.rows

    def nothing(problem, budget, rng):
        while True:
            pass
        yield

    assert run(fake(nothing), budget=Budget(0.2))[0].status == "timeout"


def test_the_clock_leaves_out_judging_and_the_oracle_counts_training_only(monkeypatch):
    now = [0.0]
    for module in ("meter", "driver"):
        monkeypatch.setattr(f"gwfbench.drive.{module}.perf_counter", lambda: now[0])

    def push(x, score):
        now[0] += 10
        return x + 0.01 * score(x)

    def body(problem, budget, rng):
        score = problem[LogDensity].score
        for t in problem.times:
            score(torch.zeros(1, 100, 2))
            now[0] += 1
            yield Pushed(t, lambda x, noise: push(x, score))

    (ended,) = run(fake(body))
    last = ended.rows[-1]
    assert last.score_calls == 300
    assert last.sample_calls == 3  # one a judged point and step
    assert (ended.seconds, last.seconds) == (3, 3)
    assert ended.sample_seconds >= 30


def test_gradients_are_on_for_the_method_and_off_for_the_judge():
    seen = []

    def body(problem, budget, rng):
        for t in problem.times:
            with torch.no_grad():
                pass
            seen.append(torch.is_grad_enabled())
            yield Pushed(t, lambda x, noise: seen.append(torch.is_grad_enabled()) or x)

    run(fake(body))
    assert seen[0]
    assert not seen[1]
    assert seen.count(True) == 3


def test_what_a_method_prints_goes_to_its_log(tmp_path, capsys):
    def body(problem, budget, rng):
        for t in problem.times:
            print("chatter")
            yield Pushed(t, still)

    run(fake(body), out=tmp_path)
    assert capsys.readouterr().out == ""
    (folder,) = tmp_path.iterdir()
    assert (folder / "log.txt").read_text().count("chatter") == 3


def test_no_more_points_are_asked_of_particles_than_there_are():
    def body(problem, budget, rng):
        cloud = problem[Initial].draw(50, rng)

        def draw(n, noise):
            assert n <= 50
            return cloud[:, :n]

        for t in problem.times:
            yield Drawn(t, draw, limit=50)

    (ended,) = run(fake(body))
    assert ended.status == "ok"
    assert {point.n for point in ended.rows} == {50}


def test_laws_between_judged_times_move_the_cloud_and_are_not_judged():
    def body(problem, budget, rng):
        for i, t in enumerate(problem.grid(0.02, 1)):
            yield Pushed(t, lambda x, noise, i=i: x * 2 if i == 0 else x)

    (ended,) = run(fake(body))
    assert sorted({point.t for point in ended.rows}) == [0.05, 0.1, 0.15]
    assert ended.steps == 9
    assert all(point.value > 0.1 for point in ended.rows if point.metric == "symkl")


def test_a_density_is_carried_along_and_kl_needs_one():
    def body(problem, budget, rng):
        for t in problem.times:
            yield Pushed(t, lambda x, noise: 0.9 * x, lambda x: torch.full(x.shape[:2], 2 * math.log(0.9)))

    def without(problem, budget, rng):
        for t in problem.times:
            yield Pushed(t, still)

    instance = TASK.build(_streams())
    (ended,) = run(fake(body))
    mean, covariance = instance.truth.moments(2)
    law = torch.distributions.MultivariateNormal(torch.zeros(2), 0.9**6 * torch.eye(2))
    goal = torch.distributions.MultivariateNormal(mean[0].float(), covariance[0].float())
    point = next(point for point in ended.rows if point.metric == "kl" and point.t == 0.15)
    assert abs(point.value - float(torch.distributions.kl_divergence(law, goal))) < 5 * point.se
    assert not [point for point in run(fake(without))[0].rows if point.metric == "kl"]


def _streams():
    from gwfbench.rng import Streams

    return Streams((0,)).fork("task/ou")


def test_symkl_jko_is_for_jko_methods_and_follows_their_own_steps():
    task = registry.parse("task", "ou:horizon=0.15,step=0.15")  # judged at its end alone

    def jko(problem, budget, rng):
        """Draws from the exact JKO sequence of its own uneven steps: at the floor of symkl_jko only."""
        truth = task.build(_streams()).truth.jko((0.02, 0.03, 0.1))
        for index, t in enumerate((0.02, 0.05, 0.15)):
            yield Drawn(t, lambda n, noise, index=index: truth.draw(index, n, noise))

    (ended,) = run(fake(jko, kind="jko"), task)
    values = {point.metric: point.value for point in ended.rows if point.t == 0.15}
    (floor,) = run(CONTROLS["exact_jko"], task)
    noise = next(point.value for point in floor.rows if point.metric == "symkl_jko" and point.t == 0.15)
    assert values["symkl_jko"] < 10 * noise
    assert values["symkl"] > 10 * noise
    assert not [point for point in run(fake(jko))[0].rows if point.metric == "symkl_jko"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_exact_sits_at_the_floor_and_still_does_not(seed):
    table = _board(CONTROLS["exact"], CONTROLS["exact_jko"], CONTROLS["still"], seeds=(seed,))
    for metric in TASK.metrics:
        floor = "exact_jko" if metric == "symkl_jko" else "exact"
        assert table.loc["still", metric] > 1.05 * table.loc[floor, metric]
    assert table.loc["still", "symkl"] > 100 * table.loc["exact", "symkl"]
    assert table.loc["still", "symkl_jko"] > 100 * table.loc["exact_jko", "symkl_jko"]
    assert table.loc["exact", "symkl"] < 1e-4  # 5e5 points: mean 1e-5


def _board(*contestants, seeds, task=TASK):
    runs = [ended for who in contestants for seed in seeds for ended in run(who, task, seeds=(seed,))]
    return leaderboard(tidy(runs)).set_index("method")


@pytest.mark.slow
def test_better_than_the_floor_raises_the_alarm():
    """A cheat that knows the answer: its points have the truth's moments exactly, which no honest draw has."""
    cheat_truth = registry.parse("task", "ou:horizon=0.05,dim=8,cloud=matched")

    def cheats(problem, budget, rng):
        def draw(n, noise):
            from gwfbench.rng import Streams

            truth = cheat_truth.build(Streams(noise.seeds).fork("task/ou")).truth
            return truth.draw(0, n, noise)

        yield Drawn(0.05, draw)

    def honest(problem, budget, rng):
        from gwfbench.rng import Streams

        truth = EIGHT.build(Streams(rng.seeds).fork("task/ou")).truth
        yield Drawn(0.05, lambda n, noise: truth.draw(0, n, noise.fork("own")))  # not the noise of exact draws

    def board(body):
        runs = [e for who in (CONTROLS["exact"], fake(body)) for s in (0, 1, 2) for e in run(who, EIGHT, seeds=(s,))]
        return boards(tidy(runs))

    lines = alarms(board(cheats))
    assert any("symkl" in line and "better than exact draws" in line for line in lines)
    assert not alarms(board(honest))


def test_an_interrupt_keeps_the_run_and_goes_on_up(tmp_path):
    def body(problem, budget, rng):
        yield Pushed(0.05, still)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(fake(body), out=tmp_path)
    (kept,), _ = folders.attempts(tmp_path)
    assert kept.status == "killed"
    assert kept.rows


def test_a_method_s_own_interrupt_is_its_error_and_stops_nothing(tmp_path):
    def body(problem, budget, rng):
        yield Pushed(0.05, still)
        raise KeyboardInterrupt

    (ended,) = run(fake(body), out=tmp_path)
    assert (ended.status, ended.reason) == ("error", "KeyboardInterrupt: ")
    assert ended.rows


def test_an_infinite_value_is_a_null_with_its_reason(tmp_path):
    def body(problem, budget, rng):
        for t in problem.times:
            yield Drawn(t, lambda n, noise: noise.normal(n, 2), limit=2)

    (ended,) = run(fake(body), out=tmp_path)
    values = {point.metric: point for point in ended.rows}
    assert values["symkl"].value is None
    assert values["symkl"].worst == "infinite"
    assert values["w2"].value > 0
    assert values["w2"].worst == ""
    (folder,) = tmp_path.iterdir()
    assert '"value": null' in (folder / "rows.jsonl").read_text()
    assert json.loads((folder / "run.json").read_text())["status"] == "ok"


def estimate(**changes):
    return Estimate(**{"value": torch.ones(1).double(), "se": torch.zeros(1).double(), "n": 5} | changes)


@pytest.mark.parametrize(
    ("given", "value", "worst"),
    [
        (estimate(), 1.0, ""),
        (estimate(se=torch.tensor([math.nan])), 1.0, ""),
        (estimate(value=torch.tensor([math.inf])), None, "infinite"),
        (estimate(value=torch.tensor([-math.inf])), None, "infinite"),
        (estimate(value=torch.tensor([math.nan])), None, "not a number"),
        (estimate(value=torch.ones(2)), None, "own gave value as torch.float32 (2,); expected real numbers (1,)"),
        (estimate(value=torch.ones(1).long()), None, "own gave value as torch.int64"),
        (estimate(se=0.5), None, "own gave se as float"),
        (estimate(se=-torch.ones(1)), None, "own gave a negative standard error"),
        (estimate(n=0), None, "own gave n = 0"),
        (estimate(n=2.0), None, "own gave n = 2.0"),
        ((1.0, 0.0), None, "own gave a tuple; expected an Estimate"),
    ],
    ids=map(str, range(12)),
)
def test_a_value_is_a_finite_number_or_null_with_why(given, value, worst, tmp_path):
    @dataclass(frozen=True)
    class Own:
        offers, metrics, points, version = frozenset({Initial}), (), 100, 1

        def build(self, rng):
            own = Metric("own", lambda judged: given, None, "")
            truth = Truth(lambda index, n, rng: rng.normal(n, 2), exact=True, metrics=(own,))
            return Instance(Problem((2,), (1.0,), (Initial(lambda n, rng: rng.normal(n, 2)),)), truth)

    def body(problem, budget, rng):
        yield Pushed(1.0, still)

    (ended,) = run(fake(body), Own(), out=tmp_path)
    (row,) = ended.rows
    assert row.value == value
    assert worst in row.worst if worst else row.worst == ""
    assert folders.attempts(tmp_path)[0][0].rows == ended.rows


def test_a_law_is_drawn_while_it_is_valid_and_only_where_it_is_judged(tmp_path):
    """A generator that changes its network in place: 0.5^k N(0, I) after step k."""
    drawn = []

    def body(problem, budget, rng):
        scale = torch.ones(())
        for k in range(13):
            scale.mul_(0.5)
            problem[LogDensity].score(torch.zeros(1, 1, 2))

            def draw(n, noise, k=k):
                drawn.append(k + 1)
                return scale * noise.normal(n, 2)

            yield Drawn(0.1 * (k + 1), draw)

    def last(curve, budget=None):
        drawn.clear()
        job = Job(_limit_task(), fake(body), (0,), budget=budget or Budget())
        (ended,) = execute(job, Setting("env", tmp_path, curve=curve), lambda *_: None)
        return ended, ended.rows[-1].value

    whole, value = last(curve=True)
    assert drawn == [*range(1, 11), 12, 13]
    assert last(curve=False)[1] == value
    assert drawn == [13]
    cut, value = last(curve=False, budget=Budget(score_calls=12))  # it ends in the middle of step 13
    assert (cut.status, cut.rows[-1].step) == ("budget", 12)
    assert value == next(row.value for row in whole.rows if row.step == 12)


def test_what_goes_wrong_before_the_method_begins_is_set_up(tmp_path):
    @dataclass(frozen=True)
    class Missing:
        offers, metrics, points, version = TASK.offers, ("symkl",), 100, 1

        def build(self, rng):
            raise FileNotFoundError("no data")

    (ended,) = run(fake(stops_early), Missing(), out=tmp_path)
    assert (ended.status, ended.reason) == ("error", "set-up: FileNotFoundError: no data")
    assert not ended.began
    (ended,) = run(fake(raises), out=tmp_path)
    assert ended.began


def test_kept_points_are_the_judged_ones_with_their_log_densities(tmp_path):
    def body(problem, budget, rng):
        for t in problem.times:
            yield Pushed(t, lambda x, noise: 0.5 * x, lambda x: torch.full(x.shape[:2], 2 * math.log(0.5)))

    for out, who in ((tmp_path / "exact", CONTROLS["exact"]), (tmp_path / "method", fake(body))):
        run(who, out=out)
        (folder,) = out.iterdir()
        with np.load(folder / "draws.npz", allow_pickle=False) as kept:
            assert sorted(kept) == ["l1", "l2", "l3", "t1", "t2", "t3"]
            assert kept["t3"].shape == (folders.KEPT, 2)
            assert kept["l3"].shape == (folders.KEPT,)
            if out.name == "method":  # each law's own, though the cloud is moved in place
                np.testing.assert_array_equal(kept["t3"], 0.25 * kept["t1"])
                gaussian = (
                    -0.5 * (kept["t3"] / 0.125).astype(float) ** 2 - math.log(0.125) - 0.5 * math.log(2 * math.pi)
                )
                np.testing.assert_allclose(kept["l3"], gaussian.sum(1), rtol=1e-5, atol=1e-5)


def test_where_only_the_limit_counts_laws_are_judged_spaced_and_the_last_always():
    cheat = _limit_task()

    def pushes(problem, budget, rng):
        for k in range(21):
            yield Pushed(0.1 * (k + 1), lambda x, noise: 0.9 * x)

    def draws(problem, budget, rng):
        for k in range(21):
            yield Drawn(0.1 * (k + 1), lambda n, noise, k=k: 0.9 ** (k + 1) * noise.normal(n, 2))

    for body in (pushes, draws):
        (ended,) = run(fake(body), cheat)
        assert ended.status == "ok"
        steps = {point.step: point.value for point in ended.rows}
        assert sorted(steps) == [*sorted(k for k in ANYTIME if k < 21), 21]
        assert all(point.t is None for point in ended.rows)
        assert steps[21] > steps[15] > steps[1]  # 0.9^k I leaves the target N(0, I)

    def breaks(problem, budget, rng):
        for k in range(5):
            yield Pushed(0.1 * (k + 1), still)
        raise RuntimeError("boom")

    (ended,) = run(fake(breaks), cheat)
    assert (ended.status, ended.rows[-1].step) == ("error", 5)
    board = leaderboard(tidy([*run(CONTROLS["exact"], cheat), *run(fake(pushes), cheat)]))
    assert board["t"].isna().all()
    assert (board["seeds"] == "1/1").all()


@pytest.mark.parametrize("steps", [30, 31, 64, 100, 1000, 12_345, 100_000, 524_289, 999_999, 1_000_000])
def test_a_curve_has_about_twenty_laws_however_long_it_gets(steps):
    judged = {*(step for step in ANYTIME if step <= steps), steps}
    assert 15 <= len(judged) <= 30
    ordered = sorted(judged)
    assert max(b / a for a, b in itertools.pairwise(ordered) if a >= 5) <= 2.5


def test_rows_with_a_budget_are_those_without_and_the_last_law():
    task = registry.parse("task", "gmm:dim=2")
    task = _with_points(task, 2000, ("sliced_w2",))
    ula = registry.parse("method", "ula:steps=40")
    whole = {point.step: point.value for point in run(ula, task)[0].rows}
    (cut,) = run(ula, task, budget=Budget(steps=18))
    assert (cut.status, cut.reason, cut.steps) == ("budget", "the budget of 18 steps was spent", 18)
    rows = {point.step: point.value for point in cut.rows}
    assert sorted(rows) == [*sorted(k for k in ANYTIME if k < 18), 18]
    assert all(whole[step] == value for step, value in rows.items() if step in whole)
    assert len(set(rows.values())) == len(rows)


def _with_points(task, count, names):
    """The task with fewer judged points and metrics."""

    @dataclass(frozen=True)
    class Few:
        offers, metrics, points, version = task.offers, names, count, 1

        def build(self, rng):
            return task.build(rng)

    return Few()


@pytest.mark.parametrize("oracle", ["score", "log_prob"])
def test_calls_end_a_real_method_at_the_law_before_and_all_of_them_may_be_used(oracle, monkeypatch):
    task = _with_points(registry.parse("task", "ou:horizon=0.15"), 1000, ("symkl",))
    vjko = registry.parse("method", "vjko:iterations=4,batch=128,pool=512,width=4,map=linear")
    if oracle == "log_prob":  # which only the loop by autograd asks for
        monkeypatch.setattr(engine, "written_out", lambda game: False)
    (whole,) = run(vjko, task)
    calls = getattr(whole.rows[-1], f"{oracle}_calls")
    assert calls == 3 * 4 * 128
    words = f"the budget of {{}} {oracle.replace('_', ' ')} calls was spent"
    for spared, laws in ((0, 3), (1, 2), (128, 2), (128 * 4, 2), (128 * 4 + 1, 1)):
        (cut,) = run(vjko, task, budget=Budget(**{f"{oracle}_calls": calls - spared}))
        assert (cut.status, cut.reason) == (("ok", "") if laws == 3 else ("budget", words.format(calls - spared)))
        assert cut.steps == laws
        assert [point.value for point in cut.rows] == [point.value for point in whole.rows[:laws]]
        assert getattr(cut.rows[-1], f"{oracle}_calls") == laws * 4 * 128
    (none,) = run(vjko, task, budget=Budget(**{f"{oracle}_calls": 128 * 4 - 1}))
    assert (none.status, none.rows) == ("timeout", [])
    assert run(CONTROLS["still"], task, budget=Budget(score_calls=1))[0].status == "ok"  # it trains nothing


def test_steps_end_a_run_and_all_of_them_may_be_used():
    task = _with_points(registry.parse("task", "ou:horizon=0.15"), 1000, ("symkl",))
    ula = registry.parse("method", "ula:step=0.05")
    for steps, status in ((1, "budget"), (2, "budget"), (3, "ok"), (4, "ok")):
        (ended,) = run(ula, task, budget=Budget(steps=steps))
        assert (ended.status, ended.steps) == (status, min(steps, 3))
        assert [point.step for point in ended.rows] == list(range(1, ended.steps + 1))


def test_draws_end_a_run_and_all_of_them_may_be_used():
    task = _with_points(registry.parse("task", "gmm:dim=2"), 1000, ("sliced_w2",))

    def body(problem, budget, rng):
        for k in range(18):
            mean = problem[TargetSamples].draw(50, rng).mean(1, keepdim=True)
            yield Pushed(0.1 * (k + 1), lambda x, noise, mean=mean: x + 0.1 * (mean - x))

    for budget, laws in ((900, 18), (899, 17), (850, 17), (801, 16)):
        (ended,) = run(fake(body), task, budget=Budget(draw_calls=budget))
        assert (ended.status, ended.steps) == ("ok" if laws == 18 else "budget", laws)
        last = ended.rows[-1]
        assert (last.step, last.draw_calls) == (laws, 50 * laws)


def test_a_law_whose_push_fails_half_way_does_not_spoil_the_one_before():
    """The law before is not judged then: a part of its points have moved on."""

    def body(problem, budget, rng):
        for k in range(13):
            yield Pushed(0.1 * (k + 1), still)
        state = iter((still, None))
        yield Pushed(1.4, lambda x, noise: next(state)(x + 9, noise))

    task = _with_points(registry.parse("task", "gmm:dim=2"), 2 * CHUNK, ("sliced_w2",))
    (ended,) = run(fake(body), task)
    assert ended.status == "error"
    values = {point.step: point.value for point in ended.rows if point.metric == "sliced_w2"}
    assert sorted(values) == sorted(k for k in ANYTIME if k < 13)
    assert len(set(values.values())) == 1


def _limit_task():
    from gwfbench.protocol import Instance, Problem, Truth

    @dataclass(frozen=True)
    class Limit:
        offers = frozenset({Initial, LogDensity})
        metrics = ("symkl",)
        points = 2000
        version = 1

        def build(self, rng):
            truth = Truth(
                lambda index, n, rng: rng.normal(n, 2),
                exact=True,
                moments=lambda index: (torch.zeros(1, 2).double(), torch.eye(2)[None].double()),
            )
            density = LogDensity(lambda x: -0.5 * x.square().sum(-1), lambda x: -x)
            return Instance(Problem((2,), (math.inf,), (Initial(lambda n, r: r.normal(n, 2)), density)), truth)

    return Limit()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", sorted(name for name, one in registry.plugins("method").items() if one.origin == "gwfbench")
)
def test_a_run_says_which_infos_it_has_used(name):
    """What an oracle counts must stand among the infos: boards rank by them."""
    plugin = registry.find("method", name)
    tasks = [task for task in ("gaussian", "toy2d", "barenblatt", "aggregation", "sphere")
             if registry.fits(registry.find("task", task), plugin)]  # fmt: skip
    cls = plugin.load()
    small = replace(registry.parse("method", name), **cls.smoke)
    (done,) = run(small, registry.parse("task", tasks[0]))
    last = done.rows[-1]
    assert last.score_calls + last.log_prob_calls == 0 or "LogDensity" in done.information
    assert last.draw_calls == 0 or "TargetSamples" in done.information
    assert set(done.information) - {"Initial"}, "it knows nothing of the target"
