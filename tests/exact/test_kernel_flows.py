"""MMD, KALE and DrMMD flows: autograd of their divergences, direct solves, limits in lambda, short flows."""

import math

import ot
import pytest
import torch

from gwfbench.budget import Budget
from gwfbench.errors import UserError
from gwfbench.info import Initial, TargetSamples
from gwfbench.plugins import registry
from gwfbench.protocol import Problem
from gwfbench.rng import Streams
from gwfbench.velocity.kernels import KERNELS, gaussian, gram, riesz, rms_distance
from gwfbench.velocity.witness import _line_search, drmmd, drmmd_witness, kale_witness, mmd_witness, solve

TIGHT = 1e-26
WITNESSES = {
    "mmd": lambda k, x, y: mmd_witness(k, x, y),
    "kale": lambda k, x, y: kale_witness(k, x, y, 0.01, tolerance=TIGHT),
    "drmmd": lambda k, x, y: drmmd_witness(k, x, y, 0.01),
}
every = pytest.mark.parametrize("witness", WITNESSES.values(), ids=WITNESSES)


def clouds(streams, n=30, m=20, d=2):
    """Off the origin, unlike in shape, and of three seeds."""
    x = streams.fork("x").normal(n, d) * 0.8 + 0.6
    y = streams.fork("y").normal(m, d)
    return x, y + 0.3 * y.square()


def formula(x, y, h=0.9):
    return (-(x[:, :, None] - y[:, None]).square().sum(-1) / (2 * h * h)).exp()


def down(value, x):
    """n times minus the gradient of a value (S,), summed over seeds."""
    return -x.shape[1] * torch.autograd.grad(value.sum(), x)[0]


def half_mmd(x, y, k=formula):
    return k(x, x).mean((1, 2)) / 2 + k(y, y).mean((1, 2)) / 2 - k(x, y).mean((1, 2))


def test_mmd_velocity_is_down_half_the_squared_mmd(streams):
    x, y = clouds(streams)
    expected = down(half_mmd(x.requires_grad_(), y), x)
    torch.testing.assert_close(
        -mmd_witness(gaussian(0.9), x.detach(), y).gradient(x.detach()), expected, rtol=1e-9, atol=1e-12
    )


def dual(alpha, x, y, lam):
    """KALE's dual objective in alpha (S, m), up to a constant, as Glaser et al. write it."""
    m = alpha.shape[1]
    norm = (
        torch.einsum("si,sij,sj->s", alpha, formula(y, y), alpha)
        - 2 * torch.einsum("si,sij->s", alpha, formula(y, x)) / x.shape[1]
    )
    return (alpha * (m * alpha).log() - alpha).sum(1) + (norm + formula(x, x).mean((1, 2))) / (2 * lam)


@pytest.mark.parametrize("lam", [1e-3, 0.1, 10.0])
def test_kale_dual_is_solved_and_its_velocity_is_down_kale(lam, streams):
    x, y = clouds(streams)
    witness = kale_witness(gaussian(0.9), x, y, lam, tolerance=TIGHT)
    alpha = (-lam * witness.weights[:, 30:]).requires_grad_()
    torch.testing.assert_close(alpha.detach(), witness(y).exp() / 20, rtol=1e-8, atol=1e-12)
    value = dual(alpha, x.requires_grad_(), y, lam)
    slope = torch.autograd.grad(value.sum(), alpha, retain_graph=True)[0]
    assert slope.abs().max() < 1e-8
    # KALE = (1 + lambda) (1 + min of the dual); by the envelope theorem alpha may be held
    expected = (1 + lam) * down(value, x)
    torch.testing.assert_close(-(1 + lam) * witness.gradient(x.detach()), expected, rtol=1e-7, atol=1e-9)


def test_kale_dual_from_another_start_and_at_the_default_tolerance(streams):
    x, y = clouds(streams)
    k = gaussian(0.9)
    exact = kale_witness(k, x, y, 1e-3, tolerance=TIGHT)(y)
    far = mmd_witness(k, x + 1, y)
    torch.testing.assert_close(kale_witness(k, x, y, 1e-3, far, TIGHT)(y), exact, rtol=1e-7, atol=1e-8)
    # J - J* <= 1e-6 up to higher orders, and J is strongly convex in the metric of 1 / alpha
    loose = kale_witness(k, x, y, 1e-3)
    off = (loose.weights - kale_witness(k, x, y, 1e-3, tolerance=TIGHT).weights)[:, 30:] * 1e-3
    assert (off.square() / (exact.exp() / 20)).sum(1).max() < 1e-5


