"""One contestant on one task for some seeds: what a process is given, as values and as words."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from gwfbench.budget import Budget
from gwfbench.drive.controls import CONTROLS, Control
from gwfbench.errors import UserError, require
from gwfbench.plugins import instances, registry
from gwfbench.plugins.registry import name_of, spec
from gwfbench.protocol import Method, Task
from gwfbench.store import fingerprint, session
from gwfbench.store.contents import contents
from gwfbench.store.record import Identity, digest


@dataclass(frozen=True)
class Job:
    """One contestant on one task for seeds that train together, with all that its numbers depend on."""

    task: Task
    contestant: Method | Control
    seeds: tuple[int, ...]
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    budget: Budget = field(default_factory=Budget)
    made_from: str = ""  # hash of the code of classes of another process, whose source is not here

    def identity(self, seed: int) -> Identity:
        who = self.contestant
        label, fields = (who.name, {}) if isinstance(who, Control) else (spec(who), _fields(who))
        return Identity(
            task=spec(self.task),
            task_version=self.task.version,
            task_fields=_fields(self.task),
            method=label,
            method_version=who.version,
            method_fields=fields,
            seed=seed,
            dtype=str(self.dtype).removeprefix("torch."),
            device=torch.device(self.device).type,
        )

    def words(self) -> dict[str, Any]:
        """All of it as plain values, as `read` takes them, or `received` where a class is of this session."""
        who = self.contestant
        words = {
            "task": spec(self.task),
            "method": who.name if isinstance(who, Control) else spec(who),
            "seeds": list(self.seeds),
            "device": self.device,
            "dtype": str(self.dtype).removeprefix("torch."),
            "budget": self.budget.limits(),
        }
        if not self._of_session():
            return words
        packed = instances.pack(self.task, None if isinstance(who, Control) else who)
        return words | {"packed": packed, "code": self.code()}

    def _of_session(self) -> list[type]:
        """Classes of the two that are in no file."""
        return [type(one) for one in (self.task, self.contestant) if instances.in_session(one)]

    @staticmethod
    def received(words: dict[str, Any]) -> Job:
        """The job of values that a process of ours has sent: they may hold classes, which a file never may."""
        if "packed" not in words:
            return Job.read(words)
        task, method = instances.unpack(words["packed"])
        plain = {name: value for name, value in words.items() if name not in ("packed", "code")}
        return replace(
            Job.read(plain | {"task": "gaussian", "method": "still"}),
            task=task,
            contestant=CONTROLS[words["method"]] if method is None else method,
            made_from=words["code"],
        )

    @staticmethod
    def read(words: object) -> Job:
        """The job of plain values; the device is not looked for.

        Raises:
            UserError: they are not a job's.
        """
        names = {"task": str, "method": str, "seeds": list, "device": str, "dtype": str, "budget": dict}
        if not isinstance(words, dict) or {name: type(value) for name, value in words.items()} != names:
            raise UserError(f"job {words!r}", f"the values {', '.join(names)}", "let `run --plan FILE` write it")
        seeds, kinds = words["seeds"], {"float32": torch.float32, "float64": torch.float64}
        good = (
            seeds and all(type(seed) is int and 0 <= seed < 2**63 for seed in seeds) and len(set(seeds)) == len(seeds)
        )
        require(bool(good), f"seeds {seeds!r}", "different whole numbers, 0 or more", "for example [0, 1, 2]")
        place = re.fullmatch(r"cpu|cuda(:\d{1,3})?", words["device"])
        require(bool(place), f"device {words['device']!r}", "cpu, cuda or cuda:<number>", "take cpu")
        require(words["dtype"] in kinds, f"dtype {words['dtype']!r}", f"one of {', '.join(kinds)}", "take float32")
        method = words["method"]
        task = registry.parse("task", words["task"])
        if not registry.is_control(method):
            registry.require_fit(registry.find("task", name_of(task)), registry.find("method", registry.head(method)))
        who = CONTROLS[method] if method in CONTROLS else registry.parse("method", method)
        budget = Budget.of(words["budget"])
        return Job(task, who, tuple(seeds), words["device"], kinds[words["dtype"]], budget)

    @staticmethod
    def of(who: Identity, budget: Mapping[str, float] | None = None) -> Job:
        """The job of one run, from what is kept of it; the device is not looked for.

        Raises:
            UserError: it can't be built any more.
        """
        words = {"task": who.task, "method": who.method, "seeds": [who.seed], "device": who.device}
        return Job.read({**words, "dtype": who.dtype, "budget": dict(budget or {})})

    def code(self) -> str:
        """Hash of the source code that makes the run's numbers, and of the data files that the task reads.

        Raises:
            UserError: data files are missing.
        """
        if self.made_from:
            return self.made_from
        who = "gwfbench.drive.controls" if isinstance(self.contestant, Control) else type(self.contestant).__module__
        modules = [name for name in (type(self.task).__module__, who) if name != session.HERE]
        classes, files = self._of_session(), registry.data_files(self.task)
        code = session.code_hash(classes, *modules) if classes else fingerprint.code_hash(*modules)
        return digest(code + contents(files)) if files else code


def _fields(plugin: Any) -> dict[str, Any]:
    """A plug-in's fields as plain values; without those that came later (`later`) where they are as if not there, so
    that runs of before keep their keys."""
    later = getattr(plugin, "later", {})
    return {name: value for name, value in _plain(asdict(plugin)).items() if name not in later or later[name] != value}


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields as files keep them: JSON has no infinity, and null is another value."""
    return {name: repr(v) if isinstance(v, float) and not math.isfinite(v) else v for name, v in fields.items()}
