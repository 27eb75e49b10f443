"""Tidy rows as CSV: read back to the last bit, and the environments beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from gwfbench.errors import UserError

Facts = dict[str, dict[str, Any]]  # of environments, by hash


def read(path: Path) -> tuple[pd.DataFrame, Facts]:
    """Tidy points of a CSV, and the environments that stand beside it, if they do.

    Raises:
        UserError: it is no CSV of points.
    """
    needed = {"task", "method", "seed", "metric", "metric_version", "value", "se", "n", "run_key", "attempt", "role"}
    try:
        exact = dict.fromkeys(("run_key", "attempt", "metric_code", "code", "env", "information", "value", "se"), str)
        points = pd.read_csv(path, dtype=exact)  # some versions of pandas read floats but nearly
        missing = needed - set(points.columns)
        if missing:
            raise ValueError(f"it has no column {', '.join(sorted(missing))}")
        points = points.assign(value=points["value"].astype(float), se=points["se"].astype(float))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: {error}", "a CSV of points", "python -m gwfbench report --write DIR makes one"
        ) from None
    points["information"] = points["information"].fillna("")
    try:
        facts = json.loads((path.parent / "environments.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        facts = {}
    return points, facts
