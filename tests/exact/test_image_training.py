"""The loop of adversarial flows on images: lazy penalties, lines down, more fakes, batch normalisation, bfloat16."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gwfbench.budget import Budget
from gwfbench.check.method import through_a_file
from gwfbench.errors import UserError
from gwfbench.info import Initial, TargetSamples
from gwfbench.nn import networks
from gwfbench.objectives.penalties import at_both
from gwfbench.plugins import registry
from gwfbench.protocol import Problem
from gwfbench.rng import Streams
from gwfbench.training import generator_critic
from gwfbench.training.generator_critic import Trainer

SHAPE = (1, 8, 8)
SMALL = "batch=4,width=4"
PAPER = "loss=sngan,network=sngan,iterations=50000,every=1000,batch=64,fakes=128,decay=linear,lr_end=0"


def problem(shape=SHAPE):
    target = TargetSamples(lambda n, rng: 0.5 + 0.2 * rng.normal(n, *shape))
    return Problem(shape, (math.inf,), (Initial(lambda n, rng: rng.normal(n, *shape)), target))


def rules(words, rng, shape=SHAPE):
    method = registry.parse("method", words)
    needs_rng = words.startswith("gwf")
    return method._rules(problem(shape), *((rng,) if needs_rng else ()))


def trainer(words, seeds=(3,), dtype=torch.float64, shape=SHAPE):
    rng = Streams(seeds, dtype=dtype)
    return Trainer(rules(words, rng, shape), problem(shape), rng)


# Lazy penalties


@pytest.mark.parametrize(("lazy", "due"), [(1, (0, 1, 2, 3, 4, 5, 6, 7)), (3, (0, 3, 6)), (8, (0,))])
def test_every_so_many_critic_steps_there_is_a_penalty(monkeypatch, lazy, due):
    """Counted through JKO steps and iterations."""
    kinds = []

    def seen(critic, real, fake, kind, mix):
        kinds.append(kind)
        return at_both(critic, real, fake, kind, mix)

    monkeypatch.setattr(generator_critic, "at_both", seen)
    made = trainer(f"gwf:steps=2,iterations=2,critic_steps=2,lazy={lazy},{SMALL}")
    for k in (1, 2):
        made.step(k)
    assert kinds == ["real" if j in due else "none" for j in range(8)]


def test_a_lazy_penalty_weighs_as_much_on_the_whole():
    """A round of `lazy` steps has, at the same points, the losses of as many steps with a penalty each."""
    rng = Streams((3,), dtype=torch.float64)
    real, z = rng.normal(4, *SHAPE), rng.normal(4, 128)
    sums = []
    for lazy in (1, 5):
        made = trainer(f"gan:iterations=2,every=2,lazy={lazy},{SMALL}")
        sums.append(sum(made._critic_loss(j % lazy == 0, real, z) for j in range(5)))
        plain = made._critic_loss(False, real, z)
    torch.testing.assert_close(sums[0], sums[1], rtol=1e-12, atol=0)
    assert (sums[0] - 5 * plain).abs() > 1e-6


# Rates


def test_a_line_and_a_cosine_down():
    line, cosine = (
        trainer(f"gan:iterations=8,every=8,decay={decay},lr=4e-4,lr_end=1e-4,{SMALL}").rules.optim
        for decay in ("linear", "cosine")
    )
    for t in range(8):
        assert line.factor(4e-4, t, 8) * 4e-4 == pytest.approx(4e-4 + (1e-4 - 4e-4) * t / 8, rel=1e-12)
        assert cosine.factor(4e-4, t, 8) * 4e-4 == pytest.approx(2.5e-4 + 1.5e-4 * math.cos(math.pi * t / 8), rel=1e-12)
    stays = trainer(f"gan:iterations=8,every=8,decay=none,{SMALL}").rules.optim
    assert [stays.factor(2e-4, t, 8) for t in range(8)] == [1.0] * 8


def test_the_paper_s_setting_of_sn_gan():
    """Miyato et al. 2018, sngan_projection's sn_cifar10_unconditional.yml."""
    made = rules(f"gan:{PAPER}", Streams((0,)), (3, 32, 32))
    loop, optim, players = made.loop, made.optim, made.players
    assert (loop.batch, loop.fakes, loop.critic_steps, loop.iterations, loop.steps) == (64, 128, 5, 1000, 50)
    assert (optim.lr, optim.critic_lr, optim.betas, optim.ema) == (2e-4, 2e-4, (0.0, 0.9), 0.0)
    assert [optim.factor(2e-4, t, 50_000) for t in (0, 12_500, 50_000)] == [1.0, 0.75, 0.0]
    assert (players.latent, players.prior, players.spectral, made.penalty) == (128, "normal", True, "none")
    real, fake = torch.tensor([[-2.0, 0.5, 3.0]]), torch.tensor([[-3.0, 0.25, 1.0]])
    assert made.objective.critic_loss(real, fake) == pytest.approx((0 + 1.25 + 2 + 3 + 0.5 + 0) / 3)  # hinge
    generator, critic = players.generator((3, 32, 32), Streams((0,))), players.critic((3, 32, 32), Streams((0,)))
    assert (generator.parameters.flat.numel(), critic.parameters.flat.numel()) == (4_276_739, 1_053_824)
    assert sum(name.startswith("u") for name in critic.buffers) == 11, "each layer of the critic is normalised"


