"""scripts/gpu.sh: what it brings home, on the processor and cut to seconds; what fails in it stops nothing else."""

import csv
import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMALL = {  # each part, but a small piece of it
    "DEV": "cpu",
    "TESTS": "-k draws",
    "SPEED": "--batch 2 dcgan",
    "OU": "--task ou:dim=32,horizon=0.05 --method vjko:iterations=1,critic_steps=1,batch=64,pool=640,width=8",
    "GAN": "gan:loss=sngan,network=dcgan,width=4,batch=4,critic_steps=1,iterations=4,every=2",
}


def script(folder, **settings):
    """Exit code, what it said, and the folder of results."""
    words = {"LIMIT": "3000", "RUNS": str(folder / "runs"), "OMP_NUM_THREADS": "1", "GWFBENCH_DATA": str(folder)}
    done = subprocess.run(
        [ROOT / "scripts/gpu.sh", folder / "out"], env=os.environ | words | settings, capture_output=True, text=True,
        check=False, start_new_session=True,
    )  # fmt: skip
    return done.returncode, done.stdout, folder / "out"


@pytest.mark.slow
@pytest.mark.timeout(3000)  # on a busy machine; 40 seconds of the processor
def test_all_its_parts_on_the_processor(tmp_path):
    code, said, out = script(tmp_path, **SMALL)
    log = (out / "log.txt").read_text()
    assert code == 0, said + log[-5000:]
    assert [line.split(":")[0] for line in said.splitlines() if "exit code 0 after" in line] == [
        "tests", "throughput", "ou32", "sngan",
    ]  # fmt: skip
    assert "1 passed" in log
    rows = list(csv.DictReader((out / "throughput.csv").read_text().splitlines()))
    assert [(row["network"], row["role"], row["reason"]) for row in rows] == [
        ("dcgan", role, "") for role in ("iteration", "generator", "critic")
    ]
    for row in rows:
        assert row["device"] == "cpu"
        assert float(row["images"]) == pytest.approx(2 / float(row["seconds"]), rel=1e-3)
        assert float(row["tflops"]) == pytest.approx(float(row["gflop"]) / 1e3 / float(row["seconds"]), rel=1e-3)
        assert 0 < float(row["share"]) < 1.5  # of a peak that was measured a moment before, on a busy machine
    runs = list(csv.DictReader((out / "rows.csv").read_text().splitlines()))
    machines = json.loads((out / "environments.json").read_text())
    assert {machines[row["env"].removeprefix("'")]["device"] for row in runs} == {"cpu"}
    assert {row["seed"] for row in runs if row["task"].startswith("ou:dim=32")} == {str(seed) for seed in range(15)}
    assert {row["step"] for row in runs if row["method"].startswith("gan")} == {"1", "2"}
    assert list(out.glob("*.png"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_what_fails_stops_nothing_and_its_error_comes_home(tmp_path):
    wrong = {"PARTS": "throughput ou32 sngan", "OU": "--task ou --method vjko:iterations=none", "SPEED": "nothing"}
    code, said, out = script(tmp_path, **SMALL | wrong)
    log = (out / "log.txt").read_text()
    assert code == 1
    assert "throughput: FAILED, exit code 2" in said
    assert "ou32: FAILED, exit code 2" in said
    assert "sngan: exit code 0" in said
    assert "no kind nothing; expected" in log
    assert "iterations=none" in log
    assert {row["method"].split(":")[0] for row in csv.DictReader((out / "rows.csv").read_text().splitlines())} == {
        "gan"
    }
