"""Train the small classifier whose features judge the images of a data set, and write its weights beside the others.

    python scripts/image_classifier.py digits
    python scripts/image_classifier.py fashion_mnist

Adam, cross-entropy, rate falling to 0 by a cosine, images shifted by up to one pixel (digits 8 x 8: not at all); on
the training part alone. Then the features are scaled to mean square 1 over the training part, and the last layer by the
inverse: the same classifier, whose features are of a size for which KID's kernel (x . y / d + 1)^3 is meant.

Writes gwfbench/data/images/<data>.npz (float16) and <data>.json: its SHA-256, its accuracy on
the test part, and how it was made. A few minutes of one core. The weights are pinned by their hash: those of another
machine or version of PyTorch differ in the last digits, and so in their metrics' names.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import platform
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from gwfbench.datasets import images
from gwfbench.nn.classifier import Classifier, fresh, outputs

FOLDER = Path(__file__).parents[1] / "gwfbench" / "data" / "images"
SETTINGS = {  # epochs, batch, rate, largest shift in pixels
    "digits": (30, 32, 2e-3, 0),
    "fashion_mnist": (7, 128, 2e-3, 1),
    "mnist": (6, 128, 2e-3, 1),
    "cifar10": (20, 128, 2e-3, 2),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", choices=SETTINGS)
    parser.add_argument("--data-root")
    parser.add_argument("--seed", type=int, default=1)
    said = parser.parse_args()
    torch.set_num_threads(1)
    started = time.time()
    parts, classes = images.load(said.data, said.data_root), images.labels(said.data, said.data_root)
    weights = train(parts[0], classes[0], *SETTINGS[said.data], torch.Generator().manual_seed(said.seed))
    file = io.BytesIO()
    np.savez(file, **{name: weight.numpy().astype(np.float16) for name, weight in weights.items()})
    made = Classifier.read(file.getvalue())
    scores = [accuracy(made.weights, *pair) for pair in zip(parts, classes, strict=True)]
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{said.data}.npz").write_bytes(file.getvalue())
    epochs, batch, rate, shift = SETTINGS[said.data]
    facts = {
        "data": said.data,
        "sha256": made.sha256,
        "train_accuracy": round(scores[0], 4),
        "test_accuracy": round(scores[1], 4),
        "settings": {"epochs": epochs, "batch": batch, "rate": rate, "shift": shift, "seed": said.seed},
        "seconds": round(time.time() - started),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
    }
    (FOLDER / f"{said.data}.json").write_text(json.dumps(facts, indent=2) + "\n")
    print(json.dumps(facts))


def train(
    x: Tensor, labels: Tensor, epochs: int, batch: int, rate: float, shift: int, rng: torch.Generator
) -> dict[str, Tensor]:
    """Weights after so many passes over the images."""
    weights = fresh(tuple(x.shape[1:]), int(labels.max()) + 1, rng)
    for weight in weights.values():
        weight.requires_grad_()
    adam = torch.optim.Adam(weights.values(), lr=rate)
    total, done = epochs * (len(x) // batch), 0
    for epoch in range(epochs):
        order = torch.randperm(len(x), generator=rng)
        for rows in order[: len(x) // batch * batch].view(-1, batch):
            for group in adam.param_groups:
                group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * done / total))
            down, right = (int(torch.randint(-shift, shift + 1, (), generator=rng)) for _ in range(2))
            loss = cross_entropy(outputs(weights, _moved(x[rows], down, right))[1], labels[rows])
            adam.zero_grad()
            loss.backward()
            adam.step()
            done += 1
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}", flush=True)
    return scaled({name: weight.detach() for name, weight in weights.items()}, x)


@torch.no_grad()
def scaled(weights: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
    """The same classifier with features of mean square 1."""
    size = torch.cat([outputs(weights, part)[0] for part in x.split(1000)]).square().mean().sqrt()
    factors = {"hidden_w": 1 / size, "hidden_b": 1 / size, "classes_w": size}  # ReLU keeps positive factors
    return {name: weight * factors.get(name, 1.0) for name, weight in weights.items()}


def _moved(x: Tensor, down: int, right: int) -> Tensor:
    """Shifted, with the edge's pixels repeated."""
    h, w = x.shape[2:]
    rows = (torch.arange(h) - down).clamp(0, h - 1)
    return x[:, :, rows][..., (torch.arange(w) - right).clamp(0, w - 1)]


@torch.no_grad()
def accuracy(weights: dict[str, Tensor], x: Tensor, labels: Tensor) -> float:
    """Share of images whose class is found."""
    found = torch.cat([outputs(weights, part)[1].argmax(1) for part in x.split(1000)])
    return float((found == labels).double().mean())


if __name__ == "__main__":
    main()
