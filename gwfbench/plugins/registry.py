"""Tasks and methods by name: the plug-ins that `plugins.discovery` finds, loaded and configured when they are used."""

from __future__ import annotations

import itertools
import re
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from gwfbench.errors import UserError, require, unknown
from gwfbench.plugins import discovery, settings
from gwfbench.plugins.discovery import FieldText, Kind, Plugin

__all__ = ["FieldText", "Kind", "Plugin"]
_VALUE = re.compile(r'(?:"(?:[^"\\]|\\.)*"|[^|])+')  # of value|value: a bar in quotes is none
QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
CONTROLS = ("exact", "exact_jko", "still")  # of gwfbench/drive/controls.py, which needs torch


@cache
def plugins(kind: Kind) -> dict[str, Plugin]:
    """All plug-ins of a kind by name. One whose name is taken, or can't be typed, is unavailable, and says so."""
    found: dict[str, Plugin] = {}
    for plugin in [*discovery.own(kind), *discovery.foreign(kind), *discovery.single(kind)]:
        first = found.get(plugin.name)
        why = ""
        if first:
            why = f"the name is taken twice, by {first.origin} and by {plugin.origin}"
        elif plugin.name in CONTROLS:
            why = f"'{plugin.name}' is the name of a control"
        elif not re.fullmatch(r"[\w.+-]+", plugin.name):
            why = "the name has other characters than letters, digits and _ . + -"
        broken = Plugin(plugin.name, kind, "", "", plugin.origin, problem=why, fix=f"rename that of {plugin.origin}")
        found[plugin.name] = broken if why else plugin
    return dict(sorted(found.items()))


def is_control(name: str) -> bool:
    """Whether this is a control, which runs with every task.

    Raises:
        UserError: a plug-in has the name of a control.
    """
    taken = plugins("method").get(name) if name in CONTROLS else None
    if taken is not None:
        taken.load()
    return name in CONTROLS


def add_files(paths: Iterable[Path]) -> None:
    """Add plug-ins from single files, here and in child processes.

    Raises:
        UserError: one of them is not a Python file.
    """
    discovery.add_files(paths)
    plugins.cache_clear()


def find(kind: Kind, name: str) -> Plugin:
    """The plug-in of this name.

    Raises:
        UserError: there is none; the nearest name is suggested.
    """
    at_hand = plugins(kind)
    if name not in at_hand:
        raise unknown(kind, name, at_hand)
    return at_hand[name]


def head(text: str) -> str:
    """The name in `name:key=value` and in `name@setting:key=value`."""
    return text.partition(":")[0].partition("@")[0].strip()


def typed(text: str) -> dict[str, str]:
    """The fields given in `name:key=value,key=value`, as text; with `name@setting`, also those of the setting.

    Raises:
        UserError: the text does not have that form, or there is no such setting.
    """
    own = dict(_pairs(text, text.partition(":")[2]))
    name, at, wanted = (part.strip() for part in text.partition(":")[0].partition("@"))
    if not at:
        return own
    require(
        name in plugins("method"),
        f"'{name}@{wanted}'",
        "a method before the @: tasks and controls have no named settings",
        f"write {name}:key=value",
    )
    known = find("method", name).settings
    if wanted not in known:
        raise unknown(f"setting of '{name}'", wanted, known, f"python -m gwfbench list --method {name}")
    return dict(_pairs(text, known[wanted].fields)) | own


def grid(text: str) -> list[str]:
    """Each `name:key=value` that a text with several values for a key means: `ula:step=0.1|0.2` is two methods."""
    start, colon, rest = text.partition(":")
    choices = [
        [f"{key}={value}" for value in _VALUE.findall(values)] if equals else [part]
        for part in settings.PART.findall(rest)
        for key, equals, values in [part.partition("=")]
    ]
    return [start + colon + ",".join(chosen) for chosen in itertools.product(*choices)]


