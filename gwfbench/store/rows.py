"""The results table: one row for each judged (seed, time, metric), one for each run without any."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from gwfbench.store.record import Run

if TYPE_CHECKING:
    import pandas as pd


def tidy(runs: Iterable[Run]) -> pd.DataFrame:
    """The results table: one row for each judged (seed, time, metric), one for each run without any."""
    import pandas as pd

    parts = [(*run.facts(), run.cells()) for run in runs]
    if not parts:
        return pd.DataFrame()
    rows = [number for number, part in enumerate(parts) for _ in part[2]]
    before, after = (pd.DataFrame([part[i] for part in parts]).take(rows).reset_index(drop=True) for i in (0, 1))
    cells = [cell for part in parts for cell in part[2]]
    points = pd.DataFrame({name: [cell[name] for cell in cells] for name in cells[0]})
    return pd.concat([before, points, after], axis=1)
