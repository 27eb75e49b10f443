"""Generators, critics and transport maps: against torch.nn, seed by seed, spectral norms, gradients, state."""

import copy
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gwfbench.errors import UserError
from gwfbench.nn import conv, networks
from gwfbench.nn.adam import Adam
from gwfbench.nn.silu import SiLU
from gwfbench.rng import Streams

IMAGE = (2, 8, 12)  # no two axes alike
LATENT = dict.fromkeys(networks.MAPS, math.prod(IMAGE))  # else 5
GENERATORS = (*networks.PAIRS, *networks.MAPS)
CRITICS = networks.PAIRS
BATCH_NORM = ("sngan", "otm", "otm_skip")  # of generators


def streams(*seeds):
    return Streams(seeds, dtype=torch.float64)


def made(role, kind, rng, shape=IMAGE, spectral=False, width=4):
    if role == "generator":
        return networks.generator(kind, shape, LATENT.get(kind, 5), width, None, rng.fork("net"))
    if role == "critic":
        return networks.critic(kind, shape, 3, width, None, rng.fork("net"), spectral)
    return networks.transport(kind, shape, width, None, rng.fork("net"))


ROLES = [
    *(("generator", kind) for kind in GENERATORS),
    *(("critic", kind) for kind in CRITICS),
    *(("spectral", kind) for kind in CRITICS),
    *(("transport", kind) for kind in ("mlp", *networks.MAPS)),
]


def both(role, kind, rng, n=6, width=4, settled=0):
    """The network, its weights moved away from their start, and inputs for it."""
    spectral = role == "spectral"
    net = made("critic" if spectral else role, kind, rng, spectral=spectral, width=width)
    with torch.no_grad():
        for i, leaf in enumerate(net.parameters.leaves):
            leaf.add_(0.1 * rng.fork(f"leaf/{i}").normal(*leaf.shape[1:]))
    x = rng.fork("x").normal(n, *((LATENT.get(kind, 5),) if role == "generator" else IMAGE))
    for _ in range(settled if spectral else 0):
        net(x[:, :1])
    return net, x


@pytest.mark.parametrize(("role", "kind"), ROLES)
def test_three_seeds_at_once_are_each_seed_alone(role, kind):
    values = []
    for seeds in ((3, 1, 4), (3,), (1,), (4,)):
        net, x = both(role, kind, streams(*seeds))
        first = net(x)
        Adam(net.parameters, 1e-2).descend(first.square().sum(), 1.0)
        values.append(torch.stack([first.flatten(1), net(x).flatten(1)], 1))
    together, *alone = values
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-9, atol=1e-9)
    assert (together[:, 0] - together[:, 1]).abs().max() > 1e-3


@pytest.mark.parametrize(("role", "kind"), ROLES)
def test_points_do_not_know_each_other(role, kind):
    net, x = both(role, kind, streams(0))
    torch.testing.assert_close(net(x, frozen=True)[:, :2], net(x[:, :2], frozen=True), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(2,), (7,), (1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64), (1, 12, 20)])
@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_shapes(shape, seeds):
    rng = Streams(seeds)
    image = len(shape) == 3
    for kind in ("auto", *(GENERATORS if image else ("mlp",))):
        latent = math.prod(shape) if kind in networks.MAPS else 5
        net = networks.generator(kind, shape, latent, 4, None, rng)
        x = net(rng.normal(2, latent))
        assert x.shape == (len(seeds), 2, *shape)
        assert not image or kind == "unet" or x.abs().max() <= 1
    for kind in ("auto", *(CRITICS if image else ("mlp",))):
        assert networks.critic(kind, shape, 3, 4, None, rng, True)(x).shape == (len(seeds), 2, 3)
    for kind in ("auto", "mlp", *(networks.MAPS if image else ())):
        assert networks.transport(kind, shape, 4, None, rng)(x).shape == x.shape


