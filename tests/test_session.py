"""Several processes under one folder, and what they leave there when they die."""

import importlib.util
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import gwfbench
from gwfbench.plugins import registry
from gwfbench.runs.options import Options
from gwfbench.runs.order import Order
from gwfbench.runs.scheduler import perform
from gwfbench.store import folders as store
from gwfbench.store import locks, processes
from gwfbench.store.record import Identity, Row, Run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("failing", Path(__file__).with_name("failing.py"))
failing = importlib.util.module_from_spec(spec)
spec.loader.exec_module(failing)

NOW = "2026-11-22T12:00:00+00:00"


@pytest.fixture(scope="module")
def plugins(tmp_path_factory):
    """The distribution of `failing.py`, found here and in children."""
    folder = str(failing.install(tmp_path_factory.mktemp("dist")))
    sys.path.insert(0, folder)
    registry.plugins.cache_clear()
    yield folder
    sys.path.remove(folder)
    registry.plugins.cache_clear()


def go(out, *methods, seeds="1", event=lambda *_: None, task="tiny", **options):
    jobs = list(Order.read([task], methods, seeds, controls=False).jobs())
    return [run for runs in perform(jobs, out, event, Options(**options)) for run in runs]


def env(*folders):
    return os.environ | {"PYTHONPATH": os.pathsep.join([*folders, str(ROOT)]), "OMP_NUM_THREADS": "1"}


def command(out, *words):
    base = ["run", "--task", "tiny", "--no-controls", "--format", "json", "--out", str(out)]
    return [sys.executable, "-m", "gwfbench", *base, *words]


def values(out):
    """All that is finished: exact values by run."""
    runs, strange = store.attempts(out)
    assert not strange
    good = [run for run in runs if run.status == "ok"]
    return {run.identity.key: [(p.step, p.metric, p.value, p.se, p.n) for p in run.rows] for run in good}, runs


