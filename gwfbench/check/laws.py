"""Checks of each law while its method is suspended at the yield, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from gwfbench.check.outcome import Skipped, expect
from gwfbench.check.trial import POINTS, Trial
from gwfbench.info import Field, Initial
from gwfbench.protocol import Drawn, Marginal, Pushed
from gwfbench.rng import Streams

STEP = 1e-5  # of central differences: error about 1e-10 times the third derivative, and 1e-11 of rounding
WIDE = 64  # largest dimension for which a Jacobian is affordable
FEW = 8  # points at which the Jacobian is computed


def laws_are_functions(trial: Trial) -> None:
    """Until the method goes on, a law gives the same points for the same noise and does not change its argument."""
    with torch.no_grad():
        x = _start(trial)
        for number, step in enumerate(trial.walk((7,), torch.float64), 1):
            given = x.clone()
            first = _sample(step.law, given).clone()
            expect(torch.equal(given, x), f"law {number} changes its argument", "a new tensor", "don't work in place")
            expect(
                torch.equal(first, _sample(step.law, x.clone())),
                f"law {number} gives other points when asked again",
                "the same points for the same noise",
                "draw noise only from the streams given to the law, and change no state when it is asked",
            )
            field = step.law.log_prob if isinstance(step.law, Drawn) else step.law.log_det
            if field is not None:
                _check_field(field, first, number)


def _check_field(field: Field, x: Tensor, number: int) -> None:
    first, second = field(x), field(x)
    shape, wanted = tuple(first.shape), tuple(x.shape[:2])
    expect(shape == wanted, f"log-densities {shape} at law {number}", f"(S, n) = {wanted}", "sum over dimensions")
    expect(first.dtype == x.dtype, f"log-densities in {first.dtype}", str(x.dtype), "keep the precision of the points")
    expect(
        torch.equal(first, second), f"law {number} gives other log-densities again", "the same", "make it a function"
    )
    expect(not bool(first.isnan().any()), f"log-densities that are NaN at law {number}", "numbers", "check its domain")


def draws_no_more_than_it_has(trial: Trial) -> None:
    """A law of `limit` particles gives that many, all different, and raises when asked for more."""
    found = False
    for number, step in enumerate(trial.walk((7,)), 1):
        if not isinstance(step.law, Drawn) or step.law.limit is None:
            continue
        found, limit = True, step.law.limit
        expect(
            type(limit) is int and limit > 0,
            f"limit {limit!r} at law {number}",
            "a positive int",
            "give the number of particles",
        )
        with torch.no_grad():
            x = step.law.draw(limit, Streams((7,)))
            got, different = x.shape[1], len(x[0].flatten(1).unique(dim=0))
            expect(got == limit, f"{got} points of a limit of {limit}", str(limit), "give as many as are asked for")
            expect(
                different == limit,
                f"{different} different points of {limit} at law {number}",
                "draws without replacement",
                "never repeat points: that spoils every two-sample metric",
            )
            try:
                more = step.law.draw(limit + 1, Streams((7,)))
            except Exception:  # the protocol does not specify its type
                continue
            expect(False, f"{tuple(more.shape)} when asked for {limit + 1} of {limit}", "an error", "raise ValueError")
    if not found:
        raise Skipped("its laws have no limit")


def log_det_and_inverse_are_those_of_the_push(trial: Trial) -> None:
    """`log_det` is that of the push's Jacobian (central differences); `inverse` undoes the push, also later on."""
    x, done, kept = _start(trial), set(), []
    d = x.shape[2:].numel()
    with torch.no_grad():
        for number, step in enumerate(trial.walk((7,), torch.float64), 1):
            law = step.law
            if not isinstance(law, Pushed):
                continue
            pushed = _sample(law, x)
            if law.log_det is not None and d <= WIDE:
                done.add("log_det")
                _compare("log_det", law.log_det(x), _jacobian(law, x).slogdet().logabsdet, number)
            if law.inverse is not None:
                kept.append((number, law.inverse, pushed, x))
            x = pushed
        for number, inverse, pushed, before in kept:  # an inverse stays valid after the method resumes
            done.add("inverse")
            _compare("inverse", inverse(pushed), before, number)
    if not done:
        raise Skipped("its laws have no log_det or inverse" + (f" in {d} dimensions" if d > WIDE else ""))


def _compare(what: str, got: Tensor, wanted: Tensor, number: int) -> None:
    gap = float((got - wanted).abs().max())
    limit = 1e-6 * (1 + float(wanted.abs().max()))
    expect(gap <= limit, f"{what} of law {number} is off by {gap:.1e}", f"within {limit:.1e}", "check its formula")


def _jacobian(law: Pushed, x: Tensor) -> Tensor:
    """Of the push at each point, (S, n, d, d), d flattened. A push moves points independently, so all go at once."""
    shape, columns = x.shape, []
    for j in range(shape[2:].numel()):
        move = torch.zeros_like(x).flatten(2)
        move[..., j] = STEP
        move = move.view(shape)
        columns.append((_sample(law, x + move) - _sample(law, x - move)).flatten(2) / (2 * STEP))
    return torch.stack(columns, -1)


def _start(trial: Trial) -> Tensor:
    streams = Streams((7,), dtype=torch.float64)
    return trial.problem((7,), torch.float64)[Initial].draw(FEW, streams.fork("few"))


def _sample(law: Marginal, x: Tensor) -> Tensor:
    noise = Streams((7,), dtype=torch.float64).fork("again")
    if isinstance(law, Pushed):
        return law.push(x, noise)
    return law.draw(min(POINTS, law.limit or POINTS), noise)
