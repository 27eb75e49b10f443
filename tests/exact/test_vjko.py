"""Variational JKO: its objective against closed forms on Gaussians, its steps against exact ones, and its choices."""

import itertools
import math
import tomllib
from importlib import resources

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.optimize import brentq
from scipy.stats import norm

from gwfbench.budget import Budget
from gwfbench.errors import UserError
from gwfbench.info import Initial, InteractionEnergy, LogDensity
from gwfbench.nn.mlp import ResidualMLP
from gwfbench.objectives import variational
from gwfbench.objectives.variational import force
from gwfbench.plugins import registry
from gwfbench.protocol import Problem
from gwfbench.rng import Streams
from gwfbench.training import engine
from gwfbench.training.jko_step import LIMIT, Shift, network, step_loss
from gwfbench.training.proposals import DEGREES, Box, Following, Gaussian, Student

L, C = 1.7, 0.6  # the target N(C, 1/L) on the line
QUICK = "batch=256,pool=8192,width=16,iterations=300"


def vjko(words):
    return registry.parse("method", f"vjko:{words}")


def problem_of(task, seeds=(0,)):
    return registry.parse("task", task).build(Streams(seeds, dtype=torch.float64).fork("task")).problem


def laws(words, problem, seeds=(0,)):
    return vjko(words).fit(problem, Budget(), Streams(seeds, dtype=torch.float64).fork("method"))


def log_normal(x, m, s):
    return -0.5 * ((x[..., 0] - m) / s) ** 2 - math.log(s)


# ---------------------------------------------------------------------------------------------- schemes in closed form


def slope(scheme, a, m, s, m2, s2):
    """Derivatives of a step's objective from N(m, s^2) at N(m2, s2^2), in m2 and s2, with F = KL(. || N(C, 1/L))."""
    mean, scale = (m2 - m) / a, (s2 - s) / a
    now = L * (m2 - C), L * s2 - 1 / s2
    other = {
        "backward": now,
        "crank_nicolson": (L * (m - C), L * s - 1 / s),
        "section_b": (L * (m2 - C) - (m2 - m) / s**2, L * s2 - s2 / s**2),
    }[scheme]
    return mean + 0.5 * (now[0] + other[0]), scale + 0.5 * (now[1] + other[1])


def exact_step(scheme, a, m, s):
    m2 = brentq(lambda v: slope(scheme, a, m, s, v, 1.0)[0], -50, 50)
    return m2, brentq(lambda v: slope(scheme, a, m, s, 0.0, v)[1], 1e-3, 50)


@pytest.mark.parametrize("scheme", ["backward", "crank_nicolson", "section_b"])
def test_the_objective_is_stationary_at_the_schemes_step(scheme):
    """The map's loss, with the exact dF/dP for the critic's: flat at the closed form, not beside it."""
    m, s, a = 0.2, 0.8, 0.1
    m2, s2 = exact_step(scheme, a, m, s)

    def variation(m, s):
        return lambda x: log_normal(x, m, s) - log_normal(x, C, L**-0.5)

    before = None if scheme == "backward" else variation(m, s)
    x = torch.from_numpy(norm.ppf((torch.arange(20001).double() + 0.5).numpy() / 20001, m, s))[None, :, None]
    for off in (0.0, 0.05):
        t = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        y = m2 + off + t[0] + (s2 + off + t[1]) * (x - m) / s
        loss = step_loss(a, variation(m2 + off, s2 + off), before, None, 1, scheme)
        (found,) = torch.autograd.grad(loss(x, y).sum(), t)
        wanted = slope(scheme, a, m, s, m2 + off, s2 + off)
        assert found.tolist() == pytest.approx(wanted, abs=2e-3)
        assert off or max(map(abs, wanted)) < 1e-9


@pytest.mark.parametrize("scheme", ["backward", "crank_nicolson", "section_b"])
def test_the_interaction_in_each_scheme(scheme):
    """W = |z|^2 / 2 pulls to the mean: at y = m + s'(x - m)/s the slope in s' is (s' - s)/a and half of s', s or s' more."""
    x = Streams((0,), dtype=torch.float64).whitened(400, 1)
    scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    loss = step_loss(0.1, None, None, lambda z: 0.5 * z.square().sum(-1), 399, scheme)
    (found,) = torch.autograd.grad(loss(x, scale * x).sum(), scale)
    other = {"backward": 0.7, "crank_nicolson": 1.0, "section_b": 0.7}[scheme]
    assert float(found) == pytest.approx((0.7 - 1) / 0.1 + 0.5 * 0.7 + 0.5 * other, abs=5e-3)  # 1/n: no own pairs


