"""A DenseICNN's map grad psi with its gradient written out, on buffers that are made once.

With t = dloss/dT, the parameters' gradient of the loss is that of psi's derivative along t, sum over points of

    phi = zdot_L . w + (x R) . (t R) + c x . t + t . a,   pdot_l = t A_l + sum_r (x D_lr)(t D_lr) + zdot_{l-1} W_l,
    zdot_l = s'(p_l) pdot_l   (formulas and names: nn/icnn.py).

Its adjoint of pdot_l is g_l = dpsi/dp_l, which the map has, and that of p_l is

    q_l = s''(p_l) a_l pdot_l + s'(p_l) q_{l+1} W_{l+1}^T,   a_l = dpsi/dz_l,   q_{L+1} = 0.

Each gradient of a matrix is then one product of twice as many points: (x, t) with (q, g), (z, zdot) with (q, g).
CELU's s'' is e^p below 0, and 0 above and at 0.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gwfbench.nn.icnn import DenseICNN
from gwfbench.nn.mlp_by_hand import Gradient, affine, inner, product
from gwfbench.nn.volume import Form

_softplus = torch.ops.aten.softplus.out
_threshold_backward = torch.ops.aten.threshold_backward.grad_input


class ByHand:
    """A `DenseICNN` trained by hand at n points, as nn/mlp_by_hand.py says."""

    def __init__(self, net: DenseICNN, n: int):
        leaves = [leaf.detach() for leaf in net.parameters.leaves]
        made, form = leaves[-2], net.form
        self._gradients = Gradient(net.parameters)
        found = self._gradients.leaves
        self._form, self._n = form, n

        def buffer(points: int, width: int) -> Tensor:
            return inner(torch.zeros(len(made), points, width, device=made.device, dtype=made.dtype))

        d = made.shape[1]
        self._both = buffer(2 * n, d)  # x, then t
        self._x, self._t = _halves(self._both, n)
        self._layers: list[_Layer] = []
        at = 0
        for layer in range(form.depth):
            count = 4 if layer else 3
            below = self._layers[-1] if layer else None
            self._layers.append(
                _Layer(form, self._both, below, leaves[at : at + count], found[at : at + count], buffer)
            )
            at += count
        self._out = _Positive(leaves[-3].mT, found[-3].mT)
        self._root, self._shift = inner(leaves[-2]), inner(leaves[-1].mT)
        self._droot, self._dshift = inner(found[-2]), inner(found[-1].mT)
        self._turned = buffer(2 * n, d)  # t R, then x R
        self._whole = torch.zeros(len(made), n, d, device=made.device, dtype=made.dtype)
        self._image = inner(self._whole)

    def image(self, x: Tensor) -> Tensor:
        self._x.copy_(inner(x))
        for layer in self._layers:
            layer.forward()
        adjoint = self._out.value()
        turned = product(self._x, self._root, _halves(self._turned, self._n)[1])
        affine(self._shift, turned, self._root.mT, self._image).add_(self._x, alpha=self._form.strong)
        for layer in reversed(self._layers):
            adjoint = layer.adjoint(adjoint, self._image)
        return self._whole

    def gradient(self, slope: Tensor) -> Tensor:
        self._t.copy_(inner(slope))
        for layer in self._layers:
            layer.along()
        torch.sum(self._layers[-1].zdot, -2, keepdim=True, out=self._out.gradient)
        self._out.chain()
        product(self._t, self._root, _halves(self._turned, self._n)[0])
        product(self._both.mT, self._turned, self._droot)
        torch.sum(self._t, -2, keepdim=True, out=self._dshift)
        back = None
        for layer in reversed(self._layers):
            back = layer.backward(back)
        return self._gradients.flat


class _Positive:
    """Weights that are softplus of free ones, in a buffer, and the free ones' gradient."""

    def __init__(self, free: Tensor, gradient: Tensor):
        self._free, self.gradient = inner(free), inner(gradient)
        self.weights, self._slope = torch.empty_like(self._free), torch.empty_like(self._free)

    def value(self) -> Tensor:
        return _softplus(self._free, 1, 20, out=self.weights)

    def chain(self) -> None:
        """Turn the gradient of the weights into that of the free ones, in place."""
        self.gradient.mul_(torch.sigmoid(self._free, out=self._slope))


