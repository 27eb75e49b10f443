import random

import numpy as np
import pytest
import torch

from gwfbench.rng import Streams, own_globals


def test_a_seed_does_not_depend_on_its_company():
    alone, among = Streams((7,)).fork("a"), Streams((3, 7, 9)).fork("a")
    for _ in range(3):
        assert torch.equal(alone.normal(5, 2)[0], among.normal(5, 2)[1])
        assert torch.equal(alone.uniform(3)[0], among.uniform(3)[1])
        assert torch.equal(alone.integers(10, 4)[0], among.integers(10, 4)[1])
    assert torch.equal(alone.whitened(100, 3)[0], among.whitened(100, 3)[1])


def test_forks_go_by_name_not_by_order():
    root = Streams((0,))
    first = root.fork("x").normal(4)
    root.fork("y").normal(100)
    assert torch.equal(root.fork("x").normal(4), first)
    assert not torch.equal(root.fork("y").normal(4), first)
    assert not torch.equal(root.fork("x").fork("x").normal(4), first)


def test_seeds_differ():
    x = Streams((0, 1, 2)).normal(1000)
    assert torch.corrcoef(x).fill_diagonal_(0).abs().max() < 5 / 1000**0.5


def test_the_global_state_is_neither_read_nor_written():
    torch.manual_seed(1)
    before, first = torch.get_rng_state(), Streams((0,)).normal(3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(Streams((0,)).normal(3), first)


def test_host_streams_do_not_depend_on_precision():
    single, double = Streams((4,)), Streams((4,), dtype=torch.float64)
    assert torch.equal(single.host().normal(3), double.host().normal(3))


def test_whitened_blocks_have_exact_moments():
    x = Streams((1, 2), dtype=torch.float64).whitened(1024 * 2 + 500, 4)
    for block in (x[:, :1024], x[:, 1024:]):  # the last one takes the remainder
        torch.testing.assert_close(block.mean(1), torch.zeros(2, 4).double(), atol=1e-12, rtol=0)
        scatter = block.mT @ block / block.shape[1]
        torch.testing.assert_close(scatter, torch.eye(4).double().expand(2, 4, 4), atol=1e-12, rtol=0)
    assert 0.5 < x.abs().median() < 0.85  # still normal: the median of |x| is 0.674


def test_global_generators_are_a_run_s_own_inside_and_as_before_outside():
    def draws(name):
        with own_globals(name, torch.device("cpu")):
            return torch.rand(()).item(), np.random.rand(), random.random()  # noqa: NPY002

    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[2]  # noqa: NPY002
    one, other = draws("a run"), draws("another run")
    assert one == draws("a run")
    assert not set(one) & set(other)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[2]) == before[1:]  # noqa: NPY002


def test_whitening_needs_points():
    with pytest.raises(ValueError, match="more than 4 points a block, got 4"):
        Streams((0,)).whitened(4, 4)
