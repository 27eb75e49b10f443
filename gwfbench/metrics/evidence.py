"""Evidence, its two bounds, and effective sample sizes: how well a law stands in for the target in integrals.

The target's density is gamma / Z, gamma = exp(log_prob) of the `LogDensity` that the task offers; q is the law, and
w = gamma / q. A law that can be judged has a density: reweighting particles by an estimated one is not offered.

    log_z         | log Z^ - log Z |,  log Z^ the law's own estimate, else log mean_q w
    elbo          E_q log w   = log Z - KL(q || pi)
    eubo          E_pi log w  = log Z + KL(pi || q)
    ess_reverse   (E_q w)^2 / E_q w^2,       from draws of q: it does not see the modes that q has lost
    ess_forward   1 / (E_pi w E_pi 1/w),     the same number, from exact draws: it does

The two bounds are in nats, as papers print them, so that they can be compared with log Z; `kl` is log Z minus the
first. Draws of the truth have log Z as both. If a law's ELBO is above log Z, or its EUBO below, by more than its error,
one of the two densities is wrong, and the board shows an alarm (report/board/verdicts.py).

With the truth's log_prob = log gamma - log Z, log w needs no Z. The errors of the bounds and of log Z^ contain that of
the truth's log Z, since they are read next to it, and one unit of rounding of log q.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gwfbench.protocol import Estimate, Judged, Metric, Need

POINTS = 65536  # draws of the law, as `kl` takes
DRAWS = 2000  # of the truth, as drive/judge.py takes


def _log_z(judged: Judged) -> tuple[Tensor, Tensor]:
    """The truth's log Z and its standard error, (S,) each."""
    assert judged.truth.log_z is not None
    value, error = judged.truth.log_z
    return value.double().to(judged.points.device), error.double().to(judged.points.device)


def _log_weights(judged: Judged) -> Tensor:
    """log w at the law's own points, (S, n); not a number where the law says that it has none there."""

    def make() -> Tensor:
        assert judged.log_prob is not None
        assert judged.truth.log_prob is not None
        log_gamma = judged.truth.log_prob(judged.index, judged.points).double() + _log_z(judged)[0][:, None]
        return _no_own_holes(log_gamma - judged.log_prob.double())

    return judged.of_law("log weights", make)


def _no_own_holes(log_w: Tensor) -> Tensor:
    return torch.where(log_w == math.inf, math.nan, log_w)


def _log_weights_forward(judged: Judged) -> Tensor:
    """log w at draws of the truth, (S, m); infinite where the law has no density."""
    assert judged.forward is not None
    draws, log_q = judged.forward

    def make() -> Tensor:
        assert judged.truth.log_prob is not None
        return judged.truth.log_prob(judged.index, draws).double() + _log_z(judged)[0][:, None]

    return judged.of_truth("log density at the draws for laws", make) - log_q.double()


def _rounding(log_q: Tensor) -> Tensor:
    """The most by which a mean of log q may be off as its numbers are short, (S,)."""
    return log_q.double().abs().mean(1) * torch.finfo(log_q.dtype).eps


def _bound(judged: Judged, log_w: Tensor, log_q: Tensor) -> Estimate:
    n = log_w.shape[1]
    variance = log_w.var(1) / n + _log_z(judged)[1].square() + _rounding(log_q).square()
    return Estimate(log_w.mean(1), variance.sqrt(), n)


def _elbo(judged: Judged) -> Estimate:
    assert judged.log_prob is not None
    return _bound(judged, _log_weights(judged), judged.log_prob)


def _eubo(judged: Judged) -> Estimate:
    assert judged.forward is not None
    return _bound(judged, _log_weights_forward(judged), judged.forward[1])


def _scaled(log_w: Tensor) -> tuple[Tensor, Tensor]:
    """w over its largest value, (S, n), and the logarithm of that, (S,): 0 and -inf where all w are 0."""
    top = log_w.amax(1)
    return torch.where(top[:, None] == -math.inf, 0.0, (log_w - top[:, None]).exp()), top


