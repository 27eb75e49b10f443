"""LJ13: the energy at the icosahedron, symmetries, and published draws that are read and refused."""

import hashlib
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch

from gwfbench.errors import UserError
from gwfbench.info import Initial, LogDensity
from gwfbench.metrics import choose
from gwfbench.metrics.clusters import coordinates, pairs, positions
from gwfbench.plugins import registry
from gwfbench.rng import Streams

lj13 = sys.modules[registry.find("task", "lj13").load().__module__]
GROUND = -44.326801  # of 13 particles, in units of the depth of a pair (Hoare and Pal 1971)


def build(text="lj13", seeds=(3, 5, 8), dtype=torch.float64):
    return registry.parse("task", text).build(Streams(seeds, dtype=dtype).fork("task"))


def icosahedron():
    """One particle in the middle, twelve at distance 1 from it."""
    golden = (1 + math.sqrt(5)) / 2
    corners = [(0, a, b * golden) for a in (-1, 1) for b in (-1, 1)]
    corners = [corner[k:] + corner[:k] for corner in corners for k in range(3)]
    x = torch.tensor([(0, 0, 0), *corners]).double()
    return x / math.hypot(1, golden)


def fluid(n, seed=0):
    """Points near the icosahedron, so that no two particles are too near."""
    noise = Streams((seed,), dtype=torch.float64).normal(n, 13, 3)[0]
    return coordinates(1.1 * icosahedron() + 0.05 * noise)[None]


@pytest.mark.parametrize(("field", "depth"), [("once", 1.0), ("twice", 2.0)])
def test_the_icosahedron_has_its_known_energy(field, depth):
    """Without the trap, at the best size; a pair at rest has -depth at distance 1."""
    density = build(f"lj13:pairs={field}").problem[LogDensity]

    def energy(size):
        z = coordinates(size * icosahedron())[None, None]
        return -float(density.log_prob(z)) - 0.5 * float(z.square().sum())

    best = scipy.optimize.minimize_scalar(energy, bracket=(0.9, 1.0), tol=1e-12)
    assert best.fun == pytest.approx(depth * GROUND, abs=1e-5 * depth)


def test_two_particles_by_hand():
    """The other eleven far away in a line, 1000 apart: their energy is theirs with the trap's."""
    x = torch.zeros(13, 3).double()
    x[:, 0] = 1000 * torch.arange(13)
    x[1] = torch.tensor([0.0, 1.2, 0.0])
    z = coordinates(x)[None, None]
    trap = 0.5 * float((x - x.mean(0)).square().sum())  # 1e8: five digits of the pair are left
    assert -float(lj13.log_density(z, 1.0)) - trap == pytest.approx(1.2**-12 - 2 * 1.2**-6, abs=1e-5)
    assert float(pairs(positions(z, 13))[1].min()) == pytest.approx(1.2)


