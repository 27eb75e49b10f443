"""Image metrics by torch-fidelity's formulas, on features of a network: its Inception, or a small classifier of ours.

    fid              |m - m0|^2 + tr(C + C0 - 2 (C C0)^1/2)                      Heusel et al. 2017, eq. 6
    kid              unbiased MMD^2 of the kernel (x . y / d + 1)^3, by all pairs     Binkowski et al. 2018
    inception_score  exp E KL(p(y | x) || p(y))                                  Salimans et al. 2016
    precision        share of points within a test image's distance to its third neighbour
    recall           share of test images within a point's distance to its third     Kynkaanniemi et al. 2019

Points in [-1, 1] are rounded to uint8 first, as they would be saved. They are compared with the whole test part, by as
many points as it has images, for all methods alike: FID's bias depends on that number. The names have no suffix if the
features are Inception's, else `_<data>@<first digits of the weights' SHA-256>`: the two are never the same metric.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from gwfbench.protocol import Estimate, Judged, Metric

NAMES = ("fid", "kid", "inception_score", "precision", "recall")
BLOCKS = 20  # of FID's jackknife
WIDE = 256  # features beyond which a jackknife of FID would take minutes
SPLITS = 10  # of the inception score
NEIGHBOURS = 1000  # points a side of a block of distances, or of KID's kernel
REMEMBERED = 2**28  # bytes of features


def pixels(x: Tensor) -> Tensor:
    """uint8 images of floats: -1 is 0, 1 is 255, what lies beyond is cut off."""
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def floats(u: Tensor, dtype: torch.dtype) -> Tensor:
    """Images in [-1, 1]: u / 127.5 - 1, which `pixels` turns back."""
    return u.to(dtype) / 127.5 - 1


@dataclass(frozen=True)
class Lens:
    """A network's view of images.

    Args:
        extract: uint8 (n, c, h, w) -> features (n, k) and logits (n, classes), float64 on the CPU.
        test: the images to compare with, uint8 (n, c, h, w).
    """

    extract: Callable[[Tensor], tuple[Tensor, Tensor]]
    test: Tensor
    _seen: dict[bytes, tuple[Tensor, Tensor]] = field(default_factory=dict)
    _near: dict[bytes, tuple[float, float]] = field(default_factory=dict)
    _own: list[Tensor] = field(default_factory=list)

    def see(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features and logits of uint8 images; five metrics ask for those of the same ones."""
        key = _digest(images)
        if key not in self._seen:
            self._seen[key] = self.extract(images)
            sizes = {each: both[0].nbytes for each, both in self._seen.items()}
            for each in list(sizes)[:-1]:  # the oldest go first
                if sum(sizes.values()) > REMEMBERED:
                    del self._seen[each], sizes[each]
        return self._seen[key]

    def reference(self) -> Tensor:
        """Features of the test part."""
        return self.see(self.test)[0]

    def own(self) -> Tensor:
        """`kernel_sums` of the test part's features, the same for all laws."""
        if not self._own:
            self._own.append(kernel_sums(self.reference())[0])
        return self._own[0]

    def near(self, images: Tensor) -> tuple[float, float]:
        """Precision and recall of uint8 images, which are had together."""
        from gwfbench.nn import fidelity

        key = _digest(images)
        if key not in self._near:
            found = fidelity.prc_features_to_metric(
                self.see(images)[0], self.reference(), prc_batch_size=NEIGHBOURS, save_cpu_ram=True, verbose=False
            )
            self._near[key] = found[fidelity.KEY_METRIC_PRECISION], found[fidelity.KEY_METRIC_RECALL]
        return self._near[key]


def _digest(images: Tensor) -> bytes:
    return hashlib.blake2b(images.contiguous().cpu().numpy()).digest()  # type: ignore[arg-type]


def metrics(lens: Lens, suffix: str) -> tuple[Metric, ...]:
    """The five metrics by this view, with this suffix to their names."""
    n, at = len(lens.test), "against the test part, by torch-fidelity"
    rows: list[tuple[str, Callable[[Lens, Judged], Estimate], str]] = [
        ("fid", _fid, f"Frechet distance of Gaussians fitted to features (Heusel et al. 2017) {at}. Standard error "
         f"over the points by the block jackknife, unknown for more than {WIDE} features"),
        ("kid", _kid, "MMD^2 of a cubic kernel on features against the test part (Binkowski et al. 2018), by the "
         "unbiased U-statistic over all pairs, so that it may be negative. Standard error by the jackknife over points "
         "and over test images"),
        ("inception_score", _inception_score, "How sure the network is of each image's class, and how different the "
         f"classes are (Salimans et al. 2016), by torch-fidelity, mean over {SPLITS} splits. Standard error from their "
         "spread"),
        ("precision", _precision, "Share of points within a test image's distance to its third neighbour (Kynkaanniemi "
         "et al. 2019), by torch-fidelity. Binomial standard error"),
        ("recall", _recall, "Share of test images within a point's distance to its third neighbour (Kynkaanniemi et "
         "al. 2019), by torch-fidelity. Binomial standard error"),
    ]  # fmt: skip
    lower = ("fid", "kid")
    return tuple(
        Metric(
            name + suffix, partial(judge, lens), n, source, better="lower" if name in lower else "higher",
            version=2 if name == "kid" else 1,
        )
        for name, judge, source in rows
    )  # fmt: skip


