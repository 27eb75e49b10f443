"""What a card computes: the host's numbers from the same inputs, draws of each seed alone, and graphs as they were written.

These are for a card (--device cuda); the pretended device computes on the host, where they hold as well.
"""

from typing import get_args

import pytest
import torch

from gwfbench.errors import UserError
from gwfbench.nn import networks
from gwfbench.nn.adam import Adam
from gwfbench.rng import Streams
from gwfbench.training.replay import Replayed
from gwfbench.velocity.kernels import gaussian, gradient_sum
from gwfbench.velocity.sinkhorn import sinkhorn
from gwfbench.velocity.sliced import directions, sliced

CUDA, SHAPE, SEEDS = torch.device("cuda"), (3, 16, 16), (3, 5)
KINDS = [kind for kind in get_args(networks.Kind) if kind != "auto"]


def made(kind, role, rng):
    if role == "transport":
        return networks.transport(kind, SHAPE, 8, None, rng)
    if role == "critic":
        return networks.critic(kind, SHAPE, 2, 8, None, rng, spectral=True)
    return networks.generator(kind, SHAPE, 10, 8, None, rng)


def on(device):
    return Streams(SEEDS, device, torch.float64)


@pytest.mark.parametrize("role", ["generator", "critic", "transport"])
@pytest.mark.parametrize("kind", KINDS)
def test_networks_and_adam_give_the_hosts_numbers(pretended, kind, role):
    """Values and parameters after two steps of Adam in float64, from the host's parameters, buffers and points."""
    host = on(torch.device("cpu"))
    try:
        here = made(kind, role, host)
    except UserError:
        pytest.skip(f"no {kind} {role}")
    x = host.fork("x").normal(4, *((10,) if role == "generator" else SHAPE))
    with pretended():
        there = made(kind, role, on(CUDA))
        there.parameters.flat.copy_(here.parameters.flat)
        there.load_buffers({name: part.to(CUDA) for name, part in here.buffers.items()})
        values = []
        for net, points in ((here, x), (there, x.to(CUDA))):
            adam = Adam(net.parameters, 1e-3)
            for _ in range(2):
                adam.descend(net(points).square().mean(), 1.0)
            values.append((net(points).detach().cpu(), net.parameters.flat.cpu()))
    assert values[0][0].abs().max() > 0
    torch.testing.assert_close(*values, rtol=1e-8, atol=1e-8)


VELOCITIES = {
    "kernel": lambda x, y, _: gradient_sum(gaussian(1.3), x, y, torch.ones_like(y[..., 0])),
    "sinkhorn": lambda x, y, _: sinkhorn(x, y, blur=0.7, tolerance=1e-6, rounds=2000),
    "sliced": sliced,
}


@pytest.mark.parametrize("name", VELOCITIES)
def test_velocities_are_the_hosts(pretended, name):
    host = on(torch.device("cpu"))
    inputs = host.fork("x").normal(60, 3), 2 + host.fork("y").normal(40, 3), directions(host.fork("lines"), 9, 3)
    with pretended():
        there = VELOCITIES[name](*(part.to(CUDA) for part in inputs)).cpu()
    torch.testing.assert_close(there, VELOCITIES[name](*inputs), rtol=1e-7, atol=1e-9)


def test_draws_are_of_the_seed_and_the_name_alone(pretended):
    with pretended():
        both, alone = Streams(SEEDS, CUDA).normal(100_000).cpu(), Streams(SEEDS[1:], CUDA).normal(100_000).cpu()
        again, other = (Streams(SEEDS, CUDA).fork(name).normal(9).cpu() for name in ("a", "b"))
        assert torch.equal(Streams(SEEDS, CUDA).fork("a").normal(9).cpu(), again)
    assert torch.equal(both[1], alone[0])
    assert not torch.equal(again, other)
    assert both.mean(1).abs().max() < 5 * 100_000**-0.5
    assert (both.square().mean(1) - 1).abs().max() < 5 * (2 / 100_000) ** 0.5
    assert (both[0] * both[1]).mean().abs() < 5 * 100_000**-0.5


def test_a_graph_gives_the_numbers_of_the_body(pretended):
    """Twelve steps of x <- cos x + (number of steps so far): called, captured and replayed."""
    with pretended():
        x, count = torch.zeros(5, device=CUDA, dtype=torch.float64), torch.zeros((), device=CUDA, dtype=torch.float64)

        def body():
            x.copy_(x.cos() + count)
            count.add_(1)

        again = Replayed(body, CUDA)
        for _ in range(12):
            again()
        found = x.cpu()
    expected = torch.zeros(5, dtype=torch.float64)
    for k in range(12):
        expected = expected.cos() + k
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_a_product_in_float32_is_one(pretended):
    """Not TF32's, which has 10 bits: errors of 256 products of rounded numbers are below 1e-5 of their size."""
    a, b = (Streams(SEEDS).fork(name).normal(256, 256) for name in "ab")
    weight, image = a[:, :32, :144].reshape(64, 16, 3, 3), b[:, :, :256].reshape(16, 16, 32, 16)
    with pretended():
        product = (a.to(CUDA) @ b.to(CUDA)).cpu()
        convolved = torch.nn.functional.conv2d(image.to(CUDA), weight.to(CUDA)).cpu()
    assert (product - a.double() @ b.double()).abs().max() < 1e-5 * 16 * 16
    exact = torch.nn.functional.conv2d(image.double(), weight.double())
    assert (convolved - exact).abs().max() < 1e-5 * 12 * 12
