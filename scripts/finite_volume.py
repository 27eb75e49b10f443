"""Densities of Wasserstein gradient flows on a grid: a finite-volume scheme that keeps mass, sign and energy decrease.

    rho_t = div(rho grad xi),   xi = H'(rho) + V + W * rho,   H(rho) = weight / (m - 1) rho^m,   no flux at the walls

Carrillo, Chertock and Huang (2015, equations 2.3-2.8 and 3.2): on each face the velocity u = -(xi_right - xi_left) / h
carries the upwind of the two densities reconstructed at the face (piecewise linear, minmod-limited, so never negative).
In space it is of second order where rho is smooth; the semi-discrete energy below falls. In time: the strong-stability-
preserving Runge-Kutta step of order 2 with s = 10 stages (Gottlieb, Ketcheson and Shu 2011, section 6.1), made of Euler
steps of length dt / (s - 1), each of which keeps positivity when it is at most h / (2 d max|u|). Explicit diffusion is
stable up to h^2 / (2 d max(rho H''(rho))).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
STAGES = 10  # s


@dataclass(frozen=True)
class Equation:
    """A flow on cells of side h; densities are arrays with one axis for each dimension.

    Args:
        h: side of a cell.
        m, weight: of the internal energy weight / (m - 1) int rho^m, m > 1.
        potential: V at the cells' centres.
        interact: rho -> W * rho at the centres, as `convolution` makes it.
    """

    h: float
    m: float = 2.0
    weight: float = 0.0
    potential: Array | float = 0.0
    interact: Callable[[Array], Array] | None = None

    def variation(self, rho: Array) -> Array:
        """xi, the first variation of the energy."""
        xi = self.weight * self.m / (self.m - 1) * rho ** (self.m - 1) + self.potential
        return xi if self.interact is None else xi + self.interact(rho)

    def energy(self, rho: Array) -> float:
        """int weight / (m - 1) rho^m + V rho + 1/2 (W * rho) rho."""
        density = self.weight / (self.m - 1) * rho**self.m + self.potential * rho
        if self.interact is not None:
            density = density + 0.5 * self.interact(rho) * rho
        return float(density.sum()) * self.h**rho.ndim

    def rate(self, rho: Array) -> tuple[Array, float]:
        """d rho / dt, and the largest |u|."""
        xi = self.variation(rho)
        out, fastest = np.zeros_like(rho), 0.0
        for axis in range(rho.ndim):
            r, change = np.moveaxis(rho, axis, 0), np.moveaxis(out, axis, 0)
            u = np.diff(np.moveaxis(xi, axis, 0), axis=0) / -self.h  # at inner faces
            step = np.diff(r, axis=0)
            low, high = np.minimum(step[1:], step[:-1]), np.maximum(step[1:], step[:-1])
            half = np.zeros_like(r)  # half the minmod slope times h; none in the cells at the walls
            half[1:-1] = 0.5 * (np.maximum(low, 0) + np.minimum(high, 0))
            flux = np.maximum(u, 0) * (r + half)[:-1] + np.minimum(u, 0) * (r - half)[1:]
            flux /= self.h
            change[:-1] -= flux
            change[1:] += flux
            fastest = max(fastest, float(np.abs(u).max()))
        return out, fastest


def solve(equation: Equation, rho: Array, times: tuple[float, ...], courant: float = 0.9) -> list[Array]:
    """Densities at increasing times, from `rho` at time 0.

    Args:
        courant: part of the largest time step that is known to be stable, at most 1.

    Raises:
        ArithmeticError: a density got negative or is not finite.
    """
    h, d, m = equation.h, rho.ndim, equation.m
    t, found = 0.0, []
    for stop in times:
        while t < stop:
            first, fastest = equation.rate(rho)
            diffusion = equation.weight * m * float(rho.max()) ** (m - 1)  # max of rho H''(rho)
            dt = (STAGES - 1) * courant * h / (2 * d) / max(fastest, diffusion / h, 1e-300)
            last = dt >= stop - t
            dt = stop - t if last else dt
            stage = rho + dt / (STAGES - 1) * first
            for _ in range(STAGES - 1):
                stage = stage + dt / (STAGES - 1) * equation.rate(stage)[0]
            rho = (rho + (STAGES - 1) * stage) / STAGES
            t = stop if last else t + dt
            if not rho.min() >= 0:
                raise ArithmeticError(f"the density is negative or not finite at t = {t:g}")
        found.append(rho)
    return found


def convolution(kernel: Callable[[Array], Array], shape: tuple[int, ...], h: float) -> Callable[[Array], Array]:
    """rho -> W * rho by the midpoint rule, through a zero-padded FFT.

    Args:
        kernel: W, differences (..., d) -> (...); finite at 0.
    """
    size = [2 * n for n in shape]
    offsets = [np.fft.fftfreq(n, 1 / n) * h for n in size]  # 0, h, ..., then the negative ones
    points = np.stack(np.meshgrid(*offsets, indexing="ij"), -1).astype(np.float64)
    spectrum = np.fft.rfftn(kernel(points) * h ** len(shape))
    inside = tuple(slice(n) for n in shape)
    axes = tuple(range(len(shape)))
    return lambda rho: np.fft.irfftn(spectrum * np.fft.rfftn(rho, size, axes), size, axes)[inside]
