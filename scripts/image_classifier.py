"""Train the small classifier whose features judge the images of a data set, and write its weights beside the others.

    python scripts/image_classifier.py digits
    python scripts/image_classifier.py cifar10 --data-root FOLDER
    python scripts/image_classifier.py digits --encoder      a second one, from other random numbers, for methods

All by cross-entropy, on the training part alone, images shifted by a few pixels at random (digits 8 x 8: not at all).

    digits, mnist, fashion_mnist   Adam, rate falling to 0 by a cosine
    cifar10                        the deep network, on the JPEG copies (data=cifar10_jpeg), half of the images
                                   mirrored; batch norm, which is folded into the convolutions at the end; gradient
                                   descent with Nesterov's momentum and one cycle of the rate (Smith and Topin 2019)

Then the features are scaled to mean square 1 over the training part, and the last layer by the inverse: the same
classifier, whose features are of a size for which KID's kernel (x . y / d + 1)^3 is meant.

Writes gwfbench/data/images/<data>.npz (float16) and <data>.json: its SHA-256, its accuracy on the test part, and how it
was made; of the second <data>_encoder.npz and .json. Minutes of one core, cifar10 half an hour. The weights are pinned
by their hash: those of another machine or version of PyTorch differ in the last digits, and so in their metrics' names.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import batch_norm, conv2d, cross_entropy, linear, relu

from gwfbench.datasets import images
from gwfbench.nn.classifier import Classifier, convolutions, fresh, outputs

FOLDER = Path(__file__).parents[1] / "gwfbench" / "data" / "images"
SMALL = 1e-5  # added to the variance by batch norm


@dataclass(frozen=True)
class Settings:
    """How a classifier is trained; shift: the largest, in pixels; deep: which network."""

    epochs: int
    batch: int
    rate: float
    shift: int
    seed: int = 1
    deep: bool = False


SETTINGS = {
    "digits": Settings(30, 32, 2e-3, 0),
    "fashion_mnist": Settings(7, 128, 2e-3, 1),
    "mnist": Settings(6, 128, 2e-3, 1),
    "cifar10": Settings(18, 128, 0.1, 3, deep=True),
}
EPOCHS = {"digits": 30, "fashion_mnist": 4, "mnist": 3, "cifar10": 10}  # of the second, which judges nothing
ENCODERS = {name: replace(settings, seed=2, epochs=EPOCHS[name]) for name, settings in SETTINGS.items()}
SOURCE = {"cifar10": "cifar10_jpeg"}  # the data set that is read, where it is not of the classifier's name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=SETTINGS)
    parser.add_argument("--data-root")
    parser.add_argument("--encoder", action="store_true", help="the second network, for methods")
    said = parser.parse_args()
    torch.set_num_threads(1)
    started, settings = time.time(), (ENCODERS if said.encoder else SETTINGS)[said.data]
    source = SOURCE.get(said.data, said.data)
    parts, classes = images.load(source, said.data_root), images.labels(source, said.data_root)
    weights = (train_deep if settings.deep else train)(parts[0], classes[0], settings)
    file = io.BytesIO()
    np.savez(file, **{name: weight.numpy().astype(np.float16) for name, weight in weights.items()})
    made = Classifier.read(file.getvalue())
    scores = [accuracy(made.weights, *pair) for pair in zip(parts, classes, strict=True)]
    name = said.data + "_encoder" * said.encoder
    (FOLDER / f"{name}.npz").write_bytes(file.getvalue())
    facts = {
        "data": source,
        "sha256": made.sha256,
        "train_accuracy": round(scores[0], 4),
        "test_accuracy": round(scores[1], 4),
        "settings": asdict(settings),
        "seconds": round(time.time() - started),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
    }
    (FOLDER / f"{name}.json").write_text(json.dumps(facts, indent=2) + "\n")
    print(json.dumps(facts))


def train(x: Tensor, labels: Tensor, settings: Settings) -> dict[str, Tensor]:
    """Weights of the shallow network after so many passes over the images."""
    rng, batch, shift = torch.Generator().manual_seed(settings.seed), settings.batch, settings.shift
    weights = fresh(tuple(x.shape[1:]), int(labels.max()) + 1, rng)
    for weight in weights.values():
        weight.requires_grad_()
    adam = torch.optim.Adam(weights.values(), lr=settings.rate)
    total, done = settings.epochs * (len(x) // batch), 0
    for epoch in range(settings.epochs):
        order = torch.randperm(len(x), generator=rng)
        for rows in order[: len(x) // batch * batch].view(-1, batch):
            for group in adam.param_groups:
                group["lr"] = settings.rate * 0.5 * (1 + math.cos(math.pi * done / total))
            down, right = (int(torch.randint(-shift, shift + 1, (), generator=rng)) for _ in range(2))
            loss = cross_entropy(outputs(weights, _moved(x[rows], down, right))[1], labels[rows])
            adam.zero_grad()
            loss.backward()
            adam.step()
            done += 1
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}", flush=True)
    return scaled({name: weight.detach() for name, weight in weights.items()}, x)


def train_deep(x: Tensor, labels: Tensor, settings: Settings) -> dict[str, Tensor]:
    """Weights of the deep network after so many passes over the images."""
    rng, batch = torch.Generator().manual_seed(settings.seed), settings.batch
    weights = fresh(tuple(x.shape[1:]), int(labels.max()) + 1, rng, deep=True)
    norms = {name: Norm.fresh(len(weights.pop(f"{name}_b"))) for name, _ in convolutions(weights)}
    learnt = [*weights.values(), *(each for norm in norms.values() for each in (norm.factor, norm.offset))]
    for each in learnt:
        each.requires_grad_()
    steps = len(x) // batch
    descent = torch.optim.SGD(learnt, lr=settings.rate, momentum=0.9, nesterov=True, weight_decay=5e-4)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        descent, settings.rate, settings.epochs * steps, pct_start=0.25, cycle_momentum=False
    )
    for epoch in range(settings.epochs):
        for rows in torch.randperm(len(x), generator=rng)[: steps * batch].view(-1, batch):
            seen = shaken(x[rows], settings.shift, rng).float() / 127.5 - 1
            loss = cross_entropy(normed(weights, norms, seen), labels[rows])
            descent.zero_grad()
            loss.backward()
            descent.step()
            cycle.step()
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}", flush=True)
    return scaled(folded(weights, norms), x)


@dataclass(frozen=True)
class Norm:
    """Batch norm of one layer: what is learnt, and the running mean and variance, all (k,)."""

    factor: Tensor
    offset: Tensor
    mean: Tensor
    variance: Tensor

    @staticmethod
    def fresh(k: int) -> Norm:
        return Norm(torch.ones(k), torch.zeros(k), torch.zeros(k), torch.ones(k))


def normed(weights: dict[str, Tensor], norms: dict[str, Norm], x: Tensor, training: bool = True) -> Tensor:
    """Logits of the deep network for images (n, c, h, w) in [-1, 1], with a batch norm after each convolution."""
    for name, stride in convolutions(weights):
        norm, x = norms[name], conv2d(x, weights[f"{name}_w"], stride=stride, padding=1)
        x = relu(batch_norm(x, norm.mean, norm.variance, norm.factor, norm.offset, training, eps=SMALL))
    return linear(x.mean((2, 3)), weights["classes_w"], weights["classes_b"])


@torch.no_grad()
def folded(weights: dict[str, Tensor], norms: dict[str, Norm]) -> dict[str, Tensor]:
    """The same network without batch norm: (w * x - m) f / (v + small)^1/2 + o is a convolution."""
    found = {}
    for name, norm in norms.items():
        factor = norm.factor / (norm.variance + SMALL).sqrt()
        found[f"{name}_w"] = weights[f"{name}_w"] * factor[:, None, None, None]
        found[f"{name}_b"] = norm.offset - norm.mean * factor
    return found | {name: weights[name].detach() for name in ("classes_w", "classes_b")}


@torch.no_grad()
def scaled(weights: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
    """The same classifier with features of mean square 1."""
    size = torch.cat([outputs(weights, part)[0] for part in x.split(1000)]).square().mean().sqrt()
    last = "hidden" if "hidden_w" in weights else convolutions(weights)[-1][0]
    factors = {f"{last}_w": 1 / size, f"{last}_b": 1 / size, "classes_w": size}  # ReLU keeps positive factors
    return {name: weight * factors.get(name, 1.0) for name, weight in weights.items()}


def _moved(x: Tensor, down: int, right: int) -> Tensor:
    """Shifted, with the edge's pixels repeated."""
    h, w = x.shape[2:]
    rows = (torch.arange(h) - down).clamp(0, h - 1)
    return x[:, :, rows][..., (torch.arange(w) - right).clamp(0, w - 1)]


def shaken(x: Tensor, shift: int, rng: torch.Generator) -> Tensor:
    """Images (n, c, h, w), each shifted by itself, with the edge's pixels repeated, and half of them mirrored.

    In memory the channels are last, which convolutions are quicker with.
    """
    n, _, h, w = x.shape
    down, right = (torch.randint(-shift, shift + 1, (n, 1), generator=rng) for _ in range(2))
    mirrored = torch.rand(n, 1, generator=rng) < 0.5
    rows, columns = (torch.arange(h) - down).clamp(0, h - 1), (torch.arange(w) - right).clamp(0, w - 1)
    columns = torch.where(mirrored, columns.flip(1), columns)
    return x[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@torch.no_grad()
def accuracy(weights: Mapping[str, Tensor], x: Tensor, labels: Tensor) -> float:
    """Share of images whose class is found."""
    found = torch.cat([outputs(weights, part)[1].argmax(1) for part in x.split(1000)])
    return float((found == labels).double().mean())


if __name__ == "__main__":
    main()
