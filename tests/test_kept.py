"""What is kept of files in the user's cache: only what still holds, and nothing depends on it."""

import os
import sys
import time

import pytest

from gwfbench.plugins import kept, registry
from gwfbench.store import fingerprint


@pytest.fixture
def table(tmp_path, monkeypatch):
    """A function that opens the table afresh, as a later process does."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    maker = tmp_path / "maker.py"
    maker.write_text("x = 1")

    def opened():
        return kept.Table("t", str(maker))

    opened.maker, opened.folder = maker, tmp_path / "cache" / "gwfbench"
    return opened


def made(one, key="k", keep=True):
    """What the table gives, and whether it had to be made."""
    asked = []
    value = one.get(key, lambda: asked.append(1) or ["made"], keep)
    return value, bool(asked)


def test_what_was_made_is_there_the_next_time(table):
    first = table()
    assert made(first) == (["made"], True)
    assert made(first) == (["made"], False)
    assert made(first, "not kept", keep=False) == (["made"], True)
    first._write()
    assert made(table()) == (["made"], False)
    assert made(table(), "not kept") == (["made"], True)


def test_other_makers_begin_anew(table):
    first = table()
    made(first)
    first._write()
    table.maker.write_text("x = 2")
    assert made(table())[1]


@pytest.mark.parametrize(
    "change",
    [lambda b: b[:-3], lambda b: b.replace(b"made", b"fake"), lambda _: b"", lambda _: b"\xff"],
    ids=["torn", "edited", "empty", "no text"],
)
def test_a_damaged_table_is_none(table, change):
    first = table()
    made(first)
    first._write()
    (file,) = table.folder.iterdir()
    file.write_bytes(change(file.read_bytes()))
    assert made(table()) == (["made"], True)


def test_where_nothing_can_be_written_all_works(table, tmp_path):
    (tmp_path / "cache").write_text("a file")
    first = table()
    assert made(first) == (["made"], True)
    first._write()
    assert made(table()) == (["made"], True)


def test_a_fork_writes_nothing(table):
    first = table()
    made(first)
    if (child := os.fork()) == 0:
        first._write()
        os._exit(0)
    os.waitpid(child, 0)
    assert not table.folder.exists()


def test_a_full_table_forgets_what_nobody_asks_for(table, monkeypatch):
    first = table()
    made(first, "old")
    first._write()
    monkeypatch.setattr(kept, "MOST", 2)
    second = table()
    for key in "ab":
        made(second, key)
    second._write()
    third = table()
    assert [made(third, key)[1] for key in ("a", "b", "old")] == [False, False, True]


PLUGIN = '''"""{summary}"""
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Mine:
    needs: ClassVar = frozenset()
    clock: ClassVar = "none"
    seeds: ClassVar = "looped"
    version: ClassVar = 1
    reference: ClassVar = ""
    smoke: ClassVar = {{}}

    def fit(self, problem, budget, rng):
        yield {package}
'''


def test_a_changed_plug_in_is_read_again_whatever_its_time_stamp(tmp_path, monkeypatch):
    """Same size, same time: the time of change, which no program can set back, tells."""
    monkeypatch.setattr(kept, "SETTLED", 0.0)
    file = tmp_path / "mine_kept.py"
    file.write_text(PLUGIN.format(summary="First.", package="numpy"))
    monkeypatch.setenv("GWFBENCH_PLUGINS", str(file))
    before = file.stat()

    def summary():
        registry.plugins.cache_clear()
        try:
            return registry.plugins("method")["mine_kept"].summary
        finally:
            registry.plugins.cache_clear()

    time.sleep(0.01)
    assert [summary(), summary()] == ["First.", "First."]
    time.sleep(0.01)
    file.write_text(PLUGIN.format(summary="Other.", package="numpy"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert summary() == "Other."
    sys.modules.pop("gwfbench_plugins", None)


def test_a_file_that_has_just_changed_is_not_kept(tmp_path):
    """It may change again within the resolution of the clock of its file system."""
    file = tmp_path / "a.py"
    file.write_text("x")
    assert not kept.stamp(file)[1]


def test_hashes_are_the_same_without_what_is_kept(monkeypatch):
    modules = ("gwfbench.tasks.ou", "gwfbench.baselines.vjko")
    fingerprint.forget()
    first = fingerprint.code_hash(*modules)
    fingerprint.forget()
    again = fingerprint.code_hash(*modules)
    empty = kept.Table("empty", __file__)
    monkeypatch.setattr(empty, "_known", {})
    monkeypatch.setattr(fingerprint, "_KEPT", empty)
    fingerprint.forget()
    assert fingerprint.code_hash(*modules) == first == again
    assert empty._known
