"""Where plug-ins come from, and what their source code says of them. The source is read as text; nothing is imported.

There are three places: the files of tasks/ and baselines/; the entry points of installed packages; and single files
listed in the environment variable GWFBENCH_PLUGINS (set by `--plugin`), which child processes and cluster jobs inherit.
A file contains one plug-in of a kind: the dataclass with the class variable `offers` (a task) or `needs` (a method).
"""

from __future__ import annotations

import ast
import contextlib
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import sys
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from gwfbench import fields as ranges
from gwfbench.errors import UserError, require
from gwfbench.plugins import kept, settings
from gwfbench.plugins.single import FILES, HOME, at_home, has_metrics, listed

Kind = Literal["task", "method"]
CAPABILITY: dict[Kind, str] = {"task": "offers", "method": "needs"}
VARIABLES: dict[Kind, frozenset[str]] = {
    "task": frozenset({"offers", "metrics", "points", "version", "reference", "smoke"}),
    "method": frozenset({"needs", "clock", "seeds", "version", "reference", "smoke"}),
}
_FOLDER: dict[Kind, str] = {"task": "tasks", "method": "baselines"}
_VERB: dict[Kind, str] = {"task": "build", "method": "fit"}
_CALL: dict[Kind, str] = {"task": "build(self, rng)", "method": "fit(self, problem, budget, rng)"}
EXAMPLES = {  # of the values of class variables
    "offers": "frozenset({Initial, LogDensity})", "needs": "frozenset({Initial, LogDensity})",
    "metrics": '("w2", "sliced_w2")', "points": "10_000", "version": "1", "reference": '""', "smoke": "{}",
    "clock": '"none"', "seeds": '"looped"',
}  # fmt: skip


@dataclass(frozen=True)
class FieldText:
    """A field of a plug-in as written in its source."""

    name: str
    type: str  # without its range
    range: str  # in words; empty if none is declared
    default: str
    doc: str


@dataclass(frozen=True)
class Plugin:
    """A task or method that can be named, as read from its source."""

    name: str
    kind: Kind
    module: str
    cls: str
    origin: str  # the distribution or file that it comes from
    summary: str = ""
    capabilities: frozenset[str] = frozenset()  # names of the info types that it offers or needs
    one_of: frozenset[str] = frozenset()  # info types of which a method needs at least one; may be empty
    fields: tuple[FieldText, ...] = ()
    problem: str = ""  # why it can't be used; empty if it can
    fix: str = ""  # what to do about it
    packages: tuple[str, ...] = ()  # that its file imports at top level
    metrics: tuple[str, ...] = ()  # of a task; none if its source does not list them word by word
    file: str = ""  # its source; empty if it was not found

    @property
    def settings(self) -> Mapping[str, settings.Setting]:
        """Its named settings: what the TOML file next to its source has.

        Raises:
            UserError: that file is broken.
        """
        return settings.read(Path(self.file).with_suffix(".toml")) if self.file and self.kind == "method" else {}

    @property
    def defaults(self) -> dict[str, str]:
        """The defaults of its fields, as one types them."""
        words = {"None": "none", "True": "true", "False": "false"}
        return {field.name: words.get(field.default, field.default.strip("'\"")) for field in self.fields}

    @staticmethod
    def of(values: dict[str, Any]) -> Plugin:
        """From plain values, where sets and fields are lists."""
        made: dict[str, Any] = {name: frozenset(values[name]) for name in ("capabilities", "one_of")}
        made |= {name: tuple(values[name]) for name in ("packages", "metrics")}
        made["fields"] = tuple(FieldText(**one) for one in values["fields"])
        return Plugin(**values | made)

    def words(self) -> dict[str, Any]:
        """The plain values."""
        return asdict(self) | {name: sorted(getattr(self, name)) for name in ("capabilities", "one_of")}

    def load(self) -> type:
        """Import the class.

        Raises:
            UserError: the plug-in is broken; the message gives the reason.
        """
        if self.problem:
            raise UserError(
                f"{self.kind} '{self.name}' of {self.origin} is unavailable: {self.problem}",
                f"a {self.kind} as gwfbench/protocol.py describes it",
                self.fix or f"correct the source of {self.origin}",
            )
        try:
            with contextlib.redirect_stdout(sys.stderr):  # what it prints must not break --format json
                cls = getattr(importlib.import_module(self.module), self.cls)
        except (Exception, SystemExit) as error:  # whatever a third-party module does when imported
            raise UserError(
                f"{self.kind} '{self.name}' of {self.origin} can't be imported: {type(error).__name__}: {error}",
                f"module {self.module} with class {self.cls}",
                f"install the packages that it imports, or fix {self.module}",
            ) from error
        ranges.give_name(cls, self.name)
        return cls


