"""By which code, and where, numbers were made: hashes of source and environment.

The closure of a module: its source, that of every module that it imports, directly or not, at any depth of its code
(inside functions, relative, by `importlib` with the name as a literal), and the bytes of every data file that it names.
Followed are the modules of gwfbench, of the module's own package and distribution, and whatever else is not installed;
the others are in the environment by their versions. A name that is put together at run time can't be seen.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gwfbench.record import digest

if TYPE_CHECKING:
    from gwfbench.protocol import Metric

VERSIONED = {"torch": "torch", "numpy": "numpy", "scipy": "scipy", "pandas": "pandas", "ot": "pot",
             "sklearn": "scikit-learn", "gwfbench": "gwfbench"}  # fmt: skip  # modules, and their distributions
DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
FILE = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*/?")


def code_hash(*modules: str) -> str:
    """Hash of the closures of these modules: their source, all that they import, and the data files that they name."""
    texts: dict[str, str] = {}
    todo = [module for module in modules if module]
    while todo:
        module = todo.pop()
        if module not in texts:
            texts[module], imported = _source(module)
            texts |= _data(module)
            todo += imported
    return _digest(tuple(sorted(texts.items())))


def metric_code(metric: Metric) -> str:
    """Hash of the closure of the module that has the metric's function."""
    function: Any = metric.evaluate
    return code_hash(getattr(function, "func", function).__module__)  # of a functools.partial: what it calls


@cache
def _digest(texts: tuple[tuple[str, str], ...]) -> str:
    return digest(json.dumps(dict(texts)))


@cache
def _source(module: str) -> tuple[str, tuple[str, ...]]:
    """Text of a module, and the modules that are followed from it."""
    file = _file(module)
    if file is None:  # built in, or typed in
        return "", ()
    text = file.read_text(encoding="utf-8")
    top = module.partition(".")[0]
    names = {name for name in _names(module, file, ast.parse(text)) if _followed(name.partition(".")[0], top)}
    # gwfbench's own __init__ holds names, no numerics; those of other packages may hold anything
    foreign = {name for name in names | {module} if not name.startswith("gwfbench.") and name != "gwfbench"}
    parents = {name[: dot.start()] for name in foreign for dot in re.finditer(r"\.", name)}
    names = {name for name in names if name != "gwfbench"} | parents
    return text, tuple(sorted(name for name in names if name != module and _is_module(name)))