def test_auto_is_mlp_for_vectors_dcgan_for_images_and_unet_for_their_maps():
    rng = Streams((0,))
    for shape, chosen in (((3,), ("mlp", "mlp", "mlp")), ((1, 8, 8), ("dcgan", "dcgan", "unet"))):
        for role, kind in zip(("generator", "critic", "transport"), chosen, strict=True):
            auto, named = (made(role, name, rng, shape).parameters.flat for name in ("auto", kind))
            assert torch.equal(auto, named)


def test_mlp_is_silu():
    rng = streams(0, 1)
    ours, x = networks.critic("mlp", (2,), 3, 16, 2, rng.fork("net")), rng.normal(9, 2)
    theirs = SiLU((2, 16, 16, 3), rng.fork("net"))
    assert torch.equal(ours.parameters.flat, theirs.parameters.flat)
    assert torch.equal(ours(x), theirs(x))


# The same networks in torch.nn, S = 1: their parameters are loaded in order, transposed where linear.


def pair(c_in, c_out):
    block = (nn.Conv2d(c_in, c_out, 3, padding=1), nn.Conv2d(c_out, c_out, 3, padding=1))
    norms = (nn.GroupNorm(math.gcd(8, c_out), c_out), nn.GroupNorm(math.gcd(8, c_out), c_out))
    return nn.ModuleList([*block, *norms])


def run_pair(m, x):
    return F.silu(m[3](m[1](F.silu(m[2](m[0](x))))))


class TorchDCGAN(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList([
            nn.Linear(5, 8 * 2 * 3), nn.GroupNorm(8, 8), nn.ConvTranspose2d(8, 4, 4, 2, 1), nn.GroupNorm(4, 4),
            nn.ConvTranspose2d(4, 2, 4, 2, 1),
        ])  # fmt: skip

    def forward(self, z):
        p = self.parts
        x = p[0](z).view(-1, 8, 2, 3)
        return torch.tanh(p[4](F.relu(p[3](p[2](F.relu(p[1](x)))))))


class TorchDCGANCritic(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(2, 4, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(4, 8, 4, 2, 1), nn.LeakyReLU(0.2), nn.Flatten(),
            nn.Linear(8 * 2 * 3, 3),
        )  # fmt: skip


class TorchResNet(nn.Module):
    def __init__(self):
        super().__init__()
        norms = [nn.GroupNorm(4, 4), nn.GroupNorm(4, 4)]
        convs = [nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)]
        self.parts = nn.ModuleList([
            nn.Linear(5, 4 * 4 * 6), *norms, *convs, nn.GroupNorm(4, 4), nn.Conv2d(4, 2, 3, padding=1),
        ])  # fmt: skip

    def forward(self, z):
        linear, norm1, norm2, conv1, conv2, shortcut, norm, out = self.parts
        up = nn.Upsample(scale_factor=2)
        x = linear(z).view(-1, 4, 4, 6)
        x = shortcut(up(x)) + conv2(F.relu(norm2(conv1(up(F.relu(norm1(x)))))))
        return torch.tanh(out(F.relu(norm(x))))


class TorchResNetCritic(nn.Module):
    def __init__(self):
        super().__init__()
        three = [nn.Conv2d(c, 4, 3, padding=1) for c in (2, 4, 4, 4, 4, 4)]
        self.parts = nn.ModuleList([*three[:2], nn.Conv2d(2, 4, 1), *three[2:], nn.Linear(4, 3)])

    def forward(self, x):
        first, second, shortcut, *plain, out = self.parts
        x = F.avg_pool2d(shortcut(x), 2) + F.avg_pool2d(second(F.relu(first(x))), 2)
        for one, two in (plain[:2], plain[2:]):
            x = x + two(F.relu(one(F.relu(x))))
        return out(F.relu(x).sum((2, 3)))


class TorchSNGAN(nn.Module):
    """Batch normalisation with Chainer's 2e-5; as in TorchResNet, the block's normalisations come first."""

    def __init__(self):
        super().__init__()
        norms = [nn.BatchNorm2d(4, eps=2e-5), nn.BatchNorm2d(4, eps=2e-5)]
        convs = [nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)]
        self.parts = nn.ModuleList([
            nn.Linear(5, 4 * 4 * 6), *norms, *convs, nn.BatchNorm2d(4, eps=2e-5), nn.Conv2d(4, 2, 3, padding=1),
        ])  # fmt: skip

    forward = TorchResNet.forward


