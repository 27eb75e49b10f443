"""How fast images are trained on: each network's step and whole iterations of SN-GAN, with their share of the peak.

    python -m benchmarks.throughput [--device cpu|cuda] [--batch 64] [--seconds 120] [--also FIELDS] [KIND ...]

KIND is one of networks; without one all are timed, those of most worth first. On standard output is a CSV, each line as
soon as it is known. A piece that fails has its error in the column `reason`, and the exit code is then 1; what
--seconds leave no time for has a reason too.

    KIND generator, critic, transport    forward, backward and Adam on one batch of 3 x 32 x 32, at the kind's own width
    KIND iteration                       of `gan:loss=sngan`, as a run has it: five critic steps, one of the generator;
                                         with --also, such as ema=0.999, once more with these fields

    seconds      of a step: of the wall with a card; else of the processor, one thread, whatever else it does
    images       a second: batch / seconds
    gflop        of a step, counted by torch: products and convolutions, two for a multiplication and an addition
    tflops       of the step, a second
    float32, tf32, bfloat16      TFLOP/s of a product of two square matrices here and now: what the machine can do
    share        of tflops in float32
    megabytes    most of the card's memory, of the step's tensors

Runs are in float32 without TF32, so these are.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any, Literal, get_args

import torch
from torch.utils.flop_counter import FlopCounterMode

from gwfbench.budget import Budget
from gwfbench.errors import UserError
from gwfbench.info import TargetSamples
from gwfbench.nn import networks
from gwfbench.nn.adam import Adam
from gwfbench.plugins import registry
from gwfbench.protocol import Problem
from gwfbench.rng import Streams
from gwfbench.store.environment import environment

SHAPE, LATENT = (3, 32, 32), 128
SIDES = {"cpu": 1024, "cuda": 8192}  # of the matrices
IMAGES = 2000  # real ones, of noise
LEAST = 0.2  # seconds that are timed at once
FIRST = ("sngan", "resnet", "otm", "dcgan")  # kinds of most worth
ROLES = ("iteration", "generator", "critic", "transport")
TIMED = ("batch", "seconds", "images", "gflop", "tflops", "share", "float32", "tf32", "bfloat16", "megabytes")
FACTS = ("device", "cpu", "torch", "commit")
COLUMNS = ("network", "role", "fields", *TIMED, *FACTS, "reason")

Step = Callable[[], object]
Precision = Literal["float32", "tf32", "bfloat16"]


@dataclass(frozen=True)
class Machine:
    """Where it is timed, and what that can do."""

    device: torch.device
    peaks: dict[Precision, float]

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, step: Step) -> float:
        """Of one step: median of three times `LEAST` seconds or one step."""
        once = self._block(step, 1)
        count = max(1, math.ceil(LEAST / once))
        return median(self._block(step, count) for _ in range(3)) / count

    def _block(self, step: Step, count: int) -> float:
        clock = time.perf_counter if self.device.type == "cuda" else time.process_time
        self.wait()
        start = clock()
        for _ in range(count):
            step()
        self.wait()
        return clock() - start


def machine(device: torch.device) -> Machine:
    """A machine, its peaks measured."""
    bare, peaks = Machine(device, {}), {}
    precisions: tuple[Precision, ...] = get_args(Precision) if device.type == "cuda" else ("float32", "bfloat16")
    for precision in precisions:
        side = SIDES[device.type]
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        a, b = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        try:
            for _ in range(3):
                torch.matmul(a, b)
            peaks[precision] = 2 * side**3 / bare.seconds(partial(torch.matmul, a, b)) / 1e12
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before
    return Machine(device, peaks)


def works(also: Sequence[str] = ()) -> Iterator[tuple[networks.Kind, str, str]]:
    """Kinds of networks, roles and fields of gan, those of most worth first; not every kind has every role."""
    kinds = [kind for kind in get_args(networks.Kind) if kind not in ("auto", "mlp")]
    kinds.sort(key=lambda kind: FIRST.index(kind) if kind in FIRST else len(FIRST))
    yield from ((kind, ROLES[0], fields) for kind in kinds for fields in ("", *also))
    yield from ((kind, role, "") for role in ROLES[1:] for kind in kinds)


def step_of(kind: networks.Kind, role: str, fields: str, batch: int, device: torch.device) -> Step:
    """A training step of a network, or of a GAN with these fields.

    Raises:
        UserError: the kind has no network of that role.
    """
    rng = Streams((0,), device)
    if role == "iteration":
        real = rng.fork("real").normal(IMAGES, *SHAPE)[0]
        target = TargetSamples(lambda n, streams: real[streams.integers(IMAGES, n)])
        words = f"gan:loss=sngan,network={kind},batch={batch},iterations=1000000,every=1{fields and f',{fields}'}"
        method = registry.parse("method", words)
        laws = method.fit(Problem(SHAPE, (math.inf,), (target,)), Budget(), rng)
        return partial(next, laws)
    if role == "generator":
        net = networks.generator(kind, SHAPE, LATENT, None, None, rng)
    elif role == "critic":
        net = networks.critic(kind, SHAPE, 1, None, None, rng, spectral=True)
    else:
        net = networks.transport(kind, SHAPE, None, None, rng)
    adam = Adam(net.parameters, 2e-4)
    x = rng.fork("x").normal(batch, *((LATENT,) if role == "generator" else SHAPE))
    return lambda: adam.descend(net(x).square().mean(), 1.0)


def flops(step: Step) -> int:
    """Of one step, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def measured(here: Machine, step: Step, batch: int) -> dict[str, Any]:
    """The numbers of a line."""
    cuda = here.device.type == "cuda"
    step()  # what is made once
    if cuda:
        torch.cuda.reset_peak_memory_stats(here.device)
    count = flops(step)
    for _ in range(4 if cuda else 0):  # cuDNN chooses, graphs are captured
        step()
    seconds = here.seconds(step)
    speed = count / seconds / 1e12
    return {
        "batch": batch, "seconds": seconds, "images": batch / seconds, "gflop": count / 1e9, "tflops": speed,
        "share": speed / here.peaks["float32"], **here.peaks,
        "megabytes": torch.cuda.max_memory_allocated(here.device) / 2**20 if cuda else "",
    }  # fmt: skip


