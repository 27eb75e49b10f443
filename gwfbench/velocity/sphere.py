"""The unit sphere: exponential and logarithm maps, and mean shifts along it.

    exp_x(v) = cos|v| x + sin|v| v / |v|,    log_x(y) = angle / sin(angle) (y - cos(angle) x),   angle = arccos(x . y)
    k(x, y) = exp(-angle^2 / 2 h^2),         grad_x log E k(x, y) = E[k log_x(y)] / (h^2 E k)

A point's antipode has no logarithm and k has a kink there, of size e^{-(pi / h)^2 / 2}; there log_x(y) is 0 here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gwfbench.velocity.blocks import as_number
from gwfbench.velocity.pairs import LEAST, squares

ANTIPODE = 1e-3  # least sin(angle) / angle: within 0.2 degrees of the antipode the logarithm falls to 0


def project(x: Tensor) -> Tensor:
    """The nearest point of the sphere, (S, n, d)."""
    return torch.nn.functional.normalize(x, dim=-1)


def tangent(x: Tensor, v: Tensor) -> Tensor:
    """The part of v that is orthogonal to x, |x| = 1."""
    return v - (v * x).sum(-1, keepdim=True) * x


def exponential(x: Tensor, v: Tensor) -> Tensor:
    """exp_x(v), v tangent at x, |x| = 1."""
    length = v.norm(dim=-1, keepdim=True)
    return project(length.cos() * x + _sine_ratio(length) * v)


def logarithm(x: Tensor, y: Tensor) -> Tensor:
    """log_x(y), row by row, |x| = |y| = 1: tangent at x, its length the angle."""
    angle = _angle((x - y).square().sum(-1, keepdim=True))
    return tangent(x, y) / _sine_ratio(angle).clamp_min(ANTIPODE)


def geodesic_shift(x: Tensor, y: Tensor, h: Tensor | float) -> tuple[Tensor, Tensor]:
    """E[k log_x(y)] / E[k] over the points y, and log E[k]: (S, n, d), tangent at x, and (S, n, 1)."""
    shifts, masses = [], []
    for at, values in squares(x, y):
        angle = _angle(values)
        ratio = _sine_ratio(angle)
        logs = angle.square_().mul_(-0.5 / as_number(h, x).square())
        largest = logs.amax(-1, keepdim=True)
        k = logs.sub_(largest).clamp_min_(LEAST).exp_()
        mass = k.sum(-1, keepdim=True)
        pull = k.div_(ratio.clamp_min_(ANTIPODE)) @ y
        shifts.append(tangent(x[:, at], pull / mass))
        masses.append((mass / y.shape[1]).log() + largest)
    return torch.cat(shifts, 1), torch.cat(masses, 1)


def _angle(square: Tensor) -> Tensor:
    """From the squared chord, which it overwrites; better than arccos(x . y) near 0."""
    return square.clamp_(0, 4).sqrt_().mul_(0.5).asin_().mul_(2)


def _sine_ratio(angle: Tensor) -> Tensor:
    """sin(angle) / angle, 1 at 0, where the angle is raised to 1e-12 in place; torch.sinc takes ten times as long."""
    return angle.clamp_min_(1e-12).sin().div_(angle)