class TorchSNGANCritic(TorchResNetCritic):
    def __init__(self):
        super().__init__()
        self.parts[-1] = nn.Linear(4, 3, bias=False)


class TorchOTM(nn.Module):
    """The block is called twice, as the authors' code does it."""

    skip = False

    def __init__(self):
        super().__init__()
        same = [nn.ConvTranspose2d(4, 4, 3, 1, 1), nn.ConvTranspose2d(4, 4, 3, 1, 1)]
        self.parts = nn.ModuleList([
            nn.Linear(5, 4 * 4 * 6), nn.BatchNorm2d(4), nn.BatchNorm2d(4), *same, nn.BatchNorm2d(4),
            nn.ConvTranspose2d(4, 2, 3, 1, 1),
        ])  # fmt: skip

    def forward(self, z):
        linear, norm1, norm2, conv1, conv2, norm, out = self.parts
        up = nn.Upsample(scale_factor=2)

        def f(x):
            return conv2(F.relu(norm2(conv1(up(F.relu(norm1(x)))))))

        x = linear(z).view(-1, 4, 4, 6)
        return torch.tanh(out(F.relu(norm(f(x) + (up(x) if self.skip else f(x))))))


class TorchOTMSkip(TorchOTM):
    skip = True


class TorchOTMCritic(nn.Module):
    """Two plain blocks after the first: what activates in place changes what goes past it too."""

    inplace = True

    def __init__(self):
        super().__init__()
        pairs = [nn.Conv2d(c, 4, 3, padding=1) for c in (2, 4, 4, 4, 4, 4)]
        self.parts = nn.ModuleList([*pairs[:2], nn.Conv2d(2, 4, 1), *pairs[2:], nn.Linear(4, 3)])

    def forward(self, x):
        first, second, shortcut, *plain, out = self.parts
        x = shortcut(F.avg_pool2d(x, 2)) + F.avg_pool2d(second(F.leaky_relu(first(x), 0.2)), 2)
        for one, two in (plain[:2], plain[2:]):
            y = two(F.leaky_relu(one(F.leaky_relu(x, 0.2, inplace=self.inplace)), 0.2))
            x = y + x
        return out(F.relu(x).sum((2, 3)))


class TorchOTMSkipCritic(TorchOTMCritic):
    inplace = False


class TorchAttention(nn.Module):
    """Output at pixel p: sum over pixels p' of softmax_p'(k_p') <q_p, .> v_p', in each of four heads of 32."""

    def __init__(self, channels):
        super().__init__()
        self.project = nn.Conv2d(channels, 384, 1, bias=False)
        self.out = nn.Conv2d(128, channels, 1)
        self.share = nn.ParameterList([torch.tensor(1e-5)])  # in a list: a module's own parameters come first

    def forward(self, x):
        q, k, v = (part.unflatten(1, (4, 32)).flatten(3) for part in self.project(x).chunk(3, 1))
        y = torch.einsum("bhdp,bhdr,bher->bhep", q, k.softmax(-1), v)
        return x + self.share[0] * self.out(y.flatten(1, 2).unflatten(2, x.shape[2:]))


class TorchBlock(nn.Module):
    def __init__(self, c_in, c_out):
        super().__init__()
        groups = math.gcd(8, c_out)
        first = [nn.Conv2d(c_in, c_out, 3, padding=1), nn.GroupNorm(groups, c_out), nn.Mish()]
        self.main = nn.Sequential(
            *first, nn.Conv2d(c_out, c_out, 3, padding=1), nn.GroupNorm(groups, c_out), nn.Mish()
        )  # fmt: skip
        self.past = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x):
        return self.main(x) + self.past(x)


