"""Four hundred ways to damage what runs have written: never another number, never an endless wait, nothing deleted."""

import json
import os
import random
import shutil
import socket

import numpy as np
import pytest

from gwfbench.audit import counted, rescore, verdict
from gwfbench.store import checked, command_cache, folders, locks
from gwfbench.store.environment import env_hash
from gwfbench.store.folders import Attempt
from gwfbench.store.record import SCHEMA, Identity, Row, Run

IDENTITY = Identity("ou", 1, {"dim": 2}, "ula", 1, {"step": 0.1}, 0, "float32", "cpu")
ROWS = [
    Row(step, 0.05 * step, name, 1, "lower", "flow", "method", 0.1 * step, 0.01, 10, 1.0 * step, 5, 0, 0, 0.1, 2.0)
    for step in (1, 2, 3)
    for name in ("symkl", "w2")
]


def begun(out):
    """An attempt that has judged three laws, and its run."""
    run = Run(IDENTITY, ("Initial",), "code", "env", "2026-01-01T00:00:00+00:00", {"seconds": 3.5})
    attempt = Attempt(out, run)
    for step in (1, 2, 3):
        rows = [row for row in ROWS if row.step == step]
        run.rows += rows
        attempt.judged(step, rows, np.full((4, 2), step, dtype=np.float32))
    return attempt, run


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    attempt, run = begun(out)
    run.steps, run.seconds = 3, 1.25
    attempt.finish(run, "a log\n")
    return out


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    out = tmp_path_factory.mktemp("half")
    begun(out)
    return out


def flips(path, rng):
    data = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 3)):
        data[rng.randrange(len(data))] ^= rng.randint(1, 255)
    path.write_bytes(data)


def digits(path, rng):
    """Another digit for one: what a check of types alone does not see."""
    data = bytearray(path.read_bytes())
    places = [i for i, byte in enumerate(data) if chr(byte).isdigit()] or [0]
    data[rng.choice(places)] = ord(rng.choice("0123456789"))
    path.write_bytes(data)


def cuts(path, rng):
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])


def takes_out(path, rng):
    data = path.read_bytes()
    first = rng.randrange(len(data))
    path.write_bytes(data[:first] + data[first + rng.randint(1, 400) :])


def moves_lines(path, rng):
    lines = path.read_bytes().splitlines(keepends=True)
    rng.shuffle(lines)
    path.write_bytes(b"".join(lines[: rng.randint(1, len(lines))]))


def doubles(path, rng):
    path.write_bytes(path.read_bytes() * 2)


def nests(path, rng):
    path.write_bytes(rng.choice([b"[", b'{"a":']) * 100_000)


def latin(path, rng):
    path.write_bytes("\xe9\xff{}".encode("latin1"))


def goes(path, rng):
    path.unlink()


def pipe(path, rng):
    path.unlink()
    os.mkfifo(path)


def plug(path, rng):
    path.unlink()
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path is short
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(path.name)
    finally:
        os.chdir(here)


def links(path, rng):
    path.unlink()
    path.symlink_to(rng.choice(["/nowhere", path.name, "/dev/zero", "/dev/tty", "/", "/etc/passwd"]))


def folder(path, rng):
    path.unlink()
    path.mkdir()


HARMS = [flips, digits, digits, cuts, takes_out, moves_lines, doubles, nests, latin, goes, pipe, plug, links, folder]


def damaged(source, tmp_path, number):
    """A copy of the folder, one of its files damaged."""
    rng = random.Random(number)
    out = tmp_path / f"copy{number}"
    shutil.copytree(source, out)
    (attempt,) = (path for path in out.iterdir() if path.name != locks.FOLDER)
    file = rng.choice(sorted(path for path in attempt.iterdir()))
    harm = rng.choice(HARMS)
    harm(file, rng)
    return out, f"{harm.__name__} {file.name}, number {number}"


def same_or_said(runs, said, words, prefix=False):
    for run in runs:
        assert run.identity == IDENTITY, words
        assert run.rows == ROWS[: len(run.rows)], words
        assert prefix or len(run.rows) == len(ROWS), words
    assert runs or said, words


def test_two_hundred_damages_of_finished_runs(whole, tmp_path):
    (attempt,) = folders.places(whole)
    for number in range(200):
        out, words = damaged(whole, tmp_path, number)
        runs, said = folders.attempts(out)
        same_or_said(runs, said, words)
        counted.current(runs, out)
        command_cache.files(out)
        runs, told = folders.sweep(out)
        same_or_said(runs, told, words)
        kept = [path for path in out.rglob("*") if path.name.endswith(attempt)]
        assert kept, words  # in its place or aside
        assert folders.attempts(out)[0] == runs, words


