import pytest
import torch

from gwfbench.rng import Streams

torch.set_num_threads(1)


@pytest.fixture
def streams():
    """Three seeds in float64 on the CPU."""
    return Streams((3, 5, 8), dtype=torch.float64)
