"""What a run is: its identity, its rows, its end."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

SCHEMA = 2
Status = Literal["ok", "diverged", "budget", "timeout", "oom", "error", "killed", "skipped"]
Role = Literal["method", "floor", "control"]


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
    track: str
    dtype: str
    device: str  # the class: cpu, cuda

    @property
    def key(self) -> str:
        """16 hex digits of the SHA-256 of the canonical JSON."""
        return digest(json.dumps({"schema": SCHEMA, **asdict(self)}, sort_keys=True))


@dataclass(frozen=True)
class Point:
    """One metric of one judged law of one seed: a row of the points table."""

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


@dataclass
class Run:
    """One attempt at one run: a row of the runs table."""

    identity: Identity
    information: tuple[str, ...]  # info types that the method needs
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
    steps: int = 0
    resumed: int = 0  # how often it went on from a checkpoint
    points: list[Point] = field(default_factory=list)
    attempt: str = field(default_factory=lambda: uuid.uuid4().hex[:8])

    @property
    def failed(self) -> bool:
        return self.status not in ("ok", "budget", "skipped")

    def rows(self) -> Iterator[dict[str, Any]]:
        """Tidy rows, one a point; a run without points has one row too, with nulls and its reason."""
        who = {"task": self.identity.task, "method": self.identity.method, "seed": self.identity.seed}
        end = {
            "status": self.status,
            "reason": self.reason,
            "information": " ".join(self.information),
            "track": self.identity.track,
            "batch": self.batch,
            "run_key": self.identity.key,
            "attempt": self.attempt,
            "code": self.code,
            "env": self.env,
        }
        empty = dict.fromkeys(spec.name for spec in dataclasses.fields(Point)) | {
            "role": "method",
            "seconds": self.seconds,
        }
        for point in [asdict(point) for point in self.points] or [empty]:
            yield who | point | end


def digest(text: str) -> str:
    """16 hex digits of the SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON proper: what is not finite becomes null."""

    def clean(part: Any) -> Any:
        if isinstance(part, float):
            return part if math.isfinite(part) else None
        if isinstance(part, Mapping):
            return {key: clean(inner) for key, inner in part.items()}
        if isinstance(part, list | tuple):
            return [clean(inner) for inner in part]
        return part

    return json.dumps(clean(value), indent=indent, allow_nan=False)
