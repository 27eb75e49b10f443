"""Randomness as an argument: one generator per seed, forked by name."""

# torch.linalg has no types:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor


def _derive(seed: int, path: str) -> int:
    """A 63-bit generator seed for one (seed, path), the same on every machine."""
    digest = hashlib.sha256(f"{seed}/{path}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@dataclass(frozen=True)
class Streams:
    """One random stream for each of S seeds; every draw has shape (S, ...).

    A fork depends on the seed and on its name alone, never on the order of calls: forking the same name twice gives
    the same numbers twice, adding a draw in one place changes none elsewhere, and a seed's numbers do not depend on
    the other seeds. No global random state is read or written.
    """

    seeds: tuple[int, ...]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    path: str = ""
    _generators: list[torch.Generator] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        made = [torch.Generator(self.device).manual_seed(_derive(seed, self.path)) for seed in self.seeds]
        object.__setattr__(self, "_generators", made)

    def fork(self, name: str) -> Streams:
        """The streams called `name` below these, at their start."""
        return Streams(self.seeds, self.device, self.dtype, f"{self.path}/{name}")

    def host(self) -> Streams:
        """The same streams in float64 on the CPU: for what defines a task, which must not depend on device or dtype."""
        return Streams(self.seeds, torch.device("cpu"), torch.float64, self.path)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal draws, (S, *shape)."""
        out = torch.empty(len(self.seeds), *shape, device=self.device, dtype=self.dtype)
        for row, generator in zip(out, self._generators, strict=True):
            row.normal_(generator=generator)
        return out

    def normals(self, count: int, *shape: int) -> Tensor:
        """The numbers of `count` calls of `normal`, (S, count, *shape); on a GPU a seed's come from one launch.

        PyTorch's CPU draws are in sixteens, so that there several calls are one where each asks for full ones.
        """
        if self.device.type == "cpu" and math.prod(shape) % 16:
            return torch.stack([self.normal(*shape) for _ in range(count)], 1)
        return self.normal(count, *shape)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform draws on [0, 1), (S, *shape)."""
        out = torch.empty(len(self.seeds), *shape, device=self.device, dtype=self.dtype)
        for row, generator in zip(out, self._generators, strict=True):
            row.uniform_(generator=generator)
        return out

    def integers(self, high: int, *shape: int) -> Tensor:
        """Uniform integers in [0, high), int64, (S, *shape)."""
        out = torch.empty(len(self.seeds), *shape, device=self.device, dtype=torch.int64)
        for row, generator in zip(out, self._generators, strict=True):
            row.random_(0, high, generator=generator)
        return out

    def whitened(self, n: int, d: int, block: int = 1024) -> Tensor:
        """Standard normal draws (S, n, d) whose consecutive blocks each have mean 0 and covariance I exactly.

        Moment matching takes the sampling error out of everything that depends on mean and covariance alone. The last
        block takes the remainder of n / block.

        Raises:
            ValueError: a block has too few points for its covariance, n or block <= d.
        """
        if min(n, block) <= d:
            raise ValueError(
                f"moment matching in dimension {d} needs more than {d} points a block, got {min(n, block)}"
            )
        x = self.normal(n, d)
        cut = max(n // block - 1, 0) * block
        # each (S, blocks, points, d)
        parts: list[Tensor] = [x[:, :cut].unflatten(1, (-1, block)), x[:, cut:].unsqueeze(1)]
        return torch.cat([_whiten(part).flatten(1, 2) for part in parts if part.shape[1]], 1)


@contextmanager
def own_globals(name: str, device: torch.device) -> Generator[None, None, None]:
    """Let the global generators of Python, numpy and torch start in the block at numbers of its own, and after it at
    those of before: a method that draws from them, against the contract, gives other numbers for another seed."""
    seed = _derive(0, f"global/{name}")
    before, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 - what others draw from
    with torch.random.fork_rng([device] if device.type == "cuda" and torch.cuda.is_available() else []):
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":  # torch.manual_seed would note for other devices who has called it, at 3 ms a run
            torch.cuda.manual_seed_all(seed)
        try:
            yield
        finally:
            random.setstate(before)
            np.random.set_state(legacy)  # noqa: NPY002


def _whiten(x: Tensor) -> Tensor:
    """Affine image of each block (..., n, d) with mean 0 and covariance I, computed in float64."""
    centered = x.double() - x.mean(-2, keepdim=True, dtype=torch.float64)
    root: Tensor = torch.linalg.cholesky(centered.mT @ centered / x.shape[-2])
    return torch.linalg.solve_triangular(root, centered.mT, upper=False).mT.to(x.dtype)
