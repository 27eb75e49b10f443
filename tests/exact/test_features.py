"""Drifting among features: identity and linear encoders in closed form, the paper's loss by autograd, its units."""

import math

import pytest
import torch

from gwfbench.budget import Budget
from gwfbench.drive import shapes
from gwfbench.errors import UserError
from gwfbench.info import Encoder, Initial, TargetSamples
from gwfbench.nn.classifier import maps, pinned
from gwfbench.plugins import registry
from gwfbench.protocol import Problem
from gwfbench.rng import Streams
from gwfbench.velocity import drift, features
from gwfbench.velocity.pairs import typical_distance


def clouds(n=9, m=7, d=4):
    rng = Streams((3, 5), dtype=torch.float64)
    return rng.fork("x").normal(n, d), rng.fork("y").normal(m, d).exp() - 0.5


def equation4(x, y, _noise, temperature=0.3):
    return drift.equation4(x, y, temperature * typical_distance(x, y), "gaussian")


def to_the_mean(x, y, _noise):
    return (y.mean(1, keepdim=True) - x.mean(1, keepdim=True)).expand_as(x)


def gradient(maps, velocity, x, y):
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(features.loss(maps, velocity, leaf, y, Streams((3, 5))), leaf)[0]


def same(one, other):
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


def nonlinear(x):
    """Two stages of different sizes, (S, n, 6) and (S, n, 3)."""
    first = torch.tanh(x @ Streams((1,), dtype=torch.float64).normal(4, 6)[0])
    return [first, torch.tanh(first @ Streams((2,), dtype=torch.float64).normal(6, 3)[0])]


def test_with_the_identity_the_field_is_that_of_the_points():
    """In units s of the mean distance over sqrt(d): the gradient is that of -2 mean(v . x) / s^2."""
    x, y = clouds()
    s = typical_distance(x, y) / 2
    found = gradient(lambda points: [points], equation4, x, y)
    same(found, -2 * equation4(x, y, None) / s**2 / (9 * 4))
    assert found.abs().max() > 1e-2


def test_a_linear_encoder_in_closed_form():
    """phi = A x, V = mean of phi(y) - mean of phi(x): every point gets -2 A'A (mean of y - mean of x) / (s^2 n k)."""
    x, y = clouds()
    a = Streams((7,), dtype=torch.float64).normal(3, 4)[0]
    far = torch.cdist(x @ a.T, y @ a.T).mean((1, 2)) / math.sqrt(3)
    exact = -2 * (y.mean(1) - x.mean(1)) @ a.T @ a / far[:, None] ** 2 / (9 * 3)
    same(gradient(lambda points: [points @ a.T], to_the_mean, x, y), exact[:, None].expand_as(x))


def test_the_loss_has_the_gradient_of_the_paper_s():
    """sum_j mean |u_j - stop(u_j + V_j)|^2, by autograd, through an encoder that is not linear."""
    x, y = clouds()
    velocity = features.normalised([equation4, lambda *at: equation4(*at, temperature=0.05)])
    leaf = x.clone().requires_grad_()
    total = torch.zeros(())
    for here, there in zip(nonlinear(leaf), nonlinear(y), strict=True):
        k = here.shape[2]
        s = torch.cdist(here.detach(), there).mean((1, 2), keepdim=True) / math.sqrt(k)
        u = here / s
        v = torch.zeros_like(u)
        for temperature in (0.3, 0.05):
            one = drift.equation4(u.detach(), there / s, temperature * math.sqrt(k), "gaussian")
            v += one / (one.square().sum(2).mean(1) / k).sqrt()[:, None, None]
        total = total + (u - (u + v).detach()).square().mean((1, 2)).sum()
    (exact,) = torch.autograd.grad(total, leaf)
    same(gradient(nonlinear, velocity, x, y), exact)


def test_the_size_of_a_stage_and_of_a_field_do_not_count():
    x, y = clouds()
    velocity = features.normalised([equation4])
    large = features.normalised([lambda *at: 1000 * equation4(*at)])
    once = gradient(nonlinear, velocity, x, y)
    same(gradient(lambda points: [1000 * part for part in nonlinear(points)], large, x, y), once)
    single = [gradient(lambda points, j=j: [nonlinear(points)[j]], velocity, x, y) for j in range(2)]
    same(single[0] + single[1], once)


def test_every_field_counts_alike():
    x, y = clouds()
    v = features.normalised([equation4, to_the_mean])(x, y, None)
    for one in (equation4, to_the_mean):
        alone = features.normalised([one])(x, y, None)
        same(alone.square().mean((1, 2)), torch.ones(2, dtype=torch.float64))
        v = v - alone
    same(v, torch.zeros_like(x))
    assert torch.equal(features.normalised([lambda x, y, _: 0 * x])(x, y, None), torch.zeros_like(x))


SHAPE = (1, 4, 4)
SMALL = "points=16,batch=16,width=4,depth=1,latent=8,steps=4"


