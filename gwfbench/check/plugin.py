"""Checks of a plug-in alone, task or method: its class, its words, its imports."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.util
import multiprocessing
import os
import sys
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from gwfbench.check.outcome import Check, Failed, Skipped, expect
from gwfbench.check.trial import Subject, unchanged
from gwfbench.drive.shapes import SHAPES
from gwfbench.info import Info
from gwfbench.metrics import known as known_metrics
from gwfbench.plugins.discovery import CAPABILITY, CHOICE, HOME, VARIABLES

PLUGINS = ("tasks", "baselines")
# What of gwfbench a plug-in may import, from below to above: nothing that knows the truth.
ALLOWED = (
    *("errors", "fields", "rng", "info", "budget", "protocol", "nn", "datasets", "objectives", "velocity", "training"),
    "metrics",
)
CHOICES = {"clock": ("jko", "flow", "none"), "seeds": ("batched", "looped")}


def class_variables(subject: Subject) -> None:
    """A frozen dataclass with the kind's class variables, each of its type."""
    cls, kind = subject.cls, subject.plugin.kind
    settings = getattr(cls, "__dataclass_params__", None)
    expect(
        bool(settings and settings.frozen),
        f"class {cls.__name__}",
        "a frozen dataclass",
        "put @dataclass(frozen=True) above it",
    )
    missing = sorted(name for name in VARIABLES[kind] if getattr(cls, name, None) is None)
    expect(not missing, f"no {', '.join(missing)}", f"class variables {', '.join(sorted(VARIABLES[kind]))}", "add them")
    fields = {field.name for field in dataclasses.fields(cls)}
    listed = fields & VARIABLES[kind]
    expect(not listed, f"{', '.join(sorted(listed))} as fields", "class variables", "annotate them with ClassVar")
    bare = [field.name for field in dataclasses.fields(cls) if _bare(field)]
    expect(not bare, f"no default for {', '.join(bare)}", "a default for every field", "the name alone must run")
    infos, variable = getattr(cls, CAPABILITY[kind]), CAPABILITY[kind]
    good = isinstance(infos, frozenset) and all(isinstance(info, type) and issubclass(info, Info) for info in infos)
    expect(good and bool(infos), f"{variable} = {infos!r}", "a frozenset of types of gwfbench.info", "import them")
    for choice in getattr(cls, CHOICE, frozenset()):
        expect(choice.__name__ in subject.plugin.one_of, f"{CHOICE} has {choice!r}", "types by name", f"mend {CHOICE}")
    said = {info.__name__ for info in infos}
    expect(
        said == subject.plugin.capabilities,
        f"{variable} reads {sorted(subject.plugin.capabilities)} in the source and is {sorted(said)}",
        "a literal frozenset({Initial, ...}), as `list` reads it without importing",
        f"write the types into {variable} by name",
    )
    expect(
        type(cls.version) is int and cls.version >= 1, f"version = {cls.version!r}", "1, 2, ...", "start with version 1"
    )
    good = isinstance(cls.smoke, Mapping) and set(cls.smoke) <= fields
    expect(
        good, f"smoke = {cls.smoke!r}", f"values for some of {', '.join(sorted(fields))}", "name fields of the class"
    )
    good = isinstance(cls.reference, str) and cls.reference.lstrip().startswith("@") and "title" in cls.reference
    expect(good, f"reference = {cls.reference!r}", "a BibTeX entry with a title", "cite the source")
    (_of_task if kind == "task" else _of_method)(cls)
    assert subject.small is not None  # built: its fields were accepted


