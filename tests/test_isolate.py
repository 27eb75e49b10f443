"""Runs in processes of their own: every way that a process can end is one row, and the others go on."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import gwfbench
from gwfbench.drive.log import Log
from gwfbench.plugins import registry
from gwfbench.process import child, messages, pool
from gwfbench.runs.options import Options
from gwfbench.runs.order import Order
from gwfbench.runs.scheduler import perform
from gwfbench.store import folders as store
from gwfbench.store import locks

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("failing", Path(__file__).with_name("failing.py"))
failing = importlib.util.module_from_spec(spec)
spec.loader.exec_module(failing)


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
    """Run methods on the tiny task; their runs by method (of one seed) in the order in which they ended."""
    jobs = list(Order.read([task], methods, seeds, controls=False).jobs())
    return {runs[0].identity.method: runs[0] for runs in perform(jobs, out, event, Options(**options))}


MATRIX = {
    "good": ("ok", "", 3),
    "raises": ("error", "RuntimeError: boom", 1),
    "nan": ("diverged", "points are not finite at t = 0.2", 1),
    "sys_exit": ("error", "SystemExit: 3", 1),
    "os_exit": ("error", "exit code 3; it last said: nearly there", 1),
    "suicide": ("killed", "ended by SIGKILL", 1),
    "segfault": ("error", "ended by SIGSEGV; it last said:", 1),
    "endless": ("timeout", "it took longer than --timeout 16 seconds", 1),
    "deaf": ("timeout", "it took longer than --timeout 16 seconds", 1),
    "swallows": ("timeout", "it took longer than --timeout 16 seconds", 1),
    "numpy_10gb": ("oom", "Unable to allocate 9.31 GiB", 1),
    "torch_10gb": ("oom", "you tried to allocate 10000000000 bytes", 1),
    "creeps": ("oom", "GiB, --memory allows 1", 1),
    "floods": ("ok", "", 3),
    "unpicklable": ("error", "Awkward: (it can't be told)", 1),
    "forks": ("ok", "", 3),
    "comes_back": ("ok", "", 3),
    "closes_all": ("error", "exit code 1", None),  # as many as till it next speaks
    "imports_nothing": ("error", "ModuleNotFoundError: No module named 'no_such_module'", 1),
}


def test_the_failure_matrix(plugins, tmp_path, monkeypatch):
    """Each end in its own row with its status and reason, all in one command, four at once."""
    monkeypatch.setattr(pool, "GRACE", 1.0)
    runs = go(tmp_path, *MATRIX, jobs=4, timeout=16, memory=1)
    kept, strange = store.attempts(tmp_path)
    assert not strange
    assert sorted(run.identity.method for run in kept) == sorted(MATRIX)  # one row each
    for run in kept:
        status, reason, judged = MATRIX[run.identity.method]
        shown = runs[run.identity.method]
        assert (run.status, run.rows) == (shown.status, shown.rows), run.identity.method
        assert run.status == status, (run.identity.method, run.reason)
        assert reason in run.reason
        assert judged in (None, len({point.step for point in run.rows})), run.identity.method
    alone = go(tmp_path / "alone", "good")["good"]  # the others changed nothing
    assert [point.value for point in runs["good"].rows] == [point.value for point in alone.rows]
    (flood,) = tmp_path.glob("*-floods-*")
    log = (flood / "log.txt").read_text()
    assert len(log) < 2.1e6
    assert log.startswith("first line")
    assert log.rstrip().endswith("last line")
    assert "98000" in log.partition("[... ")[2].partition(" bytes cut")[0]
    (crash,) = tmp_path.glob("*-segfault-*")
    assert "Segmentation fault" in (crash / "log.txt").read_text()
    _wait_for(lambda: not _left_behind())  # a killed process takes a moment to free its memory


def test_infinity_in_one_seed_of_a_batch(plugins, tmp_path):
    from dataclasses import replace

    (job,) = Order.read(["tiny"], ["infinite"], "3,", controls=False).jobs()
    (runs,) = perform([replace(job, seeds=(3, 4, 5))], tmp_path, lambda *_: None, Options())
    assert [run.status for run in runs] == ["ok", "diverged", "ok"]
    (alone,) = perform([job], None, lambda *_: None, Options())
    assert [p.value for p in alone[0].rows] == pytest.approx([p.value for p in runs[0].rows], rel=1e-5)


def test_what_is_isolated_equals_what_is_not(plugins, tmp_path):
    ours, theirs = go(tmp_path / "a", "good"), go(tmp_path / "b", "good", isolate=False)
    pairs = [[(p.step, p.metric, p.value, p.se, p.n) for p in runs["good"].rows] for runs in (ours, theirs)]
    assert pairs[0] == pairs[1]
    assert (ours["good"].code, ours["good"].env) == (theirs["good"].code, theirs["good"].env)


@pytest.mark.parametrize(
    "data", [b"x\n", b"\xff\n", b"[1]\n", b"1\n", b"[" * 100_000 + b"\n", b"x" * (pool.LINE + 1), b'{"a": 1}\n{\n']
)
def test_what_is_no_message_is_refused(data):
    with pytest.raises(messages.Garbled):
        messages.Lines(pool.LINE).feed(data)


@pytest.mark.parametrize(
    "message",
    [
        {}, {"t": "0.1", "last": 1.0}, {"t": 0.1}, {"failed": "=cmd", "status": "bogus"}, {"failed": "x", "status": "ok"},
        {"failed": 3, "status": "error"}, {"clock": "never"}, {"clock": 1e300}, {"log": False}, {"status": "ok"},
    ],
)  # fmt: skip
def test_a_message_that_no_run_sends_is_refused(message):
    """The third last: a budget of seconds was not given, so no clock is told."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        run = pool._Child(ours, -1, lambda *_: None, 0)
        messages.send(theirs, message)
        with pytest.raises(messages.Garbled):
            pool._read_channel(run)
        assert (run.failed, run.spent_at) == (None, None)


