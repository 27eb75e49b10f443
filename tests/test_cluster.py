"""Submitting to Slurm: words and files without it, and, marked `slurm`, arrays on a real one (make test-slurm)."""

import functools
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from gwfbench.cli import main
from gwfbench.errors import UserError
from gwfbench.runs import order as session
from gwfbench.runs import plan
from gwfbench.runs import slurm as cluster
from gwfbench.runs.options import Options
from gwfbench.runs.scheduler import perform
from gwfbench.store import folders
from gwfbench.store.rows import tidy

ROOT = Path(__file__).parents[1]
ARRAY = ["--shards", "3", "--parallel", "2", "--time", "30"]


def slurm(test):
    reason = "needs a real Slurm: make test-slurm"
    return pytest.mark.slurm(pytest.mark.skipif("GWFBENCH_SLURM" not in os.environ, reason=reason)(test))


@pytest.fixture
def cli(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["gwfbench", *words])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        done = capfd.readouterr()
        return code, done.out, done.err

    return call


@pytest.fixture
def jobs(tmp_path):
    """Six runs of a plan, p.jsonl."""
    order = session.Order.read(["ou:horizon=0.05"], ["ula", "ula:step=0.02"], 3, controls=False)
    plan.write(tmp_path / "p.jsonl", order.jobs())
    return list(order.jobs())


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Slurm's commands as files that keep their words; `sbatch` and `squeue` answer what the test wrote."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sbatch", "squeue", "srun", "scontrol"):
        file = folder / name
        file.write_text(
            f'#!/bin/sh\necho "$*" >> {folder}/{name}.words\ncat {folder}/{name}.err >&2\ncat {folder}/{name}.out 2>/dev/null && exit 0\nexit 1\n'
        )
        file.chmod(0o755)
        (folder / f"{name}.err").write_text("")
    (folder / "squeue.out").write_text("")
    (folder / "sbatch.out").write_text("Submitted batch job 12\n")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90", 90),
        ("90:30", 91),
        ("1:30:00", 90),
        ("0:00:01", 1),
        ("4:00:00", 240),
        ("2-0", 2880),
        ("2-12", 3600),
        ("2-12:30", 3630),
        ("1-0:0:1", 1441),
    ],
)
def test_minutes_of_slurm_s_times(text, expected):
    assert cluster.minutes(text) == expected


