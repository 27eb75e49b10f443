"""GMM-d: ten narrow Gaussians in a small box, in up to 200 dimensions; the flow of KL(. || pi), judged at its limit.

    pi(x) = 1/10 sum_k N(x; mu_k, 0.01 I),   mu_k ~ Uniform([-1, 1]^d),   P_0 = N(0, start^2 I),   log Z = 0

(Hertrich and Gruhlke 2025, importance corrected neural JKO, with d = 10, 20, 50, 100, 200 and start = 1.) Their code
has five sets of means for each d, for five repetitions: data/mixture_means/mixture_means{1..5}_{d}.pck of
johertrich/neural_JKO_ic (commit 74fe27a, MIT licence). With repetition=1 to 5 the task has exactly these, from the file
mixture_means.npz in `data_root`: NumPy arrays means{repetition}_{d} of shape (10, d), float32. Each array must have the
published values (its SHA-256 is known), and the content of the file is part of a run's identity. All seeds share the
set.

Without a repetition, each seed draws means of its own from the same law. That is the same problem, but its results
can't be compared with published ones run by run.

`mode_weights` and `emc` compare the shares of the components (gwfbench/metrics/modes.py), which the paper does by the
mean squared error of their weights.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from gwfbench.errors import UserError, require
from gwfbench.fields import Positive, between, check_fields, refuse
from gwfbench.info import Info, Initial, LogDensity
from gwfbench.metrics.modes import emc, mode_weights, posterior
from gwfbench.objectives.mixture import Mixture, normal_start
from gwfbench.protocol import Instance, Problem
from gwfbench.rng import Streams

NAME = "mixture_means.npz"
COMPONENTS, VARIANCE = 10, 0.01
PUBLISHED = {  # first 16 digits of the SHA-256 of each set's float32 numbers, by d, for repetitions 1 to 5
    10: ["b9ea83185c92604c", "8f374c63a0242f39", "65e5905f335da4b6", "c723e82616c0947f", "8b88f4ec001acd3a"],
    20: ["fc4f5b0fc3742eb0", "0025795ab50b1d54", "72c387dbcac2a0cf", "fbf331ee78a48d52", "7659a5c65d1b358a"],
    50: ["df8dc8e601942107", "5bdcba7e9422c45e", "d8d15d90ed906ad3", "902716590cf0592e", "0a205ccd9f0232f7"],
    100: ["1cf0b06c5e218137", "2ea89022caeecc72", "07fdb7f23b424075", "4e253e45dbe8127e", "35a924f86dd13d01"],
    200: ["1204e72a5cd7bf79", "7a33148fa17055b3", "b6fbe184dbd2bd36", "9327ca785db1bfeb", "faf869a4aa14fd22"],
}


@dataclass(frozen=True)
class GMMd:
    dim: Literal[10, 20, 50, 100, 200] = 10
    "dimension d"
    repetition: Annotated[int, between(1, 5)] | None = None
    "number of one of the five published sets of means; default: means of our own, drawn per seed from the same law"
    data_root: str | None = None
    "folder of mixture_means.npz, which holds the published sets"
    start: Positive = 1.0
    "standard deviation of P_0"

    offers: ClassVar[frozenset[type[Info]]] = frozenset({Initial, LogDensity})
    metrics: ClassVar[tuple[str, ...]] = (
        *("energy_distance", "mode_weights", "emc", "emc_error", "log_z", "elbo", "eubo", "ess_reverse", "ess_forward"),
        *("sliced_w2", "sinkhorn", "sliced_energy", "mmd", "w2", "c2st", "ksd", "kl"),
        *("moments_mean", "moments_covariance", "b2_max", "b2_mean"),
    )
    points: ClassVar[int] = 100_000
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {}
    reference: ClassVar[str] = """@inproceedings{hertrich2025importance,
  title={Importance Corrected Neural {JKO} Sampling}, author={Hertrich, Johannes and Gruhlke, Robert},
  booktitle={ICML}, year={2025}}"""

    def __post_init__(self) -> None:
        check_fields(self)
        refuse(
            self,
            *("repetition", "data_root"),
            when=(self.repetition is None) != (self.data_root is None),
            expected="both or neither: a published set of means, and the folder of the file that holds it",
            fix="write gmm_d:repetition=1,data_root=FOLDER, or leave both out for means of our own",
        )

    def data_files(self) -> list[Path]:
        if self.data_root is None:
            return []
        path = Path(self.data_root).expanduser() / NAME
        require(
            path.is_file(),
            f"gmm_d:data_root={self.data_root}: no file {NAME} in it",
            "the published means as NumPy arrays means1_10 ... means5_200, float32 (10, d)",
            "convert data/mixture_means/mixture_means{1..5}_{d}.pck of github.com/johertrich/neural_JKO_ic",
        )
        return [path]

    def build(self, rng: Streams) -> Instance:
        means = self._means(rng)
        weights = torch.full_like(means[0, :, 0], 1 / COMPONENTS)
        law = Mixture(means, weights, math.sqrt(VARIANCE))
        problem = Problem((self.dim,), (math.inf,), (normal_start(self.dim, self.start), law.density()))
        labels, shares = posterior(means, weights, law.scale), weights.expand(len(rng.seeds), -1)
        return Instance(problem, law.truth(mode_weights(labels, shares), *emc(labels, shares)))

    def _means(self, rng: Streams) -> Tensor:
        """(S, 10, d), float64."""
        if self.repetition is None:
            drawn = rng.fork("target").host().fork("means").uniform(COMPONENTS, self.dim)
            return (2 * drawn - 1).to(rng.device)
        found = self._published()
        return torch.from_numpy(found.astype(np.float64)).to(rng.device).expand(len(rng.seeds), -1, -1)

    def _published(self) -> np.ndarray:
        (path,) = self.data_files()
        assert self.repetition is not None
        name = f"means{self.repetition}_{self.dim}"
        try:
            with np.load(path) as arrays:
                found = np.ascontiguousarray(arrays[name], dtype=np.float32)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"gmm_d:data_root={self.data_root}: {name} of {NAME} can't be read: {error}",
                "a NumPy archive of arrays means1_10 ... means5_200",
                "make it again from the published files",
            ) from error
        digest = hashlib.sha256(found.tobytes()).hexdigest()
        require(
            digest.startswith(PUBLISHED[self.dim][self.repetition - 1]),
            f"gmm_d:data_root={self.data_root}: {name} of {NAME}, shape {found.shape}, SHA-256 {digest[:16]}",
            f"the published values, (10, {self.dim}) in float32, SHA-256 {PUBLISHED[self.dim][self.repetition - 1]}",
            "make the file again from the published ones, or leave repetition and data_root out for means of our own",
        )
        return found
