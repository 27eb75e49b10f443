"""The machine while a run trains: how fast it is, its peak memory, its energy. All of it off the run's clock.

A unit is the time of 400 products of a 1024 x 64 and a 64 x 64 matrix, each with a tanh, and on a GPU of eight products
of two 4096 x 4096 matrices besides, in float32, on the device and with the threads of the run. On a CPU both the unit
and the training are timed in CPU seconds, all threads together: what runs beside a run slows both alike or neither. A
part of the unit is timed before the run, after it, and on the way, whenever `EVERY` seconds of training have passed, at
the next law. So a run costs as many units on a slow machine and in a noisy hour as on a fast one in a quiet hour, but
for what makes some work slower than other. Compare units of one class of device alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import statistics
from functools import cache
from pathlib import Path
from time import perf_counter, process_time

import torch
from torch import Tensor

EVERY = 0.5  # seconds of training between two timings
SHARE = 0.01  # of the training since the last timing that the next one may take
PARTS = {"cpu": 100, "cuda": 8}  # of a unit
LARGE = 4096  # rows and columns of the large matrices of a GPU's unit
FEWEST = 3  # parts that are timed together: their median counts, for now and then one takes ten times as long
POWERCAP = Path("/sys/class/powercap")


class Machine:
    """What a run's device gives while it trains; one that can't be asked says nothing.

    Args:
        device: of the run.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.memory = 0  # bytes, the most so far; 0: not known
        self.energy = math.nan  # joules so far
        self._gpu = device.type == "cuda"
        self._clock = perf_counter if self._gpu else process_time
        self._in_unit = PARTS["cuda" if self._gpu else "cpu"]
        self._began = math.nan  # when the method went on, by the clock
        self._trained = self._timed = 0.0  # seconds of training by the clock: all, and until the unit was timed last
        self._parts, self._took = 0, 0.0  # of the unit that were timed, and how long they took
        self._pace = math.nan  # seconds that a part took the last time
        self._before = 0.0  # units before the checkpoint that the run went on from
        self._used = math.nan  # energy when training went on

    def begin(self) -> None:
        """Time the unit before the run."""
        self._time(FEWEST)  # its first time is slower
        self._parts, self._took = 0, 0.0
        self._time(FEWEST)

    def resumed(self, units: float) -> None:
        """The run goes on from a checkpoint, where it had trained for so long."""
        self._before = units

    @property
    def units(self) -> float:
        """Of training so far; 0 where they are not known."""
        return self._before + (self._trained / self.unit if self._took > 0 else 0.0)

    @property
    def unit(self) -> float:
        """Seconds of a unit by the clock, by all that was timed."""
        return self._took * self._in_unit / self._parts

    def starts(self) -> None:
        """The method is about to train."""
        _reset_peak(self.device)
        self._used = _joules(self.device)
        self._wait()
        self._began = self._clock()

    def stops(self) -> None:
        """The method has trained."""
        with contextlib.suppress(RuntimeError):  # of the method, which is told elsewhere
            self._wait()
        self._trained += self._clock() - self._began
        self.memory = max(self.memory, _peak(self.device))
        gone = _joules(self.device) - self._used
        if gone >= 0:  # a counter that began anew is lost
            self.energy = gone + (0.0 if math.isnan(self.energy) else self.energy)
        if self._trained - self._timed >= EVERY:
            self.look()

    def look(self) -> None:
        """Time the unit, if the method has trained since it was timed last; as long as that is worth."""
        since = self._trained - self._timed
        if since > 0:
            self._timed = self._trained
            parts = SHARE * since / self._pace if self._took > 0 else FEWEST
            self._time(min(max(round(parts), FEWEST), self._in_unit))

    def _time(self, parts: int) -> None:
        """Time so many parts of a unit; nothing where there is no memory for it."""
        try:
            with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
                x, w = (torch.full((n, 64), 0.01, dtype=torch.float32, device=self.device) for n in (1024, 64))
                large = torch.full(
                    (LARGE, LARGE) if self._gpu else (1, 1), 0.01, dtype=torch.float32, device=self.device
                )
                times = [self._part(x, w, large) for _ in range(parts)]
            self._pace = max(statistics.median(times), 1e-9)
            self._parts, self._took = self._parts + parts, self._took + parts * self._pace
        except (RuntimeError, MemoryError):
            return

    def _part(self, x: Tensor, w: Tensor, large: Tensor) -> float:
        """Seconds of a part of a unit."""
        self._wait()
        start = self._clock()
        for _ in range(400 // self._in_unit):
            torch.tanh(x @ w)
        if self._gpu:
            torch.mm(large, large)
        self._wait()
        return self._clock() - start

    def _wait(self) -> None:
        if self._gpu:
            torch.cuda.synchronize(self.device)


@cache
def unit_here() -> float:
    """Seconds of a unit now, on one thread of this machine's CPU."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one = Machine(torch.device("cpu"))
        one.begin()
        one._time(25)
        return one.unit
    finally:
        torch.set_num_threads(threads)


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the kernel's peak of this process, and nothing else


def _peak(device: torch.device) -> int:
    """Bytes: on a GPU what tensors took, elsewhere what the process had resident, its libraries included."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    return 0


def _joules(device: torch.device) -> float:
    """By the counter of the device, which counts for all that runs on it; nan if the system does not let us read it."""
    return _joules_of_gpu(device) if device.type == "cuda" else _joules_of_cpu(POWERCAP)


def _joules_of_cpu(root: Path) -> float:
    """Of all packages together."""
    try:
        counters = [int(one.read_text()) for one in sorted(root.glob("intel-rapl:?/energy_uj"))]
    except (OSError, ValueError):
        return math.nan
    return sum(counters) / 1e6 if counters else math.nan


def _joules_of_gpu(device: torch.device) -> float:
    found = _gpu(device)
    if found is None:
        return math.nan
    (library, handle), millijoules = found, ctypes.c_ulonglong()
    failed = library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules))
    return math.nan if failed else millijoules.value / 1e3


@cache
def _gpu(device: torch.device) -> tuple[ctypes.CDLL, ctypes.c_void_p] | None:
    """NVIDIA's management library, and the card in it: its numbers are not those that torch gives."""
    try:
        library, handle = ctypes.CDLL("libnvidia-ml.so.1"), ctypes.c_void_p()
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}".encode()
        failed = library.nvmlInit_v2() or library.nvmlDeviceGetHandleByUUID(uuid, ctypes.byref(handle))
    except (OSError, AttributeError, RuntimeError, AssertionError):
        return None
    return None if failed else (library, handle)
