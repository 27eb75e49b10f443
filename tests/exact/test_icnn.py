import pytest
import torch

from gwfbench.nn import volume
from gwfbench.nn.icnn import DenseICNN
from gwfbench.rng import Streams

CASES = [(2, 8, 2, 1, False), (3, 8, 3, 2, False), (3, 8, 2, 1, True), (1, 4, 1, 1, True)]
cases = pytest.mark.parametrize(("d", "width", "depth", "rank", "smooth"), CASES)


def made(d, width, depth, rank, smooth, seeds=(0, 4), noise=0.3):
    rng = Streams(seeds, dtype=torch.float64)
    net = DenseICNN(d, width, depth, rng.fork("net"), rank, 0.1, smooth)
    with torch.no_grad():  # far from the start: every part at work
        net.parameters.flat += noise * rng.fork("noise").normal(net.parameters.flat.numel() // len(seeds)).flatten()
    return net, rng.fork("x").normal(7, d)


@cases
def test_gradient_and_hessian_are_autograds(d, width, depth, rank, smooth):
    net, x = made(d, width, depth, rank, smooth)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(net.potential(x).sum(), x, create_graph=True)
    image, hessian = net.with_hessian(x)
    assert torch.allclose(net(x), gradient, atol=1e-12)
    assert torch.allclose(image, gradient, atol=1e-12)
    for i in range(d):
        (row,) = torch.autograd.grad(gradient[..., i].sum(), x, retain_graph=True)
        assert torch.allclose(hessian[..., i, :], row, atol=1e-12)
    assert torch.allclose(net.log_det(x), torch.logdet(hessian), atol=1e-12)
    assert torch.allclose(net.product(x, x.flip(1)), (hessian @ x.flip(1).unsqueeze(-1)).squeeze(-1), atol=1e-12)


@cases
def test_it_is_strongly_convex_whatever_the_weights(d, width, depth, rank, smooth):
    net, x = made(d, width, depth, rank, smooth, noise=3.0)
    assert torch.linalg.eigvalsh(net.with_hessian(5 * x)[1]).min() >= 0.1 - 1e-9
    a, b = 4 * x, x.flip(1) - 1
    middle, ends = net.potential((a + b) / 2), (net.potential(a) + net.potential(b)) / 2
    assert (middle <= ends - 0.1 / 8 * (a - b).square().sum(-1) + 1e-8 * ends.abs()).all()


@cases
def test_the_inverse_is_one(d, width, depth, rank, smooth):
    net, x = made(d, width, depth, rank, smooth)
    assert (net.inverse(net(x).detach()) - x).abs().max() < 1e-6


def test_the_inverse_in_single_precision_and_far_away():
    rng = Streams((0,))
    net = DenseICNN(4, 16, 2, rng.fork("net"))
    x = 10 * rng.fork("x").normal(500, 4)
    assert (net.inverse(net(x).detach()) - x).abs().max() < 1e-3


def test_an_inverse_that_is_not_reached_says_so():
    net, x = made(3, 8, 2, 1, False)
    with pytest.raises(ArithmeticError, match="after 1 Newton steps"):
        net.inverse(net(x).detach() + 5, most=1)


def test_it_starts_near_the_identity():
    rng = Streams((0, 1), dtype=torch.float64)
    net = DenseICNN(3, 64, 2, rng.fork("net"))
    x = rng.fork("x").normal(100, 3)
    assert (net(x) - x).abs().max() < 0.2
    assert net.log_det(x).abs().max() < 0.2


def test_parameters_gradients_are_autograds():
    net, x = made(2, 6, 2, 1, True)

    def loss():
        return (net.log_det(x) + net(x)[..., 0] + net.product(x, x.flip(1))[..., 1]).sum()

    analytic = net.parameters.gradient(loss())
    probe = torch.randn(analytic.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        start = net.parameters.flat.clone()
        values = []
        for h in (1e-5, -1e-5):
            net.parameters.flat.copy_(start + h * probe)
            values.append(loss())
    assert float((values[0] - values[1]) / 2e-5) == pytest.approx(float(analytic @ probe), rel=1e-6)


@cases
@pytest.mark.parametrize("block", [2**17, 40])
def test_the_log_det_in_one_node_is_that_of_the_hessian(d, width, depth, rank, smooth, block, monkeypatch):
    monkeypatch.setattr(volume, "BLOCK", block)
    monkeypatch.setattr(volume, "ROWS", 1)
    net, x = made(d, width, depth, rank, smooth)
    along, weight = x.flip(1), x[..., 0] + 2

    def gradient(image, value):
        return net.parameters.gradient((along * image).sum() + (weight * value).sum())

    image, value = net.with_log_det(x)
    whole, hessian = net.with_hessian(x)
    assert torch.allclose(image, whole, atol=1e-12)
    assert torch.allclose(value, torch.logdet(hessian), atol=1e-12)
    wanted = gradient(whole, torch.logdet(hessian))
    assert torch.allclose(gradient(image, value), wanted, atol=1e-11 * float(wanted.abs().max()))
    with_x = net.with_log_det(x.requires_grad_())
    assert torch.allclose(with_x[1], value, atol=1e-12)
    assert torch.autograd.grad(with_x[1].sum(), x)[0].isfinite().all()


def test_the_inverse_from_a_cholesky_factor():
    net, x = made(3, 8, 2, 1, False)
    hessian = net.with_hessian(2 * x)[1].detach()
    assert torch.allclose(volume.inverse_of(torch.linalg.cholesky(hessian)), torch.linalg.inv(hessian), atol=1e-12)


def test_a_block_holds_what_its_device_can_take():
    """On a CPU the cache's size, and rows enough for fast products; on a GPU fifteen seeds of ou:dim=32 at once."""
    assert volume.points_a_block(torch.device("cpu"), 2, 128) == 512
    assert volume.points_a_block(torch.device("cpu"), 13, 4 * 512) == 19
    assert volume.points_a_block(torch.device("cuda"), 32, 15 * 128) >= 512
    assert volume.points_a_block(torch.device("cuda"), 10**9, 10**9) == 1


def test_seeds_do_not_know_each_other():
    both, x = made(3, 8, 2, 1, False, (0, 4))
    alone, first = made(3, 8, 2, 1, False, (0,), noise=0.0)
    both, x = made(3, 8, 2, 1, False, (0, 4), noise=0.0)
    assert torch.allclose(both(x)[:1], alone(first), atol=1e-12)


@pytest.mark.parametrize("wrong", [{"strong": 0.0}, {"strong": 1.0}, {"rank": 0}])
def test_bad_settings(wrong):
    with pytest.raises(ValueError, match="strong"):
        DenseICNN(2, 4, 2, Streams((0,)), **wrong)
