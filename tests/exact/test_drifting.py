"""Drifting fields against slow transcriptions, closed forms and autograd; flows of KDE divergences; fixed points."""

import math

import numpy as np
import pytest
import torch

from gwfbench.budget import Budget
from gwfbench.errors import UserError
from gwfbench.info import Initial, TargetSamples
from gwfbench.plugins import registry
from gwfbench.protocol import Problem
from gwfbench.rng import Streams
from gwfbench.velocity import drift, pairs
from gwfbench.velocity.kde import kde_flow
from gwfbench.velocity.sphere import exponential, geodesic_shift, logarithm, tangent
from gwfbench.velocity.sphere import project as to_sphere

KERNELS = {
    "laplace": lambda r, h: (-r / h).exp(),
    "gaussian": lambda r, h: (-0.5 * (r / h).square()).exp(),
}
kernels = pytest.mark.parametrize("kernel", KERNELS)


SELF_PAIRS = 1e-6  # the distance of a point to itself is the root of a rounding error, 1e-8; laplace sees it


def clouds(n=9, m=7, d=2, seeds=(3, 5), scale=1.0):
    """Points of q, and of an asymmetric p."""
    rng = Streams(seeds, dtype=torch.float64)
    y = rng.fork("y").normal(m, d).exp() - 0.5
    return scale * rng.fork("x").normal(n, d), scale * y


def same(one, other, tolerance=1e-12):
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def gradient(f, x):
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(f(leaf).sum(), leaf)[0]


