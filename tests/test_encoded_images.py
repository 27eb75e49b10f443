"""JPEG copies and pickled batches, made here in the formats of the real ones: read right, checked, kept decoded."""

import collections
import hashlib
import io
import pickle
import struct
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from gwfbench.datasets import cifar, distributed, encoded, images, pickled, pictures
from gwfbench.errors import UserError
from gwfbench.plugins import registry

rng = np.random.default_rng(18)
SIZES = {"train": 30, "test": 20}
PIXELS = {part: rng.integers(0, 256, (n, 32, 32, 3), np.uint8) for part, n in SIZES.items()}
LABELS = {part: np.arange(n) * 10 // n for part, n in SIZES.items()}


def jpeg(pixels, form="JPEG"):
    packed = io.BytesIO()
    Image.fromarray(pixels).save(packed, form)
    return packed.getvalue()


FILES = {part: [jpeg(one) for one in pixels] for part, pixels in PIXELS.items()}
EXPECTED = {  # by Pillow alone
    part: np.stack([np.asarray(Image.open(io.BytesIO(one))) for one in found]).transpose(0, 3, 1, 2)
    for part, found in FILES.items()
}


def arrays(part):
    ends = np.cumsum([0, *map(len, FILES[part])])
    data = np.frombuffer(b"".join(FILES[part]), np.uint8)
    return {"jpeg": data, "offset": ends, "label": LABELS[part].astype(np.uint8), "classes": np.array(cifar.CLASSES)}


def as_npz(folder, **other):
    folder.mkdir(parents=True, exist_ok=True)
    for part in FILES:
        np.savez(folder / f"{part}.npz", **(arrays(part) | other))


def as_folders(folder):
    for part, found in FILES.items():
        for k, (one, label) in enumerate(zip(found, LABELS[part], strict=True)):
            path = folder / part / cifar.CLASSES[label] / f"{k:04}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(one)


@pytest.fixture(autouse=True)
def nowhere_else(monkeypatch, tmp_path):
    monkeypatch.delenv(distributed.VARIABLE, raising=False)
    monkeypatch.setattr(distributed, "CACHE", tmp_path / "none")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("data", ["cifar10_jpeg", "folder"])
@pytest.mark.parametrize("write", [as_npz, as_folders])
def test_both_layouts_hold_the_same_images_and_labels(tmp_path, data, write):
    write(tmp_path / "pics")
    found, classes = images.load(data, str(tmp_path / "pics")), images.labels(data, str(tmp_path / "pics"))
    for part, x, label in zip(FILES, found, classes, strict=True):
        assert x.dtype == torch.uint8
        assert np.array_equal(x, EXPECTED[part])
        assert label.tolist() == LABELS[part].tolist()


@pytest.mark.parametrize("below", ["", "cifar10_jpeg"])
@pytest.mark.parametrize("by", ["root", "variable"])
def test_jpeg_copies_are_looked_for_as_other_sets(tmp_path, monkeypatch, below, by):
    as_npz(tmp_path / "data" / below)
    if by == "variable":
        monkeypatch.setenv(distributed.VARIABLE, str(tmp_path / "data"))
    assert len(images.load("cifar10_jpeg", str(tmp_path / "data") if by == "root" else None)[1]) == 20


def test_jpeg_copies_never_pass_for_the_distributed_set(tmp_path):
    as_npz(tmp_path)
    with pytest.raises(UserError, match=r"no file data_batch_1\.bin"):
        images.load("cifar10", str(tmp_path))
    spec = registry.spec(registry.parse("task", f"images:data=cifar10_jpeg,data_root={tmp_path}"))
    assert "data=cifar10_jpeg" in spec


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: None, "neither train.npz and test.npz nor train/CLASS/ and test/CLASS/"),
        (lambda folder: as_npz(folder, classes=np.array([f"class {k}" for k in range(10)])), "of the classes class 0"),
        (lambda folder: (as_npz(folder), as_folders(folder)), "train.npz and test.npz and train/ and test/"),
        (lambda folder: (as_npz(folder), (folder / "test.npz").unlink()), "has train.npz"),
        (lambda folder: as_npz(folder, jpeg=np.zeros(3)), "jpeg is float64"),
        (lambda folder: as_npz(folder, offset=np.arange(4)), "offset is from 0 to 3"),
        (lambda folder: as_npz(folder, label=np.full(30, 10)), "label is from 10 to 10 for 10 classes"),
        (lambda folder: as_npz(folder, label=np.zeros(7, int)), r"label is int64 of shape \(7,\) for 30 images"),
        (lambda folder: as_npz(folder, classes=np.array(["a", "a"])), "two have one name"),
        (lambda folder: as_npz(folder, classes=np.array(cifar.CLASSES, object)), "can't be read: Object arrays"),
        (lambda folder: (as_npz(folder), (folder / "test.npz").write_bytes(b"PK torn")), "test.npz can't be read"),
        (lambda folder: (as_folders(folder), (folder / "test/ship/0016.jpg").write_bytes(b"x")), "0016.jpg can't be"),
        (lambda folder: (as_folders(folder), (folder / "test/ship").rename(folder / "test/boat")), "the classes"),
        (lambda folder: (as_folders(folder), (folder / "train/a.jpg").write_bytes(b"x")), "and 1 in none"),
    ],
)
def test_what_is_not_as_it_must_be_is_refused(tmp_path, make, said):
    make(tmp_path)
    with pytest.raises(UserError, match=said):
        images.load("cifar10_jpeg", str(tmp_path))


