"""Commands that are killed, stopped and cut off: each run is finished once, no claim and no process outlives a crash."""

import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from gwfbench.store import folders, locks

spec = importlib.util.spec_from_file_location("villains", Path(__file__).with_name("villains.py"))
villains = importlib.util.module_from_spec(spec)
spec.loader.exec_module(villains)
PLAIN = [sys.executable, "-m", "gwfbench"]
WORDS = ["--method", "good", "--method", "slow", "--seeds", "6", "--jobs", "2"]  # twelve runs
KILLS = 10  # of one test: few, so that most of them find runs that are not finished


@pytest.fixture(scope="module")
def plugins(tmp_path_factory):
    return villains.install(tmp_path_factory.mktemp("dist"))


def until(what, seconds=60.0):
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)
    return found


def finished(out):
    """Exact values by run key, and how often each was finished."""
    runs, strange = folders.attempts(out)
    assert not strange
    good = [run for run in runs if run.status == "ok"]
    assert {run.status for run in runs} <= {"ok", "killed"}
    counts = Counter(run.identity.key for run in good)
    return {run.identity.key: [(p.step, p.metric, p.value, p.se, p.n) for p in run.rows] for run in good}, counts


@pytest.fixture(scope="module")
def whole(plugins, tmp_path_factory):
    """What the same command finds where nobody kills it."""
    out = tmp_path_factory.mktemp("whole")
    assert villains.command(plugins, out, *WORDS, name=f"whole-{os.getpid()}").wait(400) == 0
    return finished(out)[0]


@pytest.mark.timeout(900)  # on a busy machine
@pytest.mark.parametrize("seed", range(3))
def test_ten_kills_at_random_moments(plugins, tmp_path, whole, seed):
    """SIGKILL or SIGHUP to the command, from its start to its last run: nothing lost, nothing twice, nothing printed."""
    rng, name = random.Random(seed), f"kills-{os.getpid()}-{seed}"
    out, noise = tmp_path / "runs", tmp_path / "noise"
    with noise.open("w") as stderr:
        for _ in range(KILLS):
            process = villains.command(plugins, out, *WORDS, name=name, launcher=PLAIN, stderr=stderr)
            try:
                if rng.random() < 0.7:  # while runs begin, go on and end
                    until(_begins(process, out))
                    time.sleep(rng.uniform(0.0, 1.5))
                else:  # while it starts
                    time.sleep(rng.uniform(0.1, 3.0))
                process.send_signal(rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGHUP]))
                process.wait(60)
            finally:
                process.kill()
        done = villains.command(plugins, out, *WORDS, name=name, stdout=subprocess.PIPE, text=True)
        rows = done.communicate(timeout=400)[0]
        assert done.returncode == 0
    until(lambda: not villains.left(name))
    assert len({json.loads(line)["run_key"] for line in rows.splitlines()}) == 12
    ours, counts = finished(out)
    assert ours == whole
    assert set(counts.values()) == {1}
    assert "Traceback" not in noise.read_text()
    assert not list(out.glob("aside/*/rows.jsonl"))


def _begins(process, out):
    """A question: whether the command has begun a run since now, or has ended."""
    before = set(out.glob(".partial-*/header.json"))
    return lambda: process.poll() is not None or set(out.glob(".partial-*/header.json")) - before


def _run_of(command):
    """The pids of the run and its server, once the method has started workers."""
    for server in _children(command):
        for run in (run for keeper in _children(server) for run in _children(keeper)):
            if len(_children(run)) == 2:
                return run, server
    return None


def _children(pid):
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


@pytest.mark.parametrize("method", ["workers", "led_workers"])
@pytest.mark.parametrize("attack", ["a run killed meanwhile", "its server stopped", "its server killed too"])
def test_a_claim_dies_with_its_command(plugins, tmp_path, method, attack):
    """The command stopped, and killed before it can say a word; then its claim is free, and its workers are gone."""
    name = f"claims-{os.getpid()}-{time.monotonic_ns()}"
    process = villains.command(plugins, tmp_path, "--method", method, "--seeds", "1", name=name)
    try:
        run, server = until(lambda: _run_of(process.pid))
        (partial,) = until(lambda: list(tmp_path.glob(".partial-*")))
        key = partial.name.split("-")[1]
        os.kill(process.pid, signal.SIGSTOP)
        target = {"r": (run, signal.SIGKILL), "s": (server, signal.SIGSTOP), "k": (server, signal.SIGKILL)}
        which = {"a run killed meanwhile": "r", "its server stopped": "s", "its server killed too": "k"}[attack]
        assert locks.claim(tmp_path, key) is None
        os.kill(*target[which])
    finally:
        process.kill()
    process.wait()
    held = until(lambda: locks.claim(tmp_path, key), 30)
    assert not villains.left(name)
    held.release()


def script(tmp_path, plugins, text, *, cwd=None, shell="", seconds=120):
    """A user's script: exit code, standard output, standard error."""
    file = tmp_path / "mine.py"
    file.write_text(text)
    path = os.pathsep.join([str(plugins), str(villains.ROOT)])
    words = ["sh", "-c", f'exec "$0" "$1" {shell}', sys.executable, str(file)]
    done = subprocess.run(
        words, env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        timeout=seconds, cwd=cwd or tmp_path, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


GO = "gwfbench.run('tiny', 'good', seeds=1, controls=False)"


@pytest.mark.parametrize("change", ["append(Path('x'))", "insert(0, Path('x'))"])
def test_a_search_path_that_holds_no_text(plugins, tmp_path, change):
    text = f"import gwfbench, sys, io\nfrom pathlib import Path\n{GO}\nsys.path.{change}\nsys.stdout = io.StringIO()\nrows = {GO}\nsys.stderr.write(rows.status.iloc[0])"
    code, _, err = script(tmp_path, plugins, text)
    assert (code, err[-2:]) == (0, "ok"), err


@pytest.mark.parametrize("shell", ["2>&-", "<&- >&- 2>&-"])
def test_closed_standard_files(plugins, tmp_path, shell):
    text = f"import gwfbench, pathlib\nrows = {GO}\npathlib.Path('said').write_text(rows.status.iloc[0])"
    assert script(tmp_path, plugins, text, shell=shell)[0] == 0
    assert (tmp_path / "said").read_text() == "ok"


@pytest.mark.parametrize("body", ["raise RuntimeError('mine')", "raise SystemExit", "import gwfbench\n" + GO])
def test_a_file_of_the_user_with_a_package_s_name(plugins, tmp_path, body):
    """The server loads ot for runs that are judged by w2, whatever comes of it; whoever does not need it runs."""
    (tmp_path / "ot.py").write_text(body + "\n")
    text = "from gwfbench.process import forkserver\nwith forkserver._alone():\n    forkserver._load([], ['w2'])\n"
    text += f"import gwfbench\nprint({GO}.status.iloc[0])"
    code, out, err = script(tmp_path, plugins, text)
    assert (code, out) == (0, "ok\n"), err


def test_a_server_that_cannot_start_says_why(plugins, tmp_path):
    text = f"import gwfbench, os, pathlib, gwfbench.api\npathlib.Path('threadpoolctl.py').write_text('raise ImportError(\"a file of mine\")')\n{GO}"
    code, _, err = script(tmp_path, plugins, text)
    assert code == 1
    assert "could not start: ImportError: a file of mine" in err
