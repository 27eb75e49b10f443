"""Input-convex networks with their gradient, Hessian and inverse gradient in closed form.

DenseICNN (Korotin et al. 2021; Mokrov et al. 2021): l = 1 ... L layers of w units, every unit with a convex quadratic
of the input next to its linear part,

    p_l = z_{l-1} W_l + (1/2) sum_r (x . D_lr)^2 + x A_l + b_l,   z_l = s(p_l),   z_0 = 0
    psi(x) = z_L . w + (1/2) |x R|^2 + (c/2) |x|^2 + x . a

W_l and w are >= 0 and s is convex and non-decreasing, so psi is convex, and c-strongly so. The quadratic |x R|^2 is
ours: R starts at (1 - c)^(1/2) I and w near 0, so that grad psi starts near the identity without training, and every
affine map with a symmetric positive definite matrix >= c is in reach exactly.

Weights that must not be negative are softplus of free ones: no projection after a step, so that the optimiser's moments
stay true, and no unit ever dies at 0.

With g_l = dpsi/dp_l and J_l = dp_l/dx, the gradient is sum_l (direct part of J_l)^T g_l and the Hessian

    H = sum_l [ J_l^T diag(s''(p_l) dpsi/dz_l) J_l + sum_rj g_lj D_lrj D_lrj^T ] + R R^T + c I,

O(w d^2) per point and layer, where an automatic Hessian takes d backward passes; H v alone is O(w d).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from gwfbench.nn.stacked import Stacked, linear_init
from gwfbench.nn.volume import Form, gradient_and_log_det, inverse_of
from gwfbench.rng import Streams


class DenseICNN:
    """S convex functions on R^d, and the maps that are their gradients.

    Args:
        d: dimension of the input.
        width, depth: units a layer, and layers.
        rng: draws the initial weights.
        rank: of the quadratic form of each unit.
        strong: c > 0, the strong convexity; below 1.
        smooth: False: s = CELU, as in the papers; True: softplus, whose second derivative is continuous.
    """

    def __init__(
        self, d: int, width: int, depth: int, rng: Streams, rank: int = 1, strong: float = 0.1, smooth: bool = False
    ):
        if not 0 < strong < 1 or min(d, width, depth, rank) < 1:
            raise ValueError(f"strong = {strong}, expected in (0, 1); d, width, depth and rank at least 1")
        self._d, self.form = d, Form(width, depth, rank, strong, smooth)
        tensors: list[Tensor] = []
        for layer in range(depth):
            tensors += linear_init(rng, d, width)
            tensors.append(linear_init(rng, d, width * rank)[0])
            if layer:
                tensors.append(_free(2 * rng.uniform(width, width) / width))
        eye = torch.eye(d, device=rng.device, dtype=rng.dtype).expand(len(rng.seeds), d, d)
        tensors += [_free(0.02 * rng.uniform(width, 1) / width), (1 - strong) ** 0.5 * eye, 0.0 * eye[..., :1]]
        self.parameters = Stacked(tensors)
        self._ends = [part.clone() for part in tensors[-3:]]

    def to_identity(self) -> None:
        """Set w, R and a to their start, from which grad psi is near the identity whatever the rest is."""
        with torch.no_grad():
            for part, end in zip(self.parameters.leaves[-3:], self._ends, strict=True):
                part.copy_(end)

    def copy(self) -> DenseICNN:
        """The same functions with parameters of their own, which later training of these leaves alone."""
        made = copy.copy(self)
        made.parameters = Stacked([leaf.detach() for leaf in self.parameters.leaves])
        return made

    def __call__(self, x: Tensor, frozen: bool = False) -> Tensor:
        """grad psi at x, (S, n, d); `frozen` cuts the parameters from the gradient."""
        w = self._weights(frozen)
        return self._gradient(x, self._passes(x, w), w)

    def potential(self, x: Tensor) -> Tensor:
        """psi at x, (S, n)."""
        w = self._weights(False)
        quadratic = (x @ w.root).square().sum(-1) + self.form.strong * x.square().sum(-1)
        return (self._forward(x, w)[-1][0] @ w.out).squeeze(-1) + 0.5 * quadratic + (x @ w.shift).squeeze(-1)

    def with_hessian(self, x: Tensor, frozen: bool = False) -> tuple[Tensor, Tensor]:
        """grad psi (S, n, d) and its Jacobian, the Hessian of psi (S, n, d, d)."""
        w = self._weights(frozen)
        passes = self._passes(x, w)
        hessian = (
            w.root @ w.root.mT + self.form.strong * torch.eye(self._d, device=x.device, dtype=x.dtype)
        ).unsqueeze(1)
        before = None
        for layer, one in zip(w.layers, passes, strict=True):
            form = layer.quadratic.unsqueeze(1)
            along = (x @ layer.quadratic).unsqueeze(-2) * form  # (S, n, d, w r)
            jacobian = layer.linear.unsqueeze(1) + self.form.units(along)  # dp/dx, (S, n, d, w): one product, not n
            if layer.inner is not None and before is not None:
                jacobian = jacobian + _product(before, layer.inner)
            before = one.first.unsqueeze(-2) * jacobian
            hessian = hessian + _product(self.form.forms(one.g).unsqueeze(-2) * form, layer.quadratic.mT)
            hessian = hessian + (jacobian * one.curvature.unsqueeze(-2)) @ jacobian.mT
        return self._gradient(x, passes, w), hessian

    def product(self, x: Tensor, v: Tensor, frozen: bool = False) -> Tensor:
        """The Hessian of psi at x times v, (S, n, d)."""
        return self.linearised(x, frozen)[1](v)

    def linearised(self, x: Tensor, frozen: bool = False) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """grad psi at x (S, n, d), and v -> the Hessian there times v: what does not depend on v is done once."""
        w = self._weights(frozen)
        passes = self._passes(x, w)
        return self._gradient(x, passes, w), lambda v: self._product(x, v, passes, w)

    def _product(self, x: Tensor, v: Tensor, passes: list[_Pass], w: _Weights) -> Tensor:
        """The derivative of the gradient's formula along v."""
        moved: list[Tensor] = []  # dp/dx v of each layer
        before = None
        for layer, one in zip(w.layers, passes, strict=True):
            p = v @ layer.linear + self.form.units((x @ layer.quadratic) * (v @ layer.quadratic))
            if layer.inner is not None and before is not None:
                p = p + before @ layer.inner
            before = one.first * p
            moved.append(p)
        found = self.form.strong * v + (v @ w.root) @ w.root.mT
        adjoint = None  # of z, its derivative along v
        for layer, one, p in zip(reversed(w.layers), reversed(passes), reversed(moved), strict=True):
            g = one.curvature * p if adjoint is None else one.curvature * p + adjoint * one.first
            both = self.form.forms(g) * (x @ layer.quadratic) + self.form.forms(one.g) * (v @ layer.quadratic)
            found = found + g @ layer.linear.mT + both @ layer.quadratic.mT
            adjoint = None if layer.inner is None else g @ layer.inner.mT
        return found

    def with_log_det(self, x: Tensor, frozen: bool = False) -> tuple[Tensor, Tensor]:
        """grad psi (S, n, d) and log det of its Jacobian (S, n), several times as fast as by `with_hessian`.

        Differentiable once, in the parameters; an x that requires a gradient takes the longer way.
        """
        if x.requires_grad:
            image, hessian = self.with_hessian(x, frozen)
            return image, log_det(hessian)
        w = self._weights(frozen)
        linear, bias, quadratic = (
            torch.cat([getattr(layer, name) for layer in w.layers], -1) for name in ("linear", "bias", "quadratic")
        )
        inner = [layer.inner for layer in w.layers if layer.inner is not None]
        return gradient_and_log_det(x, self.form, linear, bias, quadratic, w.out, w.root, w.shift, *inner)

    def log_det(self, x: Tensor, frozen: bool = False) -> Tensor:
        """log det of the Hessian of psi, which is log |det grad T| of the map T = grad psi; (S, n)."""
        return self.with_log_det(x, frozen)[1]

    def inverse(self, y: Tensor, tolerance: float = 1e-7, most: int = 100) -> Tensor:
        """The x with grad psi(x) = y, by Newton's method with a line search on psi(x) - x . y, which is convex.

        Args:
            tolerance: largest |grad psi(x) - y| of a coordinate, on the scale of y; at least rounding error.
            most: Newton steps.

        Raises:
            ArithmeticError: some points have not converged.
        """
        with torch.no_grad():
            goal = max(tolerance, 50 * torch.finfo(y.dtype).eps) * max(1.0, float(y.abs().max()))
            x = y.clone()
            for _ in range(most):
                image, hessian = self.with_hessian(x, True)
                gap = image - y
                if float(gap.abs().max()) <= goal:
                    return x
                x = self._newton(x, y, gap, torch.linalg.solve(hessian, gap.unsqueeze(-1)).squeeze(-1))
        worst = float((self(x, True) - y).abs().max())
        raise ArithmeticError(f"inverse of grad psi: {worst:.2g} off after {most} Newton steps, expected {goal:.2g}")

    def _newton(self, x: Tensor, y: Tensor, gap: Tensor, direction: Tensor) -> Tensor:
        """One damped step per point: halve until the residual shrinks (it does for a short enough step)."""
        size = gap.norm(dim=-1, keepdim=True)
        rate = torch.ones_like(size)
        for _ in range(30):
            moved = x - rate * direction
            worse = (self(moved, True) - y).norm(dim=-1, keepdim=True) > (1 - 1e-4 * rate) * size
            if not worse.any():
                break
            rate = torch.where(worse, rate / 2, rate)
        return x - rate * direction

    # ------------------------------------------------------------------------------------------------ passes

    def _weights(self, frozen: bool) -> _Weights:
        leaves = [leaf.detach() for leaf in self.parameters.leaves] if frozen else self.parameters.leaves
        parts = iter(leaves)
        layers = [
            _Layer(next(parts), next(parts), next(parts), F.softplus(next(parts)) if layer else None)
            for layer in range(self.form.depth)
        ]
        return _Weights(layers, F.softplus(next(parts)), next(parts), next(parts))

    def _forward(self, x: Tensor, w: _Weights) -> list[tuple[Tensor, Tensor, Tensor]]:
        """z, s'(p) and s''(p) of each layer."""
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for layer in w.layers:
            p = torch.baddbmm(layer.bias, x, layer.linear) + 0.5 * self.form.units((x @ layer.quadratic).square())
            found.append(self.form.activate(p if layer.inner is None else torch.baddbmm(p, found[-1][0], layer.inner)))
        return found

    def _passes(self, x: Tensor, w: _Weights) -> list[_Pass]:
        adjoint = w.out.mT.expand(len(x), x.shape[1], self.form.width)
        passes = []
        for (_, first, second), layer in zip(reversed(self._forward(x, w)), reversed(w.layers), strict=True):
            passes.append(_Pass(first, adjoint * second, adjoint * first))
            if layer.inner is not None:
                adjoint = passes[-1].g @ layer.inner.mT
        return passes[::-1]

    def _gradient(self, x: Tensor, passes: list[_Pass], w: _Weights) -> Tensor:
        found = torch.baddbmm(w.shift.mT + self.form.strong * x, x @ w.root, w.root.mT)
        for layer, one in zip(w.layers, passes, strict=True):
            found = found + one.g @ layer.linear.mT
            found = found + (self.form.forms(one.g) * (x @ layer.quadratic)) @ layer.quadratic.mT
        return found