def log_kde(x, y, h, kernel="gaussian"):
    return KERNELS[kernel](torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist"), h).mean(-1).log()


@kernels
def test_equation_4_is_the_double_expectation(kernel):
    x, y = clouds()
    h = 0.7
    for s in range(2):
        for i in range(9):
            kp, kn = (KERNELS[kernel]((x[s, i] - z[s]).norm(dim=1), h) for z in (y, x))
            weights, gaps = kp[:, None] * kn, y[s][:, None] - x[s]
            v = (weights[..., None] * gaps).sum((0, 1)) / weights.sum()
            same(drift.equation4(x, y, h, kernel)[s, i], v, SELF_PAIRS)


def test_a_gaussian_equation_4_is_a_difference_of_scores():
    x, y = clouds()
    for h in (0.2, 1.3):
        v = h**2 * gradient(lambda leaf, h=h: log_kde(leaf, y, h) - log_kde(leaf, x, h), x)
        same(drift.equation4(x, y, h, "gaussian"), v)


@kernels
def test_anti_symmetry(kernel):
    x, y = clouds()
    at = x[:, :4]
    one, other = drift.equation4(at, y, 0.3, kernel, x), drift.equation4(at, x, 0.3, kernel, y)
    same(one, -other)
    assert one.abs().min() > 1e-3
    same(drift.equation4(x, x, 0.3, kernel), torch.zeros_like(x))


def slow_algorithm2(x, y, temperature):
    """Appendix A.1 in loops, one seed, (n, d) and (m, d)."""
    n, m = len(x), len(y)
    logit = np.zeros((n, m + n))
    for i in range(n):
        for j in range(m):
            logit[i, j] = -np.linalg.norm(x[i] - y[j]) / temperature
        for j in range(n):
            logit[i, m + j] = -(np.linalg.norm(x[i] - x[j]) + (1e6 if i == j else 0)) / temperature
    a = np.zeros_like(logit)
    for i in range(n):
        for j in range(m + n):
            with np.errstate(over="ignore"):
                row = np.exp(logit[i] - logit[i, j]).sum()
                column = np.exp(logit[:, j] - logit[i, j]).sum()
            a[i, j] = math.sqrt(1 / row / column)
    v = np.zeros_like(x)
    for i in range(n):
        plus, minus = a[i, :m].sum(), a[i, m:].sum()
        for j in range(m):
            v[i] += a[i, j] * minus * y[j]
        for j in range(n):
            v[i] -= a[i, m + j] * plus * x[j]
    return v, a


@pytest.mark.parametrize("block", [1, 40, 10**6])
def test_algorithm_2_in_loops_and_its_mass_product(block, monkeypatch):
    monkeypatch.setattr(pairs.squares, "__defaults__", (1.0, block))
    monkeypatch.setattr(pairs.log_kernel, "__defaults__", (block,))
    x, y = clouds()
    v = drift.algorithm2(x, y, 0.3, "laplace")
    for s in range(2):
        slow, a = slow_algorithm2(x[s].numpy(), y[s].numpy(), 0.3)
        same(v[s], torch.from_numpy(slow), 1e-9)
        # Equation 4's form, normalised shifts to both sides, with A for the kernel, times the product of the masses
        plus, minus = a[:, :7].sum(1, keepdims=True), a[:, 7:].sum(1, keepdims=True)
        shifts = a[:, :7] / plus @ y[s].numpy() - a[:, 7:] / minus @ x[s].numpy()
        same(v[s], torch.from_numpy(plus * minus * shifts), 1e-9)
        assert (plus * minus).min() < 0.1 < 0.4 < (plus * minus).max()


def test_algorithm_2_on_equal_batches_is_not_zero():
    x, _ = clouds()
    assert drift.algorithm2(x, x, 0.3, "laplace").abs().max() > 0.01
    same(drift.sinkhorn_proxy(x, x, 0.3), torch.zeros_like(x))


def test_algorithm_2_keeps_columns_that_only_an_outlier_sees():
    """An outlier 40 temperatures from all is pulled by the targets beside it, though exp(-40) is tiny, in float32 too."""
    x, y = clouds(scale=0.3)
    x[:, 0] = torch.tensor([400.0, 0.0])
    y[:, 0] = torch.tensor([440.0, 1.0])
    wide = drift.algorithm2(x, y, 1.0, "laplace")
    slow, _ = slow_algorithm2(x[0].numpy(), y[0].numpy(), 1.0)
    same(wide[0], torch.from_numpy(slow), 1e-9)
    narrow = drift.algorithm2(x.float(), y.float(), 1.0, "laplace")
    assert narrow.isfinite().all()
    torch.testing.assert_close(narrow.double(), wide, rtol=1e-3, atol=1e-3)


def test_the_proxy_has_separate_rows():
    x, y = clouds()
    h = 0.6
    d2 = [torch.cdist(x, z, compute_mode="donot_use_mm_for_euclid_dist").square() / (2 * h * h) for z in (y, x)]
    plus, minus = ((-part).softmax(-1).mul((-part).softmax(-2)).sqrt() for part in d2)
    v = minus.sum(-1, keepdim=True) * (plus @ y) - plus.sum(-1, keepdim=True) * (minus @ x)
    same(drift.sinkhorn_proxy(x, y, h), v)


def slow_official(x, y, temperatures):
    """drift_loss.py's field in units of the data, in loops where it matters, one seed."""
    n, d = x.shape
    targets = torch.cat([x, y])  # the code's order: generated, then positives
    distance = torch.stack([(a - targets).norm(dim=1) for a in x])
    scale = distance.mean()
    unit = max(float(scale) / math.sqrt(d), 1e-3)
    distance = distance / max(float(scale), 1e-3)
    for i in range(n):
        distance[i, i] += 100.0
    x, targets = x / unit, targets / unit
    total = torch.zeros_like(x)
    for r in temperatures:
        logits = -distance / r
        affinity = (logits.softmax(1) * logits.softmax(0)).clamp(min=1e-6).sqrt()
        weights = torch.cat(
            [
                -affinity[:, :n] * affinity[:, n:].sum(1, keepdim=True),
                affinity[:, n:] * affinity[:, :n].sum(1, keepdim=True),
            ],
            1,
        )
        force = weights @ targets - weights.sum(1, keepdim=True) * x
        total += force / force.square().mean().clamp(min=1e-8).sqrt()
    return unit * total


@pytest.mark.parametrize("scale", [1.0, 7.0, 1e-4])
def test_official_against_its_steps(scale):
    x, y = clouds(scale=scale)
    v = drift.official(x, y, (0.02, 0.05, 0.2))
    for s in range(2):
        torch.testing.assert_close(v[s], slow_official(x[s], y[s], (0.02, 0.05, 0.2)), rtol=1e-8, atol=1e-10 * scale)


def test_unnormalised_laplace_is_the_mmd_flow_of_a_matern_kernel():
    x, y = clouds()
    sigma = 0.4
    length = math.sqrt(3) * sigma

    def witness(leaf):  # grad of sigma^2 Matern-3/2 sums; self pairs moved off the kink, where the gradient is 0
        def k(z):
            t = math.sqrt(3) * (torch.cdist(leaf, z, compute_mode="donot_use_mm_for_euclid_dist") + 1e-300) / length
            return sigma**2 * ((1 + t) * (-t).exp()).mean(-1)

        return k(y) - k(x)

    same(drift.mmd(x, y, sigma, "laplace"), gradient(witness, x))
    same(
        drift.mmd(x, y, 0.8, "gaussian"),
        0.64 * gradient(lambda z: log_kde(z, y, 0.8).exp() - log_kde(z, x, 0.8).exp(), x),
    )


class Sobol:
    """Noise whose k-th fork is the k-th of 4096 equidistributed normal points, for all points alike."""

    def __init__(self, k=0):
        uniform = torch.quasirandom.SobolEngine(2).draw(4097)[1:].double()
        self.nodes, self.k = torch.special.ndtri(uniform), k

    def fork(self, name):
        other = Sobol.__new__(Sobol)
        other.nodes, other.k = self.nodes, int(name)
        return other

    def normal(self, n, d):
        return self.nodes[self.k].expand(1, n, d)


@pytest.mark.slow
def test_parzen_kl_is_the_flow_of_the_smoothed_kl():
    """-h^2 grad of k * log(k*q / k*p), by Gauss-Hermite quadrature and autograd."""
    x, y = clouds(6, 5, seeds=(3,))
    h = 0.5
    z, w = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(24))
    nodes = h * torch.cartesian_prod(z, z)
    weights = torch.outer(w, w).flatten() / (2 * math.pi)

    def variation(leaf):  # (1, n, 2) -> (1, n): E log(k*q / k*p)(leaf + h Z)
        there = (leaf[:, :, None] + nodes).flatten(1, 2)
        return (log_kde(there, x, h) - log_kde(there, y, h)).unflatten(1, (6, -1)) @ weights

    exact = -(h**2) * gradient(variation, x)
    v = drift.parzen_kl(x, y, h, Sobol(), draws=4096)
    assert (v - exact).abs().max() < 5e-3
    assert (drift.equation4(x, y, h, "gaussian") - exact).abs().max() > 0.1  # one averaging less is another field


