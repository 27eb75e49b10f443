"""Checks of a plug-in alone, task or method: its class, its fields, its documentation, its imports."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.util
import math
import multiprocessing
import os
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from gwfbench import fields
from gwfbench.check.outcome import Check, Failed, Skipped, expect
from gwfbench.check.trial import Subject, unchanged
from gwfbench.errors import UserError
from gwfbench.info import Info
from gwfbench.metrics import known as known_metrics
from gwfbench.plugins.discovery import CAPABILITY, HOME, VARIABLES
from gwfbench.protocol import setting

PLUGINS = ("tasks", "baselines")
# The packages of gwfbench that a plug-in may import, from below to above. None of them knows the truth.
ALLOWED = (
    *("errors", "fields", "rng", "info", "budget", "protocol", "nn", "datasets", "objectives", "velocity", "training"),
    "metrics",
)
CHOICES = {"clock": ("jko", "flow", "none"), "seeds": ("batched", "looped"), "shapes": ("vectors", "any")}
TRIED = (math.nan, -math.inf, math.inf, -(10**9), -1, 0, 1, 2, 0.5, 1.5, 10**9)  # values that may be outside a range


def class_variables(subject: Subject) -> None:
    """The class is a frozen dataclass that has all class variables of its kind, each of the right type."""
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
    names = {field.name for field in dataclasses.fields(cls)}
    listed = names & VARIABLES[kind]
    expect(not listed, f"{', '.join(sorted(listed))} as fields", "class variables", "annotate them with ClassVar")
    bare = [field.name for field in dataclasses.fields(cls) if _bare(field)]
    expect(
        not bare,
        f"no default for {', '.join(bare)}",
        "a default for every field",
        "give it one: the plug-in's name alone must run",
    )
    infos, variable = getattr(cls, CAPABILITY[kind]), CAPABILITY[kind]
    good = isinstance(infos, frozenset) and all(isinstance(info, type) and issubclass(info, Info) for info in infos)
    expect(good and bool(infos), f"{variable} = {infos!r}", "a frozenset of types of gwfbench.info", "import them")
    for name, read in ((variable, subject.plugin.capabilities), ("one_of", subject.plugin.one_of)):
        named = {info.__name__ for info in (infos if name == variable else setting(cls, name))}
        expect(
            named == read,
            f"{name} reads {sorted(read)} in the source and is {sorted(named)}",
            "a literal frozenset({Initial, ...}), which `list` can read without importing",
            f"write the types into {name} by name",
        )
    expect(
        type(cls.version) is int and cls.version >= 1, f"version = {cls.version!r}", "1, 2, ...", "start with version 1"
    )
    good = isinstance(cls.smoke, Mapping) and set(cls.smoke) <= names
    expect(good, f"smoke = {cls.smoke!r}", f"values for some of {', '.join(sorted(names))}", "use fields of the class")
    expect(isinstance(cls.reference, str), f"reference = {cls.reference!r}", "text", "cite the source, or write ''")
    (_of_task if kind == "task" else _of_method)(cls)
    assert subject.small is not None  # it can be built


def reference(subject: Subject) -> None:
    """What to cite is a BibTeX entry with a title; what is new has none."""
    text = subject.cls.reference
    if not text.strip():
        raise Skipped("reference is empty: nothing to cite yet")
    good = text.lstrip().startswith("@") and "title" in text
    expect(good, f"reference = {text!r}", "a BibTeX entry with a title, or nothing", "cite the source")


def _bare(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _of_method(cls: Any) -> None:
    for name, choices in CHOICES.items():
        value = getattr(cls, name) if name in VARIABLES["method"] else setting(cls, name)
        expect(value in choices, f"{name} = {value!r}", f"one of {', '.join(choices)}", "see gwfbench/protocol.py")


def _of_task(cls: Any) -> None:
    good = isinstance(cls.metrics, tuple) and cls.metrics and all(isinstance(name, str) for name in cls.metrics)
    expect(bool(good), f"metrics = {cls.metrics!r}", "a tuple of names, headline first", "see gwfbench/metrics")
    expect(len(set(cls.metrics)) == len(cls.metrics), f"metrics = {cls.metrics!r}", "each name once", "remove one")
    files = setting(cls, "files")
    good = isinstance(files, tuple) and all(isinstance(path, str) for path in files)
    expect(good, f"files = {files!r}", "a tuple of paths, as text", "see Defaults in gwfbench/protocol.py")
    good = type(cls.points) is int and cls.points >= 1000
    expect(
        good, f"points = {cls.points!r}", "the number of points that moment metrics see, at least 1000", "try 100_000"
    )
    assert known_metrics()


def numbers_have_ranges(subject: Subject) -> None:
    """Every int or float field declares a range."""
    hints, known = typing.get_type_hints(subject.cls), fields.ranges(subject.cls)
    names = [field.name for field in dataclasses.fields(subject.cls) if field.name not in known]
    bare = [name for name in names if _is_numeric(hints[name])]
    expect(
        not bare,
        f"no range for {', '.join(bare)}",
        "a range for every int and float field",
        "annotate it with Count, Positive or another range of gwfbench.fields",
    )


def _is_numeric(hint: Any) -> bool:
    union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    return any(map(_is_numeric, typing.get_args(hint))) if union else hint in (int, float)


def values_outside_are_refused(subject: Subject) -> None:
    """A number outside its field's range is refused with a UserError: got, expected, how to fix."""
    known = fields.ranges(subject.cls)
    if not known:
        raise Skipped("it has no field with a range")
    for name, limits in known.items():
        outside = [value for value in TRIED if not all(limit.holds(value) for limit in limits)]
        for value in outside:
            try:
                dataclasses.replace(subject.small, **{name: value})
            except UserError as error:
                got = f"{name}={value} refused with {error.args!r}"
                good = name in error.got and all(part.strip() for part in error.args)
                expect(good, got, f"an error in three parts that names {name}", "use check_fields of gwfbench.fields")
            else:
                words = " and ".join(limit.words for limit in limits)
                expect(False, f"{name}={value} is accepted", words, "write __post_init__ = check_fields in the class")


