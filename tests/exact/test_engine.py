"""The loop of vjko by hand: closed forms against autograd, and whole runs of it against the loop by autograd."""

import itertools
import platform
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gwfbench.budget import Budget
from gwfbench.drive.meter import Meter, counted
from gwfbench.nn.mlp import MLP, ResidualLinear, ResidualMLP
from gwfbench.nn.mlp_by_hand import Perceptron, ResidualLinearByHand, ResidualMLPByHand, inner
from gwfbench.objectives import variational
from gwfbench.objectives.variational import HEADS, KNEE, entropy
from gwfbench.plugins import registry
from gwfbench.rng import Streams
from gwfbench.training import engine
from gwfbench.training.proposals import Box, Ellipsoid, Gaussian, Matched, Student, draws

DOUBLE = torch.float64


def streams(count=3, dtype=DOUBLE):
    return Streams(tuple(range(count)), dtype=dtype)


# ------------------------------------------------------------------------------------------- formulas against autograd


def exact_squared(raw):
    """The head's formula to rounding: PyTorch's celu, in `squared`, has some of its constants in float32."""
    return torch.where(raw > KNEE, raw.square(), KNEE**2 * (2 * raw / KNEE - 2).exp())


@pytest.mark.parametrize("name", HEADS)
def test_a_head_and_its_derivative(name):
    formulas = {"squared": exact_squared}
    raw = torch.linspace(-6, 9, 400, dtype=DOUBLE).requires_grad_()
    found = HEADS[name].both(raw.detach().clone())
    for formula, limit in ((formulas.get(name, HEADS[name].value), 1e-13), (HEADS[name].value, 1e-6)):
        value = formula(raw)
        torch.testing.assert_close(found[0], value.detach(), atol=limit, rtol=limit)
        torch.testing.assert_close(found[1], torch.autograd.grad(value.sum(), raw)[0], atol=limit, rtol=limit)


@pytest.mark.parametrize(
    ("bound", "h"),
    [
        *[(bound, [1e-13, 1e-3, 0.7, 1.0, 3.0]) for bound in (variational.KL, variational.JS)],
        *[(bound, [-8.0, -1.0, 0.0, 2.0, 9.0]) for bound in (variational.KL_DV, variational.JS)],
        *[(entropy(m, 0.7, torch.tensor([1.0, -2.0], dtype=DOUBLE)), [1e-7, 1e-3, 0.7, 3.0]) for m in (1.5, 2, 3)],
    ],
)
def test_the_slopes_of_an_energy(bound, h):
    values = torch.tensor([h, h[::-1]], dtype=DOUBLE).requires_grad_()
    for value, slope in ((bound.rate(values), bound.rate_slope), (-bound.reference(values), bound.reference_slope)):
        (wanted,) = torch.autograd.grad(value.sum(), values)
        found = torch.as_tensor(slope(values.detach()), dtype=DOUBLE)
        torch.testing.assert_close(found.expand_as(wanted), wanted, atol=1e-14, rtol=1e-13)


@pytest.mark.parametrize("law", [Gaussian, Student])
def test_the_score_of_a_proposal(law):
    mu = law.fitted(streams().normal(500, 3) * 2 + 1)
    x = streams().fork("x").normal(40, 3).requires_grad_()
    (wanted,) = torch.autograd.grad(mu.log_prob(x).sum(), x)
    torch.testing.assert_close(mu.score(x.detach()), wanted, atol=1e-12, rtol=1e-12)


def test_the_coordinates_of_a_proposal_are_centre_and_axes():
    cloud = streams().normal(500, 3) * 2 + 1
    for law in (Gaussian.fitted(cloud), Student.fitted(cloud), Ellipsoid.around(cloud, 2.0), Box.around(cloud, 1.5)):
        torch.testing.assert_close((cloud - law.mean) @ law.axes, law.white(cloud))


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("shape", [(1024, 2), (16,), (33, 3), (5,)])
def test_draws_at_once_are_the_numbers_of_draws_one_by_one(shape, dtype):
    rng, again = streams(2, dtype), streams(2, dtype)
    assert torch.equal(rng.normals(4, *shape), torch.stack([again.normal(*shape) for _ in range(4)], 1))
    assert torch.equal(rng.normal(3), again.normal(3))  # and the streams stand where they stood