def test_a_parent_killed_on_its_way_loses_nothing_and_runs_nothing_twice(plugins, tmp_path):
    """The same command again and again, SIGKILL in between: in the end all is there once, as from an unbroken run."""
    words = ["--method", "good", "--method", "waits", "--seeds", "6", "--jobs", "2"]
    out, gate = tmp_path / "runs", tmp_path / "gate"
    environment = env(plugins) | {"GWFBENCH_TEST_GATE": str(gate)}  # not there: it can't come to its end
    for moment in (".partial-*/header.json", ".partial-*/rows.jsonl", "tiny-*/run.json", ".partial-*/rows.jsonl"):
        before = set(out.glob(moment))
        with subprocess.Popen(
            command(out, *words), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as parent:
            while set(out.glob(moment)) <= before:
                time.sleep(0.005)
            assert parent.poll() is None
            parent.kill()
    gate.touch()
    done, whole = (
        subprocess.run(command(folder, *words), env=environment, check=True, capture_output=True, text=True)
        for folder in (out, tmp_path / "unbroken")
    )
    for each in (done, whole):
        assert len({json.loads(line)["run_key"] for line in each.stdout.splitlines()}) == 12
    ours, runs = values(out)
    assert ours == values(tmp_path / "unbroken")[0]
    assert set(Counter(run.identity.key for run in runs if run.status == "ok").values()) == {1}
    assert {run.status for run in runs} == {"ok", "killed"}
    assert not list(out.glob("aside/*/rows.jsonl"))  # what was killed before its header was whole had no rows


def identity(name, seed):
    return Identity(name, 1, {}, "m", 1, {}, seed, "float32", "cpu")


def point(step, value):
    return Row(step, 0.1, "symkl", 1, "lower", "flow", "method", value, 0.1, 10, 1.0, 1, 0, 0, 0.5, 1.0)


def _write_25(out, seed):
    for number in range(25):
        who = identity("t", seed * 25 + number)
        held = locks.claim(out, who.key)
        assert held is not None
        run = Run(who, (), "c", "e", NOW, number=1)
        attempt = store.Attempt(out, run)
        for step in range(1, 4):
            run.rows.append(point(step, seed + step / 7))
            attempt.judged(step, run.rows[-1:], np.full((5, 2), seed))
        attempt.finish(run, "said\n")
        held.release()


def test_eight_writers_lose_nothing(tmp_path):
    fork = multiprocessing.get_context("fork")
    writers = [fork.Process(target=_write_25, args=(tmp_path, seed)) for seed in range(8)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):  # a reader among them sees whole attempts only
        runs, strange = store.attempts(tmp_path)
        assert all(len(run.rows) == 3 for run in runs)
        odd = [text for text in strange if "it is being written" not in text and "its process died" not in text]
        assert not odd
    assert [writer.exitcode for writer in writers] == [0] * 8
    runs, strange = store.attempts(tmp_path)
    assert not strange
    assert sorted(run.identity.seed for run in runs) == list(range(200))
    assert all(
        [p.value for p in run.rows] == [run.identity.seed // 25 + step / 7 for step in range(1, 4)] for run in runs
    )


def test_two_equal_commands_share_the_work_and_both_end_with_all(plugins, tmp_path):
    words = ["--method", "slow", "--seeds", "6"]
    both = [
        subprocess.Popen(
            command(tmp_path, *words), env=env(plugins), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    rows = [sorted(set(out.splitlines())) for out, _ in said]
    assert rows[0] == rows[1]
    assert len(rows[0]) == 6 * 3
    assert len(store.attempts(tmp_path)[0]) == 6


def test_a_claim_is_one_process_s_and_ends_with_it(tmp_path):
    first = locks.claim(tmp_path, "k")
    assert first is not None
    assert locks.claim(tmp_path, "k") is None
    assert locks.is_claimed(tmp_path, "k")
    assert locks.holder(tmp_path, "k").startswith(f"pid {os.getpid()} on ")
    assert locks.claim(tmp_path, "other") is not None
    copy = os.dup(first.descriptor)  # a child that lingers has this
    first.release()
    assert not locks.is_claimed(tmp_path, "k")
    second = locks.claim(tmp_path, "k")
    assert second is not None
    os.close(copy)
    assert locks.claim(tmp_path, "k") is None
    second.release()
    script = f"import pathlib, time; from gwfbench.store import locks; locks.claim(pathlib.Path({str(tmp_path)!r}), 'k'); print(1, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", script], env=env(), stdout=subprocess.PIPE) as other:
        assert other.stdout.readline()
        assert locks.claim(tmp_path, "k") is None
        other.kill()
        other.wait()
    assert locks.claim(tmp_path, "k") is not None


def test_a_claim_is_held_by_nothing_that_a_method_starts(tmp_path):
    """Neither a fork in this process, nor a program in a session of its own."""
    held = locks.claim(tmp_path, "k")
    fork = os.fork()
    if fork == 0:
        time.sleep(60)
        os._exit(0)
    program = subprocess.Popen(["sleep", "60"], start_new_session=True, close_fds=False)
    try:
        os.close(held.descriptor)  # as if we had died
        _wait_for(lambda: not locks.is_claimed(tmp_path, "k"))  # the fork may not have begun yet
    finally:
        os.kill(fork, signal.SIGKILL)
        os.waitpid(fork, 0)
        program.kill()
        program.wait()


def test_what_a_dead_holder_has_left_is_ended_by_its_mark(tmp_path):
    """Its claim is free, its server is gone: what carries its mark is found, in whatever session, and nothing else."""
    script = "import pathlib, sys; from gwfbench.store import locks, processes; locks.claim(pathlib.Path(sys.argv[1]), 'k'); print(processes.mark())"
    words = [sys.executable, "-c", script, str(tmp_path)]
    mark = subprocess.run(words, env=env(), capture_output=True, text=True, check=True).stdout.strip()
    assert processes.is_dead(mark)
    assert not processes.is_dead(processes.mark())
    assert not processes.is_dead("")
    boot, pid, start = processes.mark().split(".")
    assert processes.is_dead(f"{boot}.{pid}.{int(start) + 1}")  # the pid was given again
    assert not processes.is_dead(f"{'0' * 36}.{pid}.{int(start) + 1}")  # of another machine
    marks = [mark, f"{mark}.0", f"{mark}0", processes.mark()]
    started = [
        subprocess.Popen(["sleep", "60"], start_new_session=True, env={processes.VARIABLE: mark}) for mark in marks
    ]
    try:
        _wait_for(lambda: all(b"sleep" in Path(f"/proc/{one.pid}/cmdline").read_bytes() for one in started))
        held = locks.claim(tmp_path, "k")
        assert [one.wait() for one in started[:2]] == [-signal.SIGKILL] * 2
        assert [one.poll() for one in started[2:]] == [None, None]
        held.release()
    finally:
        for one in started:
            one.kill()
            one.wait()


def test_a_fork_wears_its_mark_where_others_look():
    """And all that it forks, whatever the variables with which it was started."""
    script = (
        "import os, sys\n"
        "from gwfbench.store import processes\n"
        "if os.fork() == 0:\n"
        "    assert processes.wear(sys.argv[1])\n"
        "    assert os.environ['LONG'] == 'x' * 9000 and os.popen('echo $SHORT').read() == 'y\\n'\n"
        "    if os.fork() == 0:\n"
        "        print(open('/proc/self/environ').read().split('\\0')[0], end='', flush=True)\n"
        "        os._exit(0)\n"
        "    os.wait()\n"
        "    os._exit(0)\n"
        "os.wait()\n"
    )
    variables = env() | {"LONG": "x" * 9000, "SHORT": "y"}
    mark = f"{processes.mark()}.7"
    done = subprocess.run(
        [sys.executable, "-c", script, mark], env=variables, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == (f"{processes.VARIABLE}={mark}", "")


def _wait_for(what):
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_run_that_a_dead_process_had_claimed_elsewhere_is_taken_over(plugins, tmp_path):
    """Its claim is held while we start, and freed with a half-written folder: we close that, and run."""
    (job,) = Order.read(["tiny"], ["good"], "1", controls=False).jobs()
    who = job.identity(0)
    held = locks.claim(tmp_path, who.key)
    attempt = store.Attempt(tmp_path, Run(who, (), job.code(), "e", NOW))
    attempt.judged(1, [point(1, 0.25)], np.zeros((2, 2)))
    kinds = []

    def event(happened):
        if happened.kind != "progress":
            kinds.append(happened.kind)
        if happened.kind == "elsewhere":
            assert f"pid {os.getpid()} on " in happened.text
            held.release()

    (run,) = go(tmp_path, "good", event=event)
    assert (run.status, run.number) == ("ok", 2)
    assert kinds == ["folder", "elsewhere", "folder", "start", "end"]
    old = store.attempts(tmp_path)[0][0]
    assert (old.status, old.reason, [p.value for p in old.rows]) == ("killed", "its process died", [0.25])


def _partial(out, seed=0, rows=2):
    run = Run(identity("t", seed), ("Initial",), "c", "e", NOW, number=3)
    attempt = store.Attempt(out, run)
    for step in range(rows):
        attempt.judged(step + 1, [point(step + 1, step / 3)], np.ones((4, 2)))
    return run, out / f".partial-{run.identity.key}-{run.attempt}"


def test_what_a_dead_process_left_is_closed_with_its_rows_and_its_checkpoint(tmp_path):
    run, folder = _partial(tmp_path)
    with (folder / "rows.jsonl").open("a") as file:
        file.write('{"step": 3, "t"')  # the kill came inside a write
    (folder / "checkpoint.npz").write_bytes(b"whatever the method kept")
    runs, said = store.sweep(tmp_path)
    assert len(said) == 1
    (closed,) = runs
    assert (closed.identity, closed.attempt, closed.number) == (run.identity, run.attempt, 3)
    assert (closed.status, closed.reason) == ("killed", "its process died")
    assert (closed.steps, closed.information) == (2, ("Initial",))
    assert [p.value for p in closed.rows] == [0.0, 1 / 3]
    (place,) = tmp_path.glob("t-m-*")
    assert (place / "checkpoint.npz").read_bytes() == b"whatever the method kept"
    assert store.sweep(tmp_path) == (runs, [])


def test_a_death_between_the_last_file_and_the_move_loses_nothing(tmp_path):
    run, folder = _partial(tmp_path)
    shutil.copytree(folder, tmp_path / "copy")
    run.rows = [point(1, 0.5)]
    attempt = store.Attempt.__new__(store.Attempt)
    attempt._folder, attempt._place, attempt.draws, attempt._process = folder, tmp_path / "place", {}, os.getpid()
    attempt.finish(run, "log\n")
    (tmp_path / "place").rename(folder)
    shutil.rmtree(tmp_path / "copy")
    runs, said = store.sweep(tmp_path)
    assert len(said) == 1
    assert (runs[0].status, [p.value for p in runs[0].rows]) == ("ok", [0.5])


def _torn_header(folder):
    (folder / "header.json").write_text('{"schema": 3, "run_k')


def _no_header(folder):
    (folder / "header.json").unlink()


def _other_header(folder):
    text = (folder / "header.json").read_text()
    (folder / "header.json").write_text(text.replace('"seed": 0', '"seed": 1'))


def _bad_row(folder):
    (folder / "rows.jsonl").write_text('{"step": \n')


@pytest.mark.parametrize("tear", [_torn_header, _no_header, _other_header, _bad_row])
def test_a_partial_that_is_too_torn_is_set_aside_untouched(tmp_path, tear):
    _, folder = _partial(tmp_path)
    tear(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    runs, said = store.sweep(tmp_path)
    assert not runs
    assert len(said) == 1
    assert {path.name: path.read_bytes() for path in (tmp_path / "aside" / folder.name.lstrip(".")).iterdir()} == before


def _truncate(folder, name):
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])


def _edit(folder, name, old, new):
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new))


