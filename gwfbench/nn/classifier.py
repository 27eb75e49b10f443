"""Small convolutional classifiers of images, whose last hidden layer gives the features of image metrics.

    u (n, c, h, w), uint8  ->  u / 127.5 - 1  ->  3 x 3 convolutions, each with ReLU  ->  the features
    (the shallow: one hidden layer with ReLU; the deep: the mean over all places)  ->  the logits of the classes

Their weights are plain arrays in an .npz: conv<i>_w (out, in, 3, 3) and conv<i>_b (out,), of which the first keeps the
size of the image and the others halve it; same<i>_w and same<i>_b, which keep it; hidden_w and hidden_b, if there is a
hidden layer; classes_w and classes_b. The name of a metric has the first digits of that file's SHA-256.
scripts/image_classifier.py makes them. <data>.npz judges; <data>_encoder.npz, of the same form and from other random
numbers, is for methods that want features, so that none is trained on what judges it.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, linear, relu

CHANNELS = (16, 32, 32)
FEATURES = 64
DEEP = {"conv0": 32, "conv1": 48, "same2": 48, "conv3": 96, "same4": 96, "conv5": 128, "same6": 128}
FOLDER = files("gwfbench") / "data" / "images"


@dataclass(frozen=True)
class Classifier:
    """Weights, and the SHA-256 of the file that they are from."""

    weights: Mapping[str, Tensor]
    sha256: str

    @staticmethod
    def read(content: bytes) -> Classifier:
        """From the bytes of an .npz file.

        Raises:
            ValueError: they are none, or have pickled objects.
        """
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            weights = {name: torch.from_numpy(arrays[name].astype(np.float32)) for name in arrays.files}
        return Classifier(weights, hashlib.sha256(content).hexdigest())

    @property
    def channels(self) -> int:
        """Of the images: 1 or 3."""
        return self.weights["conv0_w"].shape[1]


def pinned(name: str) -> Classifier | None:
    """The classifier of this name that comes with gwfbench, or None: <data> judges, <data>_encoder is for methods."""
    file = FOLDER.joinpath(f"{name}.npz")
    return Classifier.read(file.read_bytes()) if file.is_file() else None


def convolutions(weights: Mapping[str, Tensor]) -> list[tuple[str, int]]:
    """The names of the convolutions, first to last, and their strides."""
    names = [name.removesuffix("_w") for name in weights if name.startswith(("conv", "same")) and name.endswith("_w")]
    names.sort(key=lambda name: int(name[4:]))
    return [(name, 2 if name.startswith("conv") and i else 1) for i, name in enumerate(names)]


def maps(weights: Mapping[str, Tensor], images: Tensor) -> list[Tensor]:
    """What the network makes of images (n, c, h, w) in [-1, 1]: of each size the last map (n, k, h', w'), largest
    first, then the features (n, k)."""
    x, found = images, []
    for name, stride in convolutions(weights):
        if stride == 2:
            found.append(x)
        x = relu(conv2d(x, weights[f"{name}_w"], weights[f"{name}_b"], stride=stride, padding=1))
    deep = "hidden_w" not in weights
    features = x.mean((2, 3)) if deep else relu(linear(x.flatten(1), weights["hidden_w"], weights["hidden_b"]))
    return [*found, x, features]


def outputs(weights: Mapping[str, Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
    """Features (n, k) and logits (n, classes) of uint8 images (n, c, h, w)."""
    features = maps(weights, images.to(weights["conv0_w"].dtype) / 127.5 - 1)[-1]
    return features, linear(features, weights["classes_w"], weights["classes_b"])


def fresh(shape: tuple[int, ...], classes: int, rng: torch.Generator, deep: bool = False) -> dict[str, Tensor]:
    """Weights to train, normal with deviation (2 / inputs)^1/2 (He et al. 2015), for images (c, h, w)."""
    channels, height, width = shape
    sizes: dict[str, tuple[int, ...]] = {}
    for name, out in (DEEP if deep else {f"conv{i}": out for i, out in enumerate(CHANNELS)}).items():
        sizes[name] = (out, channels, 3, 3)
        channels = out
        if name.startswith("conv") and name != "conv0":
            height, width = (height + 1) // 2, (width + 1) // 2
    if deep:
        sizes["classes"] = (classes, channels)
    else:
        sizes |= {"hidden": (FEATURES, channels * height * width), "classes": (classes, FEATURES)}
    weights = {}
    for name, size in sizes.items():
        scale = (2 / int(np.prod(size[1:]))) ** 0.5
        weights[f"{name}_w"] = scale * torch.randn(size, generator=rng)
        weights[f"{name}_b"] = torch.zeros(size[0])
    return weights
