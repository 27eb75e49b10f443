"""A run that is stopped and goes on gives the rows of one that never stopped: exactly, on the CPU."""

import io
import itertools
import math
import os
import random
import signal
from dataclasses import asdict, dataclass, replace

import numpy as np
import pytest
import torch

from gwfbench.budget import Budget
from gwfbench.drive import checkpoint
from gwfbench.drive.execute import Setting, execute
from gwfbench.drive.job import Job
from gwfbench.drive.log import Log
from gwfbench.drive.signals import Stopped, Stops
from gwfbench.info import Initial, LogDensity
from gwfbench.plugins import registry
from gwfbench.protocol import Drawn, Estimate, Metric, Resumable
from gwfbench.rng import Streams
from gwfbench.store import folders
from gwfbench.store.environment import env_hash

VJKO = "vjko:iterations=5,pool=2048,batch=256,width=9"


def clouds(laws, cloud, streams, first=1):
    """Points after each law, pushed as the runner does, and the law's state."""
    for step, law in enumerate(laws, first):
        with torch.no_grad():
            cloud = law.push(cloud, streams.fork(f"push/{step}"))
        yield cloud, law.state()


@pytest.mark.parametrize("words", [VJKO, f"{VJKO},map=prelu,proposal=matched,decay=none", "ula:step=0.02"])
@pytest.mark.parametrize("task", ["ou:horizon=0.15", "gmm:dim=2"])
def test_a_method_goes_on_from_each_of_its_states_with_the_same_numbers(words, task):
    streams = Streams((3, 7))
    problem = registry.parse("task", task).build(streams.fork("task")).problem
    method = registry.parse("method", words)
    assert isinstance(method, Resumable)
    start, rng = streams.fork("start").normal(50, 2), streams.fork("method")
    whole = list(itertools.islice(clouds(method.fit(problem, Budget(), rng), start, streams), 4))
    assert len(whole) >= 3
    for step, (cloud, state) in enumerate(whole, 1):
        rest = method.resume(problem, Budget(), Streams((3, 7)).fork("method"), state)
        for (one, _), (other, _) in zip(clouds(rest, cloud, streams, step + 1), whole[step:], strict=False):
            assert torch.equal(one, other)
    states = [state for _, state in whole]
    assert states[0]["k"] == 1  # states are copies: later laws have not changed them
    if "pool" in states[0]:
        assert not torch.equal(states[0]["pool"], states[-1]["pool"])


def test_nothing_is_left_to_do_after_the_last_state():
    streams = Streams((0,))
    problem = registry.parse("task", "ou:horizon=0.1").build(streams).problem
    for words in (VJKO, "ula:step=0.05"):
        method = registry.parse("method", words)
        *_, last = method.fit(problem, Budget(), streams)
        assert not list(method.resume(problem, Budget(), streams, last.state()))


class Alarm:
    """Sends a signal at the n-th thing that a run does, whatever that is."""

    def __init__(self):
        self.left, self.number, self.done = 0, signal.SIGTERM, 0

    def at(self, left, number=signal.SIGTERM):
        self.left, self.number, self.done = left, number, 0

    def tick(self, *_):
        self.left -= 1
        self.done += 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)


ALARM = Alarm()
OU = registry.parse("task", "ou:horizon=0.15")


def late(judged):
    ALARM.tick()
    value = judged.points.norm(dim=-1).double().mean(1)
    return Estimate(value, value, judged.points.shape[1])


LATE = Metric("late", late, None, "", at="last")


def ticking(function):
    def inner(*arguments):
        ALARM.tick()
        return function(*arguments)

    return inner


@dataclass(frozen=True)
class Small:
    """ou with few points, whose every oracle, moment and draw of P_0 may be the last thing that a process does."""

    limit: bool = False

    offers = frozenset({Initial, LogDensity})
    points, version = 1000, 1

    @property
    def metrics(self):
        return ("symkl", "kl") if self.limit else ("symkl", "symkl_jko", "kl")

    def build(self, rng):
        problem, truth = (instance := OU.build(rng)).problem, instance.truth
        density = LogDensity(ticking(problem[LogDensity].log_prob), ticking(problem[LogDensity].score))
        start = problem[Initial]
        infos = (Initial(ticking(start.draw), start.log_prob), density)
        times = (math.inf,) if self.limit else problem.times
        return replace(
            instance,
            problem=replace(problem, times=times, infos=infos),
            truth=replace(truth, moments=ticking(truth.moments), metrics=(LATE,)),
        )


