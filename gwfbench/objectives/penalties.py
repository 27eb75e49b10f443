"""Gradient penalties of critics, and the critic at both laws in as few passes as they allow.

g(x) is the gradient at x of the *sum* of the critic's outputs, not a Jacobian's norm; no factor 1/2 except for r3gan's:

    real           E |g(y)|^2 at real points                     R1; Mescheder et al. 2018, with half this weight
    interpolated   E |g(u y + (1 - u) x)|^2, u ~ U[0, 1]         centred at 0; Caucheteux et al. 2026, their code
    wgan           E (|g(u y + (1 - u) x)| - 1)^2                Gulrajani et al. 2017
    r3gan          half of real's and half of the same at generated points, g of the *mean* output; Huang et al. 2024

S-JKO's lambda is twice the weight of `real` here: it has lambda/2 before the square (Choi et al. 2024).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from gwfbench.info import Field
from gwfbench.rng import Streams

Penalty = Literal["none", "real", "interpolated", "wgan", "r3gan"]


def at_both(
    critic: Field, real: Tensor, fake: Tensor, penalty: Penalty, mix: Callable[[], Tensor]
) -> tuple[Tensor, Tensor, Tensor | float]:
    """The critic's outputs at real and at generated points, (S, n, outputs) each, and the penalty, (S,) or 0.

    Args:
        real, fake: (S, n, ...), as many of one as of the other.
        mix: draws u, uniform on [0, 1), (S, n).
    """
    n = real.shape[1]
    if penalty == "real":
        outputs, g = _sloped(critic, real)
        return outputs, critic(fake), g.square().sum(-1).mean(1)
    if penalty == "r3gan":
        outputs, g = _sloped(critic, torch.cat([real, fake], 1))
        return outputs[:, :n], outputs[:, n:], (g / outputs.shape[-1]).square().sum(-1).mean(1)  # a mean over 2n
    outputs = critic(torch.cat([real, fake], 1))
    total: Tensor | float = 0.0
    if penalty != "none":
        u = mix().reshape(real.shape[:2] + (1,) * (real.dim() - 2))
        _, g = _sloped(critic, torch.lerp(fake, real, u))
        square = g.square().sum(-1)
        total = square.mean(1) if penalty == "interpolated" else ((square + 1e-12).sqrt() - 1).square().mean(1)
    return outputs[:, :n], outputs[:, n:], total


def _sloped(critic: Field, points: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs at the points, and the gradient g of their sum there, (S, n, d), both differentiable."""
    leaf = points.detach().requires_grad_()
    outputs = critic(leaf)
    (g,) = torch.autograd.grad(outputs.sum(), leaf, create_graph=True)
    return outputs, g.flatten(2)


def jacobian_norm(critic: Field, points: Tensor, rng: Streams) -> Tensor:
    """E |grad D|^2, squared Frobenius norms of Jacobians, with one random direction per point: unbiased; (S,)."""
    leaf = points.detach().requires_grad_()
    outputs = critic(leaf)
    signs = 2 * rng.integers(2, *outputs.shape[1:]).to(outputs) - 1
    (g,) = torch.autograd.grad((outputs * signs).sum(), leaf, create_graph=True)
    return g.flatten(2).square().sum(-1).mean(1)