@pytest.mark.parametrize("text", ["lj13", "lj13:pairs=twice"])
def test_score_is_the_gradient(text):
    density = build(text).problem[LogDensity]
    x = fluid(20).requires_grad_()
    (gradient,) = torch.autograd.grad(density.log_prob(x).sum(), x)
    torch.testing.assert_close(density.score(x), gradient)
    torch.testing.assert_close(density.score(x.detach().float()).double(), gradient, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(build(text).truth.score(0, x.detach()), gradient)


def test_twice_is_twice_the_pairs_and_the_same_trap():
    x = fluid(5)
    once, twice = (build(f"lj13:pairs={field}").problem[LogDensity].log_prob(x) for field in ("once", "twice"))
    trap = -0.5 * x.square().sum(-1)
    torch.testing.assert_close(twice - trap, 2 * (once - trap))


def test_symmetries():
    x = positions(fluid(6), 13)
    turn, _ = torch.linalg.qr(Streams((1,), dtype=torch.float64).normal(3, 3)[0])
    order = torch.randperm(13, generator=torch.Generator().manual_seed(1))
    value, score = (f(coordinates(x), 1.0) for f in (lj13.log_density, lj13.log_slope))
    for move in (lambda y: y @ turn, lambda y: -y, lambda y: y[..., order, :]):
        torch.testing.assert_close(lj13.log_density(coordinates(move(x)), 1.0), value)
        torch.testing.assert_close(lj13.log_slope(coordinates(move(x)), 1.0), coordinates(move(positions(score, 13))))
    torch.testing.assert_close(lj13.log_density(coordinates(x + 5), 1.0), value)


def test_p0_is_normal(streams):
    start = build("lj13:start=2").problem[Initial]
    x = start.draw(1000, streams)
    assert scipy.stats.kstest(x.flatten().numpy() / 2, scipy.stats.norm.cdf).pvalue > 1e-6
    torch.testing.assert_close(start.log_prob(x), torch.from_numpy(scipy.stats.norm(0, 2).logpdf(x.numpy()).sum(-1)))


@pytest.fixture(scope="module")
def chain():
    """Draws of pairs=twice by a short HMC of many chains from the icosahedron: (2400, 39), good to a few per cent."""
    rng = Streams((0,), dtype=torch.float64)
    z, kept = fluid(800)[0], []
    for step in range(240):
        p = rng.normal(*z.shape)[0]
        y, h = z, 0.03
        q = p + h / 2 * lj13.log_slope(y, 2.0)
        for last in [False] * 11 + [True]:
            y = y + h * q
            q = q + (h / 2 if last else h) * lj13.log_slope(y, 2.0)
        gain = lj13.log_density(y, 2.0) - lj13.log_density(z, 2.0) + 0.5 * (p.square() - q.square()).sum(-1)
        z = torch.where((rng.uniform(len(z))[0].log() < gain)[:, None], y, z)
        if step in (160, 200, 239):
            kept.append(z)
    return positions(torch.cat(kept), 13).flatten(1).numpy()


@pytest.fixture(params=["npy", "npz"])
def folder(request, chain, tmp_path):
    path = tmp_path / f"test_split_LJ13-1000.{request.param}"
    np.save(path, chain.astype("f4")) if request.param == "npy" else np.savez(path, x=chain.astype("f4"))
    return tmp_path


@pytest.mark.slow
def test_draws_are_the_file_s_up_to_symmetries_and_kept_apart(folder, chain):
    instance = build(f"lj13:pairs=twice,data_root={folder}")
    truth, streams = instance.truth, Streams((3, 5, 8), dtype=torch.float64)
    assert truth.limit == 1200
    x, y = truth.draw(0, 1200, streams), truth.reference(0, 1200, streams)
    # energies and distances are those of the first half, and of the second
    for found, part in ((x, chain[:1200]), (y, chain[1200:])):
        expected = lj13.log_density(
            coordinates(torch.from_numpy(part.astype("f4")).double().unflatten(1, (13, 3))), 2.0
        )
        for one in lj13.log_density(found, 2.0):
            torch.testing.assert_close(one.sort().values, expected.sort().values)
    flat = x.flatten(0, 1)
    assert float(flat.mean(0).abs().max()) < 6 * float(flat.std()) / len(flat) ** 0.5  # no direction is left
    with pytest.raises(ValueError, match="1200 draws are at hand; 1201 were asked for"):
        truth.draw(0, 1201, streams)
    metrics = choose(type(registry.parse("task", "lj13")).metrics, truth.metrics)
    assert not any(truth.lacks(metric, "none") for metric in metrics)
    assert registry.parse("task", f"lj13:pairs=twice,data_root={folder}").data_files()[0].parent == folder


@pytest.mark.slow
def test_draws_of_the_other_density_are_refused(chain, tmp_path, monkeypatch):
    """E[z . grad U] = 36 for draws of pairs=twice alone."""
    np.save(tmp_path / "test_split_LJ13-1000.npy", chain)
    z = coordinates(torch.from_numpy(chain).unflatten(1, (13, 3)))
    virial = {depth: -(z * lj13.log_slope(z, depth)).sum(-1) for depth in (1.0, 2.0)}
    errors = {depth: abs(float(v.mean()) - 36) / float(v.std()) * len(z) ** 0.5 for depth, v in virial.items()}
    assert errors[2.0] < 6 < errors[1.0]
    with pytest.raises(UserError, match=r"the mean of z \. grad U"):
        lj13._read(tmp_path / "test_split_LJ13-1000.npy", 1.0)


def test_files_that_can_t_be_used_are_told(tmp_path):
    with pytest.raises(UserError, match=r"no test_split_LJ13-1000\.npy in") as caught:
        registry.parse("task", f"lj13:pairs=twice,data_root={tmp_path}").data_files()
    assert "jarridrb/DEM" in caught.value.expected
    path = tmp_path / "test_split_LJ13-1000.npy"
    for content, what in (
        (np.zeros((3000, 5)), r"shape \(3000, 5\)"),
        (np.zeros((30, 39)), r"shape \(30, 39\)"),
        (np.full((3000, 39), np.nan), "not finite"),
    ):
        np.save(path, content)
        with pytest.raises(UserError, match=what):
            build(f"lj13:pairs=twice,data_root={tmp_path}")
    path.write_bytes(b"no numbers")
    with pytest.raises(UserError, match="can't be read"):
        build(f"lj13:pairs=twice,data_root={tmp_path}")


def test_reference_draws_are_of_twice_alone(tmp_path):
    with pytest.raises(UserError, match="pairs=once") as caught:
        registry.parse("task", f"lj13:data_root={tmp_path}")
    assert "pairs=twice" in caught.value.fix
    assert registry.parse("task", "lj13").data_files() == []


@pytest.mark.parametrize(("name", "depth"), [("once", 1.0), ("twice", 2.0)])
def test_own_draws_are_certified_and_of_their_density(name, depth):
    """Every check of the certificate passed, the file is the certified one, and E score = 0, E z . grad U = 36."""
    folder = Path(lj13.files("gwfbench") / "data" / "lj13")
    certificate = json.loads((folder / f"{name}.json").read_text())
    assert hashlib.sha256((folder / f"{name}.npz").read_bytes()).hexdigest() == certificate["sha256"]
    assert all(certificate["checks"].values())
    assert len(certificate["checks"]) == 5
    z = lj13._own(name)
    assert z.shape == (4096, 36)
    assert len(z.unique(dim=0)) == 4096
    score = lj13.log_slope(z, depth)
    assert float((score.mean(0).abs() / score.std(0)).max()) * 64 < 5
    virial = -(z * score).sum(-1)
    assert abs(float(virial.mean()) - 36) < 5 * float(virial.std()) / 64
    other = -(z * lj13.log_slope(z, 3 - depth)).sum(-1)
    assert abs(float(other.mean()) - 36) > 5 * float(other.std()) / 64


def test_all_metrics_judge_own_draws_and_the_two_halves_share_none():
    truth, streams = build("lj13").truth, Streams((3, 5, 8), dtype=torch.float64)
    assert truth.limit == 2048
    metrics = choose(type(registry.parse("task", "lj13")).metrics, truth.metrics)
    assert not any(truth.lacks(metric, "none") for metric in metrics)
    energies = [lj13.log_density(part(0, 2048, streams), 1.0)[0] for part in (truth.draw, truth.reference)]
    assert len(torch.cat(energies).round(decimals=9).unique()) == 4096
