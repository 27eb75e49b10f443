"""Image files of the distributed formats, made here: read right, refused when torn or of another set; and the task."""

import gzip
import hashlib
import io
import json
import os
import re
import struct
import sys
import tarfile
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import gwfbench
from gwfbench.datasets import cifar, distributed, images, pictures
from gwfbench.errors import UserError
from gwfbench.info import Initial, TargetSamples
from gwfbench.metrics.image import NAMES, floats, pixels
from gwfbench.plugins import registry
from gwfbench.protocol import Judged
from gwfbench.rng import Streams
from gwfbench.store import folders

rng = np.random.default_rng(8)
TRAIN, TEST = rng.integers(0, 256, (30, 28, 28), np.uint8), rng.integers(0, 256, (10, 28, 28), np.uint8)
CLASSES = {"train": np.arange(30, dtype=np.uint8) % 10, "t10k": np.arange(10, dtype=np.uint8)}
ROWS = rng.integers(0, 256, (6, 4, 3073), np.uint8) % 255
ROWS[:, :, 0] %= 10


def idx(array):
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def idx_files():
    found = {f"{part}-images-idx3-ubyte": idx(x) for part, x in (("train", TRAIN), ("t10k", TEST))}
    return found | {f"{part}-labels-idx1-ubyte": idx(x) for part, x in CLASSES.items()}


def cifar_files():
    return dict(zip(distributed.KNOWN["cifar10"], (rows.tobytes() for rows in ROWS), strict=True))


def archive(files):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"{cifar.BATCHES}/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def write(folder, files, pack=None):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / (name + (".gz" if pack else ""))).write_bytes(pack(content) if pack else content)


