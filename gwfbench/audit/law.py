"""The last law of a finished run: the points that it has kept, and new ones by training it again."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gwfbench.audit.today import Today
from gwfbench.budget import BudgetSpent
from gwfbench.drive import points
from gwfbench.drive.driver import Drive
from gwfbench.drive.execute import begin
from gwfbench.drive.job import Job
from gwfbench.drive.judge import Seen
from gwfbench.drive.log import Log
from gwfbench.drive.points import Cloud
from gwfbench.drive.signals import Stops
from gwfbench.errors import UserError, require
from gwfbench.plugins import registry
from gwfbench.protocol import Marginal, Problem, Pushed
from gwfbench.rng import Streams, own_globals
from gwfbench.store import folders
from gwfbench.store.record import Run


@dataclass(frozen=True)
class Law:
    """The last law of a run.

    Args:
        method, task, seed: of the run, as rows name them.
        points: that the run has kept of it, (n, d) or images (n, c, h, w).
        sha256: of their bytes.
    """

    method: str
    task: str
    seed: int
    points: Tensor = field(repr=False)
    sha256: str
    _run: Run = field(repr=False)

    def draw(self, n: int, seed: int = 0) -> Tensor:
        """n new points of the law, independent of those that are kept: (n, d) or (n, c, h, w).

        The method is trained again, which takes as long as it did, and must come to the points that are kept. A law of
        particles has no more points than these.

        Args:
            seed: of the draws.

        Raises:
            UserError: it comes to other points, as on another machine or with another torch, or a budget of seconds has
                ended the run, which no one can repeat.
        """
        require(n >= 1, f"draw({n})", "1 or more", "ask for at least one point")
        run = self._run
        timed = run.status == "budget" and "seconds" in run.budget
        require(
            not timed, f"{self.method} on {self.task}, ended by its budget of seconds", "a run that can be repeated",
            "run it with another budget, or use `points`",
        )  # fmt: skip
        job = Job.of(run.identity, run.budget)
        float32 = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)  # as the run was
        with Stops() as stops, own_globals(run.identity.key, torch.device(job.device)), float32:
            again = _Again(job, run.judge, n, seed, stops)
            with contextlib.suppress(BudgetSpent):
                again.to_the_end(None, lambda *_: None)
            again.judge_last()
        new, kept = again.new, again.kept
        same = kept is not None and torch.equal(kept[: len(self.points)].cpu(), self.points)
        require(
            same, f"{self.method} on {self.task}, seed {self.seed}, trained again: other points than those kept",
            "the same points, to the last bit", "run it again on this machine; `points` are as they were kept",
        )  # fmt: skip
        assert new is not None
        return new


class _Again(Drive):
    """The run once more, with points of another seed next to its own; nothing is judged."""

    def __init__(self, job: Job, judge: tuple[str, ...], n: int, seed: int, stops: Stops):
        super().__init__(job, begin(job, "", None), [None], Log(), stops, False, judge)
        self.new: Tensor | None = None
        self.kept: Tensor | None = None
        self._count, self._others = n, Cloud()
        self._own = Streams((seed,), self.meter.device, job.dtype).fork("new draws of a law")

    def _see(self, law: Marginal, problem: Problem, limit: bool, streams: Streams) -> Seen | None:
        seen = super()._see(law, problem, limit, streams)
        if isinstance(law, Pushed):
            new, _ = self._others.push(law, self.steps, self._count, 1, problem, self._own)
            self.new = new[0].clone()
        elif seen is not None:
            self.new = points.draw(law, self.steps, self._count, 1, problem, self._own)[0][0]
        return seen

    def judge_last(self, ended: bool = True) -> None:
        self._draw_last()
        if self._last.seen is not None:
            self.kept = self._last.seen.points[0].clone()


def find(method: str, task: str, seed: int, out: Path) -> Law:
    """The last law of the newest finished run by today's code.

    Raises:
        UserError: there is none under `out`, or it has kept nothing.
    """
    who, where = registry.canonical("method", method), registry.canonical("task", task)
    runs, _ = folders.attempts(out)
    mine = [
        run for run in runs
        if (run.identity.method, run.identity.task, run.identity.seed) == (who, where, seed) and not run.failed
    ]  # fmt: skip
    fix = f"python -m gwfbench run --task {where} --method {who} --seeds {seed}, --out {out}"
    require(bool(mine), f"{out}: no finished run of {who} on {where} under seed {seed}", "a finished run", fix)
    today = Today()
    fresh = [run for run in mine if not today.why_stale(run)]
    require(bool(fresh), f"{who} on {where}, seed {seed}: {today.why_stale(mine[-1])}", "a run by today's code", fix)
    run = max(fresh, key=lambda run: run.number)
    path = folders.places(out)[run.attempt] / "draws.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            steps = [int(name[1:]) for name in file.files if name[0] == "t"]
            kept: Any = file[f"t{max(steps)}"] if steps else None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}", "the points that the run has kept", fix) from None
    require(kept is not None, f"{path}: it has no points", "the points of the last law", fix)
    return Law(who, where, seed, torch.from_numpy(kept), hashlib.sha256(kept.tobytes()).hexdigest(), run)
