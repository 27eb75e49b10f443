"""Images: transport N(0, I) in pixel space to a data set of images, by default judged against its test part.

    x = u / 127.5 - 1,   u in 0 ... 255 a pixel of a training image, (c, h, w)

so that black is -1 and white is 1. Rounding inverts this exactly, and a network that ends in tanh reaches all of it.
Metrics first round the points that they judge to u, as if the images were saved.

The target's samples are the training part, drawn with replacement, and mirrored with probability 1/2 if `flip`. The law
that the images come from is unknown, so the truth consists of images. Metrics compare `fake` points with `real` images
of the part that `against` names: the test part, which no method gets, or the training part, which all methods get. Most
papers compare with the training part: there a method that merely repeats its training images is without fault.
Compared with the test part, it reaches the floor.

The control `exact` draws, without replacement and never mirrored, from images that are not compared with: from the
training part if metrics compare with the test part, otherwise from the rest of the training part and from the test
part. Its value is the train-test floor of a metric.

Of CIFAR-10's 60,000 images 50,000 may be compared with. The other 10,000 are too few for the floor of `fid_50k_train`,
as fewer points would give a higher value, so there is none. Such a task also has each metric with as many points as are
left, `fid_50k_10k_train`, and its floor.

FID, KID, inception score, precision and recall use the features of torch-fidelity's Inception if the file of its
weights is where torch-fidelity puts it. Each is also there by a small classifier that comes with gwfbench for most data
sets, with its name and hash, as in `fid_360_digits@ab12`. How a protocol is written is in
gwfbench/datasets/protocols.py.
`mmd`, `sliced_w2` and `w2` are computed on the pixels, by at most as many points as there are images.

For a folder of your own, and for JPEG copies, the content of the images is part of a run's identity, not the place of
the folder: if the images change, earlier runs are stale.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from gwfbench.datasets import images
from gwfbench.errors import require
from gwfbench.fields import Count, check_fields, refuse
from gwfbench.info import Encoder, Info, Initial, TargetSamples
from gwfbench.metrics.image import NAMES, Lens, absent, floats, metrics
from gwfbench.nn.classifier import maps, pinned
from gwfbench.protocol import Instance, Metric, Problem, Truth
from gwfbench.rng import Streams


@dataclass(frozen=True)
class Images:
    data: Literal["digits", "fashion_mnist", "mnist", "cifar10", "cifar10_jpeg", "folder"] = "digits"
    "data set; cifar10_jpeg: JPEG copies of CIFAR-10; folder: PNG or JPEG files of one size in `data_root`"
    data_root: str | None = None
    "folder of the data set's files; default: that of GWFBENCH_DATA, then ~/.cache/gwfbench, then Debian's"
    download: bool = False
    "whether to download missing files, including Inception's weights"
    flip: bool = False
    "whether half of the target's samples are mirrored left to right"
    against: Literal["test", "train"] = "test"
    "part of the data set whose images metrics compare with"
    real: Count | None = None
    "number of images to compare with; default: all of that part"
    fake: Count | None = None
    "number of points that image metrics judge; default: `real`"

    offers: ClassVar[frozenset[type[Info]]] = frozenset({Initial, TargetSamples})
    optional: ClassVar[frozenset[type[Info]]] = frozenset({Encoder})
    metrics: ClassVar[tuple[str, ...]] = ("sliced_w2", "mmd", "w2")
    files: ClassVar[tuple[str, ...]] = ("data/images",)
    points: ClassVar[int] = 10_000
    version: ClassVar[int] = 1
    smoke: ClassVar[Mapping[str, object]] = {"data": "digits"}
    reference: ClassVar[str] = """@inproceedings{heusel2017gans,
  title={{GAN}s trained by a two time-scale update rule converge to a local {N}ash equilibrium}, author={Heusel, Martin
  and Ramsauer, Hubert and Unterthiner, Thomas and Nessler, Bernhard and Hochreiter, Sepp}, booktitle={NeurIPS},
  year={2017}}"""

    def __post_init__(self) -> None:
        check_fields(self)
        refuse(
            self,
            *("data_root", "data"),
            when=self.data == "digits" and self.data_root is not None,
            expected="no data_root, because the digits come with scikit-learn",
        )
        refuse(
            self,
            "data",
            when=self.data == "folder" and self.data_root is None,
            expected="a data_root: the folder that contains the images",
            fix="write images:data=folder,data_root=FOLDER",
        )

    def data_files(self) -> list[Path]:
        return images.own_files(self.data, self.data_root, self.download)

    def build(self, rng: Streams) -> Instance:
        train, test = (part.to(rng.device) for part in images.load(self.data, self.data_root, self.download))
        real, others = self._apart(train, test)
        fake = self.fake or len(real)
        shape = tuple(train.shape[1:])
        dims = math.prod(shape)

        def start(n: int, streams: Streams) -> Tensor:
            return streams.normal(n, *shape)

        def density(x: Tensor) -> Tensor:
            return -0.5 * x.flatten(2).square().sum(-1) - 0.5 * dims * math.log(2 * math.pi)

        def samples(n: int, streams: Streams) -> Tensor:
            x = floats(train[streams.integers(len(train), n)], streams.dtype)
            return torch.where(streams.uniform(n, 1, 1, 1) < 0.5, x.flip(-1), x) if self.flip else x

        def draw(part: Tensor, index: int, n: int, streams: Streams) -> Tensor:
            if n > len(part):
                raise ValueError(f"{len(part)} images are at hand; {n} were asked for")
            rows = replace(streams, dtype=torch.float64).uniform(len(part)).argsort(1)[:, :n]  # without replacement
            return floats(part[rows], streams.dtype)

        infos = (Initial(start, density), TargetSamples(samples), *self._encoder(rng))
        truth = Truth(
            partial(draw, others),
            exact=True,
            limit=min(len(others), max(len(real), fake)),
            reference=lambda index, n, streams: draw(real, index, min(n, len(real)), streams),
            points=max(self.points, fake),
            metrics=self._judges(real, fake, min(fake, len(others)), rng.device),
        )
        return Instance(Problem(shape, (math.inf,), infos), truth)

    def _apart(self, train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
        """The images to compare with, always the same ones of their part, and those that `exact` draws from."""
        part = train if self.against == "train" else test
        count = self.real or len(part)
        require(
            count <= len(part),
            f"images: real={count} of the {self.against} part of {self.data}",
            f"at most its {len(part)} images",
            "ask for fewer, or leave real out",
        )
        order = torch.from_numpy(np.random.default_rng(42).permutation(len(part))).to(part.device)
        real = part if count == len(part) else part[order[:count]]
        return real, train if part is test else torch.cat([train[order[count:]], test])

    def _encoder(self, rng: Streams) -> tuple[Encoder, ...]:
        """The pinned second classifier of the data set as an encoder, if there is one."""
        found = pinned(f"{network(self.data)}_encoder")
        if found is None:
            return ()
        weights = {name: weight.to(rng.device, rng.dtype) for name, weight in found.weights.items()}

        def at(x: Tensor) -> list[Tensor]:
            return [part.flatten(1).unflatten(0, x.shape[:2]) for part in maps(weights, x.flatten(0, 1))]

        return (Encoder(at),)

    def remarks(self) -> list[str]:
        why = self._no_network()
        return [f"no {', '.join(NAMES)}: {why}"] if why else []

    def _no_network(self) -> str:
        """Why metrics have no network; empty if they have one, or if it is to be downloaded."""
        try:
            from gwfbench.nn import fidelity
        except ImportError:
            return "torch-fidelity is not installed (pip install 'gwfbench[image]')"
        if self.download or fidelity.inception_file(False) is not None or pinned(network(self.data)) is not None:
            return ""
        return (
            f"no weights of torch-fidelity's Inception (download=true fetches them), and no classifier of {self.data}"
        )

    def _judges(self, real: Tensor, fake: int, floor: int, device: torch.device) -> tuple[Metric, ...]:
        """The metrics by a network, or why there are none.

        Args:
            floor: number of points for which there is a floor, if that is another.
        """
        why = self._no_network()
        if why:
            return absent(why)
        from gwfbench.nn import fidelity

        weights, own = fidelity.inception_file(self.download), pinned(network(self.data))
        lenses: dict[str, Lens] = {}
        if weights is not None:
            lenses[""] = Lens(fidelity.by_inception(weights, device), real, weights.stem, fake, self.against)
        if own is not None:
            label = f"{network(self.data)}@{own.sha256[:4]}"
            extract = fidelity.by_classifier(label, own, device)
            lenses[f"_{label}"] = Lens(extract, real, own.sha256, fake, self.against)
        counts = dict.fromkeys((fake, floor))
        return tuple(
            metric
            for label, lens in lenses.items()
            for count in counts
            for metric in metrics(replace(lens, fake=count), label)
        )


def network(data: str) -> str:
    """The name of the data set whose classifier judges this one."""
    return "cifar10" if data == images.JPEG else data
