"""Numbers as a terminal shows them: short, with the uncertainty next to them.

2.2e-5 ±0.5     the value, and the distance to the farther end of its interval in the same power of ten
0.038 ±0.016    likewise, without a power
4.63e-5         where there is no interval
"""

from __future__ import annotations

import math

from gwfbench.report.board.cells import Cell
from gwfbench.report.stats import outwards, rounded

WIDE = 20  # times the value: an uncertainty so large sets the power of ten


def number(value: float) -> str:
    """Three digits, with a short power of ten, or all of a number of less than six; "-" for none."""
    if 1e3 <= abs(value) < 1e5:
        return f"{value:.0f}"
    return "-" if math.isnan(value) else _power(rounded(value))


def _power(text: str) -> str:
    """`1.1e6` for `1.1e+06`."""
    mantissa, e, power = text.partition("e")
    return f"{mantissa}e{int(power)}" if e else text


def plus_minus(value: float, low: float, high: float) -> tuple[str, str]:
    """The value, and what follows it: `±0.5`; empty where there is no interval."""
    half = max(value - low, high - value) if math.isfinite(value) else math.nan
    if not half > 0:
        return number(value), ""
    if math.isinf(half):
        return number(value), "±inf"
    lead = half if half > WIDE * abs(value) else abs(value)
    power = math.floor(math.log10(lead))
    power = 0 if -2 <= power <= 3 else power
    scaled, error = value / 10.0**power, half / 10.0**power
    digits = _digits(error)
    if half <= WIDE * abs(value):
        first = math.floor(math.log10(abs(scaled)))
        most = max(2 - first, min(-math.floor(math.log10(error)), 5 - first))
        digits = min(max(digits, 1 - first), most)
    shown, off = _fixed(scaled, digits), _fixed(error, min(digits, _digits(error)))
    return (f"{shown}e{power}" if power else shown), f"±{off}"


def _digits(error: float) -> int:
    """Digits after the point that an uncertainty has: one that counts, or two if it begins with 1."""
    power = math.floor(math.log10(error))
    return -power + (error / 10.0**power < 2)


def _fixed(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:.{max(digits, 0)}f}"


def column(cells: list[Cell], intervals: bool = False) -> list[str]:
    """The cells of a column: values end below each other, and so do what follows them and verdicts."""
    parts = [_parts(cell, intervals) for cell in cells]
    value, spread = (max((len(part[i]) for part in parts), default=0) for i in (0, 1))
    return [f"{a:>{value}} {b:<{spread}} {c}".rstrip() for a, b, c in parts]


def _parts(cell: Cell, intervals: bool) -> tuple[str, str, str]:
    mark = {"floor": "floor", "alarm": "ALARM", "": ""}[cell.verdict]
    if not intervals:
        return *plus_minus(cell.value, cell.low, cell.high), mark
    low, high = map(_power, outwards(cell.low, cell.high)) if not math.isnan(cell.low) else ("", "")
    return number(cell.value), f"[{low}, {high}]" if low else "", mark
