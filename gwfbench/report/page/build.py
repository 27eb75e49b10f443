"""The report as one page of HTML that needs nothing else: no server, no network, no other file.

Everything that comes from rows is data: it stands in one JSON block, escaped by Jinja2, and the script puts it on the
page as text. A policy in the page's head names the digests of its two scripts, so that a browser runs nothing else and
sends no request. Plots are made by Plotly's basic bundle (MIT, from npm), a file next to the template: a quarter
of the whole Plotly in size, and in the time that a browser takes to read it.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd

from gwfbench import escape
from gwfbench.audit import calibrate
from gwfbench.audit.verdict import Verdict
from gwfbench.errors import UserError
from gwfbench.report.board.tables import HEADS, NOTES
from gwfbench.report.calibration_page import NOTES as CALIBRATION_NOTES
from gwfbench.report.calibration_page import read
from gwfbench.report.figures.style import looks
from gwfbench.report.page.data import ALONG, RUN, sheets
from gwfbench.report.page.draws import Views, views
from gwfbench.report.table import contestants
from gwfbench.store import checked, record

CALIBRATION = ("task", "metric", "n", "floor", "still", "ratio", "apart", "shift", "scale", "seconds", "status", "note")
BEYOND = f"> {calibrate.GRID[-1]:g}"  # the grid


def page(
    rows: pd.DataFrame, facts: Mapping[str, Mapping[str, Any]], seen: Views, metrics: Sequence[str] | None = None,
    verdicts: Iterable[Verdict] = (), calibrated: Iterable[calibrate.Row] = (),
) -> str:  # fmt: skip
    """The whole page.

    Args:
        rows: the results table.
        facts: of environments, by hash.
        seen: kept draws.
        metrics: which, and in which order; None: all.
        verdicts: of runs that were run again.
        calibrated: rows of the calibration table.

    Raises:
        UserError: Jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup
    except ImportError:
        raise UserError("report html without jinja2", "jinja2", "pip install jinja2 matplotlib") from None
    rows = contestants(rows)
    made = sheets(rows, metrics, verdicts)
    content = _harmless({
        "boards": [sheet.plain() for sheet in made],
        "looks": {name: asdict(look) for name, look in looks(zip(rows["method"], rows["role"], strict=True)).items()},
        "along": ALONG,
        "run": RUN,
        "heads": HEADS,
        "notes": NOTES,
        "views": asdict(seen),
        "calibration": _calibration(calibrated),
        "environments": _environments(rows, facts),
    })  # fmt: skip
    # an end tag inside a script's own text would end it
    scripts = [
        _plain(text).replace("</script", "<\\/script") for text in (_part("page.js"), _part("plotly-basic.min.js"))
    ]
    env = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    env.policies["json.dumps_function"] = lambda value, **_: record.to_json(value)
    return env.from_string(_part("page.html")).render(
        content=content, style=Markup(_part("page.css")), script=Markup(scripts[0]), plotly=Markup(scripts[1]),
        digests=" ".join(map(_digest, scripts)), runs=len(rows.drop_duplicates(["run_key", "attempt"])),
        tasks=len(made), methods=rows.loc[rows["role"] == "method", "method"].nunique(),
    )  # fmt: skip


def put(
    path: Path, rows: pd.DataFrame, facts: Mapping[str, Mapping[str, Any]], metrics: Sequence[str] | None,
    verdicts: Iterable[Verdict], out: Path | None, calibrated: Path,
) -> str:  # fmt: skip
    """Write the page as a file, whole or not at all; returns a message.

    Args:
        out: folder of the runs, for their draws; None: there are only rows.
        calibrated: a CSV that calibrate wrote; no table if there is no such file.

    Raises:
        UserError: it can't be written, or something that it needs is missing.
    """
    text = page(rows, facts, views(rows, out), metrics, verdicts, read(calibrated))
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


def _environments(rows: pd.DataFrame, facts: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """By hash: its facts, empty if they are lost, how many runs it made, and of what."""
    runs = rows.drop_duplicates(["run_key", "attempt"])
    return {
        str(env): {
            "facts": dict(facts.get(str(env)) or {}),
            "runs": len(own),
            "what": {str(task): list(dict.fromkeys(part["method"])) for task, part in own.groupby("task", sort=False)},
        }
        for env, own in runs.groupby("env", sort=False)
    }


def _harmless(value: Any) -> Any:
    """With what acts instead of being seen made visible in all texts."""
    if isinstance(value, str):
        return value if value.isprintable() else escape.block(value)
    if isinstance(value, Mapping):
        return {_harmless(key): _harmless(one) for key, one in value.items()}
    return [_harmless(one) for one in value] if isinstance(value, list | tuple) else value


def _part(name: str) -> str:
    return files("gwfbench.report.page").joinpath(name).read_text(encoding="utf-8")


def _plain(text: str) -> str:
    """With the ends of lines that a parser of HTML makes of them, for the digest is of what it sees."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
