"""Image data sets as uint8 tensors (n, c, h, w), from the files that they are distributed in.

    digits          scikit-learn's 8 x 8 digits, which come with it; 0 ... 16 scaled to 0 ... 255, split 4:1
    mnist, fashion_mnist   train-images-idx3-ubyte, t10k-images-idx3-ubyte and labels, plain or .gz (IDX)
    cifar10         cifar-10-batches-bin/data_batch_1.bin ... test_batch.bin, or cifar-10-binary.tar.gz
    folder          PNG or JPEG files of one size, right in a folder; the last fifth by name is the test part; how
                    pixels of each kind are read is in `datasets.pictures`

Files are looked for in `data_root`/<data set>, then in `data_root` itself; without a `data_root` in the folder that the
environment variable GWFBENCH_DATA names, then in ~/.cache/gwfbench, and fashion_mnist where Debian's package
dataset-fashion-mnist has it. What is found must have the SHA-256 of the distributed content (of the plain file: packers
differ), so that no set can pass for another; for a folder of one's own no hash is known.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import io
import math
import os
import struct
import tarfile
import tempfile
import urllib.request
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from gwfbench.datasets import pictures
from gwfbench.errors import UserError

Data = Literal["digits", "fashion_mnist", "mnist", "cifar10", "folder"]
VARIABLE = "GWFBENCH_DATA"
CACHE = Path("~/.cache/gwfbench")
DEBIAN = {"fashion_mnist": Path("/usr/share/datasets/fashion-mnist")}
ENDINGS = (".png", ".jpg", ".jpeg")
TIMEOUT = 60.0  # seconds without a byte
SOURCES = {
    "mnist": "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "fashion_mnist": "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    "cifar10": "https://www.cs.toronto.edu/~kriz/",
}
ARCHIVE = "cifar-10-binary.tar.gz"
BATCHES = "cifar-10-batches-bin"
KNOWN = {  # SHA-256 of the plain files
    "mnist": {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    "fashion_mnist": {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
    "cifar10": {
        "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
        "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
        "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
        "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
        "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
        "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
    },
}


def load(data: Data, root: str | None = None, download: bool = False) -> tuple[Tensor, Tensor]:
    """The training and the test part, uint8 (n, c, h, w).

    Raises:
        UserError: files are missing, incomplete, or not those of the set; a download failed.
    """
    match data:
        case "digits":
            return _split(_digits()[0][:, None])
        case "folder":
            return _split(_folder(root), shuffled=False)
        case "cifar10":
            train, test = ([_cifar_rows(name, root, download) for name in names] for names in _cifar_names())
            return tuple(torch.from_numpy(_planes(np.concatenate(part))) for part in (train, test))  # type: ignore[return-value]
    parts = (_idx(data, f"{part}-images-idx3-ubyte", root, download)[:, None] for part in ("train", "t10k"))
    return tuple(map(torch.from_numpy, parts))  # type: ignore[return-value]


def own_files(data: Data, root: str | None = None, download: bool = False) -> list[Path]:
    """Files that only a hash can tell from others, in their order: those of a folder.

    Raises:
        UserError: files of the set are missing and may not be downloaded.
    """
    if data == "folder":
        return folder(root)
    for name in (name for name in KNOWN.get(data, ()) if "labels" not in name):
        _found(data, name, root, ARCHIVE if data == "cifar10" else f"{name}.gz", download)
    return []


def labels(data: Data, root: str | None = None, download: bool = False) -> tuple[Tensor, Tensor]:
    """The classes of both parts, int64 (n,), in the order of `load`.

    Raises:
        UserError: as `load`; a folder has none.
    """
    match data:
        case "digits":
            return _split(_digits()[1].astype(np.int64))
        case "folder":
            raise UserError("labels of a folder", "a data set that has classes", "take digits, mnist, ...")
        case "cifar10":
            parts = ([_cifar_rows(name, root, download)[:, 0] for name in names] for names in _cifar_names())
            return tuple(torch.from_numpy(np.concatenate(part)).long() for part in parts)  # type: ignore[return-value]
    parts = (_idx(data, f"{part}-labels-idx1-ubyte", root, download) for part in ("train", "t10k"))
    return tuple(torch.from_numpy(part).long() for part in parts)  # type: ignore[return-value]


def _split(rows: np.ndarray, shuffled: bool = True) -> tuple[Tensor, Tensor]:
    """4:1, after a permutation that is always the same, or as they stand."""
    if shuffled:
        rows = rows[np.random.default_rng(42).permutation(len(rows))]
    cut = int(0.8 * len(rows))
    return torch.from_numpy(rows[:cut].copy()), torch.from_numpy(rows[cut:].copy())


def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    x, label = load_digits(return_X_y=True)
    return np.round(np.asarray(x) * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8), np.asarray(label)


# ------------------------------------------------------------------------------------------------ files of a set


def _places(data: str, root: str | None) -> list[Path]:
    """Folders that may hold the set's files, the most particular first."""
    if root is not None:
        return [Path(root).expanduser() / data, Path(root).expanduser()]
    named = os.environ.get(VARIABLE)
    roots = ([Path(named).expanduser()] if named else []) + [CACHE.expanduser()]
    places = [folder for root in roots for folder in (root / data, root)]
    return [*places, DEBIAN[data]] if data in DEBIAN else places


