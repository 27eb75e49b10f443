"""What `import gwfbench` gives: the examples of its docstrings, run; and that nothing heavy comes with the import."""

import doctest
import inspect
import subprocess
import sys

import pytest

import gwfbench
from gwfbench import api


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
