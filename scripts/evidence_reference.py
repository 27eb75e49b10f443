"""The truth of task `lgcp`, and certificates of its log Z and of `brownian`'s, each by two independent methods.

    pip install arviz==0.23.4                                 (beside gwfbench; not among its dependencies)
    python scripts/evidence_reference.py [NAME ...]           (run from the checkout; no name: all)

A name is `brownian`, or a grid and a data set of lgcp: `40_pines126`.

All in float64 NumPy, apart from the tasks' own code. Both targets are written as a normal law that is tilted,
Z = E exp(l(v)), v ~ N(0, I); `Tilt` gives l and its gradient. In what follows HMC has steps of random length.

1. `prior`, `laplace`: annealed importance sampling (Neal 2001) along N(0, I) exp(t l), 0 <= t <= 1, one HMC step at
   each of many values of t. A pilot chooses them (equal steps of the spread of t l) and the length of HMC's steps; then
   both are frozen, so that the estimate of Z is unbiased. REPEATS runs; the value is the log of the mean of all
   weights, its error by the delta method. `prior` starts at the model's prior, v the white noise behind it; it is left
   out for lgcp's larger grids, where it takes long (one run with grid=40, as short as the others: 501.5 +- 0.35).
   `laplace`, for lgcp alone, starts at Laplace's Gaussian approximation.
2. `bridge`: bridge sampling (Meng and Wong 1996, the optimal bridge) between draws of a Gaussian approximation and a
   long HMC run of CHAINS chains with the posterior itself, v now the coordinates in which that Gaussian is N(0, I). For
   lgcp it is the best Gaussian approximation with precision K^-1 + diag(w). For brownian it is one with the mean of a
   pilot and 1.1 times its standard deviations, and the coordinates are the noise of the observations in place of the
   path's: in the latter HMC does not reach the 3 % of the mass where s_2 is small. GROUPS groups of chains, each with
   draws of its own, give the error.

AIS and the bridge share the log posterior and the leapfrog, nothing else: other start, other path, other estimator. For
lgcp the value is the bridge's, the most precise one, and AIS is its witness; for brownian both are witnesses of a
quadrature. The long run's checks: rank-normalised split R-hat and effective sizes of all coordinates and of l (Vehtari
et al. 2021, by ArviZ). lgcp's task draws by few HMC steps from the Gaussian approximation: `settled_worst` is the
largest gap between the means of v, of v^2 and of l after them and those of the long run, in standard errors, and
`lag_one` the correlation of l after one step with l before it, whose TRAJECTORIES-th power, `forgotten`, is what is
left of the start.

For each lgcp it writes gwfbench/data/lgcp/NAME.npz and NAME.json, for brownian gwfbench/data/brownian/brownian.json.
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
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg

from gwfbench.plugins import registry

DATA = Path(__file__).parents[1] / "gwfbench" / "data"
COX = ("8_pines126", "16_pines126", "30_pines126", "32_pines126", "40_pines126", "40_dds127")
SMALL = ("8_pines126", "16_pines126")
NAMES = ("brownian", *COX)
SEED, REPEATS, CHAINS, GROUPS, WARMUP = 20261128, 4, 64, 16, 40
AIS_LEAPS, NORMAL = 4, 2  # leapfrogs of a step of AIS; draws of the Gaussian per draw of the posterior in the bridge
Tilt = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # v (n, d) -> l (n,), its gradient (n, d)


@dataclass(frozen=True)
class Plan:
    """How long: particles of one AIS run, temperatures, steps of the long run, leapfrogs and length of one."""

    particles: int
    temperatures: int
    draws: int
    leaps: int = 6
    step: float = 0.22
    start: float = 1.2  # standard deviation of the long run's start


LAPLACE = Plan(32, 60, 0)  # of AIS from Laplace's approximation


def plan(name: str) -> Plan:
    if name == "brownian":
        return Plan(512, 800, 4000, 8, 0.2, 0.5)
    if name in SMALL:
        return Plan(256, 300, 4000)
    return Plan(32, 200, 120)


# ------------------------------------------------------------------------------------------------ targets


def cox_model(grid: int) -> tuple[np.ndarray, float]:
    """K and mu."""
    rows, columns = np.divmod(np.arange(grid * grid), grid)
    apart = np.hypot(rows[:, None] - rows, columns[:, None] - columns)
    return 1.91 * np.exp(-33 * apart / grid), math.log(126) - 1.91 / 2


def cox_prior(y: np.ndarray, grid: int) -> Tilt:
    """v the white noise of the prior, x = mu + L v; l the log-likelihood."""
    kernel, mu = cox_model(grid)
    root = np.linalg.cholesky(kernel)

    def tilt(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = mu + v @ root.T
        high = np.exp(x) / grid**2
        return x @ y - high.sum(1), (y - high) @ root

    return tilt


def cox_weight(y: np.ndarray, grid: int, laplace: bool = False) -> np.ndarray:
    """w of a Gaussian with precision K^-1 + diag(w) and mean mu + K (y - w).

    The best one, which has w = E e^x / g^2: in turn Newton's method for the mean, mu + L z, at fixed variances, and the
    variances that belong to its w. Laplace's: w at the mode, that is with variances 0.
    """
    kernel, mu = cox_model(grid)
    root, d = np.linalg.cholesky(kernel), grid * grid
    z, half_variance, w = np.zeros(d), np.full(d, 0.0 if laplace else 0.5), np.zeros(d)
    for _ in range(40):
        new, factor = w, (kernel, True)
        for _ in range(50):
            new = np.exp(mu + root @ z + half_variance) / grid**2
            factor = scipy.linalg.cho_factor(np.eye(d) + root.T @ (new[:, None] * root), lower=True)
            move = scipy.linalg.cho_solve(factor, root.T @ (y - new) - z)
            z = z + move * min(1.0, 2.0 / np.abs(root @ move).max())
            if np.abs(move).max() < 1e-6:
                break
        change, w = np.abs(new - w).max(), new
        if laplace or change < 1e-5:
            return w
        half_variance = 0.5 * (scipy.linalg.solve_triangular(np.tril(factor[0]), root.T, lower=True) ** 2).sum(0)
    raise RuntimeError("the Gaussian approximation did not converge")


def cox_gaussian(y: np.ndarray, grid: int, w: np.ndarray) -> tuple[Tilt, np.ndarray, np.ndarray]:
    """v with x = m + B v, in which the Gaussian of `cox_weight` is N(0, I); l, m and B."""
    kernel, mu = cox_model(grid)
    root, d = np.linalg.cholesky(kernel), grid * grid
    inner = np.linalg.cholesky(np.eye(d) + root.T @ (w[:, None] * root))
    spread = np.ascontiguousarray(scipy.linalg.solve_triangular(inner, root.T, lower=True).T)
    white = root.T @ (y - w)
    mean = mu + root @ white
    constant = y @ mean - 0.5 * white @ white - np.log(np.diag(inner)).sum()

    def tilt(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        e = v @ spread.T
        high, linear = np.exp(mean + e) / grid**2, w * (1 + e)
        return constant + (w * (e + 0.5 * e**2) - high).sum(1), (linear - high) @ spread

    return tilt, mean, spread


def brownian_prior(y: np.ndarray, seen: np.ndarray) -> Tilt:
    """v = (log s_1 / 2, log s_2 / 2, increments of the path over s_1); l the log-likelihood."""

    def tilt(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        first, second = np.exp(2 * v[:, 0]), np.exp(2 * v[:, 1])
        path = first[:, None] * np.cumsum(v[:, 2:], 1)
        miss = (y - path[:, seen]) / second[:, None]
        square = (miss**2).sum(1)
        slope = np.zeros_like(path)
        slope[:, seen] = miss / second[:, None]
        by_noise = first[:, None] * np.cumsum(slope[:, ::-1], 1)[:, ::-1]
        by_first, by_second = 2 * (slope * path).sum(1), 2 * (square - len(y))
        value = -0.5 * square - 2 * len(y) * v[:, 1] - 0.5 * len(y) * math.log(2 * math.pi)
        return value, np.column_stack([by_first, by_second, by_noise])

    return tilt


def brownian_noise(y: np.ndarray, seen: np.ndarray) -> Tilt:
    """v = (log s_1 / 2, log s_2 / 2, noise of the observations over s_2), the unseen part of the path integrated out.

    l is the log-density of the path at the observed times, y - s_2 e: increments of variance s_1^2 times
    the time between.
    """
    times = np.diff(np.concatenate([[-1], seen])).astype(float)
    constant = -0.5 * np.log(2 * math.pi * times).sum()

    def tilt(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        first, second = np.exp(2 * v[:, 0]), np.exp(2 * v[:, 1])
        path = y - second[:, None] * v[:, 2:]
        step = np.diff(path, axis=1, prepend=0) / times / first[:, None] ** 2
        square = (step**2 * times).sum(1) * first**2
        slope = np.concatenate([step[:, 1:] - step[:, :-1], -step[:, -1:]], 1)  # by the path
        by_second = -2 * second * (slope * v[:, 2:]).sum(1)
        value = constant - 0.5 * square - 2 * len(y) * v[:, 0]
        return value, np.column_stack([2 * (square - len(y)), by_second, -second[:, None] * slope])

    return tilt


def moved(tilt: Tilt, centre: np.ndarray, root: np.ndarray) -> Tilt:
    """The same Z in v, u = centre + root v the old coordinates."""
    log_det = np.linalg.slogdet(root)[1]

    def there(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        u = centre + v @ root.T
        value, slope = tilt(u)
        return value - 0.5 * (u**2).sum(1) + 0.5 * (v**2).sum(1) + log_det, (slope - u) @ root + v

    return there


# ------------------------------------------------------------------------------------------------ samplers


@dataclass
class Walkers:
    """Points of HMC for N(0, I) exp(t l), with l and its gradient."""

    tilt: Tilt
    v: np.ndarray
    rng: np.random.Generator

    def __post_init__(self) -> None:
        self.value, self.slope = self.tilt(self.v)

    def step(self, t: float, leaps: int, length: float) -> float:
        """One HMC step; the share that was accepted."""
        h = length * self.rng.uniform(0.8, 1.2)
        p = self.rng.standard_normal(self.v.shape)
        at, value, slope = self.v, self.value, self.slope
        before = t * value - 0.5 * ((at**2).sum(1) + (p**2).sum(1))
        for _ in range(leaps):
            p = p + 0.5 * h * (t * slope - at)
            at = at + h * p
            value, slope = self.tilt(at)
            p = p + 0.5 * h * (t * slope - at)
        change = t * value - 0.5 * ((at**2).sum(1) + (p**2).sum(1)) - before
        taken = np.log(self.rng.uniform(size=len(at))) < change
        self.v = np.where(taken[:, None], at, self.v)
        self.slope = np.where(taken[:, None], slope, self.slope)
        self.value = np.where(taken, value, self.value)
        return float(np.mean(np.minimum(1, np.exp(np.minimum(0, np.nan_to_num(change, nan=-np.inf))))))


def schedule(tilt: Tilt, d: int, setting: Plan) -> tuple[np.ndarray, np.ndarray]:
    """Temperatures 0 ... 1 at equal steps of the integral of sd(l) dt, and the length of HMC's steps at each."""
    walkers = Walkers(tilt, np.random.default_rng(SEED).standard_normal((64, d)), np.random.default_rng(SEED + 1))
    t, length, found = 0.0, 0.3, [(0.0, 0.0, 0.3)]
    while t < 1:
        sd = float(np.std(walkers.value))
        new = min(1.0, t + 0.2 / sd)
        found.append((new, found[-1][1] + (new - t) * sd, length))
        t = new
        for _ in range(2):
            length = float(np.clip(length * math.exp(walkers.step(t, AIS_LEAPS, length) - 0.85), 0.01, 0.5))
    grid, integral, lengths = map(np.array, zip(*found, strict=True))
    even = np.linspace(0, integral[-1], setting.temperatures + 1)
    temperatures = np.interp(even, integral, grid)
    return temperatures, np.interp(temperatures, grid, lengths)


