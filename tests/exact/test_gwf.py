"""The loop of adversarial flows in its limits: no proximal term, nothing but it, seeds apart, stops and goes on."""

import math
from dataclasses import replace
from typing import get_args, get_type_hints

import pytest
import torch

from gwfbench.budget import Budget
from gwfbench.check.method import through_a_file
from gwfbench.errors import UserError
from gwfbench.info import Initial, TargetSamples
from gwfbench.plugins import registry
from gwfbench.protocol import Problem
from gwfbench.rng import Streams
from gwfbench.training.generator_critic import Trainer

SMALL = "steps=3,iterations=4,batch=16,width=8,depth=2"
DIVERGENCES = get_args(get_type_hints(type(registry.parse("method", "gwf")))["divergence"])
BOTH_WAYS = ("kl", "kl_centered", "kl_dv", "chi2", "chi2_tight")


def problem(shape=(2,)):
    target = TargetSamples(lambda n, rng: 1 + 0.3 * rng.normal(n, *shape))
    return Problem(shape, (math.inf,), (Initial(lambda n, rng: rng.normal(n, *shape)), target))


def points(words, seeds=(3,), shape=(2,), n=50):
    """Of each law."""
    rng = Streams(seeds, dtype=torch.float64)
    method = registry.parse("method", words)
    return [law.draw(n, rng.fork("judge")) for law in method.fit(problem(shape), Budget(), rng.fork("method"))]


@pytest.mark.parametrize("divergence", ["kl_dv", "mmd"])
def test_a_very_long_step_has_no_proximal_term_bit_for_bit(divergence):
    words = f"gwf:divergence={divergence},{SMALL}"
    never, long, short = (points(f"{words},step={step}")[-1] for step in ("inf", "1e30", "0.1"))
    assert torch.equal(never, long)
    assert not torch.equal(never, short)


def test_a_very_short_step_holds_the_generator_where_it_is():
    words = "gwf:steps=2,iterations=40,batch=32,width=8,decay=none"
    moved = []
    for step in ("inf", "1e-7"):
        first, second = points(f"{words},step={step}")
        moved.append(float((second - first).abs().mean()))
    assert moved[1] < 0.05 * moved[0]  # Adam trembles about it, by its rate


@pytest.mark.slow
def test_from_p0_a_very_short_step_learns_the_identity():
    words = "prior=initial,step=1e-4,iterations=250,batch=32,width=32,depth=2,steps=1,lr=4e-3"
    rng = Streams((3,), dtype=torch.float64)
    (law,) = registry.parse("method", f"gwf:{words}").fit(problem(), Budget(), rng)
    assert (law.draw(200, rng.fork("judge")) - rng.fork("judge").normal(200, 2)).abs().mean() < 0.1
    assert law.draw(200, rng.fork("judge")).std() > 0.8


def test_the_proximal_term_by_hand():
    """At step 2 the generator's gradient is that of its own loss and of |G - G_1|^2 / (2 tau), summed over coordinates."""
    method = registry.parse("method", f"gwf:{SMALL},step=0.2,divergence=wasserstein1")
    rng = Streams((3,), dtype=torch.float64)
    trainer = Trainer(method._rules(problem(), rng), problem(), rng)
    trainer.step(1)
    z = rng.normal(16, 2)
    before = trainer.before(2, rng)
    old = trainer.generator(z).detach()
    with torch.no_grad():
        trainer.generator.parameters.flat.add_(0.1)
    assert torch.equal(before(z), old)  # a copy
    assert trainer.before(1, rng) is None
    assert trainer.rules.loop.tau == 0.2
    default = registry.parse("method", "gwf")._rules(problem((3, 4, 4)), rng)
    assert default.loop.tau == 24.0  # lambda2 = 1 of the authors: mean_d(.) = sum(.) / d, so 2 tau = d


def test_on_images_the_critic_keeps_up():
    """The settings of gan, with which the proximal term has next to no effect on digits; the authors' can be written."""
    rng = Streams((3,), dtype=torch.float64)
    for words, weight, critic_lr, beta1 in (
        ("gwf", 5.0, 4e-4, 0.0), ("gwf:divergence=js,penalty=real", 5.0, 4e-4, 0.0),
        ("gwf:divergence=mmd", 10.0, 4e-4, 0.0), ("gwf:critic_lr=1e-4,beta1=0.5,weight=0.2", 0.2, 1e-4, 0.5),
    ):  # fmt: skip
        rules = registry.parse("method", words)._rules(problem((3, 4, 4)), rng)
        assert (rules.weight, rules.optim.critic_lr, rules.optim.betas) == (weight, critic_lr, (beta1, 0.9))
        assert rules.optim.lr == 2e-4
    own = registry.parse("method", "sjko")._rules(problem((3, 4, 4))).optim
    assert (own.lr, own.critic_lr, own.betas) == (2e-4, 1e-4, (0.5, 0.9))
    rules = registry.parse("method", "gwf")._rules(problem(), rng)
    assert (rules.weight, rules.optim.critic_lr, rules.optim.betas) == (0.2, 1e-3, (0.5, 0.9))


