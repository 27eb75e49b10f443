"""Checks of a method on a task: its laws, its side effects, and how it ends."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gwfbench.budget import Budget
from gwfbench.check.laws import draws_no_more_than_it_has, laws_are_functions, log_det_and_inverse_are_those_of_the_push
from gwfbench.check.outcome import Check, Failed, Skipped, expect
from gwfbench.check.trial import POINTS, SEEDS, Step, Trial, other_luck, surroundings, unchanged
from gwfbench.info import LogDensity, TargetSamples
from gwfbench.protocol import Resumable, setting

SECONDS = 0.3  # of the budget that must end it
GRACE = 5.0  # beyond it, for a busy machine and the slowest single operation
STATES = 6  # number of laws to resume from


def runs_to_the_end(trial: Trial) -> None:
    """A run by the real driver ends well, has a finite value of a metric, and has called the oracles it needs."""
    run = trial.execute(trial.method.small)
    if run.status == "diverged" and setting(trial.task.cls, "singular"):
        raise Skipped(f"its small copy diverges where the target is singular: {run.reason}")
    expect(run.status == "ok", f"status {run.status}: {run.reason}", "status ok", "see the reason")
    judged = any(row.value is not None for row in run.rows)
    expect(judged, "no finite value of a metric", "at least one", "see its rows")
    last = run.rows[-1]
    spent = last.score_calls + last.log_prob_calls + last.draw_calls + last.sample_calls
    counts = bool({LogDensity, TargetSamples} & trial.method.cls.needs)  # a method with one_of may do without
    expect(
        spent > 0 or not counts,
        "no call of an oracle was counted",
        "the target used through problem[LogDensity] or problem[TargetSamples]",
        "take the oracles from the problem, or remove the info from `needs`",
    )


def yields_finite_laws(trial: Trial) -> None:
    """It uses only the infos it declares; every law gives finite points (S, n, ...) without gradients."""
    steps, shape = trial.steps(), trial.problem((7,)).shape
    expect(bool(steps), "fit yielded nothing", "at least one law", "yield the law after each step")
    for number, step in enumerate(steps, 1):
        got, wanted = tuple(step.cloud.shape), (1, step.cloud.shape[1], *shape)
        expect(got == wanted, f"points {got} at law {number}", f"(S, n, ...) = {wanted}", "keep seeds first")
        expect(
            bool(step.cloud.isfinite().all()),
            f"points not finite at law {number}",
            "finite points",
            "check its step size",
        )
        expect(not step.cloud.requires_grad, f"points that require gradients at law {number}", "none", "detach them")


def time_grows_to_the_last_judged(trial: Trial) -> None:
    """Flow times increase and reach the last judged time, for a method with a clock."""
    if trial.method.cls.clock == "none":
        raise Skipped("its clock is none: only the last law means anything")
    times, last = [step.law.t for step in trial.steps()], trial.problem((7,)).times[-1]
    good = all(0 < t < math.inf for t in times) and times == sorted(set(times))
    expect(good, f"flow times {times[:5]} ...", "positive, increasing times", "yield the flow time reached so far")
    expect(
        math.isinf(last) or abs(times[-1] - last) <= 1e-6 * last,
        f"it ended at t = {times[-1]:g}",
        f"t = {last:g}, the last judged time",
        "take the steps from problem.grid(step, steps)",
    )


def keeps_precision_and_device(trial: Trial) -> None:
    """Points have the dtype of the problem (float32 or float64) and stay on the device of the streams."""
    for dtype in (torch.float32, torch.float64):
        for step in trial.steps(dtype=dtype):
            got = f"{step.cloud.dtype} on {step.cloud.device}"
            expect(
                got == f"{dtype} on cpu", got, f"{dtype} on cpu", "create tensors like the given ones, or with `rng`"
            )


def twice_is_the_same(trial: Trial) -> None:
    """The same seed gives the same bits, whatever the global random states are; another seed gives other points."""
    first = trial.steps()
    with other_luck():
        second = trial.steps(again=1)
    same = len(first) == len(second) and all(map(_equal, first, second))
    expect(same, "other points in a second run of the same seed", "the same bits", "draw all noise from `rng`")
    other = trial.steps((8,))
    expect(
        not torch.allclose(first[-1].cloud, other[-1].cloud),
        "the same points from seeds 7 and 8",
        "different points per seed",
        "draw from `rng`, not from a generator of its own",
    )


def _equal(one: Step, other: Step) -> bool:
    return one.law.t == other.law.t and torch.equal(one.cloud, other.cloud)


def seeds_do_not_see_each_other(trial: Trial) -> None:
    """Each of three seeds gives the same numbers as it does alone, in float64.

    A batched product rounds differently from a single one, and training may amplify that without bound (for example, a
    critic whose log has a pole). The tolerance is 1e-8, or the effect of a perturbation by one rounding error.
    """
    if trial.method.cls.seeds == "looped":
        raise Skipped("it trains one seed at a time")
    among = trial.steps(SEEDS, torch.float64)
    for row, seed in enumerate(SEEDS):
        alone = trial.steps((seed,), torch.float64)
        expect(
            len(alone) == len(among),
            f"{len(among)} laws, alone {len(alone)}",
            "as many",
            "choose the steps per seed, not from the batch",
        )
        for number, (one, other) in enumerate(zip(among, alone, strict=True), 1):
            gap, size = _gap(one.cloud[row], other.cloud[0])
            if gap <= 1e-8 * (1 + size):
                continue
            nudged = trial.steps((seed,), torch.float64, nudge=4e-16)
            rounding = 1000 * _gap(nudged[number - 1].cloud, other.cloud)[0]
            expect(
                gap <= rounding,
                f"seed {seed} differs by {gap:.1e} at law {number} from its run alone",
                f"no more than rounding, {max(1e-8 * (1 + size), rounding):.1e}",
                "sum losses over seeds, clip gradients per seed, and let no statistic mix seeds",
            )


def _gap(one: Tensor, other: Tensor) -> tuple[float, float]:
    return float((one - other).abs().max()), float(other.abs().max())


def leaves_the_process_alone(trial: Trial) -> None:
    """No global state has changed at any yield: random states, dtype, gradient mode, threads, folder, environment."""
    unchanged(lambda: list(trial.walk((7,))))
    before = surroundings()
    for number, step in enumerate(trial.walk((7,)), 1):
        expect(step.gradients, f"gradients off at law {number}", "gradients on", "leave no_grad before the yield")
        now = surroundings()
        changed = [name for name, value in now.items() if value != before[name]]
        expect(not changed, f"it changed {', '.join(changed)} by law {number}", "an unchanged process", "restore it")


def obeys_seconds(trial: Trial) -> None:
    """With its own fields, not those of the small copy, it ends soon after a budget of seconds."""
    run = trial.execute(trial.method.given, Budget(seconds=SECONDS), POINTS)
    good = run.status in ("ok", "budget", "timeout")
    expect(good, f"status {run.status}: {run.reason}", "ok, budget or timeout", "let BudgetSpent pass")
    expect(
        run.seconds <= SECONDS + GRACE,
        f"{run.seconds:.1f} s of a budget of {SECONDS:g} s",
        f"an end within {GRACE:g} s of it",
        "let BudgetSpent pass, and keep single operations short",
    )


def obeys_counts(trial: Trial) -> None:
    """With a budget of one oracle call or step less than it needs, it stops there without an error."""
    whole = trial.execute(trial.method.small)
    last = whole.rows[-1] if whole.rows else None
    spent = {"steps": whole.steps} | {
        name: getattr(last, name) if last else 0 for name in ("score_calls", "log_prob_calls", "draw_calls")
    }
    for name, used in spent.items():
        if used < 2:
            continue
        limit = used - 1  # so that its last call goes beyond
        run = trial.execute(trial.method.small, Budget(**{name: limit}))
        good = run.status in ("ok", "budget", "timeout")
        expect(good, f"{name}={limit}: status {run.status}: {run.reason}", "budget or timeout", "let BudgetSpent pass")
        points = [getattr(point, name) for point in run.rows] if name != "steps" else [run.steps]
        expect(
            max(points, default=0) <= limit,
            f"{max(points, default=0)} {name}",
            f"at most {limit}",
            "stop when the budget is spent",
        )


def resumes(trial: Trial) -> None:
    """Resumed from a law's state, saved as plain arrays, the later laws are bitwise those of an uninterrupted run."""
    seeds = trial.company
    unbroken = list(trial.walk(seeds, states=True))
    can, has = isinstance(trial.method.small, Resumable), any(step.state is not None for step in unbroken)
    if not can and not has:
        raise Skipped("it has no state and no resume")
    expect(
        can == has, "state without resume" if has else "resume without state", "both or neither", "add the other one"
    )
    plain = trial.steps(seeds)
    harmless = all(map(_equal, plain, unbroken))
    expect(harmless, "other points if states are asked for", "the same", "make `state` a copy, and draw nothing for it")
    at = range(0, len(unbroken) - 1, max(1, (len(unbroken) - 1) // STATES))
    for index in at:
        state = unbroken[index].state
        expect(state is not None, f"law {index + 1} has no state", "a state for each law, or for none", "add it")
        assert state is not None
        later = list(trial.walk(seeds, after=(index + 1, unbroken[index].cloud.clone(), through_a_file(state))))
        expect(
            len(later) == len(unbroken) - index - 1 and all(map(_equal, later, unbroken[index + 1 :])),
            f"other laws after a resume from law {index + 1}",
            "bitwise those of an uninterrupted run",
            "put everything that later laws depend on into the state; fork the noise by step",
        )


def through_a_file(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state as read back from an npz file without pickles.

    Raises:
        Failed: a value is not a tensor, an int or a float.
    """
    for name, value in state.items():
        good = type(name) is str and (isinstance(value, Tensor) or type(value) in (int, float))
        if not good:
            raise Failed(
                f"state {name!r} is a {type(value).__name__}", "tensors, ints and floats by name", "convert it"
            )
    file = io.BytesIO()
    arrays = {key: value.detach().cpu().numpy() if isinstance(value, Tensor) else value for key, value in state.items()}
    np.savez(file, **arrays)  # type: ignore[arg-type]
    file.seek(0)
    with np.load(file, allow_pickle=False) as kept:
        return {
            key: torch.from_numpy(kept[key]) if isinstance(value, Tensor) else kept[key].item()
            for key, value in state.items()
        }


def _checks(*functions: Callable[[Trial], None]) -> tuple[Check, ...]:
    return tuple(map(Check, functions))


BOTH = _checks(runs_to_the_end)  # depends on the task as much as on the method
CHECKS = _checks(
    yields_finite_laws, time_grows_to_the_last_judged, keeps_precision_and_device, twice_is_the_same,
    seeds_do_not_see_each_other, leaves_the_process_alone, laws_are_functions, draws_no_more_than_it_has,
    log_det_and_inverse_are_those_of_the_push, obeys_seconds, obeys_counts, resumes,
)  # fmt: skip
