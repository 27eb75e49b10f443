"""What is told of runs while they go on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from gwfbench.drive.job import Job
from gwfbench.store.record import Run

Kind = Literal["folder", "stale", "elsewhere", "start", "progress", "end"]


@dataclass(frozen=True)
class Event:
    """What happened, for whoever listens.

    Args:
        kind: "folder": something was done with a folder that is not a whole run; "stale": runs by other code are there;
            "elsewhere": a living process has the run; "start", "progress", "end": of a run.
        text: the same in words.
        job: what it is about; of a folder, any.
        run: that ended.
        share: of all runs that is done.
        left: seconds until all are; nan where that is not known.
    """

    kind: Kind
    text: str
    job: Job
    run: Run | None
    share: float
    left: float = math.nan


Listener = Callable[[Event], object]
