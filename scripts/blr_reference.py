"""Reference draws of task `blr` by NUTS, and the certificate of each run.

    pip install numpyro==0.22.0 jax==0.10.2 arviz==0.23.4     (beside gwfbench; not among its dependencies)
    python scripts/blr_reference.py [NAME ...]                (run from the checkout; no name: all offline sets)

For each set it writes gwfbench/data/blr/NAME.npz (draws: 4096 thinned, float32; mean, covariance and mcse: of all
draws, float64) and NAME.json, the certificate. The log posterior below is its own, apart from the task's, and the
stored draws are tested against the task's (tests/exact/test_blr.py).

Sampler: NUTS (Hoffman and Gelman 2014) with dense mass matrix, float64, four chains from dispersed starts, one after
the other. Checks: rank-normalised split R-hat, bulk and tail effective sizes of every coordinate (Vehtari et al. 2021,
by ArviZ), divergences, full trees, energy (E-BFMI, Betancourt 2016), and two identities that hold for the right
posterior only, E[score] = 0 and E[score x'] = -I, each entry within 6 standard errors (from 256 batches).
"""

from __future__ import annotations

import ast
import datetime
import hashlib
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

from gwfbench.plugins import registry

NAMES = ("banana", "diabetis", "german", "image", "splice", "twonorm", "ringnorm", "waveform")
FOLDER = Path(__file__).parents[1] / "gwfbench" / "data" / "blr"
CHAINS, WARMUP, DRAWS, THIN = 4, 1000, 2048, 2
TARGET_ACCEPT, TREE, SEED = 0.8, 10, 20261122


def log_posterior(x, rows):
    """log p(w, log alpha | rows) up to a constant; x (k + 1,), rows (N, k) signed features."""
    import jax.numpy as jnp

    w, log_alpha = x[:-1], x[-1]
    alpha = jnp.exp(log_alpha)
    log_likelihood = -jnp.logaddexp(0.0, -(rows @ w)).sum()
    log_normal = w.shape[0] / 2 * log_alpha - alpha / 2 * (w @ w)
    log_gamma = -0.01 * alpha
    return log_likelihood + log_normal + log_gamma + log_alpha


def model_hash() -> str:
    """SHA-256 of the source of `log_posterior`."""
    text = Path(__file__).read_text()
    node = next(node for node in ast.parse(text).body if getattr(node, "name", "") == "log_posterior")
    return hashlib.sha256((ast.get_source_segment(text, node) or "").encode()).hexdigest()


