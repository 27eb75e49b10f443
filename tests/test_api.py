"""What `import gwfbench` gives: the examples of its docstrings, run; and that nothing heavy comes with the import."""

import doctest
import importlib
import inspect
import itertools
import linecache
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

import gwfbench
from gwfbench import api
from gwfbench.errors import UserError
from gwfbench.store import session


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in gwfbench.__all__ if name not in ("Streams", "UserError")])
def test_the_example_of_its_docstring(name):
    function = gwfbench.leaderboard if name == "leaderboard" else getattr(api, name)
    (example,) = doctest.DocTestFinder(recurse=False).find(function, name, globs={"gwfbench": gwfbench})
    assert example.examples, "it has an example"
    assert doctest.DocTestRunner().run(example).failed == 0


def test_all_public_names_are_there_and_no_others():
    for name in gwfbench.__all__:
        assert callable(getattr(gwfbench, name)), name
        assert inspect.getdoc(getattr(gwfbench, name)), name
    with pytest.raises(AttributeError, match="public names: Streams"):
        gwfbench.runner  # noqa: B018


def test_packages_that_list_what_is_in_them():
    from gwfbench.tasks import ou

    assert set(gwfbench.tasks()) >= {"ou", "gmm"}
    assert set(gwfbench.metrics()) >= {"symkl", "kl"}
    assert ou.__doc__.startswith(gwfbench.tasks()["ou"])


def test_importing_it_is_light():
    code = "import sys, gwfbench; sys.exit(bool({'torch', 'pandas', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ------------------------------------------------------------------------------------------------ objects

CELL = '''
import torch
from dataclasses import dataclass
from typing import ClassVar
from gwfbench.fields import Count, check_fields
from gwfbench.info import Initial
from gwfbench.protocol import Drawn

SCALE = 0.5


def shrink(x):
    return SCALE * x


@dataclass(frozen=True)
class Shrinking:
    """Points that move towards 0."""

    steps: Count = 2
    "number of steps"
    slow: float = 1.0
    "factor"

    __post_init__ = check_fields

    needs: ClassVar = frozenset({Initial})
    clock: ClassVar = "none"
    seeds: ClassVar = "batched"
    version: ClassVar = 1
    smoke: ClassVar = {}
    reference: ClassVar = ""

    def fit(self, problem, budget, rng):
        points = problem[Initial].draw(64, rng)
        for k in range(self.steps):
            points = shrink(points)  # half as far
            yield Drawn(float(k + 1), lambda n, rng, points=points: points[:, :n], limit=64)
'''
NUMBERS = itertools.count()
RUN = {"seeds": 1, "controls": False, "isolate": False, "curve": False}


def cell(text=CELL):
    """The names of a notebook cell: its module is `__main__`, and only `linecache` knows its source."""
    file = f"<cell {next(NUMBERS)}>"
    linecache.cache[file] = (len(text), None, text.splitlines(True), file)
    names = {"__name__": "__main__"}
    exec(compile(text, file, "exec"), names)
    return names


def method_code(**change):
    text = CELL
    for old, new in change.values():
        assert text.count(old) == 1
        text = text.replace(old, new)
    return set(gwfbench.run("gaussian:dim=2", cell(text)["Shrinking"], **RUN)["code"])


@pytest.mark.slow
def test_a_class_of_a_cell_runs_in_processes_of_their_own(tmp_path):
    cls = cell()["Shrinking"]
    for given, names in (
        (cls, {"shrinking"}),
        (cls(steps=3), {"shrinking:steps=3"}),
        ([cls(np.int64(3), slow=2), "ula:steps=2", cls], {"shrinking", "shrinking:steps=3,slow=2.0", "ula:steps=2"}),
    ):  # fmt: skip
        rows = gwfbench.run("gaussian:dim=2", given, seeds=1, controls=False, out=tmp_path)
        assert set(rows["method"]) == names
        assert set(rows["status"]) == {"ok"}
    events = []
    gwfbench.run("gaussian:dim=2", cls(steps=3), seeds=1, controls=False, out=tmp_path, progress=events.append)
    assert {event.text for event in events} == {"finished before"}
    apart, here = (
        gwfbench.run("gaussian:dim=2", cls(steps=3), **RUN | {"isolate": one, "curve": True}, out=tmp_path / str(one))
        for one in (True, False)
    )
    assert apart["value"].tolist() == here["value"].tolist()


@pytest.mark.slow
def test_a_class_of_an_imported_file_is_the_plug_in_that_the_file_is(tmp_path, monkeypatch, cli, no_files):
    (tmp_path / "halving.py").write_text(CELL)
    monkeypatch.syspath_prepend(tmp_path)
    cls = importlib.import_module("halving").Shrinking
    rows = gwfbench.run("gaussian:dim=2", [cls(steps=3), cls], seeds=1, controls=False, out=tmp_path / "runs")
    assert set(rows["reason"]) == {""}
    assert set(rows["method"]) == {"halving", "halving:steps=3"}
    assert set(rows["status"]) == {"ok"}
    words = ("--plugin", str(tmp_path / "halving.py"), "--seeds", "1", "--no-controls", "--out", str(tmp_path / "runs"))
    code, _, err = cli("run", "--task", "gaussian:dim=2", "--method", "halving:steps=3", *words)
    assert code == 0
    assert "finished before" in err


