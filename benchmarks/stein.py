"""asv benchmarks: peak memory of the Stein discrepancy; its time is in benchmarks/works.py."""

from __future__ import annotations

import torch

from benchmarks.pieces import stein


class SteinDiscrepancy:
    """KSD with the Gaussian kernel of as many points as the paper has, 1e5, float32, one thread."""

    params = (2, 64)
    param_names = ("dim",)
    timeout = 600

    def setup(self, dim: int) -> None:
        torch.set_num_threads(1)
        self.round = stein(dim, True, 1)

    def peakmem_ours(self, dim: int) -> None:
        self.round()
