"""`load(method, task, seed=...)`: the last law of a run, to draw from."""

import hashlib

import pytest
import torch

import gwfbench
from gwfbench.errors import UserError

RUNS = (
    ("ou:horizon=0.2", "vjko:iterations=3,step=0.1"),  # pushed
    ("toy2d", "sliced_flow:steps=3"),  # drawn, a generator or particles
    ("toy2d", "gan:every=2,iterations=4,batch=16"),
    ("gaussian", "gaussian_vi:steps=5"),
    ("gaussian", "ula:step=0.1"),
)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for task, method in RUNS:
        gwfbench.run(task, method, seeds=2, out=folder, controls=False, isolate=False, curve=False, judge=["sliced_w2"])
    return folder


@pytest.mark.parametrize(("task", "method"), RUNS)
def test_new_points_are_of_the_law_that_was_kept(out, task, method):
    law = gwfbench.load(method, task, seed=1, out=out)
    assert (law.task, law.seed) == (task, 1)
    assert law.sha256 == hashlib.sha256(law.points.numpy().tobytes()).hexdigest()
    kept = law.points
    new = law.draw(3000)
    assert new.shape[1:] == kept.shape[1:]
    assert not set(map(tuple, new[:50].tolist())) & set(map(tuple, kept.tolist())) or len(new) <= len(kept)
    spread = kept.std(0) * (1 / len(kept) + 1 / len(new)) ** 0.5
    assert ((new.mean(0) - kept.mean(0)).abs() < 5 * spread + 1e-6).all()
    assert torch.equal(law.draw(100), law.draw(100))
    one, two = law.draw(100, seed=1), law.draw(100, seed=2)
    assert not torch.equal(one, two) or len(new) <= len(kept)


def test_seeds_have_laws_of_their_own(out):
    task, method = RUNS[0]
    assert gwfbench.load(method, task, out=out).sha256 != gwfbench.load(method, task, seed=1, out=out).sha256


def test_a_named_setting_serves(tmp_path):
    gwfbench.run("toy2d", "mmd_flow:steps=100", seeds=1, out=tmp_path, controls=False, isolate=False, curve=False,
                 judge=["sliced_w2"])  # fmt: skip
    assert gwfbench.load("mmd_flow@quick", "toy2d", out=tmp_path).method == "mmd_flow:steps=100"


def test_a_budget_of_steps_can_be_repeated_one_of_seconds_can_not(tmp_path):
    method = "mmd_flow:steps=100000"
    for folder, budget in (("steps", "steps=3"), ("seconds", "seconds=0.3")):
        gwfbench.run("toy2d", method, seeds=1, out=tmp_path / folder, budget=budget, controls=False, isolate=False,
                     curve=False, judge=["sliced_w2"])  # fmt: skip
    assert len(gwfbench.load(method, "toy2d", out=tmp_path / "steps").draw(5)) == 5
    with pytest.raises(UserError, match="seconds"):
        gwfbench.load(method, "toy2d", out=tmp_path / "seconds").draw(5)


def test_other_points_than_those_kept_are_told(out):
    task, method = RUNS[1]
    law = gwfbench.load(method, task, out=out)
    law.points[0, 0] += 1
    with pytest.raises(UserError, match="other points than those kept"):
        law.draw(3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("ula", "ou"), "no finished run of ula on ou under seed 0"),
        (("ulla", "ou"), "ulla"),
        (("ula", "ou", "gmm"), "a method and a task"),
    ],
)
def test_what_is_not_there_is_told(out, words, said):
    with pytest.raises(UserError) as told:
        gwfbench.load(*words, out=out)
    assert said in str(told.value)