@pytest.mark.parametrize("law", [Gaussian, Matched, Student])
def test_several_draws_of_a_proposal_are_its_draws(law):
    mu, rng, again = law.fitted(streams().normal(500, 2)), streams().fork("z"), streams().fork("z")
    wanted = torch.stack([mu.draw(24, again) for _ in range(3)], 1)
    torch.testing.assert_close(draws(mu, 3, 24, rng), wanted, atol=1e-13, rtol=1e-13)


@pytest.mark.parametrize("numbers", [True, False])  # False: what a GPU runs
@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize(("sizes", "prelu"), [((2, 5, 4, 1), "all"), ((3, 4, 1), "hidden"), ((2, 3, 3, 3, 2), "none")])
def test_a_perceptron_by_hand(sizes, prelu, seeds, numbers):
    net, rng, n = MLP(sizes, streams(seeds), prelu), streams(seeds).fork("x"), 6
    with torch.no_grad():
        net.parameters.flat.add_(
            0.3 * torch.randn(net.parameters.flat.shape, generator=torch.Generator().manual_seed(1))
        )
    ours = Perceptron(net, n, numbers)
    part = Perceptron(net, 4, numbers, like=ours)
    x, slope = rng.normal(n, sizes[0]), rng.normal(n, sizes[-1])
    leaf = x.clone().requires_grad_()
    y = net(leaf)
    *wanted, by_x = torch.autograd.grad((y * slope).sum(), [*net.parameters.leaves, leaf])
    with torch.no_grad():
        ours.x.copy_(inner(x))
        torch.testing.assert_close(ours.values(), inner(y.detach()))
        found = ours.gradient(inner(slope.clone()))
        torch.testing.assert_close(found, torch.cat([each.reshape(-1) for each in wanted]))
        torch.testing.assert_close(part.values(), inner(y.detach()[:, :4]))
        torch.testing.assert_close(part.slope(inner(slope[:, :4].clone())), inner(by_x[:, :4]))


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("depth", [0, 1, 2, 4])
@pytest.mark.parametrize("kind", ["linear", "hidden", "all", "dropout"])
def test_a_map_by_hand(kind, depth, seeds):
    rng, n, keep = streams(seeds), 7, None
    if kind == "linear":
        net = ResidualLinear(2, 5, depth, rng)
        ours = ResidualLinearByHand(net, n)
    else:
        net = ResidualMLP(2, 5, depth, rng, "hidden" if kind == "dropout" else kind)
        if kind == "dropout":
            keep = [None if i == 0 else rng.uniform(n, 5).ge(0.4).double() / 0.6 for i in range(depth)]
        ours = ResidualMLPByHand(net, n, keep)
    x, slope = rng.fork("x").normal(n, 2), rng.fork("slope").normal(n, 2)
    factors = iter([factor for factor in keep or [] if factor is not None])

    class Kept(Streams):
        def uniform(self, *shape):
            return next(factors) * 0.6  # 0, or 1 >= the share

    y = net.dropped(x, 0.4, Kept(rng.seeds, dtype=DOUBLE), 2) if keep else net(x)
    wanted = torch.autograd.grad((y * slope).sum(), net.parameters.leaves)
    before = slope.clone()
    with torch.no_grad():
        torch.testing.assert_close(ours.image(x), y.detach())
        torch.testing.assert_close(ours.gradient(slope), torch.cat([each.reshape(-1) for each in wanted]))
    assert torch.equal(slope, before)  # it is the caller's


# -------------------------------------------------------------------------------------------------- whole runs of both