def test_line_search_takes_the_first_step_of_armijo(streams):
    """From Newton's direction at points where the whole step goes too far, by the objective itself."""
    x, y = clouds(streams)
    lam, matrix = 100.0, formula(y, y)
    alpha = (1 + 0.1 * streams.fork("alpha").normal(20)).exp() / 20  # a step to log(20 alpha) = 0 goes to alpha = 0
    objective = lambda a: dual(a, x, y, lam)[:, None]  # noqa: E731
    slope = (20 * alpha).log() + ((matrix @ alpha[..., None])[..., 0] - formula(y, x).mean(2)) / lam
    direction = -torch.linalg.solve(torch.diag_embed(1 / alpha) + matrix / lam, slope)
    decrement = -(slope * direction).sum(1, keepdim=True)
    curvature = torch.einsum("si,sij,sj->s", direction, matrix, direction)[:, None] / lam
    t = _line_search(alpha, direction, decrement, curvature)
    whole = (-0.99 / (direction / alpha).amin(1, keepdim=True)).clamp(0, 1)  # keeps alpha positive
    assert (alpha + t * direction > 0).all()
    assert (objective(alpha + t * direction) <= objective(alpha) - 0.4 * t * decrement).all()
    before = t / 0.8
    shorter = t < 0.99 * whole
    assert shorter.any()
    assert (objective(alpha + before * direction) > objective(alpha) - 0.4 * before * decrement)[shorter].all()


def drmmd_value(x, y, lam):
    m = y.shape[1]
    f = lambda z: formula(z, x).mean(2) - formula(z, y).mean(2)  # noqa: E731
    solved = torch.linalg.solve(formula(y, y) + m * lam * torch.eye(m, dtype=y.dtype), f(y))
    return (1 + lam) / lam * (2 * half_mmd(x, y) - (f(y) * solved).sum(1))