def ais(tilt: Tilt, d: int, setting: Plan) -> dict[str, Any]:
    """log Z, its standard error and each run's value."""
    temperatures, lengths = schedule(tilt, d, setting)
    runs = []
    for repeat in range(REPEATS):
        rng = np.random.default_rng([SEED, 2, repeat])
        walkers = Walkers(tilt, rng.standard_normal((setting.particles, d)), rng)
        log_weight = np.zeros(setting.particles)
        for low, high, length in zip(temperatures, temperatures[1:], lengths[1:], strict=False):
            log_weight += (high - low) * walkers.value
            walkers.step(high, AIS_LEAPS, length)
        runs.append(log_weight)
    every = np.concatenate(runs)
    w = np.exp(every - every.max())
    log_mean = [float(np.log(np.mean(np.exp(run - every.max()))) + every.max()) for run in runs]
    return {
        "value": float(np.log(w.mean()) + every.max()),
        "error": float(w.std(ddof=1) / w.mean() / math.sqrt(len(w))),
        "runs": log_mean,
        "runs_sd": float(np.std(log_mean, ddof=1)),
        "log_weight_sd": float(every.std()),
        "ess_share": float(w.sum() ** 2 / (w @ w) / len(w)),
    }


def bridge_of(normal: np.ndarray, posterior: np.ndarray) -> float:
    """log Z by the optimal bridge from values of l under N(0, I) and under the posterior."""
    top = float(np.median(posterior))
    a, b, log_z = np.exp(normal - top), np.exp(posterior - top), 0.0
    share = len(a) / (len(a) + len(b))
    for _ in range(1000):
        z = math.exp(log_z)
        new = math.log(np.mean(a / ((1 - share) * a + share * z)) / np.mean(1 / ((1 - share) * b + share * z)))
        if abs(new - log_z) < 1e-10:
            return new + top
        log_z = new
    raise RuntimeError("the bridge's iteration did not converge")


