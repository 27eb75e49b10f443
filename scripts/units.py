"""How far seconds and units of the same run spread when other work runs beside it.

    python scripts/units.py [--repeats 20] [--write results/units.csv]

Each of three runs is repeated on one core, next to 0, 1 or 2 other processes on the same core that do nothing but work,
so that it gets the whole core, half or a third. The spread is the coefficient of variation over repeats; the ratio is
of the median next to one other process to the median alone: what a machine of half the speed would give.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import torch

import gwfbench

RUNS = (("ou", "ula", "symkl"), ("ou", "vjko@ou-quick", "symkl"), ("toy2d", "mmd_flow:steps=100", "sliced_w2"))
BESIDE = (0, 1, 2)
BUSY = "x = 1.0\nwhile True: x = x * 0.5 + 0.5"


def main() -> None:
    """The rows of all repeats, and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--write", type=Path)
    chosen = parser.parse_args()
    os.sched_setaffinity(0, {chosen.core})
    torch.set_num_threads(1)
    rows = []
    for repeat in range(chosen.repeats):
        others = BESIDE[repeat % len(BESIDE)]
        busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(others)]  # on the same core
        try:
            for task, method, metric in RUNS:
                found = gwfbench.run(task, method, seeds=1, isolate=False, curve=False, judge=[metric])
                mine = found[found["role"] == "method"].iloc[-1]
                units = mine["seconds"] / mine["unit"]
                rows.append(
                    {"run": f"{method} on {task}", "beside": others, "seconds": mine["seconds"], "units": units}
                )
        finally:
            for one in busy:
                one.kill()
                one.wait()
    table = pd.DataFrame(rows)
    if chosen.write:
        table.to_csv(chosen.write, index=False, float_format="%.5g")
    print(summary(table).to_markdown(index=False))


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Of each run: median, coefficient of variation, and ratio of half a core to a whole one, of both clocks."""
    found = []
    for run, own in rows.groupby("run", sort=False):
        line: dict[str, object] = {"run": run, "repeats": len(own)}
        for name in ("seconds", "units"):
            values, medians = own[name], own.groupby("beside")[name].median()
            line |= {
                f"{name}": f"{values.median():.3g}",
                f"spread of {name}": f"{values.std() / values.mean():.0%}",
                f"{name}: half / whole core": f"{medians[1] / medians[0]:.2f}",
            }
        found.append(line)
    return pd.DataFrame(found)


if __name__ == "__main__":
    main()