@pytest.mark.parametrize("lam", [1e-3, 0.1, 10.0])
def test_drmmd_against_a_direct_solve(lam, streams):
    x, y = clouds(streams)
    witness = drmmd_witness(gaussian(0.9), x, y, lam)
    solved = torch.linalg.solve(
        formula(y, y) + 20 * lam * torch.eye(20, dtype=y.dtype), formula(y, x).mean(2) - formula(y, y).mean(2)
    )
    for z in (x, y):
        closed = formula(z, x).mean(2) - formula(z, y).mean(2) - torch.einsum("sij,sj->si", formula(z, y), solved)
        torch.testing.assert_close(witness(z), 2 * (1 + lam) / lam * closed, rtol=1e-5, atol=1e-6)
    value = drmmd_value(x.requires_grad_(), y, lam)
    torch.testing.assert_close(drmmd(witness, x.detach(), y), value.detach(), rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(-witness.gradient(x.detach()), down(value, x), rtol=1e-5, atol=1e-6)


def test_a_lambda_of_its_own_for_each_seed(streams):
    x, y = clouds(streams)
    lams = torch.tensor([[0.01], [0.1], [1.0]], dtype=torch.float64)
    together = drmmd_witness(gaussian(0.9), x, y, lams)(x)
    for i, lam in enumerate((0.01, 0.1, 1.0)):
        alone = drmmd_witness(gaussian(0.9), x[i : i + 1], y[i : i + 1], lam)(x[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["kale", "drmmd"])
def test_large_lambda_is_the_mmd_flow_to_first_order(name, streams):
    x, y = clouds(streams)
    k = gaussian(0.9)
    mmd = mmd_witness(k, x, y).gradient(x)

    def off(lam):
        if name == "kale":
            return ((1 + lam) * kale_witness(k, x, y, lam, tolerance=1e-30).gradient(x) - mmd).abs().max()
        return (drmmd_witness(k, x, y, lam).gradient(x) / 2 - mmd).abs().max()

    assert off(1e4) < 1e-3
    assert float(off(1e3) / off(1e4)) == pytest.approx(10, rel=0.05)


def test_small_lambda_gives_kl_and_chi2_between_laws_on_the_same_points():
    """A Gaussian kernel takes any values at finitely many points, at a price of lambda: the error is of that order."""
    support = torch.tensor([[0.0, 0.0], [1.5, 0.2], [0.1, 1.7], [-1.6, 0.4], [0.3, -1.4]], dtype=torch.float64)
    q, p = [1, 4, 2, 2, 1], [3, 1, 3, 1, 4]
    x, y = (support.repeat_interleave(torch.tensor(counts), 0)[None] for counts in (q, p))
    masses = torch.tensor(q).double() / 10, torch.tensor(p).double() / 12
    ratio = masses[0] / masses[1]
    kl, chi2 = float(masses[0] @ ratio.log()), float(masses[1] @ (ratio - 1).square())

    def kale(lam):
        witness = kale_witness(gaussian(0.7), x, y, lam, tolerance=TIGHT)
        value = float(witness(x).mean() - witness(y).exp().mean()) + 1
        return (witness(support[None]) - ratio.log()).abs().max(), abs(value - kl)

    def chi(lam):
        witness = drmmd_witness(gaussian(0.7), x, y, lam)
        return (witness(support[None]) - 2 * (ratio - 1)).abs().max(), abs(float(drmmd(witness, x, y)) - chi2)

    # KALE less its penalty has no slope at its maximum, so that its error is of second order
    for errors, orders in ((kale, (10, 100)), (chi, (10, 10))):
        for coarse, fine, order in zip(errors(1e-4), errors(1e-5), orders, strict=True):
            assert fine < 1e-3
            assert float(coarse / fine) == pytest.approx(order, rel=0.1)


@every
def test_equal_clouds_do_not_move(witness, streams):
    x, _ = clouds(streams)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    assert witness(gaussian(0.9), x, x[:, order]).gradient(x).abs().max() < 1e-10


@every
def test_velocities_move_along_with_the_points(witness, streams):
    x, y = clouds(streams)
    here = witness(gaussian(0.9), x, y).gradient(x)
    there = witness(gaussian(0.9), x + 30, y + 30).gradient(x + 30)
    torch.testing.assert_close(there, here, rtol=1e-6, atol=1e-7)


@every
def test_seeds_do_not_know_each_other(witness, streams):
    """Though some need more iterations than others."""
    x, y = clouds(streams)
    y[1] = y[1] * 5 + 3
    together = witness(gaussian(0.9), x, y).gradient(x)
    for i in range(3):
        alone = witness(gaussian(0.9), x[i : i + 1], y[i : i + 1]).gradient(x[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-9, atol=1e-11)


def test_conjugate_gradients_against_a_direct_solve_and_where_they_fail(streams):
    x, _ = clouds(streams)
    matrix, right = gram(gaussian(0.9), x, x) * 50, streams.fork("r").normal(30)
    exact = torch.linalg.solve(torch.eye(30, dtype=x.dtype) + matrix, right)
    ours = solve(lambda u: (matrix @ u[..., None])[..., 0], right, 1e-9)
    assert (ours - exact).norm(dim=1).max() <= 1e-9 * exact.norm(dim=1).max()
    right[2] = 0  # done before the others begin
    ours = solve(lambda u: (matrix @ u[..., None])[..., 0], right, 1e-9)
    assert (ours[2] == 0).all()
    matrix[1, 0, 0] = math.nan
    broken = solve(lambda u: (matrix @ u[..., None])[..., 0], right, 1e-9)
    assert broken[1].isnan().all()
    torch.testing.assert_close(broken[[0, 2]], ours[[0, 2]], rtol=1e-12, atol=0)


def w2(x, y):
    return math.sqrt(ot.emd2([], [], torch.cdist(x, y).square().numpy()))


def rings(count):
    """Glaser et al.'s three rings, without noise: (3 count, 2)."""
    angle = torch.arange(count, dtype=torch.float64) * 2 * math.pi / count
    circle = 0.3 * torch.stack([angle.cos(), angle.sin()], 1)
    return torch.cat([circle - torch.tensor([0.0, 0.75 * k], dtype=torch.float64) for k in range(3)])


def start(rng, count):
    """Theirs: a blob of deviation 0.01 at the lowest point of the first ring."""
    return 0.01 * rng.normal(count, 2) + torch.tensor([0.0, -0.3], dtype=torch.float64)


def test_three_rings_of_kale_spread_from_their_start():
    """Their kernel and start, a quarter of their points; a larger lambda, which bears steps a hundred times theirs."""
    y, x = rings(20)[None], start(Streams((0,), dtype=torch.float64), 60)
    before, witness, lam = w2(x[0], y[0]), None, 0.1
    for _ in range(80):
        witness = kale_witness(gaussian(math.sqrt(0.05)), x, y, lam, witness)
        x = x - 0.01 * (1 + lam) * witness.gradient(x)
    assert w2(x[0], y[0]) < 0.5 * before


def test_riesz_particles_spread_from_a_dirac():
    """From 1e-6 about one point: the energy's pull does not vanish there, the Gaussian's does with the distance."""
    y, left = rings(20)[None], {}
    for name, kernel in (("riesz", riesz(1.0)), ("gaussian", gaussian(1.0))):
        x = 1e-6 * Streams((0,), dtype=torch.float64).normal(60, 2)
        for _ in range(100):
            x = x - 0.05 * mmd_witness(kernel, x, y).gradient(x)
        left[name] = w2(x[0], y[0])
    assert left["riesz"] < 0.12
    assert left["gaussian"] > 0.4


PROBLEM = Problem(
    (2,),
    (math.inf,),
    (Initial(lambda n, rng: 0.5 * rng.normal(n, 2)), TargetSamples(lambda n, rng: 1.5 + rng.normal(n, 2))),
)


def last(spec, steps):
    rng = Streams((0, 1), dtype=torch.float64)
    method = registry.parse("method", f"{spec},points=48,batch=32,steps={steps}")
    *_, law = method.fit(PROBLEM, Budget(), rng)
    return law.draw(48, rng)


def first_clouds():
    """The particles and target points of a method's first step."""
    rng = Streams((0, 1), dtype=torch.float64)
    return 0.5 * rng.fork("particles").normal(48, 2), 1.5 + rng.fork("steps").fork("1").fork("target").normal(32, 2)


@pytest.mark.parametrize("name", KERNELS)
def test_one_step_of_mmd_flow(name):
    x, y = first_clouds()
    for field, h in (("bandwidth=0.7", 0.7), ("width=0.4", 0.4 * rms_distance(y))):
        expected = x - 0.2 * h**2 * mmd_witness(KERNELS[name](h), x, y).gradient(x)
        torch.testing.assert_close(last(f"mmd_flow:kernel={name},step=0.2,{field}", 1), expected, rtol=1e-12, atol=0)


def test_one_step_of_kale_flow():
    x, y = first_clouds()
    for field, sigma in (("sigma=0.7", torch.tensor(0.7)), ("width=0.4", 0.4 * rms_distance(y) ** 2)):
        v = -(1 + 0.1) * kale_witness(gaussian((sigma / 2).double().sqrt()), x, y, 0.1).gradient(x)
        expected = x + 0.2 * sigma * 0.1 / (1 + 0.1) * v
        torch.testing.assert_close(
            last(f"kale_flow:regularisation=0.1,step=0.2,wider=1,{field}", 1), expected, rtol=1e-6, atol=1e-9
        )


def test_one_step_of_drmmd():
    x, y = first_clouds()
    for field, h in (("bandwidth=0.7", 0.7), ("width=0.4", 0.4 * rms_distance(y))):
        v = -drmmd_witness(KERNELS["imq"](h), x, y, 0.1).gradient(x)
        expected = x + 0.2 * h**2 * 0.1 / (1 + 0.1) * v
        torch.testing.assert_close(
            last(f"drmmd:regularisation=0.1,step=0.2,wider=1,{field}", 1), expected, rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize("name", ["kale_flow", "drmmd"])
def test_the_bandwidth_falls_geometrically_and_then_stays(name):
    """With wider=4, falling=0.5 and four steps: 4, 2, 1 and 1 times the last bandwidth, 0.7."""
    field = "sigma=0.49" if name == "kale_flow" else "bandwidth=0.7"
    words = f"{name}:regularisation=0.1,step=0.2,{field}"
    rng, (x, _), witness = Streams((0, 1), dtype=torch.float64).fork("steps"), first_clouds(), None
    for j, wider in ((1, 4), (2, 2), (3, 1), (4, 1)):
        y, h = 1.5 + rng.fork(str(j)).fork("target").normal(32, 2), 0.7 * wider
        if name == "kale_flow":
            witness = kale_witness(gaussian(h / 2**0.5), x, y, 0.1, witness)
            x = x - 0.2 * h**2 * 0.1 * witness.gradient(x)
        else:
            x = x - 0.2 * h**2 * 0.1 / 1.1 * drmmd_witness(KERNELS["imq"](h), x, y, 0.1).gradient(x)
    torch.testing.assert_close(last(f"{words},wider=4,falling=0.5", 4), x, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "before"), [("kale_flow", "width=2,step=1.5"), ("drmmd", "width=0.4,step=5")])
def test_particles_that_start_out_of_range_come_to_the_rings(name, before):
    """Half of the points of a board, which has 0.11 and 0.24 where a constant bandwidth had 1.33 and 1.11."""
    left = {}
    for words in ("", f",wider=1,{before}"):
        streams = Streams((0,), dtype=torch.float32)
        instance = registry.parse("task", "toy2d:shape=three_rings").build(streams.fork("task"))
        method = registry.parse("method", f"{name}:points=512,batch=256,steps=150{words}")
        *_, law = method.fit(instance.problem, Budget(), streams.fork("method"))
        left[words] = w2(law.draw(512, streams)[0], instance.truth.draw(0, 512, streams)[0])
    assert left[""] < 0.5 < left[f",wider=1,{before}"]


def test_adaptive_lambda_falls_with_the_root_of_the_divergence():
    """Two steps, the second by hand."""
    rng = Streams((0, 1), dtype=torch.float64).fork("steps")
    x, y = first_clouds()
    k, lam, words = KERNELS["imq"](0.7), 0.1, "drmmd:regularisation=0.1,bandwidth=0.7,adaptive=true,wider=1,step=5"
    before = drmmd(drmmd_witness(k, x, y, lam), x, y)
    # D_0 is that of the first step, so that the second one's lambda is unchanged, and the third's is not
    for j in (2, 3):
        x = last(words, j - 1)
        y = 1.5 + rng.fork(str(j)).fork("target").normal(32, 2)
        witness = drmmd_witness(k, x, y, lam)
        v = -(0.7**2) * (lam / (1 + lam) * torch.ones(2, 1, dtype=y.dtype))[..., None] * witness.gradient(x)
        ours = last(words, j)
        torch.testing.assert_close(ours, x + 5 * v, rtol=1e-8, atol=1e-10)
        lam = 0.1 * (drmmd(witness, x, y) / before).sqrt()[:, None]
    assert (lam < 0.09).all()


@pytest.mark.parametrize("name", ["mmd_flow", "kale_flow"])
def test_noise_moves_where_the_field_is_read_and_is_halved(name):
    """Two steps, with the noise of the second halved."""
    length, still = ("bandwidth", "") if name == "mmd_flow" else ("sigma", ",wider=1,step=1.5")
    noise = Streams((0, 1), dtype=torch.float64).fork("steps")
    x, witness = first_clouds()[0], None
    for j, beta in ((1, 0.5), (2, 0.25)):
        y, u = 1.5 + noise.fork(f"{j}/target").normal(32, 2), noise.fork(f"{j}/velocity").normal(48, 2)
        if name == "mmd_flow":
            x = x - 2 * 0.7**2 * mmd_witness(riesz(0.7), x, y).gradient(x + beta * 0.7 * u)
        else:
            witness = kale_witness(gaussian(0.35**0.5), x, y, 0.01, witness)
            x = x - 1.5 * 0.7 * 0.01 * witness.gradient(x + beta * 0.7**0.5 * u)
        torch.testing.assert_close(last(f"{name}:{length}=0.7,noise=0.5,halving=1{still}", j), x, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec",
    ["mmd_flow:kernel=riesz", "mmd_flow:kernel=gaussian,width=1,step=1", "kale_flow", "drmmd"],
)
@pytest.mark.parametrize("carrier", ["particles", "generator"])
def test_methods_bring_the_law_nearer(spec, carrier):
    target, start = first_clouds()[1], first_clouds()[0]
    x = last(f"{spec}{',' if ':' in spec else ':'}carrier={carrier}", 80)
    for end, begin, y in zip(x, start, target, strict=True):
        assert w2(end, y) < 0.6 * w2(begin, y)


@pytest.mark.parametrize(
    "spec",
    [
        "mmd_flow:step=0",
        "mmd_flow:bandwidth=-1",
        "mmd_flow:noise=-1",
        "kale_flow:regularisation=0",
        "kale_flow:batch=0",
        "drmmd:width=inf",
        "drmmd:wider=0.5",
        "kale_flow:falling=0",
    ],
)
def test_mistakes_are_told(spec):
    with pytest.raises(UserError, match=spec):
        registry.parse("method", spec)