def own(kind: Kind) -> Iterator[Plugin]:
    """The files of tasks/ or baselines/."""
    found = importlib.util.find_spec(f"gwfbench.{_FOLDER[kind]}")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(f"gwfbench.{_FOLDER[kind]} is missing: reinstall gwfbench")
    for folder in found.submodule_search_locations:
        for path in sorted(Path(folder).glob("*.py")):
            if not path.stem.startswith("_"):
                yield _read(kind, path.stem, f"gwfbench.{_FOLDER[kind]}.{path.stem}", None, path, "gwfbench")


def foreign(kind: Kind) -> Iterator[Plugin]:
    """The entry points `gwfbench.tasks` or `gwfbench.methods` of installed packages."""
    for entry in importlib.metadata.entry_points(group=f"gwfbench.{kind}s"):
        origin = entry.dist.name if entry.dist else entry.value
        path = _locate(entry.module)
        if path is None or not entry.attr:
            why = f"no module {entry.module}" if path is None else f"'{entry.value}' is not module:Class"
            yield Plugin(entry.name, kind, entry.module, entry.attr, origin, problem=why)
        else:
            yield _read(kind, entry.name, entry.module, entry.attr, path, origin)


def add_files(paths: Iterable[Path]) -> None:
    """Add single files to GWFBENCH_PLUGINS, for this process and its children.

    Raises:
        UserError: one is not a Python file whose name is a valid module name.
    """
    known = [*map(str, listed())]
    for path in paths:
        require(path.is_file(), f"--plugin {path}: no such file", "a Python file", "check the path")
        require(
            path.suffix == ".py" and path.stem.isidentifier() and os.pathsep not in str(path.absolute()),
            f"--plugin {path}",
            "a Python file with a valid module name, such as my_method.py",
            "rename it; --task or --method then takes its name",
        )
        known.append(str(path.resolve()))
    os.environ[FILES] = os.pathsep.join(dict.fromkeys(known))


def single(kind: Kind) -> Iterator[Plugin]:
    """The files listed in GWFBENCH_PLUGINS. One without a task, a method or a metric is listed as a broken method."""
    paths = listed()
    if not paths:
        return
    home = at_home(paths)
    for path in paths:
        found: dict[Kind, Plugin] = {
            each: _read(each, path.stem, f"{HOME}.{path.stem}", None, path, str(path)) for each in CAPABILITY
        }
        neither = not any(plugin.cls for plugin in found.values()) and not has_metrics(path)
        if found[kind].cls or (neither and kind == "method"):
            clash = _two_neighbours(path, home)
            yield replace(found[kind], problem=clash, fix="rename one of them") if clash else found[kind]


def _two_neighbours(path: Path, folders: Iterable[str]) -> str:
    """Which module next to the file it imports, itself or by another one, that is in two of the folders; else empty."""
    todo, seen = [path], set[Path]()
    while todo:
        file = todo.pop()
        seen.add(file)
        try:
            names = set(_from_home(ast.parse(file.read_bytes())))
        except (SyntaxError, ValueError, OSError, RecursionError, MemoryError):
            continue  # reported when it is imported
        for name in sorted(names):
            places = [p for folder in folders for p in (Path(folder, f"{name}.py"), Path(folder, name)) if p.exists()]
            if len(places) > 1 and file.parent in {place.parent for place in places}:
                return f"it imports {HOME}.{name}, which is in two places: {' and '.join(map(str, places))}"
            todo += [place for place in places if place.is_file() and place not in seen]
    return ""


