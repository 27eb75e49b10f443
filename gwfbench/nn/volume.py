"""grad psi of a DenseICNN and log det of its Hessian as one node of the graph, with its gradient by hand.

Of `gwfbench/nn/icnn.py`'s formulas, with a_l = dpsi/dz_l, k_l = s''(p_l) a_l and all layers side by side (d x L w):

    c = x D,   J_l = A_l + c_l D_l + (s'_{l-1} J_{l-1}) W_l,   y = grad psi,   H = R R^T + c I + D g D^T + J k J^T

Let y' and M be the derivatives of a loss with respect to y and H; M = (dloss/dlog det) H^-1. Then dloss/dk = diag(J^T M
J), dloss/dJ_l = 2 M J_l k_l + s'_l (dloss/dJ_{l+1}) W_{l+1}^T, and the rest is the chain rule through g, a and p.

A graph of single operations takes several times as long on a CPU, most of it in reading and writing arrays of n d L w
numbers. Here that is a dozen times, by blocks of points that stay in the cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 2**17  # numbers in the Jacobians of a block of points on a CPU: 512 kB in single precision
ROWS = 256  # of a block's Jacobians, at least: fewer make slow products with a large W
DEVICE_BLOCK = 2**28  # on a GPU: 1 GB, where blocks serve to bound the memory alone


@dataclass(frozen=True)
class Form:
    """What is not learnt: width w, depth L, rank r of the units' quadratic forms, strong convexity, activation."""

    width: int
    depth: int
    rank: int
    strong: float
    smooth: bool

    def activate(self, p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """s, s' and s''."""
        if self.smooth:
            first = torch.sigmoid(p)
            return F.softplus(p), first, first * (1 - first)
        below = p.clamp_max(0.0).exp()
        return p.clamp_min(0.0) + below - 1, below, where_negative(below, p)

    def third(self, first: Tensor, second: Tensor) -> Tensor:
        """s''' from s' and s''."""
        return second * (1 - 2 * first) if self.smooth else second

    def units(self, x: Tensor) -> Tensor:
        """Sum over the forms of each unit, (..., L w r) -> (..., L w)."""
        return x if self.rank == 1 else x.unflatten(-1, (-1, self.rank)).sum(-1)

    def forms(self, x: Tensor) -> Tensor:
        """Each unit's value for each of its forms, (..., L w) -> (..., L w r)."""
        return x if self.rank == 1 else x.repeat_interleave(self.rank, -1)

    def layer(self, x: Tensor, l: int) -> Tensor:  # noqa: E741
        """The part of layer l, a view."""
        return x[..., l * self.width : (l + 1) * self.width]


def where_negative(value: Tensor, p: Tensor) -> Tensor:
    """`value` where p < 0, else 0: a tenth of the time of `torch.where`, whose kernel is not vectorised."""
    return torch.ops.aten.threshold_backward(value, -p, 0.0)


def gradient_and_log_det(
    x: Tensor, form: Form, linear: Tensor, bias: Tensor, quadratic: Tensor, out: Tensor, root: Tensor, shift: Tensor,
    *inner: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """grad psi (S, n, d) and log det of the Hessian (S, n), NaN where it is not positive definite.

    Args:
        x: (S, n, d), which gets no gradient.
        linear, bias, quadratic: A (S, d, L w), b (S, 1, L w), D (S, d, L w r).
        out, root, shift: w (S, w, 1), R (S, d, d), a (S, d, 1).
        inner: W_2 ... W_L, (S, w, w).
    """
    return _GradientAndLogDet.apply(x, form, linear, bias, quadratic, out, root, shift, *inner)


class _GradientAndLogDet(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, form: Form, linear: Tensor, bias: Tensor, quadratic: Tensor, out: Tensor, root: Tensor,
        shift: Tensor, *inner: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        seeds, n, d = x.shape
        c = x @ quadratic
        p = torch.baddbmm(bias, x, linear) + form.units(0.5 * c.square())
        z, first, second = _layers(form, p, inner)
        a = torch.empty_like(first)
        form.layer(a, form.depth - 1).copy_(out.mT.expand(seeds, n, form.width))
        for l in range(form.depth - 2, -1, -1):  # noqa: E741
            g = form.layer(a, l + 1) * form.layer(first, l + 1)
            form.layer(a, l).copy_(g @ inner[l].mT)
        g, k = a * first, a * second
        wide = form.forms(g)
        y = torch.baddbmm(shift.mT + form.strong * x, x @ root, root.mT) + g @ linear.mT + (wide * c) @ quadratic.mT
        squares = (quadratic.unsqueeze(2) * quadratic.unsqueeze(1)).flatten(1, 2)  # D_i D_j, (S, d d, L w r)
        fixed = root @ root.mT + form.strong * torch.eye(d, device=x.device, dtype=x.dtype)
        hessian = torch.baddbmm(fixed.flatten(1).unsqueeze(1), wide, squares.mT).unflatten(2, (d, d))
        size = points_a_block(x.device, d, seeds * form.width * form.depth)
        rooms = _Rooms(form, x[:, :size])
        jacobians = []
        for start in range(0, n, size):
            part = slice(start, start + size)
            jacobian = _jacobian(form, c[:, part], first[:, part], linear, quadratic, inner, rooms)
            bent = torch.mul(jacobian, k[:, part].unsqueeze(2), out=rooms.whole(jacobian))
            hessian[:, part] += bent @ jacobian.mT
            jacobians.append(jacobian)
        factor, info = torch.linalg.cholesky_ex(hessian)
        value = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        ctx.form, ctx.size, ctx.jacobians = form, size, jacobians
        ctx.save_for_backward(x, c, z, first, second, a, squares, factor, linear, quadratic, root, *inner)
        return y, torch.where(info == 0, value, torch.nan)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        form: Form = ctx.form
        x, c, z, first, second, a, squares, factor, linear, quadratic, root, *inner = ctx.saved_tensors
        along, weight = gradients
        g, k = a * first, a * second
        m = inverse_of(factor).mul_(weight[..., None, None])  # M
        flat = m.flatten(2)
        dlinear, dquadratic = torch.zeros_like(linear), torch.zeros_like(quadratic)
        dinner = [torch.zeros_like(part) for part in inner]
        dk, dfirst, dc = torch.empty_like(k), torch.zeros_like(k), torch.empty_like(c)
        rooms = _Rooms(form, x[:, : ctx.size])
        for i, jacobian in enumerate(ctx.jacobians):
            part = slice(i * ctx.size, (i + 1) * ctx.size)
            back = m[:, part] @ jacobian
            torch.sum(torch.mul(jacobian, back, out=rooms.whole(jacobian)), 2, out=dk[:, part])
            back *= (2 * k[:, part]).unsqueeze(2)  # becomes dloss/dJ
            _layers_back(form, jacobian, back, first[:, part], dfirst[:, part], inner, dinner, rooms)
            dlinear += back.sum(1)
            back = form.forms(back)
            room = rooms.whole(back)
            dquadratic += torch.mul(back, c[:, part].unsqueeze(2), out=room).sum(1)
            torch.sum(torch.mul(back, quadratic.unsqueeze(1), out=room), 2, out=dc[:, part])
        wide, turned = form.forms(g), along @ quadratic
        dg = along @ linear + form.units(turned * c + flat @ squares)
        da = torch.empty_like(a)
        for l in range(form.depth):  # noqa: E741
            if l:
                form.layer(dg, l).add_(form.layer(da, l - 1) @ inner[l - 1])
                dinner[l - 1] += form.layer(da, l - 1).mT @ form.layer(g, l)
            torch.addcmul(
                form.layer(dk, l) * form.layer(second, l),
                form.layer(dg, l),
                form.layer(first, l),
                out=form.layer(da, l),
            )
        dp = dfirst.addcmul_(dg, a).mul_(second).addcmul_(dk * a, form.third(first, second))
        for l in range(form.depth - 2, -1, -1):  # noqa: E741
            above = form.layer(dp, l + 1)
            dinner[l] += form.layer(z, l).mT @ above
            form.layer(dp, l).addcmul_(above @ inner[l].mT, form.layer(first, l))
        dc.addcmul_(form.forms(dp), c).addcmul_(turned, wide)
        dlinear += along.mT @ g + x.mT @ dp
        dquadratic += along.mT @ (wide * c) + x.mT @ dc
        outer = (flat.mT @ wide).unflatten(1, root.shape[1:])  # sum of g M, (S, d, d, L w r)
        dquadratic += 2 * (outer * quadratic.unsqueeze(1)).sum(2)
        pairs = along.mT @ x
        droot = (pairs + pairs.mT + 2 * m.sum(1)) @ root
        dout = form.layer(da, form.depth - 1).sum(1).unsqueeze(-1)
        return (
            None,
            None,
            dlinear,
            dp.sum(1, keepdim=True),
            dquadratic,
            dout,
            droot,
            along.sum(1).unsqueeze(-1),
            *dinner,
        )


def _layers(form: Form, p: Tensor, inner: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """z, s' and s'' of all layers, from p without the layers below, which are added to it in place."""
    if form.depth == 1:
        return form.activate(p)
    parts = []
    for l in range(form.depth):  # noqa: E741
        own = form.layer(p, l)
        parts.append(form.activate(own if l == 0 else torch.baddbmm(own, parts[-1][0], inner[l - 1])))
    z, first, second = (torch.cat(each, -1) for each in zip(*parts, strict=True))
    return z, first, second


def _layers_back(
    form: Form, jacobian: Tensor, back: Tensor, first: Tensor, dfirst: Tensor, inner: list[Tensor],
    dinner: list[Tensor], rooms: _Rooms,
) -> None:  # fmt: skip
    """Through the layers of the Jacobian at a block of points: `back` becomes the whole dloss/dJ, in place.

    Fills dloss/ds' of all layers but the last, and adds to dloss/dW.
    """
    for l in range(form.depth - 1, 0, -1):  # noqa: E741
        below, slope = form.layer(jacobian, l - 1), form.layer(first, l - 1).unsqueeze(2)
        own = form.layer(back, l).flatten(1, 2)
        came = (own @ inner[l - 1].mT).unflatten(1, below.shape[1:3])
        room = rooms.layer(below)
        dinner[l - 1].baddbmm_(torch.mul(below, slope, out=room).flatten(1, 2).mT, own)
        form.layer(dfirst, l - 1).copy_(torch.mul(came, below, out=room).sum(2))
        form.layer(back, l - 1).addcmul_(came, slope)


def inverse_of(factor: Tensor) -> Tensor:
    """(F F^T)^-1 of lower triangular F, (..., d, d).

    `torch.cholesky_inverse` takes as long on a CPU, and on a GPU may go through the matrices one by one.
    """
    eye = torch.eye(factor.shape[-1], device=factor.device, dtype=factor.dtype)
    inverse = torch.linalg.solve_triangular(factor, eye.expand_as(factor), upper=False)
    return inverse.mT @ inverse


def points_a_block(device: torch.device, d: int, width: int) -> int:
    """Points whose Jacobians, of d rows and that width for all seeds together, are worked on at once."""
    if device.type != "cpu":
        return max(1, DEVICE_BLOCK // (d * width))
    return max(1, BLOCK // (d * width), ROWS // d)


class _Rooms:
    """Room for what is needed for a moment, at the points of a block."""

    def __init__(self, form: Form, x: Tensor):
        (seeds, n, d), wide = x.shape, form.width * form.depth * form.rank
        self._whole, self._layer = x.new_empty(seeds, n, d, wide), x.new_empty(seeds, n, d, form.width)

    def whole(self, like: Tensor) -> Tensor:
        """Of that shape, all layers side by side."""
        return self._whole[:, : like.shape[1], :, : like.shape[-1]]

    def layer(self, like: Tensor) -> Tensor:
        """Of that shape, one layer's."""
        return self._layer[:, : like.shape[1]]


def _jacobian(
    form: Form, c: Tensor, first: Tensor, linear: Tensor, quadratic: Tensor, inner: tuple[Tensor, ...], rooms: _Rooms
) -> Tensor:
    """dp/dx of all layers at a block of points, (S, n, d, L w)."""
    if form.rank == 1:
        jacobian = torch.addcmul(linear.unsqueeze(1), c.unsqueeze(2), quadratic.unsqueeze(1))
    else:
        jacobian = linear.unsqueeze(1) + form.units(c.unsqueeze(2) * quadratic.unsqueeze(1))
    for l in range(1, form.depth):  # noqa: E741
        below = form.layer(jacobian, l - 1)
        scaled = torch.mul(below, form.layer(first, l - 1).unsqueeze(2), out=rooms.layer(below))
        form.layer(jacobian, l).flatten(1, 2).baddbmm_(scaled.flatten(1, 2), inner[l - 1])
    return jacobian
