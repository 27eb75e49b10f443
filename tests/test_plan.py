"""Plans: what is written is what is read, shards are a partition, and every bad line is named before anything runs."""

import json
import os
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import torch

from gwfbench.commands.exec import exec_
from gwfbench.commands.run import run
from gwfbench.errors import UserError
from gwfbench.runs import plan
from gwfbench.runs.order import Order
from gwfbench.store import folders

ROOT = Path(__file__).parents[1]
QUICK = ["--task", "ou:horizon=0.05", "--method", "ula", "--no-controls", "--seeds", "3,7,9"]
RUNS = 3


@pytest.fixture
def order():
    return Order.read(
        ["ou:dim=3", "gmm"], ["ula:step=0.02", "vjko:iterations=5"], "5,2,9", "cpu", "float64", "seconds=7.5"
    )


def test_a_plan_is_read_as_it_was_written(order, tmp_path):
    path = tmp_path / "p.jsonl"
    jobs = list(order.jobs())
    assert plan.write(path, jobs)
    assert plan.read(path) == jobs
    assert not plan.write(path, jobs)


def test_every_line_stands_alone(order, tmp_path):
    path, jobs = tmp_path / "p.jsonl", list(order.jobs())
    lines = plan.text(jobs).splitlines()
    for line in lines:
        assert {"task", "method", "seeds", "device", "dtype", "budget", "keys"} == set(json.loads(line))
    chosen = random.Random(0).sample(range(len(jobs)), 7)
    path.write_text("\n\n".join(lines[i] for i in chosen))  # empty lines and no end of line: plans joined by hand
    assert plan.read(path) == [jobs[i] for i in chosen]


@pytest.mark.parametrize("parts", [1, 2, 3, 5, 7, 100])
def test_shards_are_a_partition_that_spreads_every_contestant(order, parts):
    jobs = list(order.jobs())
    shards = [plan.shard(jobs, part, parts) for part in range(1, parts + 1)]
    assert Counter(job for one in shards for job in one) == Counter(jobs)
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
    for who in {(job.task, job.contestant) for job in jobs}:
        counts = [sum((job.task, job.contestant) == who for job in one) for one in shards]
        assert max(counts) - min(counts) <= 1


LINE = {
    "task": "ou:dim=3",
    "method": "ula",
    "seeds": [4],
    "device": "cpu",
    "dtype": "float32",
    "budget": {"steps": 3.0},
}
GOOD = plan.text([plan.Job.read(LINE)]).strip()
OTHER = plan.text([plan.Job.read(LINE | {"seeds": [5]})]).strip()


def changed(**change):
    return json.dumps(json.loads(GOOD) | change)