F = {
    "kl": lambda r: r * r.log(),
    "reverse_kl": lambda r: -r.log(),
    "chi2": lambda r: (r - 1).square(),
}


@pytest.mark.parametrize("name", F)
def test_flows_of_divergences_are_minus_the_gradient_of_f_prime(name):
    x, y = clouds()
    h = 0.6

    def f_prime(leaf):
        r = (log_kde(leaf, x, h) - log_kde(leaf, y, h)).exp()
        return torch.autograd.grad(F[name](r).sum(), r, create_graph=True)[0]

    same(kde_flow(x, y, h, {name: 1.0}), -(h**2) * gradient(f_prime, x), 1e-10)


def test_flows_add_up_and_ratios_are_cut():
    x, y = clouds()
    parts = [kde_flow(x, y, 0.6, {name: 1.0}) for name in F] + [kde_flow(x, y, 0.6, {}, mmd=1.0)]
    mixed = kde_flow(x, y, 0.6, {"kl": 0.5, "reverse_kl": 2.0, "chi2": 3.0}, mmd=4.0)
    same(mixed, 0.5 * parts[0] + 2 * parts[1] + 3 * parts[2] + 4 * parts[3])
    same(parts[0], drift.equation4(x, y, 0.6, "gaussian"))
    same(parts[3], drift.mmd(x, y, 0.6, "gaussian"))
    same(kde_flow(x, y, 0.6, {"chi2": 1.0}, cut=1.0), 2 * parts[0])
    cut, r = kde_flow(x, y, 0.3, {"reverse_kl": 1.0}, cut=2.0), (log_kde(x, x, 0.3) - log_kde(x, y, 0.3)).exp()
    same(cut, (1 / r.clamp(0.5, 2))[..., None] * kde_flow(x, y, 0.3, {"kl": 1.0}))
    assert (r > 2).any()


def on_sphere(n=9, m=7, d=3):
    return tuple(to_sphere(cloud) for cloud in clouds(n, m, d))


@pytest.mark.parametrize("d", [2, 3, 5])
def test_logarithm_and_exponential(d):
    x, y = on_sphere(7, 7, d)
    v = logarithm(x, y)
    same((v * x).sum(-1), torch.zeros_like(v[..., 0]))
    same(v.norm(dim=-1), (x * y).sum(-1).arccos(), 1e-7)
    same(exponential(x, v), y)
    same(logarithm(x, exponential(x, 0.3 * v)), 0.3 * v)
    same(exponential(x, torch.zeros_like(x)), x)
    assert logarithm(x, -x).norm(dim=-1).max() < 1e-9


