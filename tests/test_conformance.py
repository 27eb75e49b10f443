"""What every task and every method must pass, over the registry, with no exceptions by name."""

import dataclasses
import math

import pytest
import torch

from gwfbench import metrics, registry
from gwfbench.budget import Budget, Meter, counted
from gwfbench.controls import CONTROLS
from gwfbench.info import Initial
from gwfbench.job import Job
from gwfbench.protocol import Drawn, Pushed
from gwfbench.rng import Streams
from gwfbench.runner import execute
from gwfbench.session import Order

TASKS = list(registry.plugins("task").values())
PAIRS = [(t, m) for t in TASKS for m in registry.plugins("method").values() if registry.fits(t, m)]
SEEDS = (2, 7, 11)

task_plugin = pytest.mark.parametrize("plugin", TASKS, ids=lambda plugin: plugin.name)
pair = pytest.mark.parametrize(("task_plugin", "method_plugin"), PAIRS, ids=lambda plugin: plugin.name)


def small(plugin):
    cls = plugin.load()
    return dataclasses.replace(cls(), **cls.smoke)


def build(plugin, seeds=SEEDS, dtype=torch.float32):
    return small(plugin).build(Streams(seeds, dtype=dtype).fork("task"))


def laws(task_plugin, method_plugin, seeds, dtype=torch.float32, nudge=0.0):
    """Points of each yielded law, pushed or drawn as the runner does, 64 a seed; P_0's draws times 1 + nudge."""
    streams = Streams(seeds, dtype=dtype)
    problem = build(task_plugin, seeds, dtype).problem
    start = problem[Initial]
    nudged = dataclasses.replace(start, draw=lambda n, rng: (1 + nudge) * start.draw(n, rng))
    problem = dataclasses.replace(problem, infos=tuple(nudged if i is start else i for i in problem.infos))
    cloud = problem[Initial].draw(64, streams.fork("start"))
    for step, law in enumerate(small(method_plugin).fit(problem, Budget(), streams.fork("method"))):
        with torch.no_grad():
            noise = streams.fork(f"noise/{step}")
            cloud = law.push(cloud, noise) if isinstance(law, Pushed) else law.draw(min(64, law.limit or 64), noise)
        yield law, cloud


@task_plugin
def test_class_variables(plugin):
    cls = plugin.load()
    assert dataclasses.is_dataclass(cls)
    assert cls.__dataclass_params__.frozen
    assert cls.points >= 1000
    assert cls.version >= 1
    assert "title" in cls.reference
    assert metrics.choose(cls.metrics, build(plugin).truth.metrics)


@task_plugin
def test_a_task_can_be_ordered_with_every_method_that_fits(plugin):
    fitting = [method.name for task, method in PAIRS if task is plugin]
    order = Order.read([plugin.name], fitting or ["still"], 2)
    names = [job.identity(0).method for job in order.jobs()]
    assert {"exact", "still", *fitting} <= set(names)
    assert ("exact_jko" in names) == ("symkl_jko" in plugin.load().metrics)


@task_plugin
def test_a_task_gives_what_it_says(plugin):
    instance = build(plugin)
    problem, truth = instance.problem, instance.truth
    assert {type(info) for info in problem.infos} == plugin.load().offers
    assert problem.times == tuple(sorted(problem.times))
    start = problem[Initial].draw(10, Streams(SEEDS))
    assert start.shape == (3, 10, *problem.shape)
    assert start.dtype == torch.float32
    for index in (0, len(problem.times) - 1):
        x = truth.draw(index, 2000, Streams(SEEDS).fork("x"))
        assert x.shape == (3, 2000, *problem.shape)
        assert x.dtype == torch.float32
        assert x.isfinite().all()
        if truth.log_prob is not None:
            assert truth.log_prob(index, x).shape == (3, 2000)
        if truth.moments is not None:
            mean, covariance = truth.moments(index)
            d = math.prod(problem.shape)
            assert (mean.shape, covariance.shape) == ((3, d), (3, d, d))
            assert mean.dtype == torch.float64
            se = covariance.diagonal(dim1=-2, dim2=-1).sqrt() / 2000**0.5
            assert ((x.flatten(2).double().mean(1) - mean).abs() <= 5 * se).all()