def lines(
    names: Sequence[str], also: Sequence[str], here: Machine, batch: int, seconds: float
) -> Iterator[dict[str, Any]]:
    """A line for each piece of work that there is."""
    end = time.monotonic() + seconds
    for kind, role, fields in works(also):
        if names and kind not in names:
            continue
        line = {"network": kind, "role": role, "fields": fields}
        if time.monotonic() >= end:
            yield line | {"batch": batch, "reason": f"no time left of {seconds:g} seconds"}
            continue
        try:
            with torch.enable_grad():
                step = step_of(kind, role, fields, batch, here.device)
                yield line | measured(here, step, batch)
        except UserError:
            continue  # no such network
        except Exception as error:
            yield line | {"batch": batch, "reason": f"{type(error).__name__}: {error}".splitlines()[0][:300]}


def shown(value: object) -> object:
    return f"{value:.5g}" if isinstance(value, float) else value


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.throughput",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="KIND")
    parser.add_argument("--also", action="append", default=[], metavar="FIELDS", help="of gan (repeatable)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=120.0, help="after which no piece of work is begun")
    options = parser.parse_args()
    known = dict.fromkeys(kind for kind, _, _ in works())
    unknown = sorted(set(options.names) - set(known))
    if unknown:
        parser.error(f"no kind {', '.join(unknown)}; expected {', '.join(known)}")
    for fields in options.also:
        try:
            registry.parse("method", f"gan:{fields}")
        except UserError as error:
            parser.error(f"--also {fields}: {error}")
    if options.batch < 2:
        parser.error(f"--batch {options.batch}; expected 2 or more")
    if options.device != "cpu" and not (options.device == "cuda" and torch.cuda.is_available()):
        parser.error(f"--device {options.device} is not here; expected cpu, or cuda on a machine with a card")
    return options


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    facts = {name: environment(options.device, 1)[name] for name in FACTS}
    table: csv.DictWriter[str] = csv.DictWriter(sys.stdout, COLUMNS, restval="")
    table.writeheader()
    failed = False
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        here = machine(torch.device(options.device))
        for line in lines(options.names, options.also, here, options.batch, options.seconds):
            table.writerow({name: shown(value) for name, value in (line | facts).items()})
            sys.stdout.flush()
            failed = failed or "Error" in line.get("reason", "")
    sys.exit(failed)


if __name__ == "__main__":
    main()
