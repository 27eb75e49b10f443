"""By which code a number was made: a hash of what the source means, not of how it is written.

Hashed are the modules of a task and a method, all that they import (at any depth of the code, relative or not, by
`importlib` with the name as a literal), the modules in `DRIVER`, which drive every run, draw its points and judge it,
and the data files that a task declares in its class variable `files`. Followed are the modules of gwfbench, of the
plug-in's own package and distribution, and whatever else is not installed; the others are in the environment by their
versions. Files are read, never imported, so the hash is the same with and without optional packages.

Of each module counts its syntax tree, less what can't change a number of a run that ended well:

- comments, docstrings and other bare strings, annotations, and text for readers (`reference`, `source`, `summary`);
- which metrics a task lists (each value has the hash of its own metric), and `smoke`;
- names of modules, so that a file can be moved or renamed: a name that an import brings stands for the content of the
  module that it comes from;
- checks, which raise or do nothing: what an error says, `assert`, calls of `require`, `refuse` and `check_fields`,
  functions so named that return nothing, and `__post_init__` in a module that sets no attribute by name (dataclasses of
  plug-ins are frozen).
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gwfbench.plugins.discovery import variables
from gwfbench.store.record import digest

if TYPE_CHECKING:
    from gwfbench.protocol import Metric

VERSIONED = {"torch": "torch", "numpy": "numpy", "scipy": "scipy", "pandas": "pandas", "ot": "pot",
             "sklearn": "scikit-learn", "gwfbench": "gwfbench"}  # fmt: skip  # modules, and their distributions
DRIVER = tuple(f"gwfbench.drive.{name}" for name in ("driver", "points", "shapes", "judge", "meter"))
PROSE = frozenset({"reference", "source", "summary"})
ASIDE = frozenset({"metrics", "smoke"})  # class variables: which metrics judge, fields of quick copies
CHECKS = ("require", "refuse", "check_fields")


def code_hash(*modules: str) -> str:
    """Hash of the closures of these modules, of the driver, and of the data files that they declare.

    Raises:
        ImportError: a module of a followed package is imported and can't be found.
        FileNotFoundError: a declared data file can't be found.
    """
    return _digest(frozenset([*_parts(modules), *map(own_digest, DRIVER)]))


def metric_code(metric: Metric) -> str:
    """Hash of the closure of the module that has the metric's function."""
    function: Any = metric.evaluate
    return _digest(_parts([getattr(function, "func", function).__module__]))  # func: what a partial calls


def closure(*modules: str) -> frozenset[str]:
    """Names of these modules and of all that they import, as far as imports are followed."""
    found: set[str] = set()
    todo = [module for module in modules if module]
    while todo:
        module = todo.pop()
        if module not in found:
            found.add(module)
            todo += read(module).imports
    return frozenset(found)


def forget() -> None:
    """Read all files afresh from now on."""
    for cached in (read, _meaning, own_digest, _linked_digest, locate, _beside, data):
        cached.cache_clear()


def _parts(modules: Iterable[str]) -> frozenset[str]:
    return frozenset(part for module in closure(*modules) for part in (_linked_digest(module), *data(module).values()))


@cache
def _digest(parts: frozenset[str]) -> str:
    return digest(json.dumps(sorted(parts)))


# ------------------------------------------------------------------------------------------------- what is imported


@dataclass(frozen=True)
class Source:
    """A module as it is read: what each name that an import of a followed module binds stands for."""

    text: str = ""
    file: Path | None = None
    modules: dict[str, str] = field(default_factory=dict)  # local name -> module
    names: dict[str, tuple[str, str]] = field(default_factory=dict)  # local name -> module, name in it
    imports: tuple[str, ...] = ()  # modules that are followed


@cache
def read(module: str) -> Source:
    """The module, read and parsed; an empty one where it has no Python file.

    Raises:
        ImportError: it imports a module of a followed package that can't be found, not inside a `try`.
    """
    file = locate(module)
    if file is None or file.suffix != ".py":
        return Source()
    text = file.read_text(encoding="utf-8-sig")
    tree = ast.parse(text)
    package, top = module if file.name == "__init__.py" else module.rpartition(".")[0], module.partition(".")[0]
    optional = {id(inner) for node in ast.walk(tree) if isinstance(node, ast.Try) for inner in ast.walk(node)}
    modules: dict[str, str] = {}
    names: dict[str, tuple[str, str]] = {}
    inner: set[str] = set()
    for node in ast.walk(tree):
        for local, start, name in _bindings(node, package):
            if not _followed(start.partition(".")[0], top):
                continue
            target = f"{start}.{name}" if name and locate(f"{start}.{name}") else start
            if locate(target) is None:
                if id(node) not in optional:
                    raise ImportError(f"{file.name} imports {target}, which is not there")
                continue
            inner |= {start, target}
            if local and (target != start or not name):
                modules[local] = target
            elif local and name != "*":
                names[local] = (start, name)
    for node in ast.walk(tree):
        found = _reached(node, modules)
        inner |= {found[0]} if found else set()
    # gwfbench's own __init__ holds names, no numerics; those of other packages may hold anything
    foreign = [name for name in inner | {module} if name.partition(".")[0] != "gwfbench"]
    parents = {".".join(name.split(".")[:k]) for name in foreign for k in range(1, name.count(".") + 1)}
    return Source(text, file, modules, names, tuple(sorted((inner | parents) - {module, "gwfbench"})))


