"""Objectives of adversarial flows whose critic embeds points, and the kernels that compare embeddings.

With MMD^2(q, p) = E k(f, f') + E k(r, r') - 2 E k(f, r), f = D(x) for x of q, r = D(y) for y of p (unbiased: no pair of
a point with itself), the critic descends and the generator descends

    mmd     -MMD^2                                MMD^2                  Li et al. 2017
    immd    E k(r, r') - E k(f, f')               MMD^2                  Wang, Sun and Halgamuge 2019, repulsive
    smmd    -s MMD^2                            s MMD^2              Arbel et al. 2018; 1/s = 1 + 10 E_p |grad D|^2
    ckmmd   E k(z, D(G(z))) - E k(z, D(y))        -E k(z, D(G(z)))       z the latent points, as many coordinates as D

(Caucheteux et al. 2026, their code.) ckmmd is no divergence: it couples z to G(z) but not to y, so that its supremum is
above 0 even at q = p, where a D that lowers k(z, D) along G's own coupling gains. A kernel is a function of a
`Relation` of points. Fixed ones, with s = |x - y|^2:

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
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gwfbench.nn.stacked import Stacked
from gwfbench.objectives.adversarial import Objective
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
        weights = self.parameters.leaves[0].softmax(-1)
        out = _Mixed.apply(*(part.flatten(1) for part in (s, pair.absolute, pair.norms)), weights)
        return out.view(s.shape)  # type: ignore[union-attr]


class _Mixed(torch.autograd.Function):
    """The mixture and its slopes by hand: autograd's own take five times as long.

    s, absolute, norms (B, pairs) and weights (B, 7) -> (B, pairs).
    """

    @staticmethod
    def forward(ctx: Any, s: Tensor, absolute: Tensor, norms: Tensor, weights: Tensor) -> Tensor:
        parts = s.new_empty(len(s), 7, s.shape[1])
        w = weights.unbind(1)
        rbf, widths, taxi, exponential, matern3, matern5, riesz = parts.unbind(1)
        inverse = (s + EPS).rsqrt_()
        t = (s + EPS).mul_(inverse)
        torch.exp(s / -200, out=rbf)
        slope = rbf * (w[0] / -200)[:, None]
        e = (s / -512).exp_()  # width 16; each next one is its fourth power
        widths.copy_(e)
        sharp = e.clone()
        for power in (4.0, 16.0, 64.0, 256.0):
            e.square_().square_()
            widths.add_(e)
            sharp.add_(e, alpha=power)
        slope.addcmul_(sharp, (w[1] / -512)[:, None])
        torch.exp(absolute / -100, out=taxi)
        torch.exp(t / -10, out=exponential)
        by_t = exponential * (w[3] / -20)[:, None] - (w[6] / 2)[:, None]  # half the slope in t
        slope.addcmul_(by_t, inverse)
        u = t * (3**0.5 / 10)
        e = (-u).exp_()
        torch.mul(u.add_(1), e, out=matern3)
        slope.addcmul_(e, (w[4] * -0.015)[:, None])
        u = t * (5**0.5 / 10)
        e = (-u).exp_()
        torch.addcmul(e, u, e, out=matern5)  # (1 + u) e^-u
        slope.addcmul_(matern5, (w[5] / -120)[:, None])
        matern5.addcmul_(u.square_(), e, value=1 / 3)
        torch.sub(norms, t, out=riesz)
        ctx.save_for_backward(parts, slope, weights)
        return torch.bmm(weights[:, None], parts)[:, 0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # type: ignore[override]
        parts, slope, weights = ctx.saved_tensors
        taxi = (parts[:, 2] * grad).mul_((weights[:, 2] / -100)[:, None])
        return slope * grad, taxi, grad * weights[:, 6:], torch.bmm(parts, grad[..., None])[..., 0]


def mean_kernels(kernel: Kernel, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """E k(r, r'), E k(f, f') without pairs of a point and itself, and E k(r, f); (S,) each.

    Args:
        real, fake: (S, n, e), as many of one as of the other.
    """
    n = real.shape[1]
    own = (kernel(Relation(x, x)) for x in (real, fake))  # a block at a time: it stays in the cache
    rr, ff = ((k.sum((1, 2)) - k.diagonal(dim1=1, dim2=2).sum(1)) / (n * (n - 1)) for k in own)
    return rr, ff, kernel(Relation(real, fake)).mean((1, 2))


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
