"""The means of task `gmm40`, drawn again as the published programs draw them, into gwfbench/data/gmm40.npz.

    python scripts/gmm40_means.py [--out FILE]

Arrays fab_2, fab_50, jax_2, jax_50, float32 (40, d), uniform in [-40, 40]^d.

fab: PyTorch's CPU generator after manual_seed(0).
jax: jax.random.uniform(PRNGKey(0), (40, d), minval=-1, maxval=1) in float32, by the stream that was JAX's default
before 0.5 (jax_threefry_partitionable=False), written here in NumPy so that no old JAX is needed: the numbers from 0
to n - 1, in two halves, are the counters of Threefry-2x32 (Salmon et al. 2011) with 20 rounds under the key (0, 0); a
word's upper 23 bits are the mantissa of a number in [1, 2). JAX 0.4.28 gives the same bits.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

FILE = Path(__file__).parents[1] / "gwfbench/data/gmm40.npz"
SPREAD, COMPONENTS, DIMENSIONS = 40, 40, (2, 50)
ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))  # of Threefry-2x32's rounds, in turn
PARITY = np.uint32(0x1BD11BDA)


def fab(dim: int) -> np.ndarray:
    generator = torch.Generator().manual_seed(0)
    return ((torch.rand(COMPONENTS, dim, generator=generator) - 0.5) * 2 * SPREAD).numpy()


def jax(dim: int) -> np.ndarray:
    count = np.arange(COMPONENTS * dim, dtype=np.uint32)  # an even number of them
    bits = np.concatenate(threefry((0, 0), *np.split(count, 2)))
    unit = (bits >> np.uint32(9) | np.uint32(0x3F800000)).view(np.float32) - np.float32(1)
    return ((unit * np.float32(2) - np.float32(1)) * np.float32(SPREAD)).reshape(COMPONENTS, dim)


def threefry(key: tuple[int, int], first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Threefry-2x32 with 20 rounds: two words of random bits for each pair of counters, uint32."""
    keys = [np.uint32(key[0]), np.uint32(key[1])]
    keys.append(keys[0] ^ keys[1] ^ PARITY)
    first, second = first + keys[0], second + keys[1]
    for part in range(5):
        for by in ROTATIONS[part % 2]:
            first = first + second
            second = (second << np.uint32(by) | second >> np.uint32(32 - by)) ^ first
        first, second = first + keys[(part + 1) % 3], second + keys[(part + 2) % 3] + np.uint32(part + 1)
    return first, second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FILE, help="file to write")
    programs = {"fab": fab, "jax": jax}
    means = {f"{name}_{dim}": program(dim) for name, program in programs.items() for dim in DIMENSIONS}
    np.savez_compressed(parser.parse_args().out, **means)


if __name__ == "__main__":
    main()
