"""The same `run` again: the kept answer, and only where it is still one."""

import os
import subprocess
import sys

import pytest

from gwfbench.plugins import discovery, registry
from gwfbench.store import command_cache, fingerprint

pytestmark = pytest.mark.slow

WORDS = ("run", "--task", "ou:horizon=0.05", "--method", "ula", "--seeds", "2", "--no-controls", "--no-isolate")
KEPT = "finished before, and nothing has changed since"
RUNS = "results/runs"


@pytest.fixture
def twice(cli):
    """Standard output and error of the first and of the second time."""
    first = cli(*WORDS)
    second = cli(*WORDS)
    assert (first[0], second[0]) == (0, 0)
    return first, second


def test_the_same_words_get_the_same_answer(twice):
    (_, shown, told), (_, again, err) = twice
    assert again == shown
    assert KEPT not in told
    assert err == f"2 runs: {KEPT}\n"


def test_it_comes_without_torch(twice, tmp_path):
    script = f"import sys; sys.argv = {['gwfbench', *WORDS]}\nfrom gwfbench.cli import main\n"
    script += "try: main()\nfinally: print(*sorted({'torch', 'numpy', 'pandas'} & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, env=os.environ, check=True
    )
    assert done.stdout == twice[0][1]
    assert done.stderr == f"2 runs: {KEPT}\n\n"


@pytest.mark.parametrize(
    "words",
    [
        ("--seeds", "1"),
        ("--metric", "symkl"),
        ("--format", "csv"),
        ("--format", "json"),
        ("--controls",),
        ("--budget", "steps=50"),
        ("--retry", "error"),
    ],
    ids=str,
)
def test_other_words_get_their_own(cli, twice, words):
    code, _, err = cli(*WORDS, *words)
    assert code == 0
    assert KEPT not in err


@pytest.mark.parametrize("name", ["rows.jsonl", "draws.npz", "run.json", "log.txt"])
def test_an_edited_attempt_is_found_out_whatever_its_time_stamp(cli, twice, tmp_path, name):
    path = min(tmp_path.glob(f"{RUNS}/ou-*ula*")) / name
    before = path.stat()
    content = path.read_bytes()
    path.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:] if content else b"x")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    code, _, err = cli(*WORDS)
    assert code == 0
    assert KEPT not in err
    assert [folder.name for folder in (tmp_path / RUNS / "aside").iterdir()] == [path.parent.name]
    assert len(list(tmp_path.glob(f"{RUNS}/ou-*ula*"))) == 2  # the other was not run again
    assert KEPT not in cli(*WORDS)[2].splitlines()[-1] or cli(*WORDS)[1] == twice[0][1]


def test_what_lies_about_is_said_every_time(cli, twice, tmp_path):
    (tmp_path / RUNS / "notes").mkdir()
    for _ in range(2):
        assert "notes" in cli(*WORDS)[2]


def test_other_code_has_no_answer(cli, twice, monkeypatch):
    real = command_cache.code()
    monkeypatch.setattr(command_cache, "code", lambda *_: real + "x")
    assert KEPT not in cli(*WORDS)[2]


def test_every_file_beside_the_code_is_in_its_hash(tmp_path, monkeypatch):
    monkeypatch.setattr(command_cache, "__file__", str(tmp_path / "answers.py"))
    seen = {command_cache.code()}
    for change in (
        lambda: (tmp_path / "a.py").write_text("x = 1"),
        lambda: (tmp_path / "a.py").write_text("x = 2"),
        lambda: (tmp_path / "a.py").rename(tmp_path / "b.py"),
        lambda: (tmp_path / "data").mkdir() or (tmp_path / "data/table.npz").write_bytes(b"1"),
    ):
        change()
        assert command_cache.code() not in seen
        seen.add(command_cache.code())


def test_the_folder_of_data_is_in_its_hash(monkeypatch):
    before = command_cache.code()
    monkeypatch.setenv("GWFBENCH_DATA", "elsewhere")
    assert command_cache.code() != before


MINE = '''"""Stands still."""

import os
from dataclasses import dataclass
from typing import ClassVar

from gwfbench.info import Initial
from gwfbench.protocol import Pushed
from gwfbench_plugins.helper_of_mine import moved


@dataclass(frozen=True)
class Mine:
    needs: ClassVar = frozenset({Initial})
    clock: ClassVar = "flow"
    seeds: ClassVar = "looped"
    version: ClassVar = 1
    files: ClassVar = ("table.csv",)
    reference: ClassVar = ""
    smoke: ClassVar = {}

    def fit(self, problem, budget, rng):
        for t in problem.times:
            yield Pushed(t, lambda x, noise: moved(x))
'''


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The folder of a plug-in that has a helper and a data file."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, text in (("mine.py", MINE), ("helper_of_mine.py", "def moved(x):\n    return x\n"), ("table.csv", "1")):
        (folder / name).write_text(text)
    monkeypatch.setenv(discovery.FILES, str(folder / "mine.py"))
    yield folder
    registry.plugins.cache_clear()
    fingerprint.forget()
    sys.modules.pop(discovery.HOME, None)