def test_crank_nicolson_is_of_second_order_and_the_printed_scheme_of_first():
    errors = {}
    for scheme in ("backward", "crank_nicolson", "section_b"):
        errors[scheme] = []
        for count in (4, 8, 16):
            m, s = 0.0, 1.0
            for _ in range(count):
                m, s = exact_step(scheme, 0.8 / count, m, s)
            decay = math.exp(-L * 0.8)
            exact = (1 - decay) * C, math.sqrt((1 - decay**2) / L + decay**2)
            errors[scheme].append(math.hypot(m - exact[0], s - exact[1]))
    orders = {name: [math.log2(one / two) for one, two in itertools.pairwise(each)] for name, each in errors.items()}
    assert orders["crank_nicolson"] == pytest.approx([2, 2], abs=0.15)
    assert orders["backward"] == pytest.approx([1, 1], abs=0.2)
    assert orders["section_b"][1] < 1.4


# --------------------------------------------------------------------------------------------------- steps as trained


@pytest.mark.slow
@pytest.mark.parametrize("chosen", ["linear", "icnn"])
def test_one_step_is_the_exact_jko_step(chosen):
    """From N(0, I) to the exact step's mean and covariance: a pool of 8192 draws is off by 1/sqrt(8192) = 0.011 a moment."""
    task = registry.parse("task", "ou:step=0.2,horizon=0.2")
    instance = task.build(Streams((3,), dtype=torch.float64).fork("task"))
    (law,) = laws(f"map={chosen},step=0.2,decay=cosine,{QUICK}", instance.problem)
    x = Streams((1,), dtype=torch.float64).whitened(4096, 2)
    with torch.no_grad():
        y = law.push(x, Streams((0,)))
    mean, covariance = instance.truth.jko((0.2,)).moments(0)
    still = float(mean.norm() + (covariance - torch.eye(2)).norm())
    off = float((y.mean(1) - mean).norm() + (y[0].T.cov() - covariance[0]).norm())
    assert off < min(0.06, 0.3 * still)


@pytest.mark.parametrize("follow", [0.0, 0.1])
def test_with_a_following_gaussian_a_long_step_of_a_narrow_law_is_exact(follow, monkeypatch):
    """From N(0, 0.3^2) by a = 1, the critic kept at h = 1: the exact step, as mu is T#P_k.

    With mu_k = P_k the objective has no minimum, as 1/a + L < 1/0.3^2: the map runs away.
    """
    s, rng = 0.3, Streams((0,), dtype=torch.float64)
    target = LogDensity(lambda x: log_normal(x, C, L**-0.5), lambda x: L * (C - x))
    start = Initial(lambda n, noise: s * noise.whitened(n, 1), None)
    problem = Problem((1,), (math.inf,), (start, target))
    words = f"map=linear,step=1,steps=1,lr=0.01,follow={follow},{QUICK}"
    monkeypatch.setattr(engine.HandCritic, "slope", lambda critic: torch.zeros_like(critic.seen[:, :256]))
    (law,) = laws(words, problem)
    with torch.no_grad():
        y = law.push(s * rng.whitened(4096, 1), rng)
    m2, s2 = exact_step("backward", 1.0, 0.0, s)
    off = math.hypot(float(y.mean()) - m2, float(y.std()) - s2)
    assert (off < 0.02) if follow else (off > 1)


@pytest.mark.slow
def test_a_ring_grows_towards_its_radius():
    """P_0 has s = E|x|^2 = 1/2; each exact backward step of the mean square is towards 1/3 and does not pass it."""
    problem = problem_of("aggregation")
    start = problem[Initial].draw(2000, Streams((5,), dtype=torch.float64))
    x, spread = start, []
    for law in itertools.islice(laws(f"step=0.5,steps=6,{QUICK}", problem), 6):
        with torch.no_grad():
            x = law.push(x, Streams((0,)))
        spread.append(float(x.norm(dim=-1).std() / x.norm(dim=-1).mean()))
    radius = float(x.norm(dim=-1).mean())
    assert radius == pytest.approx(1 / math.sqrt(3), abs=0.03)  # the printed 1/2 is excluded
    assert spread[-1] < 0.3 < spread[0]