def test_images_of_another_size_are_no_copies_of_cifar10_but_a_folder(tmp_path):
    content = [jpeg(np.zeros((8, 6), np.uint8), "PNG")] * 10
    one = {"jpeg": np.frombuffer(b"".join(content), np.uint8), "offset": np.arange(11) * len(content[0])}
    as_npz(tmp_path, label=np.arange(10), **one)
    with pytest.raises(UserError, match=r"images \(1, 8, 6\)"):
        images.load("cifar10_jpeg", str(tmp_path))
    assert images.load("folder", str(tmp_path))[0].shape == (10, 1, 8, 6)


def hashed(folder):
    task = registry.parse("task", f"images:data=folder,data_root={folder}")
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in registry.data_files(task)]


@pytest.mark.parametrize("write", [as_npz, as_folders])
def test_identity_is_what_the_files_hold(tmp_path, write):
    write(tmp_path / "a")
    write(tmp_path / "b")
    before = hashed(tmp_path / "a")
    assert before == hashed(tmp_path / "b")
    if write is as_npz:
        as_npz(tmp_path / "b", label=np.zeros(30, int))
    else:  # the last training image becomes the first test image: the same files in the same order
        (tmp_path / "b/train/truck/0029.jpg").rename(tmp_path / "b/test/airplane/0000a.jpg")
        (tmp_path / "b/test/airplane/0000.jpg").rename(tmp_path / "b/test/airplane/0001a.jpg")
    assert before != hashed(tmp_path / "b")


# ------------------------------------------------------------------------------------------------ decoded once


@pytest.fixture
def decodings(monkeypatch):
    """How many images were decoded."""
    count = collections.Counter()

    def read(content):
        count["images"] += 1
        return plain(content)

    plain = pictures.read
    monkeypatch.setattr(pictures, "read", read)
    monkeypatch.setattr(encoded, "WORTH", 10)
    return count


def load(folder):
    return [part.numpy() for part in images.load("cifar10_jpeg", str(folder))]


def right(found):
    return all(np.array_equal(x, EXPECTED[part]) for x, part in zip(found, FILES, strict=True))


def test_images_are_decoded_once(tmp_path, decodings):
    as_npz(tmp_path / "a")
    as_folders(tmp_path / "b")  # the same images: the same key
    for folder in ("a", "a", "b"):
        assert right(load(tmp_path / folder))
        assert decodings["images"] == 50
    (kept,) = tmp_path.glob("cache/gwfbench/decoded/*")
    assert kept.suffix == ".npz"


