"""Experiment files: the options of a command, as TOML, read and written."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from gwfbench.errors import UserError, require, unknown
from gwfbench.store import inputs


def read(path: Path, options: Sequence[click.Parameter]) -> dict[str, Any]:
    """The values of a file by the names that click has for the options.

    A key is the name of an option without its dashes: `task`, `no-curve`, `budget`; that of one which may be repeated
    has a list. A budget may be a table: `budget = { seconds = 60 }`.

    Raises:
        UserError: it is no such file.
    """
    try:
        said = tomllib.loads(inputs.finite(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"--config {path}: {error}", "a TOML file with options", "fix the file") from None
    known = {name.lstrip("-"): one for one in options for name in one.opts if one.name != "config_file"}
    negated = {name.lstrip("-"): one for one in options for name in one.secondary_opts}
    found: dict[str, Any] = {}
    for key, value in said.items():
        if key not in known and key not in negated:
            raise unknown("option", key, known, "python -m gwfbench run --help")
        option = known.get(key) or negated[key]
        assert option.name
        require(option.name not in found, f"--config {path}: {key}", "each option once", "leave one of them out")
        found[option.name] = _value(path, key, value, option, key in negated)
    return found


def _value(path: Path, key: str, value: Any, option: click.Parameter, negated: bool) -> Any:
    """A value as the option takes it."""
    flag = isinstance(option, click.Option) and option.is_flag
    if isinstance(value, dict) and key == "budget":
        value = ",".join(f"{name}={limit}" for name, limit in value.items())
    if key == "seeds" and isinstance(value, list):
        value = "".join(f"{seed}," for seed in value)
    wanted = "true or false" if flag else "a list" if option.multiple else "a text or a number"
    fits = (
        isinstance(value, bool) if flag
        else isinstance(value, list) and all(isinstance(one, str) for one in value) if option.multiple
        else isinstance(value, str | int | float) and not isinstance(value, bool)
    )  # fmt: skip
    require(fits, f"--config {path}: {key} = {value!r}", wanted, "fix the file")
    if flag:
        return value != negated
    return value if option.multiple else str(value)


def text(context: click.Context) -> str:
    """The options that were typed, or read from a file, as such a file."""
    given = (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP)
    values = context.params | {"plugin": context.meta.get("plugin", ())}
    lines = []
    for option in context.command.params:
        name = str(option.name)
        if name in values and name != "print_config" and context.get_parameter_source(name) in given:
            value = values[name]
            negated = value is False and bool(option.secondary_opts)
            name = (option.secondary_opts if negated else option.opts)[0].lstrip("-")
            lines.append(f"{name} = {_toml(negated or value)}\n")
    return "".join(lines)


def _toml(value: Any) -> str:
    """Text is written as in JSON, which TOML reads too."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return str(value) if isinstance(value, int | float) else json.dumps(str(value), ensure_ascii=False)
