"""asv benchmarks: one step of each velocity field beside the pairwise distances of the same shapes."""

from __future__ import annotations

import statistics
import time

import torch

from gwfbench.rng import Streams
from gwfbench.velocity.kernels import rms_distance
from gwfbench.velocity.ratio import Critic
from gwfbench.velocity.sinkhorn import sinkhorn
from gwfbench.velocity.sliced import directions, riesz, sliced


class TransportFlows:
    """Fields by sorting, by entropic plans and by a critic; 4096 points of q and of p in the plane, one thread."""

    params = ("sliced", "riesz", "sinkhorn", "critic")
    param_names = ("field",)
    timeout = 600
    warmup_time = 0
    points = 4096

    def setup(self, field: str) -> None:
        torch.set_num_threads(1)
        rng = Streams((0,))
        self.x, self.rng = rng.fork("x").normal(self.points, 2), rng
        self.y = 2 + 0.5 * rng.fork("y").normal(self.points, 2)
        self.theta = directions(rng.fork("theta"), 64, 2)
        self.critic = Critic(2, rng.fork("critic"))
        self.step = getattr(self, f"_{field}")

    def _sliced(self) -> None:
        sliced(self.x, self.y, self.theta)

    def _riesz(self) -> None:
        riesz(self.x, self.y, self.theta)

    def _sinkhorn(self) -> None:
        sinkhorn(self.x, self.y, blur=0.1 * rms_distance(self.y)[:, 0, 0])

    def _critic(self) -> None:
        self.critic(self.x, self.y, self.rng)

    def time_step(self, field: str) -> None:
        self.step()

    def peakmem_step(self, field: str) -> None:
        self.step()

    def track_over_distances(self, field: str) -> float:
        """Median over five interleaved pairs: machine drift falls on both."""
        ratios = []
        for _ in range(5):
            start = time.perf_counter()
            self.step()
            middle = time.perf_counter()
            torch.cdist(self.x, self.y)
            ratios.append((middle - start) / (time.perf_counter() - middle))
        return statistics.median(ratios)

    track_over_distances.unit = "ratio"  # type: ignore[attr-defined]


class Sorting:
    """The Riesz field on one line for up to a million points: n log n."""

    params = (10_000, 100_000, 1_000_000)
    param_names = ("points",)
    timeout = 600

    def setup(self, points: int) -> None:
        torch.set_num_threads(1)
        rng = Streams((0,))
        self.x, self.y = rng.fork("x").normal(points, 2), 2 + rng.fork("y").normal(points, 2)
        self.theta = directions(rng.fork("theta"), 1, 2)

    def time_riesz(self, points: int) -> None:
        riesz(self.x, self.y, self.theta)

    def peakmem_riesz(self, points: int) -> None:
        riesz(self.x, self.y, self.theta)
