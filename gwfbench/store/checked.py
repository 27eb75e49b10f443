"""Reading what may be damaged or edited: JSON proper, sealed against edits, into dataclasses of checked values.

Nothing is guessed or repaired: what is not as it was written is a ValueError that names it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import stat
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

D = TypeVar("D")
Test = Callable[[Any], bool]


def from_json(text: str) -> Any:
    """JSON proper: no NaN or infinity in any spelling, no key twice, no endless nesting.

    Raises:
        ValueError: it is not that.
    """
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("JSON nested without end") from None


def from_lines(lines: Sequence[str]) -> list[dict[str, Any]]:
    """The objects of lines, one a line, as `from_json` reads them; as `json.dumps` writes them, many are read at once.

    A number beyond the largest float may come as infinity: `all_checked` refuses it.

    Raises:
        ValueError: one is not that.
    """
    text = f"[{', '.join(lines)}]"
    if all(line[:1] == "{" and line[-1:] == "}" for line in lines):
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(text, parse_constant=_refuse)
            flat = len(found) == len(lines) and all(type(one) is dict for one in found)
            if flat and text.count('": ') == sum(map(len, found)):  # else a key is there twice, or objects are nested
                return found
    found = [from_json(line) for line in lines]
    if not all(type(one) is dict for one in found):
        raise ValueError("a line is no JSON object")
    return found


def _refuse(word: str) -> float:
    raise ValueError(f"{word} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice")
    return found


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The values with a hash of them all, `seal`; they must be finite."""
    return {**content, "seal": _seal(json.loads(json.dumps(content, allow_nan=False)))}


def unsealed(content: object) -> dict[str, Any]:
    """The values that were sealed.

    Raises:
        ValueError: they are not those that were sealed.
    """
    if not isinstance(content, dict) or type(content.get("seal")) is not str:
        raise ValueError("it is not sealed")
    rest = {name: value for name, value in content.items() if name != "seal"}
    try:
        same = _seal(rest) == content["seal"]
    except RecursionError:
        raise ValueError("JSON nested without end") from None
    if not same:
        raise ValueError("it does not agree with itself: it has changed since it was written")
    return rest


def _seal(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        OSError: it can't be written.
    """
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def read_bytes(path: Path) -> bytes:
    """What is in a file; a pipe, a socket or a device in its place is refused, for reading one may never end.

    Raises:
        OSError: it can't be read, or is no file.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # O_NONBLOCK: to open a pipe waits too
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return file.read()


def read_text(path: Path) -> str:
    """The same as text.

    Raises:
        OSError: it can't be read, or is no file.
        ValueError: it is not UTF-8.
    """
    return read_bytes(path).decode("utf-8")


def sync(*paths: Path) -> None:
    """Wait until the disk has these files and folders, so that not even a loss of power takes them away.

    Raises:
        OSError: it does not take them.
    """
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        except OSError as error:  # file systems that can't for a folder say so
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(descriptor)


def checked(cls: type[D], content: object, tests: Mapping[str, Test] | None = None) -> D:
    """The dataclass of these values, if each field is there, is of its type, and nothing else is.

    Whole numbers are from 0 to 2^63, others finite and from 0, unless `tests` says otherwise of a name.

    Raises:
        ValueError: what is wrong, with the field's name.
    """
    known = _tests(cls)
    if not isinstance(content, dict) or content.keys() != known.keys():
        got = set(content) if isinstance(content, dict) else {type(content).__name__}
        odd = ", ".join(sorted(map(repr, got ^ set(known))))
        raise ValueError(f"{cls.__name__}: its fields are not those expected; the difference is {odd}")
    own = tests or {}
    for name, test in known.items():
        value = content[name]
        if not (test(value) if name not in own else own[name](value)):
            raise ValueError(f"{cls.__name__}: {name} can't be {shown(value)}")
    return cls(**content)


def all_checked(cls: type[D], contents: Sequence[dict[str, Any]], tests: Mapping[str, Test] | None = None) -> list[D]:
    """What `checked` gives for each; equal values are looked at once.

    Raises:
        ValueError: what is wrong with the first wrong one.
    """
    known, own, good = _tests(cls), tests or {}, True
    try:
        for name, test in known.items():
            column = [content[name] for content in contents]
            values = set(zip(map(type, column), column, strict=True))  # 1, 1.0 and True are equal
            good = good and all(own.get(name, test)(value) for _, value in values)
        good = good and all(len(content) == len(known) for content in contents)
    except (KeyError, TypeError):  # a field is missing, or holds a list
        good = False
    return [_made(cls, content) if good else checked(cls, content, tests) for content in contents]


def _made(cls: type[D], content: dict[str, Any]) -> D:
    """The dataclass of these values, which are all of its fields: without a call for each of them."""
    one = object.__new__(cls)
    one.__dict__.update(content)
    return one


def shown(value: object) -> str:
    """The value in few characters."""
    text = repr(value) if not (type(value) is int and abs(value) >> 256) else "a huge number"
    return text if len(text) <= 60 else f"{text[:57]}..."


@cache
def _tests(cls: type) -> dict[str, Test]:
    hints = typing.get_type_hints(cls)
    return {field.name: _test(hints[field.name]) for field in fields(cls)}  # type: ignore[arg-type]


def _test(hint: Any) -> Test:
    """Whether a value that came from JSON can stand in a field of this type."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return lambda value: type(value) is str and value in inner
    if origin in (types.UnionType, typing.Union):
        tests = [_test(one) for one in inner]
        return lambda value: any(test(value) for test in tests)
    if origin in (tuple, list):
        each = _test(inner[0])
        return lambda value: type(value) in (list, tuple) and all(map(each, value))
    if origin in (dict, typing.get_origin(Mapping[str, Any])):
        item = _test(inner[1])
        return lambda value: type(value) is dict and all(is_text(key) and item(one) for key, one in value.items())
    plain: dict[Any, Test] = {
        int: is_count,
        float: is_amount,
        str: is_text,
        bool: lambda value: type(value) is bool,
        type(None): lambda value: value is None,
        Any: is_plain,
    }
    return plain.get(hint) or (lambda value: isinstance(value, hint))


def is_count(value: Any) -> bool:
    """A whole number, 0 or more."""
    return type(value) is int and 0 <= value < 2**63


def is_number(value: Any) -> bool:
    """A finite number."""
    return (type(value) is float and math.isfinite(value)) or (type(value) is int and abs(value) < 2**63)


def is_amount(value: Any) -> bool:
    """A finite number, 0 or more."""
    return is_number(value) and value >= 0


def is_text(value: Any) -> bool:
    """Words that can be printed: a lone surrogate can't."""
    if type(value) is not str:
        return False
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_plain(value: Any) -> bool:
    """Text, a truth value, a number, nothing, or a list of such: what a field of a plug-in is."""
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    if type(value) is dict:
        return all(is_text(key) and is_plain(one) for key, one in value.items())
    return value is None or type(value) is bool or type(value) is int or is_number(value) or is_text(value)
