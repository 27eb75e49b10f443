"""How each contestant is drawn, on the page and in figures: one colour, line and marker per method, for all readers.

Colours are Okabe and Ito's (2008) less yellow, which is lost on white, and black, which is lost on black. Methods take
them in the order of their names among all that are shown; markers and lines go on where colours begin again, so that
the first 48 differ in colour and marker. What is no method (floors, controls) is grey.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY = "#7F7F7F"
MARKERS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "triangle-down", "pentagon")
LINES = ("solid", "dash", "dot", "dashdot")


@dataclass(frozen=True)
class Look:
    """Colour as #RRGGBB, line and marker by Plotly's names."""

    colour: str
    line: str
    marker: str


def looks(contestants: Iterable[tuple[str, str]]) -> dict[str, Look]:
    """Looks by name.

    Args:
        contestants: (name, role) of all that are shown together; one with several roles is a method if one is.
    """
    roles: dict[str, set[str]] = {}
    for name, role in contestants:
        roles.setdefault(name, set()).add(role)
    methods = sorted(name for name, own in roles.items() if "method" in own)
    others = sorted(roles.keys() - set(methods))
    return {name: _method(i) for i, name in enumerate(methods)} | {
        name: Look(GREY, LINES[(i + 1) % len(LINES)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(others)
    }


def _method(i: int) -> Look:
    turn, colour = divmod(i, len(COLOURS))
    return Look(COLOURS[colour], LINES[turn % len(LINES)], MARKERS[(i + turn) % len(MARKERS)])