@task_plugin
def test_a_task_s_seeds_do_not_depend_on_their_company_and_differ(plugin):
    among, alone = build(plugin), build(plugin, (7,))
    rng = Streams(SEEDS).fork("x"), Streams((7,)).fork("x")
    x, y = among.truth.draw(0, 50, rng[0]), alone.truth.draw(0, 50, rng[1])
    torch.testing.assert_close(x[1:2], y, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(x[0], x[1])


@task_plugin
def test_controls_bracket_the_headline_metric(plugin):
    task = small(plugin)
    headline = task.metrics[0]
    values = {}
    for name in ("exact", "still"):
        (run,) = execute(Job(task, CONTROLS[name], (3,)), "env", None, lambda *_: None)
        assert run.status == "ok", run.reason
        point = [point for point in run.points if point.metric == headline][-1]
        values[name] = -point.value if point.better == "higher" else point.value
    assert values["still"] > values["exact"]


@pair
def test_a_method_yields_finite_laws_to_the_end(task_plugin, method_plugin):
    problem = build(task_plugin).problem
    seen = list(laws(task_plugin, method_plugin, (7,)))
    assert seen
    times = [law.t for law, _ in seen]
    assert times == sorted(set(times)) or method_plugin.load().clock == "none"
    free = method_plugin.load().clock == "none" or math.isinf(problem.times[-1])
    assert free or times[-1] == pytest.approx(problem.times[-1])
    for law, cloud in seen:
        assert isinstance(law, Drawn | Pushed)
        assert cloud.shape[0] == 1
        assert cloud.shape[2:] == problem.shape
        assert cloud.isfinite().all()
        assert not cloud.requires_grad


@pair
def test_batching_is_invisible(task_plugin, method_plugin):
    if method_plugin.load().seeds == "looped":
        pytest.skip("it trains one seed at a time")
    # A batched product rounds differently from a single one, and training may amplify that without end (a critic whose
    # log has a pole, say). So: to 1e-8 in float64, or no more than a nudge of one rounding error does.
    among = [cloud[1:2] for _, cloud in laws(task_plugin, method_plugin, SEEDS, torch.float64)]
    alone = [cloud for _, cloud in laws(task_plugin, method_plugin, (7,), torch.float64)]
    moved = [cloud for _, cloud in laws(task_plugin, method_plugin, (7,), torch.float64, nudge=4e-16)]
    assert len(among) == len(alone) == len(moved)
    for one, other, nudged in zip(among, alone, moved, strict=True):
        rounding = 1000 * float((nudged - other).abs().max())
        torch.testing.assert_close(one, other, rtol=1e-8, atol=max(1e-8, rounding))


@pair
def test_twice_is_the_same_and_another_seed_is_not(task_plugin, method_plugin):
    *_, (_, first) = laws(task_plugin, method_plugin, (7,))
    *_, (_, second) = laws(task_plugin, method_plugin, (7,))
    *_, (_, other) = laws(task_plugin, method_plugin, (8,))
    assert torch.equal(first, second)
    assert not torch.allclose(first, other)


@pair
def test_the_global_random_state_is_left_alone(task_plugin, method_plugin):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    *_, (_, first) = laws(task_plugin, method_plugin, (7,))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    *_, (_, second) = laws(task_plugin, method_plugin, (7,))
    assert torch.equal(first, second)


@pair
def test_precision_is_what_was_asked_for(task_plugin, method_plugin):
    *_, (_, cloud) = laws(task_plugin, method_plugin, (7,), torch.float64)
    assert cloud.dtype == torch.float64


@pair
def test_gradients_are_not_left_off(task_plugin, method_plugin):
    for _ in laws(task_plugin, method_plugin, (7,)):
        assert torch.is_grad_enabled()


@pair
def test_only_the_oracle_is_used_and_it_counts(task_plugin, method_plugin):
    """The judged run of the real runner ends well and has spent something of what the method says that it needs."""
    (run,) = execute(Job(small(task_plugin), small(method_plugin), (7,)), "env", None, lambda *_: None)
    assert run.status == "ok", run.reason
    last = run.points[-1]
    assert last.score_calls + last.log_prob_calls + last.draw_calls + last.sample_calls > 0
    assert counted(build(task_plugin).problem, Meter()).shape == build(task_plugin).problem.shape