def test_geodesic_shifts_are_tangent_gradients():
    x, y = on_sphere()
    h = 0.5

    def log_density(leaf):
        return (-0.5 * ((leaf @ y.mT).clamp(-1, 1).arccos() / h).square()).exp().mean(-1).log()

    shift, logs = geodesic_shift(x, y, h)
    same(shift, h**2 * tangent(x, gradient(log_density, x)), 1e-8)
    same(logs[..., 0], log_density(x), 1e-8)
    v = kde_flow(x, y, h, {"kl": 1.0, "chi2": 1.0}, mmd=1.0, sphere=True)
    same((v * x).sum(-1), torch.zeros_like(v[..., 0]))
    near = to_sphere(torch.tensor([0.0, 0.0, 1.0]) + 1e-3 * x)  # a flat patch
    flat = to_sphere(torch.tensor([0.0, 0.0, 1.0]) + 1e-3 * y)
    torch.testing.assert_close(
        kde_flow(near, flat, 1e-3, {"kl": 1.0}, sphere=True), kde_flow(near, flat, 1e-3, {"kl": 1.0}), rtol=0, atol=3e-6
    )


def test_blocks_do_not_show(monkeypatch):
    x, y = clouds(50, 30)
    s, t = on_sphere(50, 30)
    calls = [
        lambda: drift.equation4(x, y, 0.3, "laplace"),
        lambda: drift.official(x, y, (0.05, 0.2)),
        lambda: geodesic_shift(s, t, 0.3)[0],
        lambda: pairs.typical_distance(x, y),
    ]
    whole = [call() for call in calls]
    monkeypatch.setattr(pairs.squares, "__defaults__", (1.0, 700))
    monkeypatch.setattr(pairs.log_kernel, "__defaults__", (700,))
    for call, value in zip(calls, whole, strict=True):
        same(call(), value, SELF_PAIRS)
    same(whole[3][:, 0, 0], torch.cdist(x, y).mean((1, 2)), 1e-9)


@pytest.mark.parametrize("unit", [1e-4, 1.0, 1e4])
def test_a_typical_distance_takes_a_product_whatever_the_unit_of_length(unit, monkeypatch):
    x, y = (cloud.float() * unit for cloud in clouds(50, 30))
    wanted = torch.cdist(x.double(), y.double()).mean((1, 2))
    found = pairs.typical_distance(x, y)[:, 0, 0].double()
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=0)
    monkeypatch.setattr(pairs, "direct", lambda *_: pytest.fail("differences, though no point is far"))
    assert torch.equal(pairs.typical_distance(x, y)[:, 0, 0].double(), found)


def test_a_typical_distance_of_coinciding_points_is_zero():
    x = torch.full((1, 5, 3), 2.0)
    assert pairs.typical_distance(x, x).item() == 0
    far = torch.cat([x, torch.full((1, 1, 3), 1e6)], 1)  # one that has run away
    assert pairs.typical_distance(far, x).item() == pytest.approx(3**0.5 * (1e6 - 2) / 6, rel=1e-6)


