"""Classifier two-sample test: the accuracy of a small network that tells the law's points from draws of the truth.

Network and folds are as in sbibm (Lueckmann et al. 2021): two ReLU layers of 10 d, Adam, five folds with as many points
of either sample. One sample sets the units (here the truth, by its median and spread in the middle, which no distant
point moves). To save time, layers have at most 64 units, and there are 30 epochs of 8 batches at a rate of 0.01 instead
of a rate of 0.001 to convergence. For a checkerboard this finds 0.665 instead of 0.672. The five networks train as one
batch. Starts, losses and weight decay are scikit-learn's, which sbibm uses.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from gwfbench.nn.adam import Adam
from gwfbench.nn.mlp_by_hand import Gradient
from gwfbench.nn.stacked import Stacked
from gwfbench.protocol import Estimate, Judged, Metric, Need
from gwfbench.rng import Streams

FOLDS = 5
WIDEST = 64  # of a hidden layer
EPOCHS, BATCHES = 30, 8
RATE, DECAY = 0.01, 1e-4
REACH = 10  # standard deviations of a normal truth beyond which a coordinate counts by its logarithm

_threshold_backward = torch.ops.aten.threshold_backward


@torch.no_grad()
def accuracy(x: Tensor, y: Tensor, rng: Streams) -> Tensor:
    """Accuracy (S,), on points that it was not trained on, of a classifier of law x against truth y, (S, n, d) both.

    Up to four points of each sample are left out, so that all folds have as many.

    Raises:
        ValueError: fewer than 5 points, or points that are not finite.
    """
    n = y.shape[1]
    if n < FOLDS:
        raise ValueError(f"a classifier's accuracy by {FOLDS} folds needs at least {FOLDS} points, got {n}")
    if not bool(x.isfinite().all() & y.isfinite().all()):
        raise ValueError("a classifier's accuracy needs finite points, got NaN or inf")
    points, own = standardised(x, y), Streams(rng.seeds, y.device, torch.float32, rng.path)
    samples = [part.gather(1, own.fork(name).uniform(n).argsort(1)[..., None].expand(part.shape))
               for name, part in zip(("x", "y"), points.split(n, 1), strict=True)]  # fmt: skip
    each = n // FOLDS
    folds = torch.cat([part[:, : each * FOLDS].unflatten(1, (FOLDS, each)) for part in samples], 2)  # (S, F, 2 each, d)
    others = [torch.cat([folds[:, j] for j in range(FOLDS) if j != i], 1) for i in range(FOLDS)]
    label = torch.arange(2, device=y.device).repeat_interleave(each).float()
    network = _trained(torch.stack(others, 1).flatten(0, 1), label.repeat(FOLDS - 1), own.fork("network"))
    right = (_output(folds.flatten(0, 1), network) > 0) == (label > 0)
    return right.view(len(y), -1).double().mean(1)


def _trained(x: Tensor, label: Tensor, rng: Streams) -> Stacked:
    """Networks of S x 5 training sets (S F, m, d), labels (m,)."""
    m, d = x.shape[1:]
    width, size = min(10 * d, WIDEST), m // BATCHES
    network = Stacked([
        ((2 * rng.uniform(FOLDS, rows, d_out) - 1) * math.sqrt(6 / (d_in + d_out))).flatten(0, 1)
        for d_in, d_out in pairwise((d, width, width, 1)) for rows in (d_in, 1)
    ])  # fmt: skip
    adam, gradient = Adam(network, RATE), Gradient(network)
    rows = iter(adam.schedule([1.0] * (EPOCHS * BATCHES)).to(x))
    for _ in range(EPOCHS):
        order = rng.uniform(FOLDS, m).argsort(2).flatten(0, 1)
        shuffled, labels = x.gather(1, order[..., None].expand(x.shape)), label[order]
        batches = zip(shuffled.split(size, 1)[:BATCHES], labels.split(size, 1)[:BATCHES], strict=True)
        for (batch, wanted), row in zip(batches, rows, strict=False):
            descent(batch, wanted, network, gradient)
            adam.follow(gradient.flat, row)
    return network


def descent(x: Tensor, label: Tensor, network: Stacked, out: Gradient) -> None:
    """The gradient of the mean cross-entropy at (B, n, d), labels (B, n), and of the decay of weights."""
    w1, b1, w2, b2, w3, b3 = network.leaves
    first = torch.baddbmm(b1, x, w1).relu_()
    second = torch.baddbmm(b2, first, w2).relu_()
    slope = torch.baddbmm(b3, second, w3).sigmoid_().sub_(label[..., None]).div_(x.shape[1])
    for weight, inputs, part, bias in zip(
        (w3, w2, w1), (second, first, x), out.leaves[4::-2], out.leaves[5::-2], strict=True
    ):
        torch.baddbmm(weight, inputs.mT, slope, beta=DECAY / x.shape[1], out=part)
        torch.sum(slope, 1, True, out=bias)
        if inputs is not x:
            slope = _threshold_backward(slope @ weight.mT, inputs, 0.0)


def _output(x: Tensor, network: Stacked) -> Tensor:
    """Its logit at points (B, n, d), (B, n)."""
    w1, b1, w2, b2, w3, b3 = network.leaves
    hidden = torch.baddbmm(b2, torch.baddbmm(b1, x, w1).relu(), w2).relu()
    return torch.baddbmm(b3, hidden, w3).squeeze(-1)


def standardised(x: Tensor, y: Tensor) -> Tensor:
    """Points x (S, n, d), then y (S, m, d), in float32, in units of y's spread: a one-to-one map of each coordinate.

    The unit is the median distance from the median, as a standard deviation of a normal law; where more than half are
    equal, y's standard deviation. Beyond 10 units log |z| takes the place of |z|, so that a law of any width stays
    where a network can learn.
    """
    x, y = x.double(), y.double()
    middle = _median(y)
    unit = 1.4826 * _median((y - middle).abs())
    unit = torch.where(unit > 0, unit, y.std(1, correction=0, keepdim=True))
    z = (torch.cat([x, y], 1) - middle) / torch.where(unit > 0, unit, 1.0)
    far = REACH + (z.abs().clamp_min(REACH) / REACH).log()
    return torch.where(z.abs() > REACH, z.sign() * far, z).float()


def _median(y: Tensor) -> Tensor:
    """Of each coordinate, (S, m, d) -> (S, 1, d); the mean of the middle two where there are two."""
    m = y.shape[1]
    return y.sort(1).values[:, (m - 1) // 2 : m // 2 + 1].mean(1, keepdim=True)


def _c2st(judged: Judged) -> Estimate:
    other = judged.reference(judged.points.shape[1]).flatten(2)
    n = other.shape[1]
    value = accuracy(judged.points[:, :n].flatten(2), other, judged.rng.fork("classifier"))
    spread = 1 / FOLDS + 1 / (FOLDS - 1)  # of the mean over folds, in units of one fold's variance
    share = value.clamp(0.5 / n, 1 - 0.5 / n)  # that none was mistaken is not to know that none ever is
    return Estimate(value, (share * (1 - share) * spread / (2 * (n // FOLDS))).sqrt(), n)


c2st = Metric(
    "c2st",
    _c2st,
    points=1000,
    needs=frozenset({Need.DRAW}),
    at="last",
    version=3,
    source="Cross-validated accuracy of a small network that tells the points from as many fresh draws of the truth "
    "(Lopez-Paz and Oquab 2017): 0.5 where it can't, 1 where it always can. Binomial standard error with Nadeau and "
    "Bengio's (2003) correction for folds that share points, a factor 1.5",
)