class TorchJKOFlowUNet(nn.Module):
    """Channels 4 and 8, one halving."""

    def __init__(self):
        super().__init__()
        self.fine = nn.Sequential(TorchBlock(2, 4), TorchBlock(4, 4), TorchAttention(4))
        self.coarse = nn.Sequential(TorchBlock(4, 8), TorchBlock(8, 8), TorchAttention(8))
        self.halve = nn.Conv2d(4, 4, 3, 2, 1)
        self.middle = nn.Sequential(TorchBlock(8, 8), TorchAttention(8), TorchBlock(8, 8))
        self.up = nn.Sequential(
            TorchBlock(16, 4), TorchBlock(4, 4), TorchAttention(4), nn.ConvTranspose2d(4, 4, 4, 2, 1)
        )  # fmt: skip
        end = [nn.Conv2d(4, 4, 3, padding=1), nn.GroupNorm(4, 4), nn.Mish(), nn.Conv2d(4, 2, 1), nn.Tanh()]
        self.end = nn.Sequential(*end)

    def forward(self, x):
        low = self.coarse(self.halve(self.fine(x)))
        return self.end(self.up(torch.cat([self.middle(low), low], 1)))


class TorchUNet(nn.Module):
    """Channels 4 and 8, one halving."""

    def __init__(self):
        super().__init__()
        self.fine, self.coarse = pair(2, 4), pair(4, 8)
        self.narrow, self.up, self.out = nn.Conv2d(8, 4, 1), pair(8, 4), nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, x):
        skip = run_pair(self.fine, x)
        low = run_pair(self.coarse, F.avg_pool2d(skip, 2))
        up = nn.Upsample(scale_factor=2)(self.narrow(low))
        return x + self.out(run_pair(self.up, torch.cat([skip, up], 1)))


def loaded(module, net):
    """The module in training, with the network's parameters."""
    theirs = module().double()
    for mine, leaf in zip(theirs.parameters(), net.parameters.leaves, strict=True):
        with torch.no_grad():
            mine.copy_(leaf[0].T if leaf.dim() == 3 and leaf.shape[1] > 1 else leaf[0].squeeze(0))
    return theirs


@pytest.mark.parametrize(
    ("role", "kind", "module"),
    [
        ("generator", "dcgan", TorchDCGAN),
        ("critic", "dcgan", TorchDCGANCritic),
        ("generator", "resnet", TorchResNet),
        ("critic", "resnet", TorchResNetCritic),
        ("generator", "sngan", TorchSNGAN),
        ("critic", "sngan", TorchSNGANCritic),
        ("generator", "otm", TorchOTM),
        ("critic", "otm", TorchOTMCritic),
        ("generator", "otm_skip", TorchOTMSkip),
        ("critic", "otm_skip", TorchOTMSkipCritic),
        ("transport", "unet", TorchUNet),
        ("transport", "jkoflow_unet", TorchJKOFlowUNet),
    ],
)
def test_one_seed_is_the_network_in_torch(role, kind, module):
    net, x = both(role, kind, streams(0))
    theirs = loaded(module, net)
    ours, expected = net(x)[0], theirs(x[0])
    torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-11)
    expected.square().sum().backward()
    gradient = net.parameters.gradient(ours.square().sum())
    size = torch.cat([p.grad.norm()[None] for p in theirs.parameters()]).norm()
    torch.testing.assert_close(gradient.norm(), size, rtol=1e-10, atol=0)


@pytest.mark.parametrize(("kind", "module"), [("sngan", TorchSNGAN), ("otm", TorchOTM), ("otm_skip", TorchOTMSkip)])
def test_batch_norm_s_running_averages_are_torch_s(kind, module):
    """Otm's move twice a batch, as its block is called twice there. A call that is alone uses and leaves them."""
    rng = streams(4)
    net, x = both("generator", kind, rng)
    theirs = loaded(module, net)
    with torch.no_grad():
        for i in range(3):
            z = 1 + 2 * rng.fork(f"z/{i}").normal(7, 5)
            torch.testing.assert_close(net(z, frozen=True, alone=False)[0], theirs(z[0]), rtol=1e-11, atol=1e-11)
    before = {name: part.clone() for name, part in net.buffers.items()}
    stored = [part for name, part in theirs.named_buffers() if "running" in name]
    assert len(before) == len(stored) == 6
    for ours, running in zip(before.values(), stored, strict=True):
        torch.testing.assert_close(ours[0], running, rtol=1e-11, atol=1e-11)
        assert (running - running.round()).abs().max() > 1e-3, "they have left 0 and 1"
    alone = net(x, frozen=True)
    torch.testing.assert_close(alone[0], theirs.eval()(x[0]), rtol=1e-11, atol=1e-11)
    assert all(torch.equal(before[name], part) for name, part in net.buffers.items())
    net(x)
    assert not any(torch.equal(before[name], part) for name, part in net.buffers.items())