def documentation(subject: Subject) -> None:
    """A docstring whose first line is a summary, and a string below every field, both shown by `list`."""
    plugin = subject.plugin
    expect(bool(plugin.summary), "no docstring", "a module docstring, its first line a summary", "write one")
    mute = [field.name for field in plugin.fields if not field.doc.strip()]
    expect(
        not mute, f"no text for {', '.join(mute)}", "a string literal below each field", "describe what the field means"
    )
    here = [field.name for field in plugin.fields]
    there = [field.name for field in dataclasses.fields(subject.cls)]
    expect(
        here == there,
        f"fields {here} in the source, {there} in the class",
        "the same",
        "declare them in the class body",
    )


def imports(subject: Subject) -> None:
    """Its source imports no task, no baseline and nothing that knows the truth, directly or via its own package."""
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
                "use the protocol alone: a plug-in never imports another plug-in, the controls or the driver",
            )
            if top != "gwfbench" and parts[0] == top and name not in seen:
                todo.append(name)


def _imported(module: str) -> Iterator[str]:
    """The modules that a module's source imports, except for those under TYPE_CHECKING."""
    found = importlib.util.find_spec(module)
    if found is None or not found.origin or not found.origin.endswith(".py"):
        return
    tree = ast.parse(Path(found.origin).read_bytes())
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
    """It can be imported in a fresh process, imports no other plug-in there and changes no global setting."""
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
        problem = here.recv_bytes().decode() if here.poll(120) else "the import takes more than two minutes"
    except EOFError:
        problem = "the process ended during the import"
    child.kill()
    child.join()
    expect(
        not problem,
        problem,
        "an import without side effects",
        "import only what it needs, and do nothing else at import time",
    )


def _import(pipe: Connection, environ: dict[str, str], kind: Any, module: str, name: str) -> None:
    """In the child process: send what is wrong with the import, in words; empty if nothing is."""
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


ALONE = (
    class_variables,
    reference,
    numbers_have_ranges,
    values_outside_are_refused,
    documentation,
    imports,
    stands_alone,
)
CHECKS = tuple(map(Check, ALONE))
