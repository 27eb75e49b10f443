"""asv benchmarks: the Stein discrepancy beside the matrix products and exponentials that it can't do without."""

from __future__ import annotations

import statistics
import time

import torch

from gwfbench.metrics.kernel import BLOCK
from gwfbench.metrics.stein import ksd_statistic


class SteinDiscrepancy:
    """KSD with the Gaussian kernel, float32, one thread."""

    params = (2, 64)
    param_names = ("dim",)
    timeout = 600
    warmup_time = 0
    points = 20_000
    full = 100_000  # the paper's number of points

    def setup(self, dim: int) -> None:
        torch.set_num_threads(1)
        self.cloud = torch.randn(self.full, dim, generator=torch.Generator().manual_seed(0))
        self.bandwidth = (2.0 * dim) ** 0.5

    def ours(self, n: int) -> None:
        ksd_statistic(self.cloud[:n], -self.cloud[:n], self.bandwidth)

    def bare(self, n: int) -> None:
        """The products of t and z over the pairs i <= j, as our two thin ones, and exp of the second; same blocks."""
        dim = self.cloud.shape[1]
        narrow = torch.cat([self.cloud[:n], self.cloud[:n, :2]], 1) / self.bandwidth  # (n, d + 2)
        wide = torch.cat([narrow, self.cloud[:n] / self.bandwidth], 1)  # (n, 2 d + 2)
        assert (narrow.shape[1], wide.shape[1]) == (dim + 2, 2 * dim + 2)
        exponent, bracket = torch.empty(BLOCK * BLOCK), torch.empty(BLOCK * BLOCK)
        for first in range(0, n, BLOCK):
            for other in range(first, n, BLOCK):
                rows, columns = min(BLOCK, n - first), min(BLOCK, n - other)
                shape, size = (rows, columns), rows * columns
                here, there = slice(first, first + rows), slice(other, other + columns)
                torch.mm(wide[here], wide[there].T, out=bracket[:size].view(shape))
                torch.mm(narrow[here], narrow[there].T, out=exponent[:size].view(shape)).exp_()

    def time_ours(self, dim: int) -> None:
        self.ours(self.points)

    def time_bare(self, dim: int) -> None:
        self.bare(self.points)

    def track_ours_over_bare(self, dim: int) -> float:
        """Median over seven interleaved pairs: machine drift falls on both."""
        ratios = []
        for _ in range(7):
            start = time.perf_counter()
            self.ours(self.points)
            middle = time.perf_counter()
            self.bare(self.points)
            ratios.append((middle - start) / (time.perf_counter() - middle))
        return statistics.median(ratios)

    def peakmem_ours(self, dim: int) -> None:
        self.ours(self.full)

    track_ours_over_bare.unit = "ratio"  # type: ignore[attr-defined]
