"""Classifier two-sample test: how well a small network tells the law's points from fresh draws of the truth."""

from __future__ import annotations

import warnings

import numpy as np
import torch

from gwfbench.protocol import Estimate, Judged, Metric, Need

FOLDS = 5
WIDEST = 64  # of a hidden layer
EPOCHS, BATCHES = 30, 8
RATE = 0.01
REACH = 10  # standard deviations of a normal truth beyond which a coordinate counts by its logarithm


def accuracy(x: np.ndarray, y: np.ndarray, seed: int) -> float:
    """Accuracy, on points that it was not trained on, of a classifier of law x (n, d) against truth y (n, d).

    Network and folds as in sbibm (Lueckmann et al. 2021): two ReLU layers of 10 d, Adam, standardised by one sample
    (here the truth's; by median and spread in the middle, which no far point moves), five folds. For time, layers are
    capped at 64, and instead of scikit-learn's rate 0.001 to convergence there are 30 epochs of 8 batches at 0.01: of a
    checkerboard that finds 0.665 for 0.672, in a twentieth of the time.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.neural_network import MLPClassifier
    from threadpoolctl import threadpool_limits

    n, d = y.shape
    if n < FOLDS:
        raise ValueError(f"a classifier's accuracy by {FOLDS} folds needs at least {FOLDS} points, got {n}")
    points = standardised(x, y)
    classes = np.repeat([0, 1], n)
    width = min(10 * d, WIDEST)
    network = MLPClassifier(
        (width, width), batch_size=max(1, 2 * n * (FOLDS - 1) // FOLDS // BATCHES), learning_rate_init=RATE,
        max_iter=EPOCHS, random_state=seed,
    )  # fmt: skip
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    with warnings.catch_warnings(), threadpool_limits(1):  # matrices so small that threads only wait for each other
        # The epochs are part of the definition: that the loss would still fall is no news, five times a value.
        warnings.simplefilter("ignore", ConvergenceWarning)
        scores = cross_val_score(network, points, classes, cv=folds, scoring="accuracy")
    return float(scores.mean())


def standardised(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Points x (n, d), then y (m, d), in float32, in units of y's spread: a one-to-one map of each coordinate.

    The unit is the median distance from the median, as a standard deviation of a normal law; where more than half are
    equal, y's standard deviation. Beyond 10 units log |z| takes the place of |z|, so that a law of any width stays
    where a network can learn.
    """
    x, y = x.astype(np.float64), y.astype(np.float64)
    middle = np.median(y, 0)
    unit = 1.4826 * np.median(np.abs(y - middle), 0)
    unit = np.where(unit > 0, unit, y.std(0))
    z = (np.concatenate([x, y]) - middle) / np.where(unit > 0, unit, 1)
    far = REACH + np.log(np.maximum(np.abs(z), REACH) / REACH)
    return np.where(np.abs(z) > REACH, np.sign(z) * far, z).astype(np.float32)


def _c2st(judged: Judged) -> Estimate:
    other = judged.reference(judged.points.shape[1]).flatten(2).cpu().numpy()
    n = other.shape[1]
    points = judged.points[:, :n].flatten(2).cpu().numpy()
    seeds = judged.rng.fork("classifier").integers(2**31 - 1).tolist()
    value = torch.tensor([accuracy(*seed) for seed in zip(points, other, seeds, strict=True)], dtype=torch.float64)
    spread = 1 / FOLDS + 1 / (FOLDS - 1)  # of the mean over folds, in units of one fold's variance
    share = value.clamp(0.5 / n, 1 - 0.5 / n)  # that none was mistaken is not to know that none ever is
    return Estimate(value, (share * (1 - share) * spread / (2 * n / FOLDS)).sqrt(), n)


c2st = Metric(
    "c2st",
    _c2st,
    points=1000,
    needs=frozenset({Need.DRAW}),
    version=2,
    source="Cross-validated accuracy of a small network that tells the points from as many fresh draws of the truth "
    "(Lopez-Paz and Oquab 2017): 0.5 where it can't, 1 where it always can. Binomial standard error with Nadeau and "
    "Bengio's (2003) correction for folds that share points, a factor 1.5",
)