def test_the_generator_has_as_many_fakes_as_asked_for():
    sizes = {}
    for fakes in (None, 4, 9):
        made = trainer(f"gan:iterations=2,every=2,critic_steps=2,{SMALL}" + (f",fakes={fakes}" if fakes else ""))
        seen, generator = [], made.generator
        made.generator = lambda z, *a, seen=seen, g=generator, **k: seen.append(z.shape[1]) or g(z, *a, **k)
        made.generator.parameters = generator.parameters
        made.step(1)
        sizes[fakes] = seen, generator.parameters.flat
    assert sizes[9][0] == [4, 4, 9, 4, 4, 9]
    assert sizes[4][0] == sizes[None][0] == [4] * 6
    assert torch.equal(sizes[4][1], sizes[None][1])
    assert not torch.equal(sizes[9][1], sizes[None][1])


# Batch normalisation


@pytest.mark.parametrize("network", ["sngan", "otm", "otm_skip"])
def test_judged_points_do_not_know_each_other(network):
    made = trainer(f"gwf:steps=1,iterations=3,network={network},ema=0.5,{SMALL}")
    made.step(1)
    assert made.judged.buffers is made.generator.buffers
    rng = Streams((3,), dtype=torch.float64)
    few, many = made.draw(3, rng.fork("judge")), made.draw(8, rng.fork("judge"))
    torch.testing.assert_close(few, many[:, :3], rtol=0, atol=1e-12)


def test_the_critic_learns_from_fakes_by_the_batch(monkeypatch):
    """Which move the running averages, as in the authors' code."""
    made, fakes = trainer(f"gwf:network=otm,steps=1,iterations=1,{SMALL}"), []

    def seen(critic, real, fake, kind, mix):
        fakes.append(fake)
        return at_both(critic, real, fake, kind, mix)

    monkeypatch.setattr(generator_critic, "at_both", seen)
    rng = Streams((3,), dtype=torch.float64)
    z = rng.normal(4, 128)
    made._critic_step(rng.normal(4, *SHAPE), z, 0, 1.0)
    assert all((part != part.round()).any() for part in made.generator.buffers.values())
    torch.testing.assert_close(fakes[0], made.generator(z, frozen=True, alone=False), rtol=0, atol=1e-12)
    assert (fakes[0] - made.generator(z, frozen=True)).abs().max() > 1e-3


def test_the_reference_of_gwf_has_running_averages_and_that_of_sjko_its_batch_s():
    for words, alone in (("gwf", True), ("sjko:auxiliary=3", False)):
        made = trainer(f"{words}{',' if ':' in words else ':'}network=otm,steps=2,iterations=1,{SMALL}")
        made.step(1)
        rng = Streams((3,), dtype=torch.float64)
        z = rng.normal(4, made.rules.players.latent)
        old = made.before(2, rng.fork("independent"))(z)
        if not alone:  # the auxiliary coordinates are drawn anew
            z = torch.cat([z[..., :-3], rng.fork("independent").normal(4, 3)], 2)
        torch.testing.assert_close(old, made.generator(z, frozen=True, alone=alone), rtol=0, atol=1e-12)
        assert (old - made.generator(z, frozen=True, alone=not alone)).abs().max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("words", [
    f"gwf:network=otm,ema=0.9,lazy=2,decay=linear,steps=3,iterations=3,critic_steps=1,{SMALL}",
    f"gan:loss=sngan,network=sngan,fakes=6,iterations=6,every=2,{SMALL}",
    f"sjko:network=otm_skip,steps=3,iterations=2,{SMALL}",
])  # fmt: skip
def test_it_goes_on_bit_for_bit_and_seeds_do_not_know_each_other(words):
    method, rng = registry.parse("method", words), Streams((3, 7), dtype=torch.float64)
    whole = [
        (law.draw(6, rng.fork("judge")), through_a_file(law.state()))
        for law in method.fit(problem(), Budget(), rng.fork("method"))
    ]
    for i, (_, state) in enumerate(whole):
        later = method.resume(problem(), Budget(), rng.fork("method"), state)
        rest = [law.draw(6, rng.fork("judge")) for law in later]
        assert all(torch.equal(one, other) for one, (other, _) in zip(rest, whole[i + 1 :], strict=True))
    alone = Streams((7,), dtype=torch.float64)
    for law, (together, _) in zip(method.fit(problem(), Budget(), alone.fork("method")), whole, strict=True):
        torch.testing.assert_close(law.draw(6, alone.fork("judge"))[0], together[1], rtol=0, atol=1e-8)