def code():
    """As a fresh process has it."""
    registry.plugins.cache_clear()
    fingerprint.forget()
    return command_cache.code([registry.find("task", "ou"), registry.find("method", "mine")])


CHANGES = {
    "plug-in": lambda folder: (folder / "mine.py").write_text(MINE + "# a word\n"),
    "helper": lambda folder: (folder / "helper_of_mine.py").write_text("def moved(x):\n    return x + 1\n"),
    "data": lambda folder: (folder / "table.csv").write_text("2"),
    "no data": lambda folder: (folder / "table.csv").unlink(),
    "variable of ours": lambda _: os.environ.update(GWFBENCH_DATA="elsewhere"),
    "second file": lambda folder: (
        (folder / "other.py").write_text("x = 1"),
        os.environ.update({discovery.FILES: f"{folder / 'mine.py'}{os.pathsep}{folder / 'other.py'}"}),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_plug_in_is_made_of_is_in_the_hash(mine, monkeypatch, change):
    monkeypatch.setattr(os, "environ", os.environ.copy())
    before = code()
    assert before
    assert code() == before
    CHANGES[change](mine)
    assert code() != before


def test_the_environment_counts_where_a_plug_in_reads_it(mine, monkeypatch):
    before = code()
    monkeypatch.setenv("STRENGTH_OF_MINE", "2")
    assert code() == before
    (mine / "helper_of_mine.py").write_text("import os\nmoved = os.environ.get('STRENGTH_OF_MINE')\n")
    reads = code()
    monkeypatch.setenv("STRENGTH_OF_MINE", "3")
    assert len({before, reads, code()}) == 3


def test_with_a_plug_in_that_cannot_be_read_none_is_kept(mine):
    (mine / "mine.py").write_text("def broken(:")
    assert code() == ""
    (mine / "mine.py").write_text(MINE)
    (mine / "helper_of_mine.py").unlink()
    assert code() == ""


def test_a_plug_in_s_runs_are_answered_without_torch_until_its_helper_changes(mine, tmp_path):
    script = "import sys\nfrom gwfbench.cli import main\ntry: main()\nfinally: print('torch' in sys.modules, file=sys.stderr)"
    words = [*WORDS, "--method", "mine"]

    def call():
        command = [sys.executable, "-c", script, *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ, check=True)
        return done.stdout, KEPT in done.stderr, done.stderr.splitlines()[-1]

    first = call()
    assert first[1:] == (False, "True")
    assert call() == (first[0], True, "False")
    (mine / "helper_of_mine.py").write_text("def moved(x):\n    return x + 1\n")
    changed = call()
    assert changed[1:] == (False, "True")
    assert changed[0] != first[0]


def test_a_failure_fails_again(cli):
    words = (
        "run",
        "--task",
        "gaussian",
        "--method",
        "ula:step=1e30,steps=5",
        "--seeds",
        "1",
        "--no-controls",
        "--no-isolate",
    )
    first, second = cli(*words), cli(*words)
    assert first[0] == second[0] == 1
    assert KEPT in second[2]
    assert "diverged" in second[2]


def test_a_torn_answer_is_none(cli, twice, tmp_path):
    (path,) = (tmp_path / RUNS / command_cache.FOLDER).iterdir()
    for content in (b"", path.read_bytes()[:-9], path.read_bytes().replace(b"ula", b"vla"), b"\xff"):
        path.write_bytes(content)
        code, shown, err = cli(*WORDS)
        assert (code, shown) == (0, twice[0][1])
        assert KEPT not in err
        assert KEPT in cli(*WORDS)[2]  # it has been made anew


def test_a_report_tells_what_is_stale_without_torch(mine, tmp_path):
    script = "import sys\nfrom gwfbench.cli import main\ntry: main()\nfinally: print('torch' in sys.modules, file=sys.stderr)"

    def call(*words):
        command = [sys.executable, "-c", script, *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ, check=False)
        *said, torch = done.stderr.splitlines()
        return done.returncode, done.stdout, said, torch

    assert call(*WORDS, "--method", "mine")[0] == 0
    first = call("report")
    assert first[0] == 0
    assert "mine" in first[1]
    assert call("report") == (*first[:3], "False")
    (mine / "helper_of_mine.py").write_text("def moved(x):\n    return x + 1\n")
    _, shown, said, _ = call("report")
    assert "mine" not in shown
    assert any("left out: 2 stale runs" in line for line in said)
