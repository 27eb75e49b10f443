"""Imports go one way; plug-ins know gwfbench and never each other; modules stay small."""

import ast
from pathlib import Path

import pytest

from gwfbench.check.plugin import ALLOWED

ROOT = Path(__file__).parents[1]
# From below to above: a package may import those before it.
PACKAGES = ["elsewhere", *ALLOWED, "escape", "plugins", "store", "drive", "process", "runs", "audit", "check", "papers", "suites", "report", "api",
            "commands", "cli", "__main__"]  # fmt: skip
FILES = sorted(path for folder in ("gwfbench", "tasks", "baselines") for path in (ROOT / folder).rglob("*.py"))


def imported(path):
    """Modules of gwfbench that a file imports at run time, without the package's name."""
    tree = ast.parse(path.read_text())
    skipped = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    folder, *rest = path.relative_to(ROOT).parts
    names = set(imported(path))
    plugins = {name for name in names if name.split(".")[0] in ("tasks", "baselines")}
    plugins |= {name for name in names if name.startswith(("gwfbench.tasks", "gwfbench.baselines"))}
    assert not plugins, "plug-ins are asked of gwfbench.plugins.registry"
    others = {name.split(".")[1] for name in names if name.startswith("gwfbench.")} & set(PACKAGES)
    if folder != "gwfbench":
        assert others <= set(ALLOWED)
    elif rest != ["__init__.py"]:
        own = rest[0].removesuffix(".py")
        assert others <= {*PACKAGES[: PACKAGES.index(own)], own}


def test_no_module_imports_itself_in_a_circle():
    arrows = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): set(imported(path)) for path in FILES if path.parts
    }
    todo = {name: {other for other in others if other in arrows} for name, others in arrows.items()}
    while ends := [name for name, others in todo.items() if not others & set(todo)]:
        for name in ends:
            del todo[name]
    assert not todo


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_are_short_and_well_named(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    assert ast.get_docstring(ast.parse(text)), "a module says what it is"
    assert path.stem not in {"utils", "helpers", "common", "base", "manager"}
    assert "hasattr(" not in text
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 65, f"{node.name} is long"


@pytest.mark.parametrize("word", ["manual_seed", "np.random.seed", "random.seed", "set_default_dtype"])
def test_no_global_seed_is_ever_set(word):
    allowed = {"rng.py"} | ({"inline.py"} if word == "set_default_dtype" else set())  # puts back the user's own
    for path in FILES:
        if path.name not in allowed:
            assert word not in path.read_text(), path
