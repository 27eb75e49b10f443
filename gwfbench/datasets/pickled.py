"""Plain values in a pickle: dictionaries, lists, numbers, text, and arrays of bytes. Nothing is ever called.

A pickle is a program: its instructions may import any function and call it. Python's `pickletools` lists them without
running them, and here only those are followed that build values. Of the calls that an array of NumPy is stored as, the
three names are compared and the bytes taken; all other names are refused.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

ARRAY = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")
NAMES = (*ARRAY, "numpy ndarray", "numpy dtype")


@dataclass
class _Call:
    """What a pickle wants called: a name, what it is given, and the state of what comes of it."""

    name: str
    given: tuple[Any, ...]
    state: Any = None


@dataclass(frozen=True)
class _Name:
    name: str


class _Stack(list[Any]):
    """Values so far, and the places of marks among them."""

    def __init__(self) -> None:
        super().__init__()
        self.marks: list[int] = []

    def take(self) -> list[Any]:
        """All above the last mark."""
        start = self.marks.pop()
        above = self[start:]
        del self[start:]
        return above


def values(content: bytes) -> object:
    """What a pickle holds; its keys and texts as str, where they are bytes by Latin-1.

    Raises:
        ValueError: it is torn, is no pickle, or holds anything but plain values and arrays of bytes.
    """
    stack, memo = _Stack(), {}
    try:
        for code, arg, _ in pickletools.genops(content):
            if code.name == "STOP":
                return _plain(stack.pop())
            _follow(code.name, arg, stack, memo)
    except (IndexError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"it is no pickle of plain values: {error!r}") from error
    raise ValueError("it is torn")


def _follow(name: str, arg: Any, stack: _Stack, memo: dict[int, Any]) -> None:
    """One instruction."""
    if name in PUSHED:
        stack.append(PUSHED[name]())
    elif name.startswith(("BININT", "SHORT_BIN", "BINSTRING", "BINUNICODE", "BINBYTES", "LONG1")):
        stack.append(arg)
    elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
        memo[len(memo) if arg is None else arg] = stack[-1]
    elif name in ("BINGET", "LONG_BINGET"):
        stack.append(memo[arg])
    elif name == "MARK":
        stack.marks.append(len(stack))
    elif name not in ("PROTO", "FRAME"):
        _join(name, arg, stack)


def _join(name: str, arg: Any, stack: _Stack) -> None:
    """One instruction that makes one value of several."""
    if name in TUPLES:
        size = TUPLES[name]
        stack[len(stack) - size :] = [tuple(stack[len(stack) - size :])]
    elif name == "TUPLE":
        stack.append(tuple(stack.take()))
    elif name in ("APPEND", "APPENDS"):
        above = stack.take() if name == "APPENDS" else [stack.pop()]
        _of(list, stack[-1]).extend(above)
    elif name in ("SETITEM", "SETITEMS"):
        above = stack.take() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
        _of(dict, stack[-1]).update(zip(map(_text, above[::2]), above[1::2], strict=True))
    elif name in ("GLOBAL", "STACK_GLOBAL"):
        stack.append(_known(arg if name == "GLOBAL" else " ".join([stack.pop(-2), stack.pop()])))
    elif name == "REDUCE":
        given = _of(tuple, stack.pop())
        stack.append(_Call(_of(_Name, stack.pop()).name, given))
    elif name == "BUILD":
        state = stack.pop()
        _of(_Call, stack[-1]).state = state
    else:
        raise ValueError(f"it has the instruction {name}, which plain values don't need")


PUSHED: dict[str, Callable[[], object]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple,
}  # fmt: skip
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _known(name: str) -> _Name:
    if name not in NAMES:
        raise ValueError(f"it asks for '{name}', which no array of bytes needs")
    return _Name(name)


def _of(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise ValueError(f"it has a {type(value).__name__} in place of a {kind.__name__.strip('_')}")
    return value


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else _of(str, value)


def _plain(value: Any) -> Any:
    """A value with its arrays made; calls of anything else are refused."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return list(map(_plain, value))
    if not isinstance(value, _Call | _Name):
        return value
    if not (isinstance(value, _Call) and value.name in ARRAY and len(_of(tuple, value.state)) == 5):
        raise ValueError(f"it holds a {value.name}, which is no array")
    _, shape, dtype, by_columns, content = value.state
    if not (isinstance(dtype, _Call) and dtype.name == "numpy dtype" and dtype.given[:1] in (("u1",), (b"u1",))):
        raise ValueError("its array is not one of bytes")
    raw = content.encode("latin-1") if isinstance(content, str) else _of(bytes, content)
    return np.frombuffer(raw, np.uint8).reshape(shape, order="F" if by_columns else "C")