def _from_home(tree: ast.Module) -> Iterator[str]:
    """Names of modules of the package of single files that this one imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith(f"{HOME}."))
        elif isinstance(node, ast.ImportFrom):
            start = (node.module or "").removeprefix(HOME if not node.level else "").lstrip(".")
            if node.level or (node.module or "").partition(".")[0] == HOME:
                yield from [start.partition(".")[0]] if start else (alias.name for alias in node.names)


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


_KEPT = kept.Table("plugins", __file__, ranges.__file__)


def _read(kind: Kind, name: str, module: str, cls: str | None, path: Path, origin: str) -> Plugin:
    """A plug-in as its source describes it; a broken file gives a plug-in with a problem, not an exception.

    What its source says is kept, so that a file is parsed again only after a change.
    """
    try:
        state, settled = kept.stamp(path)
    except OSError:
        return replace(_parsed(kind, name, module, cls, path, origin), file=str(path))
    key = f"{kind} {name} {module} {cls} {origin} {state}"
    found = _KEPT.get(key, lambda: _parsed(kind, name, module, cls, path, origin).words(), settled)
    plugin = replace(Plugin.of(found), file=str(path))
    why, fix = ("", "") if plugin.problem else _not_installed(plugin.packages)
    return replace(plugin, problem=why, fix=fix) if why else plugin


def _parsed(kind: Kind, name: str, module: str, cls: str | None, path: Path, origin: str) -> Plugin:
    try:
        tree = ast.parse(path.read_bytes())  # bytes: the file says how it is encoded
    except (SyntaxError, ValueError, OSError, RecursionError, MemoryError) as error:
        return Plugin(name, kind, module, cls or "", origin, problem=f"{type(error).__name__}: {error}")
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and (cls is None or node.name == cls):
            declared = variables(node)
            if CAPABILITY[kind] in declared:
                summary = (ast.get_docstring(tree) or ast.get_docstring(node) or "").partition("\n")[0]
                texts = tuple(_fields(node, variables(tree)))
                why, fix = _missing(kind, node) or ("", "")
                needed, choice = (_infos(declared.get(variable)) for variable in (CAPABILITY[kind], "one_of"))
                return Plugin(
                    *(name, kind, module, node.name, origin, summary, needed, choice, texts, why, fix),
                    packages=_packages(tree),
                    metrics=tuple(_listed(declared.get("metrics")) or ()) if kind == "task" else (),
                )
    missing = f"{path.name} has no class {cls or ''} with the class variable {CAPABILITY[kind]}".replace("  ", " ")
    fix = "write `needs: ClassVar = frozenset({...})` into the class of a method, `offers: ...` into that of a task"
    return Plugin(name, kind, module, cls or "", origin, problem=missing, fix=fix)


def variables(node: ast.ClassDef | ast.Module) -> dict[str, ast.expr | None]:
    """What the body of a class or module assigns to names, with or without annotation; None: annotated only."""
    found: dict[str, ast.expr | None] = {}
    for line in node.body:
        if isinstance(line, ast.Assign | ast.AnnAssign):
            targets = line.targets if isinstance(line, ast.Assign) else [line.target]
            found |= {target.id: line.value for target in targets if isinstance(target, ast.Name)}
    return found


def _listed(node: ast.expr | None) -> list[str] | None:
    """The words of `("w2", *("kl", "ksd"))`; None if there is something else among them."""
    match node:
        case ast.Constant(value=str() as word):
            return [word]
        case ast.Starred(value=ast.Tuple() as inner):
            return _listed(inner)
        case ast.Tuple(elts=parts):
            found = [_listed(part) for part in parts]
            return None if None in found else [word for part in found for word in part or ()]
    return None


def _missing(kind: Kind, node: ast.ClassDef) -> tuple[str, str] | None:
    """What this class lacks, and what to do. Classes with bases are skipped: they may inherit it."""
    if any(not (isinstance(base, ast.Name) and base.id == "object") for base in node.bases):
        return None
    lacks = sorted(VARIABLES[kind] - set(variables(node)))
    if lacks:
        examples = "; ".join(f"{name}: ClassVar = {EXAMPLES[name]}" for name in lacks)
        return f"class {node.name} has no class variable {', '.join(lacks)}", f"write into the class: {examples}"
    methods = {line.name for line in node.body if isinstance(line, ast.FunctionDef)}
    if _VERB[kind] in methods:
        return None
    return f"class {node.name} has no method {_VERB[kind]}", f"write it, as gwfbench/protocol.py shows: {_CALL[kind]}"


def _packages(tree: ast.Module) -> tuple[str, ...]:
    """The packages that the file imports at top level."""
    tops: set[str] = set()
    for line in tree.body:
        if isinstance(line, ast.Import):
            tops |= {alias.name.partition(".")[0] for alias in line.names}
        elif isinstance(line, ast.ImportFrom) and not line.level and line.module:
            tops.add(line.module.partition(".")[0])
    return tuple(sorted(tops))


def _not_installed(tops: Iterable[str]) -> tuple[str, str]:
    """Which of these packages are not installed, and what to do."""
    gone = ", ".join(top for top in tops if not _installed(top))
    return (f"it imports {gone}, which is not installed", f"install {gone}") if gone else ("", "")


@cache
def _installed(top: str) -> bool:
    try:
        return top in sys.modules or importlib.util.find_spec(top) is not None
    except (ValueError, ImportError):
        return False


def _infos(value: ast.expr | None) -> frozenset[str]:
    """The info types named in `frozenset({Initial, info.LogDensity})`."""
    names = (_name(part) for part in ast.walk(value)) if value else ()
    return frozenset(filter(None, names)) - {"frozenset", "info", "gwfbench"}


def _name(node: ast.expr | ast.AST) -> str:
    """`Count` of `Count` and of `fields.Count`; empty if the expression is no name."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _fields(node: ast.ClassDef, known: dict[str, ast.expr | None]) -> Iterator[FieldText]:
    """The fields of a class.

    Args:
        known: what the names of its module stand for.
    """
    for line, below in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(line, ast.AnnAssign) or not isinstance(line.target, ast.Name):
            continue
        kind, limits = _typed(line.annotation, known)
        if kind.startswith("ClassVar"):
            continue
        doc = below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else ""
        default = ast.unparse(line.value) if line.value else ""
        words = " ".join(doc.split()) if isinstance(doc, str) else ""
        yield FieldText(line.target.id, kind, " and ".join(limits), default, words)


