"""asv benchmarks: one step of each field at n = m = 4096 in two dimensions, beside the points' pairwise distances.

The field moves x by x and y: two n x n tables of kernel values, so its floor is two calls of `torch.cdist`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from gwfbench.velocity.kernels import KERNELS
from gwfbench.velocity.witness import drmmd_witness, kale_witness, mmd_witness

POINTS = 4096


def clouds() -> tuple[Tensor, Tensor]:
    noise = torch.Generator().manual_seed(0)
    return torch.randn(1, POINTS, 2, generator=noise) + 0.5, torch.randn(1, POINTS, 2, generator=noise)


def distances(x: Tensor, y: Tensor) -> None:
    torch.cdist(x, x)
    torch.cdist(x, y)


class KernelFlows:
    """MMD by each kernel, KALE (gaussian) and DrMMD (imq) at their methods' bandwidths, float32, one thread."""

    params = ("gaussian", "imq", "laplace", "matern32", "matern52", "riesz", "kale", "drmmd", "cdist")
    param_names = ("field",)
    timeout = 600
    warmup_time = 0

    def setup(self, field: str) -> None:
        torch.set_num_threads(1)
        self.x, self.y = clouds()
        self.step = self._field(field)

    def _field(self, field: str) -> Callable[[Tensor, Tensor], object]:
        if field == "cdist":
            return distances
        if field == "kale":
            return lambda x, y: kale_witness(KERNELS["gaussian"](1.0), x, y, 0.1).gradient(x)
        if field == "drmmd":
            return lambda x, y: drmmd_witness(KERNELS["imq"](1.0), x, y, 0.1).gradient(x)
        kernel = KERNELS[field](1.0)  # type: ignore[index]
        return lambda x, y: mmd_witness(kernel, x, y).gradient(x)

    def time_step(self, field: str) -> None:
        self.step(self.x, self.y)

    def peakmem_step(self, field: str) -> None:
        self.step(self.x, self.y)

    def track_step_over_cdist(self, field: str) -> float:
        """Median over five interleaved pairs: machine drift falls on both."""
        ratios = []
        for _ in range(5):
            start = time.perf_counter()
            self.step(self.x, self.y)
            middle = time.perf_counter()
            distances(self.x, self.y)
            ratios.append((middle - start) / (time.perf_counter() - middle))
        return statistics.median(ratios)

    track_step_over_cdist.unit = "ratio"  # type: ignore[attr-defined]