def test_two_hundred_damages_of_half_written_runs(half, tmp_path):
    changed = 0
    for number in range(1000, 1200):
        out, words = damaged(half, tmp_path, number)
        runs, said = folders.sweep(out)
        assert said, words
        same_or_said(runs, said, words, prefix=True)
        for run in runs:
            assert (run.status, run.reason) == ("killed", "its process died"), words
            (place,) = folders.places(out).values()
            assert sorted(path.name for path in place.iterdir()) == ["draws.npz", "log.txt", "rows.jsonl", "run.json"]
        changed += not runs
        again, _ = folders.sweep(out)
        assert again == runs, words
    assert changed > 100  # most harm is seen


def test_a_kill_in_the_middle_of_finishing_leaves_all_or_what_was_judged(tmp_path, monkeypatch):
    """At each call that changes the disk, once."""
    names = ("write_text", "replace", "unlink", "open", "mkdir")
    for stop in range(1, 40):
        out, count = tmp_path / str(stop), 0

        class Killed(BaseException):
            pass

        def counting(real, stop=stop, killed=Killed):
            def call(*words, **more):
                nonlocal count
                count += 1
                if count >= stop:  # all that follows, too: a dead process tidies nothing up
                    raise killed
                return real(*words, **more)

            return call

        try:
            with monkeypatch.context() as patch:
                for name in names:
                    patch.setattr(f"pathlib.Path.{name}", counting(getattr(type(tmp_path), name)))
                out_of = begun(out)
                out_of[0].finish(out_of[1], "")
        except Killed:
            pass
        runs, _ = folders.sweep(out)
        for run in runs:
            assert run.rows == ROWS[: len(run.rows)]
            assert not [path for path in out.glob("*/*") if path.suffix[1:].isdigit()]  # no drafts are left


@pytest.mark.parametrize("schema", [SCHEMA + 1, SCHEMA - 1, 10**30, "new", None])
def test_files_of_another_version_are_left_alone_and_said(whole, half, tmp_path, schema):
    for source, name in ((whole, "run.json"), (half, "header.json")):
        out = tmp_path / name
        shutil.copytree(source, out)
        (file,) = out.glob(f"*/{name}")
        file.write_text(json.dumps(json.loads(file.read_text()) | {"schema": schema}))
        before = sorted(path.name for path in out.iterdir())
        runs, said = folders.sweep(out)
        assert not runs
        assert any("left alone" in text and f"this version reads {SCHEMA}" in text for text in said)
        assert sorted(path.name for path in out.iterdir() if path.name != locks.FOLDER) == before


@pytest.mark.parametrize("harm", sorted({*HARMS} - {goes}, key=lambda harm: harm.__name__))
def test_what_lies_next_to_runs_may_be_damaged_too(whole, tmp_path, harm):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    facts = {"torch": "2"}
    folders.save_environment(out, facts)
    verdict.keep(out, verdict.Verdict("ou", "ula", 0, "k", "a", "identical"))
    (place,) = folders.places(out).values()
    scores = place / "scores-mmd@1.jsonl"
    scores.write_text("{}\n")
    claim = out / locks.FOLDER / ("0" * 16)
    claim.parent.mkdir(exist_ok=True)
    claim.write_text("pid 1")
    for file in (out / f"env-{env_hash(facts)}.json", out / verdict.FILE, scores, claim):
        harm(file, random.Random(0))
    found = folders.environments(out, [env_hash(facts)])
    assert found[env_hash(facts)] in ({}, facts)
    verdict.kept(out)
    runs, _ = folders.attempts(out)
    assert [run.rows for run in runs] == [ROWS]
    assert counted.read(scores, runs[0])[0] == []
    locks.holder(out, "0" * 16)
    locks.is_claimed(out, "0" * 16)
    command_cache.files(out)


def test_a_renamed_folder_is_found_and_one_that_has_gone_is_said(whole, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    (place,) = folders.places(out).values()
    (run,), _ = folders.attempts(out)
    place.rename(out / "mine")
    assert folders.places(out) == {run.attempt: out / "mine"}
    shutil.rmtree(out / "mine")
    (scored,) = rescore.score("symkl", out, [run])
    assert scored.skipped == "its folder has been moved away"


def test_a_file_is_read_to_its_end_or_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 10**6)
    assert checked.read_bytes(tmp_path / "file") == b"x" * 10**6
    for number, harm in enumerate((pipe, plug, folder)):
        path = tmp_path / str(number)
        path.write_text("")
        harm(path, random.Random(0))
        with pytest.raises(OSError, match=r"regular file|directory|address"):
            checked.read_bytes(path)
    with pytest.raises(OSError, match="not a regular file"):
        checked.read_bytes(tmp_path / "0")
