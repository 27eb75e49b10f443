"""Methods that misbehave in every way: one row each, the others go on, the command ends, nothing of it is left."""

import importlib.util
import os
import subprocess
import time
from pathlib import Path

import pytest

from gwfbench.store import folders

spec = importlib.util.spec_from_file_location("villains", Path(__file__).with_name("villains.py"))
villains = importlib.util.module_from_spec(spec)
spec.loader.exec_module(villains)
VILLAINS = villains.VILLAINS
STATUSES = {"ok", "diverged", "budget", "timeout", "oom", "error", "killed", "skipped"}
NOT_ALONE = ("workers", "led_workers", "slow", "never_closed")


@pytest.fixture(scope="module")
def plugins(tmp_path_factory):
    return villains.install(tmp_path_factory.mktemp("dist"))


def go(plugins, out, methods, *words, seconds):
    """The attempts by method, and what the command said; nothing of it is left."""
    chosen = [word for method in methods for word in ("--method", method)]
    name = f"methods-{os.getpid()}-{time.monotonic_ns()}"
    process = villains.command(
        plugins, out, *chosen, "--seeds", "1", *words, name=name, stderr=subprocess.PIPE, text=True
    )
    try:
        said = process.communicate(timeout=seconds)[1]
    finally:
        process.kill()
    assert not villains.left(name)
    assert "Traceback" not in said
    runs, strange = folders.attempts(out)
    assert not strange
    assert sorted(run.identity.method for run in runs) == sorted(methods), said  # one row each
    return {run.identity.method: run for run in runs}, said


def values(run):
    return [(row.step, row.metric, row.value, row.se) for row in run.rows]


@pytest.mark.timeout(600)  # on a busy machine
def test_every_villain_has_one_row_and_the_others_go_on(plugins, tmp_path):
    methods = [name for name in VILLAINS if name not in NOT_ALONE]
    assert len(methods) >= 40
    runs, said = go(plugins, tmp_path, methods, "--jobs", "4", "--timeout", "8", seconds=400)
    wrong = {n: (r.status, r.reason) for n, r in runs.items() if r.status not in VILLAINS[n][1]}
    assert not wrong
    assert {run.status for run in runs.values()} <= STATUSES
    for name, run in runs.items():
        assert len(run.reason) < 3000
        if run.status == "ok":
            assert values(run) == values(runs["good"]), name
    for name in ("garbage", "not_an_object", "forged", "forged_clock", "endless_line"):
        assert "channel" in runs[name].reason, name
    assert "KeyboardInterrupt" in runs["interrupts"].reason
    assert "bogus" not in said
    lines = [line for line in said.splitlines() if "that it had left running" in line]
    leaves = ("session", "daemon", "c_fork", "no_environment")
    found = [name for name in leaves if any(f"tiny {name} seed 0: ended" in line for line in lines)]
    assert len(found) >= 3  # two that end at once: what both have left is told of the first


def test_a_budget_of_seconds_ends_what_does_not_hear(plugins, tmp_path):
    """Without --timeout: the clock outside ends it, and it is no finished run."""
    deaf = ["swallows", "sleeps_in_del", "blocks_all", "stops_itself", "becomes_sleep", "stops_group"]
    methods = ["good", "never_closed", *deaf]
    runs, _ = go(plugins, tmp_path, methods, "--jobs", "4", "--budget", "seconds=1,steps=3", seconds=240)
    assert runs["good"].status == "ok"
    assert runs["never_closed"].status == "budget"  # it gave its laws; that it does not let go is no loss
    assert {name: runs[name].status for name in deaf} == dict.fromkeys(deaf, "timeout")
    for name in deaf:
        assert "budget of 1 s" in runs[name].reason or name == "becomes_sleep"
