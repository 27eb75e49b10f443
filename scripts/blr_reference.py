"""The truth of task `blr`: moments by importance sampling, the means to draw from it, and a certificate of both.

    pip install numpyro==0.22.0 jax==0.10.2 arviz==0.23.4     (beside gwfbench; not among its dependencies)
    python scripts/blr_reference.py [NAME ...]                (run from the checkout; no name: all offline sets)

Two samplers that share nothing but the log posterior below, which is apart from the task's:

1. NUTS (Hoffman and Gelman 2014) with dense mass matrix, four chains from dispersed starts, one after the other. It is
   the witness. Checks: rank-normalised split R-hat of coordinates and squares, bulk and tail effective sizes of
   coordinates, effective sizes of squares (Vehtari et al. 2021, by ArviZ), divergences, full trees, energy (E-BFMI,
   Betancourt 2016), and two identities that hold for the right posterior only, E[score] = 0 and E[score x'] = -I, each
   entry within 6 standard errors (from 256 batches).
2. Importance sampling from a Student law with NUTS's mean and 1.15^2 times its covariance; its degrees of freedom are
   those of DEGREES for which a pilot accepts most. If a check fails, once more: 1.3^2, and six times as many proposals
   (image, whose posterior is as wide as the prior where the data say little). It is the truth. Checks: Pareto k-hat
   (Vehtari et al. 2024, by ArviZ), effective sizes of all coordinates and squares, and `worth`: of how many independent
   draws the moments are as good as. SymKL of the moments of one of K parts of the sample and of all is
   d (d + 3) / 2 x (K - 1) / worth on average. `worth` is at least 100 x 4096: the truth's own error is at most a tenth
   of the error of 4096 judged points.

They must agree: each mean and each square of NUTS within 5 of its standard errors.

The task draws by rejection from the same Student law: it keeps a proposal with probability min(weight, cap) / cap. Its
draws are independent. Their law is that of the weights capped, which is `cap_loss` away from the posterior in total
variation. The cap is the least one for which this is at most CAP_LOSS: of 4096 draws less than one should be elsewhere.

For each set it writes gwfbench/data/blr/NAME.npz (location, root, degrees and log_cap of the Student law; mean,
covariance and log Z of the posterior; all float64) and NAME.json, the certificate. tests/exact/test_blr.py tests the
task's draws against both.
"""

from __future__ import annotations

import ast
import datetime
import hashlib
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from gwfbench.plugins import registry

NAMES = ("banana", "diabetis", "german", "image", "splice", "twonorm", "ringnorm", "waveform")
FOLDER = Path(__file__).parents[1] / "gwfbench" / "data" / "blr"
CHAINS, WARMUP, DRAWS = 4, 300, 768
TARGET_ACCEPT, TREE, SEED = 0.8, 10, 20261128
PILOT, BLOCK, PARTS = 2**16, 2**11, 16
DEGREES = (5, 10, 20, 40)
ATTEMPTS = ((1.15, 1), (1.3, 6))  # how much wider than NUTS says, and how many times as many proposals
CAP_LOSS = 2e-4
JUDGED = 4096  # points of the task
ENOUGH = 100 * JUDGED  # effective draws: a tenth of the error of JUDGED points


def log_posterior(x, rows):
    """log p(w, log alpha, data); x (k + 1,), rows (N, k) signed features."""
    import jax.numpy as jnp

    w, log_alpha = x[:-1], x[-1]
    alpha = jnp.exp(log_alpha)
    log_likelihood = -jnp.logaddexp(0.0, -(rows @ w)).sum()
    log_normal = w.shape[0] / 2 * (log_alpha - jnp.log(2 * jnp.pi)) - alpha / 2 * (w @ w)
    log_gamma = jnp.log(0.01) - 0.01 * alpha
    return log_likelihood + log_normal + log_gamma + log_alpha


def model_hash() -> str:
    """SHA-256 of the source of `log_posterior`."""
    text = Path(__file__).read_text()
    node = next(node for node in ast.parse(text).body if getattr(node, "name", "") == "log_posterior")
    return hashlib.sha256((ast.get_source_segment(text, node) or "").encode()).hexdigest()


