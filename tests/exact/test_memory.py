"""No field by samples makes a tensor of points x points x dimensions."""

import pytest
import torch

from gwfbench.budget import Budget
from gwfbench.plugins import registry
from gwfbench.rng import Streams

N, DIM = 512, 64
FIELDS = ("equation4", "algorithm2", "official", "parzen_kl", "sinkhorn_proxy", "sinkhorn", "mmd", "sliced", "critic")
METHODS = (
    *(
        "mmd_flow",
        "mmd_flow:kernel=gaussian",
        "mmd_flow:kernel=matern32",
        "kale_flow",
        "drmmd",
        "sliced_flow",
        "riesz_flow",
    ),
    *("f_flow", "ift_flow", "sinkhorn_flow", "vgrow", "gf_drifting", "gf_drifting:chi2=1"),
    *(f"drifting:carrier=particles,field={field}" for field in FIELDS),
)


def test_what_is_too_large_is_seen(largest):
    x = torch.zeros(N, DIM)
    with largest() as seen:
        _ = (x[:, None] - x[None]).sum()
    assert seen.bytes == 4 * N * N * DIM


@pytest.mark.parametrize("words", METHODS)
def test_the_largest_tensor_has_a_few_numbers_a_pair(words, largest):
    joint = "," if ":" in words else ":"
    many = f"particles={N},cap=1" if words == "ift_flow" else f"points={N}"
    method = registry.parse("method", f"{words}{joint}{many},batch={N},steps=2")
    rng = Streams((3,))
    problem = registry.parse("task", f"gmm:dim={DIM}").build(rng.fork("task")).problem
    with largest() as seen:
        law = next(iter(method.fit(problem, Budget(), rng.fork("method"))))
        assert law.draw(N, rng).isfinite().all()
    assert N * DIM <= seen.bytes / 4 <= 4 * N * N
