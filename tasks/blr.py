"""Bayesian logistic regression: the posterior of x = (w, log alpha) given rows (f_i, y_i), y_i in {-1, 1}.

    alpha ~ Gamma(1, rate b),  b = 0.01     p(w | alpha) = N(0, I / alpha),  w in R^k     p(y | w) = sigmoid(y w . f)
    log p(x | data) = sum_i log sigmoid(y_i w . f_i)                                                (posterior=derived)
                      - alpha |w|^2 / 2 + (k / 2) log alpha - b alpha + log alpha + const

The last log alpha is the Jacobian of alpha -> log alpha. Fan et al. 2022 (section 5.3, F.4, Tables 2, 5, 6) take the
model of Gershman et al. 2012 via Liu and Wang 2016: no intercept, a split of 4:1, and quality by the posterior
predictive law on the test part with at most 4096 draws of x. P_0 is the prior. The log alpha of its draws is clipped to
[-8, 8]; this affects one draw in 300 000 and is therefore left out of its density.

posterior=authors is what their code has instead, without (k / 2) log alpha and the Jacobian, and with rate b = 100:

    log p(x) = sum_i log sigmoid(y_i w . f_i) - alpha |w|^2 / 2 - 100 alpha

It tends to a constant as log alpha -> -inf, so it is not a probability law and has no truth. Their clamps inside the
density (log alpha to [-8, 8], probabilities to 1e-5) are left out, because they would make it non-differentiable. The
clip of P_0 affects 3.3 % of its draws here, so its density is not offered.

Data: gwfbench/data/blr/README.md gives, for each set, its source, how it was prepared to match the paper's, and the
remaining differences. All seeds share one split: rows permuted by NumPy's default_rng(42), the first int(0.8 N) for
training.

Truth: 4096 thinned draws of a long NUTS run (scripts/blr_reference.py) that passed the checks in its certificate, with
moments from all of its draws. There is no truth for covtype, which scikit-learn downloads, and for posterior=authors.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from gwfbench.errors import UserError, require
from gwfbench.fields import check_fields, refuse
from gwfbench.info import Info, Initial, LogDensity
from gwfbench.protocol import Estimate, Instance, Judged, Metric, Problem, Truth
from gwfbench.rng import Streams

CLIP = 8.0  # of log alpha in P_0's draws
BLOCKS = 50  # of the jackknife
CHUNK = 2**22  # points x rows of one slice of the logits, per seed
FOLDER = files("gwfbench") / "data" / "blr"


@dataclass(frozen=True)
class BLR:
    data: Literal["banana", "german", "diabetis", "image", "splice", "twonorm", "ringnorm", "waveform", "covtype"] = (
        "german"
    )
    "data set; scikit-learn downloads covtype"
    posterior: Literal["derived", "authors"] = "derived"
    "log-density; derived: the model's posterior; authors: what the code of Fan et al. has (improper, no truth)"
    data_root: str | None = None
    "scikit-learn's data folder, for covtype only; default: its own"

    offers: ClassVar[frozenset[type[Info]]] = frozenset({Initial, LogDensity})
    metrics: ClassVar[tuple[str, ...]] = (
        *("log_likelihood", "accuracy", "mmd", "ksd", "energy_distance", "w2", "sliced_w2", "symkl", "symkl_debiased"),
        *("moments_mean", "moments_covariance"),
    )
    files: ClassVar[tuple[str, ...]] = ("data/blr",)
    points: ClassVar[int] = 4096
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {"data": "diabetis"}
    reference: ClassVar[str] = """@inproceedings{fan2022variational,
  title={Variational {W}asserstein gradient flow}, author={Fan, Jiaojiao and Zhang, Qinsheng and Taghvaei, Amirhossein
  and Chen, Yongxin}, booktitle={ICML}, year={2022}}"""

    def __post_init__(self) -> None:
        check_fields(self)
        refuse(
            self,
            *("data_root", "data"),
            when=self.data_root is not None and self.data != "covtype",
            expected="a data_root with covtype only; the other sets come with the package",
        )

    def build(self, rng: Streams) -> Instance:
        derived = self.posterior == "derived"
        train, test = (torch.from_numpy(part).to(rng.device) for part in signed_rows(self.data, self.data_root))
        k = train.shape[1]
        prior = _Prior(k, 0.01, 0.5 * k + 1) if derived else _Prior(k, 100.0, 0.0)
        start = Initial(prior.draw, prior.log_prob if derived else None)
        problem = Problem((k + 1,), (math.inf,), (start, _posterior(prior, train.to(rng.dtype))))
        precise = _posterior(prior, train)

        def score(index: int, x: Tensor) -> Tensor:
            return precise.score(x.double()).to(x.dtype)

        own = (
            Metric("log_likelihood", partial(_judge, test, _log), 4096, f"mean of log p_i: {_SOURCE}", better="higher"),
            Metric("accuracy", partial(_judge, test, _hit), 4096, f"share of p_i > 1/2: {_SOURCE}", better="higher"),
        )
        found = reference(self.data) if derived else None
        if found is None:
            return Instance(problem, Truth(None, exact=False, score=score, metrics=own))
        draws, mean, covariance = (torch.from_numpy(found[key]) for key in ("draws", "mean", "covariance"))
        mean, covariance = mean.expand(len(rng.seeds), -1), covariance.expand(len(rng.seeds), -1, -1)

        def draw(half: Tensor, index: int, n: int, streams: Streams) -> Tensor:
            if n > len(half):
                raise ValueError(f"{len(half)} reference draws are at hand; {n} were asked for")
            chosen = streams.host().uniform(len(half)).argsort(1)[:, :n]  # without replacement
            return half[chosen].to(streams.device, streams.dtype)

        def moments(index: int) -> tuple[Tensor, Tensor]:
            return mean.to(rng.device), covariance.to(rng.device)

        truth = Truth(
            partial(draw, draws[::2]),
            exact=True,
            limit=len(draws) // 2,
            reference=partial(draw, draws[1::2]),
            score=score,
            moments=moments,
            metrics=own,
        )
        return Instance(problem, truth)


@dataclass(frozen=True)
class _Prior:
    """log p(w, log alpha) = power log alpha - alpha (rate + |w|^2 / 2) + constant; power k / 2 + 1 is the true one."""

    k: int
    rate: float
    power: float

    def draw(self, n: int, rng: Streams) -> Tensor:
        alpha = -torch.log1p(-rng.uniform(n, 1)) / self.rate
        log_alpha = alpha.log().clamp(-CLIP, CLIP)
        return torch.cat([rng.normal(n, self.k) * torch.exp(-log_alpha / 2), log_alpha], -1)

    def log_prob(self, x: Tensor) -> Tensor:
        constant = math.log(self.rate) - 0.5 * self.k * math.log(2 * math.pi)
        return self.power * x[..., -1] - x[..., -1].exp() * (self.rate + 0.5 * x[..., :-1].square().sum(-1)) + constant

    def score(self, x: Tensor) -> Tensor:
        w, alpha = x[..., :-1], x[..., -1:].exp()
        return torch.cat([-alpha * w, self.power - alpha * (self.rate + 0.5 * w.square().sum(-1, keepdim=True))], -1)


def _posterior(prior: _Prior, rows: Tensor, scale: float = 1.0) -> LogDensity:
    """The prior times `scale` powers of the likelihood of `rows`, signed features (N, k) or (S, N, k)."""

    def log_prob(x: Tensor) -> Tensor:
        return prior.log_prob(x) + scale * _LogLikelihood.apply(x[..., :-1], rows)  # type: ignore[operator]

    def score(x: Tensor) -> Tensor:
        likelihood = torch.nn.functional.pad(_slope(x[..., :-1], rows), (0, 1))
        return prior.score(x) + scale * likelihood

    def batch(count: int, rng: Streams) -> LogDensity:
        """From `count` rows per seed without replacement; from all rows if there are no more."""
        size = len(rows)
        if count >= size:
            return LogDensity(log_prob, score)
        chosen = rng.uniform(size).topk(count, 1).indices  # (S, count)
        part = _posterior(prior, rows[chosen], size / count)
        return LogDensity(part.log_prob, part.score)

    return LogDensity(log_prob, score, batch)


class _LogLikelihood(torch.autograd.Function):
    """sum_i log sigmoid(w . z_i) of signed rows z_i, (S, n, k) -> (S, n), by slices of the points.

    Backward computes the logits again: autograd would keep all n N of them, 2 GB for 1024 points of covtype.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(w: Tensor, rows: Tensor) -> Tensor:
        return torch.cat([logsigmoid(part @ rows.mT).sum(-1) for part in _slices(w, rows)], -1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0][..., None] * _slope(*ctx.saved_tensors), None


