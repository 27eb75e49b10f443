"""Updates of adversarial flows from CUDA graphs: the same numbers as on the CPU, no wait, and few launches."""

import math

import pytest
import torch

from gwfbench.budget import Budget
from gwfbench.info import Initial, TargetSamples
from gwfbench.plugins import registry
from gwfbench.protocol import Problem
from gwfbench.rng import Streams

SHAPE = (1, 8, 8)
SMALL = "batch=8,width=4"
METHODS = {  # each with what a step may be: penalties now and then, batch normalisation, random points between
    "sngan": f"gan:loss=sngan,network=sngan,fakes=12,iterations={{}},every={{}},decay=linear,lr_end=0,{SMALL}",
    "lazy": f"gan:lazy=3,critic_steps=2,iterations={{}},every={{}},ema=0.9,{SMALL}",
    "wgan_gp": f"gan:loss=wgan_gp,critic_steps=1,iterations={{}},every={{}},{SMALL}",
    "otm": f"gwf:network=otm,steps=2,iterations={{}},{SMALL}",
    "mmd": f"gwf:divergence=mmd,steps=2,iterations={{}},{SMALL}",
    "smmd": f"gwf:divergence=smmd,steps=2,iterations={{}},{SMALL}",
    "sjko": f"sjko:network=otm_skip,steps=2,iterations={{}},{SMALL}",
}


def problem(device):
    """Its draws are the same on both devices: they are made on the CPU, and wait for it."""

    def draw(n, rng):
        return (0.5 + 0.2 * Streams(rng.seeds, torch.device("cpu"), rng.dtype, rng.path).normal(n, *SHAPE)).to(device)

    return Problem(SHAPE, (math.inf,), (Initial(lambda n, rng: rng.normal(n, *SHAPE)), TargetSamples(draw)))


def ends(words, device):
    """Parameters and buffers after each law."""
    rng = Streams((3, 7), torch.device(device), torch.float64)  # else Adam makes steps of what is 0 but for rounding
    method = registry.parse("method", words)
    return [dict(law.state()) for law in method.fit(problem(device), Budget(), rng.fork("method"))]


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_numbers_are_those_of_the_cpu(pretended, name):
    """The first three calls, that of the capture, those after it, and those of a second JKO step."""
    words = METHODS[name].format(5, 5)
    exact = ends(words, "cpu")
    with pretended() as seen:
        found = ends(words, "cuda")
    assert not seen.faults
    assert bool(seen.of("replay")) == (name != "smmd"), "smmd draws random directions in its losses"
    for one, other in zip(found, exact, strict=True):
        assert one.keys() == other.keys()
        for part, value in other.items():
            here = one[part].detach().held if isinstance(one[part], torch.Tensor) else one[part]
            torch.testing.assert_close(here, value, rtol=1e-6, atol=1e-7, msg=lambda text, part=part: f"{part}: {text}")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in METHODS if name != "smmd"])
def test_more_iterations_wait_no_more(pretended, name):
    """Of images that lie on the device."""
    seen_by = {}
    for iterations in (5, 7):
        words = METHODS[name].format(iterations, iterations)
        with pretended() as seen:
            rng = Streams((3, 7), torch.device("cuda"))
            task = registry.parse("task", "images").build(rng.fork("task")).problem
            before = seen.waits
            for _ in registry.parse("method", words).fit(task, Budget(), rng.fork("method")):
                pass
            seen_by[iterations] = seen.waits - before
    assert seen_by[5] == seen_by[7]
