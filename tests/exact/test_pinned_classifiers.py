"""The classifiers that come with gwfbench: pinned, as good as their papers say, worth their FID; and how they are made."""

import hashlib
import io
import json
import tomllib
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from gwfbench.datasets import images
from gwfbench.errors import UserError
from gwfbench.metrics.image import View, fid
from gwfbench.nn.classifier import DEEP, FOLDER, Classifier, convolutions, fresh, maps, outputs, pinned
from scripts import image_classifier as script

ROOT = Path(__file__).parents[2]
HASHES = {
    "digits": "49a1cfeb4cee6165acf0fd17448e25e7bcd2b9b9ccaaa5bc4e19e55b5a6ded46",
    "fashion_mnist": "05df7bab164d595ae3486ce1bf7c591a850b8eea1c6534a01c2b0cd7fb5e3da5",
    "mnist": "d46ada634c2deeb0c64cf2af0b27566dc24fb06986153085b96ac32a1361a4de",
    "cifar10": "1208d3733b2f4c7e1c4dbb790a3a5d1e7daec5178014327ece35c7a17d334e62",
    "digits_encoder": "ab5e4f12077d675d4cb364157a9e77b71d79ed736c45e6cdb65d47cb157c5797",
    "fashion_mnist_encoder": "6a77a87d04bc94ece3a8622d6eb0b3ae93c39943f1fe1810b8c132f6a0e5a27b",
    "mnist_encoder": "9d86c0689258a1b847edf5459ca045795eac7b0198d7c79ea89df75b28e0609e",
    "cifar10_encoder": "874bc4da7e744ac29979d4c9d1d957db95d67c40237bc9660069d7b12035170a",
}
GOOD = {"digits": 0.97, "fashion_mnist": 0.91, "mnist": 0.985, "cifar10": 0.85}  # test accuracy at least
FEATURES = {"digits": 64, "fashion_mnist": 64, "mnist": 64, "cifar10": 128}
JUDGES = [name for name in HASHES if not name.endswith("_encoder")]


def paper(name):
    return json.loads(FOLDER.joinpath(f"{name}.json").read_text())


def judge(name):
    found = pinned(name)
    assert found is not None
    return found


def at_hand(name):
    """The images and classes of both parts, by which the classifier was made; the test is skipped without them."""
    source = paper(name)["data"]
    if source not in get_args(images.Data):
        pytest.skip(f"no data set {source}")
    try:
        return images.load(source), images.labels(source)
    except UserError as error:
        pytest.skip(f"{source} is not at hand: {error.got}")


# ------------------------------------------------------------------------------------------------ the files


def test_all_are_pinned():
    assert {path.stem for path in Path(str(FOLDER)).glob("*.npz")} == set(HASHES)
    assert {path.stem for path in Path(str(FOLDER)).glob("*.json")} == set(HASHES)
    assert len(set(HASHES.values())) == len(HASHES)
    assert pinned("nobody") is None


@pytest.mark.parametrize("name", HASHES)
def test_papers_are_of_their_weights(name):
    content, said, data = FOLDER.joinpath(f"{name}.npz").read_bytes(), paper(name), name.removesuffix("_encoder")
    assert said["sha256"] == judge(name).sha256 == hashlib.sha256(content).hexdigest() == HASHES[name]
    assert len(content) < 1_000_000
    assert said["test_accuracy"] >= GOOD[data] - 0.02 * (data != name)
    assert said["data"] == script.SOURCE.get(data, data)
    settings = (script.SETTINGS if data == name else script.ENCODERS)[data]
    assert said["settings"] == {key: value for key, value in vars(settings).items() if key in said["settings"]}
    assert {"epochs", "batch", "rate", "shift", "seed"} <= set(said["settings"])
    assert judge(name).weights["classes_w"].shape == (10, FEATURES[data])


def test_a_judge_and_its_encoder_are_from_other_random_numbers():
    assert set(script.SETTINGS) == set(script.ENCODERS) == set(GOOD)
    for name, settings in script.SETTINGS.items():
        assert settings.seed != script.ENCODERS[name].seed


def test_they_are_part_of_the_package():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["gwfbench"]
    for name in HASHES:
        for ending in ("npz", "json"):
            assert any(fnmatch(f"data/images/{name}.{ending}", pattern) for pattern in patterns)


@pytest.mark.parametrize("name", HASHES)
def test_they_are_as_good_as_their_papers_say(name):
    parts, classes = at_hand(name)
    found = script.accuracy(judge(name).weights, parts[1], classes[1])
    assert found == pytest.approx(paper(name)["test_accuracy"], abs=2e-4)


@pytest.mark.parametrize("name", HASHES)
def test_features_have_mean_square_1(name):
    """Over the training part; float16 has 11 bits."""
    train = at_hand(name)[0][0][:: 1 if name.startswith("digits") else 29]
    features = torch.cat([outputs(judge(name).weights, part)[0] for part in train.split(500)])
    assert float(features.square().mean()) == pytest.approx(1, abs=0.002 if name.startswith("digits") else 0.05)


