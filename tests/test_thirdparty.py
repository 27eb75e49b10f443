"""The example package in tests/thirdparty: installed, listed, run and checked from outside, as its users would."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The command line in a process that sees the installed package and this checkout."""
    folder = tmp_path_factory.mktemp("thirdparty")
    source, place = folder / "source", folder / "place"
    shutil.copytree(ROOT / "tests" / "thirdparty", source)  # a build leaves its traces beside the source
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--disable-pip-version-check", "--target", place, source], check=True)

    def call(*words):
        environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(place)]), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "gwfbench", *words]
        return subprocess.run(command, capture_output=True, text=True, env=environ, cwd=folder, check=False)

    call.place = place
    return call


def test_it_is_listed(installed):
    done = installed("list", "--format", "json")
    found = {one["name"]: one for one in map(json.loads, done.stdout.splitlines())}
    method, task = found["acme_particles"], found["acme_shift"]
    assert (method["origin"], method["problem"], task["origin"], task["problem"]) == ("acme-flows", None) * 2
    assert "acme_shift" in method["fits"]
    assert {"acme_particles", "ula"} <= set(task["fits"])
    assert method["fields"]["particles"]["doc"] == "how many there are, and can be drawn"


def test_it_runs_and_is_good(installed):
    done = installed(
        "run", "--task", "acme_shift:dim=3", "--method", "acme_particles", "--seeds", "1", "--format", "json"
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    value = {row["method"]: row["value"] for row in rows if row["metric"] == "symkl"}
    assert value["exact"] < value["acme_particles"] < 0.1 * value["still"]


def test_it_passes_every_check(installed):
    done = installed("check", "method:acme_particles", "--task", "acme_shift", "--format", "json")
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stdout
    assert {one["check"]: one["got"] for one in outcomes if one["status"] == "skipped"} == {
        "log det and inverse are those of the push": "its laws have no log_det or inverse"
    }
    done = installed("check", "task:acme_shift", "--method", "acme_particles:particles=500")
    assert done.returncode == 0, done.stdout
    assert "14 passed, 0 failed, 0 skipped" in done.stdout


def test_what_is_broken_says_why_and_the_rest_works(installed):
    package, (info,) = installed.place / "acme_flows", installed.place.glob("acme_flows-*.dist-info")
    good = (package / "particles.py").read_text()
    broken = {
        "torn": (good + "\ndef (", "SyntaxError"),
        "lonely": (
            good.replace("import Tensor", "import Tensor\nimport acme_engine"),
            "it imports acme_engine, not installed",
        ),
        "clockless": (good.replace("    clock: ClassVar", "    # clock"), "has no class variable clock"),
        "loud": (good + "\nraise RuntimeError('boom')", None),
    }
    entries = (info / "entry_points.txt").read_text()
    extra = (
        "".join(f"{name} = acme_flows.{name}:Particles\n" for name in broken) + "ula = acme_flows.particles:Particles\n"
    )
    try:
        for name, (text, _) in broken.items():
            (package / f"{name}.py").write_text(text)
        (info / "entry_points.txt").write_text(entries.replace("[gwfbench.methods]\n", f"[gwfbench.methods]\n{extra}"))
        found = {one["name"]: one for one in map(json.loads, installed("list", "--format", "json").stdout.splitlines())}
        for name, (_, problem) in broken.items():
            assert (problem or "") in (found[name]["problem"] or ""), name
        assert "the name is taken twice, by gwfbench and by acme-flows" in found["ula"]["problem"]
        done = installed("check", "method:loud")
        assert done.returncode == 2
        assert "method 'loud' of acme-flows can't be imported: RuntimeError: boom" in done.stderr
        done = installed("run", "--task", "acme_shift", "--method", "acme_particles", "--seeds", "1", "--no-controls")
        assert done.returncode == 0, done.stderr
    finally:
        (info / "entry_points.txt").write_text(entries)