def test_other_content_and_another_decoder_are_decoded_again(tmp_path, decodings, monkeypatch):
    as_folders(tmp_path)
    load(tmp_path)
    (tmp_path / "test/ship/0016.jpg").write_bytes(FILES["train"][0])
    assert np.array_equal(load(tmp_path)[1][16], EXPECTED["train"][0])
    assert decodings["images"] == 100
    monkeypatch.setattr(pictures, "decoder", lambda: "another")
    load(tmp_path)
    assert decodings["images"] == 150


def test_few_images_are_not_kept(tmp_path):
    as_npz(tmp_path)
    assert right(load(tmp_path))
    assert not (tmp_path / "cache").exists()


def flip(content, at):
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: flip(content, 5000),  # a pixel
        lambda content: b"no file of ours",
    ],
    ids=["empty", "torn", "half", "one bit", "another"],
)
def test_a_damaged_cache_is_noticed_and_made_again(tmp_path, decodings, damage):
    as_npz(tmp_path)
    load(tmp_path)
    (kept,) = tmp_path.glob("cache/gwfbench/decoded/*")
    whole = kept.read_bytes()
    kept.write_bytes(damage(whole))
    for _ in range(2):
        assert right(load(tmp_path))
    assert decodings["images"] == 100
    assert kept.stat().st_size == len(whole)


def test_a_cache_of_other_pixels_is_noticed_though_its_file_is_whole(tmp_path, decodings):
    as_npz(tmp_path)
    load(tmp_path)
    (kept,) = tmp_path.glob("cache/gwfbench/decoded/*")
    with np.load(kept) as held:
        names = dict(held)
    names["train"][3, 1, 2, 3] ^= 1
    np.savez(kept, **names)
    assert right(load(tmp_path))
    assert decodings["images"] == 100


def test_where_nothing_can_be_kept_all_goes_on(tmp_path, decodings, monkeypatch):
    as_npz(tmp_path)
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert right(load(tmp_path))


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"before")

    def full(self, content):
        raise OSError("no space left")

    monkeypatch.setattr(type(tmp_path), "write_bytes", full)
    with pytest.raises(OSError, match="no space"):
        distributed.write(tmp_path / "a", b"after")
    monkeypatch.undo()
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"before")]