@pytest.fixture
def known(monkeypatch, tmp_path):
    """Our own files are the sets' now; nothing else is looked at."""
    for data, files in (("mnist", idx_files()), ("fashion_mnist", idx_files()), ("cifar10", cifar_files())):
        hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        monkeypatch.setitem(distributed.KNOWN, data, hashes)
    monkeypatch.delenv(distributed.VARIABLE, raising=False)
    monkeypatch.setattr(distributed, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(distributed, "DEBIAN", {})


@pytest.mark.parametrize("pack", [None, gzip.compress])
@pytest.mark.parametrize("below", ["", "mnist"])
def test_idx_files_plain_and_packed(known, tmp_path, pack, below):
    write(tmp_path / below, idx_files(), pack)
    train, test = images.load("mnist", str(tmp_path))
    assert train.dtype == test.dtype == torch.uint8
    assert torch.equal(train, torch.from_numpy(TRAIN)[:, None])
    assert torch.equal(test, torch.from_numpy(TEST)[:, None])
    for part, found in zip(("train", "t10k"), images.labels("mnist", str(tmp_path)), strict=True):
        assert found.tolist() == CLASSES[part].tolist()


@pytest.mark.parametrize("packed", [False, True])
def test_cifar_s_planes_are_red_green_blue(known, tmp_path, packed):
    if packed:
        (tmp_path / cifar.ARCHIVE).write_bytes(archive(cifar_files()))
    else:
        write(tmp_path / cifar.BATCHES, cifar_files())
    train, test = images.load("cifar10", str(tmp_path))
    assert train.shape == (20, 3, 32, 32)
    assert test.shape == (4, 3, 32, 32)
    assert train[5, 1, 2, 3] == ROWS[1, 1, 1 + 1024 + 2 * 32 + 3]
    assert images.labels("cifar10", str(tmp_path))[0].tolist() == ROWS[:5, :, 0].ravel().tolist()


def test_digits_are_scikit_learn_s():
    from sklearn.datasets import load_digits

    train, test = images.load("digits")
    assert train.shape == (1437, 1, 8, 8)
    assert test.shape == (360, 1, 8, 8)
    key = lambda x: sorted(map(bytes, x))  # noqa: E731
    whole = np.round(load_digits().data * 255 / 16).astype(np.uint8)
    assert key(torch.cat([train, test]).flatten(1).numpy()) == key(whole)
    classes = images.labels("digits")
    row = (load_digits().data * 255 / 16).round() == test[7].flatten().numpy()
    assert load_digits().target[row.all(1).argmax()] == classes[1][7]


def save(folder, count, size=(6, 4), mode="L", ending=".png"):
    folder.mkdir(exist_ok=True)
    for k in range(count):
        Image.new(mode, size, k if mode == "L" else (k, 2 * k, 3 * k)).save(folder / f"{k:03}{ending}")


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_a_folder_s_last_fifth_is_the_test_part(tmp_path, mode, channels):
    save(tmp_path / "a", 11, mode=mode)
    (tmp_path / "a" / "notes.txt").write_text("no image")
    train, test = images.load("folder", str(tmp_path / "a"))
    assert train.shape == (8, channels, 4, 6)
    assert test[:, 0, 0, 0].tolist() == [8, 9, 10]
    assert test[1, -1, 3, 5] == 9 * channels


def test_one_coloured_image_makes_all_coloured(tmp_path):
    save(tmp_path, 6)
    Image.new("RGB", (6, 4), (1, 2, 3)).save(tmp_path / "006.png")
    train, test = images.load("folder", str(tmp_path))
    assert test[-1, :, 0, 0].tolist() == [1, 2, 3]
    assert train[4, :, 0, 0].tolist() == [4, 4, 4]


def png(kind, depth, pixels, extra=b""):
    """A PNG of these samples (h, w, channels), written by hand: Pillow writes no 16 bits of colour."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], depth, kind, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2" if depth == 16 else "u1").tobytes() for row in pixels)
    body = chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def on_white(pixels):
    """Exact, by fractions: colours over white, rounded."""
    colour, alpha = pixels[..., :-1].astype(int), pixels[..., -1:].astype(int)
    return np.floor((colour * alpha + (255 - alpha) * 255) / 255 + 0.5).astype(np.uint8)


EIGHT = rng.integers(0, 256, (5, 7, 4), np.uint8)
INDEX = EIGHT[..., 0]
SIXTEEN = rng.integers(0, 65536, (5, 7, 4))
SCALED = np.floor(SIXTEEN / 257 + 0.5).astype(np.uint8)
GREYS = [(v, v, v) for v in range(256)]
PALETTE = [(v, 255 - v, 7) for v in range(256)]


def palette(colours, alpha=b""):
    image = Image.new("P", INDEX.shape[::-1])
    image.putdata(INDEX.ravel().tolist())
    image.putpalette([part for colour in colours for part in colour])
    packed = io.BytesIO()
    image.save(packed, "PNG", **({"transparency": alpha} if alpha else {}))
    return packed.getvalue()


COLOURED = np.array(PALETTE, np.uint8)[INDEX]
FADED = np.concatenate([COLOURED, INDEX[..., None]], -1)  # alpha is the index
packed = io.BytesIO()
Image.fromarray(INDEX > 99).save(packed, "PNG")
BITS = packed.getvalue()
KINDS = {
    "1 bit": (BITS, np.where(INDEX > 99, 255, 0)),
    "grey": (png(0, 8, EIGHT[..., :1]), INDEX),
    "grey with alpha": (png(4, 8, EIGHT[..., [0, 3]]), on_white(EIGHT[..., [0, 3]])[..., 0]),
    "colour": (png(2, 8, EIGHT[..., :3]), EIGHT[..., :3]),
    "colour with alpha": (png(6, 8, EIGHT), on_white(EIGHT)),
    "palette": (palette(PALETTE), COLOURED),
    "palette with alpha": (palette(PALETTE, bytes(range(256))), on_white(FADED)),
    "grey palette": (palette(GREYS), INDEX),
    "16 bits of grey": (png(0, 16, SIXTEEN[..., :1]), SCALED[..., 0]),
    "16 bits of grey with alpha": (png(4, 16, SIXTEEN[..., [0, 3]]), on_white(SCALED[..., [0, 3]])[..., 0]),
    "16 bits of colour": (png(2, 16, SIXTEEN[..., :3]), SCALED[..., :3]),
    "16 bits of colour with alpha": (png(6, 16, SIXTEEN), on_white(SCALED)),
    "one colour is transparent": (
        png(2, 8, EIGHT[..., :3], struct.pack(">I", 6) + b"tRNS" + struct.pack(">3H", *EIGHT[0, 0, :3].tolist())
            + struct.pack(">I", zlib.crc32(b"tRNS" + struct.pack(">3H", *EIGHT[0, 0, :3].tolist())))),
        np.where((EIGHT[..., :3] == EIGHT[0, 0, :3]).all(-1, keepdims=True), 255, EIGHT[..., :3]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_of_every_kind_of_png(tmp_path, kind):
    content, expected = KINDS[kind]
    (tmp_path / "a.png").write_bytes(content)
    found = pictures.read((tmp_path / "a.png").read_bytes())
    assert found.dtype == np.uint8
    assert np.array_equal(found, expected)


def test_cmyk_is_turned_into_colours(tmp_path):
    Image.fromarray(np.broadcast_to(np.uint8([10, 200, 0, 55]), (8, 8, 4)).copy(), "CMYK").save(
        tmp_path / "a.jpg", quality=100, subsampling=0
    )
    with Image.open(tmp_path / "a.jpg") as stored:
        c, m, y, k = (np.asarray(stored)[..., i].astype(float) for i in range(4))
    inks = np.stack([c, m, y], -1)
    expected = np.floor((255 - inks) * (255 - k[..., None]) / 255 + 0.5)
    assert np.array_equal(pictures.read((tmp_path / "a.jpg").read_bytes()), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_exif_turns_the_image(tmp_path, orientation, ending):
    """As the Exif standard has it: where the stored first row and first column are to be seen."""
    seen = np.kron(np.arange(6).reshape(2, 3) * 40, np.ones((8, 8))).astype(np.uint8)  # blocks, as JPEG has
    stored = {
        1: seen, 2: seen[:, ::-1], 3: seen[::-1, ::-1], 4: seen[::-1],
        5: seen.T, 6: seen.T[::-1], 7: seen.T[::-1, ::-1], 8: seen.T[:, ::-1],
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(
        tmp_path / f"a.{ending}", exif=exif, **({"quality": 100} if ending == "jpg" else {})
    )
    found = pictures.read((tmp_path / f"a.{ending}").read_bytes())
    assert found.shape == seen.shape
    assert np.abs(found.astype(int) - seen).max() <= (3 if ending == "jpg" else 0)


def test_animations_and_what_has_no_answer_are_refused(tmp_path):
    frames = [Image.new("L", (4, 4), v) for v in (0, 255)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match="animation"):
        pictures.read((tmp_path / "a.png").read_bytes())


def test_grey_of_all_kinds_stays_grey_in_a_folder(tmp_path):
    for k, kind in enumerate(("grey", "grey with alpha", "grey palette", "16 bits of grey", "1 bit")):
        (tmp_path / f"{k}.png").write_bytes(KINDS[kind][0])
    train, _ = images.load("folder", str(tmp_path))
    assert train.shape == (4, 1, 5, 7)
    assert np.array_equal(train[3, 0], SCALED[..., 0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-5]), "is not mnist's train-images"),
        (lambda path: path.write_bytes(idx(TRAIN[::-1])), "SHA-256"),
        (lambda path: path.unlink(), "no file train-images-idx3-ubyte or train-images-idx3-ubyte.gz in"),
        (lambda path: path.rename(path.with_name(path.name + ".gz")), "can't be read"),
    ],
)
def test_torn_wrong_and_missing_files_are_refused(known, tmp_path, change, said):
    write(tmp_path, idx_files())
    change(tmp_path / "train-images-idx3-ubyte")
    with pytest.raises(UserError, match=said) as error:
        images.load("mnist", str(tmp_path))
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PNG",
        idx(TRAIN)[:-1],
        idx(TRAIN) + b"0",
        idx(CLASSES["train"]),
        bytes((0, 0, 8, 3)) + struct.pack(">3I", 0, 28, 28),
        bytes((0, 0, 8, 3)) + struct.pack(">3I", 2**31, 2**31, 2**31) + b"12",
        b"\0\0\r\3" + idx(TRAIN)[4:],
    ],
)
def test_what_is_no_idx_file_is_refused_without_a_known_sum(known, monkeypatch, tmp_path, content):
    monkeypatch.setitem(distributed.KNOWN, "mnist", {})
    write(tmp_path, idx_files() | {"train-images-idx3-ubyte": content})
    with pytest.raises(UserError, match="can't be read"):
        images.load("mnist", str(tmp_path))


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"1" * 3072, "no rows of 3073"), (b"", "0 bytes"), (b"\x0b" + b"1" * 3072, "class 11")],
)
def test_what_is_no_batch_is_refused(known, monkeypatch, tmp_path, content, said):
    monkeypatch.setitem(distributed.KNOWN, "cifar10", dict.fromkeys(distributed.KNOWN["cifar10"]))
    write(tmp_path, cifar_files() | {"test_batch.bin": content})
    with pytest.raises(UserError, match=said):
        images.load("cifar10", str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"no archive", archive({"other.bin": b"1"}), archive(cifar_files())[:-40]])
def test_an_archive_that_is_torn_or_lacks_a_batch_is_refused(known, tmp_path, content):
    (tmp_path / cifar.ARCHIVE).write_bytes(content)
    with pytest.raises(UserError, match="can't be read"):
        images.load("cifar10", str(tmp_path))


def test_one_set_does_not_pass_for_another(tmp_path):
    """With the true sums, our files are nobody's."""
    write(tmp_path, idx_files())
    with pytest.raises(UserError, match="is not fashion_mnist's train-images"):
        images.load("fashion_mnist", str(tmp_path))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: None, "0 images"),
        (lambda folder: save(folder, 4), "4 images"),
        (lambda folder: (save(folder, 6), save(folder, 5, (6, 5))), "is 6 x 4"),
        (lambda folder: (save(folder, 6), (folder / "003.png").write_bytes(b"no image")), "003.png can't be read"),
    ],
)
def test_folders_that_do_not_hold_images_of_one_size(tmp_path, make, said):
    make(tmp_path)
    with pytest.raises(UserError, match=said):
        images.load("folder", str(tmp_path))