# bfloat16


class Products(TorchDispatchMode):
    """The types of what goes into products."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name.partition("::")[2] in ("convolution", "baddbmm", "convolution_backward", "mm"):
            self.seen |= {x.dtype for x in args[:2] if isinstance(x, torch.Tensor)}
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("role", "kind"), [("generator", "sngan"), ("critic", "sngan"), ("transport", "jkoflow_unet")])
def test_products_are_in_bfloat16_and_all_that_stays_in_float32(role, kind):
    rng = Streams((0, 1))
    if role == "generator":
        net, x = networks.generator(kind, SHAPE, 5, 8, None, rng.fork("net")), rng.normal(6, 5)
    elif role == "critic":
        net, x = networks.critic(kind, SHAPE, 1, 8, None, rng.fork("net"), True), rng.normal(6, *SHAPE)
    else:
        net, x = networks.transport(kind, SHAPE, 8, None, rng.fork("net")), rng.normal(6, *SHAPE)
    exact = net(x, frozen=True)
    with Products() as plain:
        net(x, frozen=True)
    rough = networks.halved(net)
    with Products() as products:
        out = rough(x)
        gradient = rough.parameters.gradient(out.square().sum())
    assert (plain.seen, products.seen) == ({torch.float32}, {torch.bfloat16})
    assert out.dtype == gradient.dtype == torch.float32
    assert all(part.dtype == torch.float32 for part in net.buffers.values())
    gap = (rough(x, frozen=True, alone=True) - exact).abs().max() / exact.abs().max()
    assert 0 < gap < 0.5 if role == "generator" else 0 < gap < 0.1  # averages have moved by a batch; 8 bits of mantissa


def test_spectral_norms_are_those_of_float32():
    rng = Streams((0,))
    vectors = []
    for bf16 in (False, True):
        net = networks.critic("sngan", SHAPE, 1, 8, None, rng.fork("net"), True)
        net.bf16 = bf16
        for _ in range(3):
            net(rng.fork("x").normal(4, *SHAPE))
        vectors.append(net.buffers)
    assert all(torch.equal(vectors[0][name], part) for name, part in vectors[1].items())


def test_bfloat16_goes_through_the_loop_with_penalties():
    for words in (
        f"gan:iterations=2,every=2,precision=bf16,{SMALL}",
        f"gan:loss=sngan,network=sngan,iterations=2,every=2,precision=bf16,{SMALL}",
        f"gwf:network=otm,steps=1,iterations=2,precision=bf16,{SMALL}",
    ):
        flats = []
        for run in (words, words.replace("bf16", "run")):
            made = trainer(run, dtype=torch.float32)
            made.step(1)
            flats.append(made.critic.parameters.flat)
            assert made.critic.bf16 == made.generator.bf16 == ("bf16" in run)
        assert flats[0].isfinite().all()
        assert not torch.equal(*flats)
        assert (flats[0] - flats[1]).abs().max() < 5e-3  # Adam's steps are bounded by its rates, 4e-4 at most


def test_bfloat16_in_a_run_of_float64_is_refused():
    with pytest.raises(UserError, match="a run of float64"):
        trainer(f"gan:iterations=2,every=2,precision=bf16,{SMALL}")
    flow = registry.parse("method", "jko_flow:precision=bf16,steps=1,iterations=1,batch=4,width=4,critic_width=4")
    laws = iter(flow.fit(problem(), Budget(), Streams((0,), dtype=torch.float64)))
    with pytest.raises(UserError, match="a run of float64"):
        next(laws)


@pytest.mark.slow
def test_jko_flow_in_bfloat16_with_its_authors_unet():
    words = (
        "network=jkoflow_unet,critic=sngan,steps=1,iterations=2,critic_steps=1,batch=4,pool=8,width=4,critic_width=4"
    )
    ends = []
    for precision in ("run", "bf16"):
        rng = Streams((0, 1))
        method = registry.parse("method", f"jko_flow:{words},precision={precision}")
        (law,) = method.fit(problem(), Budget(), rng.fork("method"))
        ends.append(law.push(rng.fork("x").normal(5, *SHAPE), rng))
    assert ends[1].isfinite().all()
    assert ends[1].dtype == torch.float32
    assert 0 < (ends[0] - ends[1]).abs().max() < 0.2


@pytest.mark.parametrize(("words", "part"), [
    ("gan:loss=sngan,lazy=2", "lazy"), ("gan:weight=0,lazy=2", "lazy"), ("gan:lazy=0", "lazy"),
    ("gwf:penalty=none,lazy=4", "lazy"), ("sjko:weight=0,lazy=4", "lazy"), ("gan:fakes=0", "fakes"),
    ("gan:lr_end=-1", "lr_end"), ("gwf:precision=half", "precision"), ("gwf:decay=line", "decay"),
])  # fmt: skip
def test_mistakes(words, part):
    with pytest.raises(UserError, match=part):
        registry.parse("method", words)