def test_a_forward_step_is_the_force():
    problem = problem_of("aggregation:case=semicircle")
    x = problem[Initial].draw(50, Streams((5,), dtype=torch.float64))
    law = next(laws("scheme=forward,forces=300,steps=8,step=0.05", problem))
    pool = problem[Initial].draw(300, Streams((0,), dtype=torch.float64).fork("method").fork("pool"))
    y = law.push(x, Streams((0,)))
    torch.testing.assert_close(y, x - 0.05 * force(problem[InteractionEnergy].kernel, x, pool))
    assert law.log_det is None


def test_the_forward_scheme_diverges_on_the_log_kernel_alone():
    """A force of 1/|x| throws points out; those at distances r from a particle of m jump by a/(m r)."""
    kernel = problem_of("aggregation:case=semicircle")[InteractionEnergy].kernel
    particles = torch.tensor([[[-1.0], [1.0]], [[-1.0], [1.0]]], dtype=torch.float64)  # size 1
    x = 1 + torch.tensor([[[1e-3], [0.2]], [[1 / 1190], [1 / 1210]]], dtype=torch.float64)
    y = Shift(0.05, kernel, particles)(x)  # jumps of 25, and around 30
    assert y.isfinite().tolist() == [[[True], [True]], [[True], [False]]]
    for case, lost in (("semicircle", True), ("ring", False)):
        problem = problem_of(f"aggregation:case={case}")
        x = problem[Initial].draw(20_000, Streams((5,), dtype=torch.float64))
        for law in itertools.islice(laws("scheme=forward,forces=64", problem), 4):
            x = law.push(x, Streams((0,)))
        assert bool(x.isfinite().all()) is not lost


# ------------------------------------------------------------------------------------------------------------ choices


@pytest.mark.parametrize(
    ("task", "energy", "chosen"),
    [("ou", "kl", "linear"), ("gaussian", "kl", "linear"), ("gmm", "kl", "prelu"), ("toy2d", "kl", "prelu"),
     ("blr:data=banana", "kl", "prelu"), ("barenblatt", "entropy", "icnn"), ("aggregation", "interaction", "prelu"),
     ("aggregation_diffusion", "entropy", "icnn"), ("two_points", "js", "prelu")],
)  # fmt: skip
def test_auto_by_what_the_task_offers(task, energy, chosen):
    from gwfbench.baselines import vjko as module

    found = module._settled(vjko(""), problem_of(task), Streams((0,), dtype=torch.float64))
    assert (found.energy, found.map) == (energy, chosen)


@pytest.mark.parametrize(
    ("task", "words", "got"),
    [("ou", "energy=js", "energy=js"), ("ou", "energy=entropy", "energy=entropy"), ("ou", "head=plain", "head=plain"),
     ("gmm", "energy=js,head=squared", "head=squared"), ("ou", "scheme=forward", "scheme=forward"),
     ("aggregation", "scheme=forward_backward", "forward_backward"), ("gmm", "rows=5", "rows=5"), ("two_points", "energy=kl,rows=5", "energy=kl"),
     ("aggregation_diffusion", "scheme=forward", "scheme=forward"), ("toy2d", "energy=js,scheme=section_b", "energy=js")],
)  # fmt: skip
def test_choices_that_do_not_go_together_are_the_users_mistake(task, words, got):
    with pytest.raises(UserError) as found:
        next(laws(words, problem_of(task)))
    assert got in found.value.got


@pytest.mark.parametrize("words", ["step=0", "warmup=-1", "dropout=1", "box=0.5", "partners=0", "map=icnn,dropout=0.1"])
def test_bad_fields(words):
    with pytest.raises(UserError):
        vjko(words)