def test_the_first_step_has_the_term_that_is_asked_for():
    rng, z = Streams((3,), dtype=torch.float64), Streams((3,), dtype=torch.float64).fork("z").normal(16, 3)
    first = {}
    for words in ("", "start=none,", "start=identity,latent=3,", "start=noise,latent=3,"):
        method = registry.parse("method", f"gwf:{words}{SMALL}")
        trainer = Trainer(method._rules(problem(), rng), problem(), rng)
        first[words] = trainer.before(1, rng.fork("before"))
        assert trainer.before(2, rng) is not None
    assert first[""] is first["start=none,"] is None
    assert torch.equal(first["start=identity,latent=3,"](z), z[..., :2])
    noise = rng.fork("before").normal(16, 2)
    assert torch.equal(first["start=noise,latent=3,"](z), noise)
    with pytest.raises(UserError, match="start=identity,latent=2"):
        registry.parse("method", f"gwf:start=identity,latent=1,{SMALL}")._rules(problem(), rng)
    with pytest.raises(UserError, match="start=noise,prior=initial"):
        registry.parse("method", "gwf:start=noise,prior=initial")


def real_batches(words):
    """Of the critic's and the generator's updates in turn."""
    rng, batches = Streams((3,), dtype=torch.float64), []
    trainer = Trainer(registry.parse("method", words)._rules(problem(), rng), problem(), rng)
    critic, generator = trainer._critic_step, trainer._generator_loss
    trainer._critic_step = lambda real, *rest: batches.append(real) or critic(real, *rest)
    trainer._generator_loss = lambda real, *rest: batches.append(real) or generator(real, *rest)
    trainer.step(1)
    return batches


@pytest.mark.parametrize("divergence", ["mmd", "chi2_tight"])
def test_the_generator_s_real_points_are_fresh_or_the_critic_s(divergence):
    seen = {fresh: real_batches(f"gwf:divergence={divergence},fresh={fresh},{SMALL}") for fresh in ("false", "true")}
    assert all(torch.equal(one, other) for one, other in zip(seen["false"][::2], seen["false"][1::2], strict=True))
    all_ = torch.cat(seen["true"], 1).flatten(0, 1)
    assert len(all_.unique(dim=0)) == len(all_)  # no point twice
    with pytest.raises(UserError, match="fresh=true"):
        registry.parse("method", "gwf:fresh=true")


@pytest.mark.slow
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_every_divergence_gives_finite_laws_that_move(divergence):
    for more in ("", ",step=inf") + ((",reverse=true",) if divergence in BOTH_WAYS else ()):
        laws = points(f"gwf:divergence={divergence},{SMALL}{more}")
        assert len(laws) == 3
        assert all(law.isfinite().all() for law in laws)
        assert not torch.equal(laws[0], laws[1])


@pytest.mark.slow
@pytest.mark.parametrize("words", [
    "gwf:penalty=wgan", "gwf:penalty=r3gan,prior=normal", "gwf:divergence=mmd,kernel=imq,ema=0.9,critic_steps=2",
    "gwf:prior=initial,independent=2", "gan:iterations=6,every=2", "gan:loss=hinge", "gan:loss=wgan_gp", "gan:loss=sngan",
    "sjko", "sjko:divergence=kl", "sjko:divergence=chi", "sjko:divergence=jsd",
])  # fmt: skip
@pytest.mark.parametrize("shape", [(2,), (1, 8, 8)])
def test_vectors_and_images(words, shape):
    name, _, rest = words.partition(":")
    small = "iterations=4,batch=8,width=8" + (
        ",steps=2" if name != "gan" else ",every=2" if "every" not in rest else ""
    )
    small = small.replace("iterations=4,", "") if "iterations" in rest else small
    laws = points(f"{name}:{rest + ',' if rest else ''}{small}", shape=shape)
    assert laws[-1].shape == (1, 50, *shape)
    assert all(law.isfinite().all() for law in laws)


