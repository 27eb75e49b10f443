"""Energy gap: distance of the flow's energy F to its true value (Fan et al. 2022, Figs. 3b, 4b, 6)."""

from __future__ import annotations

import math

import torch

from gwfbench.protocol import Estimate, Judged, Metric, Need


def _objective(judged: Judged) -> Estimate:
    """| mean of integrand(x, log rho(x)) - F_t |.

    Absolute, as a law that is too far down is as wrong as one that lags behind: by the signed gap the lowest energy,
    not the nearest, would head the board. One point with no finite log-density, or no finite integrand, makes the value
    infinite: exp(-inf) = 0 in an internal energy would pass for a number. Its error is then unknown.
    """
    truth = judged.truth
    assert judged.log_prob is not None
    assert truth.integrand is not None
    assert truth.energy is not None
    part = truth.integrand(judged.points, judged.log_prob).double()  # (S, n)
    n = part.shape[1]
    good = (part.isfinite() & judged.log_prob.isfinite()).all(1)
    value = (part.mean(1) - truth.energy(judged.index).double()).abs()
    value = torch.where(good, value, math.inf).masked_fill(judged.log_prob.isnan().any(1), math.nan)
    return Estimate(value, torch.where(good, part.std(1), math.nan) / math.sqrt(n), n)


objective = Metric(
    "objective",
    _objective,
    points=65536,
    needs=frozenset({Need.ENERGY, Need.LOG_PROB}),
    source="|F(law) - F(truth)|, F(law) as the mean of its integrand at the law's own points (Fan et al. 2022, Figs. "
    "3b, 4b, 6, plot F itself). Infinite where a point has no finite log-density. Standard error: s.d. / sqrt(n)",
)