@pytest.mark.parametrize(
    ("task", "words"),
    [("aggregation_diffusion", "scheme=crank_nicolson"), ("aggregation_diffusion", "scheme=forward_backward"),
     ("gmm", "energy=kl_dv,dropout=0.1,halve_after=1"), ("ou", "scheme=section_b,weight_decay=0.1"),
     ("aggregation", "scheme=forward,forces=64"), ("toy2d", "energy=kl_samples"), ("gmm", "start=identity"),
     ("barenblatt", "scheme=crank_nicolson,start=identity"), ("barenblatt", "scheme=section_b,box=1.5,head=plain")],
)  # fmt: skip
def test_it_goes_on_from_its_state_in_every_scheme(task, words):
    words, problem = f"batch=64,pool=256,width=4,iterations=2,step=0.1,steps=3,{words}", problem_of(task, (3, 7))
    x, rest = problem[Initial].draw(9, Streams((3, 7), dtype=torch.float64)), []
    run, ends = laws(words, problem, (3, 7)), []
    for law in itertools.islice(run, 3):
        with torch.no_grad():
            x = law.push(x, Streams((3, 7)))
        ends.append((x, law.state()))
    again = vjko(words).resume(problem, Budget(), Streams((3, 7), dtype=torch.float64).fork("method"), ends[0][1])
    x, rest = ends[0][0], ends[1:]
    for law, (wanted, _) in zip(itertools.islice(again, 2), rest, strict=True):
        with torch.no_grad():
            x = law.push(x, Streams((3, 7)))
        assert torch.equal(x, wanted)


def test_proposals():
    x = 3 + Streams((0, 1), dtype=torch.float64).normal(4000, 2) * torch.tensor([0.5, 2.0], dtype=torch.float64)
    mu, box = Gaussian.fitted(x), Box.around(x, 1.5)
    white = mu.white(x)
    torch.testing.assert_close(white.mT @ white / 4000, torch.eye(2, dtype=torch.float64).expand(2, 2, 2))
    torch.testing.assert_close(box.white(x).abs().amax((1, 2)), torch.full((2,), 1 / 1.5, dtype=torch.float64))
    z = box.draw(50_000, Streams((0, 1), dtype=torch.float64))
    assert float(box.white(z).abs().max()) <= 1
    sides = (12 * z.var(1)).sqrt()  # of a uniform law
    torch.testing.assert_close(box.log_volume.exp(), sides.prod(1), rtol=0.02, atol=0)
    point = Gaussian.fitted(torch.zeros(1, 10, 2, dtype=torch.float64))
    torch.testing.assert_close(point.root[0], torch.eye(2, dtype=torch.float64))


def test_the_papers_settings_can_be_typed():
    with resources.files("gwfbench").joinpath("papers/fan2022.toml").open("rb") as file:
        runs = tomllib.load(file)["run"]
    assert len(runs) >= 20
    for run in runs:
        assert registry.parse("task", run["task"])
        assert registry.parse("method", run["method"])
        assert run["source"]
        assert set(run) <= {"task", "method", "source", "note", "quick"}
        full = registry.parse("method", run["method"])
        trained = full.scheme != "forward"
        assert not trained or (full.decay == "cosine") == ("quick" in run)  # the paper's rates do not decay
        assert not trained or "quick" in run or full.start == "previous"  # Algorithm 1


def student(d, rng, n=16384):
    """Points of a Student law that is neither centred nor round, with its mean and scatter."""
    mean = torch.arange(1.0, d + 1, dtype=torch.float64)
    root = torch.tril(torch.ones(d, d, dtype=torch.float64)) * torch.arange(1.0, d + 1, dtype=torch.float64)[:, None]
    law = Student(mean.expand(2, 1, d), root.expand(2, d, d), torch.cholesky_inverse(root).expand(2, d, d))
    return law, law.draw(n, rng)


def test_a_student_law_has_scipys_density_and_draws_of_its_own():
    law, x = student(3, Streams((0, 1), dtype=torch.float64))
    scatter = (law.root @ law.root.mT)[0].numpy()
    expected = stats.multivariate_t(law.mean[0, 0].numpy(), scatter, DEGREES).logpdf(x[0].numpy())
    got = (law.log_prob(x) + law.log_mass())[0]
    np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=1e-10)
    away = law.white(x).square().sum(-1)[0] / 3  # F of d and nu degrees
    assert stats.kstest(away.numpy(), stats.f(3, DEGREES).cdf).pvalue > 1e-6


