"""Distances between clouds, and image metrics on made features: the same numbers in, the same value out."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import ot
import torch
from peers_case import Case, Found, Sides, built
from torch import Tensor

from gwfbench.info import Initial
from gwfbench.metrics import transport
from gwfbench.metrics.entropic import sinkhorn_divergence
from gwfbench.metrics.image import View, fid, kid
from gwfbench.protocol import Judged
from gwfbench.rng import Streams

Given = Callable[[int], Sides]


def pair(points: int, d: int, seed: int, apart: float = 0.5) -> tuple[Tensor, Tensor]:
    """Two clouds (n, d), float64: N(0, I), and one that is shifted and wider."""
    rng = Streams((seed,), dtype=torch.float64)
    x, y = rng.fork("x").normal(points, d)[0], rng.fork("y").normal(points, d)[0]
    return x, apart + 1.2 * y


# ----------------------------------------------------------------------------------------------------------- clouds


def exact(points: int, how: str) -> Given:
    """W2 of P_0 to as many draws of the eight Gaussians."""

    def at(seed: int) -> Sides:
        instance, rng = built("toy2d", seed)
        x = instance.problem[Initial].draw(points, rng)

        def seen() -> Judged:  # with noise at its start, so that each call draws the same points
            return Judged(x, None, instance.truth, 0, Streams((seed,)).fork("judge"))

        fresh = seen()
        a, b = (part[0].double().numpy() for part in (x, fresh.reference(points, fresh.rng)))

        def simplex() -> float:
            weights = np.full(points, 1 / points)
            return float(ot.emd2(weights, weights, ot.dist(a, b))) ** 0.5

        def assignment() -> float:
            from scipy.optimize import linear_sum_assignment
            from scipy.spatial.distance import cdist

            cost = cdist(a, b, "sqeuclidean")
            return float(cost[linear_sum_assignment(cost)].mean()) ** 0.5

        return Sides(
            simplex if how == "POT" else assignment,
            lambda: float(transport.w2.evaluate(seen()).value),
            lambda theirs, ours: {"W2": Found("value", theirs, ours)},
        )

    return at


def lines(points: int, d: int, count: int) -> Given:
    def at(seed: int) -> Sides:
        x, y = pair(points, d, seed)
        theta = torch.nn.functional.normalize(Streams((seed,), dtype=torch.float64).normal(d, count)[0], dim=0)
        a, b, c = x.numpy(), y.numpy(), theta.numpy()
        return Sides(
            lambda: float(ot.sliced_wasserstein_distance(a, b, projections=c)),
            lambda: float(transport.sliced_w2_squared(x, y, theta)[0]) ** 0.5,
            lambda theirs, ours: {"sliced W2": Found("value", theirs, ours)},
        )

    return at


def bures(d: int, near: float) -> Given:
    """Covariances C and (1 + near)^2 C, whose W2 is near * sqrt(tr C)."""

    def at(seed: int) -> Sides:
        root = Streams((seed,), dtype=torch.float64).normal(d, d)[0] / d**0.5
        c, mean = root @ root.T + 0.1 * torch.eye(d, dtype=torch.float64), torch.zeros(d, dtype=torch.float64)
        wide, truth = (1 + near) ** 2 * c, near * float(c.trace()) ** 0.5

        def off(value: float) -> float:
            return abs(value / truth - 1)

        a, b, m = c.numpy(), wide.numpy(), mean.numpy()
        return Sides(
            lambda: float(ot.gaussian.bures_wasserstein_distance(m, m, a, b)),
            lambda: float(transport.gaussian_w2(mean, c, mean, wide)),
            lambda theirs, ours: {"relative error": Found("error", off(theirs), off(ours))},
        )

    return at


def entropic(points: int, d: int, scaling: float) -> Given:
    """Sinkhorn divergence; cost |x - y|^2, which is twice geomloss's."""
    blur = 1.0

    def at(seed: int) -> Sides:
        from geomloss import SamplesLoss

        x, y = pair(points, d, seed)
        epsilon = torch.tensor([2 * blur**2], dtype=torch.float64)
        loss = SamplesLoss("sinkhorn", p=2, blur=blur, scaling=scaling, backend="tensorized")
        weights = torch.full((points,), 1 / points, dtype=torch.float64)

        def tight(a: Tensor, b: Tensor) -> float:
            """OT = <P, cost> + eps KL(P || a x b) by POT to ten digits."""
            cost = ot.dist(a, b) / 2
            plan = ot.sinkhorn(
                weights, weights, cost, blur**2, method="sinkhorn", stopThr=1e-10, numItermax=1000, warn=False
            )
            return float((plan * cost).sum() + blur**2 * torch.special.xlogy(plan, plan * points**2).sum())

        truth = 2 * (tight(x, y) - tight(x, x) / 2 - tight(y, y) / 2)

        def off(value: float) -> float:
            return abs(value / truth - 1)

        return Sides(
            lambda: 2 * float(loss(x, y)),
            lambda: float(sinkhorn_divergence(x[None], y[None], epsilon)[0]),
            lambda theirs, ours: {"relative error": Found("error", off(theirs), off(ours))},
        )

    return at