def canonical(kind: Kind, text: str) -> str:
    """The same task or method as rows name it: all fields that differ from their defaults, in order.

    Raises:
        UserError: it can't be configured.
    """
    return text if kind == "method" and is_control(text) else spec(parse(kind, text))


def short(text: str) -> str:
    """A method as boards name it: by a named setting where that is shorter (settings.py); what is unknown, as it is."""
    name, _, fields = text.partition(":")
    plugin = plugins("method").get(name)
    return text if plugin is None else settings.short(name, fields, plugin.settings, plugin.defaults)


def track(text: str) -> str:
    """The track of a method as rows name it: default, paper, quick, tuned, or own."""
    name, _, fields = text.partition(":")
    plugin = plugins("method").get(name)
    known, defaults = (plugin.settings, plugin.defaults) if plugin else ({}, {})
    return settings.track(fields, known, defaults)


def fits(task: Plugin, method: Plugin) -> bool:
    """Whether the task offers everything that the method needs, and at least one of its `one_of`."""
    return method.capabilities <= task.capabilities and (not method.one_of or bool(method.one_of & task.capabilities))


def needs(method: Plugin) -> str:
    """The needs of a method, in words."""
    choice = f"one of {', '.join(sorted(method.one_of))}" if method.one_of else ""
    return " and ".join(filter(None, [", ".join(sorted(method.capabilities)), choice]))


def require_fit(task: Plugin, method: Plugin) -> None:
    """Raise `UserError`, which names the methods that would fit, unless the pair is valid."""
    if fits(task, method):
        return
    others = [name for name, other in plugins("method").items() if not other.problem and fits(task, other)]
    raise UserError(
        f"method '{method.name}' needs {needs(method)}, "
        f"but task '{task.name}' offers {', '.join(sorted(task.capabilities))}",
        f"a method that fits '{task.name}': {', '.join(others) or 'none so far'}",
        f"python -m gwfbench list --task {task.name}",
    )


def parse(kind: Kind, text: str) -> Any:
    """The task or method given by `name` or `name:key=value,key=value`, as an instance of its dataclass.

    Raises:
        UserError: the name or a field is unknown, or a value has the wrong type or is refused by the plug-in.
    """
    name = head(text)
    return configure(find(kind, name).load(), name, typed(text))


def configure(cls: type, name: str, values: dict[str, str]) -> Any:
    """An instance of the dataclass with these fields, given as text.

    Raises:
        UserError: the class is no dataclass, has no such field, or refuses the values.
    """
    require_frozen(cls, name)
    try:
        hints = _hints(cls)
        declared = fields(cls)
    except (NameError, TypeError) as error:
        raise UserError(
            f"class {cls.__name__} of '{name}': {error}", "types that can be read", f"fix '{name}'"
        ) from error
    known = {field.name: hints[field.name] for field in declared if field.init}
    for key in values:
        if key not in known:
            raise unknown(f"field of '{name}'", key, known)
    parsed = {key: _value(name, key, known[key], text) for key, text in values.items()}
    try:
        return cls(**parsed)
    except (ValueError, TypeError, ArithmeticError) as error:  # UserError passes
        shown = ",".join(f"{key}={text}" for key, text in values.items())
        raise UserError(
            f"{name}:{shown}: {error}", f"values that '{name}' accepts", "python -m gwfbench list"
        ) from error


def require_frozen(cls: type, name: str) -> None:
    """Raise `UserError` unless the class is a frozen dataclass whose class variables are none of its fields."""
    settings: Any = getattr(cls, "__dataclass_params__", None)
    require(
        bool(settings and settings.frozen),
        f"class {cls.__name__} of '{name}' is no frozen dataclass",
        "a frozen dataclass: its fields are settings, which stay what they are",
        f"write @dataclass(frozen=True) above class {cls.__name__}",
    )
    variables = discovery.VARIABLES["method" if getattr(cls, "offers", None) is None else "task"]
    listed = ", ".join(field.name for field in fields(cls) if field.name in variables)
    require(
        not listed,
        f"class {cls.__name__} of '{name}' has {listed} among its fields",
        "class variables",
        "annotate them with ClassVar, as in `version: ClassVar = 1`, or leave the annotation out",
    )


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def spec(plugin: object) -> str:
    """A plug-in as typed on the command line: its name, and the fields that differ from their defaults."""
    changed = typed_fields(plugin)
    return name_of(plugin) + (":" + changed if changed else "")


