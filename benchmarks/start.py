"""What gwfbench costs beyond methods and metrics, in CPU seconds of all processes: start, runs, finished runs.

    python benchmarks/start.py [--repeat 3] [--only WORDS]

A trivial plug-in makes 60 runs of 10 judged laws with one cheap metric, 600 points: cold with a process for each run,
cold in one process, and once more when all is finished. Beside each number stands the unit, 400 x (1024x64 @ 64x64 +
tanh) on one thread, which is timed between the measurements.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

RUNS, LAWS = 60, 10
PLUGIN = '''"""{summary}"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from gwfbench.info import Initial
from gwfbench.protocol import Instance, Problem, Pushed, Truth


@dataclass(frozen=True)
class Trivial:
    {kind}: ClassVar = frozenset({{Initial}})
    version: ClassVar = 1
    reference: ClassVar = ""
    smoke: ClassVar = {{}}
    {variables}

'''
TASK = """    def build(self, rng):
        def moments(index):
            return torch.zeros(len(rng.seeds), 2).double(), torch.eye(2).double().expand(len(rng.seeds), 2, 2)

        draw = Initial(lambda n, noise: noise.normal(n, 2))
        truth = Truth(lambda index, n, noise: noise.normal(n, 2), exact=True, moments=moments)
        return Instance(Problem((2,), TIMES, (draw,)), truth)
"""
METHOD = """    def fit(self, problem, budget, rng):
        for t in problem.times:
            yield Pushed(t, lambda x, noise: x)
"""
UNIT = """
import time, torch
torch.set_num_threads(1)
x, w = torch.randn(1024, 64), torch.randn(64, 64)
taken = []
for _ in range(7):
    start = time.process_time()
    for _ in range(400):
        (x @ w).tanh()
    taken.append(time.process_time() - start)
print(min(taken))
"""


def install(folder: Path) -> dict[str, str]:
    """The trivial task and method as two files; the environment in which commands know them."""
    times = f"({', '.join(f'{k / LAWS:g}' for k in range(1, LAWS + 1))})"
    variables = 'metrics: ClassVar = ("symkl",)\n    points: ClassVar = 200'
    head = PLUGIN.format(summary="Stands still.", kind="offers", variables=variables)
    (folder / "easy.py").write_text(head + TASK.replace("TIMES", times))
    variables = 'clock: ClassVar = "flow"\n    seeds: ClassVar = "looped"'
    head = PLUGIN.format(summary="Does nothing.", kind="needs", variables=variables)
    (folder / "lazy.py").write_text(head + METHOD)
    home = Path(__file__).parents[1]
    files = os.pathsep.join(str(folder / name) for name in ("easy.py", "lazy.py"))
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | threads | {"GWFBENCH_PLUGINS": files, "PYTHONPATH": str(home)}


def cpu_seconds(words: list[str], folder: Path, env: dict[str, str]) -> float:
    """CPU seconds of a Python process and of all that it has waited for."""
    process = subprocess.Popen([sys.executable, *words], cwd=folder, env=env, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)  # fmt: skip
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(words)}: exit code {process.returncode}")
    return used.ru_utime + used.ru_stime


def measurements(folder: Path, env: dict[str, str]) -> dict[str, Callable[[], float]]:
    """What is measured, by name."""
    run = ["-m", "gwfbench", "run", "--task", "easy", "--method", "lazy", "--no-controls", "--out", "runs"]
    few, many = ["--seeds", "1"], ["--seeds", str(RUNS)]

    def cold(*more: str) -> Callable[[], float]:
        def measured() -> float:
            shutil.rmtree(folder / "runs", ignore_errors=True)
            return cpu_seconds([*run, *more], folder, env)

        return measured

    def again() -> float:
        if not (folder / "runs").exists():
            cold(*many)()
        return cpu_seconds([*run, *many], folder, env)

    plain = {name: value for name, value in env.items() if name != "GWFBENCH_PLUGINS"}
    return {
        "import torch": lambda: cpu_seconds(["-c", "import torch"], folder, env),
        "--help": lambda: cpu_seconds(["-m", "gwfbench", "--help"], folder, plain),
        "list": lambda: cpu_seconds(["-m", "gwfbench", "list"], folder, plain),
        "1 run isolated": cold(*few),
        "60 runs isolated": cold(*many),
        "again": again,
        "report": lambda: cpu_seconds(["-m", "gwfbench", "report", "--out", "runs"], folder, env),
        "1 run --no-isolate": cold(*few, "--no-isolate"),
        "60 runs --no-isolate": cold(*many, "--no-isolate"),
        "finished, other words": again,  # no answer is kept to these
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=3, help="number of rounds")
    parser.add_argument("--only", default="", help="measurements whose names have this")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        env = install(folder)
        found: dict[str, list[float]] = {}
        units = []
        for _ in range(asked.repeat):
            for name, measured in measurements(folder, env).items():
                if asked.only in name:
                    found.setdefault(name, []).append(measured())
            units.append(float(subprocess.check_output([sys.executable, "-c", UNIT], env=env)))
    unit = min(units)
    print(f"unit {unit:.3f} s; load {os.getloadavg()[0]:.1f}")
    for name, taken in found.items():
        least, middle = min(taken), statistics.median(taken)
        print(f"{name:22} {least:6.2f} s min {middle:6.2f} s median {least / unit:6.1f} units")


if __name__ == "__main__":
    main()
