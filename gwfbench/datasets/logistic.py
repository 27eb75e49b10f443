"""Logistic regression on signed rows z_i = y_i f_i, y_i in {-1, 1}: log p(y | w) = sum_i log sigmoid(w . z_i)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, pad

from gwfbench.info import LogDensity
from gwfbench.rng import Streams

CHUNK = 2**22  # points x rows of one slice of the logits, per seed


def posterior(prior: LogDensity, rows: Tensor, scale: float = 1.0, floor: float = 0.0) -> LogDensity:
    """The prior times `scale` powers of the likelihood of `rows`, each of probability `floor` at least.

    Args:
        prior: of x, whose first k coordinates are w.
        rows: (N, k) or (S, N, k).
    """
    k = rows.shape[-1]
    least = math.log(floor) - math.log1p(-floor) if floor else -math.inf  # of the logits: below, no slope

    def log_prob(x: Tensor) -> Tensor:
        return prior.log_prob(x) + scale * _LogLikelihood.apply(x[..., :k], rows, least)  # type: ignore[operator]

    def score(x: Tensor) -> Tensor:
        return prior.score(x) + scale * pad(_slope(x[..., :k], rows, least), (0, x.shape[-1] - k))

    def batch(count: int, rng: Streams) -> LogDensity:
        """From `count` rows per seed without replacement; from all rows if there are no more."""
        size = len(rows)
        if count >= size:
            return LogDensity(log_prob, score)
        chosen = rng.uniform(size).topk(count, 1).indices  # (S, count)
        part = posterior(prior, rows[chosen], size / count, floor)
        return LogDensity(part.log_prob, part.score)

    return LogDensity(log_prob, score, batch)


class _LogLikelihood(torch.autograd.Function):
    """sum_i log sigmoid(max(w . z_i, least)) of signed rows z_i, (S, n, k) -> (S, n), by slices of the points.

    Backward computes the logits again: autograd would keep all n N of them, 2 GB for 1024 points of covtype.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(w: Tensor, rows: Tensor, least: float) -> Tensor:
        logits = (part @ rows.mT for part in _slices(w, rows))
        if least > -math.inf:
            logits = (found.clamp(min=least) for found in logits)
        return torch.cat([logsigmoid(found).sum(-1) for found in logits], -1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: Tensor) -> None:
        w, rows, ctx.least = inputs
        ctx.save_for_backward(w, rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0][..., None] * _slope(*ctx.saved_tensors, ctx.least), None, None  # pyright: ignore[reportCallIssue]


def _slope(w: Tensor, rows: Tensor, least: float) -> Tensor:
    """Gradient of the log-likelihood, sum_i sigmoid(-w . z_i) z_i over the rows whose logit is above `least`."""
    parts = []
    for part in _slices(w, rows):
        logits = part @ rows.mT
        pull = torch.sigmoid(-logits)
        parts.append((pull if least == -math.inf else pull * (logits > least)) @ rows)
    return torch.cat(parts, -2)


def _slices(w: Tensor, rows: Tensor) -> tuple[Tensor, ...]:
    return w.split(max(1, CHUNK // rows.shape[-2]), -2)
