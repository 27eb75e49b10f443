"""What suits the device: how many pairs of points at once, and how often a loop asks whether it may end.

A core wants blocks that stay in its cache, and ends a loop as soon as it can. A device elsewhere wants blocks that give
it enough to do. There the host waits for each answer, for about as long as it takes to queue some operations: a loop
whose steps change nothing any more, once they have done, may as well take one or two too many.
"""

from __future__ import annotations

from torch import Tensor

BLOCK = 2**18  # pairs, for a CPU: two buffers of 1 MB in float32 stay in the cache
DEVICE_BLOCK = 2**22  # elsewhere: 16 MB each
EVERY = 4  # steps to a question, elsewhere


def at_once(x: Tensor, cpu: int | None = None) -> int:
    """Pairs in a block, of clouds on x's device.

    Args:
        cpu: of them, on a CPU; None: `BLOCK`.
    """
    return (cpu or BLOCK) if x.device.type == "cpu" else DEVICE_BLOCK


def asks(step: int, x: Tensor) -> bool:
    """Whether a loop on x's device is to ask at this step, 0 the first, if it may end."""
    return x.device.type == "cpu" or step % EVERY == EVERY - 1


def as_number(value: Tensor | float, x: Tensor) -> Tensor:
    """A number, or one per seed, as a tensor like x; the host does not wait for a device, as it would for a copy."""
    return value.to(x) if isinstance(value, Tensor) else x.new_full((), value)
