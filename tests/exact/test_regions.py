"""Regions on which the critic of an internal energy has its reference law: volumes, draws, and the bound itself."""

import math

import pytest
import torch
from scipy import stats

from gwfbench.budget import Budget
from gwfbench.errors import UserError
from gwfbench.info import Initial
from gwfbench.objectives.variational import HEADS, entropy
from gwfbench.plugins import registry
from gwfbench.rng import Streams
from gwfbench.training.jko_step import Critic, best_log_h
from gwfbench.training.proposals import Box, Ellipsoid

SEEDS = (0, 1)


def rng(name="x", seeds=SEEDS):
    return Streams(seeds, dtype=torch.float64).fork(name)


def start(dim, m=2.0, seeds=SEEDS):
    """Task at flow time 0 (the truth's index 0), and its problem."""
    task = registry.parse("task", f"barenblatt:dim={dim},m={m},step=1e-12,steps=1")
    return task.build(Streams(seeds, dtype=torch.float64).fork("task"))


def sheared(d, reach=1.7):
    root = torch.tril(torch.ones(d, d, dtype=torch.float64)) * torch.linspace(0.2, 2, d, dtype=torch.float64)[:, None]
    root = root.expand(2, d, d).contiguous()
    mean = torch.arange(1.0, d + 1, dtype=torch.float64).expand(2, 1, d)
    return Ellipsoid(mean, root, torch.cholesky_inverse(root), torch.full((2, 1, 1), reach, dtype=torch.float64))


BALLS = {1: 2.0, 2: math.pi, 3: 4 / 3 * math.pi, 6: math.pi**3 / 6, 16: math.pi**8 / math.factorial(8)}


@pytest.mark.parametrize("d", BALLS)
def test_the_volume_of_an_ellipsoid(d):
    law = sheared(d)
    exact = BALLS[d] * 1.7**d * torch.linalg.det(law.root)
    torch.testing.assert_close(law.log_volume, exact.log())


def test_a_volume_beyond_the_floats_has_a_logarithm():
    law = sheared(1000)
    ball = 500 * math.log(math.pi) - math.lgamma(501)
    assert law.log_volume.tolist() == pytest.approx(
        [ball + 1000 * math.log(1.7) + float(torch.linspace(0.2, 2, 1000).double().log().sum())] * 2, rel=1e-4
    )
    box = Box(torch.zeros(1, 1, 1000), torch.full((1, 1, 1), 5.0))
    assert box.log_volume.tolist() == pytest.approx([1000 * math.log(10)])


@pytest.mark.parametrize("d", [1, 3, 6, 16])
def test_draws_of_an_ellipsoid_are_uniform(d):
    """In its own coordinates: radius^d uniform, directions without a mean or a preferred axis, both independent."""
    law, n = sheared(d), 20_000
    u = law.white(law.draw(n, rng())) / d**0.5
    radius = u.norm(dim=-1, keepdim=True)
    assert float(radius.max()) <= 1 + 1e-9
    for seed in radius.squeeze(-1).numpy():
        assert stats.kstest(seed**d, "uniform").pvalue > 1e-6
    way = u / radius
    assert float(way.mean(1).abs().max()) < 5 * (1 / d / n) ** 0.5 + 1e-12
    eye = torch.eye(d, dtype=torch.float64)
    assert float((way.mT @ way / n - eye / d).abs().max()) < 5 * n**-0.5 * 2 / d + 1e-12
    if d > 1:
        both = torch.stack([radius.squeeze(-1), way[..., 0]], 1)
        assert max(abs(float(one.corrcoef()[0, 1])) for one in both) < 5 * n**-0.5


@pytest.mark.parametrize("d", [1, 3, 16])
def test_an_ellipsoid_holds_its_cloud_with_the_room_that_was_asked_for(d):
    cloud = sheared(d).draw(3000, rng()) + 5
    tight, wide = Ellipsoid.around(cloud, 1.0), Ellipsoid.around(cloud, 4.0)
    farthest = tight.white(cloud).square().mean(-1).amax(1)
    torch.testing.assert_close(farthest, torch.ones(2, dtype=torch.float64))  # one point lies on it
    torch.testing.assert_close(wide.log_volume - tight.log_volume, torch.full((2,), math.log(4), dtype=torch.float64))


