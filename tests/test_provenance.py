"""What the code hash sees: every way in which a module can depend on another, or on a data file."""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gwfbench import metrics, provenance, registry

ROOT = Path(__file__).parents[1]
FAR = "RATE = 0.5\n"


@pytest.fixture
def now(tmp_path, monkeypatch):
    """The hash of a module of a package that is made of these files; called again, of what they are then."""
    package = tmp_path / "flows_to_hash"

    def hashed(module="method", **files):
        for name, text in ({"__init__": ""} | files).items():
            path = package / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        for cached in (provenance._source, provenance._data, provenance._beside):
            cached.cache_clear()
        for loaded in [name for name in sys.modules if name.startswith("flows_to_hash")]:
            del sys.modules[loaded]
        return provenance.code_hash(f"flows_to_hash.{module}")

    monkeypatch.syspath_prepend(tmp_path)
    hashed.folder = package
    yield hashed
    hashed()
    for cached in (provenance._source, provenance._data, provenance._beside):
        cached.cache_clear()


@pytest.mark.parametrize(
    "text",
    [
        "from flows_to_hash import far\n",
        "import flows_to_hash.far\n",
        "from flows_to_hash.far import RATE\n",
        "from . import far\n",
        "from .far import *\n",
        "def f():\n    from .far import RATE\n    return RATE\n",
        "class A:\n    if True:\n        import flows_to_hash.far as g\n",
        "import importlib\ng = importlib.import_module('flows_to_hash.far')\n",
        "from importlib import import_module\ng = import_module('.far', __package__)\n",
        "NAME = 'flows_to_hash.far'\n",
        "import flows_to_hash\nrate = lambda: flows_to_hash.far.RATE\n",
        "try:\n    from flows_to_hash.far import RATE\nexcept ImportError:\n    RATE = 1\n",
    ],
)
def test_it_sees_an_import_however_it_is_written(now, text):
    first = now(method=text, far=FAR, unrelated="x = 1\n")
    assert now(unrelated="x = 2\n") == first
    assert now(far="RATE = 0.9\n") != first
    assert now(far=FAR) == first


def test_it_sees_two_imports_away_and_through_an_init_that_passes_names_on(now):
    first = now(method="from flows_to_hash.near import f\n", near="from flows_to_hash import RATE\nf = 1\n",
                __init__="from .far import RATE\n", far=FAR)  # fmt: skip
    assert now(__init__="from .far import RATE\n", far="RATE = 0.9\n") != first
    assert now(__init__="from .far import RATE\n", far=FAR) == first


def test_it_sees_the_init_of_a_stranger_s_package(now):
    first = now(method="import flows_to_hash.near\n", near="", __init__="RATE = 0.5\n")
    assert now(__init__="RATE = 0.9\n") != first


@pytest.mark.slow
def test_it_sees_a_stranger_s_module_beside_the_plug_in_but_no_installed_one(now, tmp_path):
    helper = tmp_path / "rates_to_hash.py"
    helper.write_text(FAR)
    first = now(method="import rates_to_hash\nimport torch\nimport click\nimport json\n")
    assert not {"torch", "click", "json"} & set(provenance._source("flows_to_hash.method")[1])
    helper.write_text("RATE = 0.9\n")
    assert now() != first


@pytest.mark.parametrize(
    "text",
    [
        "from importlib.resources import files\nF = files('flows_to_hash') / 'data' / 'small'\n",
        "from importlib.resources import files\nF = files('flows_to_hash').joinpath('data', 'small', 'a.csv')\n",
        "NAME = 'data/small/a.csv'\n",
        "def read(name):\n    return open(f'data/small/{name}.csv')\n",
        "from pathlib import Path\nread = lambda name: Path(__file__).parent / 'data' / name / 'a.csv'\n",
        "from pathlib import Path\nread = lambda name: (Path(__file__).parent / 'data').joinpath('small', name)\n",
    ],
)
def test_it_sees_the_data_files_that_a_module_names(now, text):
    data = now.folder / "data/small"
    data.mkdir(parents=True)
    (data / "a.csv").write_text("1\n")
    (data / "README.md").write_text("a\n")
    (now.folder / "other.csv").write_text("1\n")
    first = now(method=text)
    (now.folder / "other.csv").write_text("2\n")
    (data / "README.md").write_text("b\n")
    assert now() == first
    (data / "a.csv").write_text("2\n")
    assert now() != first
    (data / "a.csv").write_text("1\n")
    assert now() == first


