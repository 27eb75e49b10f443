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

from gwfbench.plugins import discovery, kept
from gwfbench.store import meaning
from gwfbench.store.record import digest

if TYPE_CHECKING:
    from gwfbench.protocol import Metric

VERSIONED = {"torch": "torch", "numpy": "numpy", "scipy": "scipy", "pandas": "pandas", "ot": "pot",
             "sklearn": "scikit-learn", "gwfbench": "gwfbench"}  # fmt: skip  # modules, and their distributions
DRIVER = tuple(f"gwfbench.drive.{name}" for name in ("driver", "points", "shapes", "judge", "meter"))
_KEPT = kept.Table("sources", __file__, meaning.__file__, discovery.__file__)  # by hashes of their texts


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
    reached: dict[str, tuple[str, list[str]]] = field(default_factory=dict)  # chain of attributes -> module, the rest
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
    package, top = module if file.name == "__init__.py" else module.rpartition(".")[0], module.partition(".")[0]
    said = _KEPT.get(f"imports {digest(text)} {package}", lambda: _imports(text, package))
    modules: dict[str, str] = {}
    names: dict[str, tuple[str, str]] = {}
    inner: set[str] = set()
    for local, start, name, optional in said["bound"]:
        if not _followed(start.partition(".")[0], top):
            continue
        target = f"{start}.{name}" if name and locate(f"{start}.{name}") else start
        if locate(target) is None:
            if not optional:
                raise ImportError(f"{file.name} imports {target}, which is not there")
            continue
        inner |= {start, target}
        if local and (target != start or not name):
            modules[local] = target
        elif local and name != "*":
            names[local] = (start, name)
    chains = {words: _reached(words.split("."), modules) for words in said["chains"]}
    reached = {words: found for words, found in chains.items() if found}
    inner |= {found[0] for found in reached.values()}
    # gwfbench's own __init__ holds names, no numerics; those of other packages may hold anything
    foreign = [name for name in inner | {module} if name.partition(".")[0] != "gwfbench"]
    parents = {".".join(name.split(".")[:k]) for name in foreign for k in range(1, name.count(".") + 1)}
    return Source(text, file, modules, names, reached, tuple(sorted((inner | parents) - {module, "gwfbench"})))


def _imports(text: str, package: str) -> dict[str, list[Any]]:
    """What a text imports: what that binds, and whether inside a `try`; and chains of attributes of such names."""
    nodes = list(ast.walk(ast.parse(text)))
    optional = {id(inner) for node in nodes if isinstance(node, ast.Try) for inner in ast.walk(node)}
    bound = [[*one, id(node) in optional] for node in nodes for one in _bindings(node, package)]
    chains = [found for node in nodes if (found := meaning.chain(node))]
    roots = {one[0] for one in bound}
    return {"bound": bound, "chains": sorted({".".join(words) for words in chains if words[0] in roots})}


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
        case ast.Call() if meaning.imported_by_name(node):
            name = node.args[0].value  # type: ignore[attr-defined]
            yield "", importlib.util.resolve_name(name, package), ""


def _reached(names: list[str], roots: dict[str, str]) -> tuple[str, list[str]] | None:
    """The module that a chain of attributes goes to, as in `gwfbench.nn.mlp.MLP`, and the attributes that are left."""
    if not names or names[0] not in roots:
        return None
    module, left = roots[names[0]], names[1:]
    while left and locate(f"{module}.{left[0]}") is not None:
        module = f"{module}.{left.pop(0)}"
    return module, left


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
    return _own(module)["digest"]


def _own(module: str) -> dict[str, Any]:
    """The digest of a module's own words, and the modules whose names are among them."""

    def make() -> dict[str, Any]:
        words = _meaning(module)
        own = hashlib.sha256(re.sub("\0.*?\0", "", words).encode()).hexdigest()
        return {"digest": own, "names": sorted(set(re.findall("\0(.*?)\0", words)))}

    return _KEPT.get(f"own {_key(read(module))}", make)


@cache
def _linked_digest(module: str) -> str:
    """The same, each imported name standing for what its own module says."""
    behind = {name: own_digest(name) for name in _own(module)["names"]}

    def make() -> str:
        linked = re.sub("\0(.*?)\0", lambda found: behind[found[1]], _meaning(module))
        return hashlib.sha256(linked.encode()).hexdigest()

    return _KEPT.get(f"linked {_key(read(module))} {digest(json.dumps(behind, sort_keys=True))}", make)


@cache
def _meaning(module: str) -> str:
    """The module in words, the names of followed modules between null characters."""
    found = read(module)
    return meaning.of(found.text, found.modules, found.names, found.reached)


def _key(found: Source) -> str:
    """Of all that the meaning of a module is made from."""
    parts = [sorted(part.items()) for part in (found.modules, found.names, found.reached)]
    return digest(json.dumps([found.text, parts]))


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
    for name in _KEPT.get(f"files {digest(found.text)}", lambda: list(_declared(ast.parse(found.text)))):
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
        files = discovery.variables(node).get("files") if isinstance(node, ast.ClassDef) else None
        yield from map(str, ast.literal_eval(files)) if files else ()