# ------------------------------------------------------------------------------------------------ the witness


Density = Callable[[Any], Any]  # log posterior of a point (d,), by jax


def nuts(density: Density, start: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Draws (chains, draws, d) and the sampler's own statistics of each, from `start` (chains, d)."""
    import jax
    from numpyro.infer import MCMC, NUTS

    kernel = NUTS(
        potential_fn=lambda x: -density(x),
        dense_mass=True,
        target_accept_prob=TARGET_ACCEPT,
        max_tree_depth=TREE,
    )
    mcmc = MCMC(
        kernel, num_warmup=WARMUP, num_samples=DRAWS, num_chains=CHAINS, chain_method="sequential", progress_bar=False
    )
    mcmc.run(jax.random.PRNGKey(SEED), init_params=start, extra_fields=("diverging", "num_steps", "energy"))
    extra = {key: np.asarray(value) for key, value in mcmc.get_extra_fields(group_by_chain=True).items()}
    return np.asarray(mcmc.get_samples(group_by_chain=True)), extra


def worst_identity(x: np.ndarray, density: Density, batches: int = 256) -> tuple[float, float]:
    """The largest |mean| / standard error of score and of score x' + I, errors by batch means."""
    import jax

    gradient = jax.jit(jax.vmap(jax.grad(density)))
    flat = x.reshape(-1, x.shape[-1])
    score = np.concatenate([np.asarray(gradient(part)) for part in np.array_split(flat, 64)])
    centre, scale = flat.mean(0), flat.std(0)
    score, white = score * scale, (flat - centre) / scale
    groups = zip(np.array_split(score, batches), np.array_split(white, batches), strict=True)
    first, second = zip(*((s.mean(0), s.T @ z / len(s) + np.eye(len(scale))) for s, z in groups), strict=True)
    found = []
    for values in (np.stack(first), np.stack(second)):
        found.append(float(np.abs(values.mean(0) / (values.std(0, ddof=1) / batches**0.5)).max()))
    return found[0], found[1]


def question(y: np.ndarray, x: np.ndarray, extra: dict[str, np.ndarray], density: Density) -> dict[str, float]:
    """NUTS's own numbers; y: its draws, standardised."""
    import arviz

    plain, square = arviz.convert_to_dataset({"x": y}), arviz.convert_to_dataset({"x": y**2})
    score, stein = worst_identity(x, density)
    return {
        "r_hat_max": max(float(np.asarray(arviz.rhat(data)["x"]).max()) for data in (plain, square)),
        "ess_bulk_min": float(np.asarray(arviz.ess(plain, method="bulk")["x"]).min()),
        "ess_tail_min": float(np.asarray(arviz.ess(plain, method="tail")["x"]).min()),
        "ess_squares_min": float(np.asarray(arviz.ess(square, method="mean")["x"]).min()),
        "divergences": int(extra["diverging"].sum()),
        "full_trees": int((extra["num_steps"] >= 2**TREE - 1).sum()),
        "e_bfmi_min": float(arviz.bfmi(extra["energy"]).min()),
        "score_worst": score,
        "stein_worst": stein,
    }


# ------------------------------------------------------------------------------------------------ the truth


@dataclass(frozen=True)
class Student:
    """location + root t, with t standard Student of these degrees of freedom."""

    location: np.ndarray
    root: np.ndarray
    degrees: int

    @staticmethod
    def like(mean: np.ndarray, covariance: np.ndarray, degrees: int, wider: float) -> Student:
        return Student(mean, wider * math.sqrt((degrees - 2) / degrees) * np.linalg.cholesky(covariance), degrees)

    def blocks(self, density: Density, count: int, seed: int) -> Any:
        """Proposals x (BLOCK, d) and density(x) + (degrees + d) / 2 log(1 + |t|^2 / degrees), block by block."""
        import jax

        every, rng, d = jax.jit(jax.vmap(density)), np.random.default_rng(seed), len(self.location)
        for _ in range(count // BLOCK):
            t = rng.standard_normal((BLOCK, d))
            t /= np.sqrt(rng.chisquare(self.degrees, (BLOCK, 1)) / self.degrees)
            x = self.location + t @ self.root.T
            kernel = (self.degrees + d) / 2 * np.log1p((t**2).sum(1) / self.degrees)
            yield x, np.asarray(every(x)) + kernel

    def log_z(self, log_weight: np.ndarray) -> tuple[float, float]:
        """log of the integral of exp(density) from the weights of `blocks`, and its standard error."""
        d, half, top = len(self.location), (self.degrees + len(self.location)) / 2, log_weight.max()
        constant = math.lgamma(half) - math.lgamma(self.degrees / 2) - d / 2 * math.log(self.degrees * math.pi)
        constant -= np.linalg.slogdet(self.root)[1]  # log density of the Student law: this - half log(1 + ...)
        w = np.exp(log_weight - top)
        return float(top + math.log(w.mean()) - constant), float(w.std() / w.mean() / len(w) ** 0.5)


def log_cap(log_weight: np.ndarray, loss: float) -> float:
    """Of the weights the least c, as its logarithm, with mean of (w - c)_+ at most `loss` times mean of w."""
    top = log_weight.max()
    w = np.sort(np.exp(log_weight - top))[::-1]
    excess = np.cumsum(w) - np.arange(1, len(w) + 1) * w  # for c = w[j]
    return float(top + np.log(w[np.searchsorted(excess, loss * w.sum(), side="right") - 1]))


def accepted(log_weight: np.ndarray, cap: float) -> float:
    """Share of proposals that rejection under this cap keeps."""
    return float(np.exp(np.minimum(log_weight - cap, 0)).mean())


def choose(
    mean: np.ndarray, covariance: np.ndarray, density: Density, wider: float, enough: int
) -> tuple[Student, float, int]:
    """The proposal of which most is kept, a cap below the final one, and how many blocks of each part are enough."""
    found = []
    for degrees in DEGREES:
        law = Student.like(mean, covariance, degrees, wider)
        weight = np.concatenate([part for _, part in law.blocks(density, PILOT, SEED + degrees)])
        cap = log_cap(weight, 5 * CAP_LOSS)
        w = np.exp(weight - weight.max())
        found.append((accepted(weight, cap), degrees, law, cap, w.sum() ** 2 / (w @ w) / PILOT))
    _, _, law, cap, share = max(found)
    return law, cap, math.ceil(1.75 * enough / share / (PARTS * BLOCK))


def moments(sums: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of y from sums of w, w y and w y y'."""
    mean = sums["y"] / sums["w"]
    return mean, sums["yy"] / sums["w"] - np.outer(mean, mean)


def symkl(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> float:
    """KL(p || q) + KL(q || p) of two normal laws."""
    (m, c), (n, e) = one, other
    inverse = np.linalg.inv(c) + np.linalg.inv(e)
    trace = np.trace(np.linalg.solve(c, e)) + np.trace(np.linalg.solve(e, c))
    return float((trace - 2 * len(m) + (m - n) @ inverse @ (m - n)) / 2)


def weigh(law: Student, density: Density, low: float, size: int, mean: np.ndarray, sd: np.ndarray) -> dict[str, Any]:
    """Importance sampling of y = (x - mean) / sd: sums of each part, all log weights, and the y of large weights.

    Args:
        low: log of a weight below the final cap.
        size: blocks of a part.
    """
    parts: list[dict[str, Any]] = [{} for _ in range(PARTS)]
    weights, large = [], []
    for i, (x, log_weight) in enumerate(law.blocks(density, PARTS * size * BLOCK, SEED)):
        y, w = (x - mean) / sd, np.exp(log_weight - low)
        new = {
            "w": w.sum(), "y": w @ y, "yy": (w[:, None] * y).T @ y,
            "ww": (w**2).sum(), "wwy": w**2 @ y, "wwy2": w**2 @ y**2, "wwy4": w**2 @ y**4, "y4": w @ y**4,
        }  # fmt: skip
        for key, value in new.items():
            parts[i // size][key] = parts[i // size].get(key, 0.0) + value
        weights.append(log_weight)
        large.append(np.column_stack([log_weight, y])[log_weight > low])
    return {"parts": parts, "log_weights": np.concatenate(weights), "large": np.concatenate(large)}


def judge(found: dict[str, Any], low: float, cap: float) -> tuple[dict[str, float], np.ndarray, np.ndarray]:
    """Numbers of the importance sample, and mean and covariance of y."""
    parts, weights = found["parts"], found["log_weights"]
    whole = {key: sum(part[key] for part in parts) for key in parts[0]}
    mean, covariance = moments(whole)
    second, d, w = np.diag(whole["yy"]) / whole["w"], len(mean), whole["w"]
    # variance of f under the law over that of the estimate of its mean, by the delta method
    plain = (second - mean**2) * w**2 / (whole["wwy2"] - 2 * mean * whole["wwy"] + mean**2 * whole["ww"])
    spread = whole["y4"] / w - second**2
    square = spread * w**2 / (whole["wwy4"] - 2 * second * whole["wwy2"] + second**2 * whole["ww"])
    excess = np.maximum(np.exp(found["large"][:, 0] - low) - math.exp(cap - low), 0)
    y = found["large"][:, 1:]
    capped = {"w": w - excess.sum(), "y": whole["y"] - excess @ y, "yy": whole["yy"] - (excess[:, None] * y).T @ y}
    gap = float(np.mean([symkl(moments(part), (mean, covariance)) for part in parts]))
    numbers = {
        "is_ess_share": float(w**2 / whole["ww"] / len(weights)),
        "is_ess_min": float(plain.min()),
        "is_ess_squares_min": float(square.min()),
        "worth": d * (d + 3) / 2 * (PARTS - 1) / gap,
        "variance_error_worst": float((np.sqrt(spread / square) / (second - mean**2)).max()),
        "accepted": accepted(weights, cap),
        "cap_loss": float(excess.sum() / w),
        "cap_variance_worst": float(np.abs(np.diag(moments(capped)[1]) / np.diag(covariance) - 1).max()),
        "cap_symkl": symkl(moments(capped), (mean, covariance)),
    }
    return numbers, mean, covariance


# ------------------------------------------------------------------------------------------------ both


def bounds(enough: int, kept: float) -> tuple[str, ...]:
    """The checks: `enough` effective draws, and `kept` of the proposals at least."""
    return (
        "r_hat_max < 1.01", "ess_bulk_min >= 400", "ess_tail_min >= 400", "ess_squares_min >= 400", "divergences == 0",
        "full_trees == 0", "e_bfmi_min > 0.3", "score_worst < 6", "stein_worst < 6",
        "k_hat < 0.7", f"is_ess_min >= {enough}", f"is_ess_squares_min >= {enough}",
        f"worth >= {enough}", "variance_error_worst < 0.005", f"accepted > {kept}", f"cap_loss <= {CAP_LOSS}",
        "cap_variance_worst < 0.005", "means_apart < 5", "squares_apart < 5",
    )  # fmt: skip


def apart(y: np.ndarray, mean: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """The largest gap between NUTS's means and squares and these, in NUTS's standard errors."""
    import arviz

    found = {}
    for key, values, truth in (("means_apart", y, mean), ("squares_apart", y**2, second)):
        error = np.asarray(arviz.mcse(arviz.convert_to_dataset({"x": values}), method="mean")["x"])
        found[key] = float((np.abs(values.mean((0, 1)) - truth) / error).max())
    return found


def holds(check: str, numbers: dict[str, float]) -> bool:
    name, sign, bound = check.split()
    value, limit = numbers[name], float(bound)
    return {"<": value < limit, "<=": value <= limit, "==": value == limit, ">": value > limit, ">=": value >= limit}[
        sign
    ]


def investigate(
    density: Density, start: Any, enough: int = ENOUGH, kept: float = 0.01
) -> tuple[dict[str, Any], dict[str, Any], np.ndarray]:
    """Both samplers on one posterior.

    Args:
        enough, kept: as in `bounds`.

    Returns:
        What the truth's file holds, a certificate that lacks the names and hashes, and NUTS's draws (chains, draws, d).
    """
    import arviz

    began = time.perf_counter()
    x, extra = nuts(density, start)
    flat = x.reshape(-1, x.shape[-1])
    pilot, sd = flat.mean(0), flat.std(0)
    witness = question((x - pilot) / sd, x, extra, density)
    witnessed = time.perf_counter()
    for wider, times in ATTEMPTS:
        law, low, size = choose(pilot, np.cov(flat.T), density, wider, enough)
        found = weigh(law, density, low, times * size, pilot, sd)
        cap = log_cap(found["log_weights"], CAP_LOSS)
        assert cap > low
        numbers, mean, covariance = judge(found, low, cap)
        numbers["k_hat"] = float(arviz.psislw(found["log_weights"].copy())[1])
        numbers = witness | numbers | apart((x - pilot) / sd, mean, np.diag(covariance) + mean**2)
        checks = {check: holds(check, numbers) for check in bounds(enough, kept)}
        if all(checks.values()):
            break
    value, error = law.log_z(found["log_weights"])
    arrays = {
        "location": law.location, "root": law.root, "degrees": law.degrees, "log_cap": cap,
        "mean": pilot + sd * mean, "covariance": covariance * np.outer(sd, sd), "log_z": value, "log_z_se": error,
    }  # fmt: skip
    certificate = {
        "witness": "NUTS, dense mass matrix, float64",
        "truth": f"importance sampling, Student with {law.degrees} degrees of freedom, float64",
        "versions": {package: version(package) for package in ("numpyro", "jax", "jaxlib", "arviz", "numpy")},
        "chains": CHAINS,
        "warmup": WARMUP,
        "draws": DRAWS,
        "target_accept": TARGET_ACCEPT,
        "wider": wider,
        "leapfrog_steps": int(extra["num_steps"].sum()),
        "proposals": len(found["log_weights"]),
        "seed": SEED,
        "seconds": [round(witnessed - began, 1), round(time.perf_counter() - witnessed, 1)],
        "numbers": numbers,
        "checks": checks,
    }
    return arrays, certificate, x


def write(folder: Path, name: str, arrays: dict[str, Any], certificate: dict[str, Any], hashes: dict[str, str]) -> bool:
    """Write a set's two files, and say whether every check passed."""
    np.savez_compressed(folder / f"{name}.npz", **arrays)
    truth = hashlib.sha256((folder / f"{name}.npz").read_bytes()).hexdigest()
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    certificate |= {"sha256": {"truth": truth, **hashes}, "date": date}
    (folder / f"{name}.json").write_text(json.dumps(certificate, indent=1) + "\n")
    checks = certificate["checks"]
    failed = [check for check, good in checks.items() if not good]
    print(name, certificate["seconds"], certificate["numbers"], failed, flush=True)
    return all(checks.values())


def certify(name: str) -> bool:
    """Make the truth of one set, write its two files, and say whether every check passed."""
    import jax

    task = sys.modules[registry.find("task", "blr").load().__module__]
    rows = task.signed_rows(name)[0]
    start = 0.1 * jax.random.normal(jax.random.PRNGKey(SEED + 1), (CHAINS, rows.shape[1] + 1))
    start = start.at[:, -1].add(jax.numpy.linspace(-2.0, 4.0, CHAINS))
    arrays, certificate, _ = investigate(partial(log_posterior, rows=jax.numpy.asarray(rows)), start)
    certificate = {"posterior": f"blr:data={name},posterior=derived", **certificate}
    return write(FOLDER, name, arrays, certificate, {"data": task.digest(rows), "model": model_hash()})


if __name__ == "__main__":
    import jax

    jax.config.update("jax_enable_x64", True)
    failed = [name for name in sys.argv[1:] or NAMES if not certify(name)]
    if failed:
        sys.exit(f"did not pass: {', '.join(failed)}; the reason is in their certificates")
