"""A third-party distribution for tests: a tiny task, and methods that fail in every way that a process can."""

import textwrap
from pathlib import Path

HEAD = '''"""Methods that fail."""

import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from gwfbench.info import Initial, LogDensity
from gwfbench.protocol import Drawn, Instance, Problem, Pushed, Truth


@dataclass(frozen=True)
class Tiny:
    name: str = "x"
    "any text"
    offers: ClassVar = frozenset({Initial, LogDensity})
    metrics: ClassVar = ("symkl",)
    points: ClassVar = 200
    version: ClassVar = 1
    reference: ClassVar = ""
    smoke: ClassVar = {}

    def build(self, rng):
        def moments(index):
            return torch.zeros(len(rng.seeds), 2).double(), torch.eye(2).double().expand(len(rng.seeds), 2, 2)

        density = LogDensity(lambda x: -0.5 * x.square().sum(-1), lambda x: -x)
        initial = Initial(lambda n, noise: 2 + noise.normal(n, 2))
        truth = Truth(lambda index, n, noise: noise.normal(n, 2), exact=True, moments=moments)
        return Instance(Problem((2,), (0.1, 0.2, 0.3), (initial, density)), truth)


class Awkward(Exception):
    def __init__(self, a, b):
        super().__init__(lambda: a)

    def __str__(self):
        raise RuntimeError("no text either")


def half(t):
    return Pushed(t, lambda x, noise: x / 2)
'''
METHOD = """

@dataclass(frozen=True)
class {cls}:
    number: int = 0
    "any number"
    needs: ClassVar = frozenset({{Initial, LogDensity}})
    clock: ClassVar = "flow"
    seeds: ClassVar = "batched"
    version: ClassVar = 1
    reference: ClassVar = ""
    smoke: ClassVar = {{}}

    def fit(self, problem, budget, rng):
        yield half(0.1)
{body}
        yield half(0.2)
        yield half(0.3)
"""
BODIES = {
    "good": "",
    "slow": "time.sleep(0.3)",
    "lists_files": "for name in os.listdir('/proc/self/fd'):\n    path = f'/proc/self/fd/{name}'\n"
    "    print('open', os.readlink(path) if os.path.islink(path) else 'gone')",
    "waits": "while not os.path.exists(os.environ['GWFBENCH_TEST_GATE']):\n    time.sleep(0.01)",
    "raises": "raise RuntimeError('boom')",
    "nan": "yield Pushed(0.2, lambda x, noise: x * math.nan)\nyield half(0.3)\nreturn",
    "infinite": (
        "bad = torch.tensor([s == 4 for s in rng.seeds]).view(-1, 1, 1)\n"
        "yield Pushed(0.2, lambda x, noise: torch.where(bad, math.inf, x / 2))\nyield half(0.3)\nreturn"
    ),
    "sys_exit": "sys.exit(3)",
    "os_exit": "print('nearly there')\nos._exit(3)",
    "suicide": "os.kill(os.getpid(), signal.SIGKILL)",
    "segfault": "import ctypes\nctypes.string_at(0)",
    "endless": "while True:\n    pass",
    "deaf": "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\nwhile True:\n    time.sleep(1)",
    "swallows": "while True:\n    try:\n        time.sleep(1)\n    except BaseException:\n        pass",
    "numpy_10gb": "np.ones(10**10 // 8)",
    "torch_10gb": "torch.ones(10**10 // 4)",
    "creeps": (  # each process stays below the limit of one: only their sum is beyond it
        "for _ in range(8):\n    if os.fork() == 0:\n        keep = np.ones(150 * 2**20 // 8)\n        time.sleep(600)\n"
        "time.sleep(600)"
    ),
    "floods": "os.write(1, b'first line\\n')\nfor _ in range(100):\n    os.write(1, b'x' * 999_999 + b'\\n')\nprint('last line')",
    "unpicklable": "raise Awkward(1, 2)",
    "forks": "if os.fork() == 0:\n    time.sleep(600)\n    os._exit(0)",
    "comes_back": "os.fork()",
    "closes_all": "os.closerange(0, 100)",
    "imports_nothing": "import no_such_module",
    "fills": (
        "path = os.environ['GWFBENCH_TEST_FULL'] + '/filler'\n"
        "with open(path, 'wb', buffering=0) as file:\n    try:\n        while True:\n            file.write(b'x' * 4096)\n"
        "    except OSError:\n        pass"
    ),
}  # fmt: skip


def install(folder: Path) -> Path:
    """Write the distribution: importable once its folder is on sys.path or PYTHONPATH."""
    text, entries = HEAD, []
    for name, body in BODIES.items():
        cls = name.title().replace("_", "")
        text += METHOD.format(cls=cls, body=textwrap.indent(body, " " * 8))
        entries.append(f"{name} = gwfbench_failing:{cls}")
    (folder / "gwfbench_failing.py").write_text(text)
    info = folder / "gwfbench_failing-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gwfbench-failing\nVersion: 1.0\n")
    lines = ["[gwfbench.tasks]", "tiny = gwfbench_failing:Tiny", "[gwfbench.methods]", *entries]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return folder
