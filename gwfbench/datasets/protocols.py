"""Which images a metric compares: its protocol, which is part of its name.

    fid_<real>[_<fake>][_train][_<data>@<hash>]

    real    number of real images to compare with; inception_score has none
    fake    number of points, where it is another
    train   the real images are of the training part; else of the test part
    @       the network's data, and the first digits of its weights' SHA-256; else the features are Inception's

So `fid_50k_train` is what most papers report of CIFAR-10, and `fid_10k_5k` what some do: two metrics.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

NAMES = ("fid", "kid", "inception_score", "precision", "recall")


@dataclass(frozen=True)
class Called:
    """What a metric's name says.

    Args:
        real, fake: numbers of images; real is 0 for a metric that compares with none.
        train: whether the real ones are of the training part.
        network: label of a network that is not Inception; empty: it is.
    """

    metric: str
    real: int
    fake: int
    train: bool
    network: str

    def __str__(self) -> str:
        sizes = dict.fromkeys(short(n) for n in (self.real, self.fake) if n)  # one where they are equal
        return "_".join([self.metric, *sizes, *(["train"] if self.train else []), *filter(None, [self.network])])

    @staticmethod
    def read(name: str) -> Called | None:
        """Of a metric by its name; None if that says no protocol."""
        found = re.fullmatch(rf"({'|'.join(NAMES)})_(\d+k?)(?:_(\d+k?))?(_train)?(?:_(\w+@[0-9a-f]+))?", name)
        if found is None:
            return None
        metric, first, second, train, network = found.groups()
        real, fake = (int(n.replace("k", "000")) for n in (first, second or first))
        return Called(metric, 0 if metric == "inception_score" else real, fake, bool(train), network or "")

    def words(self) -> str:
        """The protocol, in words."""
        real = f"{self.real} images of the {'training' if self.train else 'test'} part, " if self.real else ""
        return f"{real}{self.fake} points, {self.network or 'Inception'}"


def short(n: int) -> str:
    """A number as names of metrics have it: 50k, 10k, 360."""
    return f"{n // 1000}k" if n % 1000 == 0 else str(n)


def apart(one: str, others: Iterable[str]) -> str:
    """Why a metric can't be compared with its kin among these, by other protocols; empty if there are none."""
    said = Called.read(one)
    kin = [found for found in map(Called.read, others) if found and said and found.metric == said.metric]
    if said is None or not kin or said in kin:
        return ""
    return f"{one} is of {said.words()}; " + "; ".join(f"{found} is of {found.words()}" for found in kin)