@pytest.mark.parametrize("region", ["ellipsoid", "box"])
@pytest.mark.parametrize(("dim", "m"), [(1, 3.0), (3, 2.0), (3, 1.5), (6, 2.0), (16, 2.0)])
def test_the_bound_is_the_energy_at_the_best_h(region, dim, m):
    """F = sup_h: equal to the closed form at h = P V within five standard errors, below it for another h."""
    if (region, dim) == ("box", 16):
        return  # 5e-9 of its draws are where P is: see below
    instance, n = start(dim, m), 200_000
    y = instance.problem[Initial].draw(n, rng("y"))
    law = Box.around(y, 1.2) if region == "box" else Ellipsoid.around(y, 3.0)
    z, log_p = law.draw(n, rng("z")), instance.problem[Initial].log_prob
    energy, exact = entropy(m, 1.0, law.log_volume), instance.truth.energy(0)

    def bound(tilt):
        def h(x):
            return (log_p(x) + law.log_volume[:, None]).exp() * (1 + tilt * torch.sin(9 * x[..., 0]))

        rate, power = energy.rate(h(y)), energy.scale[:, None] * h(z) ** m
        torch.testing.assert_close(energy.bound(h(y), h(z)), rate.mean(1) - power.mean(1))
        return rate.mean(1) - power.mean(1), ((rate.var(1) + power.var(1)) / n).sqrt()

    found, error = bound(0.0)
    assert ((found - exact).abs() < 5 * error).all()
    assert (error < 0.03 * exact).all()
    below, error = bound(0.9)
    assert (below < exact - 5 * error).all()


def test_why_the_default_is_no_box():
    """Of a cube's draws V_n R^n / (2 b)^n are where P is; of an ellipsoid's one third in every dimension."""
    shares = {}
    for dim in (3, 16):
        instance = start(dim)
        cloud = instance.problem[Initial].draw(60_000, rng("y"))
        inside = {
            name: instance.problem[Initial].log_prob(law.draw(40_000, rng("z"))).isfinite().double().mean()
            for name, law in (("box", Box.around(cloud, 1.5)), ("ellipsoid", Ellipsoid.around(cloud, 3.0)))
        }
        shares[dim] = {name: float(share) for name, share in inside.items()}
    assert shares[3]["box"] == pytest.approx(BALLS[3] / 27, rel=0.1)  # all points of a ball fill a cube to V_3 / 8
    assert shares[16]["box"] == 0
    assert all(0.25 < shares[dim]["ellipsoid"] < 0.5 for dim in shares)


def test_the_largest_h_is_the_peak_times_the_volume():
    for dim in (3, 16):
        instance = start(dim)
        x = instance.problem[Initial].draw(60_000, rng("y"))
        peak = float(instance.problem[Initial].log_prob(torch.zeros(2, 1, dim, dtype=torch.float64)).max())
        for law in (Box.around(x, 1.5), Ellipsoid.around(x, 3.0)):
            assert best_log_h(instance.problem, x, law) == pytest.approx(peak + float(law.log_volume.max()), abs=1e-3)


def test_a_region_on_which_h_is_out_of_reach_is_refused():
    """exp(20 sigmoid) - 1 ends at 5e8; the paper's cube needs more from some dimension between 16 and 24 on."""
    problem = start(24).problem
    tiny = "batch=64,pool=4096,width=4,iterations=1"

    def first(words):
        method = registry.parse("method", f"vjko:{tiny},{words}")
        return next(method.fit(problem, Budget(), Streams(SEEDS, dtype=torch.float64)))

    with pytest.raises(UserError, match=r"at most e\^20 at P_0; here it reaches e\^2") as found:
        first("box=1.5")
    assert "leave box out" in found.value.fix
    assert first("head=exp1")
    assert first("box=1.5,head=plain")
    with pytest.raises(UserError, match="smaller volume"):
        first("head=exp1,volume=1e9")


@pytest.mark.parametrize("d", [1, 3, 16])
def test_a_radial_critic_sees_the_squared_distance(d):
    """The last input is 1 all over the ellipsoid's surface, 0 at its centre; the others are the coordinates."""
    law = sheared(d)
    way = rng().normal(50, d)
    x = torch.cat([way / way.norm(dim=-1, keepdim=True), 0 * way[:, :1]], 1) * law.reach @ law.root.mT + law.mean
    seen = []
    Critic(lambda u, frozen: seen.append(u) or u[..., :1], HEADS["plain"].value, law.white, True)(x)
    torch.testing.assert_close(seen[0][..., :-1], law.white(x))
    expected = torch.cat([torch.ones(2, 50), torch.zeros(2, 1)], 1).double()
    torch.testing.assert_close(seen[0][..., -1], expected, rtol=0, atol=1e-12)


def test_the_plain_head_is_the_networks_own_output():
    """As in the authors' code: h ends in a PReLU, and starts around 1."""
    from gwfbench.baselines import vjko as module

    streams, problem = Streams(SEEDS, dtype=torch.float64), start(3).problem
    words = "vjko:head=plain,box=1.5,critic_width=16,critic_depth=4"
    settled = module._settled(registry.parse("method", words), problem, streams)
    stage = module._Backward(settled, problem, streams, {"k": 0})
    layers = stage._raw.layers()
    assert [part.shape[2] for part, _ in layers] == [16, 16, 16, 16, 1]
    assert len(stage._raw.parameters.leaves) == 3 * len(layers)  # a PReLU after each, the last one too
    x = problem[Initial].draw(100, rng())
    law = settled._region(x)
    h = stage._functional(law, None).critic(stage._raw)
    torch.testing.assert_close(h(x), stage._raw(law.white(x)).squeeze(-1))
    assert 0.3 < float(h(x).detach().mean()) < 2
