"""What a suite is, read from its TOML file.

    title = "..."                     one line
    track = "default"                 of all its methods: default, paper, quick or tuned (plugins/settings.py)
    seeds = 5                         0, 1, ..., the same for all
    budget = "score_calls=1e6"        of each run's training, as `run --budget` takes it; may be left out
    curve = false                     whether laws on the way are judged too; may be left out: true
    judge = ["mmd", "w2"]             metrics that runs are judged by; may be left out: all of the task
    methods = ["ula", "smc"]          the roster
    [[tasks]]
    task = "gmm40"
    metric = "energy_distance"        the headline; may be left out: the task's first metric
    methods = ["vjko@gmm2-quick"]     its own roster, in place of the suite's; may be left out

One method has one setting on a task, so that boards follow it over tasks by its name alone, whatever its setting is.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from gwfbench.errors import UserError, require, unknown
from gwfbench.plugins import registry, settings

HERE = Path(__file__).parent
FEWEST = 5  # seeds
KINDS = {
    "title": str, "track": str, "seeds": int, "budget": str, "curve": bool, "judge": list, "methods": list,
    "tasks": list,
}  # fmt: skip
EXAMPLE = "as gwfbench/suites/suite.py describes it"


@dataclass(frozen=True)
class Part:
    """A task of a suite."""

    task: str  # as rows name it
    metric: str  # the headline; empty: the task's first
    methods: tuple[str, ...]  # as rows name them


@dataclass(frozen=True)
class Suite:
    """A suite, whose names of tasks and methods are those of rows."""

    name: str
    title: str
    track: str
    seeds: int
    parts: tuple[Part, ...]
    budget: str = ""
    curve: bool = True
    judge: tuple[str, ...] = ()

    @property
    def methods(self) -> tuple[str, ...]:
        """The names of the roster's methods, without settings."""
        return tuple(dict.fromkeys(registry.head(method) for part in self.parts for method in part.methods))

    def metric(self, part: Part) -> str:
        """The headline metric of a part."""
        plugin = registry.find("task", registry.head(part.task))
        return part.metric or (plugin.metrics or plugin.load().metrics)[0]

    def on(self, methods: Sequence[str]) -> Suite:
        """The suite with these methods in place of its roster, on each task that they fit.

        Raises:
            UserError: one fits none of the tasks, or a name is unknown.
        """
        named = {method: registry.find("method", registry.head(method)) for method in methods}
        found = [
            Part(part.task, part.metric, tuple(
                registry.canonical("method", method)
                for method, plugin in named.items()
                if registry.fits(registry.find("task", registry.head(part.task)), plugin)
            ))
            for part in self.parts
        ]  # fmt: skip
        for method in named:
            text = registry.canonical("method", method)
            require(
                any(text in part.methods for part in found),
                f"method '{method}' fits no task of suite '{self.name}'",
                f"one that needs what {', '.join(part.task for part in self.parts)} offer",
                "python -m gwfbench suite show " + self.name,
            )
        return replace(self, parts=tuple(found))


def names() -> list[str]:
    """The names of the suites that come with gwfbench."""
    return sorted(path.stem for path in HERE.glob("*.toml"))


@cache
def load(name: str) -> Suite:
    """The suite of this name, or of a TOML file of one's own.

    Raises:
        UserError: there is none, or its file is broken.
    """
    path = Path(name) if name.endswith(".toml") else HERE / f"{name}.toml"
    if not path.is_file():
        raise unknown("suite", name, names(), "python -m gwfbench suite list")
    try:
        said = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}", f"a suite, {EXAMPLE}", "fix the file") from None
    return _suite(path, said)


def _suite(path: Path, said: Mapping[str, Any]) -> Suite:
    for key, value in said.items():
        if key not in KINDS:
            raise unknown(f"key in {path}:", key, KINDS, "gwfbench/suites/suite.py")
        _require(type(value) is KINDS[key], path, f"{key} = {value!r}", f"{key}: {KINDS[key].__name__}")
    for key in ("title", "track", "seeds", "tasks"):
        _require(key in said, path, f"no {key}", key)
    tracks = (settings.DEFAULT, *settings.TRACKS)
    _require(said["track"] in tracks, path, f"track = {said['track']!r}", f"one of {', '.join(tracks)}")
    _require(said["seeds"] >= FEWEST, path, f"seeds = {said['seeds']}", f"{FEWEST} at least")
    roster = said.get("methods", [])
    parts = tuple(_part(path, one, roster) for one in said["tasks"])
    _require(bool(parts), path, "no task", "[[tasks]], once for each")
    suite = Suite(
        path.stem, said["title"], said["track"], said["seeds"], parts, said.get("budget", ""),
        said.get("curve", True), tuple(said.get("judge", [])),
    )  # fmt: skip
    for part in parts:
        for method in part.methods:
            found = registry.track(method)
            _require(
                found == suite.track, path, f"{registry.short(method)} is of the track {found}",
                f"methods of the track {suite.track} alone: a ranking of several tells nothing",
            )  # fmt: skip
    return suite


def _part(path: Path, said: Any, roster: Sequence[str]) -> Part:
    right = isinstance(said, dict) and said.keys() <= {"task", "metric", "methods"} and "task" in said
    _require(right, path, f"[[tasks]] {said!r}", "task, and metric and methods if they differ")
    methods = [registry.canonical("method", method) for method in said.get("methods", roster)]
    heads = [registry.head(method) for method in methods]
    twice = {head for head in heads if heads.count(head) > 1}
    _require(not twice, path, f"several settings of {', '.join(twice)} on {said['task']}", "one of each method")
    return Part(registry.canonical("task", said["task"]), said.get("metric", ""), tuple(methods))


def _require(right: bool, path: Path, got: str, expected: str) -> None:
    require(right, f"{path}: {got}", expected, "fix the file")
