"""What a run is: its identity, its rows, its end."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import json
import math
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from gwfbench.store import checked

SCHEMA = 4
SET_UP = "set-up: "  # how the reason of a run begins whose method never began: data, a device or a library is missing
Status = Literal["ok", "diverged", "budget", "timeout", "oom", "error", "killed", "skipped"]
Role = Literal["method", "floor", "control"]


def _from_one(value: Any) -> bool:
    return checked.is_count(value) and value >= 1


def _is_moment(value: Any) -> bool:
    try:
        return type(value) is str and bool(datetime.datetime.fromisoformat(value))
    except ValueError:
        return False


# What the types of fields don't say, by name.
_TESTS: dict[str, checked.Test] = {
    **dict.fromkeys(("step", "n", "batch", "number", "metric_version", "task_version", "method_version"), _from_one),
    "value": lambda value: value is None or checked.is_number(value),
    "better": ("lower", "higher").__contains__,
    "law": ("flow", "jko").__contains__,
    "dtype": ("float32", "float64").__contains__,
    "started": _is_moment,
    "budget": lambda value: (
        type(value) is dict
        and all(checked.is_text(key) and checked.is_amount(one) and one for key, one in value.items())
    ),
}


@dataclass(frozen=True)
class Identity:
    """What makes a run the same run. The budget is outside it: a longer one extends the curve."""

    task: str  # as a user would type it
    task_version: int
    task_fields: Mapping[str, Any]
    method: str
    method_version: int
    method_fields: Mapping[str, Any]
    seed: int
    dtype: str
    device: str  # the class: cpu, cuda

    @property
    def key(self) -> str:
        """16 hex digits of the SHA-256 of the canonical JSON."""
        return digest(json.dumps({"schema": SCHEMA, **vars(self)}, sort_keys=True))

    @staticmethod
    def read(content: object) -> Identity:
        """From the plain values of a file.

        Raises:
            ValueError: they are not an identity's; what is wrong is in the message.
        """
        return checked.checked(Identity, content, _TESTS)


@dataclass(frozen=True)
class Row:
    """One metric of one judged law of one seed: a row of the results table."""

    step: int
    t: float | None  # flow time; None where only the limit counts
    metric: str
    metric_version: int
    better: str
    law: str
    role: Role  # "floor": this value is the metric's noise floor
    value: float | None
    se: float | None
    n: int
    seconds: float  # of training so far, evaluation off the clock
    score_calls: int  # points through the oracle so far, in training
    log_prob_calls: int
    draw_calls: int
    sample_seconds: float  # spent so far in moving the judged points
    sample_calls: float  # score calls so far for each judged point
    judge_seconds: float | None = None  # spent so far in judging, this law included; None where it is not known
    metric_code: str = ""  # hash of the metric's source
    worst: str = ""  # why there is no value, which then counts as the worst: "infinite", "not a number", or an error

    @staticmethod
    def of(**values: Any) -> Row:
        """The row of these values, checked as when it is read: what can't be read again is not taken.

        Raises:
            ValueError: they are not a row's; what is wrong is in the message.
        """
        return _agreeing([checked.checked(Row, values, _TESTS)])[0]

    @staticmethod
    def read(lines: Sequence[str]) -> list[Row]:
        """From lines of a file.

        Raises:
            ValueError: one is not a row's; what is wrong is in the message.
        """
        found = checked.from_lines(lines)
        for one in found:
            one.setdefault("worst", "")  # rows of before have none
            one.setdefault("judge_seconds", None)
        return _agreeing(checked.all_checked(Row, found, _TESTS))


def _agreeing(rows: list[Row]) -> list[Row]:
    """The rows, if none has both a value and why there is none."""
    if any(row.worst and row.value is not None for row in rows):
        raise ValueError("Row: it has a value, and a reason why there is none")
    return rows


@dataclass
class Run:
    """One attempt at one run: a row of the runs table."""

    identity: Identity
    information: tuple[str, ...]  # info types that the method needs or has asked for
    code: str  # hash of the source of task, method and the gwfbench modules that they import
    env: str
    started: str  # UTC
    budget: dict[str, float] = field(default_factory=dict)  # limits by name
    batch: int = 1  # seeds trained together; seconds are the batch's
    status: Status = "ok"
    reason: str = ""
    seconds: float = 0.0
    sample_seconds: float = 0.0
    judge_seconds: float = 0.0
    unit: float | None = None  # seconds of a unit of work (drive/machine.py) while it trained; None: not timed
    memory: int | None = None  # bytes, the most while it trained; None: not known
    energy: float | None = None  # joules of the whole device while it trained; None: not known
    steps: int = 0
    judge: tuple[str, ...] = ()  # metrics that it was judged by alone, at each law; none: by all of the task
    paired: bool = False  # the i-th kept points of its laws are one particle
    resumed: int = 0  # how often it went on from a checkpoint
    rows: list[Row] = field(default_factory=list)
    attempt: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    number: int = 1  # of this attempt at the run: the newest has the highest, whatever the clock said

    @staticmethod
    def read(content: Mapping[str, Any], rows: list[Row]) -> Run:
        """From the plain values of a file, and its rows.

        Raises:
            ValueError: they are not a run's; what is wrong is in the message.
        """
        lists = {"rows": rows, "identity": Identity.read(content.get("identity"))}
        new = {"judge": [], "unit": None, "memory": None, "energy": None}  # runs of before have none of these
        run = checked.checked(Run, {**new, **content, **lists}, _TESTS)
        run.information, run.judge = tuple(run.information), tuple(run.judge)
        if run.failed and not run.reason:
            raise ValueError(f"Run: status {run.status} without a reason")
        return run

    @property
    def began(self) -> bool:
        """Whether its method did: what is missing for the set-up may be there the next time."""
        return not (self.status == "error" and self.reason.startswith(SET_UP))

    @property
    def failed(self) -> bool:
        return self.status not in ("ok", "budget", "skipped")

    def tidy(self) -> Iterator[dict[str, Any]]:
        """Tidy rows; a run without any has one too, with nulls and its reason."""
        who, end = self.facts()
        for row in self.cells():
            yield who | row | end

    def facts(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What all its rows share: what stands before a row's own values, and after."""
        who = {"task": self.identity.task, "method": self.identity.method, "seed": self.identity.seed}
        return who, {
            "status": self.status,
            "reason": self.reason,
            "information": " ".join(self.information),
            "dtype": self.identity.dtype,
            "device": self.identity.device,
            "budget": ",".join(f"{name}={limit!r}" for name, limit in self.budget.items()),
            "batch": self.batch,
            "judge": " ".join(self.judge),
            "unit": self.unit,
            "memory": self.memory,
            "energy": self.energy,
            "run_key": self.identity.key,
            "attempt": self.attempt,
            "code": self.code,
            "env": self.env,
        }

    def cells(self) -> list[dict[str, Any]]:
        """The own values of each row; one of nulls if there is none."""
        none = dict.fromkeys(spec.name for spec in dataclasses.fields(Row))
        return [vars(row) for row in self.rows] or [none | {"role": "method", "seconds": self.seconds}]


def took(training: float, sampling: float, judging: float) -> str:
    """The seconds of a run, in words."""
    return f"{training:.1f} s of training, {sampling:.1f} s of sampling, {judging:.1f} s of judging"


def digest(text: str) -> str:
    """16 hex digits of the SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON proper: what is not finite becomes null."""
    with contextlib.suppress(ValueError, TypeError):  # most of what is written is JSON as it is
        return json.dumps(value, indent=indent, allow_nan=False)

    def clean(part: Any) -> Any:
        if isinstance(part, float):
            return part if math.isfinite(part) else None
        if isinstance(part, Mapping):
            return {key: clean(inner) for key, inner in part.items()}
        if isinstance(part, list | tuple):
            return [clean(inner) for inner in part]
        return part

    return json.dumps(clean(value), indent=indent, allow_nan=False)
