"""CIFAR-10 as it is distributed: binary batches, or the pickled ones of Python, plain or in their archive.

    data_batch_1.bin ... test_batch.bin     rows of 3073 bytes: the class, then 32 x 32 of red, of green, of blue
    cifar-10-batches-py/data_batch_1 ...    a pickled dictionary of the same batch: `labels` and `data`, (n, 3072)

Both must hold the same bytes: those whose SHA-256 is known of the binary batch.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from functools import partial

import numpy as np

from gwfbench.datasets.distributed import KNOWN, Packs, damaged, plain
from gwfbench.datasets.pickled import values

ARCHIVE = "cifar-10-binary.tar.gz"
PICKLED_ARCHIVE = "cifar-10-python.tar.gz"
BATCHES = "cifar-10-batches-bin"
PICKLED = "cifar-10-batches-py"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ROW = 1 + 3 * 32 * 32


def parts(root: str | None, download: bool) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the training and of the test part, (n, 3073)."""
    *train, test = (rows(name, root, download) for name in KNOWN["cifar10"])
    return np.concatenate(train), test


def planes(rows: np.ndarray) -> np.ndarray:
    """Images (n, 3, 32, 32) of rows."""
    return rows[:, 1:].reshape(-1, 3, 32, 32).copy()


def packs(name: str) -> Packs:
    """Where the batch of this name, as in data_batch_1.bin, may be found."""
    own = name.removesuffix(".bin")
    return {
        name: bytes,
        f"{BATCHES}/{name}": bytes,
        ARCHIVE: partial(_member, f"{BATCHES}/{name}", bytes),
        f"{PICKLED}/{own}": unpickled,
        PICKLED_ARCHIVE: partial(_member, f"{PICKLED}/{own}", unpickled),
    }


def rows(name: str, root: str | None, download: bool) -> np.ndarray:
    """The rows of one batch, (n, 3073)."""
    content, path = plain("cifar10", name, root, download, packs(name), ARCHIVE)
    if not content or len(content) % ROW:
        raise damaged(str(path), f"{len(content)} bytes are no rows of {ROW}")
    found = np.frombuffer(content, np.uint8).reshape(-1, ROW)
    if found[:, 0].max() > 9:
        raise damaged(str(path), f"class {found[:, 0].max()}, of 0 to 9")
    return found


def unpickled(content: bytes) -> bytes:
    """The binary batch that a pickled one holds.

    Raises:
        ValueError: it holds none.
    """
    batch = values(content)
    labels, data = (batch.get(key) for key in ("labels", "data")) if isinstance(batch, dict) else (None, None)
    if not (isinstance(labels, list) and isinstance(data, np.ndarray)):
        raise ValueError("it is no pickled dictionary of labels and data")
    if data.dtype != np.uint8 or data.shape != (len(labels), ROW - 1):
        raise ValueError(f"its data are {data.dtype} of shape {data.shape} for {len(labels)} labels")
    if not all(type(label) is int and 0 <= label <= 9 for label in labels):
        raise ValueError("its labels are not numbers of 0 to 9")
    return np.concatenate([np.array(labels, np.uint8)[:, None], data], 1).tobytes()


def _member(name: str, unpack: Callable[[bytes], bytes], packed: bytes) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as archive:
        file = archive.extractfile(name)
        if file is None:
            raise KeyError(f"no file {name} in it")
        return unpack(file.read())