def test_the_likeliest_student_law_is_found():
    law, x = student(3, Streams((0, 1), dtype=torch.float64))
    found = Student.fitted(x)
    n = x.shape[1]
    scatter, expected = found.root @ found.root.mT, law.root @ law.root.mT
    scale = expected.diagonal(dim1=1, dim2=2).sqrt()
    assert ((found.mean - law.mean)[:, 0].abs() / scale).max() < 5 * (2 / n) ** 0.5  # (nu + d + 2) / (nu + d) = 4/3 < 2
    assert ((scatter - expected).abs() / (scale[:, :, None] * scale[:, None])).max() < 5 * (4 / n) ** 0.5
    up = Student(found.mean, 1.02 * found.root, found.precision / 1.02**2)
    aside = Student(found.mean + 0.02 * found.root[:, :, 0][:, None], found.root, found.precision)
    best = (found.log_prob(x) + found.log_mass()).mean(1)
    for other in (up, aside):
        assert ((other.log_prob(x) + other.log_mass()).mean(1) < best).all()


@pytest.mark.parametrize("law", [Gaussian, Student])
def test_a_law_that_follows_one_cloud_ends_at_its_fit(law):
    _, x = student(3, Streams((0, 1), dtype=torch.float64), 4096)
    first = law.fitted(5 * x + 3)
    before = first.root.clone()
    following = Following(first, 0.2)
    for _ in range(300):
        following.take(x)
    fit = law.fitted(x)
    for name in ("mean", "root", "precision"):
        torch.testing.assert_close(getattr(following.law, name), getattr(fit, name), rtol=1e-6, atol=1e-6)
    assert torch.equal(first.root, before)


def test_a_student_fit_is_not_moved_by_a_few_far_points():
    _, x = student(2, Streams((0, 1), dtype=torch.float64))
    found = Student.fitted(x)
    x[:, ::500] = 1e6
    torch.testing.assert_close(Student.fitted(x).root, found.root, rtol=0.05, atol=0)
    assert (Gaussian.fitted(x).root[:, 0, 0] > 1e4).all()


def test_a_student_fit_of_a_single_point_and_of_a_lost_seed():
    x = torch.zeros(2, 20, 2, dtype=torch.float64)
    x[1] = torch.nan
    found = Student.fitted(x)
    assert found.root[0].isfinite().all()


def test_the_bound_is_tight_at_the_density_ratio_to_a_student_law():
    """KL(P || Q) of Gaussians by h = dP/dmu, mu a Student law; below it for another h."""
    rng = Streams((0, 1), dtype=torch.float64)
    y = 0.5 * rng.normal(400_000, 1) + 1
    mu = Student.fitted(y)
    z = mu.draw(400_000, rng)

    def log_p(x):
        return -0.5 * ((x - 1) / 0.5).square().sum(-1) - math.log(0.5 * math.sqrt(2 * math.pi))

    def log_q(x):
        return -0.5 * x.square().sum(-1) - 0.5 * math.log(2 * math.pi)

    def bound(shift):
        h = lambda x: (log_p(x + shift) - mu.log_prob(x) - mu.log_mass()).exp()  # noqa: E731
        outside = (mu.log_prob(y) + mu.log_mass() - log_q(y)).mean(1)
        return variational.KL.bound(h(y), h(z)) + outside

    exact = 0.5 * (0.25 + 1 - 1 - math.log(0.25))
    torch.testing.assert_close(bound(0.0), torch.full((2,), exact, dtype=torch.float64), rtol=0, atol=0.01)
    assert (bound(0.2) < exact - 0.03).all()


@pytest.mark.slow
def test_with_a_student_proposal_long_tails_do_not_run_away():
    """P_0 with tails as blr's, a narrow target: the Gaussian proposal ends at infinity or far out, this one near."""
    task = registry.parse("task", "blr:data=banana").build(Streams((0,)).fork("task")).problem
    fields = "step=0.1,steps=6,iterations=100,lr=0.002,critic_lr=0.004,pool=16384,batch=256,width=32"
    method = registry.parse("method", f"vjko:proposal=student,{fields}")
    x = task[Initial].draw(4096, Streams((0,)).fork("x"))
    before = x[..., :-1].norm(dim=-1).quantile(0.99, 1)
    for law in method.fit(task, Budget(), Streams((0,)).fork("method")):
        x = law.push(x, Streams((0,))).detach()
    assert x.isfinite().all()
    assert (x[..., :-1].norm(dim=-1).quantile(0.99, 1) < before / 2).all()