def test_places_in_their_order(known, monkeypatch, tmp_path):
    monkeypatch.setenv(distributed.VARIABLE, str(tmp_path / "named"))
    monkeypatch.setattr(distributed, "DEBIAN", {"fashion_mnist": tmp_path / "debian"})
    with pytest.raises(UserError, match="dataset-fashion-mnist") as error:
        images.load("fashion_mnist")
    places = [tmp_path / place for place in ("named/fashion_mnist", "named", "cache/fashion_mnist", "cache", "debian")]
    assert ", ".join(map(str, places)) in error.value.got
    for place in places[::-1]:
        write(place, idx_files(), gzip.compress)
        assert len(images.load("fashion_mnist")[0]) == 30
    (places[0] / "train-images-idx3-ubyte").write_bytes(b"the first place counts")
    with pytest.raises(UserError, match=str(places[0])):
        images.load("fashion_mnist")


@pytest.fixture
def server(monkeypatch):
    """A web server with what a test puts into its dictionary; gives that, and the paths asked for."""
    files, asked = {}, []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            content = files.get(self.path.rpartition("/")[2])
            self.send_response(200 if content is not None else 404)
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        monkeypatch.setitem(distributed.SOURCES, "mnist", f"http://127.0.0.1:{http.server_port}/")
        yield files, asked
        http.shutdown()
        thread.join()


