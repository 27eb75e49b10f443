"""What all commands have: help with an example that can be typed, -q, -v, and options as a file."""

import contextlib
import os
import pty
import re
import shlex
import sys
import tomllib
from pathlib import Path

import click
import pytest

from gwfbench.cli import cli as group

ROOT = Path(__file__).parents[1]
STOPS = """    def fit(self, problem, budget, rng):
        breakpoint()
        yield from self._fit(problem, budget, rng)

"""
QUICK = ("run", "--task", "ou:horizon=0.05", "--method", "ula", "--seeds", "1", "--no-controls", "--no-isolate")


def commands(command, words=()):
    yield words, command
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from commands(inner, (*words, name))


ALL = dict(commands(group))


def example(command):
    """The words of its example, which must be the end of its help."""
    text = command.get_help(click.Context(command, info_name="gwfbench"))
    found = re.search(r"\n  Example:\n    python -m gwfbench (.*)\Z", text)
    assert found, text[-300:]
    return shlex.split(found[1])


def parsed(words):
    """The commands that these words name, as the command line parses them."""
    context = group.make_context("gwfbench", list(words))
    named = []
    while isinstance(context.command, click.Group):
        rest = [*context._protected_args, *context.args]
        if not rest:
            break
        name, command, rest = context.command.resolve_command(context, rest)
        named.append(name)
        context = command.make_context(name, list(rest), parent=context)
    return tuple(named)


@pytest.fixture
def place(cli, tmp_path, no_files):
    """A folder with what examples name."""
    (tmp_path / "results").symlink_to(ROOT / "results")
    assert cli("new", "method", "mine", "--uses", "samples")[0] == 0
    assert cli("new", "metric", "radius")[0] == 0
    (tmp_path / "mine.zip").write_text("")
    return cli


def test_every_help_ends_with_an_example_of_that_command(place):
    for words, command in ALL.items():
        assert parsed(example(command))[: len(words)] == words, words


@pytest.mark.parametrize(
    "words", [("list",), ("new",), ("suite", "show"), ("report",), ("reproduce",), ("report", "against")], ids=" ".join
)
def test_an_example_works(cli, tmp_path, no_files, words):
    (tmp_path / "results" / "studies").mkdir(parents=True)
    for folder in ("studies/ou", "smoke"):
        (tmp_path / "results" / folder).symlink_to(ROOT / "results" / folder)
    typed = ["results/studies/ou/rows.csv" if word == "results/mine/rows.csv" else word for word in example(ALL[words])]
    code, out, err = cli(*typed)
    assert code == 0, err
    assert out


def test_the_version(cli):
    from gwfbench import __version__

    assert cli("--version")[1].strip().endswith(__version__)


def test_options_are_printed_as_a_file_that_means_the_same(cli, tmp_path, no_files):
    (tmp_path / "mine.py").write_text((ROOT / "baselines" / "ula.py").read_text())
    words = ("run", "--task", "ou", "--task", "gmm:dim=2", "--method", "mine:step=1|2", "--plugin", "mine.py",
             "--seeds", "7,", "--budget", "seconds=2.5", "--no-curve", "--timeout", "60", "--jobs", "2")  # fmt: skip
    code, text, err = cli(*words, "--print-config")
    assert (code, err) == (0, "")
    said = tomllib.loads(text)
    assert said == {
        "task": ["ou", "gmm:dim=2"], "method": ["mine:step=1|2"], "plugin": ["mine.py"], "seeds": "7,",
        "budget": "seconds=2.5", "no-curve": True, "timeout": 60.0, "jobs": 2,
    }  # fmt: skip
    (tmp_path / "experiment.toml").write_text(text)
    again = cli("run", "--config", "experiment.toml", "--print-config")[1]
    assert tomllib.loads(again) == said
    assert tomllib.loads(cli("run", "--config", "experiment.toml", "--seeds", "3", "--print-config")[1])["seeds"] == "3"
    assert not (tmp_path / "results").exists(), "nothing has run"


@pytest.mark.slow
def test_a_debugger_without_isolation_has_the_terminal(tmp_path):
    """Its prompt and its answers are seen; a method's output goes into a log otherwise."""
    code = (ROOT / "baselines" / "ula.py").read_text().replace("    def fit(", f"{STOPS}    def _fit(", 1)
    (tmp_path / "stops.py").write_text(code)
    words = [*QUICK, "--no-isolate", "--plugin", "stops.py"]
    words[words.index("ula")] = "stops"
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(tmp_path)
        os.environ["PYTHONPATH"] = str(ROOT)
        os.execv(sys.executable, [sys.executable, "-m", "gwfbench", *words])
    seen, typed = b"", [b"c\n", b"p 40 + 2\n"]
    with contextlib.suppress(OSError):  # what a terminal says whose program has ended
        while part := os.read(terminal, 4096):
            seen += part
            if typed and seen.count(b"(Pdb)") > 2 - len(typed):
                os.write(terminal, typed.pop())
    os.waitpid(child, 0)
    assert b"42" in seen.partition(b"p 40 + 2")[2]
    assert b"ended: ok" in seen


@pytest.mark.slow
def test_quiet_and_verbose(cli):
    code, out, err = cli(*QUICK, "-q")
    assert (code, err) == (0, "")
    assert "symkl" in out
    assert cli("-q", *QUICK)[2] == "", "before the command too, and of a kept answer"
    assert "finished before" in cli(*QUICK)[2]
    code, out, err = cli(*QUICK, "-v", "--force")
    assert re.search(r"^ *\d+\.\d s  loads torch$", err, re.M)
    assert "ou:horizon=0.05 ula seed 0: starts" in err
    assert "starts" not in cli(*QUICK, "--force")[2]
    code, _, err = cli("run", "--task", "oo", "--method", "ula", "-q")
    assert (code, "no task 'oo'" in err) == (2, True), "errors are always said"
