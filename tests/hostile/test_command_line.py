"""Nasty command lines: a message and 0, 1 or 2 (141 for a reader that has gone), never a traceback, never a fault (70)."""

import io
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gwfbench.cli import cli, main
from gwfbench.commands import _edge

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("default")  # as for users, to whom a warning is no error
SECONDS, LINES = 60.0, 500  # of the random walk: at least so many lines, and at least so long
NASTY = [
    "", " ", "0", "-1", "1", "2", "9" * 400, "1e400", "nan", "inf", "-inf", "1_0", "٣", "0x10", "2.5", "1,2", "7,", ",", ",,",
    "..", ".", "/", "/dev/null", "/dev/full", "/proc/self/mem", "a-file", "a-folder", "a-file/below", "no/such/place", "x" * 300,
    "a\nb", "a\x1b[31mb", "[/]", "[red]x", "\u202eabc", "%s{}", "ou", "ula", "still", "exact", "ou:", "ou:dim", "ou:dim=", "ou:=2",
    "ou:dim=0", "ou:dim=2,dim=3", "ou:dim=9999999999", "ou:horizon=nan", "ula:step=0", "ula:step=1e308", 'ou:cloud="iid"',
    "images:data=folder,data_root=a-folder", "images:data=mnist", "images:data=folder,data_root=\"a,\x1bb\"", "symkl", "nope",
    "task:ou", "method:ula", "method:", "task:nope", "fan2022", "table2", "rows.csv", "cut.csv", "plan.jsonl", "step=0.02",
    "cpu", "cpu:0", "cpu:9", "cuda", "cuda:99", "meta", "float32", "float64", "float16", "seconds=1", "steps=0", "seconds=nan",
    "seconds=1,seconds=2", "error", "oom,banana", "1/1", "0/1", "2/1", "1/", "json", "csv", "latex", "xml", "\udcff", "\U0001f4a9",
]  # fmt: skip
TINY = ["--task", "ou:horizon=0.05", "--method", "ula", "--seeds", "1", "--no-controls", "--no-isolate"]
GOOD = {  # values that are right, so that a line comes further
    "--task": ["ou:horizon=0.05", "ou"], "--method": ["ula", "still"], "--out": ["results/runs"], "--rows": ["rows.csv", "kept/rows.csv"],
    "--metric": ["symkl", "w2"], "--seeds": ["1", "0,"], "--device": ["cpu", "cpu:0"], "--dtype": ["float64"], "--count": ["1"],
    "--budget": ["steps=1"], "--plan": ["plan.jsonl", "other.jsonl"], "--write": ["kept", "new", "a-file"], "--retry": ["error"],
    "--shards": ["2"], "--shard": ["1/2", "2/2"], "--jobs": ["1"], "--timeout": ["60"], "--memory": ["8"], "--threads": ["1"],
    "file": ["plan.jsonl", "page.html"], "folder": ["drawn"], "root": [".", "kept"], "change": ["step=0.02"], "paper": ["fan2022"],
    "what": ["method:ula", "task:ou"], "--only": ["table2"], "--laws": ["last"], "--trials": ["1"],
}  # fmt: skip
LONG = {  # what would take long if it were right, and how a line is kept short
    "run": ["--plan", "new-plan"], "calibrate": ["--power-seconds", "0", "--task", "ou:horizon=0.05", "--metric", "nope"],
    "reproduce": ["--dry-run"], "check": ["--method", "nope", "--task", "nope"], "verify": ["--rows", "no-such.csv"],
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch, capsys):
    """A folder with a finished run, its rows, a torn CSV, a plan, a file and a folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GWFBENCH_PLUGINS", raising=False)
    assert call(["run", *TINY]) == 0
    assert call(["report", "--write", "kept", "--format", "csv"]) == 0
    assert call(["run", *TINY[:-1], "--plan", "plan.jsonl"]) == 0
    rows = (tmp_path / "kept/rows.csv").read_bytes()
    (tmp_path / "rows.csv").write_bytes(rows)
    (tmp_path / "cut.csv").write_bytes(rows[: len(rows) // 2])
    (tmp_path / "a-file").write_text("x")
    (tmp_path / "a-folder").mkdir()
    capsys.readouterr()
    return tmp_path


def call(words):
    before, sys.argv = sys.argv, ["gwfbench", *words]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before


def commands(group=cli, names=()):
    for name, command in group.commands.items():
        yield (*names, name), command
        yield from commands(command, (*names, name)) if isinstance(command, type(cli)) else ()


def value(rng, param, name):
    choices = list(getattr(param.type, "choices", ())) or GOOD.get(name, NASTY)
    return rng.choice(choices if rng.random() < 0.6 else NASTY)


def line(rng):
    """A command with some of its options, each with a value that may be anything."""
    names, command = rng.choice(list(commands()))
    words = []
    for param in rng.sample(command.params, rng.randint(0, min(4, len(command.params)))):
        if param.param_type_name == "option" and "--wait" not in param.opts:
            words.append(rng.choice([*param.opts, *param.secondary_opts]))
            words += [] if param.is_flag else [value(rng, param, param.opts[0])]
    words += [value(rng, param, param.name) for param in command.params if param.param_type_name == "argument"]
    short = LONG.get(names[-1], []) if names[-1] != "run" or "--plan" not in words else []
    return [*names, *words, *([] if names == ("run",) and rng.random() < 0.2 and "--task" not in words else short)]


@pytest.mark.parametrize("seed", range(2))
def test_a_random_walk_over_all_options(folder, capsys, seed):
    rng, until, count = random.Random(seed), time.monotonic() + SECONDS / 2, 0
    while count < LINES / 2 or time.monotonic() < until:
        words, count = line(rng), count + 1
        os.chdir(folder)
        code = call(words)
        out, err = capsys.readouterr()
        assert code in (0, 1, 2), (words, code, err)
        assert "Traceback" not in out + err, words
        assert "\x1b" not in out + err, words
        assert "\u202e" not in out + err, words
        assert code == 0 or out or err, words
        assert time.monotonic() < until + 4 * SECONDS, f"too slow: {words}"


@pytest.mark.parametrize("name", [names for names, _ in commands()], ids=" ".join)
def test_every_option_empty(folder, capsys, name):
    command = dict(commands())[name]
    for param in command.params:
        if param.param_type_name == "option" and not param.is_flag:
            code = call([*name, f"{param.opts[0]}=", *LONG.get(name[-1], [])])
            err = capsys.readouterr().err
            assert code in (0, 1, 2), (name, param.opts, err)
            assert "Traceback" not in err


def test_paths_that_are_none(folder, capsys):
    places = ["", " ", "x" * 300, "a-file", "a-file/below", "/dev/null", "/proc", "y/" * 3000]
    for place in places:
        for words in (
            ["run", *TINY, "--out", place], ["report", "--out", place], ["report", "--write", place], ["score", "--metric", "mmd", "--out", place],
            ["verify", "--count", "1", "--out", place], ["status", "--out", place], ["report", "html", place], ["report", "--rows", place],
            ["report", "pages", place, "--check"], ["report", "figures", place], ["exec", place], ["run", *TINY, "--plan", place],
            ["list", "--plugin", place],
        ):  # fmt: skip
            code = call(words)
            err = capsys.readouterr().err
            assert code in (0, 1, 2), (words, err)
            assert code == 0 or err
            assert "Traceback" not in err


def shell(folder, text):
    """Exit code and standard error of a shell's line; PIPESTATUS counts."""
    command = f"{sys.executable} -m gwfbench"
    done = subprocess.run(
        ["bash", "-c", text.replace("G ", f"{command} ")], cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout.decode(), done.stderr.decode()


RUN = f"G run {' '.join(TINY)}"


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        (f"{RUN} --force >&-", {0}), (f"{RUN} --force 2>&-", {0}), (f"{RUN} --force >&- 2>&- <&-", {0}), ("G report >&-", {0}),
        ("G report --format csv >/dev/full", {2}), ("G list --format json >/dev/full", {2}), ("G list >/dev/full", {2}),
        (f"{RUN} --force 2>/dev/full", {0}), ("G --help >/dev/full", {2}),
        ("G list | head -1 >/dev/null; exit ${PIPESTATUS[0]}", {0, 141}),
        ("G list --format json | head -1 >/dev/null; exit ${PIPESTATUS[0]}", {0, 141}),
        ("G --help | true; exit ${PIPESTATUS[0]}", {0, 141}), ("G report --format json | true; exit ${PIPESTATUS[0]}", {0, 141}),
        ("G status 2>&1 | true; exit ${PIPESTATUS[0]}", {0, 141}),
        ("ulimit -f 0; G report --write small", {2}),
    ],
    ids=str,
)  # fmt: skip
def test_streams_that_are_closed_or_full(folder, text, codes):
    code, _, err = shell(folder, text)
    assert code in codes, err
    assert "Traceback" not in err
    assert "Exception ignored" not in err


