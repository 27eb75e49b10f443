import math
import sys

import pytest
import torch

from gwfbench.budget import Budget
from gwfbench.errors import UserError
from gwfbench.info import Initial, InteractionEnergy
from gwfbench.nn.conjugate import conjugate_gradients
from gwfbench.nn.icnn import DenseICNN
from gwfbench.plugins import registry
from gwfbench.protocol import Problem
from gwfbench.rng import Streams
from gwfbench.training.jko_step import batches

METHOD = registry.find("method", "jko_icnn").load()
module = sys.modules[METHOD.__module__]


def streams(seeds=(3,)):
    return Streams(seeds, dtype=torch.float64)


def built(task, seeds=(3,)):
    return registry.parse("task", task).build(streams(seeds).fork("task"))


def laws(method, task, seeds=(3,)):
    instance = built(task, seeds)
    return instance, registry.parse("method", f"jko_icnn:{method}").fit(
        instance.problem, Budget(), streams(seeds).fork("method")
    )


# ---------------------------------------------------------------------------------------------- conjugate gradients


def systems(n=6, d=5):
    rng = streams()
    root = rng.fork("root").normal(n, d, d)
    return root @ root.mT + 0.3 * torch.eye(d, dtype=torch.float64), rng.fork("v").normal(n, d)


def solved(h, v, steps, tolerance=0.0):
    return conjugate_gradients(lambda u: (h @ u.unsqueeze(-1)).squeeze(-1), v, steps, tolerance)


def test_conjugate_gradients_solve_in_d_steps():
    h, v = systems()
    assert torch.allclose(solved(h, v, 5), torch.linalg.solve(h, v), atol=1e-9)
    gap = solved(h, v, 4) - torch.linalg.solve(h, v)
    assert gap.abs().max() > 1e-6


def test_conjugate_gradients_stop_at_the_tolerance_and_each_system_by_itself():
    h, v = systems()
    h[:, 0] = 2 * torch.eye(5, dtype=torch.float64)  # solved after one step
    rough = solved(h, v, 50, 0.1)
    left = ((h @ rough.unsqueeze(-1)).squeeze(-1) - v).norm(dim=-1) / v.norm(dim=-1)
    assert left.max() <= 0.1
    assert (left[:, 1:] > 1e-6).any()
    for i in range(6):
        assert torch.allclose(solved(h[:, i : i + 1], v[:, i : i + 1], 50, 0.1), rough[:, i : i + 1], atol=1e-13)


def test_conjugate_gradients_go_no_further_once_all_have_converged():
    products = []

    def product(v):
        products.append(v)
        return 2 * v

    v = streams().fork("v").normal(6, 5)
    assert torch.allclose(conjugate_gradients(product, v, 50), v / 2, atol=1e-14)
    assert len(products) == 3  # asked before the fourth step


# ---------------------------------------------------------------------------------------------- gradients of the loss


def losses(task, seeds=(0, 4)):
    """A network away from the identity, a batch with its log-densities, and (method, noise) -> gradient."""
    problem = built(task, seeds).problem
    rng = streams(seeds)
    net = DenseICNN(problem.shape[0], 5, 2, rng.fork("net"), smooth=True)
    with torch.no_grad():
        net.parameters.flat += 0.3 * rng.fork("noise").normal(net.parameters.flat.numel() // len(seeds)).flatten()
    x = problem[Initial].draw(9, rng.fork("x"))
    log_p = problem[Initial].log_prob(x)

    def gradient(method, noise="probe"):
        solver = module._Solver(method, problem, rng)
        solver.net = net
        return net.parameters.gradient(solver.loss(x, log_p, 0.2, rng.fork(noise)))

    return net, x, gradient


@pytest.mark.slow
@pytest.mark.parametrize("task", ["ou:dim=3", "barenblatt:dim=3,t0=0.5"])
def test_the_estimated_gradient_is_unbiased(task):
    _, _, gradient = losses(task)
    exact = gradient(METHOD(batch=64))
    draws = torch.stack([gradient(METHOD(batch=64, logdet="cg"), f"probe/{i}") for i in range(150)])
    error = draws.std(0) / math.sqrt(len(draws))
    assert error.max() > 1e-4  # there is noise to be averaged
    assert (draws.mean(0) - exact).abs().le(5 * error + 1e-9).all()


def test_the_estimate_is_hutchinsons_where_conjugate_gradients_converge():
    net, x, _ = losses("ou:dim=3")
    y, slope = module._hutchinson(net, x, 2, 3, streams((0, 4)).fork("probe"))
    rng = streams((0, 4)).fork("probe")
    hessian, total = net.with_hessian(x)[1], 0.0
    for _ in range(2):
        v = (2 * rng.integers(2, *x.shape[1:]) - 1).double()
        held = torch.linalg.solve(hessian, v).detach()
        total = total + (held * (hessian @ v.unsqueeze(-1)).squeeze(-1)).sum(-1) / 2
    assert torch.allclose(y, net(x), atol=1e-13)
    wanted = net.parameters.gradient(total.sum() + net(x).sum())  # T too, as the shift has no part in H
    got = net.parameters.gradient(slope.sum() + y.sum())
    assert torch.allclose(got, wanted, atol=1e-3 * float(wanted.abs().max()))


def test_the_loss_is_the_jko_objective():
    problem = built("ou:dim=2").problem
    rng = streams()
    solver = module._Solver(METHOD(batch=64, width=5), problem, rng)
    x = problem[Initial].draw(9, rng.fork("x"))
    loss = solver.loss(x, None, 0.2, rng)
    image, hessian = solver.net.with_hessian(x)
    log_q = problem.infos[1].log_prob(image)
    wanted = ((image - x).square().sum(-1) / 0.4 - torch.logdet(hessian) - log_q).mean()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-12)


