"""What a method's loop asks of a device: kernels launched, and waits of the host, per step.

The numbers are exact: a run of `high` steps less one of `low`, divided by the difference, no law drawn or judged. More
of them is a failure; fewer is a gain, and the table then says the new number. A wait is a stop of the host until the
device has done all that is queued. Where a loop has some, the table says why. Four loops end when their numbers say so,
after a step more or less on another processor: their bounds are a tenth higher.
"""

import math
from dataclasses import dataclass

import pytest
import torch

from gwfbench.budget import Budget
from gwfbench.check.trial import Subject
from gwfbench.drive import shapes
from gwfbench.plugins import registry
from gwfbench.rng import Streams


@dataclass(frozen=True)
class Bound:
    """A run's most launches and waits for each step that `field` counts, which is set to `low` and to `high`.

    Args:
        method: with the fields that make its steps alike.
        why: the waits are there.
    """

    task: str
    method: str
    field: str
    launches: int
    waits: int = 0
    why: str = ""
    low: float = 3
    high: float = 7
    seeds: int = 2


FAR = "one to a pair of clouds: whether points are too far for a matrix product"  # distances.apart
BOUNDS = (
    Bound("ou:dim=32", "vjko:critic_steps=3", "iterations", 178, seeds=15),
    Bound("ou", "jko_icnn", "iterations", 186),
    Bound("toy2d", "gan:every=1", "iterations", 171),
    Bound("images", "gan:loss=sngan,network=sngan,fakes=48,every=1", "iterations", 1955),
    Bound("images", "gwf:network=otm,lazy=2", "iterations", 356),
    Bound("images", "jko_flow", "iterations", 400),
    Bound("toy2d", "gwf", "iterations", 170),
    Bound("toy2d", "sjko", "iterations", 183),
    Bound("toy2d", "jko_flow", "iterations", 110),
    Bound("toy2d", "riesz_flow", "steps", 46),
    Bound("toy2d", "sliced_flow", "steps", 27),
    Bound("toy2d", "vgrow", "steps", 65),
    Bound("toy2d", "mmd_flow", "steps", 67, 1, FAR),
    Bound("toy2d", "drifting", "steps", 199, 4, FAR),
    Bound("gaussian", "radon_flow", "steps", 74, 1, "the length of the grid"),
    Bound("toy2d", "f_flow", "steps", 167, 8, f"{FAR}; SciPy solves on the host"),
    Bound("toy2d", "ift_flow", "steps", 160, 3, FAR),
    Bound("toy2d", "gf_drifting", "steps", 144, 3, FAR),
    Bound("gaussian", "svgd", "steps", 90, 3, FAR),
    Bound("toy2d", "drmmd", "steps", 412, 7, f"{FAR}; conjugate gradients, every 4 steps"),
    Bound("toy2d", "kale_flow", "steps", 1966, 33, f"{FAR}; conjugate gradients, every 4 steps; Newton's; line search"),
    Bound("toy2d", "sinkhorn_flow", "steps", 1212, 11, f"{FAR}; whether a round was the last: another is 60 launches"),
    Bound("gaussian", "ula", "steps", 60, 1, "whether a seed is unstable, which is said at once", seeds=2),
    Bound("gaussian", "mala", "laws", 151, 1, "whether pilots have forgotten their start", low=6, high=9, seeds=1),
    Bound(
        "gaussian", "smc:leapfrogs=1,after=0,moves=4", "temperatures", 507, 2, "whether weights are 0; the end", seeds=1
    ),
    Bound("gaussian", "dds:every=1", "iterations", 846),
    Bound("gaussian", "pis:every=1", "iterations", 841),
    Bound("gaussian", "drift_density:every=1", "steps", 146, 3, FAR),
    Bound("gaussian", "nuts:depth=1,warmup=1", "laws", 228, 21, "which chains go on", low=6, high=9, seeds=1),
    Bound("gaussian", "blob", "steps", 148, 6, f"{FAR}; bandwidth and speed: t is a number of the host", seeds=1),
    Bound("gaussian", "gaussian_vi", "steps", 116, 2, "whether eigenvalues were found"),
    Bound("ou", "ksd_descent", "laws", 342, 19, f"{FAR}; torch's L-BFGS; bandwidth and gradient", high=6, seeds=1),
    Bound("barenblatt", "porous_particles", "step", 215, 6, f"{FAR}; h and the step: t is the host's", 1e-4, 5e-5, 1),
)


def asked(pretended, bound, steps):
    """Launches and waits of the method, the task's set-up left out."""
    task = Subject.read("task", bound.task).small
    method = Subject.read("method", f"{bound.method}{',' if ':' in bound.method else ':'}{bound.field}={steps}").small
    with pretended() as seen:
        rng = Streams(tuple(range(bound.seeds)), torch.device("cuda"))
        problem = task.build(rng.fork("task")).problem
        before = seen.launches, seen.waits
        laws = sum(1 for _ in shapes.laws(method, problem, Budget(), rng.fork("method")))
        return laws, seen.launches - before[0], seen.waits - before[1]


@pytest.mark.parametrize(
    "bound", BOUNDS, ids=lambda bound: f"{bound.method.partition(':')[0]}-{bound.task.partition(':')[0]}"
)
def test_launches_and_waits_per_step(pretended, bound):
    low, high = (asked(pretended, bound, steps) for steps in (bound.low, bound.high))
    laws = high[0] - low[0]
    times = laws or (bound.high - bound.low) * low[0]  # a law more to each step, or more steps to each law
    launches, waits = (math.ceil((b - a) / times) for a, b in zip(low[1:], high[1:], strict=True))
    assert 0 < launches <= bound.launches
    assert waits <= bound.waits


def test_every_method_has_a_bound():
    assert {bound.method.partition(":")[0] for bound in BOUNDS} == set(registry.plugins("method"))


def test_waits_have_reasons():
    assert all(bool(bound.why) == bool(bound.waits) for bound in BOUNDS)
