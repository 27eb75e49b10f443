"""Every method and every task through the real driver on the pretended device, metrics included, and all fields."""

import dataclasses
import itertools
import typing

import pytest
import torch

from gwfbench.budget import Budget
from gwfbench.check.trial import Subject, lean
from gwfbench.drive import shapes
from gwfbench.drive.execute import Setting, execute
from gwfbench.drive.job import Job
from gwfbench.drive.log import Log
from gwfbench.errors import UserError
from gwfbench.info import Initial
from gwfbench.plugins import registry
from gwfbench.protocol import Pushed
from gwfbench.rng import Streams

PLUGINS = {kind: list(registry.plugins(kind).values()) for kind in ("task", "method")}
POINTS = 300
PARTICLES = 64  # of a small copy of mmd_flow
CHEAP = ("ula", "mmd_flow", "porous_particles", "riesz_flow")  # whose laws are judged where a task is what matters


def cheap(plugin):
    return CHEAP.index(plugin.name) if plugin.name in CHEAP else len(CHEAP)


def fitting():
    """Each method with the first task that fits, by one metric; each task with a cheap method that does, by all."""
    for method in PLUGINS["method"]:
        yield False, next(task for task in PLUGINS["task"] if registry.fits(task, method)), method
    for task in PLUGINS["task"]:
        yield True, task, min((each for each in PLUGINS["method"] if registry.fits(task, each)), key=cheap)


PAIRS = {
    f"{task.name}-{method.name}{'-all metrics' * whole}": (whole, task, method) for whole, task, method in fitting()
}


def small(task, whole):
    """Its smoke copy on few points, with all metrics or only the headline and its own."""
    made = Subject(task, task.name).small
    if "fake" in made.__dataclass_fields__:  # image metrics judge as many points as their name says, and no others
        made = dataclasses.replace(made, fake=PARTICLES)
    made = lean(made, POINTS)
    if whole:
        type(made).metrics = task.load().metrics
    return made


def together(method):
    return (2, 7) if method.seeds == "batched" else (7,)


@pytest.mark.parametrize("pair", PAIRS)
def test_a_run_on_the_device(pretended, pair):
    whole, task, method = PAIRS[pair]
    contestant, log = Subject(method, method.name).small, Log()
    job = Job(small(task, whole), contestant, together(contestant), "cuda")
    with pretended() as seen:
        runs = execute(job, Setting("device", curve=False), lambda *_: None, log)
    assert seen.faults == {}
    assert {(run.status, run.reason) for run in runs} == {("ok", "")}, log.getvalue()[-3000:]
    assert [row.metric for run in runs for row in run.rows if row.worst] == []
    assert all(run.rows for run in runs)


@pytest.mark.parametrize("method", PLUGINS["method"], ids=lambda each: each.name)
def test_the_device_gives_the_hosts_numbers(pretended, method):
    """Blocks, questions of a loop every few steps, graphs and buffers change nothing: both add up on the CPU here."""
    task = next(task for task in PLUGINS["task"] if registry.fits(task, method))
    both = []
    for device in ("cpu", "cuda"):
        with pretended():
            rng, made = Streams((7,), torch.device(device), torch.float64), Subject(method, method.name).small
            problem = Subject(task, task.name).small.build(rng.fork("task")).problem
            cloud = problem[Initial].draw(64, rng.fork("start"))
            for k, law in enumerate(shapes.laws(made, problem, Budget(), rng.fork("method"))):
                with torch.no_grad():
                    cloud = moved(law, cloud, rng.fork(f"noise/{k}"))
            both.append(cloud.detach().cpu())
    torch.testing.assert_close(*both, rtol=1e-6, atol=1e-6)


# Fields whose choice is a number, next to those whose type says what the choices are.
MORE = {
    "vjko": (
        "dropout=0.1,map=prelu",
        "weight_decay=1e-7",
        "rows=16",
        "map=icnn,head=exp1",
        "proposal=student,map=prelu",
    ),
    "jko_icnn": ("rank=2", "pretrain=3"),
    "gwf": ("independent=1", "ema=0.9", "prior=initial,independent=1"),
    "svgd": ("rows=16",),
    "kale_flow": ("noise=0.1", "sigma=0.5"),
    "drmmd": ("bandwidth=0.5",),
    "blob": ("bandwidth=0.5",),
    "ksd_descent": ("sigma=0.5",),
}
WITH = ("ou", "gaussian", "toy2d", "aggregation", "barenblatt", "blr", "images", "two_points", "sphere")


def choices():
    """Each method with each choice of each field that has a fixed set of them."""
    for method in PLUGINS["method"]:
        cls = method.load()
        hints = typing.get_type_hints(cls)
        texts = []
        for field in dataclasses.fields(cls):
            options = typing.get_args(hints[field.name]) or (hints[field.name],)
            options = [part for option in options for part in (typing.get_args(option) or (option,))]
            if bool in options:
                texts.append(f"{field.name}={str(not field.default).lower()}")
            texts += [
                f"{field.name}={option}" for option in options if isinstance(option, str) and option != field.default
            ]
        for text in dict.fromkeys((*texts, *MORE.get(method.name, ()))):
            yield f"{method.name}:{text}"


def moved(law, cloud, noise):
    """The points of a law, its density asked for too."""
    if isinstance(law, Pushed):
        if law.log_det:
            law.log_det(cloud)
        cloud = law.push(cloud, noise)
        if law.inverse:
            law.inverse(cloud)
        return cloud
    drawn = law.draw(min(len(cloud[0]), law.limit or len(cloud[0])), noise)
    if law.log_prob:
        law.log_prob(drawn)
    return drawn


def carried(part):
    """A part of a state as a checkpoint keeps it: to the host and back."""
    return part.cpu().to("cuda") if isinstance(part, torch.Tensor) else part


def walked(task, method):
    """Two laws on the device, and one more from the state of the first."""
    rng = Streams(together(method), torch.device("cuda"))
    problem = task.build(rng.fork("task")).problem
    cloud, kept = problem[Initial].draw(64, rng.fork("start")), None
    for k, law in enumerate(itertools.islice(shapes.laws(method, problem, Budget(), rng.fork("method")), 2)):
        with torch.no_grad():
            cloud = moved(law, cloud, rng.fork(f"noise/{k}"))
        if kept is None and law.state is not None:
            kept = {name: carried(part) for name, part in law.state().items()}
    if kept is not None:
        next(shapes.laws(method, problem, Budget(), rng.fork("method"), kept))


@pytest.mark.slow
@pytest.mark.parametrize("text", list(choices()))
def test_each_choice_of_a_field_on_the_device(pretended, text):
    """On the first task, and the first of images, where it may be chosen."""
    method = registry.find("method", registry.head(text))
    made, kinds = 0, set()
    for name in WITH:
        task = registry.find("task", name)
        kind = name == "images"
        if not registry.fits(task, method) or kind in kinds:
            continue
        try:
            subject = Subject(method, text)
            with pretended() as seen:
                walked(Subject(task, name).small, subject.small)
        except UserError:  # not on this task, or not with the other fields' defaults
            continue
        assert seen.faults == {}
        made += 1
        kinds.add(kind)
    if not made:
        pytest.skip("nowhere by itself")
