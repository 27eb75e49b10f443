"""Image metrics, equal to torch-fidelity's, on the features of a network: its Inception, or a small classifier of ours.

    fid              |m - m0|^2 + tr(C + C0 - 2 (C C0)^1/2)                      Heusel et al. 2017, eq. 6
    kid              unbiased MMD^2 of the kernel (x . y / d + 1)^3, by all pairs     Binkowski et al. 2018
    inception_score  exp E KL(p(y | x) || p(y))                                  Salimans et al. 2016
    precision        share of points within a real image's distance to its third neighbour
    recall           share of real images within a point's distance to its third     Kynkaanniemi et al. 2019

Points in [-1, 1] are rounded to uint8 first, as if they were saved. All values depend on the protocol, FID's bias most
of all, so a metric's name contains it (`datasets.protocols`). A law that has fewer points has no value.

Features are float32, and so are the products of KID's kernel. Distances, covariances and all sums are float64. The
network's output for a law's points is kept as long as the points live, that for the real images as long as the process.
"""

from __future__ import annotations

import hashlib
import math
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from gwfbench.datasets.protocols import NAMES, Called
from gwfbench.protocol import Estimate, Judged, Metric

BLOCKS = 20  # of FID's jackknife
WIDE = 256  # features beyond which a jackknife of FID would take minutes
SPLITS = 10  # of the inception score
NEIGHBOUR = 3  # whose distance is an image's reach
PAIRS = 2**20  # of images at once


def pixels(x: Tensor) -> Tensor:
    """uint8 images of floats: -1 is 0, 1 is 255, what lies beyond is cut off."""
    return x.clamp(-1, 1).add_(1).mul_(127.5).round_().to(torch.uint8)


def floats(u: Tensor, dtype: torch.dtype) -> Tensor:
    """Images in [-1, 1]: u / 127.5 - 1, which `pixels` turns back."""
    return u.to(dtype).div_(127.5).sub_(1)


@dataclass(frozen=True)
class View:
    """What a network sees of images, features (n, k) and logits (n, classes), and what is made of it once.

    Args:
        real: the view of the real images; None: this is it.
    """

    features: Tensor
    logits: Tensor
    real: View | None = None

    @cached_property
    def gaussian(self) -> tuple[Tensor, Tensor]:
        """Mean (k,) and root of the covariance (k, k), float64."""
        x = self.features.double()
        return x.mean(0), _root(torch.cov(x.T))

    @cached_property
    def within(self) -> Tensor:
        """KID's kernel of each image, summed over all others (n,)."""
        return kernel_within(self.features)

    @cached_property
    def reach(self) -> Tensor:
        """Squared distance of each image to its third neighbour (n,)."""
        return reach(self.features)

    @cached_property
    def shares(self) -> tuple[float, float]:
        """Precision and recall, which are computed together."""
        assert self.real is not None
        return shares(self.features, self.reach, self.real.features, self.real.reach)


_REAL: dict[tuple[str, str, bytes], View] = {}  # of the last real images, by network, device, and what its images hold


@dataclass(frozen=True)
class Lens:
    """A network's view of images.

    Args:
        extract: uint8 (n, c, h, w) -> features (n, k) and logits (n, classes).
        real: the images to compare with, uint8 (n, c, h, w).
        network: hash of the weights, by which this process finds the view of the real images again; empty: it doesn't.
        fake: number of points that metrics are of; None: as many as there are real images.
        part: what the real images are of, "test" or "train".
    """

    extract: Callable[[Tensor], tuple[Tensor, Tensor]]
    real: Tensor
    network: str = ""
    fake: int | None = None
    part: str = "test"
    _last: dict[str, tuple[Any, Any, list[View]]] = field(default_factory=dict)  # a law's cloud, the place in it, views

    @cached_property
    def reference(self) -> View:
        """The view of the real images."""
        if not self.network:
            return View(*self.extract(self.real))
        held = hashlib.blake2b(self.real.contiguous().cpu().numpy()).digest()  # type: ignore[arg-type]
        key = self.network, str(self.real.device), held
        if key not in _REAL:
            _REAL.clear()
            _REAL[key] = View(*self.extract(self.real))
        return _REAL[key]

    def views(self, points: Tensor) -> list[View]:
        """Of each seed's points, (S, n, c, h, w); five metrics ask for those of the same ones."""
        cloud = points if points._base is None else points._base  # a slice is made anew for each metric
        place = None
        if not points.is_inference():
            place = points._version, points.storage_offset(), points.shape, points.stride()
        known, where, views = self._last.get("law", (lambda: None, None, []))
        if place is None or known() is not cloud or where != place:
            views = [View(*self.extract(pixels(one)), self.reference) for one in points]
            self._last["law"] = weakref.ref(cloud), place, views
        return views