def test_a_proposal_that_an_energy_does_not_draw_from_is_refused():
    problem = registry.parse("task", "barenblatt").build(Streams((0,)).fork("task")).problem
    with pytest.raises(UserError, match="proposal=student,energy=entropy"):
        next(registry.parse("method", "vjko:proposal=student").fit(problem, Budget(), Streams((0,))))


# ------------------------------------------------------------------------------------------------- T and its networks


def moved(words, task="gmm", steps=2):
    """How far each JKO step's map takes points, at a learning rate that changes nothing."""
    problem = problem_of(task)
    x = problem[Initial].draw(50, Streams((0,), dtype=torch.float64))
    tiny = "batch=64,pool=256,width=8,iterations=2,step=0.001,lr=1e-13,late_lr=1"
    found = []
    for law in itertools.islice(laws(f"{tiny},{words}", problem), steps):
        with torch.no_grad():
            found.append(float((law.push(x, Streams((0,))) - x).abs().max()))
    return found


@pytest.mark.parametrize("kind", ["linear", "prelu", "prelu,prelu_output=true", "icnn"])
def test_t_starts_at_the_identity_or_where_it_was(kind):
    size = 0.1 if kind == "icnn" else 1e-9  # a convex network is near the identity alone
    assert max(moved(f"map={kind},start=identity")) < size
    if kind != "icnn":
        assert min(moved(f"map={kind},start=previous")) > 0.01


@pytest.mark.parametrize("kind", ["linear", "prelu", "icnn"])
def test_a_trained_network_is_set_back(kind):
    rng = Streams((0, 1), dtype=torch.float64)
    net, x = network(kind, 3, 8, 2, rng.fork("net"), 0.1, "all"), rng.fork("x").normal(40, 3)
    start = net(x).detach()
    with torch.no_grad():
        net.parameters.flat += 0.3 * rng.fork("noise").normal(net.parameters.flat.numel() // 2).flatten()
        assert float((net(x) - x).abs().max()) > 0.3
        net.to_identity()
        wanted, size = (start, 0.2) if kind == "icnn" else (x, 1e-12)
        assert float((net(x) - wanted).abs().max()) < size


def test_the_residual_can_end_in_a_prelu():
    rng = Streams((0, 1), dtype=torch.float64)
    net, x = ResidualMLP(3, 8, 2, rng.fork("net"), "all"), rng.fork("x").normal(40, 3)
    with torch.no_grad():
        net.parameters.leaves[-1].fill_(1.0)
        linear = net(x) - x
        net.parameters.leaves[-1].fill_(0.25)
    torch.testing.assert_close(net(x) - x, torch.where(linear < 0, 0.25 * linear, linear))
    assert (linear < 0).any()
    assert (linear > 0).any()


def test_dropout_spares_the_layers_before_its_first():
    """With it in the last hidden layer alone T(x) is linear in what is dropped, and its mean is T without dropout."""
    rng = Streams((0,), dtype=torch.float64)
    net, x = ResidualMLP(2, 6, 2, rng.fork("net")), rng.fork("x").normal(1, 2)
    many = x.expand(1, 40_000, 2)
    for first, biased in ((1, True), (2, False)):
        with torch.no_grad():
            y = net.dropped(many, 0.5, rng.fork("noise"), first)
            z = (y.mean(1) - net(x)[:, 0]) / (y.std(1) / 200)
        assert bool((z.abs() > 5).any()) is biased
    assert torch.equal(net.dropped(many, 0.5, rng.fork("noise"), 3), net(many))


@pytest.mark.parametrize("dropout", ["", ",dropout=0.2"])
def test_raw_networks_see_the_points_and_others_units_of_mu(dropout):
    """On a pool of mean 0 and covariance I both are one; on the same pool, five times as wide, they part."""
    from gwfbench.baselines import vjko as module

    streams, problem = Streams((0,), dtype=torch.float64), problem_of("ou")
    x = streams.fork("x").normal(256, 2)
    x = (x - x.mean(1, keepdim=True)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x[0].T, correction=0))).mT
    for size, same in ((1.0, True), (5.0, False)):
        images = []
        for raw in ("false", "true"):
            words = f"raw={raw},map=prelu,iterations=4,batch=64,width=8,lr=0.01{dropout}"
            settled = module._settled(vjko(words), problem, streams)
            transport = module._Backward(settled, problem, streams, {"k": 0}).solve(size * x, 1, 0.1)
            assert (transport.frame is None) == (raw == "true")
            images.append(transport(size * x).detach())
        assert torch.allclose(*images, rtol=0, atol=1e-8) == same