def _bindings(node: ast.AST, package: str) -> Iterator[tuple[str, str, str]]:
    """What an import binds: local name (or none), module, name in the module (or none)."""
    match node:
        case ast.Import():
            for alias in node.names:
                yield alias.asname or "", alias.name, ""
                if not alias.asname:  # import a.b binds a
                    yield alias.name.partition(".")[0], alias.name.partition(".")[0], ""
        case ast.ImportFrom():
            start = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            yield from ((alias.asname or alias.name, start, alias.name) for alias in node.names)
        case ast.Call() if _imported_by_name(node):
            name = node.args[0].value  # type: ignore[attr-defined]
            yield "", importlib.util.resolve_name(name, package), ""


def _imported_by_name(node: ast.Call) -> bool:
    """Whether it is `import_module` with the name as a literal."""
    named = bool(node.args) and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str)
    return named and ast.unparse(node.func).endswith("import_module")


def _reached(node: ast.AST, roots: dict[str, str]) -> tuple[str, list[str]] | None:
    """The module that a chain of attributes goes to, as in `gwfbench.nn.mlp.MLP`, and the attributes that are left."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value
    if not names or not isinstance(node, ast.Name) or node.id not in roots:
        return None
    module = roots[node.id]
    while names and locate(f"{module}.{names[0]}") is not None:
        module = f"{module}.{names.pop(0)}"
    return module, names


@cache
def locate(module: str) -> Path | None:
    """The file of a module, or the folder of a package without one; nothing is imported."""
    top, *below = module.split(".")
    loaded = sys.modules.get(top)
    found = None if loaded else importlib.util.find_spec(top)
    origin = getattr(loaded, "__file__", None) or (found and found.origin)
    folders = getattr(loaded, "__path__", None) or (found and found.submodule_search_locations) or ()
    if not below:
        return Path(origin) if origin and Path(origin).is_file() else next(map(Path, folders), None)
    for place in folders:
        path = Path(place).joinpath(*below)
        for file in (path / "__init__.py", path.with_name(f"{path.name}.py"), path):
            if file.exists() and (file.suffix == ".py" or file.is_dir()):
                return file
    return None


def is_followed(module: str) -> bool:
    """Whether this module counts for the code of a script or notebook that imports it."""
    return locate(module) is not None and _followed(module.partition(".")[0], "__main__")


def _followed(name: str, top: str) -> bool:
    """Whether modules of the top package `name` are followed from those of `top`."""
    if name in ("gwfbench", top):
        return True
    return top != "gwfbench" and not (name in sys.stdlib_module_names or name in VERSIONED) and _beside(name, top)


@cache
def _beside(name: str, top: str) -> bool:
    """Whether the top package `name` is at hand and not installed, or by the distribution that brings `top`."""
    file = locate(name)
    if file is None:
        return False
    if not {"site-packages", "dist-packages"} & set(file.parts):
        return True
    brings = importlib.metadata.packages_distributions()
    return bool(set(brings.get(name, ())) & set(brings.get(top, ())))


# ------------------------------------------------------------------------------------------------- what it means


@cache
def own_digest(module: str) -> str:
    """Of what the module itself says, whatever stands behind the names that it imports."""
    return hashlib.sha256(re.sub("\0.*?\0", "", _meaning(module)).encode()).hexdigest()


@cache
def _linked_digest(module: str) -> str:
    """The same, each imported name standing for what its own module says."""
    linked = re.sub("\0(.*?)\0", lambda found: own_digest(found[1]), _meaning(module))
    return hashlib.sha256(linked.encode()).hexdigest()


@cache
def _meaning(module: str) -> str:
    """The tree in words, the names of followed modules between null characters."""
    found = read(module)
    return _words(_Meaning(found).visit(ast.parse(found.text)))


def _words(node: object) -> str:
    """A tree in words that are the same in all versions of Python."""
    if isinstance(node, list):
        return f"[{' '.join(map(_words, node))}]"
    if not isinstance(node, ast.AST):
        return str(node) if isinstance(node, str) and "\0" in node else repr(node)
    parts = ((name, getattr(node, name, None)) for name in node._fields if name not in ("ctx", "kind", "type_comment"))
    inside = " ".join(f"{name}={_words(part)}" for name, part in parts if part not in (None, []))
    value = repr(node.value) if isinstance(node, ast.Constant) else inside
    return f"{type(node).__name__}({value})"


class _Meaning(ast.NodeTransformer):
    """The tree without what can't change a number, as the top of the file says."""

    def __init__(self, found: Source):
        self._modules, self._names = found.modules, found.names
        self._sets = re.search(r"setattr|__dict__", found.text) is not None

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in self._modules:
            return ast.Name(f"\0{self._modules[node.id]}\0")
        if node.id in self._names:
            module, name = self._names[node.id]
            return ast.Attribute(ast.Name(f"\0{module}\0"), name)
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        found = _reached(node, self._modules)
        if found is None:
            return self.generic_visit(node)
        chain: ast.expr = ast.Name(f"\0{found[0]}\0")
        for name in found[1]:
            chain = ast.Attribute(chain, name)
        return chain

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if _imported_by_name(node):
            node.args = node.args[1:]
        if ast.unparse(node.func).endswith("Error"):  # what it says
            return ast.Call(self.visit(node.func), [], [])
        node.keywords = [part for part in node.keywords if not (part.arg in PROSE and _is_text(part.value))]
        return self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> ast.AST | None:
        node.names = [
            alias for alias in node.names if (alias.asname or alias.name.partition(".")[0]) not in self._modules
        ]
        return node if node.names else None

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        ours = {*self._modules, *self._names}
        node.names = [alias for alias in node.names if (alias.asname or alias.name) not in ours]
        return node if node.names and node.module != "__future__" and not node.level else None

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        if isinstance(node.value, ast.Constant) or (isinstance(node.value, ast.Call) and _is_check(node.value.func)):
            return None
        return self.generic_visit(node)

    def visit_Assert(self, node: ast.Assert) -> None:
        return None

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        kind = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        return ast.Raise(self.visit(kind) if kind else None)

    def visit_If(self, node: ast.If) -> ast.AST | None:
        return None if "TYPE_CHECKING" in ast.unparse(node.test) else self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        if node.value is None:
            return ast.AnnAssign(self.visit(node.target), ast.Constant(None), None, 0)
        return self.generic_visit(ast.Assign([node.target], node.value))

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.body = [line for line in node.body if not _is_aside(line)]
        return self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        return None if ast.unparse(node.targets[0]) == "__post_init__" else self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        return ast.arg(node.arg)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST | None:
        inside = list(ast.walk(node))
        stores = any(isinstance(n, ast.Attribute | ast.Subscript) and not isinstance(n.ctx, ast.Load) for n in inside)
        returns = any(isinstance(n, ast.Return) and n.value is not None for n in inside)
        if node.name == "__post_init__" and not self._sets and not stores:
            return None
        if _is_check(ast.Name(node.name)) and not returns and not stores:
            return None
        node.returns = None
        return self.generic_visit(node)