BAD = {
    "not JSON": ("{", "not JSON", "one JSON object per line"),
    "not UTF-8": (b"\xff\xfe", "not JSON", "one JSON object per line"),
    "deep": ("[" * 100_000, "not JSON", "one JSON object per line"),
    "a list": ("[]", "job []", "the values task"),
    "a number": ("3", "job 3", "the values task"),
    "a name twice": (GOOD.replace('{"task"', '{"seeds": [9], "task"'), "a name is given twice", "one JSON object"),
    "no task": (changed(task="oo"), "no task 'oo'", "one of"),
    "wrong field": (changed(task="ou:dimm=3"), "no field of 'ou' 'dimm'", "one of"),
    "no method": (changed(method="ulaa"), "no method 'ulaa'", "one of"),
    "does not fit": (changed(task="aggregation", method="ula"), "method 'ula' needs", "a method that fits"),
    "seeds": (changed(seeds=[4, 4]), "seeds [4, 4]", "different whole numbers"),
    "device": (changed(device="abacus"), "device 'abacus'", "cpu, cuda"),
    "no device": (changed(device=""), "device ''", "cpu, cuda"),
    "dtype": (changed(dtype="float8"), "dtype 'float8'", "one of float32"),
    "budget": (changed(budget={"hours": 2}), "budget hours", "seconds"),
    "budget NaN": (changed(budget={"steps": float("nan")}), "budget steps=nan", "positive"),
    "one more name": (changed(colour="red"), "job {", "the values task"),
    "keys of another version": (changed(keys=["0123456789abcdef"]), 'run keys ["0123456789abcdef"]', "this version of the code"),
    "keys of other words": (changed(seeds=[6]), "run keys", "this version of the code"),
    "one key too many": (changed(keys=[*json.loads(GOOD)["keys"], "0123456789abcdef"]), "run keys", "this version"),
    "no keys": (json.dumps(LINE), "run keys null", "this version of the code"),
    "a run twice": (OTHER, "a run of line 1 again", "each run once"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_line_is_named_and_nothing_runs(cli, tmp_path, case):
    line, got, expected = BAD[case]
    line = line if isinstance(line, bytes) else line.encode()
    (tmp_path / "p.jsonl").write_bytes(b"\n".join([OTHER.encode(), b"", line, GOOD.encode()]) + b"\n")
    code, out, err = cli("exec", "p.jsonl", "--out", "runs")
    assert (code, out) == (2, "")
    assert re.fullmatch(r"gwfbench: p\.jsonl:3: .+\n  expected: .+\n  fix: .+\n", err), err
    first, second, _ = err.splitlines()
    assert got in first
    assert expected in second
    assert not (tmp_path / "runs").exists()


def test_a_damaged_plan_is_refused_or_names_the_same_runs(order, tmp_path):
    path, rng = tmp_path / "p.jsonl", random.Random(1)
    jobs = list(order.jobs())[::4]
    good, known = plan.text(jobs).encode(), {key for job in jobs for key in plan.keys(job)}
    refused: list[str] = []
    for _ in range(150):
        bad = bytearray(good)
        for _ in range(rng.choice([1, 1, 3])):
            at, kind = rng.randrange(len(bad)), rng.random()
            if kind < 0.3:
                at = rng.choice([i for i, byte in enumerate(bad) if chr(byte).isdigit()])
                bad[at] = ord(rng.choice("0123456789"))
            elif kind < 0.6:
                bad[at] = rng.randrange(256)
            else:
                del bad[at : at + rng.choice([1, 2, 50])]
        path.write_bytes(bad)
        try:
            found = {key for job in plan.read(path) for key in plan.keys(job)}
        except UserError as error:
            refused.append(error.got)
        else:  # white space, or a budget, which is no part of a run's key
            assert found <= known
    assert len(refused) > 100
    assert all(re.match(rf"{re.escape(str(path))}:\d+: ", got) for got in refused)


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_a_plan_without_a_job_is_an_error(cli, tmp_path, text):
    (tmp_path / "p.jsonl").write_text(text)
    code, _, err = cli("exec", "p.jsonl")
    assert code == 2
    assert "p.jsonl" in err


@pytest.mark.parametrize(
    "shard", ["0/3", "4/3", "3", "1/", "/3", "-1/3", "1/3/5", "a/b", "1.0/2", "1/0", "²/3", "1/9999999999"]
)
def test_a_shard_is_i_of_n(cli, tmp_path, shard):
    (tmp_path / "p.jsonl").write_text(GOOD)
    code, _, err = cli("exec", "p.jsonl", "--shard", shard)
    assert code == 2
    assert f"--shard {shard}\n" in err


def test_files_that_cannot_be(cli, tmp_path):
    code, _, err = cli("exec", "none.jsonl")
    assert code == 2
    assert "none.jsonl" in err
    (tmp_path / "folder").mkdir()
    for words in (["exec", "folder"], ["run", *QUICK, "--plan", "folder"]):
        code, _, err = cli(*words)
        assert code == 2
        assert "folder" in err


@pytest.mark.parametrize("name", ["", "-", "/", ".", "/dev/null", "fifo", "x" * 300])
def test_what_is_no_name_of_a_file_is_refused(cli, tmp_path, name):
    """Reading /dev/stdout or a pipe, to see whether the plan is there already, waited for ever."""
    os.mkfifo(tmp_path / "fifo")
    code, _, err = cli("run", *QUICK, "--plan", name)
    assert code == 2
    assert len(err.splitlines()) == 3


def test_a_long_line_is_not_echoed_whole(cli, tmp_path):
    (tmp_path / "p.jsonl").write_text(changed(task="x" * 10**6) + "\n")
    code, _, err = cli("exec", "p.jsonl")
    assert code == 2
    assert len(err) < 2000


@pytest.mark.parametrize("seeds", ["99999999999", "9" * 30, "100001", str(2**63)])
def test_more_seeds_than_can_be_are_refused_at_once(seeds):
    with pytest.raises(UserError, match="--seeds"):
        Order.read(["ou"], ["ula"], seeds)


def test_run_with_plan_writes_it_runs_nothing_and_never_replaces_another(cli, tmp_path):
    path = tmp_path / "some/p.jsonl"
    assert cli("run", *QUICK, "--plan", "some/p.jsonl")[:2] == (0, "")
    content = path.read_bytes()
    assert len(content.splitlines()) == RUNS
    assert cli("run", *QUICK, "--plan", "some/p.jsonl")[0] == 0
    more = [*QUICK, "--method", "ula:step=0.02", "--plan", "some/p.jsonl"]
    code, _, err = cli("run", *more)
    assert code == 2
    assert "--plan some/p.jsonl" in err
    assert path.read_bytes() == content
    assert cli("run", *more, "--force")[0] == 0
    assert len(path.read_bytes().splitlines()) == 2 * RUNS
    assert [one.name for one in path.parent.iterdir()] == ["p.jsonl"]
    assert not (tmp_path / "results").exists()


def test_a_full_disk_leaves_the_old_plan(order, tmp_path, monkeypatch):
    path, jobs = tmp_path / "p.jsonl", list(order.jobs())
    plan.write(path, jobs)
    content = path.read_bytes()

    def torn(self, text, real=Path.write_text, **how):
        real(self, text[:100], **how)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", torn)
    with pytest.raises(UserError, match="No space left"):
        plan.write(path, jobs[1:], force=True)
    assert path.read_bytes() == content
    assert [one.name for one in tmp_path.iterdir()] == ["p.jsonl"]


def test_a_plan_may_be_for_a_device_that_only_another_machine_has(cli, tmp_path, monkeypatch):
    words = ["run", "--task", "ou", "--method", "vjko", "--seeds", "2", "--no-controls", "--plan", "p.jsonl"]
    assert cli(*words, "--device", "abacus")[0] == 2
    assert cli(*words, "--device", "cuda:1")[0] == 0
    (line,) = (json.loads(text) for text in (tmp_path / "p.jsonl").read_text().splitlines())
    assert line["seeds"] == [0, 1]  # together: vjko trains them in one batch there
    assert line["device"] == "cuda:1"
    for count, code in ((0, 2), (1, 2), (2, 0)):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        jobs = plan.read(tmp_path / "p.jsonl")
        if code:
            with pytest.raises(UserError, match="device cuda:1 of the plan: this machine has none"):
                plan.require_devices(jobs)
        else:
            plan.require_devices(jobs)


def test_exec_has_the_options_of_run_that_say_how():
    said = {
        "tasks",
        "methods",
        "seeds",
        "device",
        "dtype",
        "budget",
        "controls",
        "plan",
        "suite_name",
        "config_file",
        "print_config",
    }
    assert {one.name for one in exec_.params} - {"file", "shard"} == {one.name for one in run.params} - said
    assert said <= {one.name for one in run.params}


def test_a_part_without_lines_ends_well(cli, tmp_path):
    (tmp_path / "p.jsonl").write_text(GOOD)
    assert cli("exec", "p.jsonl", "--shard", "2/2")[0] == 0
    assert not (tmp_path / "results").exists()


def rows(folder):
    """All that a number depends on and the number; not when, how long, and which attempt."""
    table = pd.read_csv(folder / "rows.csv")
    kept = table.drop(
        columns=["attempt", "seconds", "sample_seconds", "judge_seconds", "unit", "memory", "energy", "env"]
    )
    return kept.sort_values(["task", "method", "seed", "step", "metric"]).reset_index(drop=True)


@pytest.mark.slow
def test_three_shards_in_three_processes_under_one_out_equal_one_run(cli, tmp_path):
    assert cli("run", *QUICK, "--plan", "p.jsonl")[0] == 0
    parts = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "gwfbench",
                "exec",
                "p.jsonl",
                "--shard",
                f"{part}/3",
                "--out",
                "parts",
                "--no-isolate",
            ],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for part in (1, 2, 3)
    ]
    told = [part.communicate(timeout=250)[1] for part in parts]
    assert [part.returncode for part in parts] == [0, 0, 0], told
    assert cli("run", *QUICK, "--out", "whole", "--no-isolate")[0] == 0
    for name in ("parts", "whole"):
        assert cli("report", "--out", name, "--write", f"kept-{name}")[0] == 0
    pd.testing.assert_frame_equal(rows(tmp_path / "kept-parts"), rows(tmp_path / "kept-whole"))
    assert cli("exec", "p.jsonl", "--out", "parts", "--no-isolate")[0] == 0
    assert [run.status for run in folders.attempts(tmp_path / "parts")[0]] == ["ok"] * RUNS  # each was run once
