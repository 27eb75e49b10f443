"""The drift network of path samplers: NN_1(k, y) + NN_2(k) clip(grad log gamma(y)), for S seeds.

(Zhang and Chen 2022, "PIS-Grad", with the time's code beside the point as in the code of Vargas et al. 2023: their
PISGRADNet.) Two hidden layers, GELU, and 0 at the start. The score is held constant when gradients are taken.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gwfbench.info import Field
from gwfbench.nn.stacked import Stacked, linear_init
from gwfbench.rng import Streams

FREQUENCIES = (0.1, 100.0)  # lowest and highest of the time embedding


class Control(NamedTuple):
    """b: (k, y) -> (S, n, d)."""

    hidden: Tensor
    gate: Tensor
    layers: tuple[Tensor, ...]
    score: Field
    clip: float

    def __call__(self, k: int, y: Tensor) -> Tensor:
        into, weight, bias, last, end = self.layers
        h = F.gelu(torch.baddbmm(self.hidden[:, k : k + 1], y, into))
        h = F.gelu(torch.baddbmm(bias, h, weight))
        out = torch.baddbmm(end, h, last)
        with torch.no_grad():
            s = self.score(y.detach()).nan_to_num(0.0).clamp(-self.clip, self.clip)  # none where particles meet (dw4)
        return out + self.gate[:, k : k + 1] * s


class Drift:
    """The network of b for S seeds. Its parts that depend on time alone are computed once for all steps."""

    def __init__(self, d: int, width: int, rng: Streams):
        code = [linear_init(rng.fork("code"), *size) for size in ((2 * width, width), (width, width))]
        sizes = ((2 * width, width), (width, width), (width, width))
        gate = [linear_init(rng.fork("gate"), *size) for size in sizes]
        first = rng.fork("state")
        into, hidden = linear_init(first, d + width, width), linear_init(first, width, width)
        zero = torch.zeros_like
        ends = [linear_init(first, width, d) for _ in range(2)]
        phase = zero(into[1])
        layers = [*code, *gate, *((zero(w), zero(b)) for w, b in ends), into, hidden]
        self.parameters = Stacked([phase, *(part for layer in layers for part in layer)])
        self._d, self._width = d, width

    def at(self, steps: int, score: Field, clip: float) -> Control:
        """b at steps 0 ... steps - 1 with the current parameters."""
        phase, *parts = self.parameters.leaves
        c1, c2, g1, g2, g3, gate_end, state_end, into, hidden = zip(parts[::2], parts[1::2], strict=True)
        time = torch.arange(steps, dtype=phase.dtype, device=phase.device)[:, None] / steps
        low, high = FREQUENCIES
        angle = torch.linspace(low, high, self._width, dtype=phase.dtype, device=phase.device) * time + phase
        embedded = torch.cat([angle.sin(), angle.cos()], -1)  # (S, steps, 2 width)
        code = _linear(F.gelu(_linear(embedded, c1)), c2)
        gate = _linear(F.gelu(_linear(F.gelu(_linear(F.gelu(_linear(embedded, g1)), g2)), g3)), gate_end)
        of_state, of_time = into[0].split([self._d, self._width], 1)
        layers = (of_state, *hidden, *state_end)
        return Control(torch.baddbmm(into[1], code, of_time), gate, layers, score, clip)


def _linear(x: Tensor, layer: tuple[Tensor, Tensor]) -> Tensor:
    return torch.baddbmm(layer[1], x, layer[0])
