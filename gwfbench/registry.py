"""What can be run: the files of tasks/ and baselines/, and the entry points of other packages.

Names, fields and capabilities are read from the source as text, so that listing imports no plug-in (and so neither
torch, numpy nor pandas); a plug-in is imported when it is used. One file holds one plug-in: the dataclass with the
class variable `offers` (a task) or `needs` (a method).
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.util
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from gwfbench.errors import UserError, unknown

Kind = Literal["task", "method"]
CONTROLS = ("exact", "exact_jko", "still")  # of gwfbench/controls.py, which needs torch
_FOLDER: dict[Kind, str] = {"task": "tasks", "method": "baselines"}
_CAPABILITY: dict[Kind, str] = {"task": "offers", "method": "needs"}


@dataclass(frozen=True)
class FieldText:
    """A field of a plug-in as its source has it."""

    name: str
    type: str
    default: str
    doc: str


@dataclass(frozen=True)
class Plugin:
    """A task or method that can be named, read without importing it."""

    name: str
    kind: Kind
    module: str
    cls: str
    origin: str  # the distribution that brings it
    summary: str = ""
    capabilities: frozenset[str] = frozenset()  # names of info types that it offers or needs
    fields: tuple[FieldText, ...] = ()
    problem: str = ""  # why it can't be used; empty if it can

    def load(self) -> type:
        """Import the class.

        Raises:
            UserError: the plug-in is broken; the reason is in it.
        """
        if self.problem:
            raise UserError(
                f"{self.kind} '{self.name}' of {self.origin} is unavailable: {self.problem}",
                f"a dataclass with the class variable {_CAPABILITY[self.kind]}",
                f"mend or uninstall {self.origin}",
            )
        try:
            return getattr(importlib.import_module(self.module), self.cls)
        except Exception as error:  # whatever a stranger's module does when imported
            raise UserError(
                f"{self.kind} '{self.name}' of {self.origin} can't be imported: {type(error).__name__}: {error}",
                f"module {self.module} with class {self.cls}",
                "install what it imports, or mend it",
            ) from error


@cache
def plugins(kind: Kind) -> dict[str, Plugin]:
    """All plug-ins of a kind by name. Two of one name make that name unavailable, with both origins said."""
    found: dict[str, Plugin] = {}
    for plugin in [*_own(kind), *_foreign(kind)]:
        first = found.get(plugin.name)
        if first:
            clash = f"the name is taken twice, by {first.origin} and by {plugin.origin}"
            found[plugin.name] = Plugin(plugin.name, kind, "", "", plugin.origin, problem=clash)
        else:
            found[plugin.name] = plugin
    return dict(sorted(found.items()))


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
    """The name in `name:key=value`."""
    return text.partition(":")[0].strip()


def fits(task: Plugin, method: Plugin) -> bool:
    """Whether the task offers all that the method needs."""
    return method.capabilities <= task.capabilities


def require_fit(task: Plugin, method: Plugin) -> None:
    """Raise `UserError` with both sides, and the methods that would fit, unless the pair is valid."""
    if fits(task, method):
        return
    others = [name for name, other in plugins("method").items() if not other.problem and fits(task, other)]
    raise UserError(
        f"method '{method.name}' needs {', '.join(sorted(method.capabilities))}, "
        f"but task '{task.name}' offers {', '.join(sorted(task.capabilities))}",
        f"a method that fits '{task.name}': {', '.join(others) or 'there is none yet'}",
        f"python -m gwfbench list --task {task.name}",
    )


def parse(kind: Kind, text: str) -> Any:
    """The task or method that `name` or `name:key=value,key=value` says, as an instance of its dataclass.

    Raises:
        UserError: unknown name or field, a value of the wrong type, or one that the plug-in refuses.
    """
    name, rest = head(text), text.partition(":")[2]
    return configure(find(kind, name).load(), name, dict(_pairs(text, rest)))


def configure(cls: type, name: str, values: dict[str, str]) -> Any:
    """An instance of the dataclass with these fields, given as text."""
    hints = typing.get_type_hints(cls)
    known = {field.name: hints[field.name] for field in fields(cls) if field.init}
    for key in values:
        if key not in known:
            raise unknown(f"field of '{name}'", key, known)
    parsed = {key: _value(name, key, known[key], text) for key, text in values.items()}
    try:
        return cls(**parsed)
    except (ValueError, TypeError) as error:  # UserError passes
        shown = ",".join(f"{key}={text}" for key, text in values.items())
        raise UserError(
            f"{name}:{shown}: {error}", f"values that '{name}' accepts", "python -m gwfbench list"
        ) from error


def spec(plugin: object) -> str:
    """How a user would type it: the name, and the fields that differ from their defaults."""
    assert is_dataclass(plugin)
    changed = [
        f"{field.name}={_text(getattr(plugin, field.name))}"
        for field in fields(plugin)
        if getattr(plugin, field.name) != field.default
    ]
    return name_of(plugin) + (":" + ",".join(changed) if changed else "")


def name_of(plugin: object) -> str:
    """The registered name of an instance: of its file, or of its entry point."""
    cls = type(plugin)
    for kind in ("task", "method"):
        for known in plugins(kind).values():
            if (known.module, known.cls) == (cls.__module__, cls.__name__):
                return known.name
    return cls.__module__.rpartition(".")[2] if cls.__module__ != "__main__" else cls.__name__.lower()


def _pairs(text: str, rest: str) -> Iterator[tuple[str, str]]:
    seen: set[str] = set()
    for part in filter(None, (part.strip() for part in rest.split(","))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not (key and equals and value) or key in seen:
            raise UserError(
                f"'{part}' in '{text}'" + (" is given twice" if key in seen else ""),
                "name:key=value,key=value with each key once",
                "write, for example, ou:dim=8",
            )
        seen.add(key)
        yield key, value


def _value(name: str, key: str, hint: Any, text: str) -> Any:
    """A value of the type of the field, from text. Choices, unions with None, and plain scalars."""
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
        hint = next(choice for choice in typing.get_args(hint) if choice is not type(None))
    examples = {bool: "true", int: "8", float: "0.05", str: "word"}
    if hint not in examples:
        raise UserError(f"{name}:{key}={text}", f"nothing: a field of type {hint} can't be typed", "set it in Python")
    try:
        if hint is bool:
            return {"true": True, "false": False}[text.lower()]
        return hint(text)
    except (ValueError, KeyError):
        wanted = "true or false" if hint is bool else f"{'an' if hint is int else 'a'} {hint.__name__}"
        raise UserError(f"{name}:{key}={text}", wanted, f"write, for example, {name}:{key}={examples[hint]}") from None


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def _own(kind: Kind) -> Iterator[Plugin]:
    found = importlib.util.find_spec(f"gwfbench.{_FOLDER[kind]}")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(f"gwfbench.{_FOLDER[kind]} is missing: reinstall gwfbench")
    for folder in found.submodule_search_locations:
        for path in sorted(Path(folder).glob("*.py")):
            if not path.stem.startswith("_"):
                yield _read(kind, path.stem, f"gwfbench.{_FOLDER[kind]}.{path.stem}", None, path, "gwfbench")


def _foreign(kind: Kind) -> Iterator[Plugin]:
    for entry in importlib.metadata.entry_points(group=f"gwfbench.{kind}s"):
        origin = entry.dist.name if entry.dist else entry.value
        path = _locate(entry.module)
        if path is None or not entry.attr:
            why = f"no module {entry.module}" if path is None else f"'{entry.value}' is not module:Class"
            yield Plugin(entry.name, kind, entry.module, entry.attr, origin, problem=why)
        else:
            yield _read(kind, entry.name, entry.module, entry.attr, path, origin)


def _locate(module: str) -> Path | None:
    """The file of a module, without importing its package."""
    top, *below = module.split(".")
    found = importlib.util.find_spec(top)
    if found is None:
        return None
    if not below:
        return Path(found.origin) if found.origin else None
    for folder in found.submodule_search_locations or ():
        path = Path(folder).joinpath(*below)
        for candidate in (path.with_suffix(".py"), path / "__init__.py"):
            if candidate.is_file():
                return candidate
    return None


def _read(kind: Kind, name: str, module: str, cls: str | None, path: Path, origin: str) -> Plugin:
    """What the source says of a plug-in; a broken file is a plug-in with a problem, not an exception."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError, OSError) as error:
        return Plugin(name, kind, module, cls or "", origin, problem=f"{type(error).__name__}: {error}")
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and (cls is None or node.name == cls):
            capabilities = _capabilities(node, _CAPABILITY[kind])
            if capabilities is not None:
                summary = (ast.get_docstring(tree) or ast.get_docstring(node) or "").partition("\n")[0]
                texts = tuple(_fields(node))
                return Plugin(name, kind, module, node.name, origin, summary, capabilities, texts)
    missing = f"{path.name} has no class {cls or ''} with the class variable {_CAPABILITY[kind]}".replace("  ", " ")
    return Plugin(name, kind, module, cls or "", origin, problem=missing)


def _capabilities(node: ast.ClassDef, variable: str) -> frozenset[str] | None:
    for line in node.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.target.id == variable:
            names = ast.walk(line.value) if line.value else ()
            words = (
                n.attr if isinstance(n, ast.Attribute) else n.id
                for n in names
                if isinstance(n, ast.Attribute | ast.Name)
            )
            return frozenset(words) - {"frozenset", "info", "gwfbench"}
    return None


def _fields(node: ast.ClassDef) -> Iterator[FieldText]:
    for line, below in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            kind = ast.unparse(line.annotation)
            if kind.startswith("ClassVar"):
                continue
            doc = ""
            if (
                isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
                and isinstance(below.value.value, str)
            ):
                doc = below.value.value
            yield FieldText(line.target.id, kind, ast.unparse(line.value) if line.value else "", doc)