@dataclass(frozen=True)
class Particles:
    """An Euler scheme on particles, kept as method state in a dtype that numpy lacks."""

    steps: int = 6
    burst: int = -1  # seed whose particles burst after law 3

    needs = frozenset({Initial, LogDensity})
    clock, seeds, version, reference = "none", "batched", 1, ""
    smoke = {}  # noqa: RUF012

    def fit(self, problem, budget, rng):
        return self.resume(problem, budget, rng, {"x": problem[Initial].draw(200, rng), "k": 0, "speed": 0.1})

    def resume(self, problem, budget, rng, state):
        x = state["x"].to(rng.dtype, copy=True)
        for k in range(state["k"] + 1, self.steps + 1):
            noise = rng.fork(f"step/{k}").normal(*x.shape[1:])
            x += state["speed"] * problem[LogDensity].score(x) + 0.1 * noise
            x[:] = x.bfloat16()
            if k > 3:
                x[torch.tensor([seed == self.burst for seed in rng.seeds])] = math.nan
            save = lambda k=k: {"x": x.bfloat16(), "k": k, "speed": state["speed"]}  # noqa: B023, E731
            yield Drawn(0.0, lambda n, _, x=x: x[:, :n].clone(), lambda y: -y.square().sum(-1), 200, save)


def go(who, task=Small(), seeds=(3, 7), out=None, env="env", judge=(), **settings):
    return execute(Job(task, who, seeds, **settings), Setting(env, out, judge=judge), ALARM.tick)


def kept(out, ended):
    """All numbers of a run but seconds: rows, and the arrays of draws.npz."""
    rows = [{k: v for k, v in asdict(point).items() if not k.endswith("seconds")} for point in ended.rows]
    with np.load(folders.checkpoint_of(out, ended).with_name("draws.npz"), allow_pickle=False) as npz:
        return rows, {name: npz[name].tobytes() for name in npz.files}, (ended.status, ended.reason, ended.steps)