RESUMED = (
    f"gwf:divergence=mmd,ema=0.9,{SMALL}", f"gwf:divergence=smmd,penalty=interpolated,{SMALL}",
    f"gwf:prior=initial,independent=1,{SMALL}", "gan:loss=sngan,iterations=6,every=2,batch=16,width=8",
    f"sjko:{SMALL}",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("words", RESUMED)
def test_it_goes_on_bit_for_bit(words):
    method, rng = registry.parse("method", words), Streams((3, 7), dtype=torch.float64)
    whole = [
        (law.draw(20, rng.fork("judge")), through_a_file(law.state()))
        for law in method.fit(problem(), Budget(), rng.fork("method"))
    ]
    for i, (_, state) in enumerate(whole):
        rest = [
            law.draw(20, rng.fork("judge")) for law in method.resume(problem(), Budget(), rng.fork("method"), state)
        ]
        assert len(rest) == len(whole) - i - 1
        assert all(torch.equal(one, other) for one, (other, _) in zip(rest, whole[i + 1 :], strict=True))
    assert not torch.equal(whole[0][0], whole[-1][0])


@pytest.mark.slow
@pytest.mark.parametrize("words", RESUMED)
def test_seeds_do_not_know_each_other(words):
    together = points(words, (3, 5, 9))
    for i, seed in enumerate((3, 5, 9)):
        for one, other in zip(points(words, (seed,)), together, strict=True):
            assert torch.allclose(one[0], other[i], atol=1e-9)
    assert not torch.allclose(together[-1][0], together[-1][1])


def test_a_gan_is_the_limit_of_gwf():
    shared = "batch=16,width=8,prior=normal,lr=1e-3,critic_lr=1e-3"
    flow = points(f"gwf:divergence=shannon,step=inf,weight=0.1,steps=3,iterations=4,{shared}")
    for one, other in zip(points(f"gan:iterations=12,every=4,{shared}"), flow, strict=True):
        assert torch.equal(one, other)


def test_sjko_by_kl_is_gwf_by_kl_centered():
    """Proposition 3.1 again, of the whole loop: without noise on real points, one auxiliary, tau = 2."""
    shared = "steps=2,iterations=4,batch=16,width=8"
    one = points(f"sjko:divergence=kl,auxiliary=1,blur=0,{shared}")
    other = points(f"gwf:divergence=kl_centered,prior=initial,independent=1,weight=0.1,step=2,{shared}")
    assert all(map(torch.equal, one, other))


def test_the_learnt_kernel_is_sharpened_by_one_player_and_eased_by_the_other():
    method = registry.parse("method", f"gwf:divergence=mmd,{SMALL}")
    rng = Streams((3,), dtype=torch.float64)
    rules = method._rules(problem(), rng)
    assert (rules.mixture.flat == 0).all()
    trainer = Trainer(rules, problem(), rng)
    trainer.step(1)
    moved = rules.mixture.flat.clone()
    assert (moved != 0).any()
    assert list(trainer.adams) == ["critic0", "critic1", "generator0", "generator1"]


def test_the_running_average_is_judged_and_the_raw_generator_is_the_next_reference():
    method = registry.parse("method", f"gwf:ema=0.5,{SMALL}")
    rng = Streams((3,), dtype=torch.float64)
    rules = method._rules(problem(), rng)
    trainer = Trainer(replace(rules, loop=replace(rules.loop, iterations=1)), problem(), rng)
    start = trainer.generator.parameters.flat.clone()
    trainer.step(1)
    raw = trainer.generator.parameters.flat
    assert torch.allclose(
        trainer.judged.parameters.flat, 0.1 * start + 0.9 * raw, atol=1e-12
    )  # (1 + 0) / (10 + 0) kept
    z = rng.normal(5, 2)
    assert torch.equal(trainer.before(2, rng)(z), trainer.generator(z, frozen=True))


@pytest.mark.parametrize(("words", "part"), [
    ("gwf:divergence=js,reverse=true", "reverse"), ("gwf:kernel=rbf", "kernel"), ("gwf:outputs=3", "outputs"),
    ("gwf:prior=initial,latent=3", "latent"), ("gwf:latent=2,independent=2", "independent"), ("gwf:step=0", "step"),
    ("gwf:penalty=none,weight=1", "weight"), ("gwf:batch=1", "batch"), ("gan:ema=1", "ema"), ("gan:lr=0", "lr"),
    ("sjko:blur=-1", "blur"), ("sjko:auxiliary=-1", "auxiliary"), ("gan:iterations=0", "iterations"),
    ("gan:loss=sngan,weight=1", "weight"), ("gan:every=7,iterations=20", "every"),
])  # fmt: skip
def test_mistakes(words, part):
    with pytest.raises(UserError, match=part):
        registry.parse("method", words)
