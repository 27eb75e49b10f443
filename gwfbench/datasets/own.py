"""Tables of numbers in files of a user's own: .csv with or without a line of names, .npy, or .npz with one array."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gwfbench.errors import UserError, require

KINDS = (".csv", ".npy", ".npz")
FEWEST = 20  # rows


def path(task: str, file: str) -> Path:
    """The file that a field names.

    Raises:
        UserError: it is not there, or of another kind.
    """
    found = Path(file).expanduser()
    fix = f'write {task}:file=mine.csv, or file="a,b.csv" for a name with a comma'
    require(found.suffix in KINDS, f"{task}:file={file}", f"a file that ends in {', '.join(KINDS)}", fix)
    require(found.is_file(), f"{task}:file={file}: no such file in {Path.cwd()}", "a file that is there", fix)
    return found


def table(file: Path) -> np.ndarray:
    """Its rows, float64 (N, columns).

    Raises:
        UserError: it is no table of at least `FEWEST` rows of finite numbers.
    """
    expected = f"a table of at least {FEWEST} rows of finite numbers, a point in each"
    try:
        found = _csv(file) if file.suffix == ".csv" else _numpy(file)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{file}: {error}", expected, "see gwfbench/datasets/own.py") from None
    found = found[:, None] if found.ndim == 1 else found
    require(found.ndim == 2, f"{file}: an array of shape {found.shape}", expected, "reshape it to one row per point")
    good = np.isfinite(found).all(1)
    where = f", for example row {int(np.flatnonzero(~good)[0]) + 1}" if not good.all() else ""
    require(bool(good.all()), f"{file}: {int((~good).sum())} rows are not finite{where}", expected, "remove these rows")
    require(len(found) >= FEWEST, f"{file}: {len(found)} rows", expected, "give more points")
    return found


def _csv(file: Path) -> np.ndarray:
    import pandas as pd

    with file.open(encoding="utf-8-sig") as lines:
        first = lines.readline().strip().split(",")
    names = 0 if any(not _is_number(cell) for cell in first) else None
    rows = pd.read_csv(file, header=names, encoding="utf-8-sig")
    words = [str(name) for name in rows if not pd.api.types.is_numeric_dtype(rows[name])]
    if words:
        raise ValueError(f"column {', '.join(words)} has something else than numbers")
    return rows.to_numpy(np.float64)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numpy(file: Path) -> np.ndarray:
    found = np.load(file, allow_pickle=False)
    if not isinstance(found, np.ndarray):
        with found:
            if len(found.files) != 1:
                raise ValueError(f"arrays {', '.join(found.files) or '(none)'}, expected one")
            found = found[found.files[0]]
    if found.dtype.kind not in "fiub":
        raise ValueError(f"numbers of type {found.dtype}")
    return found.astype(np.float64)