def _slope(w: Tensor, rows: Tensor) -> Tensor:
    """Gradient of the log-likelihood, sum_i sigmoid(-w . z_i) z_i."""
    return torch.cat([torch.sigmoid(-(part @ rows.mT)) @ rows for part in _slices(w, rows)], -2)


def _slices(w: Tensor, rows: Tensor) -> tuple[Tensor, ...]:
    return w.split(max(1, CHUNK // rows.shape[-2]), -2)


_SOURCE = (
    "p_i the mean over the points of sigmoid(y_i w . f_i), i over the test rows (Liu and Wang 2016; Fan et al. 2022, "
    "F.4); standard error over the points by the block jackknife, the test rows held fixed"
)


def _log(p: Tensor) -> Tensor:
    return p.clamp_min(torch.finfo(p.dtype).tiny).log()


def _hit(p: Tensor) -> Tensor:
    return (p > 0.5).to(p.dtype)


def _judge(test: Tensor, reward: Callable[[Tensor], Tensor], judged: Judged) -> Estimate:
    """Mean over the test rows of `reward` of their predictive probability, and its jackknife error over the points."""
    n = judged.points.shape[1]
    if n < 2:
        raise ValueError(f"the jackknife needs at least 2 points, got {n}")
    values, errors = [], []
    for w in judged.points[..., :-1].double():
        blocks = w.tensor_split(min(BLOCKS, n))
        sums = torch.stack([torch.sigmoid(block @ test.mT).sum(0) for block in blocks])  # (B, rows)
        left = torch.tensor([n - len(block) for block in blocks], dtype=torch.float64, device=w.device)
        f = reward((sums.sum(0) - sums) / left[:, None]).mean(1)
        values.append(reward(sums.sum(0) / n).mean())
        errors.append(((len(blocks) - 1) / len(blocks) * (f - f.mean()).square().sum()).sqrt())
    return Estimate(torch.stack(values), torch.stack(errors), n)


@dataclass(frozen=True)
class _Source:
    """How a file becomes the paper's set: what it must hold, which classes are +1, and what is done to the rest."""

    file: str
    rows: int
    columns: int  # the label included
    positive: frozenset[str]
    scale: Literal["shipped", "standard", "unit", "thousandth"] = "shipped"
    code: Callable[[int, str], float] | None = None  # (column, text); None: plain numbers
    distinct: bool = False
    letters: frozenset[str] = frozenset()  # rows with others than these are left out


def _german(column: int, text: str) -> float:
    return float(text.removeprefix(f"A{column + 1}"))  # A34 is attribute 3's value 4


_SOURCES: dict[str, _Source] = {
    "banana": _Source("banana", 5300, 3, frozenset({"1.0"})),
    "german": _Source("german", 1000, 21, frozenset("2"), "standard", _german),
    "diabetis": _Source("pima", 768, 9, frozenset({"tested_positive"}), "unit"),
    "image": _Source("segment", 2310, 20, frozenset("457"), "standard", distinct=True),
    "splice": _Source(
        *("splice", 3190, 61, frozenset({"EI", "IE"}), "standard"),
        code=lambda _, text: float("ACTG".index(text)),
        distinct=True,
        letters=frozenset("ACTG"),
    ),
    "twonorm": _Source("twonorm", 7400, 21, frozenset("1")),
    "ringnorm": _Source("ring", 7400, 21, frozenset("1"), "thousandth"),
}


@cache
def signed_rows(name: str, data_root: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The training and the test part of a set as y_i f_i, float64 (N, k).

    Raises:
        UserError: covtype can't be had, or a file is damaged.
    """
    if name == "covtype":
        features, positive = _covtype(data_root)
    elif name == "waveform":
        features, positive = _waveform()
    else:
        source = _SOURCES[name]
        features, positive = _read(FOLDER.joinpath(f"{source.file}.dat.gz").read_bytes(), source)
    order = np.random.default_rng(42).permutation(len(features))
    rows = (np.where(positive, 1.0, -1.0)[:, None] * features)[order]
    cut = int(0.8 * len(rows))
    return rows[:cut].copy(), rows[cut:].copy()


def _read(packed: bytes, source: _Source) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, k) and whether each row is of the positive class, from a gzipped table with the label last."""
    try:
        lines = gzip.decompress(packed).decode().splitlines()
        table = [tuple(cell.strip() for cell in line.split(",")) for line in lines]
        wrong = [i + 1 for i, row in enumerate(table) if len(row) != source.columns]
        if wrong or len(table) != source.rows:
            raise ValueError(f"{len(table)} rows" + (f", row {wrong[0]} of the wrong length" if wrong else ""))
        if source.letters:
            table = [row for row in table if source.letters.issuperset(row[:-1])]
        if source.distinct:
            table = list(dict.fromkeys(table))
        cells = [row[:-1] for row in table]
        code = source.code
        features = np.array([[code(j, text) for j, text in enumerate(row)] for row in cells] if code else cells, float)
    except (ValueError, EOFError, OSError, zlib.error) as error:
        raise UserError(
            f"the data file {source.file}.dat.gz can't be read: {error}",
            f"{source.rows} rows of {source.columns} columns, the class last",
            "the file is damaged: install gwfbench again",
        ) from error
    return _scaled(features, source.scale), np.array([row[-1] in source.positive for row in table])


def _scaled(x: np.ndarray, scale: str) -> np.ndarray:
    """Over all rows, as the benchmark sets were shipped; constant columns are left out."""
    low, high = x.min(0), x.max(0)
    x, low, high = (part[..., high > low] for part in (x, low, high))
    match scale:
        case "standard":
            return (x - x.mean(0)) / x.std(0)
        case "unit":
            return 2 * (x - low) / (high - low) - 1
        case "thousandth":
            return x / 1000
    return x


def _waveform() -> tuple[np.ndarray, np.ndarray]:
    """Breiman et al. 1984: u h_a + (1 - u) h_b + noise in 21 points, h hats; the first class against the rest."""
    rng, points = np.random.default_rng(42), np.arange(1, 22)
    hats = np.stack([np.maximum(6 - np.abs(points - peak), 0) for peak in (11, 7, 15)])
    label, u = rng.integers(0, 3, 5000), rng.random((5000, 1))
    a, b = np.array([0, 0, 1])[label], np.array([1, 2, 2])[label]
    x = u * hats[a] + (1 - u) * hats[b] + rng.standard_normal((5000, 21))
    return _scaled(x, "standard"), label == 0


def _covtype(data_root: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Class 2 (lodgepole pine) against the rest, columns scaled to [0, 1], as LIBSVM's covtype.binary.scale."""
    from sklearn.datasets import fetch_covtype

    try:
        x, label = map(np.asarray, fetch_covtype(data_home=data_root, return_X_y=True))
        if x.shape[1] != 54:
            raise ValueError(f"it has {x.shape[1]} columns")
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"covtype can't be had from scikit-learn: {type(error).__name__}: {error}",
            "581012 rows of 54 features, in scikit-learn's data folder or by download",
            "on a machine with network call sklearn.datasets.fetch_covtype(data_home=FOLDER), copy FOLDER here, "
            "and write blr:data=covtype,data_root=FOLDER",
        ) from error
    return (_scaled(x, "unit") + 1) / 2, label == 2


def reference(name: str) -> dict[str, np.ndarray] | None:
    """draws (4096, d) float32, mean (d,), covariance (d, d) and mcse (d,) float64 of the set's NUTS run.

    None where there is no certificate, or one that did not pass.

    Raises:
        UserError: the certificate is of other draws or of other data.
    """
    paper = FOLDER.joinpath(f"{name}.json")
    if not paper.is_file():
        return None
    certificate = json.loads(paper.read_text())
    if not all(certificate["checks"].values()):
        return None
    packed = FOLDER.joinpath(f"{name}.npz").read_bytes()
    found = {"draws": hashlib.sha256(packed).hexdigest(), "data": digest(signed_rows(name)[0])}
    for what, is_now in found.items():
        require(
            is_now == certificate["sha256"][what],
            f"the reference of blr:data={name} was certified for other {what} (sha256 {is_now[:12]})",
            f"sha256 {certificate['sha256'][what][:12]}",
            "install gwfbench again, or make the reference anew with scripts/blr_reference.py",
        )
    with np.load(io.BytesIO(packed)) as arrays:
        return dict(arrays)


def digest(rows: np.ndarray) -> str:
    """SHA-256 of the rows to six decimals, which do not depend on the order in which a machine sums."""
    return hashlib.sha256((np.round(rows, 6) + 0.0).astype("<f8").tobytes()).hexdigest()
