"""Objectives of adversarial flows whose critic embeds points, and the kernels that compare embeddings.

With MMD^2(q, p) = E k(f, f') + E k(r, r') - 2 E k(f, r), f = D(x) for x of q, r = D(y) for y of p (unbiased: no pair of
a point with itself), the critic descends and the generator descends

    mmd     -MMD^2                                MMD^2                  Li et al. 2017
    immd    E k(r, r') - E k(f, f')               MMD^2                  Wang, Sun and Halgamuge 2019, repulsive
    smmd    -s MMD^2                              s MMD^2                Arbel et al. 2018, s = 1/(1 + 10 E_p |grad D|^2)
    ckmmd   E k(z, D(G(z))) - E k(z, D(y))        -E k(z, D(G(z)))       z the latent points, as many coordinates as D

(Caucheteux et al. 2026, their code.) A kernel is a function of a `Relation` of points. Fixed ones, with s = |x - y|^2:

    linear     x.y                       riesz      -|x - y|                      rq        1/(1 + s/2)
    rbf        exp(-s / 2 10^2)          riesz_psd  |x| + |y| - |x - y|           mix_rq    sum over a in .1, 1, 10 of
    imq        (1 + s)^{-1/2}                                                               (1 + s/2a)^{-a}

`Mixture` is learnt: softmax weights, equal at the start, of rbf, the sum of rbf's of widths 1, 2, 4, 8, 16,
exp(-|x - y|_1 / 100), exp(-|x - y| / 10), matern 3/2 and 5/2 of length 10, riesz_psd. Both players descend their losses
in its weights, as in the authors' code: the critic's steps sharpen the kernel, the generator's make it lenient.
Distances are rooted with 1e-6 added to s, so that slopes stay finite.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gwfbench.adversarial import Objective
from gwfbench.nn.stacked import Stacked
from gwfbench.rng import Streams

KernelName = Literal["mixture", "linear", "rbf", "riesz", "riesz_psd", "imq", "rq", "mix_rq"]
EPS = 1e-6  # added to squared distances under a root


@dataclass(frozen=True)
class Relation:
    """Pairs of points (S, n, e) and (S, m, e): all, (S, n, m); or, if aligned, row i with row i, (S, n)."""

    x: Tensor
    y: Tensor
    aligned: bool = False

    @property
    def squared(self) -> Tensor:
        """|x - y|^2."""
        if self.aligned:
            return (self.x - self.y).square().sum(-1)
        middle = self.x.detach().mean(1, keepdim=True)  # squares cancel less about it
        x, y = self.x - middle, self.y - middle
        both = x.square().sum(-1)[:, :, None] + y.square().sum(-1)[:, None]
        return torch.baddbmm(both, x, y.mT, alpha=-2).clamp_min(0)

    @property
    def dot(self) -> Tensor:
        """x.y."""
        return (self.x * self.y).sum(-1) if self.aligned else self.x @ self.y.mT

    @property
    def norms(self) -> Tensor:
        """|x| + |y|."""
        x, y = ((part.square().sum(-1) + EPS).sqrt() for part in (self.x, self.y))
        return x + y if self.aligned else x[:, :, None] + y[:, None]

    @property
    def absolute(self) -> Tensor:
        """|x - y|_1."""
        return (self.x - self.y).abs().sum(-1) if self.aligned else torch.cdist(self.x, self.y, p=1.0)


Kernel = Callable[[Relation], Tensor]


def _length(pair: Relation) -> Tensor:
    return (pair.squared + EPS).sqrt()


FIXED: dict[str, Kernel] = {
    "linear": lambda pair: pair.dot,
    "rbf": lambda pair: (pair.squared / -200).exp(),
    "riesz": lambda pair: -_length(pair),
    "riesz_psd": lambda pair: pair.norms - _length(pair),
    "imq": lambda pair: (1 + pair.squared).rsqrt(),
    "rq": lambda pair: 1 / (1 + pair.squared / 2),
    "mix_rq": lambda pair: sum((1 + pair.squared / (2 * a)).pow(-a) for a in (0.1, 1.0, 10.0)),  # type: ignore[misc]
}


class Mixture:
    """The learnt kernel of S seeds; `parameters` are the logits of its weights, (S, 7)."""

    def __init__(self, rng: Streams):
        self.parameters = Stacked([torch.zeros(len(rng.seeds), 7, dtype=rng.dtype, device=rng.device)])

    def __call__(self, pair: Relation) -> Tensor:
        s = pair.squared
        t = (s + EPS).sqrt()
        e = (s / -512).exp()  # width 16; each next one is its fourth power
        widths = [e]
        for _ in range(4):
            widths.append(widths[-1].square().square())
        m3, m5 = 3**0.5 / 10 * t, 5**0.5 / 10 * t
        parts = (
            (s / -200).exp(), sum(widths[1:], e), (pair.absolute / -100).exp(), (t / -10).exp(),
            (1 + m3) * (-m3).exp(), (1 + m5 + m5.square() / 3) * (-m5).exp(), pair.norms - t,
        )  # fmt: skip
        weights = self.parameters.leaves[0].softmax(-1)
        weights = weights.repeat(len(s) // len(weights), 1)  # a relation may hold several blocks of S seeds
        shape = (len(s),) + (1,) * (s.dim() - 1)
        return sum(w.view(shape) * part for w, part in zip(weights.unbind(1), parts, strict=True))  # type: ignore[return-value]


def mean_kernels(kernel: Kernel, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """E k(r, r'), E k(f, f') without pairs of a point and itself, and E k(r, f); (S,) each.

    Args:
        real, fake: (S, n, e), as many of one as of the other.
    """
    n = real.shape[1]
    whole = kernel(Relation(torch.cat([real, fake, real]), torch.cat([real, fake, fake])))
    own = (whole.sum((1, 2)) - whole.diagonal(dim1=1, dim2=2).sum(1)) / (n * (n - 1))
    return own[: len(real)], own[len(real) : 2 * len(real)], whole[2 * len(real) :].mean((1, 2))


def mmd_squared(kernel: Kernel, real: Tensor, fake: Tensor) -> Tensor:
    """Unbiased estimate, (S,); it may be negative."""
    rr, ff, rf = mean_kernels(kernel, real, fake)
    return rr + ff - 2 * rf


def _whole(raw: Tensor, z: Tensor) -> Tensor:
    return raw


def embedded(name: str, kernel: Kernel) -> Objective:
    """One of mmd, immd, smmd and ckmmd with that kernel.

    Raises:
        KeyError: it is none of them.
    """

    def rise(real: Tensor, fake: Tensor) -> Tensor:
        return -mmd_squared(kernel, real, fake)

    def repel(real: Tensor, fake: Tensor) -> Tensor:
        rr, ff, _ = mean_kernels(kernel, real, fake)
        return rr - ff

    def meet(real: Tensor, fake: Tensor) -> Tensor:
        return mmd_squared(kernel, real, fake)

    def paired(raw: Tensor, z: Tensor) -> Tensor:
        return kernel(Relation(z, raw, aligned=True))

    return {
        "mmd": Objective(rise, meet, head=_whole, reals=True, outputs="embedding"),
        "immd": Objective(repel, meet, head=_whole, reals=True, outputs="embedding"),
        "smmd": Objective(rise, meet, head=_whole, reals=True, outputs="embedding", scaled=True),
        "ckmmd": Objective(
            lambda real, fake: fake.mean(1) - real.mean(1), lambda real, fake: -fake.mean(1), head=paired,
            outputs="latent",
        ),
    }[name]  # fmt: skip
