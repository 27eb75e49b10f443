"""The truth of task `logistic`, log Z included, and its certificate: as scripts/blr_reference.py, and a third sampler.

    pip install numpyro==0.22.0 jax==0.10.2 arviz==0.23.4 blackjax==1.7.1     (beside gwfbench)
    python scripts/logistic_reference.py [NAME ...]     (run from the checkout; no name: all)

NUTS and importance sampling from a Student law, their checks and the draws by rejection are those of that script, which
explains them, with two numbers of their own: the moments are as good as those of ENOUGH independent draws (their error
is at most a sixth of that of 4096 points; ionosphere's are better), and rejection keeps at least KEPT of the proposals.
The mean of the importance weights is Z, with a standard error.

The witness of log Z is tempered sequential Monte Carlo from the prior (Del Moral et al. 2006, by blackjax):
temperatures chosen so that the weights keep 80 % of their effective size, HMC moves whose mass matrix is interpolated
between those of prior and posterior. (With the covariance of the particles themselves as its inverse, the moves would
not keep their law: log Z of sonar came out 1.3 too small with 1024 particles.) It is repeated, and the mean of Z over
the repetitions must be within 5 standard errors, of both, of the importance sample's.

For each set it writes gwfbench/data/logistic/NAME.npz and NAME.json. `credit_none` is credit without prior.
"""

from __future__ import annotations

import ast
import hashlib
import math
import sys
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from gwfbench.datasets import tables
from scripts import blr_reference as blr

FOLDER = Path(__file__).parents[1] / "gwfbench" / "data" / "logistic"
SETS = {"sonar": ("sonar", 1.0), "ionosphere": ("ionosphere", 1.0), "credit": ("credit", 10.0),
        "credit_none": ("credit", math.inf)}  # fmt: skip
ENOUGH, KEPT = 40 * blr.JUDGED, 0.001  # KEPT bounds the cost of a draw alone
REPEATS, PARTICLES, MOVES, LEAPFROGS, STEP, ESS = 8, 512, 2, 6, 0.35, 0.8
WIDTH = 10.0  # of the normal law from which SMC starts where there is no prior


def log_posterior(w, rows, deviation):
    """log p(w, data) of the prior N(0, deviation^2 I), of which nothing is left at infinity; w (k,), rows (N, k)."""
    import jax.numpy as jnp

    log_likelihood = -jnp.logaddexp(0.0, -(rows @ w)).sum()
    if math.isinf(deviation):
        return log_likelihood
    return log_likelihood - (w @ w) / 2 / deviation**2 - w.shape[0] / 2 * jnp.log(2 * jnp.pi * deviation**2)


def model_hash() -> str:
    """SHA-256 of the source of `log_posterior`."""
    text = Path(__file__).read_text()
    node = next(node for node in ast.parse(text).body if getattr(node, "name", "") == "log_posterior")
    return hashlib.sha256((ast.get_source_segment(text, node) or "").encode()).hexdigest()


def smc(density: blr.Density, precision: np.ndarray, deviation: float) -> list[tuple[float, int]]:
    """log Z by each run from N(0, deviation^2 I), and its number of temperatures.

    Args:
        precision: of the posterior, roughly.
    """
    import blackjax
    import jax
    import jax.numpy as jnp
    from blackjax.smc import extend_params
    from blackjax.smc.inner_kernel_tuning import as_top_level_api
    from blackjax.smc.resampling import systematic

    d = len(precision)

    def prior(w):
        return -(w @ w) / 2 / deviation**2 - d / 2 * math.log(2 * math.pi * deviation**2)

    def parameters(temperature):
        inverse_mass = jnp.linalg.inv((1 - temperature) / deviation**2 * jnp.eye(d) + temperature * precision)
        fixed = {"step_size": STEP, "num_integration_steps": jnp.asarray(LEAPFROGS)}
        return extend_params({"inverse_mass_matrix": inverse_mass, **fixed})

    sampler = as_top_level_api(
        blackjax.adaptive_tempered_smc,
        *(prior, lambda w: density(w) - prior(w)),
        *(blackjax.hmc.build_kernel(), blackjax.hmc.init, systematic),
        lambda key, state, info: parameters(state.tempering_param),
        parameters(0.0),
        num_mcmc_steps=MOVES,
        target_ess=ESS,
    )
    step, found = jax.jit(sampler.step), []
    for seed in range(REPEATS):
        key, start = jax.random.split(jax.random.PRNGKey(blr.SEED + seed))
        state, total, count = sampler.init(deviation * jax.random.normal(start, (PARTICLES, d))), 0.0, 0
        while float(state.sampler_state.tempering_param) < 1:
            key, now = jax.random.split(key)
            state, info = step(now, state)
            total, count = total + float(info.log_likelihood_increment), count + 1
        found.append((total, count))
    return found


def certify(name: str) -> bool:
    """Make the truth of one set, write its two files, and say whether every check passed."""
    import jax

    data, deviation = SETS[name]
    rows = tables.whole(data)
    d = rows.shape[1]
    density: Any = partial(log_posterior, rows=jax.numpy.asarray(rows), deviation=deviation)
    start = 0.3 * jax.random.normal(jax.random.PRNGKey(blr.SEED + 1), (blr.CHAINS, d))
    arrays, certificate, draws = blr.investigate(density, start, ENOUGH, KEPT)
    began = time.perf_counter()
    width = deviation if math.isfinite(deviation) else WIDTH
    precision = np.linalg.inv(np.cov(draws.reshape(-1, d).T))
    runs = smc(density, precision, width)
    values = np.array([value for value, _ in runs])
    z = np.exp(values - values.max())
    witness = float(values.max() + math.log(z.mean()))
    error = float(z.std(ddof=1) / z.mean() / REPEATS**0.5)
    certificate["numbers"] |= {
        "log_z": arrays["log_z"],
        "log_z_se": arrays["log_z_se"],
        "log_z_smc": witness,
        "log_z_smc_se": error,
        "log_z_smc_sd": float(values.std(ddof=1)),
        "log_z_apart": abs(arrays["log_z"] - witness) / math.hypot(arrays["log_z_se"], error),
    }
    for check in ("log_z_apart < 5", "log_z_se < 0.005"):
        certificate["checks"][check] = blr.holds(check, certificate["numbers"])
    certificate["versions"]["blackjax"] = version("blackjax")
    certificate["seconds"].append(round(time.perf_counter() - began, 1))
    settings = {"particles": PARTICLES, "moves": MOVES, "leapfrogs": LEAPFROGS, "step": STEP, "ess": ESS}
    certificate["smc"] = settings | {"temperatures": [count for _, count in runs], "log_z": values.tolist()}
    certificate = {
        "posterior": f"logistic:data={data}" + (",prior=none" if deviation == math.inf else ""),
        **certificate,
    }
    return blr.write(FOLDER, name, arrays, certificate, {"data": tables.digest(rows), "model": model_hash()})


if __name__ == "__main__":
    import jax

    jax.config.update("jax_enable_x64", True)
    failed = [name for name in sys.argv[1:] or SETS if not certify(name)]
    if failed:
        sys.exit(f"did not pass: {', '.join(failed)}; the reason is in their certificates")
