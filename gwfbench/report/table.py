"""The results table as all of the report reads it: checked column by column, whoever made it, and with contestants.

Rows come from runs, from a CSV of ours, and from a CSV that pandas has read in its own way, to which "nan", "NA" and
"None" are no names. So `kept` writes text that a reader could take for something else with an apostrophe in front,
and `checked` takes it away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, get_args

import pandas as pd

from gwfbench import escape
from gwfbench.errors import UserError
from gwfbench.plugins import registry
from gwfbench.store.record import Role, Status

NEEDED = (
    *("task", "method", "seed", "metric", "metric_version", "value", "se", "n", "run_key", "attempt", "role"),
)  # fmt: skip
TEXT = {  # and what a table without this column means; None: the column must be there
    "task": None, "method": None, "metric": None, "role": None, "run_key": None, "attempt": None, "better": "lower",
    "law": "flow", "metric_code": "", "worst": "", "status": "ok", "reason": "", "information": "",
    "dtype": "float32", "device": "cpu", "budget": "", "judge": "", "code": "", "env": "",
}  # fmt: skip
ALWAYS = ("task", "method", "role", "run_key", "attempt", "status", "dtype", "device")  # never empty
NUMBERS = {  # likewise
    "metric_version": None, "value": None, "se": None, "n": None, "step": 1.0, "t": math.nan, "seconds": math.nan,
    "score_calls": 0.0, "log_prob_calls": 0.0, "draw_calls": 0.0, "sample_seconds": 0.0, "sample_calls": 0.0,
    "judge_seconds": math.nan, "batch": 1.0, "unit": math.nan, "memory": math.nan, "energy": math.nan,
}  # fmt: skip
SIGNED = ("value", "t")  # all others are at least 0
OPEN = ("value", "se")  # all others are finite
WHOLE = ("metric_version", "n", "step", "batch")
OF_METRIC = ("better", "metric_version", "n", "step")  # never empty where there is a metric
WORDS = {
    "role": get_args(Role), "status": get_args(Status), "dtype": ("float32", "float64"), "law": ("flow", "jko"),
    "better": ("lower", "higher"),
}  # fmt: skip
PLAIN = ("float32", "cpu", "")  # precision, device class, budget of a run about which nothing is said
NULLS = {
    *("", "#n/a", "#n/a n/a", "#na", "<na>", "n/a", "na", "null", "none", "true", "false"),
    *("-1.#ind", "-1.#qnan", "1.#ind", "1.#qnan"),
}  # fmt: skip


def kept(text: str) -> str:
    """For a cell of rows.csv: one line, no formula, and nothing that a reader takes for a number or for no value."""
    shown = escape.csv(text)
    return f"'{shown}" if shown and shown == escape.line(text) and _ambiguous(shown) else shown


def _back(text: str) -> str:
    rest = text[1:]
    return rest if text[:1] == "'" and rest and (rest.startswith(escape.FORMULA) or _ambiguous(rest)) else text


def _ambiguous(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text.lower() in NULLS
    return True


def checked(rows: pd.DataFrame, where: str) -> pd.DataFrame:
    """The table with all of its columns, text as text ("" for none; a missing metric is null) and numbers as numbers.

    Args:
        where: it is from, for messages.

    Raises:
        UserError: it is no table of results.
    """
    expected, fix = "a table of results", "python -m gwfbench report --write DIR makes one; gwfbench.load reads it"
    missing = [name for name in NEEDED if name not in rows]
    if missing:
        raise UserError(f"{where}: no column {', '.join(missing)}", expected, fix)
    made: dict[str, Any] = {}
    try:
        for name, default in TEXT.items():
            made[name] = _text(rows[name], name) if name in rows else default
        made["seed"] = _seeds(rows["seed"])
        for name, default in NUMBERS.items():
            made[name] = _numbers(rows[name], name) if name in rows else default
        done = rows.assign(**made)
        _check(done)
        _check_numbers(done)
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{where}: {escape.line(str(error))}", expected, fix) from None
    return done


def _check(rows: pd.DataFrame) -> None:
    judged = rows["metric"].notna()
    for name, words in WORDS.items():
        wrong = set(rows[name].unique()) - {*words, "" if name in ("better", "law") else words[0]}
        if wrong:
            raise ValueError(f"{name} {wrong.pop()!r}, expected one of {', '.join(words)}")
    for name in ALWAYS:
        if (rows[name] == "").any():
            raise ValueError(f"a row without {name}")
    for name in OF_METRIC:
        empty = rows[name] == "" if name == "better" else rows[name].isna()
        if (judged & empty).any():
            raise ValueError(f"a row with a metric and without {name}")


def _check_numbers(rows: pd.DataFrame) -> None:
    for name in NUMBERS:
        if name not in SIGNED and (rows[name] < 0).any():
            raise ValueError(f"{name} below 0")
        if name not in OPEN and (rows[name].abs() == math.inf).any():
            raise ValueError(f"{name} is infinite")
    for name in WHOLE:
        if (rows[name] % 1 > 0).any():
            raise ValueError(f"{name} is no whole number")


def _text(column: pd.Series, name: str) -> pd.Series:
    none = None if name == "metric" else ""
    return mapped(column, lambda value: _back(_word(value)) or none, none)


def mapped(column: pd.Series, change: Callable[[Any], str | None], none: str | None = None) -> pd.Series:
    """A column whose values are changed so, each different one once; `none` for nulls."""
    codes, values = pd.factorize(column)
    changed = [*map(change, values), none]  # the code of a null is -1: the last
    return pd.Series([changed[code] for code in codes], index=column.index, dtype=object)


def _word(value: object) -> str:
    """As it was before a reader took it for a number."""
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)


def _seeds(column: pd.Series) -> pd.Series:
    if not pd.api.types.is_integer_dtype(column):
        column = column.map(_seed)
    if (column < 0).any():
        raise ValueError("seed below 0")
    return column


def _seed(value: Any) -> int:
    number = int(value)
    if isinstance(value, bool) or number != (number if isinstance(value, str) else value):
        raise ValueError(f"seed {value!r}, expected a whole number")
    return number


def _numbers(column: pd.Series, name: str) -> pd.Series:
    if pd.api.types.is_numeric_dtype(column):
        return column.astype(float)
    try:
        numbers = [math.nan if x is None or x == "" else float(x) for x in column.to_list()]
        return pd.Series(numbers, index=column.index, dtype=float)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name}: {error}") from None


def contestants(rows: pd.DataFrame) -> pd.DataFrame:
    """Checked, with `method` the name on the board, and `spec` what rows have: each field that is no default.

    The name has named settings where they make it shorter. Rows of one (task, method) that differ in precision, device
    class or the budget that ended them are contestants of their own: `ula`, `ula [float64]`, `ula [budget steps=5]`. A
    budget counts for all runs that were asked for with it, as soon as it has ended one of them.
    """
    if "spec" in rows:  # done before
        return rows
    rows = checked(rows, "the rows")
    columns = [rows[name].to_list() for name in ("task", "method", "dtype", "device", "budget")]
    asked = [(task, method, dtype, device.partition(":")[0], budget)
             for task, method, dtype, device, budget in zip(*columns, strict=True)]  # fmt: skip
    cut = {one for one, status in zip(asked, rows["status"], strict=True) if status == "budget"}
    found = {one: (one[2], one[3], one[4] if one in cut else "") for one in dict.fromkeys(asked)}
    several: dict[tuple[str, str], set[tuple[str, str, str]]] = {}
    for one, kind in found.items():
        several.setdefault(one[:2], set()).add(kind)
    marks = {one: _mark(*kind) if len(several[one[:2]]) > 1 else "" for one, kind in found.items()}
    names = {one: registry.short(one[1]) + mark for one, mark in marks.items()}
    classes = [one[3] for one in asked]
    return rows.assign(spec=rows["method"], method=[names[one] for one in asked], device_class=classes)


def _mark(dtype: str, device: str, budget: str) -> str:
    """What is not plain about such runs, in brackets."""
    said = [part for part, plain in zip((device, dtype), (PLAIN[1], PLAIN[0]), strict=True) if part != plain]
    return f" [{', '.join([*said, *_limits(budget)])}]" if said or budget else ""


def _limits(budget: str) -> Iterable[str]:
    if not budget:
        return []
    parts = []
    for part in budget.split(","):
        name, _, limit = part.partition("=")
        try:
            parts.append(f"{name}={float(limit):g}")
        except ValueError:
            parts.append(part)
    return [f"budget {','.join(parts)}"]