# ---------------------------------------------------------------------------------------------------------- features


def features(n: int, k: int, seed: int, apart: float = 0.3) -> tuple[Tensor, Tensor]:
    """Fake and real features (n, k), float32, as a network's: not Gaussian, correlated."""
    rng = Streams((seed,))
    mix = torch.linalg.qr(rng.fork("mix").normal(k, k)[0])[0] * torch.linspace(0.2, 1.5, k)
    real, fake = (torch.relu(rng.fork(name).normal(n, k)[0] @ mix + 0.5) for name in ("real", "fake"))
    return (1 + 0.2 * apart) * fake + 0.1 * apart, real


def _fidelity(name: str) -> Any:
    """A module of torch-fidelity; our import of it goes through where torchvision's operators are missing."""
    importlib.import_module("gwfbench.nn.fidelity")
    return importlib.import_module(f"torch_fidelity.{name}")


def frechet(n: int, k: int, how: str) -> Given:
    """Statistics of the real images are kept from before on both sides, as both do."""

    def at(seed: int) -> Sides:
        fake, real = features(n, k, seed)
        gaussian = View(real, real).gaussian

        def fidelity() -> Callable[[], float]:
            theirs = _fidelity("metric_fid")
            kept = theirs.fid_features_to_statistics(real.double())

            def value() -> float:
                found = theirs.fid_statistics_to_metric(theirs.fid_features_to_statistics(fake.double()), kept, False)
                return found[theirs.KEY_METRIC_FID]

            return value

        def root() -> Callable[[], float]:
            from scipy.linalg import sqrtm

            mean, c = real.double().mean(0).numpy(), np.cov(real.double().numpy(), rowvar=False)

            def value() -> float:
                x = fake.double().numpy()
                own = np.cov(x, rowvar=False)
                cross = np.trace(sqrtm(own @ c)).real
                return float(((x.mean(0) - mean) ** 2).sum() + np.trace(own) + np.trace(c) - 2 * cross)

            return value

        return Sides(
            fidelity() if how == "torch-fidelity" else root(),
            lambda: fid(fake, *gaussian)[0],
            lambda theirs, ours: {"FID": Found("value", theirs, ours)},
        )

    return at


def cubic(n: int, k: int, subsets: int, size: int) -> Given:
    """KID of features of one law, where it is 0: what is left is the noise of the estimator."""

    def at(seed: int) -> Sides:
        theirs = _fidelity("metric_kid")
        fake, real = features(n, k, seed, 0.0)
        kept = View(real, real)
        _ = kept.within
        options = {"kid_subsets": subsets, "kid_subset_size": size, "rng_seed": seed, "verbose": False}
        return Sides(
            lambda: theirs.kid_features_to_metric(fake, real, **options)[theirs.KEY_METRIC_KID_MEAN],
            lambda: kid(fake, real, View(fake, fake).within, kept.within)[0],
            lambda them, us: {"size of KID of equal laws": Found("error", abs(them), abs(us))},
        )

    return at