def _found(data: str, name: str, root: str | None, distributed: str, download: bool) -> Path | None:
    """Where a set's file is, plain or as distributed; None if it may be downloaded."""
    places = _places(data, root)
    for path in (folder / each for folder in places for each in (name, f"{BATCHES}/{name}", distributed)):
        if path.is_file():
            return path
    if download:
        return None
    how = "install the package dataset-fashion-mnist (Debian), or " if data in DEBIAN else ""
    raise UserError(
        f"images:data={data}: no file {name} or {distributed} in {', '.join(map(str, places))}",
        "the files as they are distributed, in one of these folders",
        f"{how}write download=true, or copy them from {SOURCES[data]} and name the folder by data_root= or {VARIABLE}",
    )


def _plain(
    data: str, name: str, root: str | None, download: bool, distributed: str, unpack: Callable[[bytes], bytes]
) -> tuple[bytes, Path]:
    """Content of a set's file, unpacked, and where it was: checked, downloaded first if that is wanted.

    Args:
        name: of the plain file.    distributed: name of what is distributed, from which `unpack` gets the content.
    """
    path = _found(data, name, root, distributed, download)
    if path is not None:
        packed = path.name == Path(distributed).name
        return _checked(data, name, _unpacked(path, packed, unpack), str(path)), path
    path, url = _places(data, root)[0] / distributed, SOURCES[data] + distributed
    content = _fetched(url)
    try:
        plain = unpack(content)
    except (OSError, EOFError, KeyError, ValueError, zlib.error, tarfile.TarError) as error:
        raise _damaged(url, error) from error
    _checked(data, name, plain, url)
    _write(path, content)
    return plain, path


def _unpacked(path: Path, packed: bool, unpack: Callable[[bytes], bytes]) -> bytes:
    try:
        return unpack(path.read_bytes()) if packed else path.read_bytes()
    except (OSError, EOFError, KeyError, ValueError, zlib.error, tarfile.TarError) as error:
        raise _damaged(str(path), error) from error


def _damaged(where: str, error: object) -> UserError:
    return UserError(f"{where} can't be read: {error}", "the file as it is distributed, whole", "get it again")


def _checked(data: str, name: str, content: bytes, where: str) -> bytes:
    """The content, if it is that of the set's file of this name."""
    known, found = KNOWN[data].get(name), hashlib.sha256(content).hexdigest()
    if known is not None and found != known:
        raise UserError(
            f"{where} is not {data}'s {name}: {len(content)} bytes with SHA-256 {found[:12]}",
            f"SHA-256 {known[:12]} of the plain file",
            f"download it again; or, if it is of another set, put each set's files into a folder of its name ({data}/)",
        )
    return content