@pytest.mark.parametrize("kind", BATCH_NORM)
def test_a_batch_norm_s_batch_is_one_seed_s(kind):
    """A seed's values don't depend on the others' points, nor its averages; they do on its own batch."""
    net, z = both("generator", kind, streams(0, 1))
    other = z.clone()
    other[1] = 3 * z[1] + 1
    one, two = net(z), net(other)
    torch.testing.assert_close(one[0], two[0], rtol=0, atol=1e-12)
    assert (net(z[:, :2]) - one[:, :2]).abs().max() > 1e-3


# Counts, from the shapes of layers: weights and biases, (c_in, c_out, k) of a convolution, (d_in, d_out) of linear ones


def weights(*layers):
    return sum(math.prod(layer[:2]) * (layer[2] ** 2 if len(layer) == 3 else 1) + layer[1] for layer in layers)


def residual(c, times):
    return weights(*[(c, c, 3)] * (2 * times))


def unet_block(c_in, c_out):
    return weights((c_in, c_out, 3), (c_out, c_out, 3), *[(c_in, c_out, 1)] * (c_in != c_out)) + 4 * c_out


def attention(c):
    return 3 * 128 * c + weights((128, c, 1)) + 1


WIDE = (64, 128, 256, 512)
COUNTS = [
    # Miyato et al. 2018, Table 4, and sngan_projection at e84b1a5: ch 256 and 128, z 128; the last layer has no bias
    ("generator", "sngan", 128, weights((128, 4096), (256, 3, 3)) + residual(256, 3) + 3 * weights((256, 256, 1))
     + 7 * 512, 4_276_739),
    ("critic", "sngan", 0, weights((3, 128, 3), (128, 128, 3), (3, 128, 1), (128, 128, 1)) + residual(128, 3) + 128,
     1_053_824),
    # Scalable-JKO at a9e8c48, models/otm: ngf 256 in both, nz 192; less the 130 numbers of a layer that is never used
    *[("generator", kind, 192, weights((192, 4096), (256, 3, 3)) + residual(256, 3) + 7 * 512, 4_341_507)
      for kind in ("otm", "otm_skip")],
    *[("critic", kind, 0, weights((3, 256, 3), (256, 256, 3), (3, 256, 1), (256, 256, 1), (256, 1))
       + residual(256, 3), 4_204_801) for kind in ("otm", "otm_skip")],
    # variational_wgf at b0e2290, image/src/networks/unet.py: dim 64, four resolutions; "29.5 million"
    ("transport", "jkoflow_unet", 0,
     sum(unet_block(a, b) + unet_block(b, b) + attention(b) for a, b in zip((3, *WIDE), WIDE, strict=False))
     + weights((64, 64, 3), (128, 128, 3), (256, 256, 3)) + 2 * unet_block(512, 512) + attention(512)
     + sum(unet_block(2 * b, a) + unet_block(a, a) + attention(a) + weights((a, a, 4))
           for a, b in itertools.pairwise(WIDE))
     + weights((64, 64, 3), (64, 3, 1)) + 128, 29_520_779),
    # Radford et al. 2016, section 3 and figure 1, for 32 x 32: 4 x 4 kernels, normalised but at the ends
    ("generator", "dcgan", 128, weights((128, 4096), (256, 128, 4), (128, 64, 4), (64, 3, 4)) + 2 * (256 + 128 + 64),
     1_187_907),
    ("critic", "dcgan", 0, weights((3, 64, 4), (64, 128, 4), (128, 256, 4), (4096, 1)), 662_977),
]  # fmt: skip


