"""asv benchmarks: one Adam step of JKO-ICNN on ou, exact and by conjugate gradients, beside the plain eager way."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from gwfbench.budget import Budget
from gwfbench.info import Initial, LogDensity
from gwfbench.nn.adam import Adam
from gwfbench.nn.icnn import DenseICNN
from gwfbench.plugins import registry
from gwfbench.rng import Streams

ITERATIONS = 10
BATCH = 512


class PlainStep:
    """The same network and loss the way one writes it first: autograd for the map, d passes more for its Hessian."""

    def __init__(self, dim: int):
        rng = Streams((0,))
        problem = registry.parse("task", f"ou:dim={dim}").build(rng.fork("task")).problem
        self.log_q = problem[LogDensity].log_prob
        self.net = DenseICNN(dim, 64, 2, rng.fork("map"))
        self.adam = Adam(self.net.parameters, 5e-3)
        self.pool = problem[Initial].draw(BATCH * ITERATIONS, rng.fork("pool")).split(BATCH, 1)

    def __call__(self) -> None:
        for x in self.pool:
            self.adam.descend(self._loss(x.clone().requires_grad_()), 1.0)

    def _loss(self, x: Tensor) -> Tensor:
        (y,) = torch.autograd.grad(self.net.potential(x).sum(), x, create_graph=True)
        rows = [torch.autograd.grad(y[..., i].sum(), x, create_graph=True)[0] for i in range(x.shape[-1])]
        volume = torch.logdet(torch.stack(rows, -2))
        return ((x - y).square().sum(-1) / 0.1 - volume - self.log_q(y)).mean()


class Iteration:
    """One Adam step, batch 512, width 64, depth 2, one thread."""

    params = ((2, 8, 32), ("exact", "cg"))
    param_names = ("dim", "logdet")
    timeout = 600
    warmup_time = 0

    def setup(self, dim: int, logdet: str) -> None:
        torch.set_num_threads(1)
        rng = Streams((0,))
        problem = registry.parse("task", f"ou:dim={dim}").build(rng.fork("task")).problem
        fields = f"iterations={ITERATIONS},batch={BATCH},pool={BATCH * ITERATIONS},logdet={logdet}"
        self.laws = registry.parse("method", f"jko_icnn:{fields}").fit(problem, Budget(), rng.fork("method"))
        self.plain = PlainStep(dim)
        next(self.laws)

    def track_milliseconds_a_step(self, dim: int, logdet: str) -> float:
        """Least of five: the machine's other work only adds."""
        return 100 * min(_seconds(lambda: next(self.laws)) for _ in range(5))

    track_milliseconds_a_step.unit = "ms"  # type: ignore[attr-defined]

    def track_plain_over_ours(self, dim: int, logdet: str) -> float:
        """Median over five interleaved pairs: machine drift falls on both. The pool's push is on our side."""
        return statistics.median(_seconds(self.plain) / _seconds(lambda: next(self.laws)) for _ in range(5))

    track_plain_over_ours.unit = "ratio"  # type: ignore[attr-defined]


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
