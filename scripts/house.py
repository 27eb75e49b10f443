"""Measures of the house: import arrows, lines of `__post_init__`, the longest functions and modules.

    python scripts/house.py [FOLDER]      a checkout; default: this one

A module is a file of gwfbench/; a room is a package or a file directly below gwfbench/. An arrow goes from one that
imports to what it imports, those for types alone left out. Nothing is imported.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path


def arrows(root: Path) -> set[tuple[str, str]]:
    """From module to module of gwfbench, by dotted names below it."""
    files = {".".join(path.relative_to(root).with_suffix("").parts): path for path in root.rglob("*.py")}
    found: set[tuple[str, str]] = set()
    for name, path in files.items():
        tree = ast.parse(path.read_text())
        for_types = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and id(node) not in for_types:
                start = (node.module or "").split(".")
                for alias in node.names if start[0] == "gwfbench" else ():
                    inner = ".".join([*start[1:], alias.name])
                    target = inner if inner in files else ".".join(start[1:])
                    found.add((name, target if target in files else f"{target}.__init__".strip(".")))
    return found


def functions(root: Path) -> Iterator[tuple[int, str]]:
    """Lines and place of each function of the product."""
    for path in sorted(path for part in ("gwfbench", "tasks", "baselines") for path in (root / part).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                yield (node.end_lineno or 0) - node.lineno + 1, f"{path.relative_to(root)}:{node.name}"


def main() -> None:
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1]
    found = arrows(root / "gwfbench")
    rooms = {(a.split(".")[0], b.split(".")[0]) for a, b in found if a.split(".")[0] != b.split(".")[0]}
    print(f"{len(found)} import arrows between modules, {len(rooms)} between rooms")
    lengths = sorted(functions(root), reverse=True)
    checks = sum(lines for lines, name in lengths if name.endswith("__post_init__") and not name.startswith("gwfbench"))
    print(f"{checks} lines of __post_init__ in tasks and baselines")
    print("longest functions:", *(f"  {lines:3} {name}" for lines, name in lengths[:10]), sep="\n")
    files = [path for part in ("gwfbench", "tasks", "baselines") for path in (root / part).rglob("*.py")]
    sizes = sorted(((len(path.read_text().splitlines()), str(path.relative_to(root))) for path in files), reverse=True)
    print("longest modules:", *(f"  {lines:3} {name}" for lines, name in sizes[:8]), sep="\n")


if __name__ == "__main__":
    main()