@pytest.mark.parametrize(("role", "kind", "latent", "counted", "number"), COUNTS)
def test_numbers_of_parameters_at_the_papers_width(role, kind, latent, counted, number):
    rng, shape = Streams((0,)), (3, 32, 32)
    if role == "generator":
        net = networks.generator(kind, shape, latent, None, None, rng)
    elif role == "critic":
        net = networks.critic(kind, shape, 1, None, None, rng)
    else:
        net = networks.transport(kind, shape, None, None, rng)
    assert net.parameters.flat.numel() == counted == number


# Spectral normalisation


def matrices(net):
    """Weight leaves as matrices (S, rows, columns), by the name of their vector."""
    return {name: net.parameters.leaves[int(name[1:])].detach().flatten(2) for name in net.buffers}


@pytest.mark.slow
@pytest.mark.parametrize("kind", CRITICS)
def test_normalised_weights_have_spectral_norm_one(kind):
    net, x = both("spectral", kind, streams(0, 1), width=8)  # the vectors are those of the weights before the move
    at = conv.Weights(net.parameters.leaves, net.buffers, False)

    def worst():
        norms = [torch.linalg.matrix_norm(at(int(name[1:]), name).flatten(2), 2) for name in net.buffers]
        return (torch.stack(norms) - 1).abs().max()

    assert worst() > 1e-3
    for _ in range(500):
        net(x[:, :1])
    assert worst() < 1e-3
    assert len(net.buffers) == {"mlp": 4, "dcgan": 3}.get(kind, 8)
    before = {name: part.clone() for name, part in net.buffers.items()}
    net(x, frozen=True)
    with torch.no_grad():
        net(x)
    assert all(torch.equal(before[name], part) for name, part in net.buffers.items())
    assert not made("critic", kind, streams(0)).buffers


@pytest.mark.parametrize(("kind", "bound"), [("mlp", 1.1**3), ("dcgan", 2.0**2)])
def test_a_spectral_critic_is_lipschitz(kind, bound):
    """SiLU's slope is below 1.1; a 4 x 4 convolution of stride 2 has at most (16/4)^(1/2) times its matrix's norm."""
    rng = streams(0)
    net = networks.critic(kind, IMAGE, 1, 16, None, rng.fork("net"), True)
    plain = networks.critic(kind, IMAGE, 1, 16, None, rng.fork("net"))
    for each in (net, plain):
        each.parameters.flat.mul_(30)
    x = rng.normal(32, *IMAGE).requires_grad_()
    for _ in range(50):
        net(x)
    slopes = [torch.autograd.grad(each(x).sum(), x)[0].flatten(2).norm(dim=-1).max() for each in (net, plain)]
    assert slopes[0] < bound < slopes[1]


def test_gradient_through_the_normalisation():
    """d/dW of <C, W / s(W)> is (C - <C, W/s> u v^T) / s (Miyato et al. 2018, equation 11), u and v exact."""
    rng = streams(0)
    net = networks.critic("mlp", (4,), 3, None, 0, rng.fork("net"), True)
    (weight, bias), x, cotangent = net.parameters.leaves, rng.normal(7, 4), rng.normal(7, 3)
    for _ in range(300):
        net(x)
    gradient = torch.autograd.grad((net(x) * cotangent).sum(), weight)[0][0]
    u, s, v = torch.linalg.svd(weight.detach()[0])
    c = (x.mT @ cotangent)[0]
    expected = (c - (c * weight.detach()[0]).sum() / s[0] * torch.outer(u[:, 0], v[0])) / s[0]
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-9)
    assert bias.shape == (1, 1, 3)


# Gradients, starts, state