def problem(encoder=True):
    def maps(x):
        flat = x.flatten(2)
        weight = torch.linspace(-1, 1, 16 * 5, dtype=x.dtype).view(16, 5).sin()
        return [flat, torch.relu(flat @ weight)]

    infos = (
        Initial(lambda n, rng: rng.normal(n, *SHAPE)),
        TargetSamples(lambda n, rng: torch.tanh(1 + rng.normal(n, *SHAPE))),
    )
    return Problem(SHAPE, (math.inf,), (*infos, Encoder(maps)) if encoder else infos)


def laws(words, encoder=True):
    rng = Streams((0, 1), dtype=torch.float64)
    method = registry.parse("method", f"drifting:{SMALL},{words}".rstrip(","))
    found = list(shapes.laws(method, problem(encoder), Budget(), rng.fork("method")))
    return [law.draw(16, rng.fork("judge")) for law in found]


def test_an_encoder_is_used_where_it_is_asked_for():
    pixels, encoder = laws("network=mlp"), laws("network=mlp,features=encoder")
    assert not torch.equal(encoder[-1], pixels[-1])
    assert torch.equal(pixels[-1], laws("network=mlp", encoder=False)[-1])
    assert torch.equal(encoder[-1], laws("network=mlp,temperature=0.05,features=encoder")[-1])
    assert not torch.equal(encoder[-1], laws("network=mlp,temperature=0.05+0.2,features=encoder")[-1])


@pytest.mark.parametrize("words", ["features=encoder", "features=pixels", "features=pixels,carrier=particles"])
@pytest.mark.parametrize("field", ["algorithm2", "sinkhorn", "official", "critic", "sliced", "parzen_kl"])
def test_resumed_after_any_law_the_rest_is_the_same(words, field):
    if field == "critic" and "encoder" in words:
        return
    rng = Streams((0, 1), dtype=torch.float64)
    method = registry.parse("method", f"drifting:{SMALL},field={field},{words}")
    states, ends = [], []
    for law in method.fit(problem(), Budget(), rng.fork("method")):
        states.append(law.state())
        ends.append(law.draw(16, rng.fork("judge")))
    assert len(states) == 4
    for k in (1, 3):
        rest = method.resume(problem(), Budget(), rng.fork("method"), states[k - 1])
        for law, end in zip(rest, ends[k:], strict=True):
            assert torch.equal(law.draw(16, rng.fork("judge")), end)
    assert not torch.equal(ends[0], ends[-1])


def test_networks_for_images():
    sizes = {}
    for kind in ("mlp", "dcgan", "resnet"):
        found = laws(f"network={kind},features=pixels")[-1]
        assert found.shape == (2, 16, *SHAPE)
        assert found.abs().max() < 1
        sizes[kind] = float(found.std())
    assert len(set(sizes.values())) == 3
    assert torch.equal(laws("features=pixels")[-1], laws("network=dcgan,features=pixels")[-1])


@pytest.mark.parametrize("words", ["carrier=particles", "field=critic", "unit=1"])
def test_what_an_encoder_does_not_go_with(words):
    with pytest.raises(UserError, match="features"):
        registry.parse("method", f"drifting:features=encoder,{words}")


def test_an_encoder_is_asked_for_where_there_is_none():
    with pytest.raises(UserError, match="a task with an encoder"):
        laws("features=encoder", encoder=False)
    with pytest.raises(UserError, match="one temperature"):
        registry.parse("method", "drifting:temperature=0.05+0.2")


def test_a_method_of_vectors_sees_the_encoder_of_flat_images():
    class Flat:
        clock, seeds = "none", "batched"

        def fit(self, problem, budget, rng):
            x = problem[TargetSamples].draw(3, rng)
            seen.append((x.shape, [part.shape for part in problem[Encoder].maps(x)]))
            return iter(())

    seen = []
    list(shapes.laws(Flat(), problem(), Budget(), Streams((0, 1), dtype=torch.float64)))
    assert seen == [((2, 3, 16), [(2, 3, 16), (2, 3, 5)])]


def test_the_images_offer_the_stages_of_a_pinned_second_classifier():
    """Not the judge's; those of single images, (S, n, k), with gradients; a folder of one's own has none."""
    classifier = pinned("digits_encoder")
    assert classifier is not None
    assert classifier.sha256 != pinned("digits").sha256
    task = registry.parse("task", "images").build(Streams((0, 1), dtype=torch.float64)).problem
    x = task[TargetSamples].draw(5, Streams((0, 1), dtype=torch.float64)).requires_grad_()
    weights = {name: weight.double() for name, weight in classifier.weights.items()}
    stages = task[Encoder].maps(x)
    assert len(stages) == len(maps(weights, x[0])) > 2
    for s in range(2):
        for found, alone in zip(stages, maps(weights, x[s]), strict=True):
            same(found[s], alone.flatten(1))
    (slope,) = torch.autograd.grad(stages[-1][0, 2].sum(), x)
    assert slope[0, 2].abs().max() > 0
    assert slope.abs().sum() == slope[0, 2].abs().sum()


def test_images_without_a_pinned_encoder_have_none(monkeypatch):
    task = registry.parse("task", "images")
    monkeypatch.setitem(type(task).build.__globals__, "pinned", lambda name: None)
    assert not any(isinstance(info, Encoder) for info in task.build(Streams((0,))).problem.infos)