def absent(why: str) -> tuple[Metric, ...]:
    """The five metrics where no network is at hand: they are left out, and the log says why."""
    return tuple(Metric(name, _never, None, "see gwfbench/metrics/image.py", unavailable=why) for name in NAMES)


def _never(judged: Judged) -> Estimate:
    raise ValueError("no network is at hand for this metric")


def _each(judged: Judged, least: int, one: Callable[[Tensor, int], tuple[float, float]]) -> Estimate:
    """Value and error of each seed's images, by a function of them and of a seed for its own random numbers."""
    n = judged.points.shape[1]
    if n < least:
        raise ValueError(f"it needs at least {least} images, got {n}")
    luck = judged.rng.integers(2**31 - 1).tolist()
    both = [one(pixels(points), seed) for points, seed in zip(judged.points, luck, strict=True)]
    value, se = torch.tensor(both, dtype=torch.float64).T
    return Estimate(value, se, n)


def _fid(lens: Lens, judged: Judged) -> Estimate:
    from gwfbench.nn import fidelity

    target = fidelity.fid_features_to_statistics(lens.reference())

    def distance(features: Tensor) -> float:
        statistics = fidelity.fid_features_to_statistics(features)
        return fidelity.fid_statistics_to_metric(statistics, target, verbose=False)[fidelity.KEY_METRIC_FID]

    def one(images: Tensor, _seed: int) -> tuple[float, float]:
        features = lens.see(images)[0]
        if features.shape[1] > WIDE:
            return distance(features), math.nan
        blocks = features.tensor_split(min(BLOCKS, len(features) // 2))
        left = [distance(torch.cat([*blocks[:b], *blocks[b + 1 :]])) for b in range(len(blocks))]
        spread = torch.tensor(left, dtype=torch.float64).var(correction=0)
        return distance(features), math.sqrt((len(blocks) - 1) * float(spread))

    return _each(judged, 4, one)


def _kid(lens: Lens, judged: Judged) -> Estimate:
    def one(images: Tensor, _seed: int) -> tuple[float, float]:
        return kid(lens.see(images)[0], lens.reference(), lens.own())

    return _each(judged, 4, one)


def kid(x: Tensor, y: Tensor, own: Tensor | None = None) -> tuple[float, float]:
    """MMD^2 of features x (n, k) and y (m, k) by the U-statistic, and its error by leaving out each x, and each y.

    Args:
        own: `kernel_sums` of y with itself, if at hand.
    """
    n, m = len(x), len(y)
    cross, columns = kernel_sums(x, y)
    total = cross.sum()
    value, variance = -2 * total / (n * m), x.new_zeros(())
    for k, other, within, between in ((n, m, kernel_sums(x)[0], cross), (m, n, own, columns)):
        within = kernel_sums(y)[0] if within is None else within
        value = value + within.sum() / (k * (k - 1))
        left = (within.sum() - 2 * within) / ((k - 1) * (k - 2)) - 2 * (total - between) / ((k - 1) * other)
        variance = variance + (k - 1) * left.var(correction=0)
    return float(value), float(torch.where(variance > 0, variance.sqrt(), math.nan))


def kernel_sums(x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Sums of (x_i . y_j / k + 1)^3 over each row and each column, by blocks; without y, over i != j of x alone."""
    other = x if y is None else y
    rows, columns = x.new_zeros(len(x)), x.new_zeros(len(other))
    for first in range(0, len(x), NEIGHBOURS):
        here = slice(first, first + NEIGHBOURS)
        block = (x[here] @ other.T).div_(x.shape[1]).add_(1).pow_(3)
        if y is None:
            block[:, here].fill_diagonal_(0.0)
        rows[here] = block.sum(1)
        columns += block.sum(0)
    return rows, columns


def _inception_score(lens: Lens, judged: Judged) -> Estimate:
    from gwfbench.nn import fidelity

    def one(images: Tensor, seed: int) -> tuple[float, float]:
        found = fidelity.isc_features_to_metric(lens.see(images)[1], SPLITS, True, seed)
        se = found[fidelity.KEY_METRIC_ISC_STD] / math.sqrt(SPLITS - 1)
        return found[fidelity.KEY_METRIC_ISC_MEAN], se or math.nan

    return _each(judged, SPLITS, one)


def _precision(lens: Lens, judged: Judged) -> Estimate:
    return _near(lens, judged, 0)


def _recall(lens: Lens, judged: Judged) -> Estimate:
    return _near(lens, judged, 1)


def _near(lens: Lens, judged: Judged, which: int) -> Estimate:
    def one(images: Tensor, _seed: int) -> tuple[float, float]:
        share, count = lens.near(images)[which], (len(images), len(lens.test))[which]
        inner = min(max(share, 1 / count), 1 - 1 / count)  # none of so many is not to know that none ever is
        return share, math.sqrt(inner * (1 - inner) / count)

    return _each(judged, 4, one)