def test_download_checks_keeps_and_asks_once(known, server, tmp_path):
    files, asked = server
    files |= {f"{name}.gz": gzip.compress(content) for name, content in idx_files().items()}
    for _ in range(2):
        assert len(images.load("mnist", str(tmp_path), download=True)[1]) == 10
    assert sorted(asked) == ["/t10k-images-idx3-ubyte.gz", "/train-images-idx3-ubyte.gz"]
    assert {path.name for path in (tmp_path / "mnist").iterdir()} == {path[1:] for path in asked}


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "404"), (b"<html>", "can't be read"), (gzip.compress(idx(TEST)), "is not mnist's train-images")],
)
def test_a_bad_download_is_refused_and_not_kept(known, server, tmp_path, content, said):
    if content is not None:
        server[0]["train-images-idx3-ubyte.gz"] = content
    with pytest.raises(UserError, match=said):
        images.load("mnist", str(tmp_path), download=True)
    assert not list(tmp_path.rglob("*.gz"))


# ------------------------------------------------------------------------------------------------ the task


def build(text="images", seeds=(3, 5)):
    return registry.parse("task", text).build(Streams(seeds).fork("task"))


@pytest.mark.parametrize("text", ["images:data=folder", "images:data=digits,data_root=there"])
def test_fields_that_do_not_fit(text):
    with pytest.raises(UserError, match="data_root"):
        registry.parse("task", text)


def test_pixels_turn_floats_back():
    u = torch.arange(256, dtype=torch.uint8)
    for dtype in (torch.float32, torch.float64):
        x = floats(u, dtype)
        assert (x[0], x[-1]) == (-1, 1)
        assert torch.equal(pixels(x), u)
        assert torch.equal(pixels(x + 0.49 / 127.5), u)
    assert pixels(torch.tensor([-3.0, 1.7])).tolist() == [0, 255]