def test_energies_add_up():
    problem = built("aggregation_diffusion").problem
    y = problem[Initial].draw(8, streams())
    log_p, volume = problem[Initial].log_prob(y), 0.1 * y[..., 0]
    gaps = (y[0, :, None] - y[0, None]).flatten(0, 1)[None]
    kernel = problem.infos[1].kernel(gaps).view(8, 8)
    wanted = 8.1 / 2 * (2 * (log_p - volume)).exp().mean() + 0.5 * (kernel.sum() - kernel.diagonal().sum()) / 56
    got = module._Energy.of(problem, 7).value(y, log_p, volume)
    assert float(got) == pytest.approx(float(wanted), rel=1e-12)


# ---------------------------------------------------------------------------------------------- JKO steps


@pytest.mark.slow
@pytest.mark.parametrize(("logdet", "tolerance"), [("exact", 0.01), ("cg", 0.015)])
def test_one_step_of_a_gaussian_is_the_exact_one(logdet, tolerance):
    fields = f"logdet={logdet},iterations=200,batch=256,pool=51200,width=16,step=0.4,lr=0.02"
    instance, steps = laws(fields, "ou:dim=3,step=0.4,horizon=0.4,cloud=matched", (3, 5))
    mean, covariance = instance.truth.jko((0.4,)).moments(0)
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors @ (values.sqrt().unsqueeze(-1) * vectors.mT)
    x = streams((3, 5)).fork("fresh").normal(2000, 3)
    law = next(steps)
    wanted = mean.unsqueeze(1) + x @ root
    error = (law.push(x, streams()) - wanted).square().sum(-1).mean(1).sqrt()
    moved = (x - wanted).square().sum(-1).mean(1).sqrt()
    assert (error < tolerance * moved.clamp_min(1.0)).all(), (error, moved)


def walked(steps, x, log_p=None):
    """(law, x before, x after, log-densities after) of each step, points pushed along."""
    for law in steps:
        with torch.no_grad():
            after = law.push(x, streams())
            log_p = None if log_p is None else log_p - law.log_det(x)
        yield law, x, after, log_p
        x = after


@pytest.mark.slow
def test_one_step_of_the_porous_medium_is_the_exact_one():
    fields = "iterations=200,batch=256,pool=51200,width=16,step=0.1"
    instance, steps = laws(fields, "barenblatt:dim=2,t0=0.2,step=0.1,steps=1")
    start = instance.problem[Initial]
    x = start.draw(4000, streams().fork("fresh"))
    truth = instance.truth.jko((0.1,))
    _, before, after, log_p = next(walked(steps, x, start.log_prob(x)))
    scale = (truth.moments(0)[1][0, 0, 0] / instance.problem[Initial].draw(10**5, streams()).var()).sqrt()
    wanted = scale * before  # the exact JKO map is a dilation
    assert (after - wanted).square().sum(-1).mean().sqrt() < 0.05 * (wanted - before).square().sum(-1).mean().sqrt()
    assert (truth.log_prob(0, 0.98 * after) > -math.inf).all()
    inside = truth.log_prob(0, after) > -1.0  # near the edge the density goes to 0, and its log to -inf
    assert (log_p - truth.log_prob(0, after))[inside].abs().max() < 0.1
    energies = [instance.truth.integrand(x, start.log_prob(x)).mean(), instance.truth.integrand(after, log_p).mean()]
    assert energies[1] < energies[0]
    assert float(energies[1]) == pytest.approx(float(truth.energy(0)), rel=0.03)


@pytest.mark.slow
def test_the_density_along_the_flow_integrates_to_one():
    instance, steps = laws(
        "iterations=40,batch=64,pool=640,width=8,steps=2,step=0.3,lr=0.02", "toy2d:shape=moons,start=0.7"
    )
    kept = list(steps)
    side = torch.linspace(-8, 8, 161, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)[None]
    y, log_p = grid, torch.zeros(1, len(grid[0]), dtype=torch.float64)
    for law in reversed(kept):  # each keeps its own map
        y = law.inverse(y)
        log_p = log_p - law.log_det(y)
    density = (log_p + instance.problem[Initial].log_prob(y)).exp()
    assert float(density.sum() * 0.01) == pytest.approx(1.0, abs=2e-4)
    assert (grid * density[..., None]).sum(1).norm() * 0.01 > 0.1  # it has moved