def _bare(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _of_method(cls: Any) -> None:
    for name, choices in {**CHOICES, SHAPES: ("vectors", "any")}.items():
        value = getattr(cls, name, "vectors")  # SHAPES alone may be left out
        expect(value in choices, f"{name} = {value!r}", f"one of {', '.join(choices)}", "see gwfbench/protocol.py")


def _of_task(cls: Any) -> None:
    good = isinstance(cls.metrics, tuple) and cls.metrics and all(isinstance(name, str) for name in cls.metrics)
    expect(bool(good), f"metrics = {cls.metrics!r}", "a tuple of names, headline first", "see gwfbench/metrics")
    expect(len(set(cls.metrics)) == len(cls.metrics), f"metrics = {cls.metrics!r}", "each name once", "drop one")
    good = type(cls.points) is int and cls.points >= 1000
    expect(good, f"points = {cls.points!r}", "how many points moment metrics see, 1000 or more", "try 100_000")
    assert known_metrics()


def words(subject: Subject) -> None:
    """A line that says what it is, and a string below every field, as `list` shows them."""
    plugin = subject.plugin
    expect(bool(plugin.summary), "no docstring", "a module docstring, its first line a summary", "write one")
    mute = [field.name for field in plugin.fields if not field.doc.strip()]
    expect(
        not mute, f"no words for {', '.join(mute)}", "a string literal below each field", "write what the field means"
    )
    here = [field.name for field in plugin.fields]
    there = [field.name for field in dataclasses.fields(subject.cls)]
    expect(here == there, f"fields {here} in the source, {there} in the class", "the same", "declare them in the class")


def imports(subject: Subject) -> None:
    """Its source imports no task, no baseline and nothing that knows the truth, directly or through its own package."""
    todo, seen = [subject.plugin.module], set()
    top = subject.plugin.module.partition(".")[0]
    while todo:
        module = todo.pop()
        seen.add(module)
        for name in _imported(module):
            parts = name.split(".")
            inner = parts[1] if parts[0] == "gwfbench" and len(parts) > 1 else ""
            bad = parts[0] in PLUGINS or (inner and inner not in (*ALLOWED, "UserError"))
            expect(
                not bad,
                f"{module} imports {name}",
                f"of gwfbench only {', '.join(ALLOWED)}",
                "a plug-in knows the protocol and never another plug-in, the controls or the runner",
            )
            if top != "gwfbench" and parts[0] == top and name not in seen:
                todo.append(name)


def _imported(module: str) -> Iterator[str]:
    """The modules that a module's source names in imports, those for types alone left out."""
    found = importlib.util.find_spec(module)
    if found is None or not found.origin or not found.origin.endswith(".py"):
        return
    tree = ast.parse(Path(found.origin).read_text(encoding="utf-8"))
    typing = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    skipped = {id(inner) for node in typing for inner in ast.walk(node)}
    package = module if found.submodule_search_locations else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and id(node) not in skipped:
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and id(node) not in skipped:
            start = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            yield start
            yield from (f"{start}.{alias.name}" for alias in node.names if _exists(f"{start}.{alias.name}"))


def _exists(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ModuleNotFoundError, ValueError):
        return False


def stands_alone(subject: Subject) -> None:
    """It imports in a fresh process, brings no other plug-in with it and changes no global setting there."""
    try:
        context = multiprocessing.get_context("forkserver")
    except ValueError:
        raise Skipped("this system has no forkserver") from None
    context.set_forkserver_preload(["gwfbench.check.plugin"])
    here, there = context.Pipe(duplex=False)
    plugin = subject.plugin
    child = context.Process(target=_import, args=(there, dict(os.environ), plugin.kind, plugin.module, plugin.cls))
    child.start()
    there.close()
    try:
        problem = here.recv_bytes().decode() if here.poll(120) else "the import did not end in two minutes"
    except EOFError:
        problem = "the process ended in the import"
    child.kill()
    child.join()
    expect(not problem, problem, "a quiet import", "import what it needs itself, and do nothing else at import time")


def _import(pipe: Connection, environ: dict[str, str], kind: Any, module: str, name: str) -> None:
    """In the child: what is wrong with the import, in words; empty if nothing."""
    os.environ.clear()
    os.environ.update(environ)
    from gwfbench.plugins import registry

    registry.plugins(kind)  # makes single files importable
    problem = ""
    try:
        unchanged(lambda: getattr(importlib.import_module(module), name))
        plugins = tuple(f"gwfbench.{folder}." for folder in PLUGINS)
        others = [other for other in sys.modules if other.startswith((*plugins, f"{HOME}.")) and other != module]
        if others and not module.startswith(HOME):
            problem = f"importing it imports {', '.join(sorted(others))}"
    except Failed as error:
        problem = error.got
    except (Exception, SystemExit) as error:
        problem = f"{type(error).__name__}: {error}"
    pipe.send_bytes(problem.encode(errors="replace"))


CHECKS = tuple(map(Check, (class_variables, words, imports, stands_alone)))