def rows(x):
    return {bytes(image) for image in pixels(x).flatten(0, 1).numpy()}


def test_methods_see_the_training_part_and_metrics_the_test_part():
    train, test = ({bytes(image) for image in part.numpy()} for part in images.load("digits"))
    assert not train & test
    instance, streams = build(), Streams((3, 5))
    draw, reference = instance.truth.draw, instance.truth.reference
    assert rows(instance.problem[TargetSamples].draw(5000, streams)) <= train
    for name in ("eval/draw/1", "eval/metric/w2/0"):  # whatever the stream is called
        assert rows(draw(0, 360, streams.fork(name))) <= train
        assert rows(reference(0, 360, streams.fork(name))) == test
    assert rows(Judged(draw(0, 360, streams), None, instance.truth, 0, streams).reference(400)) == test
    for x in draw(0, 360, streams):
        assert len(rows(x[None])) == 360  # without replacement
    single, double = (draw(0, 360, Streams((3, 5), dtype=dtype)) for dtype in (torch.float32, torch.float64))
    assert torch.equal(pixels(single), pixels(double))  # which images, no precision decides
    assert instance.truth.limit == 360
    assert reference(0, 361, streams).shape[1] == 360
    with pytest.raises(ValueError, match="1438 were asked for"):
        draw(0, 1438, streams)


def test_flip_mirrors_half_of_the_samples():
    plain, mirrored = (build(f"images:flip={flip}") for flip in ("false", "true"))
    x, y = (one.problem[TargetSamples].draw(4000, Streams((3, 5)).fork("x")) for one in (plain, mirrored))
    same, turned = (x == y).flatten(2).all(2), (x.flip(-1) == y).flatten(2).all(2)
    assert (same | turned).all()
    assert abs(float(turned.double().mean()) - 0.5) < 5 * 0.5 / 8000**0.5 + 0.01  # a few are their own mirror image
    assert torch.equal(plain.truth.draw(0, 50, Streams((3,))), mirrored.truth.draw(0, 50, Streams((3,))))


def test_p_0_is_standard_normal():
    start = build().problem[Initial]
    x = start.draw(100, Streams((3, 5), dtype=torch.float64))
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(x).flatten(2).sum(2)
    torch.testing.assert_close(start.log_prob(x), expected)


def test_metrics_have_their_weights_hash_in_their_names():
    pytest.importorskip("gwfbench.nn.fidelity", reason="the extra `image`")
    content = Path(gwfbench.__file__).with_name("data").joinpath("images", "digits.npz").read_bytes()
    suffix = f"_360_digits@{hashlib.sha256(content).hexdigest()[:4]}"
    assert [metric.name for metric in build().truth.metrics] == [name + suffix for name in NAMES]


def test_with_inception_s_weights_the_classifier_s_metrics_are_there_too(monkeypatch):
    """So that a suite whose headline is by the classifier runs on machines with the weights as well."""
    fidelity = pytest.importorskip("gwfbench.nn.fidelity", reason="the extra `image`")
    own = [metric.name for metric in build().truth.metrics]
    monkeypatch.setattr(fidelity, "inception_file", lambda download: Path("weights-inception.pth"))
    monkeypatch.setattr(fidelity, "by_inception", lambda weights, device: fidelity.by_classifier)
    both = [metric.name for metric in build().truth.metrics]
    assert both == [f"{name}_360" for name in NAMES] + own


def test_without_a_network_the_log_says_why(tmp_path, one_process, cli):
    save(tmp_path / "few", 60)
    task = f"images:data=folder,data_root={tmp_path / 'few'}"
    code, out, err = cli("run", "--task", task, "--method", "still", "--out", "runs", "--format", "json")
    assert re.match(f"note: {re.escape(task)}: no fid, kid, .*: no weights of .*download=true", err), "before it runs"
    log = next(tmp_path.glob("runs/images*/log.txt")).read_text()
    assert code == 0, log
    assert {json.loads(line)["metric"] for line in out.splitlines()} == {"sliced_w2", "mmd", "w2"}
    for name in NAMES:
        assert f"{name}: not judged: no weights of torch-fidelity's Inception" in log


