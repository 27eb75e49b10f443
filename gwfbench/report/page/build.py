"""The report as one page of HTML that needs nothing else: no server, no network, no other file.

Everything that comes from rows is data: it stands in one block, JSON that is zipped and written in base64, and the
script puts it on the page as text. A policy in the page's head names the digests of its two scripts, so that a browser
runs nothing else and sends no request. The script is the parts below, one after the other. Plots are made by Plotly's
basic bundle (MIT, from npm), a file next to the template: a quarter of the whole Plotly in size, and in the time that a
browser takes to read it, which it does when the tables are there.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

from gwfbench import escape
from gwfbench.audit import calibrate
from gwfbench.errors import UserError
from gwfbench.papers import ledger
from gwfbench.report.calibration_page import NOTES as CALIBRATION_NOTES
from gwfbench.report.calibration_page import read
from gwfbench.report.figures.style import looks
from gwfbench.report.page.about import about
from gwfbench.report.page.data import ALONG, RUN
from gwfbench.report.page.draws import Views
from gwfbench.report.page.groups import PAPERS, Group
from gwfbench.report.rows import Facts
from gwfbench.store import checked, record

PARTS = ("dom", "address", "tables", "boards", "cell", "plots", "laws", "page")  # of the script, in this order
CALIBRATION = ("task", "metric", "n", "floor", "still", "ratio", "apart", "shift", "scale", "seconds", "status", "note")
BEYOND = f"> {calibrate.GRID[-1]:g}"  # the grid


def page(groups: Sequence[Group], facts: Facts, seen: Views, calibrated: Iterable[calibrate.Row] = ()) -> str:
    """The whole page.

    Args:
        groups: of boards; that of papers comes last.
        facts: of environments, by hash.
        seen: kept draws.
        calibrated: rows of the calibration table.

    Raises:
        UserError: Jinja2 is not installed.
    """
    return assembled(content(groups, facts, seen, calibrated))


def assembled(shown: Mapping[str, Any]) -> str:
    """The page of these values.

    Raises:
        UserError: Jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup
    except ImportError:
        raise UserError("report html without jinja2", "jinja2", "pip install jinja2 matplotlib") from None
    scripts = [_plain(text).replace("</script", "<\\/script") for text in (_script(), _part("plotly-basic.min.js"))]
    env = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return env.from_string(_part("page.html")).render(
        content=zipped(shown), style=Markup(_part("page.css")),
        script=Markup(scripts[0]), plotly=Markup(scripts[1]), digests=" ".join(map(_digest, scripts)),
    )  # fmt: skip


def content(
    groups: Sequence[Group], facts: Facts, seen: Views, calibrated: Iterable[calibrate.Row] = ()
) -> dict[str, Any]:
    """All that the page shows, as values for JSON, with what acts instead of being seen made visible in all texts."""
    drawn = [line for group in groups if group.name != PAPERS for sheet in group.sheets for line in sheet.board.lines]
    boards = [sheet.board for group in groups for sheet in group.sheets]
    lines = [line for board in boards for line in board.lines]
    return _harmless({
        "groups": [group.plain() for group in groups],
        "looks": {name: asdict(look) for name, look in looks((line.method, line.role) for line in drawn).items()},
        "along": ALONG,
        "run": RUN,
        "about": about(
            [board.task for board in boards], [line.spec for line in lines],
            [metric for board in boards for metric in board.metrics],
        ),
        "papers": {key: ledger.load(key).title for key in ledger.papers()},
        "views": asdict(seen),
        "calibration": _calibration(calibrated),
        "environments": _environments(groups, facts),
    })  # fmt: skip


def zipped(value: Any) -> str:
    """JSON, zipped, in base64: the same text from the same value."""
    return base64.b64encode(gzip.compress(record.to_json(value).encode(), 9, mtime=0)).decode()


def put(
    path: Path, groups: Sequence[Group], facts: Facts, seen: Views, calibrated: Path,
) -> str:  # fmt: skip
    """Write the page as a file, whole or not at all; returns a message.

    Args:
        calibrated: a CSV that calibrate wrote; no table if there is no such file.

    Raises:
        UserError: it can't be written, or something that it needs is missing.
    """
    text = page(groups, facts, seen, read(calibrated))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        checked.write(path, text)
    except OSError as error:
        raise UserError(
            f"report html {path}: {error.strerror}", "a file that can be written", "name another one"
        ) from None
    return f"wrote {path}, {len(text.encode()) / 1e6:.1f} MB"


def _calibration(rows: Iterable[calibrate.Row]) -> dict[str, Any]:
    cells = [[getattr(row, name) for name in CALIBRATION] for row in rows]
    return {
        "columns": CALIBRATION,
        "rows": [[BEYOND if value == math.inf else value for value in row] for row in cells],
        "beyond": BEYOND,
        "notes": CALIBRATION_NOTES,
    }


def _environments(groups: Sequence[Group], facts: Facts) -> dict[str, dict[str, Any]]:
    """By hash: its facts, empty if they are lost, and how many of the runs on the page it made."""
    runs = {
        tuple(run[RUN.index(name)] for name in ("run_key", "attempt", "env"))
        for group in groups for sheet in group.sheets for own in sheet.histories.values() for run in own.runs
    }  # fmt: skip
    counts = Counter(str(env) for _, _, env in runs)
    return {env: {"facts": dict(facts.get(env) or {}), "runs": count} for env, count in counts.most_common()}


def _harmless(value: Any) -> Any:
    """With what acts instead of being seen made visible in all texts."""
    if isinstance(value, str):
        return value if value.isprintable() else escape.block(value)
    if isinstance(value, Mapping):
        return {_harmless(key): _harmless(one) for key, one in value.items()}
    return [_harmless(one) for one in value] if isinstance(value, list | tuple) else value


def _script() -> str:
    parts = "\n".join(_part(f"{name}.js") for name in PARTS)
    return f'"use strict";\n(() => {{ // a scope of its own\n{parts}\n}})();\n'


def _part(name: str) -> str:
    return files("gwfbench.report.page").joinpath(name).read_text(encoding="utf-8")


def _plain(text: str) -> str:
    """With the ends of lines that a parser of HTML makes of them, for the digest is of what it sees."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
