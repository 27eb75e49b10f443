"""What a task may offer and a method may need: the type is the capability.

A task lists the types it `offers`, a method those it `needs`; the pair is valid when needs <= offers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from gwfbench.rng import Streams

Field = Callable[[Tensor], Tensor]  # (S, n, d) -> (S, n) or (S, n, d)
Draw = Callable[[int, Streams], Tensor]  # n -> (S, n, d)


class Info:
    """Marker of the types in this file."""


@dataclass(frozen=True)
class Initial(Info):
    """The law P_0 from which the flow starts."""

    draw: Draw
    log_prob: Field | None = None


@dataclass(frozen=True)
class LogDensity(Info):
    """An unnormalised log-density of the target pi; the energy is KL(rho || pi)."""

    log_prob: Field  # differentiable
    score: Field
    batch: Callable[[int, Streams], LogDensity] | None = None  # unbiased, from that many rows of the data


@dataclass(frozen=True)
class TargetSamples(Info):
    """Independent draws from the target."""

    draw: Draw


@dataclass(frozen=True)
class InternalEnergy(Info):
    """The internal energy weight / (m - 1) int rho^m, m > 1."""

    m: float
    weight: float = 1.0


@dataclass(frozen=True)
class InteractionEnergy(Info):
    """The interaction energy 1/2 int int W(x - y) rho(x) rho(y)."""

    kernel: Field  # W, (S, n, d) -> (S, n)


@dataclass(frozen=True)
class Encoder(Info):
    """A trained network that tells images of this kind apart, for methods that compare points by features.

    Metrics never judge by this network.
    """

    maps: Callable[[Tensor], list[Tensor]]  # (S, n, c, h, w) -> (S, n, k) of each stage; differentiable
