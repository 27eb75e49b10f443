"""What a paper's page says in words: published values, protocols, and in one fold a table what was not run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from gwfbench.datasets.protocols import Called
from gwfbench.papers.ledger import RATES, Number, Table

LONG = 160  # letters of the reasons in the line that what was not run is folded into


def printed(number: Number) -> str:
    spread = f" ± {number.spread:g}" if number.spread else ""
    off = " to ".join(f"{value:.3g}" for value in number.compared) if not math.isnan(number.truth) else ""
    ends = number.value if len(number.value) < 3 else (min(number.value), max(number.value))
    return (" to ".join(f"{value:g}" for value in ends) or "-") + spread + (f", off by {off}" if off else "")


def protocol(name: str) -> str:
    """What an image metric's name says, in words."""
    said = Called.read(name)
    return f"`{name}`, {said.words()}" if said else ""


def not_run(by_reason: Mapping[str, Sequence[Number]], table: Table) -> str:
    """What was not run, folded into one line: by reason, with the published values."""
    if not by_reason:
        return ""
    said = [f"- {why}{_listed(those, table)}" for why, those in by_reason.items()]
    count = sum(map(len, by_reason.values()))
    head = f"<details><summary><b>not run</b>, {count}: {_reasons(by_reason)}</summary>"
    return "\n\n".join([head, "\n".join(said), "</details>"])


def _reasons(by_reason: Mapping[str, Sequence[Number]]) -> str:
    """The first reasons, as many as a line has room for."""
    shown: list[str] = []
    for why, those in by_reason.items():
        if shown and len("; ".join(shown)) + len(why) > LONG:
            break
        shown.append(f"{why} ({len(those)})" if len(by_reason) > 1 else why)
    more = len(by_reason) - len(shown)
    return "; ".join(shown) + (f"; {more} more reason{'s' * (more > 1)}" if more else "")


def _listed(those: Sequence[Number], table: Table) -> str:
    """Numbers of one reason; those that take a GPU in a list, each with its command."""
    gpu = dict.fromkeys(map(_minutes, those))
    words = [f"{one.what}: {one.curve or printed(one)}{_aside(one, table, len(gpu) > 1)}" for one in those]
    if not any(one.command for one in those):
        return f": {'; '.join(words)}."
    once = f" (a seed: {next(iter(gpu))})" if len(gpu) == 1 else ""
    return f"{once}:\n" + "\n".join(f"  - {each}" for each in words)


def _minutes(number: Number) -> str:
    """What a seed takes on a GPU, and how that is known."""
    least, most = number.minutes
    if number.device == "cpu" or math.isnan(least):
        return ""
    rates = f"{RATES[1] / 1e12:.0f} to {RATES[0] / 1e12:.0f} TFLOP/s"
    return f"{least:.0f} to {most:.0f} GPU minutes, {number.flop / 1e18:.2g} EFLOP, counted, at {rates}, assumed"


def _aside(number: Number, table: Table, minutes: bool) -> str:
    """What is a number's own, in parentheses."""
    said = [number.definition if number.definition != table.definition else ""]
    said.append(f"protocol: {protocol(number.protocol)}" if number.protocol not in (table.protocol, "") else "")
    said.append(f"`{number.command}`" if number.command else "")
    said.append(_minutes(number) if minutes else "")
    return f" ({'; '.join(filter(None, said))})" if any(said) else ""