FIELDS = {
    "equation4, laplace": lambda x, y, h: drift.equation4(x, y, h, "laplace"),
    "equation4, gaussian": lambda x, y, h: drift.equation4(x, y, h, "gaussian"),
    "algorithm2": lambda x, y, h: drift.algorithm2(x, y, h, "laplace"),
    "sinkhorn_proxy": drift.sinkhorn_proxy,
    "official": lambda x, y, h: drift.official(x, y, (h,)),
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_dirac_between_two_equal_masses_stays(name):
    y = torch.tensor([[[2.0, 0.0], [-2.0, 0.0]]]).double()
    x = torch.zeros(1, 8, 2).double()
    assert FIELDS[name](x, y, 0.5).abs().max() < 1e-10
    uneven = torch.cat([y, y[:, :1]], 1)  # two thirds at +a: no longer
    assert FIELDS[name](x, uneven, 2.0)[0, 0, 0] > 1e-3


def test_the_field_of_a_dirac_between_two_masses():
    a, h = 2.0, 1.1
    y = torch.tensor([[[a], [-a]]]).double()
    x = torch.linspace(-3, 3, 7).double()[None, :, None]
    v = drift.equation4(x, y, h, "gaussian", torch.zeros(1, 5, 1).double())
    same(v, a * (a * x / h**2).tanh())


def end(task, method, seeds=(3,)):
    rng = Streams(seeds)
    problem = registry.parse("task", task).build(rng.fork("task")).problem
    *_, law = registry.parse("method", method).fit(problem, Budget(), rng.fork("method"))
    return law.draw(law.limit or 1000, rng.fork("end"))


def right(points):
    return float((points[..., 0] > 0).float().mean())


def test_the_proxy_leaves_wrong_masses_at_far_modes_and_sinkhorn_mends_them():
    task = "two_points:start_share=0.9,start=0.05"
    small = "carrier=particles,points=200,batch=200,steps=40"
    assert right(end(task, f"drifting:field=sinkhorn_proxy,temperature=0.3,unit=1,{small}")) > 0.85
    assert right(end(task, f"drifting:field=sinkhorn,temperature=1,unit=1,{small}")) == pytest.approx(0.5, abs=0.12)


def test_a_dirac_never_splits_under_a_field_but_by_sorting():
    small = "carrier=particles,points=100,batch=100,steps=30"
    for field in ("equation4", "algorithm2", "mmd"):
        points = end("two_points", f"drifting:field={field},{small}")
        assert points.std(1).max() < 1e-5
    assert right(end("two_points", f"drifting:field=sliced,{small}")) == pytest.approx(0.5, abs=0.25)


@pytest.mark.parametrize(
    "text",
    [
        "drifting:field=official,kernel=gaussian",
        "drifting:field=sliced,temperature=0.1",
        "drifting:field=official,unit=1",
        "drifting:temperature=0.1+0.2",
        "drifting:temperature=warm",
        "drifting:points=1",
        "drifting:step=-1",
        "drifting:steps=0",
        "gf_drifting:kl=0",
        "gf_drifting:chi2=-1",
        "gf_drifting:cut=0.5",
        "gf_drifting:bandwidth=0",
    ],
)
def test_mistakes_are_told(text):
    with pytest.raises(UserError):
        registry.parse("method", text)


def test_the_sphere_is_asked_for_where_there_is_one():
    problem = registry.parse("task", "toy2d").build(Streams((3,)).fork("task")).problem
    with pytest.raises(UserError, match="sphere"):
        next(registry.parse("method", "gf_drifting:manifold=sphere").fit(problem, Budget(), Streams((3,))))


@pytest.mark.parametrize("carrier", ["particles", "generator"])
def test_points_stay_on_the_sphere(carrier):
    points = end("sphere", f"gf_drifting:manifold=sphere,carrier={carrier},steps=20,points=128,batch=128,width=16")
    assert (points.norm(dim=-1) - 1).abs().max() < 1e-6
    away = end("sphere", f"gf_drifting:carrier={carrier},steps=20,points=128,batch=128,width=16")
    assert (away.norm(dim=-1) - 1).abs().mean() > 1e-3


@pytest.mark.parametrize("carrier", ["particles", "generator"])
def test_the_default_temperature_is_sharper_on_images(carrier):
    """0.05 there and 0.2 for vectors; points of images have their shape, and as particles are those of vectors."""

    def points(shape, words):
        infos = (
            Initial(lambda n, rng: rng.normal(n, 12).unflatten(2, shape)),
            TargetSamples(lambda n, rng: (3 + rng.normal(n, 12)).unflatten(2, shape)),
        )
        method = registry.parse(
            "method", f"drifting:carrier={carrier},points=32,batch=32,steps=2,width=8,network=mlp{words}"
        )
        rng = Streams((0, 1), dtype=torch.float64)
        *_, law = method.fit(Problem(shape, (math.inf,), infos), Budget(), rng)
        x = law.draw(32, rng.fork("judge"))
        assert x.shape == (2, 32, *shape)
        return x.flatten(2)

    image, vector = (3, 2, 2), (12,)
    assert torch.equal(points(vector, ""), points(vector, ",temperature=0.2"))
    assert torch.equal(points(image, ""), points(image, ",temperature=0.05"))
    assert not torch.equal(points(image, ""), points(image, ",temperature=0.2"))
    assert torch.equal(points(image, ",field=sinkhorn_proxy"), points(image, ",field=sinkhorn_proxy,temperature=0.2"))
    if carrier == "particles":  # a generator of images ends in tanh
        assert torch.equal(points(image, ""), points(vector, ",temperature=0.05"))
