"""A small convolutional classifier of images, whose last hidden layer gives the features of image metrics.

    u (n, c, h, w), uint8  ->  u / 127.5 - 1  ->  3 x 3 convolutions (the first keeps the size, the others halve it),
    each with ReLU  ->  one hidden layer with ReLU: the features  ->  the logits of the classes

Its weights are plain arrays in an .npz: conv<i>_w (out, in, 3, 3), conv<i>_b (out,), hidden_w, hidden_b, classes_w,
classes_b; the name of a metric has the first digits of that file's SHA-256. scripts/image_classifier.py makes them.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, linear, relu

CHANNELS = (16, 32, 32)
FEATURES = 64


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


def outputs(weights: Mapping[str, Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
    """Features (n, k) and logits (n, classes) of uint8 images (n, c, h, w)."""
    x = images.to(weights["hidden_w"].dtype) / 127.5 - 1
    for i in range(sum(name.startswith("conv") for name in weights) // 2):
        x = relu(conv2d(x, weights[f"conv{i}_w"], weights[f"conv{i}_b"], stride=1 if i == 0 else 2, padding=1))
    features = relu(linear(x.flatten(1), weights["hidden_w"], weights["hidden_b"]))
    return features, linear(features, weights["classes_w"], weights["classes_b"])


def fresh(shape: tuple[int, ...], classes: int, rng: torch.Generator) -> dict[str, Tensor]:
    """Weights to train, normal with deviation (2 / inputs)^1/2 (He et al. 2015), for images (c, h, w)."""
    channels, height, width = shape
    sizes: dict[str, tuple[int, ...]] = {}
    for i, out in enumerate(CHANNELS):
        sizes[f"conv{i}"] = (out, channels, 3, 3)
        channels = out
        if i:
            height, width = (height + 1) // 2, (width + 1) // 2
    sizes |= {"hidden": (FEATURES, channels * height * width), "classes": (classes, FEATURES)}
    weights = {}
    for name, size in sizes.items():
        scale = (2 / int(np.prod(size[1:]))) ** 0.5
        weights[f"{name}_w"] = scale * torch.randn(size, generator=rng)
        weights[f"{name}_b"] = torch.zeros(size[0])
    return weights
