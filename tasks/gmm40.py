"""GMM-40: forty equal Gaussians with means uniform in [-40, 40]^d; the flow of KL(. || pi), judged at its limit.

    pi(x) = 1/40 sum_k N(x; mu_k, s^2 I),   P_0 = N(0, start^2 I),   start = 40,   log Z = 0

Several densities have this name, and no result on one is a result on another. `variant` chooses:

    fab   mu by PyTorch, (rand(40, d) - 1/2) 2 x 40 from seed 0; s = softplus(1) = 1.3133. Midgley et al. 2023
          (fab-torch: experiments/gmm/run.py, fab/target_distributions/gmm.py) with d = 2. Their log-density is -inf
          below -1e4; this cut is left out, as it has no gradient. d = 50 is the same program, and unpublished.
    jax   mu by JAX, 40 uniform(PRNGKey(0), (40, d), minval=-1, maxval=1); s = 1. Blessing et al. 2024 ("Beyond ELBOs":
          targets/gmm40.py) with d = 2 and 50, and fab-jax' gmm_v0 with 40 components. These are the numbers of JAX
          before 0.5, which changed its default stream (jax_threefry_partitionable): newer versions give other means.
          With d = 50 they are also the means that neural_JKO_ic (Hertrich and Gruhlke 2025) has in its GMM40_mean.pck.

gwfbench/data/gmm40.npz has the means as float32, as both programs make them; scripts/gmm40_means.py made it. With
start = 40, P_0 is what Blessing et al. start their methods from on this target. All seeds share one target.

`mode_weights` and `emc` compare the shares of the components (gwfbench/metrics/modes.py). `ksd` hardly sees the shares:
at a mode that is far from all others, the score does not change with the mode's weight.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import ClassVar, Literal

import numpy as np
import torch

from gwfbench.errors import UserError
from gwfbench.fields import Positive, check_fields
from gwfbench.info import Info, Initial, LogDensity
from gwfbench.metrics.modes import emc, mode_weights, posterior
from gwfbench.objectives.mixture import Mixture, normal_start
from gwfbench.protocol import Instance, Problem
from gwfbench.rng import Streams

SCALES = {"fab": math.log1p(math.e), "jax": 1.0}  # s
NAME = "data/gmm40.npz"


@dataclass(frozen=True)
class GMM40:
    variant: Literal["fab", "jax"] = "jax"
    """set of means and standard deviation; fab: of Midgley et al., s = 1.3133; jax: of Blessing et al., s = 1"""
    dim: Literal[2, 50] = 2
    "dimension d"
    start: Positive = 40.0
    "standard deviation of P_0"

    offers: ClassVar[frozenset[type[Info]]] = frozenset({Initial, LogDensity})
    metrics: ClassVar[tuple[str, ...]] = (
        *("energy_distance", "mode_weights", "emc", "emc_error", "log_z", "elbo", "eubo", "ess_reverse", "ess_forward"),
        *("sliced_w2", "sinkhorn", "sliced_energy", "mmd", "w2", "c2st", "ksd", "kl"),
        *("moments_mean", "moments_covariance", "b2_max", "b2_mean"),
    )
    files: ClassVar[tuple[str, ...]] = ("data/gmm40.npz",)
    points: ClassVar[int] = 100_000
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {}
    reference: ClassVar[str] = """@inproceedings{midgley2023flow,
  title={Flow Annealed Importance Sampling Bootstrap}, author={Midgley, Laurence Illing and Stimper, Vincent and Simm,
  Gregor N. C. and Sch{\\"o}lkopf, Bernhard and Hern{\\'a}ndez-Lobato, Jos{\\'e} Miguel}, booktitle={ICLR}, year={2023}}
@inproceedings{blessing2024beyond, title={Beyond {ELBO}s: A Large-Scale Evaluation of Variational Methods for Sampling},
  author={Blessing, Denis and Jia, Xiaogang and Esslinger, Johannes and Vargas, Francisco and Neumann, Gerhard},
  booktitle={ICML}, year={2024}}"""

    __post_init__ = check_fields

    def build(self, rng: Streams) -> Instance:
        means = torch.from_numpy(_means(self.variant, self.dim)).to(rng.device).expand(len(rng.seeds), -1, -1)
        weights = torch.full_like(means[0, :, 0], 1 / means.shape[1])
        law = Mixture(means, weights, SCALES[self.variant])
        problem = Problem((self.dim,), (math.inf,), (normal_start(self.dim, self.start), law.density()))
        labels, shares = posterior(means, weights, law.scale), weights.expand(len(rng.seeds), -1)
        return Instance(problem, law.truth(mode_weights(labels, shares), *emc(labels, shares)))


@cache
def _means(variant: str, dim: int) -> np.ndarray:
    """(40, d), float64."""
    try:
        with files("gwfbench").joinpath(NAME).open("rb") as file, np.load(file) as found:
            return found[f"{variant}_{dim}"].astype(np.float64)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"gwfbench/{NAME} can't be read: {error}",
            "the means of this task",
            "reinstall gwfbench, or run scripts/gmm40_means.py in a checkout",
        ) from error