SMALL = "batch=64,pool=256,width=8,iterations=15,steps=2"
RUNS = {
    f"{task} {words}": (task, words)
    for task, words in [
        *[("ou", f"map={a},head={b}") for a in ("linear", "prelu", "icnn") for b in ("squared", "exp1")],
        ("ou:dim=3", "weight_decay=0.1,start=previous,batch=63,pool=252,critic_depth=3,critic_width=5"),
        ("gmm", "dropout=0.3,dropout_from=2,depth=3,map_steps=2,prelu_output=true,halve_after=1"),
        ("gmm", "proposal=student"),
        ("gmm", "proposal=matched,decay=none"),
        ("blr", "rows=20,proposal=student"),
        ("blr", "rows=20,proposal=student,follow=0.2,map_steps=2"),
        ("gmm", "follow=0.1"),
        ("toy2d", "energy=js"),
        ("toy2d", "energy=kl_samples"),
        ("toy2d", "energy=kl_dv"),
        ("barenblatt", "map=prelu"),
        ("barenblatt", "map=icnn,head=exp1,box=1.5"),
        ("barenblatt", "head=plain,radial=false,warmup=4"),
    ]
}


def trained(task, words, seeds, dtype, monkeypatch=None):
    """States after two JKO steps, and what the oracles counted; with monkeypatch by autograd."""
    rng, meter = Streams(tuple(range(seeds)), dtype=dtype), Meter()
    problem = counted(registry.parse("task", task).build(rng.fork("task")).problem, meter, seeds)
    names = {word.split("=")[0] for word in words.split(",")}
    kept = ",".join(word for word in SMALL.split(",") if word.split("=")[0] not in names)
    laws = registry.parse("method", f"vjko:{words},{kept}").fit(problem, Budget(), rng.fork("method"))
    if monkeypatch is None:
        states = [law.state() for law in itertools.islice(laws, 2)]
    else:
        with monkeypatch.context() as patch:
            patch.setattr(engine, "written_out", lambda game: False)
            patch.setitem(HEADS, "squared", replace(HEADS["squared"], value=exact_squared))
            states = [law.state() for law in itertools.islice(laws, 2)]
    return states, meter.sampling


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("run", RUNS)
def test_both_loops_give_the_same_numbers_and_take_as_many_gradients(run, seeds, monkeypatch):
    """float64, after 30 iterations, parameters to 1e-9; kl_dv's last bias has the slope 0, of which Adam makes 1e-8.

    Autograd asks for log pi and its gradient, the loop by hand for the gradient alone.
    """
    (ours, counts), (wanted, theirs) = (trained(*RUNS[run], seeds, DOUBLE, patch) for patch in (None, monkeypatch))
    assert (counts.score, counts.draw) == (theirs.score, theirs.draw)
    assert counts.log_prob == theirs.log_prob - theirs.score
    assert counts.score + counts.draw > 0 or "barenblatt" in run
    for mine, other in zip(ours, wanted, strict=True):
        assert mine.keys() == other.keys()
        for name in mine:
            gap = (torch.as_tensor(mine[name]) - torch.as_tensor(other[name])).abs().max()
            assert float(gap) <= (1e-7 if "kl_dv" in run else 1e-9), name


