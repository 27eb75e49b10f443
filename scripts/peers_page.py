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
    if np.all(np.abs(gap) <= SAME * size):
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


def _sinkhorn(rows: Rows) -> str:
    flow, start = rows("sinkhorn-eight_gaussians", "W2"), "error of the field at the start"
    default, fine = rows("field-geomloss", start), rows("field-geomloss-fine", start)
    return (
        f"On eight Gaussians `sinkhorn_flow` ends at W2 {shown(flow['ours'])} and geomloss's flow at "
        f"{shown(flow['theirs'])}; geomloss takes {shown(rows.times('sinkhorn-eight_gaussians'))} times as long. At "
        f"its default its field is off by {default['theirs']:.0%} at the start, ours by {default['ours']:.0%}; with "
        f"scaling 0.99 by {fine['theirs']:.0%}, in {shown(rows.times('field-geomloss-fine'))} times our seconds. "
        f"POT's default plans are nearly exact, and take {shown(rows.times('field-pot'))} times as long as ours."
    )


def _nuts(rows: Rows) -> str:
    bias = rows("nuts", "squared bias of moments, all points")
    return (
        f"For moments, take BlackJAX's NUTS: from as many gradients its squared bias is {shown(bias['theirs'])}, ours "
        f"{shown(bias['ours'])}, as `nuts` here keeps one independent point of each chain and not the way there. "
        f"Its run takes {shown(rows.times('nuts'))} of our seconds once it is compiled (its first call takes "
        f"{rows('nuts')['first_theirs']:.0f} s); for one chain alone a gradient takes it "
        f"{shown(rows.times('nuts-alone-blackjax', CALL))} of our time, and Pyro "
        f"{shown(rows.times('nuts-alone-pyro', CALL))}."
    )


def _smc(rows: Rows) -> str:
    log_z, funnel = rows("smc-logistic", "error of log Z"), rows("smc-funnel", "error of log Z")
    return (
        f"`smc` and BlackJAX's tempered SMC are the same algorithm. From as many gradients log Z is off by "
        f"{shown(log_z['ours'])} (ours) and {shown(log_z['theirs'])} on ionosphere, and by {shown(funnel['ours'])} and "
        f"{shown(funnel['theirs'])} on the funnel. BlackJAX takes {shown(rows.times('smc-logistic', CALL))} and "
        f"{shown(rows.times('smc-funnel', CALL))} of our seconds for each gradient."
    )


def _distances(rows: Rows) -> str:
    near = rows("bures-near", "relative error")
    return (
        f"Exact W2, sliced W2, FID, precision and recall agree with POT, SciPy, torch-fidelity and prdc to rounding. "
        f"FID of 2048 features takes torch-fidelity {shown(rows.times('fid-2048'))} times our seconds. For nearly "
        f"equal Gaussians POT's distance is off by {near['theirs']:.1g} of its size, ours by {near['ours']:.1g}. "
        f"SciPy's assignment takes {shown(rows.times('w2-scipy'))} of our seconds for W2, without a standard error."
    )


def _sliced(rows: Rows) -> str:
    return (
        f"The sliced flow is the same to rounding as POT's distance with autograd, which takes "
        f"{shown(rows.times('sliced-eight_gaussians'))} times as long."
    )


def _slower(rows: Rows) -> str:
    """Every comparison in which a peer is faster, or its error is lower."""
    fast = [row for row in rows if row["kind"] == "seconds" and ratios(row).max() < 1 and _main(row, rows)]
    good = [row for row in rows if row["kind"] == "error" and "theirs" in verdict(row)]
    lines = ["**Where a peer is faster in all repeats, or its error is lower:**", ""]
    for row in fast:
        lines.append(f"- {row['problem']}: {row['peer']} ({row['their_call']}) takes {between(row)} of our time")
    for row in good:
        lines.append(
            f"- {row['problem']}: {row['peer']} ({row['their_call']}), {row['quantity']} {shown(row['theirs'])}, ours "
            f"{shown(row['ours'])}"
        )
    return "\n".join(lines) if fast or good else ""


def _main(row: Row, rows: Rows) -> bool:
    """Whether these are the seconds to compare: for each gradient, where gradients were counted."""
    return row["quantity"] == CALL or not rows.has(row["name"], CALL)


FINDINGS: tuple[Callable[[Rows], str], ...] = (_sinkhorn, _sliced, _nuts, _smc, _distances)


# ------------------------------------------------------------------------------------------------------------ tables


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    every = [head, [":--"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in every)


def speeds(rows: list[Row]) -> str:
    lines = []
    for row in (row for row in rows if row["kind"] == "seconds"):
        unit = "us a gradient" if row["quantity"] != "seconds" else "s"
        first = f"{row['first_theirs']:.1f} s" if row["first_theirs"] > 1 + 2 * row["theirs"] and unit == "s" else "-"
        lines.append([
            f"{row['problem']}; {row['setting']}", f"{row['peer']}: {row['their_call']}", f"`{row['our_call']}`",
            f"{shown(row['theirs'])} {unit}", f"{shown(row['ours'])} {unit}", between(row), first,
        ])  # fmt: skip
    head = ["problem", "theirs", "ours", "theirs takes", "ours takes", "theirs / ours", "their first call"]
    return table(head, lines)


def errors(rows: list[Row]) -> str:
    lines = [
        [row["problem"], f"{row['peer']}: {row['their_call']}", row["quantity"], shown(row["theirs"]),
         shown(row["ours"]), "-" if pd.isna(row["exact"]) else shown(row["exact"]), verdict(row)]
        for row in rows if row["kind"] == "error"
    ]  # fmt: skip
    return table(["problem", "theirs", "error", "theirs", "ours", "exact draws", "verdict"], lines) if lines else ""


def values(rows: list[Row]) -> str:
    lines = [
        [row["problem"], f"{row['peer']}: {row['their_call']}", row["quantity"], f"{row['theirs']:.6g}",
         f"{row['ours']:.6g}", f"{gap(row):.1g}"]
        for row in rows if row["kind"] == "value"
    ]  # fmt: skip
    return table(["problem", "theirs", "value", "theirs", "ours", "largest difference"], lines) if lines else ""


def grouped(found: pd.DataFrame) -> list[str]:
    parts, records = [], found.to_dict("records")
    for title, names in GROUPS:
        rows: list[Row] = [row for row in records if str(row["name"]).startswith(names)]  # type: ignore[assignment]
        if rows:
            parts += [f"## {title}", speeds(rows), *filter(None, (errors(rows), values(rows)))]
    return parts


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