@pytest.mark.slow
@pytest.mark.parametrize(("role", "kind"), [each for each in ROLES if each != ("generator", "jkoflow_unet")])  # a map
def test_gradients_against_differences(role, kind):
    net, x = both(
        role, kind, streams(0), n=2, width=2 if kind == "jkoflow_unet" else 4, settled=200
    )  # u and v exact: their own change is of second order
    along = streams(9).normal(net.parameters.flat.numel())[0]

    def loss(x):
        return net(x, frozen=role == "spectral").sin().sum()

    x.requires_grad_()
    assert torch.autograd.gradcheck(loss, x, atol=1e-5)
    slope = net.parameters.gradient(net(x).sin().sum()) @ along
    values = []
    for sign in (1, -1):
        net.parameters.flat.add_(along, alpha=sign * 1e-6)
        for _ in range(50 if net.buffers else 0):
            net(x)
        values.append(loss(x).item())
        net.parameters.flat.sub_(along, alpha=sign * 1e-6)
    assert slope.item() == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("kind", CRITICS)
def test_gradient_penalties_have_gradients(kind):
    net, x = both("critic", kind, streams(0), n=2)
    along = streams(9).normal(net.parameters.flat.numel())[0]

    def penalty():
        leaf = x.detach().requires_grad_()
        return torch.autograd.grad(net(leaf).sum(), leaf, create_graph=True)[0].square().sum()

    found = torch.autograd.grad(penalty(), net.parameters.leaves, allow_unused=True)  # the last bias is not in it
    parts = along.split([leaf.numel() for leaf in net.parameters.leaves])
    slope = sum((g.flatten() @ a for g, a in zip(found, parts, strict=True) if g is not None), torch.zeros(()))
    values = []
    for sign in (1, -1):
        net.parameters.flat.add_(along, alpha=sign * 1e-7)
        values.append(penalty().item())
        net.parameters.flat.sub_(along, alpha=sign * 1e-7)
    assert slope.item() == pytest.approx((values[0] - values[1]) / 2e-7, rel=1e-4)


@pytest.mark.parametrize(("role", "kind"), ROLES)
def test_frozen_cuts_the_parameters_alone(role, kind):
    net, x = both(role, kind, streams(0), settled=150)
    x.requires_grad_()
    values = net(x, frozen=True, alone=False)
    torch.testing.assert_close(values, net(x).detach(), rtol=1e-3, atol=1e-3)
    found = torch.autograd.grad(values.sum(), [x, *net.parameters.leaves], allow_unused=True)
    assert found[0].abs().max() > 0
    assert all(part is None for part in found[1:])


@pytest.mark.parametrize("kind", ["mlp", "unet"])
def test_transport_starts_at_the_identity_and_leaves_it(kind):
    rng = streams(0)
    net, x = made("transport", kind, rng), rng.normal(6, *IMAGE)
    assert torch.equal(net(x), x)
    adam = Adam(net.parameters, 1e-2)
    for _ in range(2):
        before = net.parameters.flat.clone()
        adam.descend((net(x) - 1).square().mean(), 1.0)
    assert (net(x) - x).abs().max() > 1e-2
    assert (net.parameters.flat != before).double().mean() > 0.95, "the second step reaches all layers"
    start = networks.generator("unet", IMAGE, math.prod(IMAGE), 4, None, rng.fork("net"))
    assert torch.equal(start(x.flatten(2)), x)


@pytest.mark.parametrize("role", ["generator", "critic"])
def test_small_net_starts_as_torch_s_layers(role):
    """A transposed convolution's bound is that of its outputs: 27^(-1/2) for three of them, not 2304^(-1/2)."""
    rng = streams(0)
    net = made(role, "otm", rng, (3, 32, 32), width=32)
    for leaf in net.parameters.leaves:
        if leaf.dim() == 5:
            fan_in = math.prod(leaf.shape[2:])
            assert 0.98 * fan_in**-0.5 < leaf.abs().max() <= fan_in**-0.5
    if role == "generator":
        assert net.parameters.leaves[-2].shape == (1, 32, 3, 3, 3)


