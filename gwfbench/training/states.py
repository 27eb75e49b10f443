"""States of several parts as one flat mapping, `part/key` -> value, and back."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from gwfbench.protocol import State


def joined(parts: Mapping[str, State]) -> dict[str, Tensor | int | float]:
    return {f"{name}/{key}": value for name, state in parts.items() for key, value in state.items()}


def below(name: str, state: State) -> dict[str, Tensor | int | float]:
    """The state of one part."""
    return {key.removeprefix(f"{name}/"): value for key, value in state.items() if key.startswith(f"{name}/")}
