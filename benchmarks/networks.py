"""asv benchmarks: one training step of each network at its papers' width on CIFAR-shaped images, CPU and GPU."""

from __future__ import annotations

import math
import resource
import statistics
import time

import torch

from gwfbench.info import TargetSamples
from gwfbench.nn import networks
from gwfbench.nn.adam import Adam
from gwfbench.plugins import registry
from gwfbench.protocol import Problem
from gwfbench.rng import Streams
from gwfbench.training.generator_critic import Trainer

SHAPE, LATENT = (3, 32, 32), 128
BATCH = {"cpu": 32, "cuda": 256}
DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


NETWORKS = (
    "dcgan generator", "dcgan critic", "resnet generator", "resnet critic", "sngan generator", "sngan critic",
    "otm generator", "otm critic", "unet transport", "jkoflow_unet transport",
)  # fmt: skip


def made(network: str, rng: Streams) -> tuple[networks.Network, tuple[int, ...]]:
    """A network at its default width, and the shape of its points; critics as sn-gan's, but for otm's."""
    kind, role = network.split()
    if role == "transport":
        return networks.transport(kind, SHAPE, None, None, rng.fork("net")), SHAPE  # type: ignore[arg-type]
    if role == "critic":
        spectral = kind != "otm"
        return networks.critic(kind, SHAPE, 1, None, None, rng.fork("net"), spectral), SHAPE  # type: ignore[arg-type]
    return networks.generator(kind, SHAPE, LATENT, None, None, rng.fork("net")), (LATENT,)  # type: ignore[arg-type]


class Step:
    """Forward, backward and Adam on one batch, the mean of the network's squares as loss; one thread on the CPU."""

    params = (NETWORKS, DEVICES, ("run", "bf16"))
    param_names = ("network", "device", "precision")
    timeout = 600
    warmup_time = 0

    def setup(self, network: str, device: str, precision: str) -> None:
        torch.set_num_threads(1)
        rng = Streams((0,), torch.device(device))
        net, shape = made(network, rng)
        self.net = networks.halved(net) if precision == "bf16" else net
        self.adam, self.batch, self.device = Adam(net.parameters, 2e-4), BATCH[device], device
        self.x = rng.normal(self.batch, *shape)
        for _ in range(2):
            self.step()

    def step(self) -> None:
        self.adam.descend(self.net(self.x).square().mean(), 1.0)
        if self.device == "cuda":
            torch.cuda.synchronize()

    def time_step(self, network: str, device: str, precision: str) -> None:
        self.step()

    def track_images_a_second(self, network: str, device: str, precision: str) -> float:
        """Median of five steps."""
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            self.step()
            seconds.append(time.perf_counter() - start)
        return self.batch / statistics.median(seconds)

    track_images_a_second.unit = "images/s"  # type: ignore[attr-defined]

    def track_peak_megabytes(self, network: str, device: str, precision: str) -> float:
        """Of the GPU's memory; on the CPU of this process, PyTorch included."""
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self.step()
            return torch.cuda.max_memory_allocated() / 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10

    track_peak_megabytes.unit = "MB"  # type: ignore[attr-defined]


class Penalty:
    """A step of R1's critic at 16 images: with the penalty in each step, and in each eighth one only (`lazy=8`)."""

    params = (("dcgan", "resnet"), (1, 8))
    param_names = ("critic", "lazy")
    timeout = 600
    warmup_time = 0
    number = 1

    def setup(self, critic: str, lazy: int) -> None:
        torch.set_num_threads(1)
        rng = Streams((0,))
        words = f"gan:network={critic},batch=16,width=32,lazy={lazy},iterations=8,every=8"
        task = TargetSamples(lambda n, rng: rng.normal(n, *SHAPE).tanh())
        self.trainer = Trainer(registry.parse("method", words)._rules(Problem(SHAPE, (math.inf,), (task,))),
                               Problem(SHAPE, (math.inf,), (task,)), rng)  # fmt: skip
        self.rounds = [(rng.normal(16, *SHAPE).tanh(), rng.normal(16, LATENT)) for _ in range(8)]

    def time_eight_critic_steps(self, critic: str, lazy: int) -> None:
        for j, (real, z) in enumerate(self.rounds):
            self.trainer._critic_step(real, z, j, 1.0)
