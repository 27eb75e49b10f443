"""The example package in tests/thirdparty, beside broken ones: installed, listed, run and checked as by its users."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gwfbench.cli import main
from gwfbench.plugins import registry

ROOT = Path(__file__).parents[1]
GOOD = (ROOT / "tests" / "thirdparty" / "acme_flows" / "particles.py").read_text()
BROKEN = {  # name: source, and why it is unavailable; None: that shows when it is imported
    "torn": (GOOD + "\ndef (", "SyntaxError"),
    "lonely": (
        GOOD.replace("import Tensor", "import Tensor\nimport acme_engine"),
        "it imports acme_engine, which is not installed",
    ),
    "clockless": (GOOD.replace("    clock: ClassVar", "    # clock"), "has no class variable clock"),
    "loud": (GOOD + "\nraise RuntimeError('boom')", None),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where pip has installed the package, with broken plug-ins added, one of them under a name of ours."""
    folder = tmp_path_factory.mktemp("thirdparty")
    source, place = folder / "source", folder / "place"
    shutil.copytree(ROOT / "tests" / "thirdparty", source)  # a build leaves its traces beside the source
    entries = '[project.entry-points."gwfbench.methods"]\nula = "acme_flows.particles:Particles"\n'
    for name, (text, _) in BROKEN.items():
        (source / "acme_flows" / f"{name}.py").write_text(text)
        entries += f'{name} = "acme_flows.{name}:Particles"\n'
    project = source / "pyproject.toml"
    project.write_text(project.read_text().replace('[project.entry-points."gwfbench.methods"]\n', entries))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--no-compile", "--disable-pip-version-check", "--target", place, source], check=True)
    return place


@pytest.fixture
def cli(place, tmp_path, monkeypatch, capsys):
    """The command line in this process, which sees the package; gives exit code, rows of JSON, stderr."""
    monkeypatch.syspath_prepend(place)
    monkeypatch.chdir(tmp_path)
    registry.plugins.cache_clear()

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["gwfbench", *words, "--format", "json"])
        with pytest.raises(SystemExit) as end:
            main()
        done = capsys.readouterr()
        return end.value.code, [json.loads(line) for line in done.out.splitlines()], done.err

    yield call
    monkeypatch.undo()
    registry.plugins.cache_clear()


@pytest.mark.slow
def test_it_is_listed_in_another_process_and_the_broken_say_why(place):
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(place)])}
    command = [sys.executable, "-m", "gwfbench", "list", "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, cwd=place, check=True)
    found = {one["name"]: one for one in map(json.loads, done.stdout.splitlines())}
    method, task = found["acme_particles"], found["acme_shift"]
    assert (method["origin"], method["problem"], task["origin"], task["problem"]) == ("acme-flows", None) * 2
    assert "acme_shift" in method["fits"]
    assert {"acme_particles", "vjko"} <= set(task["fits"])
    assert method["fields"]["particles"]["doc"] == "number of particles; a law has no more points than these"
    assert (method["fields"]["particles"]["type"], method["fields"]["particles"]["range"]) == ("int", "at least 1")
    assert task["fields"]["dim"]["range"] == "from 1 to 100"
    for name, (_, problem) in BROKEN.items():
        assert found[name]["problem"] is problem or problem in found[name]["problem"]
    assert "the name is taken twice, by gwfbench and by acme-flows" in found["ula"]["problem"]


def test_it_runs_beside_broken_ones_and_is_good(cli):
    words = ["--task", "acme_shift:dim=3", "--method", "acme_particles", "--seeds", "1"]
    code, rows, err = cli("run", *words)
    assert code == 0, err
    value = {row["method"]: row["value"] for row in rows if row["metric"] == "symkl"}
    assert value["exact"] < value["acme_particles"] < 0.1 * value["still"]


@pytest.mark.slow
def test_it_passes_every_check(cli):
    code, outcomes, err = cli("check", "method:acme_particles", "--task", "acme_shift")
    assert code == 0, err
    assert {one["check"]: one["got"] for one in outcomes if one["status"] == "skipped"} == {
        "log det and inverse are those of the push": "its laws have no log_det or inverse"
    }


def test_its_task_passes_every_check_beside_all_that_can_be_used(cli):
    code, outcomes, err = cli("check", "task:acme_shift:dim=3")
    assert code == 0, err
    assert {one["partner"] for one in outcomes} >= {"", "acme_particles", "vjko", "loud"}
    (skipped,) = (one for one in outcomes if one["status"] == "skipped")
    assert (skipped["partner"], "RuntimeError: boom" in skipped["got"]) == ("loud", True)


def test_one_that_fails_when_imported_says_so(cli):
    code, _, err = cli("check", "method:loud")
    assert code == 2
    assert "'loud'" in err
    assert "RuntimeError: boom" in err