def metrics(lens: Lens, network: str = "") -> tuple[Metric, ...]:
    """The five metrics by this view, with the network's label at the end of their names."""
    n = lens.fake or len(lens.real)
    at = f"against {len(lens.real)} images of the {lens.part} part, as torch-fidelity has it"
    rows: list[tuple[str, Callable[[Lens, Judged], Estimate], str]] = [
        ("fid", _fid, f"Frechet distance of Gaussians fitted to features (Heusel et al. 2017) {at}. Standard error "
         f"over the points by the block jackknife, unknown for more than {WIDE} features"),
        ("kid", _kid, "MMD^2 of a cubic kernel on features against the real images (Binkowski et al. 2018), by the "
         "unbiased U-statistic over all pairs, so that it may be negative. Standard error by the jackknife over points "
         "and over real images"),
        ("inception_score", _inception_score, "How sure the network is of each image's class, and how different the "
         f"classes are (Salimans et al. 2016), by torch-fidelity, mean over {SPLITS} splits. Standard error from their "
         "spread"),
        ("precision", _precision, "Share of points within a real image's distance to its third neighbour (Kynkaanniemi "
         "et al. 2019), as torch-fidelity has it. Binomial standard error"),
        ("recall", _recall, "Share of real images within a point's distance to its third neighbour (Kynkaanniemi et "
         "al. 2019), as torch-fidelity has it. Binomial standard error"),
    ]  # fmt: skip
    lower = ("fid", "kid")
    return tuple(
        Metric(
            str(_called(metric, lens, network)), partial(judge, lens), n, source,
            better="lower" if metric in lower else "higher", version=2 if metric == "kid" else 1,
        )
        for metric, judge, source in rows
    )  # fmt: skip


def _called(metric: str, lens: Lens, network: str) -> Called:
    score, fake = metric == "inception_score", lens.fake or len(lens.real)
    train = lens.part == "train" and not score
    return Called(metric, 0 if score else len(lens.real), fake, train, network.removeprefix("_"))


def absent(why: str) -> tuple[Metric, ...]:
    """The five metrics where there is no network: they are left out, and the log says why."""
    return tuple(Metric(each, _never, None, "see gwfbench/metrics/image.py", unavailable=why) for each in NAMES)


def _never(judged: Judged) -> Estimate:
    raise ValueError("no network is at hand for this metric")


def _each(lens: Lens, judged: Judged, least: int, one: Callable[[View, int], tuple[float, float]]) -> Estimate:
    """Value and error of each seed's images, by a function of their view and of a seed for its own random numbers."""
    n, fake = judged.points.shape[1], lens.fake or len(lens.real)
    if n < least:
        raise ValueError(f"it needs at least {least} images, got {n}")
    if n != fake:
        raise ValueError(f"its protocol has {fake} images, and the law gives {n}: see the field fake")
    luck = judged.rng.integers(2**31 - 1).tolist()
    both = [one(view, seed) for view, seed in zip(lens.views(judged.points), luck, strict=True)]
    value, se = torch.tensor(both, dtype=torch.float64).T
    return Estimate(value, se, n)


def _fid(lens: Lens, judged: Judged) -> Estimate:
    return _each(lens, judged, 4, lambda view, _: fid(view.features, *lens.reference.gaussian))


