"""Two-class tables as signed rows, from gwfbench/data/blr and logistic; their READMEs say how each is prepared."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

import numpy as np

from gwfbench.errors import UserError

FOLDER = files("gwfbench") / "data" / "blr"
WHOLE = files("gwfbench") / "data" / "logistic"


@dataclass(frozen=True)
class _Source:
    """How a file becomes the paper's set: what it must hold, which classes are +1, and what is done to the rest."""

    file: str
    rows: int
    columns: int  # the label included
    positive: frozenset[str]
    scale: Literal["raw", "shipped", "standard", "unit", "thousandth"] = "shipped"
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
_WHOLE = {
    "sonar": _Source("sonar", 208, 61, frozenset("M"), "raw"),
    "ionosphere": _Source("ionosphere", 351, 35, frozenset({"good"}), "raw"),
    "credit": _Source("german", 1000, 21, frozenset("2"), "raw", _german),
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


@cache
def whole(name: str) -> np.ndarray:
    """All rows of a set of task `logistic` as y_i f_i, f_i0 = 1 for the intercept, float64 (N, k).

    Raises:
        UserError: a file is damaged.
    """
    source = _WHOLE[name]
    folder = FOLDER if name == "credit" else WHOLE
    x, positive = _read(folder.joinpath(f"{source.file}.dat.gz").read_bytes(), source)
    x = _numeric(x) if name == "credit" else x - x.mean(0)
    spread = x.std(0)
    x = x / np.where(spread > 0, spread, 1)  # a constant column is 0 and stays
    return np.where(positive, 1.0, -1.0)[:, None] * np.column_stack([np.ones(len(x)), x])


def _numeric(x: np.ndarray) -> np.ndarray:
    """The 24 columns of UCI's german.data-numeric, from the numbers of the codes of german.data's 20 attributes."""
    plain = x[:, [0, 1, 2, 4, 5, 6, 8, 10, 11, 12, 13, 15, 17, 18, 19]]
    plain[:, 3] = np.round(plain[:, 3] / 100)  # the amount; halves go to the even number, as there
    marks = ((3, (0, 1)), (9, (1, 2)), (14, (1, 2)), (16, (1, 2, 3)))  # purpose, debtors, housing, job
    return np.column_stack([plain, *(x[:, column] == code for column, codes in marks for code in codes)])


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
    """Over all rows, as the benchmark sets were shipped; constant columns are left out, except for raw ones."""
    if scale == "raw":
        return x
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
            f"covtype can't be loaded from scikit-learn: {type(error).__name__}: {error}",
            "581012 rows of 54 features, in scikit-learn's data folder or by download",
            "on a machine with network call sklearn.datasets.fetch_covtype(data_home=FOLDER), copy FOLDER here, "
            "and write blr:data=covtype,data_root=FOLDER",
        ) from error
    return (_scaled(x, "unit") + 1) / 2, label == 2


def digest(rows: np.ndarray) -> str:
    """SHA-256 of the rows to six decimals, which do not depend on the order in which a machine sums."""
    return hashlib.sha256((np.round(rows, 6) + 0.0).astype("<f8").tobytes()).hexdigest()
