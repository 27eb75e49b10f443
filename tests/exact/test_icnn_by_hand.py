import pytest
import torch

from gwfbench.nn.icnn import DenseICNN
from gwfbench.nn.icnn_by_hand import ByHand
from gwfbench.rng import Streams


def made(seeds, d, width, depth, rank, smooth, dtype=torch.float64):
    rng = Streams(seeds, dtype=dtype)
    net = DenseICNN(d, width, depth, rng.fork("net"), rank, 0.15, smooth)
    noise = rng.fork("noise")
    with torch.no_grad():  # far from the start: every part at work, weights of both signs before softplus
        net.parameters.flat += 0.5 * noise.normal(net.parameters.flat.numel() // len(seeds)).flatten()
    return net, rng


def wanted(net, x, slope):
    y = net(x)
    return y.detach(), torch.cat([g.reshape(-1) for g in torch.autograd.grad(y, net.parameters.leaves, slope)])


def closeness(got, right):
    return float((got - right).abs().max() / right.abs().max())


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("seeds", [(3,), (0, 4, 7)])
def test_the_gradient_by_hand_is_autograds(seeds, depth, rank, smooth):
    net, rng = made(seeds, 3, 7, depth, rank, smooth)
    ours, points = ByHand(net, 11), rng.fork("points")
    for _ in range(2):  # buffers hold nothing of the batch and the parameters before
        x, slope = 1.5 * points.normal(11, 3) + 0.3, points.normal(11, 3)
        y, gradient = wanted(net, x, slope)
        assert closeness(ours.image(x), y) < 1e-13
        assert closeness(ours.gradient(slope), gradient) < 1e-10
        with torch.no_grad():
            net.parameters.flat.sub_(gradient, alpha=0.1 / float(gradient.abs().max()))


def test_every_parameter_has_a_gradient():
    net, rng = made((3,), 3, 7, 3, 2, False)
    ours = ByHand(net, 40)
    ours.image(rng.normal(40, 3))
    parts = ours.gradient(rng.normal(40, 3)).split([leaf.numel() for leaf in net.parameters.leaves])
    assert all(part.count_nonzero() > part.numel() / 2 for part in parts)


def test_units_above_zero_have_no_curvature():
    """Where all p > 0, CELU is linear: psi is a quadratic, and its map linear with the matrix that its parts give."""
    net, rng = made((3,), 2, 5, 1, 1, False)
    linear, bias, quadratic, out, root, shift = net.parameters.leaves
    with torch.no_grad():
        bias.fill_(100.0)
    x, slope = rng.normal(9, 2), rng.normal(9, 2)
    ours, w = ByHand(net, 9), torch.nn.functional.softplus(out.detach())
    with torch.no_grad():
        matrix = (quadratic * w.mT) @ quadratic.mT + root @ root.mT + 0.15 * torch.eye(2, dtype=torch.float64)
        right = x @ matrix + (linear @ w).mT + shift.mT
    assert closeness(ours.image(x), right) < 1e-13
    gradient = ours.gradient(slope).split([leaf.numel() for leaf in net.parameters.leaves])
    assert gradient[1].abs().max() == 0
    assert closeness(gradient[0].view(2, 5), slope.sum(1).mT * w[0].mT) < 1e-13


def test_single_precision():
    net, rng = made((0, 4), 3, 16, 2, 1, False, torch.float32)
    ours, x, slope = ByHand(net, 50), rng.normal(50, 3), rng.normal(50, 3)
    y, gradient = wanted(net, x, slope)
    assert closeness(ours.image(x), y) < 1e-5
    assert closeness(ours.gradient(slope), gradient) < 1e-5
