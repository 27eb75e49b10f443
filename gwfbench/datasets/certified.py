"""A posterior whose truth is certified: moments by importance sampling, independent draws by rejection.

A script in scripts/ has made NAME.npz (mean and covariance of the law; location, root, degrees and log_cap of the
Student law from which it is drawn; all float64) and NAME.json, the certificate: numbers of two samplers, the checks by
name, and SHA-256 of the truth and of the data. Each seed gets its own draws, and metrics compare with others than
`exact` gives.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources.abc import Traversable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gwfbench.errors import require
from gwfbench.info import Field
from gwfbench.rng import Streams

PROPOSALS = 4096  # of one round of rejection
POOL = 4096  # draws of the posterior that a seed's metrics compare with


@dataclass(frozen=True)
class Rejection:
    """Independent draws of a law: a proposal is kept with probability min(weight, cap) / cap.

    Args:
        log_prob: of the law up to a constant, (n, d) -> (n,), float64 on the CPU.
        location, root, degrees: of the proposal x = location + root t, t standard Student.
        log_cap: of the weight exp(log_prob(x)) (1 + |t|^2 / degrees)^((degrees + d) / 2).
    """

    log_prob: Field
    location: Tensor
    root: Tensor
    degrees: int
    log_cap: float

    def draw(self, n: int, rng: Streams) -> Tensor:
        """(S, n, d), float64 on the CPU; a seed's draws depend on its own stream alone."""
        keys = rng.integers(2**62, 1)[:, 0].tolist()
        return torch.stack([self._draw(n, Streams((key,), dtype=torch.float64)) for key in keys])

    def _draw(self, n: int, rng: Streams) -> Tensor:
        d, count, kept = len(self.location), 0, list[Tensor]()
        while count < n:
            normal = rng.normal(PROPOSALS, d + self.degrees)[0]
            t = normal[:, :d] * (self.degrees / normal[:, d:].square().sum(1, keepdim=True)).sqrt()
            x = self.location + t @ self.root.mT
            log_weight = self.log_prob(x) + (self.degrees + d) / 2 * torch.log1p(t.square().sum(1) / self.degrees)
            kept.append(x[rng.uniform(PROPOSALS)[0].log() < log_weight - self.log_cap])
            count += len(kept[-1])
        return torch.cat(kept)[:n]


def read(
    folder: Traversable, name: str, task: str, data: Callable[[], str], script: str
) -> dict[str, np.ndarray] | None:
    """What `truth` needs, from NAME.npz; None where there is no certificate, or one that did not pass.

    Args:
        task: as it is typed.
        data: SHA-256 of the data as they are now.
        script: what makes the truth anew.

    Raises:
        UserError: the certificate is of another truth or of other data.
    """
    paper = folder.joinpath(f"{name}.json")
    if not paper.is_file():
        return None
    certificate = json.loads(paper.read_text())
    if not all(certificate["checks"].values()):
        return None
    packed = folder.joinpath(f"{name}.npz").read_bytes()
    found = {"truth": hashlib.sha256(packed).hexdigest(), "data": data()}
    for what, is_now in found.items():
        require(
            is_now == certificate["sha256"][what],
            f"the certificate of {task} does not fit its {what} (sha256 {is_now[:12]})",
            f"sha256 {certificate['sha256'][what][:12]}",
            f"install gwfbench again, or make the truth again with {script}",
        )
    with np.load(io.BytesIO(packed)) as arrays:
        return dict(arrays)


def truth(log_prob: Field, found: Mapping[str, np.ndarray], rng: Streams) -> dict[str, Any]:
    """What a certificate adds to a `Truth`.

    Args:
        log_prob: of the law up to a constant, (n, d) -> (n,), float64 on the CPU.
        found: as `read` gives it.
    """
    law = Rejection(
        log_prob,
        *(torch.from_numpy(found[key]) for key in ("location", "root")),  # type: ignore[arg-type]
        *(found[key].item() for key in ("degrees", "log_cap")),
    )
    mean, covariance = (
        torch.from_numpy(found[key]).to(rng.device).expand(len(rng.seeds), *found[key].shape)
        for key in ("mean", "covariance")
    )

    def draw(index: int, n: int, streams: Streams) -> Tensor:
        return law.draw(n, streams).to(streams.device, streams.dtype)

    return {
        "draw": draw,
        "exact": True,
        "limit": POOL,
        "reference": pool(law.draw, rng),
        "moments": lambda index: (mean, covariance),
    }


def pool(draw: Callable[[int, Streams], Tensor], rng: Streams) -> Callable[[int, int, Streams], Tensor]:
    """A truth's `reference` where draws take long: some of POOL draws of each seed, which are drawn once.

    Args:
        draw: (n, streams) -> (S, n, d), float64 on the CPU.
        rng: of the task.
    """

    @cache
    def every() -> Tensor:
        return draw(POOL, rng.fork("reference").host())

    def compare(index: int, n: int, streams: Streams) -> Tensor:
        if n > POOL:
            raise ValueError(f"{POOL} reference draws are at hand; {n} were asked for")
        chosen = streams.host().uniform(POOL).argsort(1)[:, :n, None]  # without replacement
        return every().take_along_dim(chosen, 1).to(streams.device, streams.dtype)

    return compare
