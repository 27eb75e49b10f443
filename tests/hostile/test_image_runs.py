"""Long runs on images, killed and timed out as often as one likes: what comes of them is what an unbroken one gives."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gwfbench.drive import checkpoint
from gwfbench.drive.job import Job
from gwfbench.plugins import registry
from gwfbench.protocol import Resumable
from gwfbench.rng import Streams
from gwfbench.runs.options import Options
from gwfbench.runs.scheduler import perform
from gwfbench.store import folders

ROOT, KILLS, SEEDS = Path(__file__).parents[2], 10, (3, 7)
# of each loop what it must not forget: spectral vectors, running averages, the learnt kernel's Adam, the pool of P_k
METHODS = {
    "gan": "gan:loss=sngan,network=resnet,width=8,batch=8,critic_steps=2,iterations=24,every=2,ema=0.9",
    "gwf": "gwf:width=8,batch=8,steps=12,iterations=2,ema=0.9,start=noise",
    "mmd": "gwf:divergence=mmd,width=8,batch=8,steps=12,iterations=2,outputs=4",
    "sjko": "sjko:width=8,batch=8,steps=12,iterations=2",
    "jko_flow": "jko_flow:width=8,batch=8,steps=12,iterations=2,pool=64",
    "drifting": "drifting:width=16,points=32,batch=32,steps=40",
}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """The task of 40 images of 8 x 8 in colours, light at the left and dark below."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(1)
    y, x = np.mgrid[:8, :8]
    for i in range(40):
        light = 200 - 15 * x + rng.integers(0, 5) * y
        pixels = light[..., None] * rng.uniform(0.3, 1.0, 3) + rng.uniform(0, 20, (8, 8, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:02}.png")
    return f"images:data=folder,data_root={folder}"


def kept(out):
    """By seed, all numbers of the finished run but seconds: its rows, its points, its end; and how often it went on."""
    runs, strange = folders.attempts(out)
    assert not strange
    assert {run.status for run in runs} <= {"ok", "killed", "timeout"}
    found, resumed = {}, 0
    for run in (run for run in runs if run.status == "ok"):
        rows = [{k: v for k, v in asdict(row).items() if not k.endswith("seconds")} for row in run.rows]
        with np.load(folders.checkpoint_of(out, run).with_name("draws.npz"), allow_pickle=False) as npz:
            points = {name: npz[name].tobytes() for name in npz.files}
        key = run.identity.method, run.identity.seed
        assert key not in found, "finished twice"
        found[key] = rows, points, run.reason, run.steps
        resumed += run.resumed
    return found, resumed


def sitting(job, out, seconds):
    """A command in a fork of this process, killed after some seconds; whether it was."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            list(perform([job], out, lambda _: None, Options(isolate=False)))
            code = 0
        finally:
            os._exit(code)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            assert status == 0
            return False
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return True


@pytest.mark.timeout(1800)  # on a busy machine
@pytest.mark.parametrize("name", METHODS)
def test_killed_at_ten_random_moments(name, images, tmp_path, monkeypatch):
    """Each time it goes on from a checkpoint of any law; where it ends before ten kills, another one begins."""
    task, method = registry.parse("task", images), registry.parse("method", METHODS[name])
    job, rng = Job(task, method, SEEDS), random.Random(name)
    task.build(Streams(SEEDS))  # what is imported once is not in the length, nor in the forks
    began = time.monotonic()
    list(perform([job], tmp_path / "whole", lambda _: None, Options(isolate=False)))
    length = time.monotonic() - began
    whole, _ = kept(tmp_path / "whole")
    kills, broken, resumed = 0, [], 0
    while kills < KILLS or not broken:
        out = tmp_path / f"broken{len(broken)}"
        while True:
            monkeypatch.setattr(checkpoint, "EVERY", rng.choice([0.0, 0.0, 120.0]))
            if not sitting(job, out, rng.uniform(0, 0.4) * length if kills < KILLS else 1e4):
                break
            kills += 1
        broken.append(out)
        found, times = kept(out)
        assert found == whole
        resumed += times
    assert len(whole) == len(SEEDS)
    assert (resumed > 0) == isinstance(method, Resumable)


def numbers(rows):
    """What a command has shown, but seconds and the order in which runs ended."""
    columns = ("method", "seed", "step", "metric", "value", "se", "n", "status")
    return sorted(str([row[name] for name in columns]) for row in map(json.loads, rows.splitlines()))


@pytest.mark.timeout(3600)
def test_a_run_of_several_sittings(images, tmp_path):
    """All methods in one command with --timeout, given again until all are at their ends: half of a run at most each."""

    def command(out, *more):
        words = [word for method in METHODS.values() for word in ("--method", method)]
        base = [sys.executable, "-m", "gwfbench", "run", "--task", images, "--no-controls", "--seeds", "3,7"]
        done = subprocess.run(
            [*base, *words, "--format", "json", "--out", str(tmp_path / out), *more], capture_output=True, text=True,
            cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    began = time.monotonic()
    code, rows, told = command("whole")
    assert code == 0, told
    limit = (time.monotonic() - began) / len(METHODS)
    sittings, ended = 0, False
    while not ended:
        code, again, told = command("broken", "--timeout", str(limit / 2), "--retry", "timeout")
        failed = [line for line in told.splitlines() if line.startswith("FAILED")]
        assert all(": timeout: it took longer than --timeout" in line for line in failed), told
        assert code == bool(failed)
        ended, sittings, limit = code == 0, sittings + 1, limit * 1.1  # one that can't go on needs a longer one
    (whole, _), (broken, resumed) = kept(tmp_path / "whole"), kept(tmp_path / "broken")
    assert broken == whole
    assert len(whole) == len(METHODS) * 2
    assert sittings > 1
    assert resumed > 0
    assert numbers(again) == numbers(rows)