def _fetched(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
            return answer.read()
    except (OSError, ValueError, http.client.HTTPException) as error:  # URLError is an OSError
        raise UserError(
            f"{url} can't be downloaded: {error}",
            "a machine with network",
            "download it elsewhere, copy it here, and name its folder by data_root=",
        ) from error


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(content)
        Path(file.name).replace(path)
    except OSError as error:
        raise UserError(f"{path} can't be written: {error}", "a folder for data", "name one by data_root=") from error


# ------------------------------------------------------------------------------------------------ formats


def _idx(data: str, name: str, root: str | None, download: bool) -> np.ndarray:
    """The bytes of an IDX file: images (n, h, w), labels (n,).

    Format: 0 0 8 D, D big-endian 32-bit sizes, then the bytes (D = 3 for images, 1 for labels).
    """
    content, path = _plain(data, name, root, download, f"{name}.gz", gzip.decompress)
    axes = 3 if "idx3" in name else 1
    start = 4 + 4 * axes
    if len(content) < start or content[:4] != bytes((0, 0, 8, axes)):
        raise _damaged(
            str(path), f"it begins with {content[:4].hex() or 'nothing'}, not {bytes((0, 0, 8, axes)).hex()}"
        )
    sizes = struct.unpack(f">{axes}I", content[4:start])
    if len(content) - start != math.prod(sizes) or not all(sizes):
        raise _damaged(str(path), f"it says {' x '.join(map(str, sizes))} bytes and has {len(content) - start}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(sizes).copy()


def _cifar_names() -> tuple[list[str], list[str]]:
    names = list(KNOWN["cifar10"])
    return names[:-1], names[-1:]


def _cifar_rows(name: str, root: str | None, download: bool) -> np.ndarray:
    """The rows of a binary batch, (n, 3073): the class, then 32 x 32 of red, green, blue."""

    def member(packed: bytes) -> bytes:
        with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as archive:
            file = archive.extractfile(f"{BATCHES}/{name}")
            if file is None:
                raise KeyError(f"no file {BATCHES}/{name} in it")
            return file.read()

    content, path = _plain("cifar10", name, root, download, ARCHIVE, member)
    if not content or len(content) % 3073:
        raise _damaged(str(path), f"{len(content)} bytes are no rows of 3073")
    rows = np.frombuffer(content, np.uint8).reshape(-1, 3073)
    if rows[:, 0].max() > 9:
        raise _damaged(str(path), f"class {rows[:, 0].max()}, of 0 to 9")
    return rows


def _planes(rows: np.ndarray) -> np.ndarray:
    return rows[:, 1:].reshape(-1, 3, 32, 32).copy()


def folder(root: str | None) -> list[Path]:
    """The files of images right in a folder, by name.

    Raises:
        UserError: it has too few.
    """
    place = root or os.environ.get(VARIABLE)
    fix = "write images:data=folder,data_root=FOLDER"
    if place is None:
        raise UserError("images:data=folder", "a data_root", fix)
    found = Path(place).expanduser()
    paths = sorted(path for path in found.glob("*") if path.suffix.lower() in ENDINGS) if found.is_dir() else []
    if len(paths) < 5:
        raise UserError(
            f"images:data=folder: {len(paths)} images in {found}",
            f"at least 5 files {', '.join(ENDINGS)} right in the folder (the last fifth by name is the test part)",
            fix,
        )
    return paths


def _folder(root: str | None) -> np.ndarray:
    """The images right in a folder, by name: (n, 1, h, w) if all are grey, else (n, 3, h, w)."""
    paths = folder(root)
    images = list(map(_picture, paths))
    grey = all(image.ndim == 2 for image in images)
    full = [image[None] if grey else _coloured(image) for image in images]
    odd = next((i for i, image in enumerate(full) if image.shape != full[0].shape), None)
    if odd is not None:
        sizes = [f"{full[i].shape[2]} x {full[i].shape[1]}" for i in (odd, 0)]
        raise UserError(f"{paths[odd]} is {sizes[0]}", f"all of one size: {paths[0].name} is {sizes[1]}", "resize them")
    return np.stack(full)


def _coloured(image: np.ndarray) -> np.ndarray:
    return np.repeat(image[None], 3, 0) if image.ndim == 2 else image.transpose(2, 0, 1)


def _picture(path: Path) -> np.ndarray:
    """(h, w) of a grey image, (h, w, 3) of any other."""
    try:
        return pictures.read(path)
    except (OSError, ValueError, SyntaxError, OverflowError, struct.error, zlib.error) as error:
        raise _damaged(str(path), error) from error
