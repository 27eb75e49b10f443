"""torch-fidelity, and the networks that give it features: its Inception, or a small classifier of ours.

Importing this module imports torch-fidelity, which raises ImportError where it is not installed. torch-fidelity imports
torchvision, of which it needs the transforms alone; torchvision's registry build is for CUDA, and with a CPU build of
torch its operators are missing and its import fails. With their schemas defined first it goes through.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
import urllib.error
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from gwfbench.errors import UserError, require
from gwfbench.nn.classifier import Classifier, outputs

_LIBRARIES: list[torch.library.Library] = []  # a library's schemas go with it


def _import_torchvision() -> None:
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _LIBRARIES.append(library)
        importlib.import_module("torchvision")


_import_torchvision()

from torch_fidelity.feature_extractor_base import FeatureExtractorBase  # noqa: E402
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3  # noqa: E402
from torch_fidelity.metric_isc import (  # noqa: E402
    KEY_METRIC_ISC_MEAN,
    KEY_METRIC_ISC_STD,
    isc_features_to_metric,
)
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor  # noqa: E402

__all__ = ["KEY_METRIC_ISC_MEAN", "KEY_METRIC_ISC_STD", "isc_features_to_metric"]

TOGETHER_CPU, TOGETHER_GPU = 64, 512  # images at once: a core's cache holds so many maps, a GPU is filled by more
Extract = Callable[[Tensor], tuple[Tensor, Tensor]]  # uint8 (n, c, h, w) -> features (n, k), logits (n, classes)


def by_classifier(name: str, classifier: Classifier, device: torch.device) -> Extract:
    """Features by our classifier, which torch-fidelity has under `name` from now on (its `feature_extractor`)."""

    class Ours(FeatureExtractorBase):
        def __init__(self, name: str, features_list: list[str], **_kwargs: object):
            super().__init__(name, features_list)
            for key, value in classifier.weights.items():
                self.register_buffer(key, value)

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return ("features", "logits")

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "logits" if metric == "isc" else "features"

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        def forward(self, input: Tensor) -> tuple[Tensor, ...]:  # files of grey images come with three equal channels
            found = outputs(dict(self.named_buffers()), input[:, : classifier.channels])
            have = dict(zip(self.get_provided_features_list(), found, strict=True))
            return tuple(have[wanted].double() for wanted in self.features_list)  # its sums would be float32

    if name not in FEATURE_EXTRACTORS_REGISTRY:
        register_feature_extractor(name, Ours)
    weights = {key: value.to(device) for key, value in classifier.weights.items()}

    def network(images: Tensor) -> tuple[Tensor, Tensor]:
        coloured = images.shape[1] > 1  # with channels last in memory a core needs a third less time
        return outputs(weights, images.contiguous(memory_format=torch.channels_last) if coloured else images)

    return lambda images: _in_batches(network, images[:, : classifier.channels], device)


def inception_file(download: bool) -> Path | None:
    """The weights of torch-fidelity's Inception, where it looks for them; None if they are not there.

    Raises:
        UserError: they are damaged, or can't be downloaded.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(URL_INCEPTION_V3)
    known = path.stem.rpartition("-")[2]
    if not path.is_file():
        if not download:
            return None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), hash_prefix=known, progress=False)
        except (OSError, RuntimeError, urllib.error.URLError) as error:
            raise UserError(
                f"{URL_INCEPTION_V3} can't be downloaded: {error}",
                "a machine with network",
                f"copy the file to {path}, or leave download=true out once the images are there",
            ) from error
    found = _digest(path, path.stat().st_mtime_ns)
    require(found.startswith(known), f"{path} has SHA-256 {found[:12]}", f"one that begins with {known}", "delete it")
    return path


@lru_cache(maxsize=1)
def _digest(path: Path, _mtime: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def by_inception(path: Path, device: torch.device) -> Extract:
    """Features (2048) and logits by torch-fidelity's Inception; grey images get three equal channels."""
    return lambda images: _in_batches(_inception(path, device), images.expand(-1, 3, -1, -1), device)


@lru_cache(maxsize=1)
def _inception(path: Path, device: torch.device) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):  # its layers begin with random weights
        network = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path)
        )
    return network.to(device)


def together(device: torch.device) -> int:
    """How many images a network sees at once, always: a feature's last digits depend on it, by 1e-6 of its size."""
    return TOGETHER_CPU if device.type == "cpu" else TOGETHER_GPU


def _in_batches(network: Extract, images: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Features and logits, float32 on the device, where convolutions would otherwise have ten bits."""
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        both = [network(part.to(device)) for part in images.split(together(device))]
    features, logits = (torch.cat(parts) for parts in zip(*both, strict=True))
    return features, logits
