"""Short names of methods for figures and LaTeX, where a name on the board with all of its fields is too long."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from gwfbench.errors import UserError, require
from gwfbench.plugins import registry
from gwfbench.plugins.settings import split

FEW = 3  # fields that a short name has, unless it takes more to tell methods apart


def head(name: str) -> str:
    """The method's own name in a name on the board: `ula` of `ula@quick:steps=5 [float64]`."""
    return registry.head(name.partition(" [")[0])


def given(words: Sequence[str]) -> dict[str, str]:
    """The texts of --label NAME=TEXT by name; TEXT has no equals sign, NAME may have some.

    Raises:
        UserError: a word has another form.
    """
    found = {}
    for word in words:
        name, _, text = word.rpartition("=")
        require(bool(name and text.strip()), f"--label {word}", "NAME=TEXT", 'write --label "mmd_flow=MMD flow"')
        found[name] = text
    return found


def labels(methods: Iterable[str], texts: Mapping[str, str] | None = None) -> dict[str, str]:
    """Short names by names on the board: the method, its named setting, and the fields that tell it from others.

    Args:
        methods: names on the board that are shown together.
        texts: names of the user's own, by name on the board, by short name, or by the method's own name if that means
            one only; those of methods that are not shown are left alone.

    >>> labels(["svgd:steps=9", "mmd_flow", "mmd_flow:carrier=generator,steps=400"])
    {'svgd:steps=9': 'svgd', 'mmd_flow': 'mmd_flow', 'mmd_flow:carrier=generator,steps=400': 'mmd_flow (generator)'}
    """
    methods = list(dict.fromkeys(methods))
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in methods:
        base, _, mark = _parts(name)
        groups[base, mark].append(name)
    found = {}
    for names in groups.values():
        found |= _told_apart(names)
    return {name: _text(name, found, texts or {}) for name in methods}


def require_known(texts: Mapping[str, str], methods: Iterable[str]) -> None:
    """Raise `UserError` for a label whose name means none of these methods, or several."""
    methods = list(dict.fromkeys(methods))
    short = labels(methods)
    known = {*methods, *short.values(), *map(head, methods)}
    for name in texts:
        if name not in known:
            shown = ", ".join(sorted(set(short.values())))
            raise UserError(f"--label {name}=...", f"one of {shown}", "name a method as it is shown")


def _parts(name: str) -> tuple[str, str, str]:
    """`method` or `method@setting`, fields, and what stands in brackets."""
    spec, bracket, rest = name.partition(" [")
    base, _, fields = spec.partition(":")
    return base, fields, bracket + rest


def _told_apart(names: Sequence[str]) -> dict[str, str]:
    """Of names that differ in fields alone: those few fields by which all differ."""
    base, _, mark = _parts(names[0])
    fields = {name: split(_parts(name)[1]) for name in names}
    keys = list(dict.fromkeys(key for own in fields.values() for key in own))
    keys = [key for key in keys if len({own.get(key) for own in fields.values()}) > 1]
    sets = [*(chosen for few in range(min(FEW, len(keys)) + 1) for chosen in combinations(keys, few)), tuple(keys)]
    told = (one for one in sets if len({tuple(own.get(k) for k in one) for own in fields.values()}) == len(names))
    chosen = next(told, sets[-1])
    said = {name: ", ".join(_said(key, own[key]) for key in chosen if key in own) for name, own in fields.items()}
    return {name: base + (f" ({text})" if text else "") + mark for name, text in said.items()}


def _said(key: str, value: str) -> str:
    """A word says what it is about; a number and a switch don't."""
    word = value[:1].isalpha() and value not in ("true", "false", "none", "inf", "nan")
    return value if word else f"{key}={value}"


def _text(name: str, short: Mapping[str, str], texts: Mapping[str, str]) -> str:
    alone = sum(head(other) == head(name) for other in short) == 1
    for key in (name, short[name], *([head(name)] if alone else [])):
        if key in texts:
            return texts[key]
    return short[name]
