"""The code of classes that were typed into a notebook, a console or a script: which of it counts.

Hashed are the source of the class, of all functions and classes of the same session that it uses (by their names, at
any depth), and the values of the session's variables that they use; comments don't count. All that they import from
gwfbench, or from files that are not installed, counts as it does for a file (see `store/fingerprint.py`).
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import hashlib
import json
import linecache
import types
from typing import Any

import cloudpickle

from gwfbench.errors import UserError
from gwfbench.store import fingerprint
from gwfbench.store.record import digest

HERE = "__main__"
PLAIN = (bool, int, float, complex, str, bytes, types.NoneType)


def code_hash(classes: list[type], *modules: str) -> str:
    """Hash of the code of these classes of the session, and of modules.

    Raises:
        UserError: there is no source of a class or function.
    """
    parts: set[str] = set()
    files = set(modules)
    todo: list[Any] = list(classes)
    seen: set[int] = set()
    while todo:
        thing = todo.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        tree, at_hand = _source(thing)
        parts.add(ast.dump(tree))
        for name in sorted({node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} & set(at_hand)):
            value = at_hand[name]
            module = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
            if isinstance(value, type | types.FunctionType) and module == HERE:
                todo.append(value)
            elif isinstance(value, types.ModuleType | type | types.FunctionType | types.BuiltinFunctionType):
                if module and fingerprint.is_followed(module):
                    files.add(module)
            else:
                parts.add(f"{name} = {_value(value)}")
    return digest(json.dumps([sorted(parts), fingerprint.code_hash(*sorted(files))]))


def _source(thing: Any) -> tuple[ast.AST, dict[str, Any]]:
    """The definition of a class or function, and the names that it finds around it.

    A notebook knows the source of functions alone, so a class is found by one of its own.
    """
    functions = [thing] if isinstance(thing, types.FunctionType) else list(vars(thing).values())
    for function in functions:
        code = getattr(function, "__code__", None)
        text = "".join(linecache.getlines(code.co_filename)) if code else ""
        with contextlib.suppress(SyntaxError):
            for node in ast.walk(ast.parse(text)):
                if not (code and isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == thing.__name__):
                    continue
                if node.lineno - 9 <= code.co_firstlineno <= (node.end_lineno or 0):
                    return node, function.__globals__
    if dataclasses.is_dataclass(thing):  # no function of its own: its fields are all there is
        return ast.Constant(
            repr([(one.name, str(one.type), _value(one.default)) for one in dataclasses.fields(thing)])
        ), {}
    raise UserError(
        f"the source of {thing.__qualname__} can't be read",
        "a class of a file, a script or a notebook cell: its runs are known by its source",
        "write it into a file and import it, or name the file with --plugin",
    )


def _value(value: Any) -> str:
    if isinstance(value, PLAIN):
        return repr(value)
    if isinstance(value, tuple | list):
        return f"{type(value).__name__}({', '.join(map(_value, value))})"
    try:
        return hashlib.sha256(cloudpickle.dumps(value)).hexdigest()
    except Exception:  # known by its type: what it is made from is not seen
        return f"{type(value).__module__}.{type(value).__qualname__}"