def sample(rows: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Draws (chains, draws, d) and the sampler's own statistics of each."""
    import jax
    from numpyro.infer import MCMC, NUTS

    data = jax.numpy.asarray(rows)
    kernel = NUTS(
        potential_fn=lambda x: -log_posterior(x, data),
        dense_mass=True,
        target_accept_prob=TARGET_ACCEPT,
        max_tree_depth=TREE,
    )
    mcmc = MCMC(
        kernel, num_warmup=WARMUP, num_samples=DRAWS, num_chains=CHAINS, chain_method="sequential", progress_bar=False
    )
    start = 0.1 * jax.random.normal(jax.random.PRNGKey(SEED + 1), (CHAINS, rows.shape[1] + 1))
    start = start.at[:, -1].add(jax.numpy.linspace(-2.0, 4.0, CHAINS))
    mcmc.run(jax.random.PRNGKey(SEED), init_params=start, extra_fields=("diverging", "num_steps", "energy"))
    extra = {key: np.asarray(value) for key, value in mcmc.get_extra_fields(group_by_chain=True).items()}
    return np.asarray(mcmc.get_samples(group_by_chain=True)), extra


def worst_identity(x: np.ndarray, rows: np.ndarray, batches: int = 256) -> tuple[float, float]:
    """The largest |mean| / standard error of score and of score x' + I, errors by batch means."""
    import jax

    gradient = jax.jit(jax.vmap(jax.grad(log_posterior), in_axes=(0, None)))
    flat = x.reshape(-1, x.shape[-1])
    score = np.concatenate([np.asarray(gradient(part, rows)) for part in np.array_split(flat, 64)])
    centre, scale = flat.mean(0), flat.std(0)
    score, white = score * scale, (flat - centre) / scale
    groups = zip(np.array_split(score, batches), np.array_split(white, batches), strict=True)
    first, second = zip(*((s.mean(0), s.T @ z / len(s) + np.eye(len(scale))) for s, z in groups), strict=True)
    found = []
    for values in (np.stack(first), np.stack(second)):
        found.append(float(np.abs(values.mean(0) / (values.std(0, ddof=1) / batches**0.5)).max()))
    return found[0], found[1]


def certify(name: str) -> bool:
    """Sample one set, write its two files, and say whether every check passed."""
    import arviz

    task = sys.modules[registry.find("task", "blr").load().__module__]
    rows = task.signed_rows(name)[0]
    began = time.perf_counter()
    x, extra = sample(rows)
    seconds = time.perf_counter() - began
    flat = x.reshape(-1, x.shape[-1])
    data = arviz.convert_to_dataset({"x": x})
    r_hat, bulk, tail = (
        np.asarray(found["x"])
        for found in (arviz.rhat(data), arviz.ess(data, method="bulk"), arviz.ess(data, method="tail"))
    )
    mcse = np.asarray(arviz.mcse(data, method="mean")["x"])
    score, stein = worst_identity(x, rows)
    numbers = {
        "r_hat_max": float(r_hat.max()),
        "ess_bulk_min": float(bulk.min()),
        "ess_tail_min": float(tail.min()),
        "divergences": int(extra["diverging"].sum()),
        "full_trees": int((extra["num_steps"] >= 2**TREE - 1).sum()),
        "e_bfmi_min": float(arviz.bfmi(extra["energy"]).min()),
        "score_worst": score,
        "stein_worst": stein,
    }
    checks = {
        "r_hat_max < 1.01": numbers["r_hat_max"] < 1.01,
        "ess_bulk_min >= 4000": numbers["ess_bulk_min"] >= 4000,
        "ess_tail_min >= 4000": numbers["ess_tail_min"] >= 4000,
        "divergences == 0": numbers["divergences"] == 0,
        "full_trees == 0": numbers["full_trees"] == 0,
        "e_bfmi_min > 0.3": numbers["e_bfmi_min"] > 0.3,
        "score_worst < 6": score < 6,
        "stein_worst < 6": stein < 6,
    }
    kept = x[:, ::THIN].reshape(-1, x.shape[-1]).astype(np.float32)
    np.savez_compressed(
        FOLDER / f"{name}.npz", draws=kept, mean=flat.mean(0), covariance=np.cov(flat.T, ddof=0), mcse=mcse
    )
    certificate = {
        "posterior": f"blr:data={name},posterior=derived",
        "sampler": "NUTS, dense mass matrix, float64",
        "versions": {package: version(package) for package in ("numpyro", "jax", "jaxlib", "arviz", "numpy")},
        "chains": CHAINS,
        "warmup": WARMUP,
        "draws": DRAWS,
        "kept": len(kept),
        "target_accept": TARGET_ACCEPT,
        "seed": SEED,
        "seconds": round(seconds, 1),
        "leapfrog_steps": int(extra["num_steps"].sum()),
        "numbers": numbers,
        "checks": checks,
        "sha256": {
            "draws": hashlib.sha256((FOLDER / f"{name}.npz").read_bytes()).hexdigest(),
            "data": task.digest(rows),
            "model": model_hash(),
        },
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    (FOLDER / f"{name}.json").write_text(json.dumps(certificate, indent=1) + "\n")
    print(name, f"{seconds:.0f} s", numbers, flush=True)
    return all(checks.values())


if __name__ == "__main__":
    import jax

    jax.config.update("jax_enable_x64", True)
    failed = [name for name in sys.argv[1:] or NAMES if not certify(name)]
    if failed:
        sys.exit(f"did not pass: {', '.join(failed)}; the reason is in their certificates")