def test_a_class_whose_file_is_no_plug_in_is_told(tmp_path, monkeypatch, no_files):
    (tmp_path / "two.py").write_text(CELL + CELL.replace("Shrinking", "Growing"))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="a file of its own"):
        gwfbench.run("gaussian:dim=2", importlib.import_module("two").Growing, **RUN)


@pytest.mark.slow
def test_what_counts_of_a_cell():
    same = method_code()
    assert method_code(comment=("# half as far", "# twice as near")) == same
    for name, change in {
        "a variable": ("SCALE = 0.5", "SCALE = 0.25"),
        "a function": ("return SCALE * x", "return SCALE * x + 0"),
        "the class": ("float(k + 1)", "float(k + 2)"),
    }.items():
        assert method_code(change=change) != same, name


@pytest.mark.slow
def test_instances_of_plug_ins_are_what_their_words_are(tmp_path):
    task, ula = type(gwfbench.task("ou")), type(gwfbench.method("ula"))
    rows = gwfbench.run(task(horizon=np.float64(0.1), dim=np.int32(2)), [ula(step=1), ula, "ula"], **RUN)
    assert set(rows["task"]) == {"ou:horizon=0.1"}
    assert set(rows["method"]) == {"ula", "ula:step=1.0"}
    assert not rows.duplicated(["run_key", "step", "metric"]).any()


@pytest.mark.parametrize(
    ("change", "got"),
    [
        ({"seeds": [0.5, 1.7]}, "seeds=[0.5, 1.7]"), ({"seeds": 2.5}, "seeds=2.5"), ({"seeds": True}, "seeds=True"),
        ({"seeds": None}, "seeds=None"), ({"seeds": [[1]]}, "seeds=[[1]]"), ({"retry": "banana"}, "retry=banana"),
        ({"dtype": torch.int32}, "dtype=int32"), ({"device": "abacus"}, "device=abacus"), ({"budget": {"second": 1}}, "budget"),
        ({"device": torch.device("meta")}, "device=meta"),
        ({"budget": {"steps": "x"}}, "budget='x'"), ({"timeout": "soon"}, "timeout='soon'"), ({"jobs": 0}, "jobs=0"),
        ({"threads": 1.5}, "threads=1.5"), ({"out": ""}, "out=''"), ({"task": 3}, "class int"), ({"task": []}, "no task"),
        ({"method": object()}, "class object"), ({"method": type("ULA", (), {})}, "class ULA"),
        ({"isolate": False, "timeout": 5}, "isolate=False with timeout"),
    ],
    ids=lambda part: part if isinstance(part, str) else ",".join(part),
)  # fmt: skip
def test_mistakes_are_told_in_words_of_python(change, got):
    with pytest.raises(UserError) as caught:
        gwfbench.run(**{"task": "ou:horizon=0.05", "method": "ula", **RUN} | change)
    assert got in caught.value.got
    assert "--" not in str(caught.value)


def test_words_of_numpy_and_torch(tmp_path):
    rows = gwfbench.run(
        "ou:horizon=0.05", "ula", seeds=np.int64(1), dtype=torch.float64, device=torch.device("cpu", 0), budget={},
        retry="error", threads=np.int8(1), controls=False, isolate=False, out=str(tmp_path),
    )  # fmt: skip
    assert set(rows["dtype"]) == {"float64"}
    assert set(rows["device"]) == {"cpu"}
    pd.testing.assert_frame_equal(gwfbench.load(tmp_path), rows)
    rows = gwfbench.run("ou:horizon=0.05", "ula", seeds=np.array([3, 5]), timeout="60", controls=False, out=tmp_path)
    assert sorted(set(rows["seed"])) == [3, 5]


def test_a_name_that_is_taken_and_a_class_without_a_source():
    taken = type("ULA", (type(gwfbench.method("ula")),), {"__module__": "__main__"})
    with pytest.raises(UserError, match="'ula' is taken"):
        gwfbench.run("ou", taken, **RUN)
    nowhere = type("Nowhere", (type(gwfbench.method("ula")),), {"__module__": "__main__", "fit": eval("lambda *_: 0")})
    assert session.code_hash([nowhere])  # a dataclass is known by its fields at least
    with pytest.raises(UserError, match="can't be read"):
        session.code_hash([type("Plain", (), {"__module__": "__main__"})])


def test_lines_and_silence(capsys):
    for wanted, lines in ((None, 0), (False, 0), (True, 2)):
        gwfbench.run("ou:horizon=0.05", "ula", **RUN, progress=wanted)
        out, err = capsys.readouterr()
        assert (out, len(err.splitlines())) == ("", lines)
