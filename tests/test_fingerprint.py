"""What the code hash sees: every way in which a module can depend on another, or on a data file."""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gwfbench import metrics
from gwfbench.plugins import registry
from gwfbench.store import environment, fingerprint

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
        fingerprint.forget()
        return fingerprint.code_hash(f"flows_to_hash.{module}")

    monkeypatch.syspath_prepend(tmp_path)
    hashed.folder = package
    yield hashed
    hashed()
    fingerprint.forget()


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


def test_it_sees_a_stranger_s_module_beside_the_plug_in_but_no_installed_one(now, tmp_path):
    helper = tmp_path / "rates_to_hash.py"
    helper.write_text(FAR)
    first = now(method="import rates_to_hash\nimport torch\nimport click\nimport json\n")
    assert not {"torch", "click", "json"} & fingerprint.closure("flows_to_hash.method")
    helper.write_text("RATE = 0.9\n")
    assert now() != first


@pytest.mark.parametrize(
    "written", [FAR, "RATE = \\\n  0.5  # far\n", '"""Far."""\n\nRATE = (0.5)\n', "RATE: float = 0.5\n"]
)
def test_it_does_not_see_how_a_line_is_written(now, written):
    assert now(method="from .far import RATE\n", far=FAR) == now(far=written)


SAME = [
    ("def f(x):\n    return x\n", 'def f(x: int) -> int:\n    """Give x."""\n    return x\n'),
    ("def f(x):\n    raise ValueError('bad')\n", "def f(x):\n    raise ValueError(f'{x} is bad')\n"),
    ("def f(x):\n    return x\n", "def f(x):\n    assert x > 0, 'x'\n    return x\n"),
    ("x = 1\n", "from gwfbench.errors import require\nx = 1\nrequire(x > 0, 'x', 'y', 'z')\n"),
    (
        "class A:\n    x: int = 1\n",
        "class A:\n    x: int = 1\n\n    def __post_init__(self):\n        require(self.x, '', '', '')\n",
    ),
    ("class A:\n    x: int = 1\n", "class A:\n    x: int = 1\n    'how many'\n    __post_init__ = check_fields\n"),
    ("class A:\n    metrics: ClassVar = ('kl',)\n", "class A:\n    metrics: ClassVar = ('kl', 'w2')\n"),
    ("class A:\n    reference: str = '@a'\n", "class A:\n    reference: str = '@b'\n"),
    ("m = Metric(1, source='a')\n", "m = Metric(1, source='b')\n"),
    ("x = 1\n", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from torch import Tensor\nx = 1\n"),
]
OTHER = [
    ("def f(x):\n    return x\n", "def f(x):\n    return -x\n"),
    ("def f(x=1):\n    return x\n", "def f(x=2):\n    return x\n"),
    ("def f(x):\n    raise ValueError\n", "def f(x):\n    raise KeyError\n"),
    ("x = 'a'\n", "x = 'b'\n"),
    ("m = Metric(1, source=a)\n", "m = Metric(1, source=b)\n"),
    ("class A:\n    x: int = 1\n", "class A:\n    x: int = 2\n"),
    ("class A:\n    pass\n", "class A:\n    def __post_init__(self):\n        object.__setattr__(self, 'x', 1)\n"),
    ("class A:\n    pass\n", "class A:\n    def __post_init__(self):\n        self.x = 1\n"),
    ("x = f()\n", "x = f()\nx.requires_grad_()\n"),
    ("m.go()\n", "m.go()\nm.require_left(3)\n"),  # it may end the run: no mere check
    ("def required(x):\n    return x\n", "def required(x):\n    return -x\n"),
    ("x = 1\n", "x = 1.0\n"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_words_and_checks_do_not_count(now, one, other):
    used = ("TYPE_CHECKING" in other and "from typing import TYPE_CHECKING\n") or ""
    used += ("require" in other and "import" in other and "from gwfbench.errors import require\n") or ""
    assert now(method=used + one) == now(method=other)


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_whatever_may_change_a_number_counts(now, one, other):
    assert now(method=one) != now(method=other)


def test_a_module_s_name_does_not_count_and_what_stands_behind_a_name_does(now):
    near, far = "def f(x):\n    return x\n", "def f(x):\n    return -x\n"
    first = now(method="from . import near, far\ny = near.f(far.f(1) + 1)\n", near=near, far=far)
    assert now(method="from . import a as b, near as far\ny = b.f(far.f(1) + 1)\n", a=near, near=far) == first
    assert now(method="from . import near, far\ny = far.f(near.f(1) + 1)\n", near=near, far=far) != first
    assert now(method="from .a import f\nfrom .b import f as g\ny = f(g(1) + 1)\n", a=near, b=far) == now(
        method="from .b import f as a\nfrom .a import f as b\ny = b(a(1) + 1)\n"
    )
    assert now(method="from .a import f\nfrom .b import f as g\ny = f(g(1) + 1)\n") != now(
        method="from .a import f as g\nfrom .b import f\ny = f(g(1) + 1)\n"
    )


def test_an_import_that_can_t_be_found_is_an_error_and_not_a_smaller_closure(now):
    with pytest.raises(ImportError, match="gone"):
        now(method="from . import near\nfrom .gone import f\n", near="")
    now(method="try:\n    from .gone import f\nexcept ImportError:\n    f = None\n")


def test_packages_that_are_not_installed_do_not_change_it(now, monkeypatch):
    first = now(method="import torch\nfrom .near import f\n", near="import torch.nn as nn\nf = nn.Linear\n")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert now() == first


def test_it_sees_the_data_files_that_a_task_declares(now):
    data = now.folder / "data/small"
    data.mkdir(parents=True)
    for name in ("data/small/a.csv", "data/small/README.md", "other.csv"):
        (now.folder / name).write_text("1\n")
    text = "class Task:\n    files: ClassVar = ('data/small',)\n    other = 'other.csv'\n"
    first = now(method=text)
    for name in ("data/small/README.md", "other.csv"):
        (now.folder / name).write_text("2\n")
    assert now() == first
    (data / "a.csv").write_text("2\n")
    assert now() != first
    (data / "a.csv").write_text("1\n")
    assert now() == first
    named = now(method=text.replace("data/small", "data/small/README.md"))
    (data / "README.md").write_text("3\n")
    assert now() != named
    with pytest.raises(FileNotFoundError, match="gone"):
        now(method=text.replace("small", "gone"))
    now(method="")


def test_our_tasks_cover_their_data_and_others_have_none():
    held = {name: fingerprint.data(task.module) for name, task in registry.plugins("task").items()}
    assert list(held["aggregation_diffusion"]) == ["data/aggregation_diffusion.npz"]
    kept = {path.name for path in (ROOT / "gwfbench/data/blr").iterdir() if path.suffix != ".md"}
    assert {name.rpartition("/")[2] for name in held["blr"]} == kept
    own = {name for name, found in held.items() if found}
    assert own == {"aggregation_diffusion", "blr", "gmm40", "images", "lgcp", "lj13", "logistic"}


def test_a_method_s_hash_covers_the_loop_and_the_controls_the_protocol():
    assert {"gwfbench.training.minmax", "gwfbench.nn.mlp"} <= fingerprint.closure("gwfbench.baselines.vjko")
    assert "gwfbench.protocol" in fingerprint.closure("gwfbench.drive.controls")
    assert all(fingerprint.locate(module) for module in fingerprint.DRIVER)


def test_a_metric_s_hash_is_of_its_own_module_and_what_that_imports():
    known = metrics.known()
    assert fingerprint.metric_code(known["symkl"]) == fingerprint.metric_code(known["kl"])
    assert fingerprint.metric_code(known["symkl"]) != fingerprint.metric_code(known["mmd"])
    assert "gwfbench.metrics.moments" in fingerprint.closure("gwfbench.metrics.density")


def test_the_inits_that_are_not_hashed_hold_names_only():
    for path in (ROOT / "tasks", ROOT / "baselines", ROOT / "gwfbench/nn"):
        body = ast.parse((path / "__init__.py").read_text()).body
        assert all(isinstance(node, ast.Expr | ast.Import | ast.ImportFrom) for node in body), path


@pytest.fixture
def copy(tmp_path):
    """A copy of the checkout; called: the hashes of all pairs of a task and a method in it, and of all metrics."""
    for part in ("gwfbench", "tasks", "baselines"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    script = (
        "import json; from gwfbench import metrics\nfrom gwfbench.plugins import registry\nfrom gwfbench.store import fingerprint\n"
        "codes = {f'{t.name} {m.name}': fingerprint.code_hash(t.module, m.module) for t in registry.plugins('task').values()"
        " for m in registry.plugins('method').values() if registry.fits(t, m)}\n"
        "print(json.dumps(codes | {n: fingerprint.metric_code(m) for n, m in metrics.known().items()}))"
    )

    def go(*words):
        return subprocess.run(
            [sys.executable, *words],
            cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(tmp_path), "PATH": ""}, check=True,
        )  # fmt: skip

    def hashes():
        return json.loads(go("-c", script).stdout)

    def edit(name, old, new):
        path = tmp_path / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    hashes.go, hashes.edit, hashes.folder = go, edit, tmp_path
    return hashes


def test_prose_and_names_change_nothing_and_how_points_are_drawn_changes_all(copy):
    first = copy()
    pairs = {name for name in first if " " in name}
    assert len(pairs) > 100
    copy.edit("gwfbench/errors.py", "A user's mistake", "What a user did wrong")
    copy.edit("gwfbench/errors.py", "See:", "Look at:")
    assert copy() == first
    for path in copy.folder.rglob("*.py"):  # a module gets another name
        text = path.read_text()
        path.write_text(re.sub(r"\bminmax\b", "loops", text))
    (copy.folder / "gwfbench/training/minmax.py").rename(copy.folder / "gwfbench/training/loops.py")
    second = copy()
    assert second == first
    copy.edit("gwfbench/drive/points.py", "CHUNK = 65536", "CHUNK = 32768")
    third = copy()
    assert {name for name in first if third[name] != first[name]} == pairs


def test_the_stale_experiment_on_a_copy_of_the_checkout(copy):
    """Run; edit a docstring: not run again; edit a constant two imports away: stale, and run again."""
    words = "run --task ou:horizon=0.05 --method vjko:iterations=2,pool=2048 --seeds 1 --no-controls --format json"

    def rows():
        return copy.go("-m", "gwfbench", *words.split())

    first = rows()
    copy.edit("gwfbench/errors.py", "A user's mistake", "What a user did wrong")
    second = rows()
    assert (second.stdout, second.stderr.count("ended: ok")) == (first.stdout, 0)
    copy.edit("gwfbench/nn/stacked.py", "\nfrom torch import", "\nEDITED = 1\nfrom torch import")
    third = rows()
    assert "stale" in third.stderr
    assert third.stderr.count("ended: ok") == 1


def test_a_folder_of_runs_is_no_change_of_the_checkout_and_a_new_method_is(tmp_path, monkeypatch):
    def git(*words):
        subprocess.run(["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a", *words], check=True)

    for folder in ("gwfbench/store", "baselines", "runs"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "gwfbench/store/environment.py").write_text("x = 1\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "one")
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "gwfbench/store/environment.py"))
    (tmp_path / "runs/rows.jsonl").write_text("{}\n")
    assert not environment._commit().endswith("+")
    (tmp_path / "baselines/mine.py").write_text("y = 2\n")
    assert environment._commit().endswith("+")