@pytest.mark.parametrize("text", ["", "0", "0:00", "x", "1h", "-5", "1:2:3:4", "1.5", "1-", "٣", "5\n"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(UserError, match="a time as Slurm writes it"):
        cluster.minutes(text)


BAD = {
    "shards": (["--shards", "0"], "0 is not in the range"),
    "time": ([*ARRAY, "--time", "soon"], "--time soon"),
    "mem": ([*ARRAY, "--mem", "4 GB"], "--mem 4 GB"),
    "partition": ([*ARRAY, "--partition", "a b"], "--partition a b"),
    "extra": ([*ARRAY, "--slurm", "=x"], "--slurm =x"),
    "extra line": ([*ARRAY, "--slurm", "account=me\n#SBATCH --array=1"], "--slurm account=me"),
    "extra without value": ([*ARRAY, "--slurm", "account="], "--slurm account="),
    "extra of ours": ([*ARRAY, "--slurm", "array=0-9"], "not array"),
    "extra with a name": ([*ARRAY, "--slurm", "cpus_per_task=3"], "use --cpus"),
    "extra twice": ([*ARRAY, "--slurm", "account=a", "--slurm", "account=b"], "given twice"),
    "exec's option": ([*ARRAY, "--", "--thread", "2"], "No such option"),
    "exec's value": ([*ARRAY, "--", "--threads", "x"], "not a valid integer"),
    "exec's argument": ([*ARRAY, "--", "other.jsonl"], "unexpected extra argument"),
    "exec's out": ([*ARRAY, "--", "--out", "elsewhere"], "give --out before the --"),
    "exec's shard": ([*ARRAY, "--", "--shard", "1/2"], "give --shards"),
    "exec's force": ([*ARRAY, "--", "--force"], "submit under another --out"),
    "metric": ([*ARRAY, "--metric", "beauty"], "no metric 'beauty'"),
    "no plan": (["--shards", "1", "--out", "o", "--wait"], None),
}


@pytest.mark.parametrize("case", BAD)
def test_mistakes_are_told_before_anything_is_submitted(cli, jobs, commands, tmp_path, case):
    words, said = BAD[case]
    code, out, err = cli("submit", "p.jsonl" if said else "none.jsonl", *words)
    assert (code, out) == (2, "")
    assert (said or "none.jsonl: No such file") in err
    assert not (commands / "sbatch.words").exists()


def test_without_slurm_or_submitit_it_says_so_and_what_to_do(cli, jobs, commands, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    code, _, err = cli("submit", "p.jsonl", *ARRAY)
    assert code == 2
    assert "submitit is not installed\n  expected: the package submitit\n  fix: pip install submitit" in err
    monkeypatch.setenv("PATH", "")
    code, _, err = cli("submit", "p.jsonl", *ARRAY)
    assert code == 2
    assert "no sbatch, squeue, srun, scontrol on this machine" in err
    assert "exec FILE --shard i/n does a part anywhere" in err


def test_the_array_asks_for_what_the_user_asked(cli, jobs, commands, tmp_path):
    words = ["--partition", "long", "--time", "2:00:00", "--gpus", "1", "--cpus", "3", "--mem", "4G"]
    more = ["--slurm", "account=me", "--slurm", "exclusive", "--", "--threads", "3"]
    code, out, _ = cli("submit", "p.jsonl", *ARRAY, *words, *more)
    assert code == 0
    assert "array 12: 3 jobs of 6 runs" in out
    assert "squeue --jobs 12" in out
    text = (tmp_path / "results/runs/slurm/12_submission.sh").read_text()
    wanted = ["array=0-2%2", "partition=long", "time=120", "gpus-per-node=1", "cpus-per-task=3", "mem=4G", "account=me"]
    for line in (*wanted, "exclusive", "requeue", "job-name=gwfbench", "open-mode=append"):
        assert f"#SBATCH --{line}\n" in text
    assert re.search(r"^srun .* --cpus-per-task=3 .*-m submitit", text, re.M)
    assert sys.executable in text


def test_slurm_s_own_refusal_is_told(cli, jobs, commands):
    (commands / "sbatch.out").unlink()
    (commands / "sbatch.err").write_text("sbatch: error: invalid partition specified: long\n")
    code, _, err = cli("submit", "p.jsonl", *ARRAY, "--partition", "long")
    assert code == 2
    assert "invalid partition specified: long" in err
    (commands / "squeue.out").unlink()
    (commands / "squeue.err").write_text("slurm_load_jobs error: Unable to contact slurm controller\n")
    code, _, err = cli("submit", "p.jsonl", *ARRAY)
    assert code == 2
    assert "squeue: slurm_load_jobs error: Unable to contact slurm controller" in err


def test_the_same_command_submits_what_is_neither_finished_nor_queued(cli, jobs, commands, tmp_path):
    out = tmp_path / "results/runs"
    assert cli("submit", "p.jsonl", *ARRAY)[0] == 0
    # job 12_1 has ended with nothing done, 12_0 waits, 12_2 runs; the other is somebody else's work of ours
    (commands / "squeue.out").write_text("12_0|PENDING|Resources\n12_2|RUNNING|None\n7|RUNNING|None\n")
    state = cluster.look(jobs, out)
    assert state.left == plan.shard(jobs, 2, 3)
    assert set(state.queued.values()) == {"12_0", "12_2"}
    (commands / "sbatch.out").write_text("Submitted batch job 13\n")
    code, told, _ = cli("submit", "p.jsonl", *ARRAY)
    assert code == 0
    assert "array 13: 2 jobs of 2 runs" in told
    (commands / "squeue.out").write_text(
        "12_0|PENDING|Resources\n12_2|RUNNING|None\n13_[0-1]|PENDING|None\n13_0|PENDING|None\n13_1|PENDING|None\n"
    )
    before = (commands / "sbatch.words").read_text()
    code, told, _ = cli("submit", "p.jsonl", *ARRAY)
    assert code == 0
    assert "squeue --jobs 12,13" in told
    assert (commands / "sbatch.words").read_text() == before
    (commands / "squeue.out").write_text("")
    assert cluster.look(jobs, out).left == jobs
    for _ in perform(jobs[:1], out, lambda *_: None, Options()):
        pass
    state = cluster.look(jobs, out)
    assert [run.identity.seed for run in state.finished] == [0]
    assert state.left == jobs[1:]
    runs, strange = folders.attempts(out)
    assert (len(runs), strange) == (1, [])  # slurm/ is no attempt, and no stranger


def test_waiting_ends_when_the_queue_has_none_and_bears_a_controller_that_is_away(commands, monkeypatch):
    (commands / "squeue.out").write_text("12_0|PENDING|Priority\n12_1|RUNNING|None\n9|RUNNING|None\n")
    later = iter(["away", "12_1|RUNNING|None\n9|RUNNING|None\n", "9|RUNNING|None\n"])

    def sleep(seconds):
        text = next(later)
        if text == "away":
            (commands / "squeue.out").unlink()
            (commands / "squeue.err").write_text("Unable to contact")
        else:
            (commands / "squeue.out").write_text(text)

    monkeypatch.setattr(time, "sleep", sleep)
    told = []
    cluster.wait(["12"], told.append)
    assert told == [
        "array 12: 1 pending (Priority), 1 running",
        "array 12: squeue: Unable to contact",
        "array 12: 1 running",
    ]


def test_a_shard_gives_exec_s_code_and_what_else_ends_it_is_an_error():
    pytest.importorskip("submitit")
    assert cluster.Shard(["--help"])() == 0
    with pytest.raises(RuntimeError, match="exec ended with 2"):
        cluster.Shard(["p.jsonl", "--shard", "3"])()


def test_a_shard_s_exec_outlives_submitit_s_signal_and_is_stopped_at_a_checkpoint(monkeypatch):
    pytest.importorskip("submitit")
    shard = cluster.Shard(["words"])
    lines = "import sys; print(flush=True)\nfor line in sys.stdin: print(line, end='', flush=True)"  # answers
    child = functools.partial(subprocess.Popen, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    monkeypatch.setattr(subprocess, "Popen", lambda _: child([sys.executable, "-c", lines]))

    def preempt(*_):
        if shard.child is None:
            return  # it comes again
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        assert shard.child.stdout.readline()
        shard.child.send_signal(signal.SIGUSR2)
        shard.child.stdin.write("alive\n")
        shard.child.stdin.flush()
        assert shard.child.stdout.readline() == "alive\n"  # Slurm signals the whole tree
        again = shard.checkpoint()
        assert again.function == cluster.Shard(["words"])
        assert shard.child.poll() == -signal.SIGTERM
        raise SystemExit

    before = signal.signal(signal.SIGALRM, preempt)
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
    try:
        with pytest.raises(SystemExit):
            shard()
    finally:
        signal.signal(signal.SIGALRM, before)
        for pipe in (shard.child.stdin, shard.child.stdout):
            pipe.close()


# On a real Slurm.


@pytest.fixture
def long(tmp_path):
    """Six runs of some seconds each, in p.jsonl."""
    order = session.Order.read(["ou:horizon=0.2"], ["vjko:iterations=60,pool=4096"], 6, controls=False)
    plan.write(tmp_path / "p.jsonl", order.jobs())
    return list(order.jobs())


def until(what, seconds=240.0):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.2)


def control(*words):
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def in_its_middle(out, jobs, number):
    """Wait until the first run of this job of the array has ended and its second has judged a law."""
    first, second = (job.identity(job.seeds[0]).key for job in plan.shard(jobs, number + 1, 3))
    until(lambda: list(out.glob(f".partial-{second}-*/rows.jsonl")))
    assert [run.status for run in folders.of_key(out, first)] == ["ok"]


def told(out):
    return "".join(f"== {path.name}\n{path.read_text()}" for path in sorted((out / "slurm").glob("*_log.*")))


def rows(runs):
    volatile = ["attempt", "seconds", "sample_seconds", "judge_seconds", "unit", "memory", "energy", "env"]
    return tidy(runs).drop(columns=volatile).sort_values(["seed", "step", "metric"]).reset_index(drop=True)


def require_six(out, jobs):
    """All six runs, each finished once, whatever was stopped on the way."""
    ended = [run for run in folders.attempts(out)[0] if run.status != "killed"]
    assert sorted(run.identity.seed for run in ended) == [0, 1, 2, 3, 4, 5], told(out)
    assert {run.status for run in ended} == {"ok"}
    return ended


def submit(cli, *words):
    code, out, _ = cli("submit", "p.jsonl", "--out", "runs", *ARRAY, *words)
    assert code == 0
    return out.partition("array ")[2].partition(":")[0]


@slurm
def test_a_job_that_is_requeued_in_its_middle_goes_on_and_no_run_is_made_twice(cli, long, tmp_path):
    out = tmp_path / "runs"
    array = submit(cli)
    in_its_middle(out, long, 0)
    control("scontrol", "requeue", f"{array}_0")
    assert control("squeue", "--noheader", "--array", f"--jobs={array}_0", "--format=%T").strip() != "RUNNING"
    code, board, err = cli("submit", "p.jsonl", "--out", "runs", *ARRAY, "--wait")
    assert code == 0, told(out)
    assert "6/6" in board
    log = (out / f"slurm/{array}_0_0_log.err").read_text()
    assert log.count("seed 0: finished before") == 1
    assert log.count("seed 0: starts") == 1
    assert log.count("seed 3: starts") == 2
    ended = require_six(out, long)
    whole = [run for runs in perform(long, tmp_path / "whole", lambda *_: None, Options()) for run in runs]
    pd.testing.assert_frame_equal(rows(ended), rows(whole), rtol=1e-5)
    print(f"\n{err}{board}{told(out)}")


@slurm
def test_a_requeued_run_goes_on_from_its_checkpoint(cli, tmp_path):
    order = session.Order.read(["ou:horizon=0.2"], ["ula:step=0.0004"], 6, controls=False)
    plan.write(tmp_path / "p.jsonl", order.jobs())
    out = tmp_path / "runs"
    array = submit(cli)
    in_its_middle(out, list(order.jobs()), 0)
    control("scontrol", "requeue", f"{array}_0")
    code, board, err = cli("submit", "p.jsonl", "--out", "runs", *ARRAY, "--wait")
    assert code == 0, told(out)
    ended = require_six(out, list(order.jobs()))
    assert {run.identity.seed: run.resumed for run in ended} == {0: 0, 1: 0, 2: 0, 3: 1, 4: 0, 5: 0}
    (again,) = [run for run in ended if run.identity.seed == 3]
    ((whole,),) = perform(list(order.jobs())[3:4], tmp_path / "whole", lambda *_: None, Options())
    pd.testing.assert_frame_equal(rows([again]), rows([whole]))
    print(f"\n{err}{board}{told(out)}")


@slurm
@pytest.mark.parametrize("name", ["USR2", "TERM"])
def test_a_job_out_of_time_or_preempted_puts_itself_back(cli, long, tmp_path, name):
    """USR2 is what submitit asks Slurm to send before the end of time; TERM what preemption sends."""
    out = tmp_path / "runs"
    array = submit(cli)
    in_its_middle(out, long, 1)
    control("scancel", f"--signal={name}", f"{array}_1")
    assert cli("submit", "p.jsonl", "--out", "runs", *ARRAY, "--wait")[0] == 0, told(out)
    assert (
        "Requeued job"
        in (out / f"slurm/{array}_1_0_log.out").read_text() + (out / f"slurm/{array}_1_0_log.err").read_text()
    )
    require_six(out, long)


@slurm
def test_a_real_preemption(cli, long, tmp_path):
    out = tmp_path / "runs"
    submit(cli)
    in_its_middle(out, long, 0)
    urgent = control(
        "sbatch", "--parsable", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=sleep 3"
    )
    assert cli("submit", "p.jsonl", "--out", "runs", *ARRAY, "--wait")[0] == 0, told(out)
    assert urgent.strip() not in control("squeue", "--noheader", "--format=%i")
    text = told(out)
    assert text.count("Requeued job") + text.count("PREEMPTION") >= 1, text
    require_six(out, long)


@slurm
def test_a_cancelled_job_stays_away_and_the_same_command_submits_it_again(cli, long, tmp_path):
    out = tmp_path / "runs"
    array = submit(cli)
    in_its_middle(out, long, 0)
    control("scancel", f"{array}_0")
    until(lambda: f"{array}_0" not in control("squeue", "--noheader", "--array", "--format=%i").split())
    code, told_, err = cli("submit", "p.jsonl", "--out", "runs", *ARRAY)
    assert code == 0
    assert re.search(r"\d runs are finished, \d queued, 1 to submit", err), err
    assert "1 jobs of 1 runs" in told_
    assert cli("submit", "p.jsonl", "--out", "runs", *ARRAY, "--wait")[0] == 0, told(out)
    require_six(out, long)


@slurm
def test_slurm_refuses_an_unknown_partition(cli, jobs):
    code, _, err = cli("submit", "p.jsonl", *ARRAY, "--partition", "nowhere")
    assert code == 2
    assert "invalid partition" in err