def _is_check(function: ast.expr) -> bool:
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in CHECKS


def _is_aside(line: ast.stmt) -> bool:
    """Whether it is a class variable that no number depends on."""
    if not isinstance(line, ast.AnnAssign) or not isinstance(line.target, ast.Name):
        return False
    return line.target.id in ASIDE or (line.target.id in PROSE and line.value is not None and _is_text(line.value))


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


# ------------------------------------------------------------------------------------------------- data files


@cache
def data(module: str) -> dict[str, str]:
    """SHA-256 of each data file that a class of the module declares in `files`, with its path, by its path.

    Raises:
        FileNotFoundError: one is not there.
    """
    found, home = read(module), locate(module.partition(".")[0])
    if found.file is None or home is None:
        return {}
    hashes: dict[str, str] = {}
    for name in _declared(ast.parse(found.text)):
        root = next((root for root in (found.file.parent, home.parent) if (root / name).exists()), None)
        if root is None:
            raise FileNotFoundError(f"{found.file.name} declares the data {name!r}, which is not there")
        for path in [root / name] if (root / name).is_file() else sorted((root / name).rglob("*")):
            named = path == root / name  # in a folder, documents are no data
            if path.is_file() and (named or path.suffix not in (".md", ".pyc")):
                inside = path.relative_to(root).as_posix()
                hashes[inside] = hashlib.sha256(inside.encode() + b"\0" + path.read_bytes()).hexdigest()
    return hashes


def _declared(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        files = variables(node).get("files") if isinstance(node, ast.ClassDef) else None
        yield from map(str, ast.literal_eval(files)) if files else ()