@pytest.mark.parametrize("run", ["ou map=linear,head=squared", "ou map=prelu,head=exp1"])
def test_in_float32_the_pushed_pool_is_the_same_to_1e_5(run, monkeypatch):
    (ours, _), (wanted, _) = (trained(*RUNS[run], 2, torch.float32, patch) for patch in (None, monkeypatch))
    for mine, other in zip(ours, wanted, strict=True):
        torch.testing.assert_close(mine["pool"], other["pool"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("task", "words", "by_hand"),
    [
        ("ou", "map=linear", True),
        ("gmm", "dropout=0.1", True),
        ("blr", "rows=20", True),
        ("barenblatt", "map=icnn", True),
        ("ou", "scheme=crank_nicolson", False),
        ("ou", "scheme=section_b", False),
        ("aggregation", "scheme=backward", False),
    ],
)
def test_which_loop_a_run_takes(task, words, by_hand, monkeypatch):
    taken = set()
    monkeypatch.setattr(engine.Engine, "train", lambda *_: taken.add(True))
    monkeypatch.setattr(engine, "by_autograd", lambda *_: taken.add(False))
    trained(task, words, 1, DOUBLE)
    assert taken == {by_hand}


# ------------------------------------------------------------------------------------------- pieces as a graph has them


class Tape(TorchDispatchMode):
    """The calls of a piece, to be made again on the same buffers: a graph, as CUDA would capture it."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        assert func.name() not in ("aten::_local_scalar_dense", "aten::item"), "a number was read from the device"
        self.calls.append((func, args, kwargs or {}, out))
        return out

    def replay(self):
        for func, args, kwargs, out in self.calls:
            new = func(*args, **kwargs)
            for old, one in zip(tree_leaves(out), tree_leaves(new), strict=True):
                if old is not None and old.data_ptr() != one.data_ptr():  # no view or buffer: those are what they were
                    old.copy_(one)


class Taped(engine.Replayed):
    """Each piece is called once and from then on played from its tape: nothing is read from Python any more."""

    def __call__(self):
        if self._calls:
            self._tape.replay()
            return
        self._calls, self._tape = 1, Tape()
        with self._tape:
            self._body()


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize(
    "run",
    ["ou map=linear,head=squared", "ou map=prelu,head=exp1", "gmm proposal=student", "barenblatt map=prelu", "barenblatt map=icnn,head=exp1,box=1.5", "toy2d energy=js",
     "gmm dropout=0.3,dropout_from=2,depth=3,map_steps=2,prelu_output=true,halve_after=1"],
)  # fmt: skip
def test_a_captured_iteration_reads_buffers_alone(run, seeds, monkeypatch):
    """The taped pieces of the first iteration, played for two JKO steps, give the numbers of the plain loop."""
    monkeypatch.setattr(engine, "Perceptron", partial(Perceptron, numbers=False))
    monkeypatch.setattr(engine, "ResidualMLPByHand", partial(ResidualMLPByHand, numbers=False))
    wanted, _ = trained(*RUNS[run], seeds, DOUBLE)
    monkeypatch.setattr(engine, "Replayed", Taped)
    ours, _ = trained(*RUNS[run], seeds, DOUBLE)
    for mine, other in zip(ours, wanted, strict=True):
        for name in mine:
            torch.testing.assert_close(torch.as_tensor(mine[name]), torch.as_tensor(other[name]), atol=1e-12, rtol=0)


@pytest.mark.parametrize("ahead", [1, 4, 25])
def test_how_many_iterations_are_drawn_at_once_changes_no_number(ahead, monkeypatch):
    wanted, _ = trained("ou:dim=4", "map=prelu,dropout=0.2", 2, DOUBLE)
    monkeypatch.setattr(engine, "IN_CACHE", ahead * 2 * 64 * (3 * 4 + 2 * 8))  # seeds, points, z and two layers
    ours, _ = trained("ou:dim=4", "map=prelu,dropout=0.2", 2, DOUBLE)
    for mine, other in zip(ours, wanted, strict=True):
        torch.testing.assert_close(mine["pool"], other["pool"], atol=1e-11, rtol=0)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc")
def test_malloc_keeps_the_pages_of_freed_arrays():
    """In a process of its own: the setting stays for good. A hundred rounds of four arrays of 512 kB, 128 pages each."""
    words = """
import resource, torch
from gwfbench.process.memory import keep_pages

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(100):
        [torch.empty(2**17).fill_(1.0) for _ in range(4)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_pages()
faults()
print(faults())
"""
    found = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert int(found.stdout) < 100