def test_initial_weights():
    rng = streams(0, 1)
    for kind, shape in (("dcgan", (3, 32, 32)), ("resnet", (3, 32, 32))):
        net = networks.critic(kind, shape, 1, 32, None, rng.fork("net"))
        for leaf in net.parameters.leaves:
            if leaf.dim() == 2 or leaf.shape[1] == 1:
                assert not leaf.any(), "biases"
                continue
            fans = leaf.shape[1] + leaf.shape[2]
            block = leaf.dim() == 5 and leaf.shape[-1] == 3
            patch = math.prod(leaf.shape[3:])
            deviation = 0.02 if kind == "dcgan" else (2 * (1 + block) / (fans * patch)) ** 0.5
            count = leaf[0].numel()
            assert leaf[0].std().item() == pytest.approx(deviation, rel=5 * (0.5 / count) ** 0.5)
            assert not torch.equal(leaf[0], leaf[1])


@pytest.mark.parametrize(
    ("role", "kind"),
    [("spectral", "resnet"), ("spectral", "dcgan"), ("transport", "unet"), *(("generator", k) for k in BATCH_NORM)],
)
def test_goes_on_from_saved_parameters_and_buffers(role, kind):
    def steps(net, adam, x, count):
        for _ in range(count):
            adam.descend(net(x).square().mean(), 1.0)

    rng = Streams((0, 1))
    whole, x = both(role, kind, rng)
    whole_adam = Adam(whole.parameters, 1e-2)
    steps(whole, whole_adam, x, 2)
    saved, buffers = whole_adam.state(), {name: part.clone() for name, part in whole.buffers.items()}
    steps(whole, whole_adam, x, 2)
    later = made("critic" if role == "spectral" else role, kind, Streams((7, 8)), spectral=role == "spectral")
    later_adam = Adam(later.parameters, 1e-2)
    later_adam.load(saved)
    later.load_buffers(buffers)
    steps(later, later_adam, x, 2)
    assert torch.equal(whole.parameters.flat, later.parameters.flat)
    assert all(torch.equal(part, later.buffers[name]) for name, part in whole.buffers.items())
    assert torch.equal(whole(x, frozen=True), later(x, frozen=True))
    with pytest.raises(ValueError, match="expected"):
        later.load_buffers({"u99": x})


def test_a_copy_stays_as_it_is():
    net, x = both("spectral", "dcgan", streams(0))
    kept, before = copy.deepcopy(net), net(x, frozen=True)
    Adam(net.parameters, 1e-1).descend(net(x).sum(), 1.0)
    assert torch.equal(kept(x, frozen=True), before)
    assert not torch.equal(net(x, frozen=True), before)


class Dtypes(TorchDispatchMode):
    """The types of real numbers that operations give."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.seen |= {x.dtype for x in tree_leaves(out) if isinstance(x, torch.Tensor) and x.is_floating_point()}
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("role", "kind"), ROLES)
def test_one_precision_throughout(role, kind, dtype):
    """No layer takes another one, forward or backward: what a row says is what ran."""
    net, x = both(role, kind, Streams((0, 1), dtype=dtype), width=8)
    with Dtypes() as types:
        net.parameters.gradient(net(x).square().sum())
    assert types.seen == {dtype}


def test_images_of_all_seeds_side_by_side():
    x = torch.zeros(2, 3, 4, 5, 5).double()
    assert conv.folded(x).shape == (3, 8, 5, 5)
    assert torch.equal(conv.unfolded(conv.folded(x), 2), x)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda rng: networks.generator("dcgan", (2,), 5, 4, None, rng),
            r"a dcgan generator for points of shape \(2,\)",
        ),
        (lambda rng: networks.critic("unet", IMAGE, 1, 4, None, rng), "mlp or dcgan or resnet"),
        (lambda rng: networks.transport("resnet", IMAGE, 4, None, rng), "mlp or unet"),
        (lambda rng: networks.critic("dcgan", (1, 10, 10), 1, 4, None, rng), "multiples of 4"),
        (lambda rng: networks.critic("dcgan", (1, 28, 28), 1, 4, 3, rng), "multiples of 8"),
        (lambda rng: networks.transport("unet", (1, 9, 9), 4, None, rng), "multiples of 2"),
        (lambda rng: networks.generator("unet", IMAGE, 7, 4, None, rng), "latent = 7"),
    ],
)
def test_what_does_not_fit_is_refused(call, words):
    with pytest.raises(UserError, match=words):
        call(Streams((0,)))
