"""vjko and jko_icnn, each value of each field and pairs of them, on every kind of task: it runs, or a UserError says why not."""

import dataclasses
import itertools
import typing

import pytest
import torch

from gwfbench.budget import Budget
from gwfbench.drive import shapes
from gwfbench.errors import UserError
from gwfbench.info import Initial
from gwfbench.plugins import registry
from gwfbench.rng import Streams

TASKS = (  # one of each choice of infos, with and without a density of P_0, limits and times
    *("ou", "gmm", "two_points", "sphere", "toy2d", "blr:data=banana", "blr:data=banana,posterior=authors"),
    *("barenblatt:steps=2", "barenblatt:m=1.5,dim=1", "aggregation", "aggregation_diffusion"),
)
TINY = {"iterations": 1, "batch": 8, "pool": 16, "width": 2, "depth": 1, "steps": 2, "partners": 4}
NUMBERS = {  # values of fields that are no choices, one below and one beside the ordinary
    "vjko": {
        "step": [0.01], "pool": [8, None], "batch": [1], "critic_width": [3], "critic_depth": [2], "halve_after": [0],
        "weight_decay": [0.1], "dropout": [0.5], "dropout_from": [2], "strong": [0.9], "volume": [1.0], "box": [1.0, None],
        "warmup": [0, 1], "rows": [4], "partners": [100], "forces": [1], "critic_steps": [2], "map_steps": [2],
    },
    "jko_icnn": {"step": [0.01], "pool": [8], "batch": [1], "rank": [2], "strong": [0.9], "partners": [1, 100],
                 "pretrain": [2], "probes": [2], "cg_steps": [1]},
}  # fmt: skip


def choices(cls):
    """Values of each field that has a choice, None and booleans included."""
    hints, found = typing.get_type_hints(cls), {}
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        parts = typing.get_args(hint) if typing.get_origin(hint) is not typing.Literal else (hint,)
        values = [value for part in (parts or (hint,)) for value in typing.get_args(part)]
        values += [True, False] * (bool in (hint, *parts))
        if values:
            found[field.name] = values
    return found


def values(name):
    cls = registry.find("method", name).load()
    every = {**choices(cls), **NUMBERS[name]}
    return cls, [(field, value) for field, several in every.items() for value in several]


def outcome(cls, fields, task):
    """How it ended: it ran, or a UserError refused it; anything else comes through."""
    problem = TASK_PROBLEMS[task]
    try:
        method = cls(**{**TINY, **fields})
        for law in itertools.islice(shapes.laws(method, problem, Budget(), Streams((0,)).fork("method")), 2):
            with torch.no_grad():
                law.push(problem[Initial].draw(3, Streams((0,))), Streams((0,)))
    except UserError:
        return "refused"
    return "ran"


TASK_PROBLEMS = {task: registry.parse("task", task).build(Streams((0,)).fork("task")).problem for task in TASKS}


def fitting(cls):
    for task in TASKS:
        offered = {type(info) for info in TASK_PROBLEMS[task].infos}
        if cls.needs <= offered and cls.one_of & offered:
            yield task


FEW = ("aggregation", "barenblatt:m=1.5,dim=1", "blr:data=banana")


def walk(name, pairs, tasks):
    cls, every = values(name)
    seen = {"ran": 0, "refused": 0}
    for task in filter(set(tasks).__contains__, fitting(cls)):
        for combination in pairs(every):
            fields = dict(combination)
            if len(fields) < len(set(combination)):
                continue  # two values of one field
            try:
                seen[outcome(cls, fields, task)] += 1
            except Exception as error:
                pytest.fail(f"{name}:{fields} on {task}: {error!r}")
    return seen


def alone(every):
    return [(one, one) for one in every]


def choices_and_energies(every):
    """Each choice with each other one, and each other value with each energy."""
    for one, other in itertools.combinations(every, 2):
        if all(isinstance(value, str | bool) for _, value in (one, other)) or "energy" in (one[0], other[0]):
            yield one, other


@pytest.mark.parametrize("name", ["vjko", "jko_icnn"])
def test_each_value_runs_or_is_refused(name):
    seen = walk(name, alone, FEW)
    assert seen["ran"] > 40
    assert seen["refused"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", ["vjko", "jko_icnn"])
def test_each_pair_of_choices_runs_or_is_refused(name, task):
    if task in fitting(registry.find("method", name).load()):
        assert walk(name, choices_and_energies, [task])["ran"] > 0
