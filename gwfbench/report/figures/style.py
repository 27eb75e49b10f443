"""How each contestant is drawn, on the page and in figures: one colour, line and marker per method, for all readers.

Colours are Okabe and Ito's (2008) less yellow, which is lost on white, and black, which is lost on black. A method's
place in METHODS says its colour, so that it has the same one in every figure; where colours begin again, markers and
lines go on. Other settings of a method have its colour and another marker. Floors and controls are grey.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from gwfbench.report.names import head

METHODS = (  # in this order for ever: a new one is added at the end
    *("vjko", "ula", "svgd", "blob", "mala", "jko_icnn", "smc", "nuts", "gaussian_vi", "dds", "drift_density"),
    *("ksd_descent", "radon_flow", "porous_particles", "mmd_flow", "sliced_flow", "sinkhorn_flow", "drifting"),
    *("gan", "gwf", "sjko", "jko_flow", "kale_flow", "drmmd", "f_flow", "ift_flow", "riesz_flow", "vgrow"),
    *("gf_drifting", "pis"),
)
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
    settings: dict[str, list[str]] = defaultdict(list)  # of each method, the first of which has its look
    for name in sorted(name for name, own in roles.items() if "method" in own):
        settings[head(name)].append(name)
    unknown = sorted(settings.keys() - set(METHODS))
    places = {name: i for i, name in enumerate((*METHODS, *unknown))}
    found = {names[0]: _method(places[method]) for method, names in settings.items()}
    for names in settings.values():
        for turn, name in enumerate(names[1:], 1):
            found[name] = _other(found[names[0]], turn, found.values())
    others = sorted(name for name, own in roles.items() if "method" not in own)
    return found | {
        name: Look(GREY, LINES[(i + 1) % len(LINES)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(others)
    }


def _method(i: int) -> Look:
    turn, colour = divmod(i, len(COLOURS))
    return Look(COLOURS[colour], LINES[turn % len(LINES)], MARKERS[(i + turn) % len(MARKERS)])


def _other(look: Look, turn: int, taken: Iterable[Look]) -> Look:
    """The look of another setting: this colour, with a marker that is free in it as long as there is one."""
    used = {one.marker for one in taken if one.colour == look.colour}
    first = MARKERS.index(look.marker)
    markers = [MARKERS[(first + k) % len(MARKERS)] for k in range(len(MARKERS))]
    free = [marker for marker in markers if marker not in used] or [markers[turn % len(markers)]]
    return Look(look.colour, LINES[(LINES.index(look.line) + turn) % len(LINES)], free[0])
