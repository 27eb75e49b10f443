"""Where plug-ins come from, and what their source says of them, read as text: nothing is imported.

Three places: the files of tasks/ and baselines/; the entry points of installed packages; single files named in the
environment variable GWFBENCH_PLUGINS (`--plugin` sets it), which child processes and cluster jobs inherit. One file
holds one plug-in of a kind: the dataclass with the class variable `offers` (a task) or `needs` (a method).
"""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from gwfbench.errors import UserError, require

Kind = Literal["task", "method"]
FILES = "GWFBENCH_PLUGINS"  # paths, separated as those of PATH
HOME = "gwfbench_plugins"  # the package that single files are modules of, and so may import their neighbours from
CAPABILITY: dict[Kind, str] = {"task": "offers", "method": "needs"}
CHOICE = "one_of"  # a method's further class variable, if it has it: infos of which it needs one, and chooses
VARIABLES: dict[Kind, frozenset[str]] = {
    "task": frozenset({"offers", "metrics", "points", "version", "reference", "smoke"}),
    "method": frozenset({"needs", "clock", "seeds", "version", "reference", "smoke"}),
}
_FOLDER: dict[Kind, str] = {"task": "tasks", "method": "baselines"}
_VERB: dict[Kind, str] = {"task": "build", "method": "fit"}


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
    origin: str  # the distribution or the file that brings it
    summary: str = ""
    capabilities: frozenset[str] = frozenset()  # names of info types that it offers or needs
    one_of: frozenset[str] = frozenset()  # of these a method needs at least one; none: no more than `capabilities`
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
                f"a dataclass with the class variable {CAPABILITY[self.kind]}",
                f"mend or uninstall {self.origin}",
            )
        try:
            return getattr(importlib.import_module(self.module), self.cls)
        except (Exception, SystemExit) as error:  # whatever a stranger's module does when imported
            raise UserError(
                f"{self.kind} '{self.name}' of {self.origin} can't be imported: {type(error).__name__}: {error}",
                f"module {self.module} with class {self.cls}",
                "install what it imports, or mend it",
            ) from error


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
    """Name these single files in the environment of this process and of those that it starts.

    Raises:
        UserError: one is not a file whose name can be a Python module's.
    """
    known = [part for part in os.environ.get(FILES, "").split(os.pathsep) if part]
    for path in paths:
        require(path.is_file(), f"--plugin {path}: there is no such file", "a Python file", "check the path")
        require(
            path.suffix == ".py" and path.stem.isidentifier() and os.pathsep not in str(path.absolute()),
            f"--plugin {path}",
            "a file whose name is that of a Python module, such as my_method.py",
            "rename it: its name is what --task or --method takes",
        )
        known.append(str(path.resolve()))
    os.environ[FILES] = os.pathsep.join(dict.fromkeys(known))


def single(kind: Kind) -> Iterator[Plugin]:
    """The files named in GWFBENCH_PLUGINS; one that is neither task nor method is a method with a problem."""
    paths = [Path(part) for part in os.environ.get(FILES, "").split(os.pathsep) if part]
    if not paths:
        return
    home = importlib.util.module_from_spec(importlib.machinery.ModuleSpec(HOME, None, is_package=True))
    home.__path__[:] = dict.fromkeys(str(path.parent) for path in paths)
    sys.modules[HOME] = home
    for path in paths:
        found: dict[Kind, Plugin] = {
            each: _read(each, path.stem, f"{HOME}.{path.stem}", None, path, str(path)) for each in CAPABILITY
        }
        neither = not any(plugin.cls for plugin in found.values())
        if found[kind].cls or (neither and kind == "method"):
            yield found[kind]


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
    except (SyntaxError, ValueError, OSError, RecursionError, MemoryError) as error:
        return Plugin(name, kind, module, cls or "", origin, problem=f"{type(error).__name__}: {error}")
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and (cls is None or node.name == cls):
            capabilities = _capabilities(node, CAPABILITY[kind])
            if capabilities is not None:
                summary = (ast.get_docstring(tree) or ast.get_docstring(node) or "").partition("\n")[0]
                texts = tuple(_fields(node))
                why = _missing(kind, node) or _not_installed(tree)
                choice = _capabilities(node, CHOICE) or frozenset()
                return Plugin(name, kind, module, node.name, origin, summary, capabilities, choice, texts, why)
    missing = f"{path.name} has no class {cls or ''} with the class variable {CAPABILITY[kind]}".replace("  ", " ")
    return Plugin(name, kind, module, cls or "", origin, problem=missing)


def _missing(kind: Kind, node: ast.ClassDef) -> str:
    """What every plug-in of the kind has and this class has not, in words; a class with bases may inherit it."""
    if any(not (isinstance(base, ast.Name) and base.id == "object") for base in node.bases):
        return ""
    have = {
        line.target.id for line in node.body if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
    }
    have |= {
        name.id
        for line in node.body
        if isinstance(line, ast.Assign)
        for name in line.targets
        if isinstance(name, ast.Name)
    }
    lacks = ", ".join(sorted(VARIABLES[kind] - have))
    if lacks:
        return f"class {node.name} has no class variable {lacks}"
    methods = {line.name for line in node.body if isinstance(line, ast.FunctionDef)}
    return "" if _VERB[kind] in methods else f"class {node.name} has no method {_VERB[kind]}"


def _not_installed(tree: ast.Module) -> str:
    """The packages that the file imports at its top and that are not there, in words."""
    tops: set[str] = set()
    for line in tree.body:
        if isinstance(line, ast.Import):
            tops |= {alias.name.partition(".")[0] for alias in line.names}
        elif isinstance(line, ast.ImportFrom) and not line.level and line.module:
            tops.add(line.module.partition(".")[0])
    gone = ", ".join(sorted(top for top in tops if not _installed(top)))
    return f"it imports {gone}, not installed" if gone else ""


@cache
def _installed(top: str) -> bool:
    try:
        return top in sys.modules or importlib.util.find_spec(top) is not None
    except (ValueError, ImportError):
        return False


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