def test_standard_output_is_any_stream(folder, monkeypatch):
    for stream in (io.StringIO(), io.TextIOWrapper(io.BytesIO(), encoding="ascii")):
        monkeypatch.setattr(sys, "stdout", stream)
        assert call(["run", *TINY]) == 0
        assert call(["list", "--method", "ula", "--format", "json"]) == 0


def test_a_fault_becomes_a_report(folder, capsys, monkeypatch):
    def broken(*_):
        raise KeyError("it\x1b[31m broke")

    monkeypatch.setattr("gwfbench.audit.status.survey_all", broken)
    monkeypatch.setenv("HOME", str(folder))
    code = call(["status", "--out", f"{folder}/a b"])
    err = capsys.readouterr().err
    assert code == _edge.FAULT == 70
    for part in (
        "a fault of gwfbench",
        "command: gwfbench status --out '~/a b'",
        "KeyError",
        "versions: gwfbench",
        "Python",
        "torch",
    ):
        assert part in err
    assert "\x1b" not in err
    assert "Traceback" not in err
    assert os.uname().nodename not in err
    file = Path(err.rstrip().rpartition("the full traceback is in ")[2])
    assert "Traceback (most recent call last)" in file.read_text()
    assert str(folder) not in file.read_text()
    file.unlink()


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied", "there"), OSError(28, "No space left on device"), MemoryError()]
)
def test_what_the_machine_refuses_is_no_fault(folder, capsys, monkeypatch, error):
    def refused(*_):
        raise error

    monkeypatch.setattr("gwfbench.audit.status.survey_all", refused)
    assert call(["status"]) == 2
    assert len(capsys.readouterr().err.split("\n  ")) == 3


def test_strangers_words_are_shown_not_sent(folder, capsys, monkeypatch):
    """A run's names and reason with escape sequences and markup, through every command that shows them."""
    word = "x\x1b[2J[/x][red]\u202e\x00y"
    (run,) = Path("results/runs").glob("ou-*")
    (Path("results/runs") / ("strange " + word.replace("/", "").replace("\0", ""))).mkdir()
    plan = json.loads(Path("plan.jsonl").read_text().splitlines()[0])
    Path("bad.jsonl").write_text(json.dumps(plan | {"task": word}))
    for words in (
        ["status"], ["report"], ["score", "--metric", "symkl"], ["exec", "bad.jsonl"], ["run", *TINY, "--force"], ["list", "--task", word],
        ["verify", "--count", "1"], ["run", "--task", word, "--method", word], ["report", "--task", word], ["check", f"method:{word}"],
        ["run", "--nonsense", word], [word], ["list", f"--{word}"],
    ):  # fmt: skip
        assert call(words) in (0, 1, 2)
        out, err = capsys.readouterr()
        assert not set("\x1b\x00\u202e") & set(out + err), words
    assert run.is_dir()