# ------------------------------------------------------------------------------------------------ what a FID sees


def noisy(x, level):
    noise = np.random.default_rng(1).normal(size=x.shape)
    return (x + level * noise).round().clip(0, 255).astype(np.uint8)


def blurred(x, level):
    return gaussian_filter(x.astype(float), (0, 0, level, level), mode="nearest").round().astype(np.uint8)


def packed(x, quality):
    from PIL import Image

    def one(image):
        file = io.BytesIO()
        Image.fromarray(image.transpose(1, 2, 0).squeeze()).save(file, "JPEG", quality=quality)
        return np.asarray(Image.open(file)).reshape(image.shape[1], image.shape[2], -1).transpose(2, 0, 1)

    return np.stack([one(image) for image in x])


HARMS = {
    "noise": (noisy, (16, 32, 64, 128)),
    "blur": (blurred, (0.5, 0.75, 1.25, 2.0)),
    "JPEG": (packed, (50, 20, 10, 5)),
}


def distances(name, harm):
    """FID of training images that are harmed more and more, the first of them not, to the test part."""
    (train, test), classes = at_hand(name)
    n = min(1000, len(test))
    weights = judge(name).weights

    @torch.no_grad()
    def features(x):
        return torch.cat([outputs(weights, part)[0] for part in x.split(100)])

    chosen = np.random.default_rng(0).permutation(len(train))  # a file may have one class after the other
    y = features(test[torch.from_numpy(np.random.default_rng(0).permutation(len(test))[: 4 * n])])
    if harm == "classes lost":
        kept = [chosen[(classes[0][chosen] < 10 - lost).numpy()][:n] for lost in (0, 1, 3, 5, 7)]
        law = [train[torch.from_numpy(rows)] for rows in kept]
    else:
        by, levels = HARMS[harm]
        x = train[torch.from_numpy(chosen[:n])]
        law = [x, *(torch.from_numpy(by(x.numpy(), level)) for level in levels)]
    return [fid(features(x), *View(y, y).gaussian)[0] for x in law]


@pytest.mark.parametrize("harm", [*HARMS, "classes lost"])
@pytest.mark.parametrize("name", JUDGES)
def test_fid_rises_with_each_harm(name, harm):
    if harm == "JPEG":
        pytest.importorskip("PIL", reason="the extra `image`")
    found = distances(name, harm)
    assert all(more > less for less, more in pairwise(found)), found
    assert found[-1] > 3 * found[0]


# ------------------------------------------------------------------------------------------------ the networks


def deep(seed=2, shape=(3, 9, 7)):
    """Random weights, in float64, with offsets that are not 0."""
    rng = torch.Generator().manual_seed(seed)
    weights = {key: value.double() for key, value in fresh(shape, 5, rng, deep=True).items()}
    return {key: value + 0.1 * torch.randn(value.shape, generator=rng) for key, value in weights.items()}


def test_the_deep_network_is_its_formula():
    """Against torch.nn's layers, for an odd size."""
    weights, layers = deep(), []
    for name, stride in zip(DEEP, (1, 2, 1, 2, 1, 2, 1), strict=True):
        conv = torch.nn.Conv2d(*weights[f"{name}_w"].shape[1::-1], 3, stride=stride, padding=1)
        conv.weight.data, conv.bias.data = weights[f"{name}_w"], weights[f"{name}_b"]
        layers += [conv, torch.nn.ReLU()]
    x = 2 * torch.rand(4, 3, 9, 7, generator=torch.Generator().manual_seed(3)).double() - 1
    found, expected = maps(weights, x), [x]
    for layer in layers:
        expected.append(layer(expected[-1]))
    for got, wanted in zip(found, [expected[k] for k in (2, 6, 10, 14)], strict=False):
        torch.testing.assert_close(got, wanted)
    assert len(found) == 5
    torch.testing.assert_close(found[-1], torch.nn.AdaptiveAvgPool2d(1)(expected[-1]).flatten(1))


def test_the_deep_network_is_small():
    weights = fresh((3, 32, 32), 10, torch.Generator(), deep=True)
    assert sum(weight.numel() for weight in weights.values()) < 450_000
    x, work = torch.zeros(1, 3, 32, 32), 0
    for name, stride in convolutions(weights):
        x = torch.nn.functional.conv2d(x, weights[f"{name}_w"], stride=stride, padding=1)
        work += x[0, 0].numel() * weights[f"{name}_w"].numel()
    assert 15e6 < work < 25e6
    assert x.shape[2:] == (4, 4)


