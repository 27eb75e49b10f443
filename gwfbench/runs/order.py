"""From what a user asked for to runs: expand, check, perform, collect."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from operator import index
from typing import Any

import torch

from gwfbench.budget import Budget
from gwfbench.drive.controls import CONTROLS, Control
from gwfbench.drive.job import Job
from gwfbench.errors import UserError, require
from gwfbench.metrics import known as known_metrics
from gwfbench.plugins import instances, registry
from gwfbench.protocol import Method, Task
from gwfbench.store.record import Run

DEVICES = "one of cpu, cuda, cuda:1, ..."


@dataclass(frozen=True)
class Order:
    """What a user asked for, checked.

    Raises:
        UserError: on the first thing that can't be done, before anything runs.
    """

    tasks: tuple[Task, ...]
    contestants: tuple[Method | Control, ...]
    seeds: tuple[int, ...]
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    budget: Budget = field(default_factory=Budget)
    controls: bool = True

    @staticmethod
    def read(
        tasks: Iterable[Any], methods: Iterable[Any], seeds: str | int | Iterable[int], device: str = "cpu",
        dtype: str = "float32", budget: str | Budget = "", controls: bool = True,
    ) -> Order:  # fmt: skip
        """From words: `name:key=value` for tasks and methods (or objects), a number of seeds or a list of them.

        `name:key=1|2` is one with 1 and one with 2.
        """
        tasks, methods = (
            tuple(each for one in many for each in (registry.grid(one) if isinstance(one, str) else [one]))
            for many in (tasks, methods)
        )
        require(bool(tasks), "no task", "at least one", "add --task ou")
        require(bool(methods), "no method", "at least one", "add --method vjko")
        numbers = read_seeds(seeds)
        device = read_device(device)
        kinds = {"float32": torch.float32, "float64": torch.float64}
        require(dtype in kinds, f"--dtype {dtype}", f"one of {', '.join(kinds)}", "leave it out for float32")
        limits = Budget.read(budget) if isinstance(budget, str) else budget
        for text in (text for text in tasks if isinstance(text, str)):
            task = registry.find("task", registry.head(text))
            for method in (method for method in methods if isinstance(method, str)):
                if not registry.is_control(registry.head(method)):
                    registry.require_fit(task, registry.find("method", registry.head(method)))
        built = tuple(dict.fromkeys(instances.settled("task", one) for one in tasks))  # two texts may mean the same
        for task in built:
            registry.data_files(task)  # refused now if they are missing, not when it runs
        named = [isinstance(one, str) and registry.is_control(one) for one in methods]
        contestants = tuple(
            CONTROLS[one] if control else instances.settled("method", one)
            for one, control in zip(methods, named, strict=True)
        )
        for task in built:
            for who in contestants:
                if not isinstance(who, Control):
                    instances.fit(task, who)
        return Order(built, contestants, numbers, device, kinds[dtype], limits, controls)

    def jobs(self) -> Iterator[Job]:
        """Controls first, then the methods; seeds one by one on a CPU, together on a GPU where the method can."""
        for task in self.tasks:
            known = known_metrics()  # a task's own metrics are known once it is built, and compare with the flow
            laws = {"flow"} | {known[name].law for name in task.metrics if name in known}
            own = [c for c in CONTROLS.values() if self.controls and (c.floor is None or c.floor in laws)]
            for who in dict.fromkeys([*own, *self.contestants]):
                together = not isinstance(who, Control) and who.seeds == "batched" and self.device != "cpu"
                budget = Budget() if isinstance(who, Control) else self.budget
                for seeds in [self.seeds] if together else [(seed,) for seed in self.seeds]:
                    yield Job(task, who, seeds, self.device, self.dtype, budget)


def in_order(jobs: Iterable[Job], runs: Iterable[Run]) -> list[Run]:
    """Runs in the order of their jobs, in whatever order they ended."""
    place = {key: number for number, key in enumerate(job.identity(seed).key for job in jobs for seed in job.seeds)}
    return sorted(runs, key=lambda run: place[run.identity.key])


def read_seeds(seeds: str | int | Iterable[int]) -> tuple[int, ...]:
    """`3` means seeds 0, 1, 2; `3,5,8` means these; `7,` means seed 7."""
    fix = "write --seeds 3 for seeds 0 1 2, --seeds 3,5,8 for these, --seeds 7, for seed 7 alone"
    wrong = UserError(f"--seeds {seeds}", "a number of seeds, at least 1, or a list of different seeds, 0 or more", fix)
    try:
        if isinstance(seeds, str):
            listed = [int(part) for part in seeds.split(",") if part.strip()]
            found: Any = listed if "," in seeds else range(*listed)
        else:
            found = [_whole(seed) for seed in seeds] if isinstance(seeds, Iterable) else range(_whole(seeds))
    except (ValueError, TypeError):
        raise wrong from None
    if isinstance(found, range) and found.stop > 100_000:
        raise wrong
    found = tuple(found)
    if not found or len(set(found)) < len(found) or min(found) < 0 or max(found) >= 2**63 or len(found) > 100_000:
        raise wrong
    return found


def _whole(number: Any) -> int:
    if isinstance(number, bool):
        raise TypeError("a truth value is no seed")
    return index(number)


def device_name(device: str) -> str:
    """`cpu`, `cuda` or `cuda:1`; `cpu:0` is `cpu`.

    Raises:
        UserError: it is no such name; whether it is there is not asked.
    """
    name = "cpu" if device.strip() == "cpu:0" else device.strip()
    require(bool(re.fullmatch(r"cpu|cuda(:\d{1,3})?", name)), f"--device {device}", DEVICES, "leave it out for the CPU")
    return name


def read_device(device: str) -> str:
    """The same, if this machine has it.

    Raises:
        UserError: it has not.
    """
    name = device_name(device)
    have = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]  # this takes no memory on them
    there = name in have or (name == "cuda" and len(have) > 1)
    why = "this machine has none" if torch.backends.cuda.is_built() else "this build of torch has no CUDA"
    require(there, f"--device {device}: {why}", f"one of {', '.join(have)}", "leave it out for the CPU")
    return name