def fid(x: Tensor, mean0: Tensor, root0: Tensor) -> tuple[float, float]:
    """Of features (n, k), from a Gaussian by its mean and the root of its covariance, and the error by the jackknife.

    tr (C C0)^1/2 is the sum of the singular values of C^1/2 C0^1/2. Sums that leave out a block are all sums less its.
    """
    n, k = x.shape
    blocks = (x.double() - mean0).tensor_split(min(BLOCKS, n // 2) if k <= WIDE else 1)
    size = torch.tensor([float(len(block)) for block in blocks], dtype=torch.float64, device=x.device)
    first, second = (torch.stack(sums) for sums in zip(*((x.sum(0), x.T @ x) for x in blocks), strict=True))
    size, first, second = (_all_and_without_each(sums) for sums in (size, first, second))
    mean = first / size[:, None]
    covariance = (second - first[:, :, None] * mean[:, None]) / (size - 1)[:, None, None]
    traces = covariance.diagonal(dim1=1, dim2=2).sum(1) + root0.square().sum()
    found = mean.square().sum(1) + traces - 2 * torch.linalg.svdvals(_root(covariance) @ root0).sum(1)
    left = found[1:]
    return float(found[0]), math.sqrt((len(left) - 1) * float(left.var(correction=0))) if len(left) else math.nan


def _all_and_without_each(sums: Tensor) -> Tensor:
    """The total over blocks, and, where there are several, the total less each."""
    total = sums.sum(0, keepdim=True)
    return torch.cat([total, total - sums]) if len(sums) > 1 else total


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp_min(0.0).sqrt()[..., None, :]) @ vectors.mT


def _kid(lens: Lens, judged: Judged) -> Estimate:
    real = lens.reference
    return _each(lens, judged, 4, lambda view, _: kid(view.features, real.features, view.within, real.within))


def kid(x: Tensor, y: Tensor, within_x: Tensor, within_y: Tensor) -> tuple[float, float]:
    """MMD^2 of features x (n, k) and y (m, k) by the U-statistic, and its error by leaving out each x, and each y.

    Args:
        within_x, within_y: `kernel_within` of each.
    """
    n, m = len(x), len(y)
    rows, columns = kernel_between(x, y)
    total = rows.sum()
    value, variance = -2 * total / (n * m), torch.zeros_like(total)
    for k, other, within, between in ((n, m, within_x, rows), (m, n, within_y, columns)):
        value = value + within.sum() / (k * (k - 1))
        left = (within.sum() - 2 * within) / ((k - 1) * (k - 2)) - 2 * (total - between) / ((k - 1) * other)
        variance = variance + (k - 1) * left.var(correction=0)
    return float(value), float(torch.where(variance > 0, variance.sqrt(), math.nan))


def kernel_between(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of (x_i . y_j / k + 1)^3 over each row (n,) and each column (m,), float64."""
    rows, columns = (torch.zeros(len(each), dtype=torch.float64, device=x.device) for each in (x, y))
    for here, block in _blocks(_with_ones(x / x.shape[1]), _with_ones(y)):
        block.pow_(3)
        rows[here] = block.sum(1).double()
        columns += block.sum(0)
    return rows, columns


def kernel_within(x: Tensor) -> Tensor:
    """Sums of (x_i . x_j / k + 1)^3 over j != i (n,), float64; each pair is computed once."""
    sums = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for here, block in _blocks(_with_ones(x / x.shape[1]), _with_ones(x), upper=True):
        block.pow_(3).fill_diagonal_(0.0)
        sums[here] += block.sum(1)
        sums[here.stop :] += block[:, len(block) :].sum(0)
    return sums


def _with_ones(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones_like(x[:, :1])], 1)


def _blocks(left: Tensor, right: Tensor, upper: bool = False) -> Iterator[tuple[slice, Tensor]]:
    """Rows of left @ right.T: which, and their values, all in one buffer, that may be overwritten.

    Args:
        upper: from the diagonal on.
    """
    rows = min(len(left), max(1, PAIRS // len(right)))
    buffer = left.new_empty(rows * len(right))
    for first in range(0, len(left), rows):
        here, columns = slice(first, min(first + rows, len(left))), right[first:] if upper else right
        values = buffer[: (here.stop - first) * len(columns)].view(-1, len(columns))
        yield here, torch.mm(left[here], columns.T, out=values)


def _inception_score(lens: Lens, judged: Judged) -> Estimate:
    from gwfbench.nn import fidelity

    def one(view: View, seed: int) -> tuple[float, float]:
        found = fidelity.isc_features_to_metric(view.logits.cpu(), SPLITS, True, seed)
        se = found[fidelity.KEY_METRIC_ISC_STD] / math.sqrt(SPLITS - 1)
        return found[fidelity.KEY_METRIC_ISC_MEAN], se or math.nan

    return _each(lens, judged, SPLITS, one)


def _precision(lens: Lens, judged: Judged) -> Estimate:
    return _near(lens, judged, 0)


def _recall(lens: Lens, judged: Judged) -> Estimate:
    return _near(lens, judged, 1)


def _near(lens: Lens, judged: Judged, which: int) -> Estimate:
    count = (judged.points.shape[1], len(lens.real))[which]

    def one(view: View, _seed: int) -> tuple[float, float]:
        share = view.shares[which]
        inner = min(max(share, 1 / count), 1 - 1 / count)  # none of so many is not to know that none ever is
        return share, math.sqrt(inner * (1 - inner) / count)

    return _each(lens, judged, 4, one)


def reach(x: Tensor) -> Tensor:
    """Squared distance of each x (n, k) to its third neighbour (n,), float64."""
    found = torch.empty(len(x), dtype=torch.float64, device=x.device)
    for here, block in _blocks(*_distance_factors(x, x)):
        found[here] = block.topk(NEIGHBOUR + 1, largest=False).values[:, -1]  # itself is the nearest
    return found.clamp_min_(0.0)


def shares(x: Tensor, reach_x: Tensor, y: Tensor, reach_y: Tensor) -> tuple[float, float]:
    """Share of x (n, k) within the reach of a y (m, k), and of y within the reach of an x."""
    precise, recalled = (torch.zeros(len(each), dtype=torch.bool, device=x.device) for each in (x, y))
    for here, block in _blocks(*_distance_factors(x, y)):
        precise[here] = (block <= reach_y).any(1)
        recalled |= (block <= reach_x[here, None]).any(0)
    return float(precise.double().mean()), float(recalled.double().mean())


def _distance_factors(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Two whose product with the second transposed is |x_i - y_j|^2, about y's mean, float64."""
    x, y = x.double(), y.double()
    center = y.mean(0)
    x, y = x - center, y - center
    square, other = x.square().sum(1, keepdim=True), y.square().sum(1, keepdim=True)
    return torch.cat([-2 * x, square, torch.ones_like(square)], 1), torch.cat([y, torch.ones_like(other), other], 1)
