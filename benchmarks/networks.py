"""asv benchmarks: one training step of each network at its papers' width on CIFAR-shaped images, CPU and GPU."""

from __future__ import annotations

import resource
import statistics
import time

import torch

from gwfbench.nn import networks
from gwfbench.nn.adam import Adam
from gwfbench.rng import Streams

SHAPE, LATENT = (3, 32, 32), 128
BATCH = {"cpu": 32, "cuda": 256}
DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


class Step:
    """Forward, backward and Adam on one batch, the mean of the network's squares as loss; one thread on the CPU."""

    params = (("dcgan generator", "dcgan critic", "resnet generator", "resnet critic", "unet transport"), DEVICES)
    param_names = ("network", "device")
    timeout = 600
    warmup_time = 0

    def setup(self, network: str, device: str) -> None:
        torch.set_num_threads(1)
        rng = Streams((0,), torch.device(device))
        kind, role = network.split()
        if kind == "unet":
            net = networks.transport("unet", SHAPE, None, None, rng.fork("net"))
        elif role == "critic":
            net = networks.critic("dcgan" if kind == "dcgan" else "resnet", SHAPE, 1, None, None, rng, True)
        else:
            net = networks.generator("dcgan" if kind == "dcgan" else "resnet", SHAPE, LATENT, None, None, rng)
        self.net, self.adam, self.batch, self.device = net, Adam(net.parameters, 2e-4), BATCH[device], device
        self.x = rng.normal(self.batch, *((LATENT,) if role == "generator" else SHAPE))
        for _ in range(2):
            self.step()

    def step(self) -> None:
        self.adam.descend(self.net(self.x).square().mean(), 1.0)
        if self.device == "cuda":
            torch.cuda.synchronize()

    def time_step(self, network: str, device: str) -> None:
        self.step()

    def track_images_a_second(self, network: str, device: str) -> float:
        """Median of five steps."""
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            self.step()
            seconds.append(time.perf_counter() - start)
        return self.batch / statistics.median(seconds)

    track_images_a_second.unit = "images/s"  # type: ignore[attr-defined]

    def track_peak_megabytes(self, network: str, device: str) -> float:
        """Of the GPU's memory; on the CPU of this process, PyTorch included."""
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self.step()
            return torch.cuda.max_memory_allocated() / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10

    track_peak_megabytes.unit = "MB"  # type: ignore[attr-defined]