CASES = [
    (VJKO, False, 1), (VJKO, False, 2), (f"{VJKO},steps=3", True, 1), ("ula:step=0.015", False, 2),
    ("ula:steps=21", True, 1), (Particles(), False, 2), (Particles(14), True, 1),
    (Particles(12), True, 2),  # its last law is one of the curve
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("every", [0.0, 1e9], ids=["always", "when stopped"])
@pytest.mark.parametrize(("who", "limit", "seeds"), CASES)
def test_stopped_at_any_moments_and_resumed_a_run_has_the_rows_of_an_unbroken_one(
    who, limit, seeds, every, tmp_path, monkeypatch
):
    monkeypatch.setattr(checkpoint, "EVERY", every)
    monkeypatch.setattr(checkpoint, "SOON", every)
    who = registry.parse("method", who) if isinstance(who, str) else who
    task, seeds = Small(limit), (3, 7)[:seeds]
    ALARM.at(0)
    unbroken = go(who, task, seeds, tmp_path / "whole")
    length, rng = ALARM.done, random.Random(f"{type(who).__name__} {limit} {seeds} {every}")
    stops, seconds, resumed, ended = 0, 0.0, 0, None
    while ended is None:
        # late first, so that there is a law to go on from, then anywhere, and after six stops to the end
        moment = rng.randint(length // 2, length - 1) if stops == 0 else rng.randint(1, length // 2)
        ALARM.at(moment if stops < 6 else 0, rng.choice([signal.SIGTERM, signal.SIGINT]))
        try:
            ended = go(who, task, seeds, tmp_path / "broken")
        except KeyboardInterrupt:
            stops += 1
            latest = max(folders.attempts(tmp_path / "broken")[0], key=lambda run: run.started)
            assert (latest.status, latest.reason) in {("killed", "stopped by SIGTERM"), ("killed", "interrupted")}
            assert latest.resumed <= stops
    assert stops
    for one, other in zip(unbroken, ended, strict=True):
        assert kept(tmp_path / "broken", other) == kept(tmp_path / "whole", one)
        assert [row.metric for row in other.rows].count("late") == 1
        assert other.rows[-1].metric == "late"
        assert all(a.seconds <= b.seconds for a, b in itertools.pairwise(other.rows))
        seconds, resumed = seconds + other.seconds, resumed + other.resumed
    assert resumed > 0
    assert seconds > 0
    runs, strange = folders.attempts(tmp_path / "broken")
    assert not strange
    assert len(runs) == (stops + 1) * len(seeds)
    assert not list((tmp_path / "broken").glob("*/checkpoint*"))  # of no use any more


def stopped(out, at=30, **settings):
    """A run of six laws and more, stopped by SIGTERM."""
    ALARM.at(at)
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
        go(Particles(14), Small(True), out=out, **settings)
    (ended, *_) = folders.attempts(out)[0]
    ALARM.at(0)
    return ended


def finished(out, **settings):
    (first, *_) = go(Particles(14), Small(True), out=out, **settings)
    assert first.status == ("budget" if "budget" in settings else "ok")
    return first


def test_only_the_same_code_budget_metrics_and_machine_go_on(tmp_path, monkeypatch):
    assert finished_after(tmp_path / "same").resumed == 1
    assert finished_after(tmp_path / "budget", budget=Budget(steps=12)).resumed == 0
    assert finished_after(tmp_path / "env", env="other").resumed == 0
    assert finished_after(tmp_path / "seeds", seeds=(3, 7, 8)).resumed == 0
    assert finished_after(tmp_path / "metrics", judge=("kl",)).resumed == 0
    codes = itertools.count()
    monkeypatch.setattr(Job, "code", lambda job: str(next(codes)))
    assert finished_after(tmp_path / "code").resumed == 0


def finished_after(out, **settings):
    stopped(out)
    return finished(out, **settings)


def test_other_threads_and_commits_go_on_but_no_other_torch(tmp_path):
    facts = {"torch": "2", "device": "cpu", "threads": 1}
    for name, other, times in (("a", facts | {"threads": 2}, 1), ("b", facts | {"torch": "3"}, 0)):
        out = tmp_path / name
        for one in (facts, other):
            out.mkdir(exist_ok=True)
            folders.save_environment(out, one)
        stopped(out, env=env_hash(facts))
        assert finished(out, env=env_hash(other)).resumed == times


def test_anew_means_from_nothing(tmp_path):
    stopped(tmp_path)
    runs = execute(Job(Small(True), Particles(14), (3, 7)), Setting("env", tmp_path, anew=True), ALARM.tick)
    assert [run.resumed for run in runs] == [0, 0]


@pytest.mark.parametrize("damage", ["cut", "changed", "foreign", "empty"])
def test_a_torn_checkpoint_is_refused_and_the_run_starts_anew(damage, tmp_path):
    file = folders.checkpoint_of(tmp_path, stopped(tmp_path))
    data = file.read_bytes()
    middle = len(data) // 2
    torn = {
        "cut": data[:middle],
        "changed": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "foreign": b"hello",
        "empty": b"",
    }
    file.write_bytes(torn[damage])
    run = finished(tmp_path)
    assert run.resumed == 0
    log = folders.checkpoint_of(tmp_path, run).with_name("log.txt").read_text()
    assert "the checkpoint of attempt" in log
    assert "is refused" in log


def test_a_number_changed_with_its_zip_checksum_is_refused_too(tmp_path):
    file = folders.checkpoint_of(tmp_path, stopped(tmp_path))
    sha, _, data = file.read_bytes().partition(b"\n")
    plain = torch.load(io.BytesIO(data), weights_only=True)
    plain["state"]["x"].view(-1)[5] += 1.0
    edited = io.BytesIO()
    torch.save(plain, edited)
    file.write_bytes(sha + b"\n" + edited.getvalue())
    with pytest.raises(ValueError, match="does not match its hash"):
        checkpoint.load(file, torch.device("cpu"))


def test_a_seed_that_diverged_is_not_run_again_and_its_batch_goes_on_without_it(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "EVERY", 0.0)
    who, seeds = Particles(14, burst=7), (3, 7, 9)
    ALARM.at(0)
    whole = go(who, Small(True), seeds, tmp_path / "whole")
    assert [run.status for run in whole] == ["ok", "diverged", "ok"]
    ALARM.at(ALARM.done - 4)
    with pytest.raises(KeyboardInterrupt):
        go(who, Small(True), seeds, tmp_path / "broken")
    ends = {run.identity.seed: run.status for run in folders.attempts(tmp_path / "broken")[0]}
    assert ends == {3: "killed", 7: "diverged", 9: "killed"}
    assert len(list((tmp_path / "broken").glob("*/checkpoint.pt"))) == 2
    rest = go(who, Small(True), (3, 9), tmp_path / "broken")
    assert [run.identity.seed for run in rest] == [3, 9]
    for one, other in zip((whole[0], whole[2]), rest, strict=True):
        assert other.resumed == 1
        assert kept(tmp_path / "broken", other) == kept(tmp_path / "whole", one)
    assert len(folders.attempts(tmp_path / "broken")[0]) == 5


def test_checkpoints_come_at_twice_the_time_and_then_at_fixed_times(monkeypatch):
    """So that whoever is stopped after any time keeps half of it; 400 s of a clock that a law reads each 0.25 s."""
    now, written = [1000.0], []
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    keeper = checkpoint.Keeper([object()], None, Log(), resumable=True)
    while now[0] < 1400:
        now[0] += 0.25
        if keeper.due():
            written.append(now[0] - 1000)
            keeper.started()
    assert written == [1, 2, 4, 8, 16, 32, 64, 128, 248, 368]
    assert not checkpoint.Keeper([object()], None, Log(), resumable=False).due()


def test_a_disk_that_is_full_costs_the_checkpoint_and_not_the_run(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "EVERY", 0.0)
    monkeypatch.setattr(checkpoint, "sync", full)
    ALARM.at(0)
    run = finished(tmp_path)
    log = folders.checkpoint_of(tmp_path, run).with_name("log.txt").read_text()
    assert log.count("No space left on device") == 14
    assert not list(tmp_path.glob("*/checkpoint*"))


def test_a_state_that_is_not_of_tensors_and_numbers_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "EVERY", 0.0)

    @dataclass(frozen=True)
    class Wrong(Particles):
        def resume(self, problem, budget, rng, state):
            for law in Particles.resume(self, problem, budget, rng, state):
                yield replace(law, state=lambda: {"x": "a word"})

    ALARM.at(0)
    (run, _) = go(Wrong(), Small(True), out=tmp_path)
    assert run.status == "error"
    assert run.reason == "TypeError: its state has 'x' of type str; expected Tensor, int or float"


def test_the_handlers_of_signals_are_as_before(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    stopped(tmp_path)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_held_signal_waits_and_a_second_ctrl_c_does_not():
    seen = []

    def one():
        with Stops() as stops:
            with stops.held():
                with stops.held():
                    os.kill(os.getpid(), signal.SIGTERM)
                    seen.append("inner")
                seen.append("outer")
            seen.append("never")

    def two():
        with Stops() as stops, stops.held():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
            seen.append("never")

    def three():
        with Stops() as stops:
            with stops.held():
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGTERM)
                seen.append("both")
            seen.append("never")

    for stopped_once_or_twice in (one, three):
        with pytest.raises(Stopped, match="stopped by SIGTERM"):
            stopped_once_or_twice()
    with pytest.raises(KeyboardInterrupt):
        two()
    assert seen == ["inner", "outer", "both"]


def test_a_handler_that_was_there_has_the_last_word_and_what_was_ignored_still_is():
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append("ours"))
    try:
        with Stops() as stops, stops.held():
            os.kill(os.getpid(), signal.SIGTERM)
            assert not seen
        assert seen == ["ours"]
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with Stops():
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_stop_while_the_runner_moves_points_waits_for_the_law_and_keeps_it(tmp_path):
    ula = registry.parse("method", "ula:step=0.01")
    for moment in (40, 41, 45):  # while points are pushed and judged
        out = tmp_path / str(moment)
        ALARM.at(moment)
        with pytest.raises(KeyboardInterrupt):
            go(ula, out=out)
        killed = folders.attempts(out)[0][0]
        found = checkpoint.load(folders.checkpoint_of(out, killed), torch.device("cpu"))
        assert len(found.path) - 1 == killed.steps > 1
        assert found.state["k"] == killed.steps
