import itertools

import pytest
import torch

from gwfbench.nn.adam import Adam
from gwfbench.nn.mlp import MLP
from gwfbench.nn.stacked import Stacked
from gwfbench.rng import Streams
from gwfbench.training.minmax import alternate


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_adam_is_pytorch_s(weight_decay):
    start, target = torch.randn(40, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), torch.arange(40.0)
    ours = Stacked([start[None].clone()])
    adam = Adam(ours, lr=0.05, betas=(0.8, 0.95), decay=weight_decay)
    theirs = start.clone().requires_grad_()
    reference = torch.optim.Adam([theirs], lr=0.05, betas=(0.8, 0.95), weight_decay=weight_decay)
    for step in range(50):
        rate = 1 / (1 + step)
        adam.descend(((ours.leaves[0][0] - target) ** 4).sum(), rate)
        reference.param_groups[0]["lr"] = rate * 0.05
        reference.zero_grad()
        ((theirs - target) ** 4).sum().backward()
        reference.step()
    torch.testing.assert_close(ours.flat, theirs.detach())


@pytest.mark.slow
@pytest.mark.parametrize("decay", ["none", "cosine"])
def test_the_loop_finds_a_saddle(decay):
    """min_t max_h  t h - h^2 / 2 + (t - 1)^2 has its saddle at t = 2/3, h = 2/3."""
    t, h = Stacked([torch.zeros(1, 1)]), Stacked([torch.zeros(1, 1)])
    nothing = torch.zeros(1, 1, 1)
    alternate(
        itertools.repeat(nothing),
        lambda: nothing,
        lambda x: x + t.leaves[0],
        lambda y, z: (h.leaves[0] ** 2 / 2 - y.squeeze() * h.leaves[0]).flatten(),
        lambda x, y: (y.squeeze() * h.leaves[0].detach() + (y.squeeze() - 1) ** 2).flatten(),
        critic=Adam(h, 0.01),
        map_=Adam(t, 0.01),
        iterations=2000,
        critic_steps=2,
        map_steps=1,
        decay=decay,
    )
    assert float(t.flat) == pytest.approx(2 / 3, abs=2e-3)
    assert float(h.flat) == pytest.approx(2 / 3, abs=2e-3)


def test_the_loop_takes_the_steps_it_is_told():
    """J1 (J2 critic steps, then J3 map steps); the map's image is made once an iteration, and again for its later steps."""
    seen = []
    t, h = Stacked([torch.zeros(1, 1)]), Stacked([torch.zeros(1, 1)])

    def push(x):
        seen.append("push")
        return x + t.leaves[0]

    def critic_loss(y, z):
        seen.append("critic")
        assert not y.requires_grad
        return h.leaves[0].square().flatten()

    def map_loss(x, y):
        seen.append("map")
        return y.flatten()

    batches = itertools.repeat(torch.zeros(1, 1, 1))
    alternate(
        batches, lambda: torch.zeros(1, 1, 1), push, critic_loss, map_loss,
        critic=Adam(h, 0.1), map_=Adam(t, 0.1), iterations=2, critic_steps=3, map_steps=2,
    )  # fmt: skip
    assert seen == ["push", "critic", "critic", "critic", "map", "push", "map"] * 2


def test_adam_goes_on_from_its_state():
    def some_steps(adam, network, count):
        for _ in range(count):
            adam.descend((network.leaves[0] ** 4 - network.leaves[0]).sum(), 1.0)

    start = torch.linspace(-1, 2, 7, dtype=torch.float64)[None]
    whole = Stacked([start.clone()])
    adam = Adam(whole, 0.1)
    some_steps(adam, whole, 5)
    state = adam.state()
    some_steps(adam, whole, 5)
    other = Stacked([torch.zeros_like(start)])
    again = Adam(other, 0.1)
    again.load(state)
    some_steps(again, other, 5)
    assert torch.equal(other.flat, whole.flat)
    assert not torch.equal(state["parameters"], whole.flat)  # a copy, and unharmed by the loading


def test_an_energy_without_a_critic_trains_the_map_alone_at_the_rate_it_is_told():
    ends = []
    for rate in (1.0, 0.5):
        t = Stacked([torch.zeros(1, 1)])
        alternate(
            itertools.repeat(torch.zeros(1, 1, 1)), lambda: torch.zeros(1, 1, 1), lambda x, t=t: x + t.leaves[0], None,
            lambda x, y: y.flatten(), critic=None, map_=Adam(t, 0.1), iterations=3, critic_steps=2, map_steps=1,
            rate=rate,
        )  # fmt: skip
        ends.append(float(t.flat))
    assert ends == pytest.approx([-0.3, -0.15], abs=1e-6)  # Adam's first steps down a straight slope


def test_dropout_keeps_the_mean_of_a_linear_perceptron():
    """Hidden units are left out with their share, the others scaled up: the mean stays (80,000 points, 6 standard errors)."""
    net = MLP((1, 30, 1), Streams((0,), dtype=torch.float64), prelu="none")
    x = torch.ones(1, 80_000, 1, dtype=torch.float64)
    with torch.no_grad():
        dropped = net.dropped(x, 0.3, Streams((1,), dtype=torch.float64))
        assert float(dropped.std()) > 0.01
        gap = float((dropped.mean() - net(x[:, :1])).squeeze())
        assert abs(gap) < 6 * float(dropped.std()) / 80_000**0.5
        torch.testing.assert_close(net.dropped(x, 0.0, Streams((1,), dtype=torch.float64)), net(x))