@pytest.mark.slow
def test_what_is_kept_of_a_law_has_a_size_and_is_drawn(tmp_path, one_process, cli, monkeypatch):
    pytest.importorskip("matplotlib", reason="the extra `report`")
    monkeypatch.setattr(folders, "KEPT_BYTES", 100 * 64 * 4 + 3)
    words = ("run", "--task", "images", "--method", "mmd_flow:steps=3", "--seeds", "1", "--out", "runs", "--no-curve")
    code, _, err = cli(*words)
    assert code == 0, err
    (still,) = tmp_path.glob("runs/images-still*")
    with np.load(still / "draws.npz") as kept:
        assert kept["t1"].shape == (100, 1, 8, 8)
        assert kept["l1"].shape == (100,)
    code, _, err = cli("report", "pictures", "pictures", "--out", "runs")
    assert code == 0, err
    with Image.open(tmp_path / "pictures" / "images.png") as picture:
        assert picture.size[0] > 400


def test_points_kept_by_their_size():
    assert [folders.most(size) for size in (0, 8, 4096, 3072 * 4, 2**30)] == [4096, 4096, 4096, 1365, 1]


def test_a_folder_is_calibrated_without_the_metrics_that_need_a_network(tmp_path, cli):
    (tmp_path / "few").mkdir()
    for k, image in enumerate(rng.integers(0, 256, (60, 4, 6), np.uint8)):
        Image.fromarray(image).save(tmp_path / "few" / f"{k:03}.png")
    words = f"calibrate --task images:data=folder,data_root={tmp_path / 'few'} --seeds 1 --power-seconds 0".split()
    code, out, err = cli(*words)
    assert (code, "Traceback" in err) == (0, False), err
    assert "no classifier of folder" in out + err


def folder_of(path, seed, count=10):
    path.mkdir(parents=True)
    for k, image in enumerate(np.random.default_rng(seed).integers(0, 256, (count, 4, 6), np.uint8)):
        Image.fromarray(image).save(path / f"{k:03}.png")


def codes(folder):
    return [run.code for run in folders.attempts(folder / "runs")[0]]


@pytest.mark.slow
def test_images_are_known_by_what_they_hold(tmp_path, cli, monkeypatch):
    """Two folders of one name, and images replaced in place: never the other's numbers."""
    words = [
        "run",
        "--task",
        "images:data=folder,data_root=pics",
        "--method",
        "still",
        "--seeds",
        "1",
        "--no-controls",
        "--no-isolate",
    ]
    words += ["--out", str(tmp_path / "runs")]
    for place, seed in (("a", 1), ("b", 2), ("c", 1)):
        folder_of(tmp_path / place / "pics", seed)
        monkeypatch.chdir(tmp_path / place)
        code, _, err = cli(*words)
        assert code == 0, err
        assert ("finished before" in err) == (place == "c")  # the same images, elsewhere
    assert len(set(codes(tmp_path))) == len(codes(tmp_path)) == 2
    image = tmp_path / "c/pics/004.png"
    before = image.stat()
    Image.fromarray(np.zeros((4, 6), np.uint8)).save(image)
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    for again in (False, True):
        code, _, err = cli(*words)
        assert (code, "finished before" in err, "nothing has changed" in err) == (0, again, False)
    assert len(set(codes(tmp_path))) == 3


@pytest.mark.parametrize("task", ["images:data=folder,data_root=absent", "images:data=mnist", "images:data=cifar10"])
def test_missing_data_is_refused_before_anything_runs(known, tmp_path, cli, task):
    code, out, err = cli("run", "--task", task, "--method", "still", "--seeds", "1")
    assert (code, out) == (2, "")
    assert "images in absent" in err or "no file" in err
    assert "starts" not in err
    assert not (tmp_path / "results").exists()


def test_a_missing_extra_is_said_before_the_run(monkeypatch):
    import gwfbench.nn

    monkeypatch.setitem(sys.modules, "gwfbench.nn.fidelity", None)
    monkeypatch.delattr(gwfbench.nn, "fidelity", raising=False)
    task = registry.parse("task", "images")
    assert registry.remarks(task) == (
        "no fid, kid, inception_score, precision, recall: torch-fidelity is not installed (pip install 'gwfbench[image]')",
    )
    assert all("gwfbench[image]" in metric.unavailable for metric in build().truth.metrics)
    monkeypatch.undo()
    assert registry.remarks(task) == ()
