"""Images that are kept as PNG or JPEG files, in one of three layouts, as uint8 tensors.

    train.npz, test.npz          `jpeg` (uint8): the bytes of all files, one after the other; `offset` (n + 1): image i
                                 is jpeg[offset[i]:offset[i + 1]]; `label` (n): which of the names in `classes`
    train/CLASS/*, test/CLASS/*  a file for each image, in a folder for each class; in the order of their names
    *                            all files right in the folder, by name; the last fifth is the test part; no classes

All images have one size. They are (n, 1, h, w) if all are grey, else (n, 3, h, w); how pixels of each kind are read is
in `datasets.pictures`.

A thousand images and more are decoded once, and kept in gwfbench/decoded/ in $XDG_CACHE_HOME or ~/.cache. The name of
what is kept is a hash of what all files hold and of the decoder's version; it has the sum of its pixels, and one that
is damaged is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import zipfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np

from gwfbench.datasets import pictures
from gwfbench.datasets.distributed import UNREADABLE, damaged, write
from gwfbench.errors import UserError, require

Layout = Literal["npz", "classes", "flat"]
ENDINGS = (".png", ".jpg", ".jpeg")
PARTS = ("train", "test")
KEYS = ("jpeg", "offset", "label", "classes")
WORTH = 1000  # images, from which on they are kept decoded
VERSION = 1  # raised when the same files give other pixels


@dataclass(frozen=True)
class Part:
    """Encoded images, what each is called, and which of the classes each is of, where there are classes."""

    images: list[bytes]
    names: list[str]
    labels: np.ndarray | None
    classes: tuple[str, ...] = ()


def layout(place: Path) -> Layout | None:
    """How images are laid out in this folder; None if there are none.

    Raises:
        UserError: there are several kinds of them, or only one of two parts.
    """
    here: dict[Layout, list[bool]] = {
        "npz": [(place / f"{part}.npz").is_file() for part in PARTS],
        "classes": [(place / part).is_dir() for part in PARTS],
        "flat": [bool(_pictures(place))],
    }
    kinds: list[Layout] = [kind for kind, there in here.items() if any(there)]
    require(
        len(kinds) < 2 and all(all(here[kind]) for kind in kinds),
        f"{place} has " + " and ".join(_shown(kind, here[kind]) for kind in kinds),
        "train.npz and test.npz, or train/CLASS/ and test/CLASS/, or images right in the folder",
        "move all other files into another folder",
    )
    return kinds[0] if kinds else None


def files(place: Path, kind: Layout) -> list[Path]:
    """The files that hold the images, in an order that tells the parts apart.

    Raises:
        UserError: there are too few.
    """
    if kind == "npz":
        return [place / f"{part}.npz" for part in PARTS]
    if kind == "classes":
        train, test = ([path for _, path in _in_classes(place / part)] for part in PARTS)
        return [*train, train[0], *test]  # the first again between the two: one that changes sides changes the list
    paths = _pictures(place)
    require(
        len(paths) >= 5,
        f"images:data=folder: {len(paths)} images in {place}",
        f"at least 5 files {', '.join(ENDINGS)} right in the folder (the last fifth by name is the test part), or "
        "train/CLASS/ and test/CLASS/, or train.npz and test.npz",
        "write images:data=folder,data_root=FOLDER",
    )
    return paths


def read(place: Path, kind: Layout) -> tuple[Part, Part]:
    """Both parts.

    Raises:
        UserError: files are damaged, there are too few, or the parts have other classes.
    """
    if kind == "flat":
        paths = files(place, kind)
        whole, cut = [(0, path) for path in paths], int(0.8 * len(paths))
        return _of_files(whole[:cut], None), _of_files(whole[cut:], None)
    if kind == "npz":
        train, test = (_of_npz(path) for path in files(place, kind))
        known = test.classes
    else:
        classes = tuple(_names_of_classes(place / PARTS[0]))
        train, test = (_of_files(_in_classes(place / part), classes) for part in PARTS)
        known = tuple(_names_of_classes(place / PARTS[1]))
    require(
        known == train.classes,
        f"{place}: the test part has the classes {', '.join(known)}",
        f"those of the training part: {', '.join(train.classes)}",
        "give both parts the same classes",
    )
    return train, test


def decoded(parts: tuple[Part, Part]) -> tuple[np.ndarray, np.ndarray]:
    """The pixels of both parts, uint8 (n, c, h, w).

    Raises:
        UserError: an image can't be read, or is of another size than the first.
    """
    if sum(len(part.images) for part in parts) < WORTH:
        return _decoded(parts)
    key = _key(parts)
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    path = home / "gwfbench" / "decoded" / f"{key[:32]}.npz"
    kept = _kept(path, key)
    if kept is None:
        kept = _decoded(parts)
        file = io.BytesIO()
        np.savez(file, train=kept[0], test=kept[1], key=np.array(key), sum=np.array(_sum(kept)))
        with contextlib.suppress(OSError):  # no room, or no right to: it will be decoded again
            write(path, file.getvalue())
    return kept


# ------------------------------------------------------------------------------------------------ layouts


def _shown(kind: Layout, there: list[bool]) -> str:
    ending = ".npz" if kind == "npz" else "/"
    return " and ".join(part + ending for part, has in zip(PARTS, there, strict=False) if has) if kind != "flat" else (
        "images right in it"
    )  # fmt: skip


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if path.suffix.lower() in ENDINGS) if folder.is_dir() else []


def _names_of_classes(part: Path) -> list[str]:
    return sorted(path.name for path in part.iterdir() if path.is_dir())


def _in_classes(part: Path) -> list[tuple[int, Path]]:
    """The images of a part, by class and name, with the number of the class."""
    loose, classes = _pictures(part), _names_of_classes(part)
    found = [(k, path) for k, name in enumerate(classes) for path in _pictures(part / name)]
    require(
        not loose and len(found) >= 2,
        f"{part} has {len(found)} images in {len(classes)} folders, and {len(loose)} in none",
        f"at least 2 files {', '.join(ENDINGS)}, in a folder for each class and nowhere else",
        f"write {part.name}/CLASS/NAME.png; without classes put all images right into {part.parent}",
    )
    return found


def _of_files(found: list[tuple[int, Path]], classes: tuple[str, ...] | None) -> Part:
    images = []
    for _, path in found:
        try:
            images.append(path.read_bytes())
        except OSError as error:
            raise damaged(str(path), error) from error
    labels = None if classes is None else np.array([label for label, _ in found], np.int64)
    return Part(images, [str(path) for _, path in found], labels, classes or ())


def _of_npz(path: Path) -> Part:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            data, offset, label, classes = (arrays[key] for key in KEYS)
    except (*UNREADABLE, zipfile.BadZipFile) as error:
        raise damaged(str(path), error) from error
    wrong = _wrong(data, offset, label, classes)
    require(
        not wrong,
        f"{path}: {wrong}",
        "jpeg (uint8), offset (n + 1, from 0 to the end of jpeg, increasing), label (n), classes (names)",
        "make the file again; its format is in gwfbench/datasets/encoded.py",
    )
    content, ends = data.tobytes(), offset.tolist()
    images = [content[start:stop] for start, stop in pairwise(ends)]
    return Part(
        images, [f"image {i} of {path}" for i in range(len(images))], label.astype(np.int64), tuple(classes.tolist())
    )


def _wrong(data: np.ndarray, offset: np.ndarray, label: np.ndarray, classes: np.ndarray) -> str:
    """What is not as it must be in a file of encoded images; empty if nothing."""
    if data.dtype != np.uint8 or data.ndim != 1:
        return f"jpeg is {data.dtype} of shape {data.shape}"
    if offset.dtype.kind not in "iu" or offset.ndim != 1 or len(offset) < 3:
        return f"offset is {offset.dtype} of shape {offset.shape}"
    if offset[0] != 0 or offset[-1] != len(data) or (np.diff(offset.astype(np.int64)) <= 0).any():
        return f"offset is from {offset[0]} to {offset[-1]} for {len(data)} bytes, or not increasing"
    if label.dtype.kind not in "iu" or label.shape != (len(offset) - 1,):
        return f"label is {label.dtype} of shape {label.shape} for {len(offset) - 1} images"
    if classes.dtype.kind != "U" or classes.ndim != 1 or len(set(classes.tolist())) != len(classes):
        return f"classes is {classes.dtype} of shape {classes.shape}, or two have one name"
    if label.min() < 0 or label.max() >= len(classes):
        return f"label is from {label.min()} to {label.max()} for {len(classes)} classes"
    return ""


# ------------------------------------------------------------------------------------------------ pixels


def _decoded(parts: tuple[Part, Part]) -> tuple[np.ndarray, np.ndarray]:
    names = [name for part in parts for name in part.names]
    read = [_picture(image, name) for part in parts for image, name in zip(part.images, part.names, strict=True)]
    grey = all(image.ndim == 2 for image in read)
    full = [image[None] if grey else _coloured(image) for image in read]
    odd = next((i for i, image in enumerate(full) if image.shape != full[0].shape), None)
    if odd is not None:
        sizes = [f"{full[i].shape[2]} x {full[i].shape[1]}" for i in (odd, 0)]
        raise UserError(f"{names[odd]} is {sizes[0]}", f"all of one size: {names[0]} is {sizes[1]}", "resize them")
    cut = len(parts[0].images)
    return np.stack(full[:cut]), np.stack(full[cut:])


def _coloured(image: np.ndarray) -> np.ndarray:
    return np.repeat(image[None], 3, 0) if image.ndim == 2 else image.transpose(2, 0, 1)


def _picture(content: bytes, name: str) -> np.ndarray:
    """(h, w) of a grey image, (h, w, 3) of any other."""
    try:
        return pictures.read(content)
    except (*UNREADABLE, SyntaxError, OverflowError) as error:
        raise damaged(name, error) from error


def _key(parts: tuple[Part, Part]) -> str:
    """Hash of all that pixels depend on."""
    hashed = hashlib.sha256(f"{VERSION} {pictures.decoder()}".encode())
    for part in parts:
        hashed.update(len(part.images).to_bytes(8, "big"))
        for image in part.images:
            hashed.update(len(image).to_bytes(8, "big"))
            hashed.update(image)
    return hashed.hexdigest()


def _kept(path: Path, key: str) -> tuple[np.ndarray, np.ndarray] | None:
    """What is kept under this key; None if nothing is, or it is damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            pixels = arrays["train"], arrays["test"]
            whole = (str(arrays["key"]), str(arrays["sum"])) == (key, _sum(pixels))
    except (*UNREADABLE, zipfile.BadZipFile):
        return None
    return pixels if whole else None


def _sum(pixels: tuple[np.ndarray, np.ndarray]) -> str:
    hashed = hashlib.sha256()
    for part in pixels:
        hashed.update(f"{part.dtype} {part.shape}".encode())
        hashed.update(np.ascontiguousarray(part).data)
    return hashed.hexdigest()