def test_runs_side_by_side_see_whole_caches_only(tmp_path, monkeypatch):
    as_npz(tmp_path)
    monkeypatch.setattr(encoded, "WORTH", 10)
    found = []
    threads = [threading.Thread(target=lambda: found.extend(right(load(tmp_path)) for _ in range(5))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 20
    assert len(list(tmp_path.glob("cache/gwfbench/decoded/*"))) == 1


# ------------------------------------------------------------------------------------------------ pickled batches

ROWS = rng.integers(0, 256, (6, 4, 3073), np.uint8)
ROWS[:, :, 0] %= 10


def python_2(rows):
    """A batch as Python 2 and its NumPy have pickled it: protocol 2, texts and pixels as strings of bytes."""
    text = lambda word: b"U" + bytes([len(word)]) + word  # noqa: E731
    labels = b"]q\x03(" + b"".join(b"K" + bytes([label]) for label in rows[:, 0]) + b"e"
    data = rows[:, 1:].tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x05cnumpy\nndarray\nq\x06K\x00\x85q\x07U\x01b\x87q\x08Rq\x09"
        b"(K\x01K" + bytes([len(rows)]) + b"M\x00\x0c\x86q\x0acnumpy\ndtype\nq\x0bU\x02u1K\x00K\x01\x87q\x0cRq\x0d"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0eb\x89T"
        + struct.pack("<I", len(data))
        + data
        + b"tq\x0fb"
    )
    names = text(b"filenames") + b"]q\x10(" + b"".join(text(b"leptodactylus_%d.png" % k) for k in range(4)) + b"e"
    return (
        b"\x80\x02}q\x01(" + text(b"batch_label") + text(b"training batch 1 of 5") + text(b"labels") + labels
        + text(b"data") + array + names + b"u."
    )  # fmt: skip


def python_3(rows, protocol):
    return pickle.dumps({b"labels": rows[:, 0].tolist(), b"data": rows[:, 1:]}, protocol)


def test_the_batch_made_here_is_one_that_python_reads():
    batch = pickle.loads(python_2(ROWS[0]), encoding="bytes")
    assert batch[b"labels"] == ROWS[0, :, 0].tolist()
    assert np.array_equal(batch[b"data"], ROWS[0, :, 1:])


@pytest.mark.parametrize(
    "dump", [python_2, lambda rows: python_3(rows, 3), lambda rows: python_3(rows, 4)], ids=["2", "3", "4"]
)
def test_pickled_batches_are_the_binary_ones(dump):
    for rows in ROWS:
        assert cifar.unpickled(dump(rows)) == rows.tobytes()


@pytest.mark.parametrize("packed", [False, True])
def test_pickled_batches_load(tmp_path, monkeypatch, packed):
    import tarfile

    names = list(distributed.KNOWN["cifar10"])
    sums = {name: hashlib.sha256(rows.tobytes()).hexdigest() for name, rows in zip(names, ROWS, strict=True)}
    monkeypatch.setitem(distributed.KNOWN, "cifar10", sums)
    folder = tmp_path / cifar.PICKLED
    folder.mkdir()
    for name, rows in zip(names, ROWS, strict=True):
        (folder / name.removesuffix(".bin")).write_bytes(python_2(rows))
    if packed:
        with tarfile.open(tmp_path / cifar.PICKLED_ARCHIVE, "w:gz") as archive:
            archive.add(folder, cifar.PICKLED)
        for path in folder.iterdir():
            path.unlink()
    train, test = images.load("cifar10", str(tmp_path))
    assert np.array_equal(train, ROWS[:5, :, 1:].reshape(-1, 3, 32, 32))
    assert np.array_equal(test, ROWS[5, :, 1:].reshape(-1, 3, 32, 32))
    assert images.labels("cifar10", str(tmp_path))[0].tolist() == ROWS[:5, :, 0].ravel().tolist()
    if not packed:
        (folder / "test_batch").write_bytes(python_2(ROWS[0]))
        with pytest.raises(UserError, match=r"test_batch is not cifar10's test_batch\.bin"):
            images.load("cifar10", str(tmp_path))


class Harm:
    def __reduce__(self):
        return (open, ("harmed", "w"))


@pytest.mark.parametrize("protocol", range(6))
def test_no_pickle_is_ever_executed(tmp_path, monkeypatch, protocol):
    monkeypatch.chdir(tmp_path)
    for value in (Harm(), {b"labels": [Harm()], b"data": np.zeros((1, 3072), np.uint8)}):
        with pytest.raises(ValueError, match=r"it asks for '(_?io open|_codecs encode)'|which plain values don't need"):
            pickled.values(pickle.dumps(value, protocol))
    assert not list(tmp_path.iterdir())


PLAIN = np.zeros((1, 3072), np.uint8)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "exhausted before seeing STOP"),
        (b"no pickle", "opcode"),
        (python_2(ROWS[0])[:-1], "exhausted before"),
        (python_2(ROWS[0])[:9000], "only 8791 remain"),
        (b"\x80\x02.", "no pickle of plain values"),
        (b"\x80\x02e.", "no pickle of plain values: IndexError"),
        (b"\x80\x02h\x07.", "no pickle of plain values: KeyError"),
        (pickle.dumps([1, 2]), "no pickled dictionary"),
        (pickle.dumps({"labels": [1], "data": PLAIN.astype(float)}, 4), "its array is not one of bytes"),
        (pickle.dumps({"labels": [1, 2], "data": PLAIN}, 4), r"of shape \(1, 3072\) for 2 labels"),
        (pickle.dumps({"labels": [11], "data": PLAIN}, 4), "not numbers of 0 to 9"),
        (pickle.dumps({"labels": "1", "data": PLAIN}, 4), "dictionary of labels and data"),
    ],
    ids=list(map(str, range(12))),
)
def test_what_is_no_batch_is_refused(content, said):
    with pytest.raises(ValueError, match=said):
        cifar.unpickled(content)