def test_the_strong_convexity_is_the_fields():
    """With w and R at 0 grad psi is c x + a: log det = d log c."""
    from gwfbench.baselines import vjko as module

    streams, problem = Streams((0,), dtype=torch.float64), problem_of("barenblatt")
    for strong in (1e-6, 0.9):
        settled = module._settled(vjko(f"strong={strong}"), problem, streams)
        net = module._Backward(settled, problem, streams, {"k": 0})._net
        with torch.no_grad():
            net.parameters.leaves[-3].fill_(-100.0)
            net.parameters.leaves[-2].zero_()
        found = net.log_det(problem[Initial].draw(20, streams))
        torch.testing.assert_close(found, torch.full_like(found, 3 * math.log(strong)))


@pytest.mark.parametrize(
    ("task", "words", "got"),
    [("ou", "prelu_output=true,map=linear", "prelu_output=true"), ("ou", "dropout_from=2", "dropout_from=2"),
     ("aggregation_diffusion", "head=plain", "head=plain"), ("ou", "proposal=matched,batch=2", "batch=2"),
     ("aggregation", "batch=1", "batch=1"), ("aggregation", "rows=16,energy=kl", "energy=kl"),
     ("toy2d", "follow=0.1,energy=js", "energy=js"), ("ou", "follow=0.1,scheme=section_b", "scheme=section_b"),
     ("barenblatt", "rows=16,energy=kl", "energy=kl"), ("barenblatt", "box=1.2,volume=2", "volume=2.0"),
     ("ou", "head=plain,energy=entropy", "energy=entropy"), ("ou", "raw=true,radial=true", "raw=true,radial=true"),
     ("barenblatt", "raw=true", "raw=true,radial=true")],
)  # fmt: skip
def test_fields_that_do_not_go_together(task, words, got):
    with pytest.raises(UserError) as found:
        next(laws(words, problem_of(task)))
    assert got in found.value.got


@pytest.mark.parametrize("words", ["dropout=0.1", "prelu_output=true"])
def test_fields_of_a_prelu_map_choose_it(words):
    from gwfbench.baselines import vjko as module

    for task in ("barenblatt", "ou"):
        found = module._settled(vjko(words), problem_of(task), Streams((0,), dtype=torch.float64))
        assert found.map == "prelu"


# ------------------------------------------------------------------------------------------------------------ horizon


@pytest.mark.parametrize("name", ["vjko", "jko_icnn"])
@pytest.mark.parametrize("steps", [2, 7, 40])
def test_where_the_limit_counts_both_stop_at_time_5(name, steps):
    tiny = f"{name}:steps={steps},iterations=1,batch=64,pool=64,width=2,depth=1"
    method = registry.parse("method", tiny)
    *_, law = method.fit(problem_of("gmm"), Budget(), Streams((0,), dtype=torch.float64).fork("method"))
    assert law.t == pytest.approx(5.0)


def test_at_time_5_the_exact_flow_has_arrived_on_blr():
    """The slowest mode of a Gaussian posterior falls as exp(-t / largest variance): below 1 % on all sets at t = 5."""
    from gwfbench.tasks.blr import reference

    left = {}
    for data in ("banana", "german", "diabetis", "image", "splice", "twonorm", "ringnorm", "waveform"):
        variance = float(np.linalg.eigvalsh(reference(data)["covariance"]).max())
        left[data] = math.exp(-LIMIT / variance), math.exp(-1.2 / variance)
    assert max(late for late, _ in left.values()) < 0.01
    assert left["image"][1] > 0.1  # where vjko stopped before