@dataclass(frozen=True)
class _Layer:
    linear: Tensor  # A (S, d, w)
    bias: Tensor  # b (S, 1, w)
    quadratic: Tensor  # D (S, d, w r)
    inner: Tensor | None  # W >= 0 (S, w, w)


@dataclass(frozen=True)
class _Weights:
    layers: list[_Layer]
    out: Tensor  # w >= 0 (S, w, 1)
    root: Tensor  # R (S, d, d)
    shift: Tensor  # a (S, d, 1)


@dataclass(frozen=True)
class _Pass:
    """Of one layer at each point, (S, n, w)."""

    first: Tensor  # s'(p)
    curvature: Tensor  # s''(p) dpsi/dz
    g: Tensor  # dpsi/dp


def _product(x: Tensor, matrix: Tensor) -> Tensor:
    """(S, n, d, w) times (S, w, v) as one matrix product per seed."""
    return (x.flatten(1, 2) @ matrix).unflatten(1, x.shape[1:3])


class _LogDet(torch.autograd.Function):
    """log det, whose gradient is the inverse: PyTorch's own goes through the gradient of the Cholesky factor."""

    @staticmethod
    def forward(ctx: Any, hessian: Tensor) -> Tensor:
        root, info = torch.linalg.cholesky_ex(hessian)
        value = 2 * root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        ctx.save_for_backward(inverse_of(root))
        return torch.where(info == 0, value, torch.full_like(value, torch.nan))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return gradients[0][..., None, None] * ctx.saved_tensors[0]


def log_det(hessian: Tensor) -> Tensor:
    """log det of symmetric positive definite matrices (..., d, d); NaN for one that is not. Differentiable once."""
    return _LogDet.apply(hessian)


def _free(weights: Tensor) -> Tensor:
    """What softplus takes to these positive weights."""
    return weights.clamp_min(1e-6).expm1().log()
