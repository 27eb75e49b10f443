import pytest
import torch

from gwfbench.nn.mlp import MLP, ResidualLinear, ResidualMLP, composed
from gwfbench.rng import Streams


@pytest.mark.parametrize("prelu", ["hidden", "all", "none"])
def test_fused_is_composed(streams, prelu):
    """One hand-written node against PyTorch's own functions: values and every gradient, S = 3."""
    mlp = MLP((4, 16, 16, 2), streams, prelu)
    x = streams.fork("x").normal(50, 4).requires_grad_()
    leaves = mlp.parameters.leaves
    fused, plain = mlp(x), composed(x, 3, *leaves)
    torch.testing.assert_close(fused, plain)
    weights = streams.fork("weights").normal(50, 2)
    for ours, theirs in zip(
        torch.autograd.grad((fused * weights).sum(), [x, *leaves]),
        torch.autograd.grad((plain * weights).sum(), [x, *leaves]),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_frozen_has_the_same_value_and_input_gradient_only(streams):
    mlp = MLP((4, 8, 1), streams)
    x = streams.normal(20, 4).requires_grad_()
    (free,) = torch.autograd.grad(mlp(x).square().sum(), x)
    (cut,) = torch.autograd.grad(mlp(x, frozen=True).square().sum(), x)
    torch.testing.assert_close(cut, free)
    assert not mlp(x.detach(), frozen=True).requires_grad


def test_a_seed_does_not_depend_on_its_company():
    x = Streams((3, 7, 9)).fork("x").normal(20, 4)
    among, alone = MLP((4, 8, 1), Streams((3, 7, 9)))(x), MLP((4, 8, 1), Streams((7,)))(x[1:2])
    torch.testing.assert_close(among[1:2], alone)


@pytest.mark.parametrize("make", [ResidualLinear, ResidualMLP])
def test_residual_maps_have_the_shape_and_start_of_their_input(streams, make):
    transport = make(3, 16, 2, streams)
    x = streams.fork("x").normal(10, 3)
    assert transport(x).shape == x.shape
    with torch.no_grad():
        transport.parameters.flat.zero_()
    torch.testing.assert_close(transport(x), x)


def test_the_folded_linear_map_is_its_layers_and_knows_its_determinant(streams):
    transport = ResidualLinear(3, 16, 2, streams)
    x = streams.fork("x").normal(10, 3)
    layered = x
    for weight, bias in transport.mlp.layers():
        layered = layered @ weight + bias
    torch.testing.assert_close(transport(x), x + layered)
    jacobian = torch.autograd.functional.jacobian(lambda p: transport(p[None].expand(3, 1, 3))[1, 0], x[1, 0])
    torch.testing.assert_close(transport.log_det(x)[1, 0], torch.linalg.slogdet(jacobian)[1])


def test_leaves_are_views_of_the_flat_buffer(streams):
    mlp = MLP((2, 4, 1), streams)
    mlp.parameters.flat.fill_(0.5)
    assert all((leaf == 0.5).all() for leaf in mlp.parameters.leaves)
    gradient = mlp.parameters.gradient(mlp(streams.normal(5, 2)).sum())
    assert gradient.shape == mlp.parameters.flat.shape