TEARS = {
    "run.json cut": lambda folder: _truncate(folder, "run.json"),
    "points cut": lambda folder: _truncate(folder, "rows.jsonl"),
    "draws cut": lambda folder: _truncate(folder, "draws.npz"),
    "a status edited": lambda folder: _edit(folder, "run.json", '"status": "ok"', '"status": "killed"'),
    "seconds edited": lambda folder: _edit(folder, "run.json", '"batch": 1', '"batch": 2'),
    "a value edited": lambda folder: _edit(folder, "rows.jsonl", '"value": ', '"value": 0'),
    "no run.json": lambda folder: (folder / "run.json").unlink(),
}


@pytest.mark.parametrize("tear", TEARS)
def test_torn_truncated_and_edited_attempts_are_set_aside_and_run_again(plugins, tmp_path, tear):
    (first,) = go(tmp_path, "good", isolate=False)
    (folder,) = tmp_path.glob("tiny-*")
    TEARS[tear](folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert store.attempts(tmp_path)[0] == []  # whoever only reads moves nothing
    assert folder.exists()
    (second,) = go(tmp_path, "good", isolate=False)
    assert {path.name: path.read_bytes() for path in (tmp_path / "aside" / folder.name).iterdir()} == before
    assert [p.value for p in second.rows] == [p.value for p in first.rows]
    assert first.attempt != second.attempt


def test_a_clock_that_is_set_back_changes_no_order(plugins, tmp_path, monkeypatch):
    import datetime

    from gwfbench.drive import execute

    years = iter((2030, 2020, 2025))

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.datetime(next(years), 1, 1, tzinfo=tz)

    monkeypatch.setattr(execute.datetime, "datetime", Clock)
    attempts = [go(tmp_path, "good", isolate=False, force=True)[0].attempt for _ in range(3)]
    monkeypatch.undo()
    runs, _ = store.attempts(tmp_path)
    assert [run.started[:4] for run in runs] == ["2030", "2020", "2025"]
    assert [run.attempt for run in runs] == attempts
    assert [run.number for run in runs] == [1, 2, 3]
    assert go(tmp_path, "good")[0].attempt == attempts[-1]


def test_a_killed_repeat_of_a_finished_run_is_taken_up(plugins, tmp_path):
    """The newest attempt decides, as it does on the leaderboard."""
    go(tmp_path, "good", isolate=False)
    (job,) = Order.read(["tiny"], ["good"], "1", controls=False).jobs()
    store.Attempt(tmp_path, Run(job.identity(0), (), job.code(), "e", NOW, number=2))
    (run,) = go(tmp_path, "good", isolate=False)
    assert (run.status, run.number) == ("ok", 3)


@pytest.mark.parametrize(
    "name", ["../../../escape", "..", ".partial-x", "a/b", "nul\0nul", "é" * 300, "-rf", "~", "con:", "\n"]
)
def test_names_from_users_never_leave_the_folder(tmp_path, name):
    out = tmp_path / "deep" / "runs"
    for who in (identity(name, 0), identity("t", 0)):
        from dataclasses import replace

        run = Run(replace(who, method=name), (), "c", "e", NOW)
        store.Attempt(out, run).finish(run, "")
    assert len(store.attempts(out)[0]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["runs"]
    assert len(list(out.iterdir())) == 2


def test_names_from_users_through_a_whole_run(plugins, tmp_path):
    out = tmp_path / "deep" / "runs"
    (run,) = go(out, "good", task="tiny:name=../../x")
    assert run.status == "ok"
    assert [path.name for path in tmp_path.rglob("run.json")] == ["run.json"]
    assert {path.name for path in tmp_path.iterdir()} == {"deep"}


def test_no_file_is_ever_unpickled():
    """Classes of a session go to the command's own processes as pickles, over its own pipe (plugins/instances.py)."""
    for path in (path for folder in ("gwfbench", "tasks", "baselines") for path in (ROOT / folder).rglob("*.py")):
        text = path.read_text()
        found = re.findall(
            r"allow_pickle=True|\b(?:import|from) (?:pickle|dill|shelve|joblib)\b|torch\.load\((?!.*weights_only=True)|read_pickle",
            text,
        )
        assert not found or path == ROOT / "gwfbench" / "plugins" / "instances.py", path


def _mount(folder, *words):
    folder.mkdir()
    done = subprocess.run(["mount", *words, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")


@pytest.fixture
def mounted(tmp_path):
    folder = tmp_path / "mounted"
    yield folder
    subprocess.run(["umount", str(folder)], capture_output=True, check=False)


def test_a_disk_that_fills_up(plugins, tmp_path, mounted, monkeypatch):
    """The run that meets it, and those after it, are errors; those before it are whole; later all are made good."""
    _mount(mounted, "-t", "tmpfs", "-o", "size=400k", "tmpfs")
    from gwfbench.process import server

    server.cool()  # the next server has our environment, in which the method finds the place
    monkeypatch.setenv("GWFBENCH_TEST_FULL", str(mounted))
    jobs = [
        job
        for method in ("good", "fills", "good:number=1")
        for job in Order.read(["tiny"], [method], "1", controls=False).jobs()
    ]
    runs = [runs[0] for runs in perform(jobs, mounted / "out", lambda *_: None, Options())]
    assert [run.status for run in runs] == ["ok", "error", "error"]
    assert all("No space left on device" in run.reason for run in runs[1:])
    (kept,), _ = store.attempts(mounted / "out")
    assert kept.rows == runs[0].rows
    with pytest.raises(gwfbench.UserError, match="No space left on device"):
        list(perform(jobs, mounted / "out", lambda *_: None, Options()))
    (mounted / "filler").unlink()
    (mounted / "filler").mkdir()  # so that it can't be filled again
    jobs = [jobs[0], jobs[2]]
    runs = [runs[0] for runs in perform(jobs, mounted / "out", lambda *_: None, Options())]
    assert [run.status for run in runs] == ["ok", "ok"]
    assert not [path for path in (mounted / "out").iterdir() if path.name.startswith(".partial")]


def test_a_folder_that_can_t_be_written(plugins, tmp_path, mounted):
    (tmp_path / "file").write_text("")
    with pytest.raises(gwfbench.UserError, match="folder"):
        go(tmp_path / "file", "good")
    with pytest.raises(gwfbench.UserError, match="Not a directory"):
        go(tmp_path / "file" / "below", "good")
    _mount(mounted, "-t", "tmpfs", "-o", "size=1m", "tmpfs")
    go(mounted, "good")
    subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
    with pytest.raises(gwfbench.UserError, match="Read-only file system"):
        go(mounted, "good", "slow")
    assert go(mounted, "good")[0].status == "ok"  # what is finished can be read


def test_the_same_run_twice_in_one_plan_runs_once(plugins, tmp_path):
    (job,) = Order.read(["tiny"], ["slow"], "1", controls=False).jobs()
    both = list(perform([job, job], tmp_path, lambda *_: None, Options(jobs=2)))
    assert both[0][0].attempt == both[1][0].attempt
    assert len(store.attempts(tmp_path)[0]) == 1
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
