"""asv benchmarks: one step of each velocity field, beside the distances alone that any of them needs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gwfbench.rng import Streams
from gwfbench.velocity import drift
from gwfbench.velocity.kde import kde_flow

POINTS = 4096  # of each cloud, in the plane


class Drifting:
    """Seconds and peak memory of a step, one thread: drifting's fields, flows of KDE divergences, and torch.cdist."""

    params = (
        "distances",
        "equation4",
        "algorithm2",
        "official",
        "sinkhorn_proxy",
        "mmd",
        "parzen_kl",
        "kde_chi2",
        "kde_sphere",
    )
    param_names = ("field",)
    timeout = 300

    def setup(self, field: str) -> None:
        torch.set_num_threads(1)
        rng = Streams((0,))
        d = 3 if field == "kde_sphere" else 2
        x, y = rng.fork("x").normal(POINTS, d), 1 + rng.fork("y").normal(POINTS, d)
        u, v = (torch.nn.functional.normalize(cloud, dim=-1) for cloud in (x, y))
        steps: dict[str, Callable[[], Tensor]] = {
            "distances": lambda: torch.cdist(x, y),
            "equation4": lambda: drift.equation4(x, y, 0.2, "laplace"),
            "algorithm2": lambda: drift.algorithm2(x, y, 0.2, "laplace"),
            "official": lambda: drift.official(x, y, (0.02, 0.05, 0.2)),
            "sinkhorn_proxy": lambda: drift.sinkhorn_proxy(x, y, 0.2),
            "mmd": lambda: drift.mmd(x, y, 0.2, "laplace"),
            "parzen_kl": lambda: drift.parzen_kl(x, y, 0.2, rng),
            "kde_chi2": lambda: kde_flow(x, y, 0.2, {"chi2": 1.0}),
            "kde_sphere": lambda: kde_flow(u, v, 0.2, {"kl": 1.0}, sphere=True),
        }
        self.step = steps[field]

    def time_step(self, field: str) -> None:
        self.step()

    def peakmem_step(self, field: str) -> None:
        self.step()