@pytest.mark.parametrize("name", HASHES)
def test_maps_end_in_the_features_and_are_differentiable(name):
    classifier = judge(name)
    size = {"digits": 8, "cifar10": 32}.get(name.removesuffix("_encoder"), 28)
    u = torch.randint(0, 256, (3, classifier.channels, size, size), generator=torch.Generator().manual_seed(1))
    weights = {key: value.double() for key, value in classifier.weights.items()}
    x = (u.double() / 127.5 - 1).requires_grad_()
    found = maps(weights, x)
    torch.testing.assert_close(found[-1], outputs(weights, u.to(torch.uint8))[0])
    heights = [each.shape[2] for each in found[:-1]]
    assert heights[0] == size
    assert all(after == (before + 1) // 2 for before, after in pairwise(heights))
    way = torch.randn(x.shape, generator=torch.Generator().manual_seed(2)).double()
    for k, each in enumerate(found):
        (slope,) = torch.autograd.grad(each.square().sum(), x, retain_graph=True)
        with torch.no_grad():
            ahead, back = (maps(weights, x + step * way)[k].square().sum() for step in (1e-7, -1e-7))
        assert float((slope * way).sum()) == pytest.approx(float(ahead - back) / 2e-7, rel=1e-4)


# ------------------------------------------------------------------------------------------------ how they are made


def test_batch_norm_is_folded_into_the_convolutions():
    weights, rng = deep(), torch.Generator().manual_seed(5)
    norms = {}
    for name, _ in convolutions(weights):
        k = len(weights.pop(f"{name}_b"))
        draw = torch.randn(3, k, generator=rng).double()
        norms[name] = script.Norm(1 + 0.3 * draw[0], draw[1], draw[2], 0.2 + torch.rand(k, generator=rng).double())
    u = torch.randint(0, 256, (6, 3, 9, 7), generator=rng).to(torch.uint8)
    expected = script.normed(weights, norms, u.double() / 127.5 - 1, training=False)
    torch.testing.assert_close(outputs(script.folded(weights, norms), u)[1], expected, rtol=1e-12, atol=1e-12)


def test_training_images_are_shifted_and_mirrored_each_by_itself():
    """Each is one of the 2 x 5 x 5 that there are, and all of these come."""
    image = torch.randint(0, 256, (1, 3, 6, 8), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    found = script.shaken(image.expand(2000, -1, -1, -1), 2, torch.Generator().manual_seed(2))
    assert found.shape == (2000, 3, 6, 8)
    assert found.dtype == torch.uint8
    seen = torch.zeros(2000, dtype=torch.long)
    counts = []
    for down in range(-2, 3):
        for right in range(-2, 3):
            moved = script._moved(image, down, right)
            for one in (moved, moved.flip(3)):
                here = (found == one).flatten(1).all(1)
                seen += here
                counts.append(int(here.sum()))
    assert bool((seen == 1).all())
    assert all(abs(count - 40) < 5 * (2000 * 0.02 * 0.98) ** 0.5 for count in counts)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8)])
def test_scaling_keeps_the_logits(shape):
    weights = fresh(shape, 4, torch.Generator().manual_seed(1), deep=shape[0] == 3)
    u = torch.randint(0, 256, (50, *shape), generator=torch.Generator().manual_seed(2)).to(torch.uint8)
    scaled = script.scaled(weights, u)
    features, logits = outputs(scaled, u)
    assert float(features.square().mean()) == pytest.approx(1, rel=1e-5)
    torch.testing.assert_close(logits, outputs(weights, u)[1])


@pytest.mark.parametrize("train", [script.train, script.train_deep])
def test_training_learns_and_is_repeatable(train):
    """Light and dark images, in three colours."""
    labels = torch.arange(64) % 2
    u = (
        torch.randint(0, 100, (64, 3, 8, 8), generator=torch.Generator().manual_seed(1))
        + 120 * labels[:, None, None, None]
    )
    settings = script.Settings(epochs=6, batch=16, rate=0.01, shift=1, seed=3)
    first, again = (train(u.to(torch.uint8), labels, settings) for _ in range(2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert script.accuracy(first, u.to(torch.uint8), labels) > 0.95
    other = train(u.to(torch.uint8), labels, script.replace(settings, seed=4))
    assert not torch.equal(first["conv0_w"], other["conv0_w"])


@pytest.mark.parametrize("words", [[], ["--encoder"]])
def test_the_script_writes_weights_and_their_paper(words, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "FOLDER", tmp_path)
    short = script.Settings(epochs=1, batch=128, rate=2e-3, shift=0, seed=5)
    monkeypatch.setitem(script.ENCODERS if words else script.SETTINGS, "digits", short)
    monkeypatch.setattr("sys.argv", ["image_classifier.py", "digits", *words])
    script.main()
    name = "digits_encoder" if words else "digits"
    content, said = (tmp_path / f"{name}.npz").read_bytes(), json.loads((tmp_path / f"{name}.json").read_text())
    assert said["sha256"] == hashlib.sha256(content).hexdigest()
    assert said["settings"] == vars(short)
    x, classes = images.load("digits")[1], images.labels("digits")[1]
    found = script.accuracy(Classifier.read(content).weights, x, classes)
    assert said["test_accuracy"] == pytest.approx(found, abs=5e-5)
    assert len(list(tmp_path.iterdir())) == 2
