"""The device itself: it finds each kind of mistake that a card would, counts, and changes no number."""

import copy
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from gwfbench.budget import Budget, BudgetSpent
from gwfbench.drive.meter import Meter
from gwfbench.rng import Streams
from gwfbench.velocity.kernels import gaussian, gradient_sum
from gwfbench.velocity.median import median_bandwidth
from gwfbench.velocity.movers import first

CUDA, ROOT = torch.device("cuda"), Path(__file__).parents[2]


def points():
    return Streams((3, 5), CUDA).normal(4, 2)


class Doubled(torch.autograd.Function):
    """Its backward pass makes a tensor of ones, where `place` says."""

    @staticmethod
    def forward(ctx, x, place):
        ctx.place = place
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return gradient * torch.full(gradient.shape, 2.0, device=ctx.place), None


def truth_left_on_the_host(x):
    mean = Streams((3, 5)).host().normal(2)  # float64 on the CPU, and no `.to(rng.device)`
    return x.double() - mean[:, None]


MISTAKES = {
    "eye without a device": lambda x: x.mT @ x + torch.eye(2),
    "ones without a device": lambda x: torch.cat([x, torch.ones(2, 4, 1)], 2),
    "zeros of one number": lambda x: x + torch.zeros(1),
    "tensor without a device": lambda x: x * torch.tensor([1.0, 2.0]),
    "randn without a device": lambda x: x + torch.randn(x.shape),
    "arange as a list of places": lambda x: x.index_select(1, torch.arange(2)),
    "out of the host": lambda x: torch.bmm(x, x.mT, out=torch.empty(2, 4, 4)),
    "a generator of the host": lambda x: x.normal_(generator=torch.Generator().manual_seed(1)),
    "a generator of the device": lambda x: torch.rand(3, generator=torch.Generator("cuda")),
    "a factory with the other generator": lambda x: torch.randn(3, generator=torch.Generator(), device=x.device),
    "the truth left on the host": truth_left_on_the_host,
    "in a backward pass": lambda x: Doubled.apply(x.requires_grad_(), "cpu").sum().backward(),
    "a points' mask of the host": lambda x: torch.where(torch.ones(2, 4, 1) > 0, x, 0.0),
    "numbers of the device into the host": lambda x: torch.zeros(2, 4, 2).add_(x),
    "the host's points by the device's index": lambda x: torch.zeros(4, 2)[(x[0, :, 0] > 0).nonzero()],
    "under vmap": lambda x: torch.vmap(lambda row: row + torch.ones(2))(x),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found(pretended, mistake):
    with pretended() as seen:
        x = points()
        with pytest.raises(
            RuntimeError, match=r"expected (all tensors to be on the same device|a cuda generator|a cpu generator)"
        ):
            MISTAKES[mistake](x)
    assert len(seen.faults) == 1


@pytest.mark.parametrize(
    "array", [lambda x: x.numpy(), np.asarray, lambda x: np.add(x, 1)], ids=["numpy", "asarray", "ufunc"]
)
def test_numpy_gets_no_tensor_of_the_device(pretended, array):
    with pretended() as seen, pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
        array(points())
    assert len(seen.faults) == 1


def test_the_line_is_that_of_the_code_under_test(pretended):
    with pretended() as seen:
        x = points()
        with pytest.raises(RuntimeError):
            median_bandwidth(torch.cat([x, torch.ones(2, 4, 2)]))
        with pytest.raises(RuntimeError):
            gradient_sum(gaussian(1.0), x, x, torch.ones(1, 4))
    here, inside = seen.faults
    assert here.startswith("elsewhere: cat: ")
    file, number = inside.split(": ")[0].split(":")
    assert file == "gwfbench/velocity/kernels.py"
    assert "weights" in (ROOT / file).read_text().splitlines()[int(number) - 1]


@pytest.mark.parametrize(
    ("what", "waits"),
    [
        pytest.param(lambda x: float(x.sum()), 1, id="float"),
        pytest.param(lambda x: bool((x > 0).any()), 1, id="bool"),
        pytest.param(lambda x: x.sum().item() + int(x.sum()), 2, id="item and int"),
        pytest.param(lambda x: x[0, 0].tolist(), 1, id="tolist"),
        pytest.param(lambda x: x[x > 0], 1, id="by a mask"),
        pytest.param(lambda x: (x > 0).nonzero(), 1, id="nonzero"),
        pytest.param(lambda x: x.cpu(), 1, id="cpu"),
        pytest.param(lambda x: x.to("cpu", torch.float64), 1, id="to the host in float64"),
        pytest.param(lambda x: torch.ones(3).to(x), 1, id="to a tensor's place"),
        pytest.param(lambda x: torch.as_tensor(np.ones(3), device=x.device), 1, id="as_tensor of an array"),
        pytest.param(lambda x: torch.tensor([1.0, 2.0], device=x.device), 1, id="tensor of numbers"),
        pytest.param(
            lambda x: x[:, torch.tensor([0, 1])], 1, id="the host's index"
        ),  # a card takes the host's index, by a copy
        pytest.param(lambda x: x[:, 0].copy_(torch.ones(2)), 1, id="copy_ of the host's"),
        pytest.param(lambda x: torch.linalg.cholesky(torch.eye(2, device=x.device)), 1, id="cholesky, which checks"),
        pytest.param(lambda x: torch.linalg.cholesky_ex(torch.eye(2, device=x.device)), 0, id="cholesky_ex"),
        pytest.param(lambda x: torch.full((), 2.0, device=x.device) * x, 0, id="full"),
        pytest.param(
            lambda x: x.new_full((), 2.0) + torch.tensor(1.0), 0, id="a number of the host"
        ),  # a number of the host goes along with the kernel
        pytest.param(lambda x: x.to(CUDA, torch.float64).double().to(x.device), 0, id="to where it is"),
        pytest.param(lambda x: torch.as_tensor(x, device="cuda"), 0, id="as_tensor of itself"),
        pytest.param(lambda x: first(x, 2, None), 0, id="first points"),
    ],
)
def test_waits(pretended, what, waits):
    with pretended() as seen:
        x = points()
        before = seen.waits
        what(x)
    assert (seen.waits - before, seen.faults) == (waits, {})


@pytest.mark.parametrize(
    ("what", "launches"),
    [
        pytest.param(lambda x: x * 2 + 1, 2, id="two operations"),
        pytest.param(
            lambda x: x[:, :2].mT.flatten(1).reshape(2, 2, 2).unsqueeze(1), 1, id="a transpose that is copied"
        ),  # a transpose that is copied
        pytest.param(lambda x: x.view(2, 8).expand(2, 8).detach(), 0, id="views"),
        pytest.param(lambda x: x @ x.mT, 1, id="a product"),
        pytest.param(lambda x: torch.empty_like(x), 0, id="memory alone"),
        pytest.param(lambda x: torch.zeros(2, device=x.device), 1, id="zeros"),
        pytest.param(lambda x: x.double().float(), 2, id="conversions"),
    ],
)
def test_launches(pretended, what, launches):
    with pretended() as seen:
        x = points()
        before = seen.launches
        what(x)
    assert seen.launches - before == launches


def test_it_changes_no_number(pretended):
    def gradient(device):
        rng = Streams((3, 5), torch.device(device))
        x = rng.normal(64, 3).requires_grad_()
        w = rng.uniform(3, 8)
        y = Doubled.apply(torch.tanh(x @ w), device).square().sum()
        (slope,) = torch.autograd.grad(y, x, create_graph=True)
        (second,) = torch.autograd.grad(slope.square().sum(), x)
        return torch.stack([x.detach(), slope.detach(), second]).sort(1).values, rng.integers(9, 20)

    plain = gradient("cpu")
    with pretended() as seen:
        real = [part.cpu() for part in gradient("cuda")]
    assert seen.faults == {}
    assert all(map(torch.equal, plain, real))


def test_it_says_that_it_is_cuda(pretended):
    with pretended():
        x = points()
        assert x.device == (x + 1).device == x[0, 0].device == torch.device("cuda", 0)
        assert (x.is_cuda, x.is_cpu, torch.Generator("cuda").device.type) == (True, False, "cuda")
        kept = copy.deepcopy(x)
        x.zero_()
        assert kept.is_cuda
        assert bool(kept.any())
        assert torch.ones(3).device.type == "cpu"
        assert torch.func.grad(lambda y: (y * torch.ones(2, device=y.device)).sum())(x[0, 0]).device.type == "cuda"


def test_nothing_of_it_is_left(pretended):
    before = torch.Generator, torch.cuda.synchronize, torch.autograd._engine_run_backward
    with pytest.raises(ValueError, match="inside"), pretended():
        raise ValueError("inside")
    assert before == (torch.Generator, torch.cuda.synchronize, torch.autograd._engine_run_backward)
    with pytest.raises((RuntimeError, AssertionError)):
        torch.zeros(2, device="cuda")


def recorded(body, times):
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        body()
    for _ in range(times):
        graph.replay()


def test_a_graph_does_again_what_was_captured(pretended):
    """Views, new tensors, autograd, in-place writes; the capture itself changes nothing."""
    with pretended() as seen:
        x, total, rate = points(), torch.zeros((), device=CUDA), [2.0]

        def body():
            y = (rate[0] * x.mT[:, :1].detach()).requires_grad_()
            (slope,) = torch.autograd.grad(y.square().sum(), y)
            x[:, :, 0].add_(slope[:, 0], alpha=-0.1)
            total.add_(1)

        wanted = x.clone()
        for _ in range(3):
            wanted[:, :, 0].add_(2 * 2.0 * wanted[:, :, 0], alpha=-0.1)
        before = seen.launches
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            body()
        assert (float(total), seen.launches) == (0.0, before)
        rate[0] = 100.0  # a number of Python stays as it was
        graph.replay()
        once = seen.launches - before
        graph.replay()
        graph.replay()
        assert (float(total), seen.launches - before) == (3.0, 3 * once)
        torch.testing.assert_close(x.cpu(), wanted.cpu())
    assert 5 <= once <= 12
    assert sum(seen.of("replay").values()) == 3


@pytest.mark.parametrize(
    ("body", "words"),
    [
        pytest.param(lambda x: float(x.sum()), "not permitted when stream is capturing", id="float"),
        pytest.param(lambda x: x.cpu(), "not permitted when stream is capturing", id="cpu"),
        pytest.param(lambda x: torch.ones(2).to(x), "not permitted when stream is capturing", id="to the device"),
        pytest.param(lambda x: Streams((1,), CUDA).normal(3), "a generator that is not registered", id="a draw"),
    ],
)
def test_a_capture_takes_no_wait_and_no_draw(pretended, body, words):
    with pretended() as seen:
        x = points()
        with pytest.raises(RuntimeError, match=words):
            recorded(lambda: body(x), 1)
    assert len(seen.faults) == 1


@pytest.mark.parametrize("ended", [False, True])
def test_seconds_hold_what_is_queued_also_where_the_budget_ends_the_method(pretended, monkeypatch, ended):
    meter = Meter(CUDA, Budget(score_calls=1))
    with pretended() as seen:
        monkeypatch.setattr(torch.cuda, "synchronize", lambda _: time.sleep(0.05) or seen.note("synchronize", ""))
        raises = pytest.raises(BudgetSpent) if ended else pytest.MonkeyPatch.context()
        with raises, meter.running():
            if ended:
                meter.count("score", 2)
    assert sum(seen.of("synchronize").values()) == 2
    assert meter.seconds >= 0.05
