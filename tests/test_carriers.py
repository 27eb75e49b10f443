from dataclasses import dataclass

import pytest
import torch

from gwfbench.budget import Budget
from gwfbench.drive import shapes
from gwfbench.info import Initial, TargetSamples
from gwfbench.nn.silu import SiLU
from gwfbench.plugins import registry
from gwfbench.protocol import Problem
from gwfbench.rng import Streams
from gwfbench.velocity import movers
from gwfbench.velocity.movers import Network, carry, number


def problem(shape=(2,)):
    return Problem(
        shape,
        (float("inf"),),
        (Initial(lambda n, rng: rng.normal(n, *shape)), TargetSamples(lambda n, rng: 3 + 0.1 * rng.normal(n, *shape))),
    )


def pull(x, y, _noise):
    return y.mean(1, keepdim=True) - x


@dataclass(frozen=True)
class Pull:
    carrier: str = "particles"
    step: float | None = 0.1
    steps: int = 50
    points: int = 64
    batch: int = 32

    def fit(self, problem, budget, rng):
        return carry(self, problem, rng, pull, network=Network(latent=4, width=16, depth=2, lr=1e-2))


def run(carrier, seeds=(3,), shape=(2,), steps=50):
    rng = Streams(seeds, dtype=torch.float64)
    laws = shapes.laws(Pull(carrier, steps=steps), problem(shape), Budget(), rng)
    return [(law, law.draw(64, rng.fork("judge"))) for law in laws]


def test_particles_follow_the_field():
    laws = run("particles")
    assert [law.t for law, _ in laws][-1] == 5.0
    start = Streams((3,), dtype=torch.float64).fork("particles").normal(64, 2)
    # dx = h (m - x) for a constant m: x_k - m = 0.9^k (x_0 - m); m wobbles by 0.1 / sqrt(32) a step
    shrunk = (start - 3) * 0.9**50
    assert (laws[-1][1] - 3 - shrunk).abs().max() < 5 * 0.1 / 32**0.5
    assert laws[-1][0].limit == 64


def test_the_generator_learns_where_the_field_points():
    laws = run("generator", steps=400)
    assert (laws[-1][1].mean(1) - 3).abs().max() < 0.2
    assert laws[-1][0].limit is None


def test_images_are_carried_as_vectors_and_keep_their_shape():
    for carrier in ("particles", "generator"):
        assert run(carrier, shape=(1, 2, 3), steps=2)[-1][1].shape == (1, 64, 1, 2, 3)


def test_a_generator_step_is_down_the_papers_loss():
    """One Adam step on |G - stop(G + h v)|^2, equation 1, by autograd and by torch's own Adam."""
    rng = Streams((3,), dtype=torch.float64)
    net = SiLU((4, 16, 16, 2), rng.fork("generator"))
    parameters = [leaf.detach().clone().requires_grad_() for leaf in net.parameters.leaves]
    adam = torch.optim.Adam(parameters, lr=1e-2)
    z = rng.fork("latent").normal(64, 4)
    y = 3 + 0.1 * rng.fork("steps").fork("1").fork("target").normal(32, 2)
    h = torch.baddbmm(parameters[1], z, parameters[0])
    h = torch.baddbmm(parameters[3], torch.nn.functional.silu(h), parameters[2])
    x = torch.baddbmm(parameters[5], torch.nn.functional.silu(h), parameters[4])
    (x - (x + 0.1 * pull(x, y, rng)).detach()).square().mean().backward()
    adam.step()
    _, points = run("generator", steps=1)[0]
    judged = rng.fork("judge").normal(64, 4)
    for i in range(0, 6, 2):
        judged = torch.baddbmm(parameters[i + 1], judged if i == 0 else torch.nn.functional.silu(judged), parameters[i])
    assert torch.allclose(points, judged.detach(), atol=1e-10)
    assert not torch.allclose(points, net(rng.fork("judge").normal(64, 4)), atol=1e-4)


def test_seeds_do_not_know_each_other():
    for carrier in ("particles", "generator"):
        together = run(carrier, (3, 5, 9), steps=5)[-1][1]
        for i, seed in enumerate((3, 5, 9)):
            assert torch.allclose(run(carrier, (seed,), steps=5)[-1][1][0], together[i], atol=1e-10)


def test_no_more_particles_than_there_are():
    law, _ = run("particles", steps=1)[0]
    with pytest.raises(ValueError, match="65 points asked of 64 particles"):
        law.draw(65, Streams((3,)))


CARRIED = sorted(
    name
    for name, each in registry.plugins("method").items()
    if "carrier" in getattr(each.load(), "__annotations__", {})
)


def test_all_generators_have_the_same_number_of_steps_and_the_same_network(monkeypatch):
    """Fields can be compared on generators; one that learns longer would tell nothing of its field."""
    assert len(CARRIED) == 10
    sizes = []

    whole = movers.networks.generator

    def net(kind, shape, latent, width, depth, rng):
        sizes.append((latent, *[width] * depth, *shape))
        return whole(kind, shape, latent, width, depth, rng)

    monkeypatch.setattr(movers.networks, "generator", net)
    for d, latent in ((2, 32), (40, 40)):
        for name in CARRIED:
            method = registry.parse("method", f"{name}:carrier=generator,points=8,batch=8")
            assert number(method, 7) == movers.GENERATOR_STEPS == 500
            assert number(registry.parse("method", f"{name}:carrier=particles"), 7) == 7
            assert number(registry.parse("method", f"{name}:carrier=generator,steps=3"), 7) == 3
            next(iter(method.fit(problem((d,)), Budget(), Streams((3,), dtype=torch.float64))))
            assert sizes.pop() == (latent, 256, 256, 256, d)


@pytest.mark.parametrize("name", CARRIED)
def test_latent_width_depth_and_rate_are_the_method_s_fields(name, monkeypatch):
    sizes, rates, whole = [], [], movers.networks.generator

    class Adam(movers.Adam):
        def __init__(self, parameters, lr):
            rates.append(lr)
            super().__init__(parameters, lr)

    monkeypatch.setattr(movers, "Adam", Adam)
    monkeypatch.setattr(movers.networks, "generator", lambda *args: sizes.append(args[1:5]) or whole(*args))
    own = "" if name in ("drifting", "gf_drifting") else "generator_"
    words = f"{name}:carrier=generator,points=8,batch=8,latent=5,{own}width=6,{own}depth=2,{own}lr=0.5"
    next(iter(registry.parse("method", words).fit(problem(), Budget(), Streams((3,), dtype=torch.float64))))
    assert sizes == [((2,), 5, 6, 2)]
    assert rates == [0.5]


def test_without_a_step_nothing_is_carried():
    with pytest.raises(ValueError, match="default for step"):
        Pull(step=None).fit(problem(), Budget(), Streams((3,)))
