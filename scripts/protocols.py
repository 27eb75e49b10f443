"""What a protocol does to a number: the classifier's FID of the same images by four protocols.

    python scripts/protocols.py digits
    python scripts/protocols.py cifar10_jpeg --data-root FOLDER --fakes runs/images.../draws.npz

Of N training and n test images: N of the training part with N and with n fakes, the n of the test part with n and with
n / 2 fakes. The fakes are those of a file (uint8 or in [-1, 1]; of an .npz the last array whose name begins with t), or
made of training images: themselves, as a method that has learnt them by heart; with noise; or blurred. Each protocol
takes the first of them, in an order that is always the same.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from gwfbench.datasets import images
from gwfbench.datasets.protocols import Called
from gwfbench.metrics.image import View, fid, floats, pixels
from gwfbench.nn import fidelity
from gwfbench.nn.classifier import Classifier

FOLDER = Path(__file__).parents[1] / "gwfbench" / "data" / "images"
MADE = ("by heart", "noise", "blur")


def four(train: Tensor, test: Tensor, fakes: Tensor, classifier: Classifier) -> dict[str, tuple[float, float]]:
    """FID and its error of uint8 images (m, c, h, w), by the name of each protocol that has enough of them."""
    extract = fidelity.by_classifier(f"protocols@{classifier.sha256[:4]}", classifier, torch.device("cpu"))
    real = {"train": View(*extract(train)).gaussian, "test": View(*extract(test)).gaussian}
    features, sizes = extract(fakes)[0], {"train": len(train), "test": len(test)}
    found = {}
    for part, count in (("train", len(train)), ("train", len(test)), ("test", len(test)), ("test", len(test) // 2)):
        if count <= len(features):
            name = str(Called("fid", sizes[part], count, part == "train", ""))
            found[name] = fid(features[:count], *real[part])
    return found


def made(train: Tensor, how: str) -> Tensor:
    """As many fakes as there are training images."""
    x = train[torch.from_numpy(np.random.default_rng(7).permutation(len(train)))]
    if how == "noise":
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(7))
        return pixels(floats(x, torch.float32) + 0.2 * noise)
    return pixels(avg_pool2d(floats(x, torch.float32), 3, 1, 1, count_include_pad=False)) if how == "blur" else x


def read(path: Path) -> Tensor:
    """Images of a file, uint8 (m, c, h, w)."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            last = max((name for name in arrays.files if name[0] == "t"), key=lambda name: int(name[1:]))
            x = torch.from_numpy(arrays[last])
    else:
        x = torch.from_numpy(np.load(path, allow_pickle=False))
    return x if x.dtype == torch.uint8 else pixels(x)


def table(train: Tensor, test: Tensor, laws: dict[str, Tensor], classifier: Classifier) -> str:
    """A line for each law and a column for each protocol, in Markdown."""
    found = {law: four(train, test, fakes, classifier) for law, fakes in laws.items()}
    names = list(dict.fromkeys(name for row in found.values() for name in row))
    lines = [["fakes", *names], ["---"] * (len(names) + 1)]
    for law, row in found.items():
        cells = ("{:.3g} ± {:.2g}".format(*row[name]) if name in row else "-" for name in names)
        lines.append([law, *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--data-root")
    parser.add_argument("--fakes", type=Path, nargs="*", default=[])
    said = parser.parse_args()
    torch.set_num_threads(1)
    train, test = images.load(said.data, said.data_root)
    own = FOLDER / f"{'cifar10' if said.data == images.JPEG else said.data}.npz"
    laws = {path.parent.name: read(path) for path in said.fakes} or {how: made(train, how) for how in MADE}
    print(table(train, test, laws, Classifier.read(own.read_bytes())))


if __name__ == "__main__":
    main()
