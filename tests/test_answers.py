"""The same `run` again: the kept answer, and only where it is still one."""

import os
import subprocess
import sys

import pytest

from gwfbench.plugins import discovery
from gwfbench.store import command_cache

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
    monkeypatch.setattr(command_cache, "code", lambda: real + "x")
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


def test_with_plug_ins_from_elsewhere_none_is_kept(cli, monkeypatch, tmp_path):
    assert command_cache.code()
    monkeypatch.setenv(discovery.FILES, str(tmp_path / "mine.py"))
    assert command_cache.code() == ""


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
