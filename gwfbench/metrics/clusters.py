"""Clusters of N identical particles in R^D, up to translation: coordinates, pair distances, and metrics.

A point z in R^{(N - 1) D} stands for the positions x_i = sum_k H_ik z_k with mean 0. H (N, N - 1) has orthonormal
columns that sum to 0 (Helmert's), so |x| = |z|, and densities and scores in z are those on the mean-free subspace of
R^{N D} with its own volume.

Metrics do not see rotations, reflections or the numbering of particles, which no density of a cluster sees either:

    energy_tv      total variation of the histograms of the energy U(z)
    distance_tv    total variation of the histograms of the N (N - 1) / 2 pair distances of each point
    virial         |mean of z . grad U over d - 1|: 0 for the law exp(-U) alone among its rescalings, and needs no draws
    aligned_w2     W2 with the cost min over rotations, reflections, and permutations of |x - y|^2

A histogram has BINS bins of equal mass under as many reference draws, the outer ones open: it does not depend on units,
and nothing falls outside. Two clouds of n points of one law have energy_tv of about sqrt(BINS / (pi n)) (0.062 at
n = 4096), and less distance_tv. The standard error is that of the mean of each point's bins, signed, of both clouds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor

from gwfbench.info import Field
from gwfbench.protocol import Estimate, Judged, Metric, Need

BINS = 50
ROUNDS = 10  # of the alternation that aligns two clusters
CHUNK = 4096  # points whose distances are computed at once


@cache
def helmert(count: int) -> Tensor:
    """H, (N, N - 1): column k has 1 in its first k rows and -k in the next, scaled to norm 1; float64."""
    h = torch.zeros(count, count - 1, dtype=torch.float64)
    for k in range(1, count):
        h[:k, k - 1], h[k, k - 1] = 1.0, -float(k)
        h[:, k - 1] /= math.sqrt(k * (k + 1))
    return h


def positions(z: Tensor, count: int) -> Tensor:
    """The particles x of points, (..., (N - 1) D) -> (..., N, D)."""
    return helmert(count).to(z) @ z.unflatten(-1, (count - 1, -1))


def coordinates(x: Tensor) -> Tensor:
    """The point z of particles, (..., N, D) -> (..., (N - 1) D); their mean is lost. Also a score's, from that in x."""
    return (helmert(x.shape[-2]).to(x).mT @ x).flatten(-2)


def pairs(x: Tensor) -> tuple[Tensor, Tensor]:
    """Differences x_i - x_j of the pairs i < j, (..., pairs, D), and their lengths, (..., pairs)."""
    i, j = torch.triu_indices(x.shape[-2], x.shape[-2], 1, device=x.device)
    gap = x[..., i, :] - x[..., j, :]
    return gap, gap.square().sum(-1).sqrt()


def push(gap: Tensor, strength: Tensor, count: int) -> Tensor:
    """sum over j of strength_ij (x_i - x_j) for each i: from pairs (..., pairs, D) and (..., pairs) to (..., N, D)."""
    i, j = torch.triu_indices(count, count, 1, device=gap.device)
    each = strength[..., None] * gap
    out = torch.zeros(*gap.shape[:-2], count, gap.shape[-1], dtype=gap.dtype, device=gap.device)
    return out.index_add(-2, i, each).index_add(-2, j, -each)


def cluster_metrics(energy: Field, score: Field, count: int, points: int) -> tuple[Metric, ...]:
    """The metrics of one task.

    Args:
        energy: U, (S, n, d) -> (S, n), float64.
        score: -grad U, (S, n, d) -> (S, n, d), float64.
        count: number of particles N.
        points: of aligned_w2; the others see 4096.
    """

    def energies(z: Tensor) -> Tensor:
        return energy(z)[..., None]

    def distances(z: Tensor) -> Tensor:
        return pairs(positions(z, count))[1]

    def aligned_distance(judged: Judged) -> Estimate:
        return _aligned_w2(judged, count)

    def virial(judged: Judged) -> Estimate:
        z = judged.points.double()
        n, d = z.shape[1:]
        each = torch.cat([-(part * score(part)).sum(-1) / d for part in z.split(CHUNK, 1)], 1)
        return Estimate((each.mean(1) - 1).abs(), each.std(1) / n**0.5, n)

    same = (
        "|mean of z . grad U / d - 1|, 0 for the law exp(-U) by integration by parts. Standard error of the mean; at "
        "the law itself the value is about 0.8 of it"
    )
    how = f"in {BINS} bins of equal mass under as many draws of the truth. Standard error of both clouds"
    many = "the best found by turns (permutation by assignment, rotation by singular vectors) from several starts"
    far = (
        "Exact W2 (POT) to as many fresh draws of the truth. The cost of two clusters is the least |x - y|^2 over "
        f"rotations, reflections and permutations: {'all permutations are tried' if count <= 4 else many}. Standard "
        "error as of w2"
    )
    need = frozenset({Need.DRAW})

    def histogram(name: str, of: Callable[[Tensor], Tensor], what: str) -> Metric:
        return Metric(name, lambda judged: _histograms(judged, of), 4096, f"Total variation of {what} {how}", need)

    return (
        histogram("energy_tv", energies, "energies"),
        histogram("distance_tv", distances, "pair distances"),
        Metric("virial", virial, 4096, same),
        Metric("aligned_w2", aligned_distance, points, far, need, at="last"),
    )