def _evidence(judged: Judged) -> Estimate:
    """The error of an estimate of log Z: the law's own, or the log of the mean weight."""
    truth, error = _log_z(judged)
    if judged.log_z is not None:
        found, se = (part.double() for part in judged.log_z)
        return Estimate((found - truth).abs(), (se.square() + error.square()).sqrt(), judged.points.shape[1])
    assert judged.log_prob is not None
    w, top = _scaled(_log_weights(judged))
    n, mean = w.shape[1], w.mean(1)
    variance = (w.std(1) / mean).square() / n + error.square() + _rounding(judged.log_prob).square()
    return Estimate((top + mean.log() - truth).abs(), variance.sqrt(), n)


def _ess_reverse(judged: Judged) -> Estimate:
    w, _ = _scaled(_log_weights(judged))
    n, mean, square = w.shape[1], w.mean(1, keepdim=True), w.square().mean(1, keepdim=True)
    value = (mean.square() / square)[:, 0].clamp_max(1.0)
    influence = 2 * w / mean - w.square() / square
    value = torch.where(square[:, 0] == 0, 0.0, value)  # all draws lie where the target has no mass
    return Estimate(value, value * influence.std(1) / math.sqrt(n), n)


def _ess_forward(judged: Judged) -> Estimate:
    log_w = _log_weights_forward(judged)
    m = log_w.shape[1]
    means = [log_w.logsumexp(1) - math.log(m), (-log_w).logsumexp(1) - math.log(m)]  # of w and 1 / w
    value = (-means[0] - means[1]).exp().clamp_max(1.0)
    influence = (log_w - means[0][:, None]).exp() + (-log_w - means[1][:, None]).exp()
    return Estimate(value, value * influence.std(1) / math.sqrt(m), m)


_REVERSE = frozenset({Need.LOG_Z, Need.DENSITY, Need.LOG_PROB})
_FORWARD = frozenset({Need.LOG_Z, Need.DENSITY, Need.DRAW, Need.FORWARD})
_LOG_Z = "the truth's error of log Z and a rounding of log q, in quadrature"

log_z = Metric(
    "log_z",
    _evidence,
    points=POINTS,
    needs=frozenset({Need.LOG_Z, Need.DENSITY, Need.ESTIMATE}),
    source="|estimate of log Z - log Z|. The estimate is the law's own (SMC), else log mean of gamma / q over draws of "
    "the law q, whose bias is -s.e.^2 / 2. Standard error: that of the estimate (by the delta method: s.d. / mean / "
    f"sqrt(n)), {_LOG_Z}. It is too small where few weights decide: see ess_reverse and ess_forward",
)
elbo = Metric(
    "elbo",
    _elbo,
    points=POINTS,
    needs=_REVERSE,
    better="higher",
    bound=True,
    source="Evidence lower bound in nats, E_q log gamma / q <= log Z, over draws of the law q. Exact draws have log Z. "
    f"Standard error: s.d. / sqrt(n), {_LOG_Z}",
)
eubo = Metric(
    "eubo",
    _eubo,
    points=DRAWS,
    needs=_FORWARD,
    source="Evidence upper bound in nats, E_pi log gamma / q >= log Z, over 2000 draws of the truth (Blessing et al. "
    f"2024). Standard error: s.d. / sqrt(2000), {_LOG_Z}",
)
ess_reverse = Metric(
    "ess_reverse",
    _ess_reverse,
    points=POINTS,
    needs=_REVERSE,
    better="higher",
    bound=True,
    source="Effective share of draws of the law q, (sum w)^2 / (n sum w^2), w = gamma / q (Kong 1992). It does not see "
    "modes that q has lost. Standard error by the delta method",
)
ess_forward = Metric(
    "ess_forward",
    _ess_forward,
    points=DRAWS,
    needs=_FORWARD,
    better="higher",
    bound=True,
    source="Effective share of draws of the law q, 1 / (E w E 1/w) over 2000 draws of the truth, w = gamma / q "
    "(Blessing et al. 2024). It sees lost modes. Standard error by the delta method",
)