def neighbours(n: int, k: int, how: str) -> Given:
    def at(seed: int) -> Sides:
        fake, real = features(n, k, seed)
        kept = View(real, real)
        _ = kept.reach

        def fidelity() -> tuple[float, float]:
            theirs = _fidelity("metric_prc")
            found = theirs.prc_features_to_metric(fake, real, verbose=False)
            return found[theirs.KEY_METRIC_PRECISION], found[theirs.KEY_METRIC_RECALL]

        def prdc() -> tuple[float, float]:
            import contextlib
            import io

            from prdc import compute_prdc

            with contextlib.redirect_stdout(io.StringIO()):
                found = compute_prdc(real.numpy(), fake.numpy(), 3)
            return float(found["precision"]), float(found["recall"])

        def judge(theirs: Any, ours: Any) -> dict[str, Found]:
            return {
                name: Found("value", a, b) for name, a, b in zip(("precision", "recall"), theirs, ours, strict=True)
            }

        return Sides(fidelity if how == "torch-fidelity" else prdc, lambda: View(fake, fake, kept).shares, judge)

    return at


# ------------------------------------------------------------------------------------------------------------- cases


def cases() -> list[Case]:
    def case(name: str, peer: str, problem: str, setting: str, theirs: str, ours: str, make: Any, big: Any, small: Any):
        module = {"POT": "ot", "torch-fidelity": "torch_fidelity"}.get(peer, peer)
        return Case(name, peer, problem, setting, theirs, ours, partial(make, *big), partial(make, *small), (module,))

    near = 1e-5
    return [
        case("w2-pot", "POT", "exact W2", "1024 points in the plane", "dist, emd2", "w2", exact, (1024, "POT"),
             (64, "POT")),
        case("w2-scipy", "scipy", "exact W2", "1024 points in the plane", "linear_sum_assignment", "w2", exact,
             (1024, "scipy"), (64, "scipy")),
        case("sliced-w2", "POT", "sliced W2", "4096 points, d = 32, 128 lines", "sliced_wasserstein_distance",
             "sliced_w2", lines, (4096, 32, 128), (64, 3, 8)),
        case("bures-far", "POT", "W2 of two Gaussians, far apart", "d = 32", "bures_wasserstein_distance", "bures_w2",
             bures, (32, 1.0), (5, 1.0)),
        case("bures-near", "POT", "W2 of two Gaussians, nearly equal", f"d = 32, scales {near} apart",
             "bures_wasserstein_distance", "bures_w2", bures, (32, near), (5, near)),
        case("divergence", "geomloss", "Sinkhorn divergence", "1000 points, d = 5, float64, blur 1",
             "SamplesLoss, scaling 0.5 (default)", "sinkhorn", entropic, (1000, 5, 0.5), (64, 2, 0.5)),
        case("fid-512", "torch-fidelity", "FID", "5000 features of 512", "fid_statistics_to_metric", "fid", frechet,
             (5000, 512, "torch-fidelity"), (100, 8, "torch-fidelity")),
        case("fid-1024", "torch-fidelity", "FID", "5000 features of 1024",
             "fid_statistics_to_metric", "fid", frechet, (5000, 1024, "torch-fidelity"), (100, 9, "torch-fidelity")),
        case("fid-scipy", "scipy", "FID", "5000 features of 512", "sqrtm, as in pytorch-fid", "fid", frechet,
             (5000, 512, "scipy"), (100, 8, "scipy")),
        case("kid", "torch-fidelity", "KID", "5000 features of 64, equal laws",
             "100 subsets of 1000 (default)", "kid, all pairs", cubic, (5000, 64, 100, 1000), (100, 8, 5, 50)),
        case("near-fidelity", "torch-fidelity", "precision and recall", "3000 features of 128, third neighbour",
             "prc_features_to_metric", "precision, recall", neighbours, (3000, 128, "torch-fidelity"),
             (100, 8, "torch-fidelity")),
        case("near-prdc", "prdc", "precision and recall", "3000 features of 128, third neighbour", "compute_prdc",
             "precision, recall", neighbours, (3000, 128, "prdc"), (100, 8, "prdc")),
    ]  # fmt: skip
