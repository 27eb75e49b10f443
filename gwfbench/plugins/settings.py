"""Named settings of a method: `vjko@gmm` is what the section [gmm] of vjko.toml says, the file next to vjko.py.

    [gmm]
    track = "paper"                        one of TRACKS
    source = "Fan et al. 2022, Table 4"    where the values come from
    fields = "step=0.1,steps=40"           as one types them
    note = "..."                           may be left out
    base = "..."                           another setting of the file, above it, whose fields come first; likewise

A setting says all that its source says, defaults too: it stays what it is when a default changes.
`vjko@gmm:steps=20` changes a field of it. A run is known by its fields alone: `vjko@gmm` and the same fields typed one
by one are the same run. `short` is the way back, for boards.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path

from gwfbench.errors import UserError, require

TRACKS = {
    "paper": "as a paper or its authors' code has it",
    "quick": "cut, for minutes of one core",
    "tuned": "found by a search, on other seeds than those judged",
}
DEFAULT, OWN = "default", "own"  # tracks of no fields at all, and of fields that no named setting has
MOST = 4  # fields by which what is still called by a setting's name may differ from it
PART = re.compile(r'(?:"(?:[^"\\]|\\.)*"|[^,])+')  # of key=value,key=value: a comma in quotes is no end


@dataclass(frozen=True)
class Setting:
    """A named setting, as its file has it."""

    name: str
    track: str
    source: str
    fields: str
    note: str = ""
    base: str = ""

    @property
    def pairs(self) -> dict[str, str]:
        """The fields, as text."""
        return split(self.fields)


def split(fields: str) -> dict[str, str]:
    """`key=value,key=value` by key; what has another form is left to the parser, which refuses it."""
    parts = (part.partition("=") for part in PART.findall(fields))
    return {key.strip(): value.strip() for key, _, value in parts}


@cache
def read(path: Path) -> Mapping[str, Setting]:
    """The settings of a file, by name; none if there is no such file.

    Raises:
        UserError: it has something else in it.
    """
    known = {field.name for field in fields(Setting)} - {"name"}
    example = '[name], and below it track = "paper", source = "..." and fields = "key=value,key=value"'
    try:
        said = tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}", f"TOML: {example}", "fix the file") from None
    found: dict[str, Setting] = {}
    for name, one in said.items():
        wrong = not isinstance(one, dict) or not {"track", "source", "fields"} <= one.keys() <= known
        require(not wrong, f"{path}: [{name}]", example, "fix the file")
        require(
            all(isinstance(value, str) for value in one.values()) and one["track"] in TRACKS and bool(one["source"]),
            f"{path}: [{name}] with track = {one['track']!r}",
            f"texts, a track that is one of {', '.join(TRACKS)}, and a source",
            "fix the file",
        )
        require(
            bool(re.fullmatch(r"[\w.-]+", name)),
            f"{path}: [{name}]",
            "a name of letters, digits and _ . -",
            "rename the setting",
        )
        found[name] = _on_base(Setting(name, **one), found, path)
    return found


def _on_base(setting: Setting, above: Mapping[str, Setting], path: Path) -> Setting:
    """The setting with the fields of its base."""
    if not setting.base:
        return setting
    require(
        setting.base in above,
        f"{path}: [{setting.name}] with base = {setting.base!r}",
        f"a setting above it: one of {', '.join(above)}",
        "fix the file",
    )
    merged = above[setting.base].pairs | setting.pairs
    return replace(setting, fields=",".join(f"{key}={value}" for key, value in merged.items()))


def short(method: str, typed: str, known: Mapping[str, Setting], defaults: Mapping[str, str]) -> str:
    """The shortest name of `method:typed` by one of these settings and what differs from it.

    A setting serves if at most MOST fields differ, none of which is back at its default. Of names of the same length
    the first in alphabetical order is taken.

    Args:
        typed: the fields that are no defaults.
        defaults: of all fields, as text.
    """
    names = [f"{method}:{typed}" if typed else method]
    for name, setting in known.items():
        rest = _changed(setting, typed, defaults)
        back = split(",".join(rest)).keys() - split(typed).keys()  # at their defaults: another setting altogether
        if len(rest) <= MOST and not back:
            names.append(f"{method}@{name}" + (":" if rest else "") + ",".join(rest))
    return min(names, key=lambda text: (len(text), text))


def track(typed: str, known: Mapping[str, Setting], defaults: Mapping[str, str]) -> str:
    """The track of these fields: `default` of none, that of the setting that has just these, else `own`."""
    if not typed:
        return DEFAULT
    return next((setting.track for setting in known.values() if not _changed(setting, typed, defaults)), OWN)


def _changed(setting: Setting, typed: str, defaults: Mapping[str, str]) -> list[str]:
    """What must be typed after the setting's name to get these fields."""
    asked, own = ({**defaults, **fields} for fields in (split(typed), setting.pairs))
    return [f"{key}={value}" for key, value in asked.items() if not _same(value, own.get(key, ""))]


def _same(one: str, other: str) -> bool:
    """Whether two texts are the same value: 1 and 1.0 are."""
    try:
        return one == other or float(one) == float(other)
    except ValueError:
        return False