def _typed(node: ast.expr, known: dict[str, ast.expr | None]) -> tuple[str, list[str]]:
    """A type without its ranges, and its ranges in words: `Count | None` is `int | None`, at least 1."""
    match node:
        case ast.Name() | ast.Attribute():
            named: Any = getattr(ranges, _name(node), None)
            if typing.get_origin(named) is typing.Annotated:
                return named.__origin__.__name__, [part.words for part in named.__metadata__]
            meant = known.get(_name(node))
            if meant is not None:
                return _typed(meant, {name: value for name, value in known.items() if name != _name(node)})
        case ast.BinOp(op=ast.BitOr()):
            (left, some), (right, more) = _typed(node.left, known), _typed(node.right, known)
            return f"{left} | {right}", some + more
        case ast.Subscript(slice=ast.Tuple(elts=[first, *rest])) if _name(node.value) == "Annotated":
            kind, limits = _typed(first, known)
            return kind, limits + [words for part in rest if (words := _words(part, known))]
    return ast.unparse(node), []


def _words(node: ast.expr, known: dict[str, ast.expr | None]) -> str:
    """A range in words: `at_least(2)`, `between(0, 1)`, or the words of a `Range(...)`; empty if they can't be read."""
    meant = known.get(_name(node))
    if meant is not None:
        return _words(meant, {name: value for name, value in known.items() if name != _name(node)})
    if not isinstance(node, ast.Call):
        return ""
    try:
        if _name(node.func) in ("at_least", "between"):
            return getattr(ranges, _name(node.func))(*map(ast.literal_eval, node.args)).words
        if _name(node.func) == "Range":
            named = {part.arg: part.value for part in node.keywords}
            return str(ast.literal_eval(named["words"] if "words" in named else node.args[1]))
    except (ValueError, TypeError, IndexError):
        pass
    return ""
