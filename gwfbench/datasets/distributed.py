"""Files of published data sets: where they are looked for, how they are got, and that they are the published ones.

Files are looked for in `root`/<data set>, then in `root` itself; without a `root` in the folder that the environment
variable GWFBENCH_DATA names, then in ~/.cache/gwfbench, and fashion_mnist where Debian's package dataset-fashion-mnist
has it. What is found must have the SHA-256 of the distributed content (of the plain file: packers differ), so that no
set can pass for another.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import struct
import tarfile
import tempfile
import urllib.request
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

from gwfbench.errors import UserError

VARIABLE = "GWFBENCH_DATA"
CACHE = Path("~/.cache/gwfbench")
DEBIAN = {"fashion_mnist": Path("/usr/share/datasets/fashion-mnist")}
TIMEOUT = 60.0  # seconds without a byte
SOURCES = {
    "mnist": "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "fashion_mnist": "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    "cifar10": "https://www.cs.toronto.edu/~kriz/",
}
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
UNREADABLE = (OSError, EOFError, KeyError, ValueError, struct.error, zlib.error, tarfile.TarError)
Packs = Mapping[str, Callable[[bytes], bytes]]  # paths below a place, and how each file there gives the plain content


def places(data: str, root: str | None) -> list[Path]:
    """Folders that may hold the set's files, the most particular first."""
    if root is not None:
        return [Path(root).expanduser() / data, Path(root).expanduser()]
    named = os.environ.get(VARIABLE)
    roots = ([Path(named).expanduser()] if named else []) + [CACHE.expanduser()]
    found = [folder for root in roots for folder in (root / data, root)]
    return [*found, DEBIAN[data]] if data in DEBIAN else found


def found(data: str, root: str | None, packs: Packs, download: bool) -> tuple[Path, str] | None:
    """Where a set's file is, and as which of its packs; None if it may be downloaded.

    Raises:
        UserError: it is nowhere, and may not be downloaded.
    """
    where = places(data, root)
    for path, pack in ((folder / pack, pack) for folder in where for pack in packs):
        if path.is_file():
            return path, pack
    if download:
        return None
    how = "install the package dataset-fashion-mnist (Debian), or " if data in DEBIAN else ""
    raise UserError(
        f"images:data={data}: no file {' or '.join(packs)} in {', '.join(map(str, where))}",
        "the files as they are distributed, in one of these folders",
        f"{how}write download=true, or copy them from {SOURCES[data]} and name the folder by data_root= or {VARIABLE}",
    )


def plain(data: str, name: str, root: str | None, download: bool, packs: Packs, distributed: str) -> tuple[bytes, Path]:
    """Content of a set's file, unpacked, and where it was: checked, downloaded first if that is wanted.

    Args:
        name: of the plain file.
        distributed: the pack that can be downloaded.
    """
    at_hand = found(data, root, packs, download)
    if at_hand is not None:
        path, pack = at_hand
        return _checked(data, name, _unpacked(path.read_bytes(), packs[pack], str(path)), str(path)), path
    path, url = places(data, root)[0] / distributed, SOURCES[data] + distributed
    content = _fetched(url)
    unpacked = _checked(data, name, _unpacked(content, packs[distributed], url), url)
    try:
        write(path, content)
    except OSError as error:
        raise UserError(f"{path} can't be written: {error}", "a folder for data", "name one by data_root=") from error
    return unpacked, path


def damaged(where: str, error: object) -> UserError:
    return UserError(f"{where} can't be read: {error}", "the whole file, as it is distributed", "download it again")


def write(path: Path, content: bytes) -> None:
    """Whole or not at all, whoever else writes it.

    Raises:
        OSError: there is no room, or no right to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        draft = Path(file.name)
    try:
        draft.write_bytes(content)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _unpacked(content: bytes, unpack: Callable[[bytes], bytes], where: str) -> bytes:
    try:
        return unpack(content)
    except UNREADABLE as error:
        raise damaged(where, error) from error


def _checked(data: str, name: str, content: bytes, where: str) -> bytes:
    """The content, if it is that of the set's file of this name."""
    known, digest = KNOWN[data].get(name), hashlib.sha256(content).hexdigest()
    if known is not None and digest != known:
        raise UserError(
            f"{where} is not {data}'s {name}: {len(content)} bytes with SHA-256 {digest[:12]}",
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