def long_run(tilt: Tilt, d: int, setting: Plan) -> dict[str, Any]:
    """Draws (chains, draws, d) as float32, l of each, the share accepted, and sums for the moments by group."""
    rng = np.random.default_rng([SEED, 3])
    walkers = Walkers(tilt, setting.start * rng.standard_normal((CHAINS, d)), rng)
    for i in range(WARMUP):
        walkers.step(1.0, setting.leaps, setting.step / (2 if i < WARMUP // 2 else 1))
    v = np.empty((CHAINS, setting.draws, d), np.float32)
    values, accepted = np.empty((CHAINS, setting.draws)), []
    for i in range(setting.draws):
        accepted.append(walkers.step(1.0, setting.leaps, setting.step))
        v[:, i], values[:, i] = walkers.v, walkers.value
    return {"v": v, "values": values, "accepted": float(np.mean(accepted))}


# ------------------------------------------------------------------------------------------------ certificates


def bridge(tilt: Tilt, d: int, values: np.ndarray) -> dict[str, Any]:
    """log Z, and its standard error from groups of chains."""
    rng = np.random.default_rng([SEED, 4])
    size = NORMAL * values.size // GROUPS
    normal = [np.concatenate([tilt(rng.standard_normal((min(512, size - i), d)))[0] for i in range(0, size, 512)])
              for _ in range(GROUPS)]  # fmt: skip
    groups = values.reshape(GROUPS, -1)
    found = [bridge_of(a, b) for a, b in zip(normal, groups, strict=True)]
    return {
        "value": bridge_of(np.concatenate(normal), groups.ravel()),
        "error": float(np.std(found, ddof=1) / math.sqrt(GROUPS)),
        "group_sd": float(np.std(found, ddof=1)),
    }


def diagnose(run: dict[str, Any]) -> dict[str, float]:
    """R-hat and effective sizes, over all coordinates and l."""
    import arviz

    thin = max(1, run["v"].shape[1] // 500)
    every = np.concatenate([run["v"], run["values"][..., None]], -1)[:, ::thin]
    data = arviz.convert_to_dataset({"v": every})
    before, after = run["values"][:, :-1].ravel(), run["values"][:, 1:].ravel()
    return {
        "r_hat_max": float(np.asarray(arviz.rhat(data)["v"]).max()),
        "ess_bulk_min": float(np.asarray(arviz.ess(data, method="bulk")["v"]).min()),
        "ess_tail_min": float(np.asarray(arviz.ess(data, method="tail")["v"]).min()),
        "accepted": run["accepted"],
        "lag_one": float(np.corrcoef(before, after)[0, 1]),
    }


def settled(tilt: Tilt, d: int, run: dict[str, Any], settings: tuple[int, int, float]) -> float:
    """Largest gap between draws as the task makes them and the long run, in standard errors, of v, v^2 and l."""
    trajectories, leaps, length = settings
    rng = np.random.default_rng([SEED, 5])
    walkers = Walkers(tilt, rng.standard_normal((4096 if d <= 256 else 512, d)), rng)
    for _ in range(trajectories):
        walkers.step(1.0, leaps, length)
    flat = run["v"].reshape(-1, d)
    gaps = []
    values = (walkers.value[:, None], run["values"].reshape(-1, 1))
    for one, other in ((walkers.v, flat), (walkers.v**2, flat**2), values):
        error = one.std(0) * math.sqrt(1 / len(one) + 1 / len(other))
        gaps.append(float((np.abs(one.mean(0) - other.mean(0, dtype=float)) / error).max()))
    return max(gaps)


def moments(run: dict[str, Any], mean: np.ndarray, spread: np.ndarray) -> tuple[dict[str, float], Any, Any]:
    """Mean and covariance of x, and how good they are: errors from groups of chains."""
    d = len(mean)
    groups = run["v"].reshape(GROUPS, -1, d).astype(float)
    means = groups.mean(1)
    squares = np.stack([group.T @ group / len(group) for group in groups])
    centre = means.mean(0)
    second = squares.mean(0) - np.outer(centre, centre)
    covariance = spread @ second @ spread.T
    sd = np.sqrt(np.diag(covariance))
    error = (means @ spread.T).std(0, ddof=1) / math.sqrt(GROUPS)
    pairs = zip(squares, means, strict=True)
    variances = np.stack([((spread @ s) * spread).sum(1) - (m @ spread.T) ** 2 for s, m in pairs])
    relative = variances.std(0, ddof=1) / math.sqrt(GROUPS) / sd**2
    numbers = {"mean_error_typical": float(np.median(error / sd)), "variance_error_typical": float(np.median(relative))}
    return numbers, mean + spread @ centre, covariance


BOUNDS = ("ess_bulk_min >= 400", "ess_tail_min >= 400", "log_z_apart < 4", "bridge_error < 0.05")
COX_BOUNDS = (*BOUNDS, "laplace_error < 0.25", "settled_worst < 5.5", "forgotten < 1e-3", "mean_error_typical < 0.02")


def bounds(name: str) -> tuple[str, ...]:
    """The checks of a target. The long runs of large grids are short: the worst of over 900 R-hats is above 1.01."""
    large = name in COX and name not in SMALL
    return f"r_hat_max < {1.05 if large else 1.01}", *(COX_BOUNDS if name in COX else BOUNDS)


def holds(check: str, numbers: dict[str, Any]) -> bool:
    name, sign, bound = check.split()
    value, limit = numbers[name], float(bound)
    return {"<": value < limit, ">=": value >= limit, ">": value > limit}[sign]


def model_hash(*names: str) -> str:
    """SHA-256 of the source of these functions."""
    text = Path(__file__).read_text()
    nodes = [node for node in ast.parse(text).body if getattr(node, "name", "") in names]
    return hashlib.sha256("".join(ast.get_source_segment(text, node) or "" for node in nodes).encode()).hexdigest()


def certificate(name: str, numbers: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    setting = plan(name)
    return {
        "target": name,
        "versions": {package: version(package) for package in ("arviz", "numpy", "scipy")},
        "ais": {"repeats": REPEATS, "particles": setting.particles, "temperatures": setting.temperatures},
        "laplace": {"repeats": REPEATS, "particles": LAPLACE.particles, "temperatures": LAPLACE.temperatures},
        "long_run": {"chains": CHAINS, "warmup": WARMUP, "draws": setting.draws},
        "hmc": {"leaps": setting.leaps, "step": setting.step},
        "seed": SEED,
        "numbers": numbers,
        "checks": {check: holds(check, numbers) for check in bounds(name)},
        **more,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def evidence(gaussian: tuple[Tilt, int], starts: dict[str, tuple[Tilt, int, Plan]], setting: Plan) -> Any:
    """Numbers of the bridge and of AIS from each start, and the long run."""
    began = time.perf_counter()
    run = long_run(*gaussian, setting)
    found = {"bridge": bridge(*gaussian, run["values"])} | {name: ais(*start) for name, start in starts.items()}
    numbers = diagnose(run) | {f"{name}_{key}": value for name, one in found.items() for key, value in one.items()}
    return numbers | {"seconds": round(time.perf_counter() - began)}, run


def apart(numbers: dict[str, Any], one: tuple[float, float], *methods: str) -> float:
    """Largest gap between log Z and a method's value, in their common standard error."""
    value, error = one
    return max(abs(value - numbers[f"{m}_value"]) / math.hypot(error, numbers[f"{m}_error"]) for m in methods)


def certify_cox(name: str) -> bool:
    task = sys.modules[registry.find("task", "lgcp").load().__module__]
    grid, data = int(name.split("_")[0]), name.split("_")[1]
    counts, d = task.counts(grid, data), grid * grid
    w = cox_weight(counts.ravel(), grid).astype(np.float32)
    tilt, mean, spread = cox_gaussian(counts.ravel(), grid, w.astype(float))
    laplace = cox_gaussian(counts.ravel(), grid, cox_weight(counts.ravel(), grid, laplace=True))[0]
    starts = {"laplace": (laplace, d, LAPLACE)}
    if grid <= 16:
        starts["prior"] = (cox_prior(counts.ravel(), grid), d, plan(name))
    numbers, run = evidence((tilt, d), starts, plan(name))
    numbers["log_z"], numbers["log_z_error"] = numbers["bridge_value"], numbers["bridge_error"]
    numbers["log_z_apart"] = apart(numbers, (numbers["log_z"], numbers["log_z_error"]), *starts)
    numbers["settled_worst"] = settled(tilt, d, run, (task.TRAJECTORIES, task.LEAPS, task.STEP))
    numbers["forgotten"] = abs(numbers["lag_one"]) ** task.TRAJECTORIES
    more, centre, covariance = moments(run, mean, spread)
    numbers |= more
    kept = {"weight": w, "log_z": np.float64(numbers["log_z"]), "log_z_error": np.float64(numbers["log_z_error"]),
            "mean": centre.astype(np.float32), "variance": np.diag(covariance).astype(np.float32)}  # fmt: skip
    if grid <= 16:
        kept["covariance"] = covariance[np.tril_indices(d)].astype(np.float32)
    np.savez_compressed(DATA / "lgcp" / f"{name}.npz", **kept)
    hashes = {
        "truth": hashlib.sha256((DATA / "lgcp" / f"{name}.npz").read_bytes()).hexdigest(),
        "data": task.digest(counts),
        "model": model_hash("cox_model", "cox_prior", "cox_gaussian"),
    }
    return write(DATA / "lgcp" / f"{name}.json", certificate(name, numbers, {"sha256": hashes}))


def certify_brownian(name: str) -> bool:
    task = sys.modules[registry.find("task", "brownian").load().__module__]
    y, seen = np.array(task.OBSERVED, np.float32).astype(float), np.array(task.SEEN)
    d, setting = task.STEPS + 2, plan(name)
    noise, rng = brownian_noise(y, seen), np.random.default_rng([SEED, 6])
    near = np.concatenate([[-1.1, -1.1], np.zeros(len(y))])
    walkers, pilot = Walkers(noise, near + 0.1 * rng.standard_normal((CHAINS, len(near))), rng), []
    for i in range(1000):
        walkers.step(1.0, 8, 0.1)
        pilot += [walkers.v] if i >= 200 else []
    flat = np.concatenate(pilot)
    gaussian = moved(noise, flat.mean(0), 1.1 * np.linalg.cholesky(np.cov(flat.T)))
    numbers, _ = evidence((gaussian, len(near)), {"prior": (brownian_prior(y, seen), d, setting)}, setting)
    numbers["log_z"], numbers["log_z_error"] = float(task.posterior()[0]), 0.0
    numbers["log_z_apart"] = apart(numbers, (numbers["log_z"], 0.0), "prior", "bridge")
    hashes = {"model": model_hash("brownian_prior", "brownian_noise")}
    return write(DATA / "brownian" / "brownian.json", certificate(name, numbers, {"sha256": hashes}))


def write(path: Path, paper: dict[str, Any]) -> bool:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(paper, indent=1) + "\n")
    failed = [check for check, good in paper["checks"].items() if not good]
    print(paper["target"], paper["numbers"], "failed:", failed, flush=True)
    return not failed


if __name__ == "__main__":
    np.seterr(over="ignore", invalid="ignore")  # of trajectories that run away; they are rejected
    how = {name: certify_cox for name in COX} | {"brownian": certify_brownian}
    bad = [name for name in sys.argv[1:] or NAMES if not how[name](name)]
    if bad:
        sys.exit(f"did not pass: {', '.join(bad)}; the reason is in their certificates")