def typed_fields(plugin: object) -> str:
    """The fields that differ from their defaults, as typed on the command line."""
    assert is_dataclass(plugin)
    values = {field.name: getattr(plugin, field.name) for field in fields(plugin)}
    defaults = {field.name: field.default for field in fields(plugin)}
    chosen = {name for name, hint in _hints(type(plugin)).items() if typing.get_origin(hint) is Literal}
    return ",".join(
        f"{name}={value if name in chosen else _text(value)}"
        for name, value in values.items()
        if value != defaults[name]
    )


def name_of(plugin: object) -> str:
    """The registered name of an instance: that of its file or of its entry point."""
    cls = type(plugin)
    for kind in ("task", "method"):
        for known in plugins(kind).values():
            if (known.module, known.cls) == (cls.__module__, cls.__name__):
                return known.name
    return cls.__module__.rpartition(".")[2] if cls.__module__ != "__main__" else cls.__name__.lower()


def data_files(task: object) -> tuple[Path, ...]:
    """The files of a user's own that this task, configured as it is, reads; see `Task` in the protocol.

    Raises:
        UserError: they are missing.
    """
    return tuple(getattr(task, "data_files", tuple)())


def remarks(task: object) -> tuple[str, ...]:
    """What is to be said before a task runs; see `Task` in the protocol."""
    return tuple(getattr(task, "remarks", tuple)())


def _pairs(text: str, rest: str) -> Iterator[tuple[str, str]]:
    seen: set[str] = set()
    for part in filter(None, (part.strip() for part in settings.PART.findall(rest))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not (key and equals and value) or key in seen:
            raise UserError(
                f"'{part}' in '{text}'" + (" is given twice" if key in seen else ""),
                "name:key=value,key=value, with each key once",
                "write, for example, ou:dim=8",
            )
        seen.add(key)
        yield key, value


def _value(name: str, key: str, hint: Any, text: str) -> Any:
    """A value of the field's type, from text: a choice, a scalar, or None if the type allows it."""
    origin = typing.get_origin(hint)
    if origin is Literal:
        choices = {str(choice): choice for choice in typing.get_args(hint)}
        if text in choices:
            return choices[text]
        raise UserError(
            f"{name}:{key}={text}", f"one of {', '.join(choices)}", f"write {name}:{key}={next(iter(choices))}"
        )
    if origin in (types.UnionType, typing.Union):
        if text.lower() == "none" and type(None) in typing.get_args(hint):
            return None
        inner = next(choice for choice in typing.get_args(hint) if choice is not type(None))
        return _value(name, key, inner, text)
    examples = {bool: "true", int: "8", float: "0.05", str: "word"}
    if hint is str and QUOTED.fullmatch(text):
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    if hint not in examples:
        raise UserError(
            f"{name}:{key}={text}", f"a field that a command can set; its type is {hint}", "set this field in Python"
        )
    try:
        if hint is bool:
            return {"true": True, "false": False}[text.lower()]
        return hint(text)
    except (ValueError, KeyError):
        wanted = "true or false" if hint is bool else f"{'an' if hint is int else 'a'} {hint.__name__}"
        raise UserError(f"{name}:{key}={text}", wanted, f"write, for example, {name}:{key}={examples[hint]}") from None


def _text(value: object) -> str:
    """As it is typed: text that has a comma, a quote or another meaning stands in double quotes."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    text = str(value)
    plain = not isinstance(value, str) or (text and text == text.strip() and not re.search(r'[",\\]', text))
    if plain and not (isinstance(value, str) and text.lower() == "none"):
        return text
    return '"' + re.sub(r'([\\"])', r"\\\1", text) + '"'