def _histograms(judged: Judged, values: Callable[[Tensor], Tensor]) -> Estimate:
    """TV of the histograms of `values`, (S, n, d) -> (S, n, m), of which each point has m in the bins."""
    other = judged.reference(judged.points.shape[1])
    n = other.shape[1]
    found = []
    for x, y in zip(judged.points[:, :n].double(), other.double(), strict=True):
        # a far point may have an infinite energy, or none: both are in the last bin
        v, w = (torch.cat([values(part) for part in cloud.split(CHUNK)]).nan_to_num(math.inf) for cloud in (x, y))
        edges = w.flatten().sort().values[torch.arange(1, BINS, device=w.device) * w.numel() // BINS]
        first, second = (torch.bucketize(part.contiguous(), edges, right=True) for part in (v, w))
        p, q = (part.flatten().bincount(minlength=BINS).double() / part.numel() for part in (first, second))
        sign = 0.5 * (p - q).sign()
        variance = sum(sign[part].mean(1).var() / n for part in (first, second))
        found.append(torch.stack([0.5 * (p - q).abs().sum(), torch.as_tensor(variance).sqrt()]))
    value, se = torch.stack(found, 1)
    return Estimate(value, se, n)


def _aligned_w2(judged: Judged, count: int) -> Estimate:
    import ot

    other = judged.reference(judged.points.shape[1], judged.rng)
    n = other.shape[1]
    weights = torch.full((n,), 1 / n, dtype=torch.float64)
    found = []
    for x, y in zip(judged.points[:, :n].double().cpu(), other.double().cpu(), strict=True):
        cost = aligned(positions(x, count), positions(y, count))
        square, log = ot.emd2(weights, weights, cost, numItermax=10_000_000, log=True)
        if log["warning"]:
            raise ArithmeticError(f"exact transport of {n} points did not converge: {log['warning']}")
        value = float(square) ** 0.5
        spread = sum(float(torch.as_tensor(log[key]).var()) for key in "uv") / n
        found.append((value, spread**0.5 / (2 * value) if value > 0 else math.nan))
    value, se = torch.tensor(found, dtype=torch.float64).T
    return Estimate(value, se, n)


def aligned(x: Tensor, y: Tensor) -> Tensor:
    """min over O(D) and permutations of |x_a - g y_b|^2, (n, N, D) and (m, N, D) with mean 0 -> (n, m).

    Exact for N <= 4. Else by turns the best permutation and the best rotation, from the best of 2^D starts (principal
    axes on principal axes, in all signs), until ROUNDS or until nothing changes: never below the minimum.
    """
    squares = x.square().sum((1, 2))[:, None] + y.square().sum((1, 2))
    overlap = _by_all(x, y) if x.shape[1] <= 4 else _by_turns(x, y)
    return (squares - 2 * overlap).clamp_min(0.0)


def _by_all(x: Tensor, y: Tensor) -> Tensor:
    """max over permutations of the nuclear norm of sum_i x_i y_i', which is the max over O(D) of <x, g y>."""
    best = x.new_zeros(len(x), len(y))
    for order in itertools.permutations(range(x.shape[1])):
        best = torch.maximum(best, _nuclear(torch.einsum("aip,biq->abpq", x, y[:, order])))
    return best


def _nuclear(m: Tensor) -> Tensor:
    """The sum of singular values; in the plane (s + t)^2 = |M|^2 + 2 |det M|, far faster for many small matrices."""
    if m.shape[-1] != 2:
        return torch.linalg.svdvals(m).sum(-1)
    determinant = m[..., 0, 0] * m[..., 1, 1] - m[..., 0, 1] * m[..., 1, 0]
    return (m.square().sum((-2, -1)) + 2 * determinant.abs()).sqrt()


def _by_turns(x: Tensor, y: Tensor) -> Tensor:
    axes = [torch.linalg.svd(part, full_matrices=False).Vh for part in (x, y)]  # (n, D, D), rows by size
    best, turn = x.new_full((len(x), len(y)), -math.inf), x.new_zeros(())
    for sign in itertools.product((1.0, -1.0), repeat=x.shape[2]):
        start = torch.einsum("apk,p,bpl->abkl", axes[0], x.new_tensor(sign), axes[1])  # takes y's axes to x's
        now, after = _improve(x, y, start)
        turn = torch.where((now > best)[..., None, None], after, turn)
        best = torch.maximum(best, now)
    for _ in range(ROUNDS):
        now, turn = _improve(x, y, turn)
        if not (now > best + 1e-12).any():
            break
        best = torch.maximum(best, now)
    return best


def _improve(x: Tensor, y: Tensor, turn: Tensor) -> tuple[Tensor, Tensor]:
    """The best permutations for these rotations (n, m, D, D), and for them the largest <x, g y>, and the g."""
    from scipy.optimize import linear_sum_assignment

    overlap = torch.einsum("aik,abkl,bjl->abij", x, turn, y)
    rows = [linear_sum_assignment(one, maximize=True)[1] for one in overlap.flatten(0, 1).numpy()]
    order = torch.from_numpy(np.stack(rows)).unflatten(0, (len(x), len(y)))[..., None]
    moved = y.expand(len(x), *y.shape).gather(2, order.expand(*order.shape[:-1], x.shape[2]))
    u, s, vh = torch.linalg.svd(torch.einsum("aip,abiq->abpq", x, moved))
    return s.sum(-1), u @ vh