class _Layer:
    """One layer's buffers at the points.

    Args:
        both: x, then t.
        below: the layer below, if there is one.
        leaves, gradients: A, b, D, and W where there is a layer below.
        buffer: makes one, of so many points and numbers per point.
    """

    def __init__(
        self, form: Form, both: Tensor, below: _Layer | None, leaves: list[Tensor], gradients: list[Tensor],
        buffer: Callable[[int, int], Tensor],
    ):  # fmt: skip
        n, width, wide = both.shape[-2] // 2, form.width, form.width * form.rank
        self._form, self._both, self._below = form, both, below
        self._x, self._t = _halves(both, n)
        self._linear, self._bias, self._quadratic = (inner(leaf) for leaf in leaves[:3])
        self._dlinear, self._dbias, self._dquadratic = (inner(leaf) for leaf in gradients[:3])
        self.inner = _Positive(leaves[3], gradients[3]) if below else None
        self._c, self._e, self._products = buffer(n, wide), buffer(n, wide), buffer(n, wide)  # x D, t D
        self._p, self._first, self._scratch = buffer(n, width), buffer(n, width), buffer(n, width)
        self._pdot, self._adjoint = buffer(n, width), buffer(n, width)
        self._a = self._adjoint  # dpsi/dz; of the last layer the same at all points
        self._values = buffer(2 * n, width)  # z, then zdot
        self._adjoints = buffer(2 * n, width)  # q, then g
        self._wide = buffer(2 * n, wide)  # of x D: q c + g e, then of t D: g c
        self.z, self.zdot = _halves(self._values, n)
        self._q, self._g = _halves(self._adjoints, n)
        self._dc, self._de = _halves(self._wide, n)

    def forward(self) -> None:
        """z and s'."""
        affine(self._bias, self._x, self._linear, self._p)
        product(self._x, self._quadratic, self._c)
        self._add_units(self._p, self._c, self._c, 0.5)
        if self.inner is not None and self._below is not None:
            affine(self._p, self._below.z, self.inner.value(), self._p)
        if self._form.smooth:
            torch.sigmoid(self._p, out=self._first)
            _softplus(self._p, 1, 20, out=self.z)
        else:
            torch.clamp_max(self._p, 0.0, out=self._first).exp_()
            torch.clamp_min(self._p, 0.0, out=self.z).add_(self._first).sub_(1)

    def adjoint(self, a: Tensor, image: Tensor) -> Tensor:
        """Add this layer's part of grad psi to the image, given dpsi/dz; returns that of the layer below."""
        self._a = a
        torch.mul(a, self._first, out=self._g)
        torch.mul(self._forms(self._c), self._g.unsqueeze(-1), out=self._forms(self._de))
        affine(image, self._g, self._linear.mT, image)
        affine(image, self._de, self._quadratic.mT, image)
        if self.inner is None or self._below is None:
            return a
        return product(self._g, self.inner.weights.mT, self._below._adjoint)

    def along(self) -> None:
        """pdot and zdot."""
        product(self._t, self._linear, self._pdot)
        product(self._t, self._quadratic, self._e)
        self._add_units(self._pdot, self._c, self._e, 1.0)
        if self.inner is not None and self._below is not None:
            affine(self._pdot, self._below.zdot, self.inner.weights, self._pdot)
        torch.mul(self._first, self._pdot, out=self.zdot)

    def backward(self, back: Tensor | None) -> Tensor | None:
        """The gradients of this layer's parameters, given q of the layer above times its W^T; returns its own."""
        if self._form.smooth:
            torch.addcmul(self._first, self._first, self._first, value=-1, out=self._q)
        else:
            _threshold_backward(self._first, torch.neg(self._p, out=self._q), 0.0, grad_input=self._q)
        self._q.mul_(self._a).mul_(self._pdot)
        if back is not None:
            self._q.addcmul_(back, self._first)
        product(self._both.mT, self._adjoints, self._dlinear)
        torch.sum(self._q, -2, keepdim=True, out=self._dbias)
        q, g, dc = self._q.unsqueeze(-1), self._g.unsqueeze(-1), self._forms(self._dc)
        torch.mul(self._forms(self._c), q, out=dc).addcmul_(self._forms(self._e), g)
        product(self._both.mT, self._wide, self._dquadratic)
        if self.inner is None or self._below is None:
            return None
        product(self._below._values.mT, self._adjoints, self.inner.gradient)
        self.inner.chain()
        return product(self._q, self.inner.weights.mT, self._below._scratch)

    def _forms(self, x: Tensor) -> Tensor:
        """The same numbers with an axis of each unit's forms."""
        return x.unflatten(-1, (self._form.width, self._form.rank))

    def _add_units(self, total: Tensor, x: Tensor, y: Tensor, factor: float) -> None:
        """Add factor times the sum of x y over the forms of each unit."""
        if self._form.rank == 1:
            total.addcmul_(x, y, value=factor)
        else:
            torch.sum(self._forms(torch.mul(x, y, out=self._products)), -1, out=self._scratch)
            total.add_(self._scratch, alpha=factor)


def _halves(x: Tensor, n: int) -> tuple[Tensor, Tensor]:
    return x[..., :n, :], x[..., n:, :]
