"""The page of comparisons with public packages: what the rows of its CSV give, findings first."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

Row = dict[str, Any]
SAME = 0.01  # relative difference of two errors that is none
ROUNDING = 1e-12  # errors below it are none
LEVEL = 0.05  # of the paired t test
CALL = "microseconds a gradient"  # seconds, where gradients are counted
GROUPS = (
    ("Flows by samples, and one Stein step", ("sinkhorn-", "field-", "sliced-eight", "sliced-three", "svgd")),
    ("Samplers", ("nuts", "smc-")),
    ("Distances", ("w2-", "sliced-w2", "bures-", "divergence")),
    ("Image metrics, on made features", ("fid-", "kid", "near-")),
)
FRAME = Path(__file__).with_suffix(".md")  # what is written by hand
COMMAND = "python scripts/peers.py --write results/peers"


def numbers(row: Row, side: str) -> np.ndarray:
    """All values of a side, one for each seed."""
    return np.array(str(row[f"all_{side}"]).split(), dtype=float)


def shown(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def percent(part: float) -> str:
    return f"{100 * part:.2g} %"


def difference(off: float) -> str:
    """Of two values, relative; the rows keep seven digits."""
    return f"off by {off:.0e}" if off else "the same to seven digits"


def ratios(row: Row) -> np.ndarray:
    return numbers(row, "theirs") / numbers(row, "ours")


def between(row: Row) -> str:
    """Theirs over ours: median, least and largest of the repeats."""
    each = ratios(row)
    return f"**{shown(float(np.median(each)))}** ({shown(each.min())} to {shown(each.max())})"


def verdict(row: Row) -> str:
    """Which error is lower, by a paired t test over the seeds."""
    theirs, ours = numbers(row, "theirs"), numbers(row, "ours")
    gap, size = theirs - ours, max(abs(theirs.mean()), abs(ours.mean()))
    if np.all(np.abs(gap) <= SAME * size) or size < ROUNDING:
        return "equal"
    spread = gap.std(ddof=1) / math.sqrt(len(gap))
    if spread and 2 * stats.t.sf(abs(gap.mean()) / spread, len(gap) - 1) > LEVEL:
        return "not told apart"
    return "ours is lower" if gap.mean() > 0 else "**theirs is lower**"


def gap(row: Row) -> float:
    """Largest relative difference of two values that should be equal."""
    theirs, ours = numbers(row, "theirs"), numbers(row, "ours")
    return float((np.abs(theirs - ours) / np.maximum(np.abs(ours), 1e-300)).max())


# ---------------------------------------------------------------------------------------------------------- findings


class Rows:
    """The rows by comparison and quantity."""

    def __init__(self, found: pd.DataFrame):
        self._rows: dict[tuple[str, str], Row] = {
            (row["name"], row["quantity"]): row for row in found.to_dict("records")
        }  # type: ignore[misc]

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows.values())

    def has(self, name: str, quantity: str) -> bool:
        return (name, quantity) in self._rows

    def __call__(self, name: str, quantity: str = "seconds") -> Row:
        return self._rows[name, quantity]

    def times(self, name: str, quantity: str = "seconds") -> float:
        """Theirs over ours, median."""
        return float(np.median(ratios(self(name, quantity))))


def findings(rows: Rows) -> list[str]:
    """Those whose comparisons are there."""
    found = []
    for one in FINDINGS:
        try:
            found.append(one(rows))
        except KeyError:
            continue
    return found


def _flows(rows: Rows) -> str:
    names = "sinkhorn-eight_gaussians", "sliced-eight_gaussians"
    (a, b), (c, d) = ([rows(name, "W2")[side] for side in ("ours", "theirs")] for name in names)
    times = [shown(rows.times(name)) for name in names]
    return (
        f"**Flows by samples end where the peers' do, and sooner**: on eight Gaussians, with the same points, "
        f"`sinkhorn_flow` ends at W2 {shown(a)} (geomloss {shown(b)}) and `sliced_flow` at {shown(c)} (POT "
        f"{shown(d)}), and geomloss and POT take {times[0]} and {times[1]} times as long."
    )


def _fields(rows: Rows) -> str:
    start, end = (f"error of the field {where}" for where in ("at the start", "near the end"))
    ours, fine = rows("field-geomloss", start), rows("field-ott-tight", end)
    return (
        f"**Sinkhorn fields by default**: ours is off by {percent(ours['ours'])} at the start and "
        f"{percent(rows('field-geomloss', end)['ours'])} near the end, geomloss's by {percent(ours['theirs'])} and "
        f"{percent(rows('field-geomloss', end)['theirs'])}; near the end OTT and POT are nearer "
        f"({percent(rows('field-ott', end)['theirs'])} and {percent(rows('field-pot', end)['theirs'])}) in "
        f"{shown(rows.times('field-ott'))} and {shown(rows.times('field-pot'))} times our seconds, and with "
        f"`tolerance=0.001` ours has {percent(fine['ours'])}, where OTT takes "
        f"{shown(rows.times('field-ott-tight'))} times as long."
    )


def _nuts(rows: Rows) -> str:
    bias = rows("nuts", "squared bias of moments, all points")
    return (
        f"**BlackJAX's NUTS is better for moments, and faster**: with as many gradients its squared bias is "
        f"{shown(bias['theirs'])} and ours {shown(bias['ours'])}, as `nuts` keeps the last point of each chain alone "
        f"(as many exact draws: {shown(bias['exact'])}); a gradient takes it {shown(rows.times('nuts', CALL))} of our "
        f"time after a first call of {rows('nuts')['first_theirs']:.0f} s, and "
        f"{shown(rows.times('nuts-alone-blackjax', CALL))} in one chain alone, where Pyro takes "
        f"{shown(rows.times('nuts-alone-pyro', CALL))}."
    )


def _smc(rows: Rows) -> str:
    log_z, funnel = (rows(f"smc-{name}", "error of log Z") for name in ("logistic", "funnel"))
    times = [shown(rows.times(f"smc-{name}", CALL)) for name in ("logistic", "funnel")]
    return (
        f"**Tempered SMC is slower than BlackJAX's on a cheap density**: with about as many gradients log Z is "
        f"off by {shown(log_z['ours'])} on ionosphere and {shown(funnel['ours'])} on the funnel (BlackJAX "
        f"{shown(log_z['theirs'])}, {verdict(log_z)}, and {shown(funnel['theirs'])}, {verdict(funnel)}), and a "
        f"gradient takes BlackJAX {times[0]} and {times[1]} of our time."
    )


def _metrics(rows: Rows) -> str:
    names = ("w2-pot", "w2-scipy", "sliced-w2", "fid-512", "fid-1024", "fid-scipy", "near-fidelity", "near-prdc")
    times = [rows.times(name) for name in names]
    off = max(gap(row) for row in rows if row["kind"] == "value" and row["name"] in names)
    return (
        f"**Metrics have the same values** as POT, SciPy, torch-fidelity and prdc (W2, sliced W2, FID, precision, "
        f"recall: {difference(off)}), and these take {shown(min(times))} to {shown(max(times))} times as long."
    )


def _slower(rows: Rows) -> str:
    """Every comparison in which a peer is faster, or its error is lower."""
    fast = [row for row in rows if row["kind"] == "seconds" and ratios(row).max() < 1 and _main(row, rows)]
    good = [row for row in rows if row["kind"] == "error" and "theirs" in verdict(row)]
    lines = [
        f"- {row['problem']}: {row['peer']} ({row['their_call']}) takes {between(row)} of our time" for row in fast
    ]
    for name in dict.fromkeys(row["name"] for row in good):
        mine = [row for row in good if row["name"] == name]
        each = "; ".join(f"{row['quantity']} {shown(row['theirs'])}, ours {shown(row['ours'])}" for row in mine)
        lines.append(f"- {mine[0]['problem']}: {mine[0]['peer']} ({mine[0]['their_call']}), {each}")
    return "\n".join(["**Where a peer is faster in all repeats, or its error is lower:**", "", *lines]) if lines else ""


def _main(row: Row, rows: Rows) -> bool:
    """Whether these are the seconds to compare: for each gradient, where gradients were counted."""
    return row["quantity"] == CALL or not rows.has(row["name"], CALL)


FINDINGS: tuple[Callable[[Rows], str], ...] = (_flows, _fields, _nuts, _smc, _metrics)


# ------------------------------------------------------------------------------------------------------------ tables


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    every = [head, [":--"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in every)


def line(row: Row) -> list[str]:
    """The line of a measurement."""
    who, quantity = f"{row['peer']}: {row['their_call']}", str(row["quantity"])
    if row["kind"] == "seconds":
        first = row["first_theirs"]
        late = f"; first call {shown(first)} s" if quantity == "seconds" and first > 1 + 2 * row["theirs"] else ""
        if quantity == CALL:
            late = f"; {row['calls_theirs']:.3g} gradients, ours {row['calls_ours']:.3g}"
        return [who, quantity, shown(row["theirs"]), shown(row["ours"]), "-", between(row) + late]
    if row["kind"] == "value":
        return [who, quantity, f"{row['theirs']:.6g}", f"{row['ours']:.6g}", "-", difference(gap(row))]
    exact = "-" if pd.isna(row["exact"]) else shown(row["exact"])
    return [who, quantity, shown(row["theirs"]), shown(row["ours"]), exact, verdict(row)]


def grouped(found: pd.DataFrame) -> list[str]:
    """A heading for each group, and a table for each problem."""
    parts, records = [], found.to_dict("records")
    head = ["theirs", "what", "theirs", "ours", "exact draws", "theirs / ours, or verdict"]
    for title, names in GROUPS:
        rows: list[Row] = [row for row in records if str(row["name"]).startswith(names)]  # type: ignore[assignment]
        parts += [f"## {title}"] if rows else []
        for what in dict.fromkeys(map(_heading, rows)):
            lines = [line(row) for row in rows if _heading(row) == what]
            before = ["", *(one[0] for one in lines)]
            once = [["" if one[0] == old else one[0], *one[1:]] for one, old in zip(lines, before, strict=False)]
            parts += [what, table(head, once)]
    return parts


def _heading(row: Row) -> str:
    return f"**{row['problem']}**: {row['setting']}. Ours: {row['our_call']}"


def made(found: pd.DataFrame) -> str:
    """Where and when the rows were made."""
    spent = found[found["quantity"] == "seconds"]
    total = (spent["repeats"] + 1) * (spent["theirs"] + spent["ours"]) + spent["first_theirs"] + spent["first_ours"]
    pairs = sorted(set(zip(found["peer"], found["version"].astype(str), strict=True)))
    versions = ", ".join(f"{peer} {one}" for peer, one in pairs)
    lines = [
        f"- `{COMMAND}`: about {math.ceil(total.sum() / 60 * 1.2)} minutes of one core. One package again: `--only "
        "geomloss`, which leaves the other rows as they are. Page from the rows: `--page results/peers`",
        f"- packages: {versions}, torch {_all(found['torch'])}, Python {_all(found['python'])}",
        f"- commit {_all(found['commit'])}; {_all(found['machine'])}, one thread; load average "
        f"{found['load'].min():.1f} to {found['load'].max():.1f}; {found['date'].min()} to {found['date'].max()}",
    ]
    return "\n".join(lines)


def _all(column: pd.Series) -> str:
    return ", ".join(sorted({str(value) for value in column}))


def page(found: pd.DataFrame) -> str:
    """The page of these rows, in Markdown."""
    rows = Rows(found)
    text = "\n".join(f"{place}. {one}" for place, one in enumerate(findings(rows), 1))
    made_of = {
        "findings": "\n\n".join(filter(None, (text, _slower(rows)))),
        "tables": "\n\n".join(grouped(found)),
        "made": made(found),
    }
    return re.sub(r"<!-- (\w+) -->", lambda mark: made_of[mark[1]], FRAME.read_text(encoding="utf-8"))