def test_messages_do_not_hang_on_what_a_method_replaces(monkeypatch):
    import json

    ours, theirs = socket.socketpair()
    monkeypatch.setattr(json, "dumps", lambda *_, **__: 1 / 0)
    with ours, theirs:
        messages.send(ours, {"t": 0.5, "last": None})
        assert messages.Lines().feed(theirs.recv(100)) == [{"t": 0.5, "last": None}]


def test_a_run_that_can_t_be_started_is_no_run(plugins, tmp_path, monkeypatch):
    """What raises on the way to the server (it was a `Path` on `sys.path`) is told, and nobody waits for that run."""
    jobs = list(Order.read(["tiny"], ["good"], "1", controls=False).jobs())
    monkeypatch.setattr(pool.server.Server, "send", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(perform(jobs, tmp_path, lambda *_: None, Options()))
    monkeypatch.undo()
    assert next(iter(perform(jobs, tmp_path, lambda *_: None, Options())))[0].status == "ok"


def test_pages_that_processes_share_count_once():
    """Twenty forks of 64 MiB that touch nothing are 64 MiB."""
    from gwfbench.process import memory

    size, pids, awake = 2**26, [], os.pipe()
    parent = os.fork()
    if parent == 0:
        keep = bytearray(os.urandom(1024) * (size // 1024))
        for _ in range(20):
            if os.fork() == 0:
                break
        else:
            os.write(awake[1], b"x")
        time.sleep(60 + len(keep) * 0)
        os._exit(0)
    os.read(awake[0], 1)
    from gwfbench.store import processes

    try:
        pids = [parent, *processes.below(parent)]
        assert len(pids) == 21
        assert sum(map(memory._all, pids)) > 20 * size
        own = memory._all(parent)  # and what this process has
        assert size < memory.beyond(1, parent) < own + 2 * size
        assert memory.beyond(own + 2 * size, parent) == 0  # the sum of all is 21 times `own`
    finally:
        processes.kill(pids)
        os.waitpid(parent, 0)


STATE = """
import os, sys, signal, torch
os.chdir("/")
os.umask(0)
os.environ["GWFBENCH_TEST_LEAK"] = "1"
sys.path.insert(0, "/nowhere")
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
torch.set_default_dtype(torch.float64)
torch.set_num_threads(2)
torch.set_grad_enabled(False)
"""


def _state():
    import torch

    mask = os.umask(0o022)
    os.umask(mask)
    return (
        os.getcwd(), mask, dict(os.environ), list(sys.path), [signal.getsignal(n) for n in signal.valid_signals()],
        signal.pthread_sigmask(signal.SIG_BLOCK, []), torch.get_default_dtype(), torch.get_default_device(),
        torch.get_num_threads(), torch.is_grad_enabled(), torch.is_inference_mode_enabled(),
    )  # fmt: skip


def test_a_run_in_this_process_leaves_it_as_it_was(plugins, tmp_path, monkeypatch):
    """And lies where the others lie, though --out is relative and the method goes elsewhere."""
    import gwfbench_failing

    def fit(self, problem, budget, rng):
        yield gwfbench_failing.half(0.1)
        exec(STATE)
        yield gwfbench_failing.half(0.2)
        yield gwfbench_failing.half(0.3)

    monkeypatch.setattr(gwfbench_failing.Good, "fit", fit)
    monkeypatch.chdir(tmp_path)
    before = _state()
    runs = go(Path("runs"), "good", "slow", isolate=False)
    assert _state() == before
    assert {run.status for run in runs.values()} == {"ok"}
    assert {run.identity.method for run in store.attempts(tmp_path / "runs")[0]} == {"good", "slow"}


@pytest.mark.parametrize("how", ["inference", "no grad", "float64"])
def test_a_run_in_this_process_does_not_see_its_settings(plugins, tmp_path, how):
    import torch

    contexts = {"inference": torch.inference_mode, "no grad": torch.no_grad}
    words = {"task": "ou:dim=2,horizon=0.1", "isolate": False}
    plain = go(tmp_path / "plain", "vjko:iterations=5", **words)["vjko:iterations=5"]
    if how == "float64":
        torch.set_default_dtype(torch.float64)
        try:
            changed = go(tmp_path / "changed", "vjko:iterations=5", **words)["vjko:iterations=5"]
        finally:
            torch.set_default_dtype(torch.float32)
    else:
        with contexts[how]():
            changed = go(tmp_path / "changed", "vjko:iterations=5", **words)["vjko:iterations=5"]
    assert (changed.status, changed.reason) == ("ok", "")
    assert [point.value for point in changed.rows] == [point.value for point in plain.rows]


def test_a_method_s_own_interrupt_is_an_error_and_not_run_again(plugins, tmp_path, monkeypatch):
    import gwfbench_failing

    def fit(self, problem, budget, rng):
        yield gwfbench_failing.half(0.1)
        raise KeyboardInterrupt("mine")

    monkeypatch.setattr(gwfbench_failing.Good, "fit", fit)
    run = go(tmp_path, "good", isolate=False)["good"]
    assert (run.status, run.reason) == ("error", "KeyboardInterrupt: mine")
    assert go(tmp_path, "good", isolate=False)["good"].attempt == run.attempt


def test_a_fork_that_came_back_takes_no_answer_of_its_first_process():
    """Both had asked for the log on one socket: who read first took both answers, and the other waited for ever."""
    ours, theirs = socket.socketpair()
    link = child.Link(theirs)
    pid = os.fork()
    if pid == 0:
        try:
            link.getvalue()
        except RuntimeError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    with pytest.raises(BlockingIOError):
        ours.recv(1, socket.MSG_DONTWAIT)
    messages.send(ours, {"log": "all of it"})
    assert link.getvalue() == "all of it"
    ours.close()
    theirs.close()


def test_a_run_has_its_own_files_alone(plugins, tmp_path):
    """Its channel and its output: no claim, and nothing of the run that its keeper had before, or of one beside it."""
    go(tmp_path, "lists_files", "lists_files:number=1", "lists_files:number=2", jobs=2)
    folders = list(tmp_path.glob("tiny-lists_files*"))
    assert len(folders) == 3
    for folder in folders:
        found = [line[5:] for line in (folder / "log.txt").read_text().splitlines() if line.startswith("open ")]
        kinds = sorted(name.partition(":")[0] for name in found)
        assert kinds.count("socket") == 1
        assert kinds.count("pipe") == 2
        assert {name for name in kinds if name not in ("socket", "pipe")} <= {"/dev/null", "gone", "/proc/self/fd"}
        assert not [name for name in found if ".claims" in name]


def test_groups_are_killed_with_their_leader(plugins, tmp_path):
    """What a method forks and leaves behind dies with it, though the method ended well."""
    go(tmp_path, "forks")
    _wait_for(lambda: not _left_behind())


def _left_behind():
    """Processes in groups whose leader is gone and that our fork servers started."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            group, line = os.getpgid(int(folder.name)), (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if b"import forkserver" in line and not Path(f"/proc/{group}").exists():
            found.add(folder.name)
    return found


def test_a_killed_server_is_noticed_and_replaced(plugins, tmp_path):
    def event(happened):
        if happened.kind == "progress" and happened.job.identity(0).method == "deaf":
            for pid in _servers():
                os.kill(pid, signal.SIGKILL)

    runs = go(tmp_path, "deaf", "good", event=event)
    assert (runs["deaf"].status, runs["good"].status) == ("killed", "ok")
    assert "server" in runs["deaf"].reason


def _servers():
    """Fork servers that this process started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"forkserver" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def test_children_die_with_a_killed_supervisor(plugins, tmp_path):
    code = f"import gwfbench\ngwfbench.run('tiny', 'deaf', seeds=1, controls=False, out={str(tmp_path / 'runs')!r})\n"
    with subprocess.Popen([sys.executable, "-c", code], env=_env(plugins)) as parent:
        _wait_for(lambda: list((tmp_path / "runs").glob(".partial-*/rows.jsonl")))
        parent.kill()
    (folder,) = (tmp_path / "runs").glob(".partial-*")
    key = folder.name.split("-")[1]
    _wait_for(lambda: not locks.is_claimed(tmp_path / "runs", key))
    jobs = list(Order.read(["tiny"], ["deaf"], "1", controls=False).jobs())

    def event(happened):
        if happened.kind == "start":  # it is taken up again, not waited for: enough
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(perform(jobs, tmp_path / "runs", event, Options()))
    (old,) = [run for run in store.attempts(tmp_path / "runs")[0] if run.number == 1]
    assert (old.status, old.reason, len(old.rows)) == ("killed", "its process died", 1)


def _env(*folders):
    return os.environ | {"PYTHONPATH": os.pathsep.join([*folders, str(ROOT)]), "OMP_NUM_THREADS": "1"}


def _wait_for(what, seconds=120):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_supervisor_closes_its_runs(plugins, tmp_path, number):
    ready = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "  # ours may be ignored
    code = ready + "import gwfbench.cli as cli; cli.main()"
    words = ["run", "--task", "tiny", "--method", "endless", "--seeds", "2", "--jobs", "2", "--no-controls"]
    command = [sys.executable, "-c", code, *words, "--out", str(tmp_path / "runs")]
    with subprocess.Popen(command, env=_env(plugins), stderr=subprocess.PIPE, text=True) as parent:
        _wait_for(lambda: len(list((tmp_path / "runs").glob(".partial-*/rows.jsonl"))) == 2)
        parent.send_signal(number)
        try:
            parent.communicate(timeout=120)
        finally:
            parent.kill()
    assert parent.returncode == 130
    kept, strange = store.attempts(tmp_path / "runs")
    assert not strange
    assert [(run.status, run.reason, len(run.rows)) for run in kept] == [("killed", "interrupted", 1)] * 2


def test_a_run_whose_every_process_is_stopped_at_once_keeps_a_checkpoint(tmp_path):
    """As Slurm does, when it requeues a job."""
    words = ["run", "--task", "ou:horizon=0.3", "--method", "ula:step=0.0005", "--seeds", "1", "--no-controls"]
    command = [sys.executable, "-m", "gwfbench", *words, "--out", str(tmp_path / "runs")]
    with subprocess.Popen(command, env=_env(), stderr=subprocess.PIPE, text=True) as parent:
        # the first one: where a signal finds the method at work, there is none of its own
        _wait_for(lambda: list((tmp_path / "runs").glob(".partial-*/checkpoint.pt")))
        for pid in (parent.pid, *_below(parent.pid)):
            os.kill(pid, signal.SIGTERM)
        parent.communicate(timeout=120)
    assert parent.returncode == 130
    subprocess.run(command, env=_env(), check=True, capture_output=True)
    stopped, whole = store.attempts(tmp_path / "runs")[0]
    assert (stopped.status, stopped.reason, whole.status, whole.resumed) == ("killed", "interrupted", "ok", 1)
    assert 0 < stopped.steps < whole.steps == 600


def _below(pid):
    """The processes that this one has started, and theirs."""
    children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [*children, *(below for child in children for below in _below(child))]


def test_a_plain_script_needs_no_guard(plugins, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import gwfbench\nprint('once')\nprint(gwfbench.run('tiny', 'good', seeds=2, controls=False, jobs=2).status.unique().tolist())\n"
    )
    done = subprocess.run([sys.executable, script], env=_env(plugins), capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["once", "['ok']"], done.stderr


def test_python_s_interface_isolates(plugins):
    points = gwfbench.run("tiny", ["good", "os_exit"], seeds=2, controls=False, jobs=2)
    assert list(points.groupby("method", sort=False)["status"].first()) == ["ok", "error"]
    assert list(points["seed"].drop_duplicates()) == [0, 1]


def test_limits_need_isolation():
    for wrong in ({"timeout": 1.0}, {"memory": 1.0}, {"jobs": 2}):
        with pytest.raises(gwfbench.UserError, match="--no-isolate with --"):
            Options(isolate=False, **wrong)
    for wrong in (
        {"timeout": -1.0}, {"timeout": float("nan")}, {"memory": 0.0}, {"memory": 1e-12}, {"memory": 1e300}, {"jobs": 0},
        {"jobs": 10**9}, {"threads": 0}, {"threads": 10**10}, {"retry": frozenset({"ok"})},
    ):  # fmt: skip
        with pytest.raises(gwfbench.UserError, match="expected"):
            Options(**wrong)


def test_runs_at_once_need_open_files(plugins, tmp_path):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    jobs = list(Order.read(["tiny"], ["good"], "12", controls=False).jobs())
    resource.setrlimit(resource.RLIMIT_NOFILE, (36, hard))
    try:
        with pytest.raises(gwfbench.UserError, match="12 runs at once, and at most 36 open files"):
            list(perform(jobs, tmp_path, lambda *_: None, Options(jobs=12)))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("seconds", [2147484.0, 1e15, 1e300])
def test_a_limit_of_any_length_is_a_limit(plugins, tmp_path, seconds):
    assert go(tmp_path, "good", timeout=seconds)["good"].status == "ok"


def test_a_log_keeps_its_start_and_its_end():
    log = Log(kept=10)
    for number in range(100):
        log.write(f"{number:02d} ")
    text = log.getvalue()
    assert (
        text
        == "00 01 02 0\n[... 280 bytes cut ...]\n96 97 98 99 "[:10]
        + f"\n[... {300 - 20} bytes cut ...]\n"
        + "6 97 98 99 "[-10:]
    )
    assert log.getvalue() == text


def test_progress_comes_from_all_that_run(plugins, tmp_path):
    events = []
    go(tmp_path, "slow", seeds="4", jobs=4, event=events.append)
    assert [event.kind for event in events][:4] == ["start"] * 4
    assert (events[-1].kind, events[-1].share) == ("end", 1.0)
    assert [event.share for event in events] == sorted(event.share for event in events)
    assert any(event.kind == "progress" and event.share > 0 for event in events)


def test_gpus_areslots(monkeypatch):
    import torch

    from gwfbench.drive.job import Job
    from gwfbench.runs.options import slots

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    (job,) = Order.read(["ou"], ["ula"], "1", controls=False).jobs()
    device = lambda name: Job(job.task, job.contestant, (0,), name)  # noqa: E731
    assert slots([device("cuda")], Options()) == {"cuda": ["cuda:0", "cuda:1"]}
    assert slots([device("cuda")], Options(gpus=(1, 1))) == {"cuda": ["cuda:1", "cuda:1"]}
    assert slots([device("cuda:1"), device("cpu")], Options(jobs=3)) == {"cuda:1": ["cuda:1"], "cpu": ["cpu"] * 3}
    with pytest.raises(gwfbench.UserError, match="--gpus 2"):
        slots([device("cuda")], Options(gpus=(2,)))
    with pytest.raises(gwfbench.UserError, match="with --device cuda"):
        slots([device("cpu")], Options(gpus=(0,)))


def test_the_exit_code_tells_and_failures_are_not_repeated_unasked(plugins, tmp_path, monkeypatch, capsys):
    from gwfbench.cli import main

    def call(*words):
        base = ["gwfbench", "run", "--task", "tiny", "--no-controls", "--seeds", "1", "--out", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", [*base, *words])
        with pytest.raises(SystemExit) as end:
            main()
        return end.value.code, len(store.attempts(tmp_path)[0]), capsys.readouterr().err

    good, bad, dead = (["--method", name] for name in ("good", "os_exit", "suicide"))
    assert call(*good)[:2] == (0, 1)
    assert call(*good, *bad, *dead)[:2] == (1, 3)
    assert call(*good, *bad, *dead)[:2] == (1, 4)  # the killed one
    assert call(*good, *bad, "--retry", "error,oom")[:2] == (1, 5)
    code, _, err = call(*good, "--retry", "eror")
    assert code == 2
    assert "--retry eror" in err
    numbers = {run.identity.method: run.number for run in store.attempts(tmp_path)[0]}  # of the newest
    assert numbers == {"good": 1, "os_exit": 2, "suicide": 2}