def test_our_tasks_cover_their_data_and_others_have_none():
    held = {name: provenance._data(task.module) for name, task in registry.plugins("task").items()}
    assert list(held["aggregation_diffusion"]) == [
        "gwfbench.tasks.aggregation_diffusion:data/aggregation_diffusion.npz"
    ]
    kept = {path.name for path in (ROOT / "gwfbench/data/blr").iterdir() if path.suffix != ".md"}
    assert {name.rpartition("/")[2] for name in held["blr"]} == kept
    assert held["ou"] == held["gmm"] == {}


def test_a_method_s_hash_covers_the_loop_and_the_controls_the_protocol():
    assert {"gwfbench.minmax", "gwfbench.nn.mlp"} <= set(provenance._source("gwfbench.baselines.vjko")[1])
    assert "gwfbench.protocol" in provenance._source("gwfbench.controls")[1]


def test_a_metric_s_hash_is_of_its_own_module_and_what_that_imports():
    known = metrics.known()
    assert provenance.metric_code(known["symkl"]) == provenance.code_hash("gwfbench.metrics.density")
    assert provenance.metric_code(known["symkl"]) != provenance.metric_code(known["mmd"])
    assert "gwfbench.metrics.moments" in provenance._source("gwfbench.metrics.density")[1]


def test_the_inits_that_are_not_hashed_hold_names_only():
    for path in (ROOT / "tasks", ROOT / "baselines", ROOT / "gwfbench/nn"):
        body = ast.parse((path / "__init__.py").read_text()).body
        assert all(isinstance(node, ast.Expr | ast.Import | ast.ImportFrom) for node in body), path


@pytest.mark.slow
def test_the_stale_experiment_on_a_copy_of_the_checkout(tmp_path):
    """Run; edit an unrelated module: not run again; edit a constant two imports away: stale, and run again."""
    for part in ("gwfbench", "tasks", "baselines"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__", "blr"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    words = "run --task ou:horizon=0.05 --method vjko:iterations=2,pool=2048 --seeds 1 --no-controls --format json"

    def go(*more):
        done = subprocess.run(
            [sys.executable, "-m", "gwfbench", *words.split(), *more],
            cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path), "PATH": ""}, check=True,
        )  # fmt: skip
        return {json.loads(line)["attempt"] for line in done.stdout.splitlines()}

    first = go()
    assert len(first) == 1
    unrelated, helper = tmp_path / "gwfbench/finite_volume.py", tmp_path / "gwfbench/nn/stacked.py"
    assert "gwfbench.nn.stacked" not in provenance._source("gwfbench.baselines.vjko")[1]
    unrelated.write_text(unrelated.read_text() + "\nEDITED = 1\n")
    assert go() == first
    helper.write_text(helper.read_text() + "\nEDITED = 1\n")
    assert go().isdisjoint(first)


def test_a_folder_of_runs_is_no_change_of_the_checkout_and_a_new_method_is(tmp_path, monkeypatch):
    def git(*words):
        subprocess.run(["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a", *words], check=True)

    for folder in ("gwfbench", "baselines", "runs"):
        (tmp_path / folder).mkdir()
    (tmp_path / "gwfbench/provenance.py").write_text("x = 1\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "one")
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "gwfbench/provenance.py"))
    (tmp_path / "runs/points.jsonl").write_text("{}\n")
    assert not provenance._commit().endswith("+")
    (tmp_path / "baselines/mine.py").write_text("y = 2\n")
    assert provenance._commit().endswith("+")