def test_the_pool_carries_its_density():
    instance, steps = laws(SMALL, "barenblatt:dim=2,steps=1")
    law = next(steps)
    state = law.state()
    back = law.inverse(state["pool"])
    wanted = instance.problem[Initial].log_prob(back) - law.log_det(back)
    inside = wanted > -1.0  # the log of the density is steep at the edge
    assert law.log_det(back).abs().max() > 0.01
    assert (state["log_p"] - wanted)[inside].abs().max() < 1e-4


def test_one_step_of_an_attraction_is_the_exact_one():
    """W = |x|^2 / 2 has F = variance / 2, whose JKO map is m + (x - m) / (1 + a)."""
    mean = torch.tensor([1.0, -0.5], dtype=torch.float64)
    start = Initial(lambda n, rng: mean + rng.normal(n, 2))
    problem = Problem((2,), (math.inf,), (start, InteractionEnergy(lambda x: 0.5 * x.square().sum(-1))))
    method = METHOD(step=0.5, steps=1, iterations=150, batch=128, pool=12800, width=16, lr=0.02)
    law = next(method.fit(problem, Budget(), streams().fork("method")))
    x = start.draw(2000, streams().fork("fresh"))
    wanted = mean + (x - mean) / 1.5
    assert (law.push(x, streams()) - wanted).square().sum(-1).mean().sqrt() < 0.02


# ---------------------------------------------------------------------------------------------- the rest


SMALL = "iterations=6,batch=64,pool=640,width=6"


@pytest.mark.slow
@pytest.mark.parametrize("task", ["barenblatt:steps=3", "ou:horizon=0.15", "aggregation_diffusion"])
@pytest.mark.parametrize("logdet", ["exact", "cg"])
def test_it_goes_on_from_a_state_bitwise(task, logdet):
    fields = f"{SMALL},logdet={logdet},step=4,pretrain=5"
    instance, steps = laws(fields, task, (3, 5))
    x = instance.problem[Initial].draw(20, streams((3, 5)).fork("x"))
    first = next(steps)
    state = {key: part.clone() if isinstance(part, torch.Tensor) else part for key, part in first.state().items()}
    x = first.push(x, streams())
    method = registry.parse("method", f"jko_icnn:{fields}")
    again = method.resume(built(task, (3, 5)).problem, Budget(), streams((3, 5)).fork("method"), state)
    for unbroken, resumed in zip(list(steps)[:3], again, strict=False):
        assert torch.equal(unbroken.push(x, streams()), resumed.push(x, streams()))
        assert torch.equal(unbroken.log_det(x), resumed.log_det(x))


@pytest.mark.parametrize("logdet", ["exact", "cg"])
def test_a_seed_does_not_know_its_company(logdet):
    task = "ou:dim=3,horizon=0.1"
    x = streams((5,)).fork("x").normal(20, 3)
    both = list(laws(f"{SMALL},logdet={logdet}", task, (3, 5))[1])
    alone = list(laws(f"{SMALL},logdet={logdet}", task, (5,))[1])
    pairs = [
        (one.push(x.expand(2, -1, -1), streams()), two.push(x, streams())) for one, two in zip(both, alone, strict=True)
    ]
    assert all(torch.allclose(one[1:], two, atol=1e-10) for one, two in pairs)


def test_pretraining_comes_nearer_to_the_identity():
    rng = streams()
    solver = module._Solver(METHOD(batch=64, width=16), built("ou:dim=3").problem, rng)
    pool = rng.fork("pool").normal(2560, 3)
    before = (solver.net(pool) - pool).square().sum(-1).mean().sqrt()
    solver.to_identity(batches(pool, 64, rng.fork("batches")), 200)
    assert (solver.net(pool) - pool).square().sum(-1).mean().sqrt() < 0.2 * before


@pytest.mark.parametrize("task", ["two_points", "sphere"])
def test_it_needs_an_energy(task):
    problem = built(task).problem
    with pytest.raises(UserError, match="Initial, TargetSamples") as error:
        next(METHOD().fit(problem, Budget(), streams()))
    assert "LogDensity" in error.value.expected


@pytest.mark.parametrize(
    "wrong",
    [
        "step=0",
        "lr=inf",
        "iterations=0",
        "strong=1",
        "strong=0",
        "pretrain=-1",
        "pool=100",
        "partners=512",
        "logdet=slow",
    ],
)
def test_bad_fields(wrong):
    with pytest.raises(UserError, match=f"jko_icnn:{wrong}"):
        registry.parse("method", f"jko_icnn:{wrong}")