def _names(module: str, file: Path, tree: ast.AST) -> Iterator[str]:
    """Whatever in the source may be the name of a module that it imports."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                yield from (alias.name for alias in node.names)
            case ast.ImportFrom():
                start = _absolute("." * node.level + (node.module or ""), package)
                yield start
                yield from (f"{start}.{alias.name}" for alias in node.names)
            case ast.Attribute():  # import gwfbench; gwfbench.nn.mlp.MLP
                chain = ast.unparse(node)
                if DOTTED.fullmatch(chain):
                    yield chain
            case ast.Call(args=[ast.Constant(value=str(text)), *_]) if text.startswith("."):
                if ast.unparse(node.func).endswith("import_module"):
                    yield _absolute(text, package)
            case ast.Constant(value=str(text)) if DOTTED.fullmatch(text):
                yield text


def _absolute(name: str, package: str) -> str:
    return importlib.util.resolve_name(name, package) if name.startswith(".") else name


def _followed(name: str, top: str) -> bool:
    """Whether modules of the top package `name` are followed from those of `top`."""
    if name in ("gwfbench", top):
        return True
    return top != "gwfbench" and not (name in sys.stdlib_module_names or name in VERSIONED) and _beside(name, top)


@cache
def _beside(name: str, top: str) -> bool:
    """Whether the top package `name` is not installed, or by the distribution that brings `top`."""
    if not _is_module(name):
        return False
    found = importlib.util.find_spec(name)
    places = [found.origin or "", *(found.submodule_search_locations or ())] if found else []
    if not any({"site-packages", "dist-packages"} & set(Path(place).parts) for place in places):
        return True
    brings = importlib.metadata.packages_distributions()
    return bool(set(brings.get(name, ())) & set(brings.get(top, ())))


@cache
def _data(module: str) -> dict[str, str]:
    """SHA-256 of each file that a string in the module's source names: from its own folder, or its top package's.

    Parts joined by `/` or `joinpath` count as one name. A folder stands for all files in it, but a mere word is no
    folder. Documents (.md) are no data.
    """
    file, home = _file(module), _file(module.partition(".")[0])
    if file is None or home is None:
        return {}
    found: dict[str, str] = {}
    for name in sorted(set(_paths(ast.parse(file.read_text(encoding="utf-8"))))):
        root = next((root for root in (file.parent, home.parent) if (root / name).exists()), None)
        if root is None or file == root / name:
            continue
        inside = [root / name] if (root / name).is_file() else sorted((root / name).rglob("*")) if "/" in name else []
        for path in inside:
            if path.is_file() and path.suffix not in (".md", ".pyc"):
                found[f"{module}:{path.relative_to(root).as_posix()}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _paths(node: ast.AST) -> Iterator[str]:
    """Whatever strings in the source may name a file or a folder, as relative paths."""
    inner, name = list(ast.iter_child_nodes(node)), ""
    match node:
        case ast.Constant(value=str(text)):
            name = text
        case ast.JoinedStr(values=[ast.Constant(value=str(text)), *_]):
            name = text[: text.rfind("/") + 1]
        case ast.BinOp(op=ast.Div()) | ast.Call(func=ast.Attribute(attr="joinpath")):
            inner = list(_pieces(node))
            name = "/".join(_literals(inner)) + "/"  # a file or a folder
            inner = [piece for piece in inner if not isinstance(piece, ast.Constant)]
    if FILE.fullmatch(name):
        yield name
    for child in inner:
        yield from _paths(child)


def _pieces(node: ast.AST) -> Iterator[ast.AST]:
    """What a path is put together from, left to right."""
    match node:
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            yield from _pieces(left)
            yield from _pieces(right)
        case ast.Call(func=ast.Attribute(value=left, attr="joinpath"), args=parts):
            yield from _pieces(left)
            yield from parts
        case _:
            yield node


def _literals(pieces: list[ast.AST]) -> Iterator[str]:
    """The first run of strings among the pieces: the root before it is not known, nor what comes after a variable."""
    begun = False
    for piece in pieces:
        match piece:
            case ast.Constant(value=str(text)):
                begun = True
                yield text.strip("/")
            case _ if begun:
                return


def _file(module: str) -> Path | None:
    """Where a module's source is."""
    loaded = sys.modules.get(module)
    found = None if loaded else importlib.util.find_spec(module)
    file = getattr(loaded, "__file__", None) or (found and found.origin)
    return Path(file) if file and Path(file).suffix == ".py" else None


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # its parent is a module, not a package: a name inside it
        return False


@cache
def environment(device: str, threads: int) -> dict[str, Any]:
    """Versions, machine and commit: taken once a session, referenced by hash."""
    import torch

    version = importlib.metadata.version

    facts: dict[str, Any] = {
        "python": platform.python_version(),
        **{name: version(name) for name in VERSIONED.values()},
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "threads": threads,
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "commit": _commit(),
    }
    return facts


def env_hash(facts: Mapping[str, Any]) -> str:
    return digest(json.dumps(facts, sort_keys=True))


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def _commit() -> str:
    """The checkout's commit, "+" added when what runs are made of has changes; empty outside a checkout."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists() or shutil.which("git") is None:
        return ""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, check=False
        ).stdout.strip()

    # not of the whole checkout: an --out in it is no change
    changed = git("status", "--porcelain", "--", "gwfbench", "baselines", "tasks", "pyproject.toml")
    return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
