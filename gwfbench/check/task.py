"""Checks of a task: its problem, its truth, and whether the two agree."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from gwfbench.check.outcome import Check, Skipped, expect
from gwfbench.check.trial import SEEDS, Subject, lean, other_luck, unchanged
from gwfbench.drive.controls import CONTROLS
from gwfbench.drive.execute import Setting, execute
from gwfbench.drive.job import Job
from gwfbench.errors import UserError
from gwfbench.info import Field, Initial, LogDensity, TargetSamples
from gwfbench.metrics import choose as choose_metrics
from gwfbench.plugins import registry
from gwfbench.protocol import Instance, setting
from gwfbench.rng import Streams
from gwfbench.runs.order import Order

SECONDS = 60.0  # limit for building and drawing from the small copy, on a busy machine


def build(subject: Subject, seeds: tuple[int, ...] = SEEDS, dtype: torch.dtype = torch.float32) -> Instance:
    """The small copy's instance."""
    return subject.small.build(Streams(seeds, dtype=dtype).fork("task"))


def gives_what_it_offers(subject: Subject) -> None:
    """The problem's infos are those of `offers`, including P_0, and some of `optional`; times and metrics are right."""
    instance = build(subject)
    problem, offers = instance.problem, subject.cls.offers
    more = {type(info) for info in problem.infos} & setting(subject.cls, "optional")
    got, wanted = (sorted(i.__name__ for i in infos) for infos in (map(type, problem.infos), offers | more))
    expect(got == wanted, f"a problem with {', '.join(got)}", f"its offers {', '.join(wanted)}", "make them equal")
    expect(Initial in offers, "no Initial among offers", "P_0, where every flow starts", "add Initial")
    times = problem.times
    good = bool(times) and all(a < b for a, b in zip((0.0, *times), times, strict=False))
    expect(
        good and (all(map(math.isfinite, times)) or times == (math.inf,)),
        f"times {times}",
        "increasing times",
        "sort them",
    )
    good = isinstance(problem.shape, tuple) and all(type(size) is int and size > 0 for size in problem.shape)
    expect(good and len(problem.shape) in (1, 3), f"shape {problem.shape}", "(d,) or (c, h, w)", "see Problem")
    choose_metrics(subject.cls.metrics, instance.truth.metrics)
    for dtype in (torch.float32, torch.float64):
        start = build(subject, dtype=dtype).problem[Initial]
        x = start.draw(10, Streams(SEEDS, dtype=dtype))
        _points(x, (3, 10, *problem.shape), dtype, "P_0's draw")
        if start.log_prob is not None:
            _field(start.log_prob(x), x, "P_0's log_prob")


def _points(x: Tensor, shape: tuple[int, ...], dtype: torch.dtype, what: str) -> None:
    got, wanted = f"{tuple(x.shape)} {x.dtype}", f"{shape} {dtype}"
    expect(got == wanted, f"{what} gives {got}", wanted, "seeds first, in the precision of the streams")
    expect(bool(x.isfinite().all()), f"{what} is not finite", "finite points", "check its formula")


def _field(value: Tensor, x: Tensor, what: str) -> None:
    got, wanted = f"{tuple(value.shape)} {value.dtype}", f"{tuple(x.shape[:2])} {x.dtype}"
    expect(got == wanted, f"{what} gives {got}", f"(S, n) = {wanted}", "sum over dimensions, keep the precision")


def truth_draws_what_it_says(subject: Subject) -> None:
    """Draws have the right shape and precision, and the truth's mean (within 5 standard errors) if it is known."""
    instance = build(subject)
    problem, truth = instance.problem, instance.truth
    if truth.draw is None:
        raise Skipped("this task has no ground truth")
    n, d = min(2000, truth.limit or 2000), math.prod(problem.shape)
    for index in (0, len(problem.times) - 1):
        x = truth.draw(index, n, Streams(SEEDS).fork("x"))
        _points(x, (3, n, *problem.shape), torch.float32, "the truth's draw")
        if truth.log_prob is not None:
            value = truth.log_prob(index, x)
            _field(value, x, "the truth's log_prob")
            expect(bool(value.isfinite().all()), "a draw of density zero", "finite log-densities", "check its support")
        if truth.score is not None:
            _points(truth.score(index, x), tuple(x.shape), torch.float32, "the truth's score")
        if truth.energy is not None:
            expect(tuple(truth.energy(index).shape) == (3,), "energy not (S,)", "(S,)", "give one value per seed")
        if truth.moments is not None:
            mean, covariance = truth.moments(index)
            got = tuple(mean.shape), tuple(covariance.shape), mean.dtype, covariance.dtype
            wanted = (3, d), (3, d, d), torch.float64, torch.float64
            expect(got == wanted, f"moments {got}", str(wanted), "use float64 always")
            se = covariance.diagonal(dim1=-2, dim2=-1).sqrt() / n**0.5
            off = float(((x.flatten(2).double().mean(1) - mean).abs() / se).max())
            expect(
                off <= 5, f"the draws' mean is {off:.1f} standard errors off", "at most 5", "compare draw and moments"
            )


def draws_go_on(subject: Subject) -> None:
    """Two draws from one stream give different points; a fork by name inside a draw would repeat the first ones."""
    problem = build(subject).problem
    for info in problem.infos:
        if isinstance(info, Initial | TargetSamples):
            streams = Streams(SEEDS).fork("draws")
            x, y = (info.draw(100, streams).flatten(2) for _ in range(2))
            share = float((x == y).all(-1).double().mean())
            what = f"{type(info).__name__}.draw"
            expect(
                share < 0.5,
                f"{share:.0%} of the points of a second {what} repeat the first",
                "new points at each call",
                "draw from the given streams, not from a fork of them",
            )


def twice_is_the_same(subject: Subject) -> None:
    """Built again, under other global random states, it gives the same bits. The process is left unchanged."""

    def sample() -> list[Tensor]:
        instance = build(subject)
        x = instance.problem[Initial].draw(20, Streams(SEEDS))
        return [x] + ([instance.truth.draw(0, 20, Streams(SEEDS))] if instance.truth.draw else [])

    unchanged(sample)
    first = sample()
    with other_luck():
        second = sample()
    same = all(map(torch.equal, first, second))
    expect(same, "other draws from the same seeds", "the same bits", "draw all noise from the streams")


def seeds_do_not_see_each_other(subject: Subject) -> None:
    """A seed's problem and draws do not depend on the other seeds, and differ from theirs."""
    among = _draws(build(subject, dtype=torch.float64), SEEDS)
    for row, seed in enumerate(SEEDS):
        alone = _draws(build(subject, (seed,), torch.float64), (seed,))
        for what, x in among.items():
            gap = float((x[row] - alone[what][0]).abs().max())
            expect(gap <= 1e-8, f"{what} of seed {seed} differs by {gap:.1e} alone", "the same", "fork by name")
            expect(
                not torch.allclose(x[row], x[row - 1]),
                f"{what} is the same for two seeds",
                "different draws per seed",
                "use `rng`",
            )


def _draws(instance: Instance, seeds: tuple[int, ...]) -> dict[str, Tensor]:
    """50 points per seed of every law that can be drawn."""
    rng = Streams(seeds, dtype=torch.float64)
    found = {"P_0": instance.problem[Initial].draw(50, rng.fork("start"))}
    if instance.truth.draw is not None:
        found["the truth"] = instance.truth.draw(0, 50, rng.fork("truth"))
    if TargetSamples in map(type, instance.problem.infos):
        found["the target's samples"] = instance.problem[TargetSamples].draw(50, rng.fork("samples"))
    return found


def scores_are_gradients(subject: Subject) -> None:
    """In float64, at draws of P_0 and of the truth, each score is the gradient of its log-density."""
    instance = build(subject, dtype=torch.float64)
    problem, truth, rng = instance.problem, instance.truth, Streams(SEEDS, dtype=torch.float64).fork("x")
    clouds = [problem[Initial].draw(20, rng)] + ([truth.draw(0, 20, rng)] if truth.draw else [])
    pairs: list[tuple[str, Field, Field]] = []
    if LogDensity in subject.cls.offers:
        target = problem[LogDensity]
        pairs.append(("the target's", target.log_prob, target.score))
        if target.batch is not None:
            part = target.batch(5, rng)
            pairs.append(("the batch's", part.log_prob, part.score))
    if truth.score is not None and truth.log_prob is not None:
        log_prob, score = truth.log_prob, truth.score
        pairs.append(("the truth's", partial(log_prob, 0), partial(score, 0)))
    if not pairs:
        raise Skipped("it offers no LogDensity, and its truth has no score")
    for what, log_prob, score in pairs:
        for x in clouds[-1:] if what == "the truth's" else clouds:
            with torch.enable_grad():
                y = x.clone().requires_grad_()
                (gradient,) = torch.autograd.grad(log_prob(y).sum(), y)
            gap, size = float((gradient - score(x)).abs().max()), float(gradient.abs().max())
            expect(gap <= 1e-8 * (1 + size), f"{what} score is off by {gap:.1e}", "the gradient", "check its formula")


def density_has_mass_one(subject: Subject) -> None:
    """The truth's log_prob is normalised: by importance sampling in up to three dimensions (6 standard errors).

    The proposals are Gaussians around 200 draws: half with a quarter of the draws' deviation, half with all of it.
    """
    instance = build(subject, (7,), torch.float64)
    truth, (d, *rest) = instance.truth, instance.problem.shape
    if truth.draw is None or truth.log_prob is None:
        raise Skipped("its truth has no draws or no density")
    if rest or d > 3:
        raise Skipped(f"in {math.prod(instance.problem.shape)} dimensions this is too expensive")
    rng, index, n = Streams((7,), dtype=torch.float64).fork("mass"), len(instance.problem.times) - 1, 20_000
    centers = truth.draw(index, 200, rng.fork("centers"))[0]
    widths = centers.std() * torch.tensor([0.25, 1.0], dtype=torch.float64)
    which, wide = rng.integers(200, n)[0], rng.integers(2, n)[0]
    x = centers[which] + widths[wide][:, None] * rng.normal(n, d)[0]
    squares = torch.cdist(x, centers).square()
    kernels = [-squares / (2 * w * w) - d * (w * math.sqrt(2 * math.pi)).log() - math.log(400) for w in widths]
    proposal = torch.cat(kernels, 1).logsumexp(1)
    weights = (truth.log_prob(index, x[None])[0] - proposal).exp()
    mass, se = float(weights.mean()), float(weights.std()) / n**0.5
    if se > 0.05:
        raise Skipped(f"importance sampling is too inaccurate here: mass {mass:.2f}, standard error {se:.2f}")
    expect(abs(mass - 1) <= 6 * se + 1e-3, f"mass {mass:.4f}, standard error {se:.4f}", "1", "normalise Truth.log_prob")


def controls_bracket_it(subject: Subject) -> None:
    """By the headline metric, exact draws of the truth beat the law that never moves."""
    task, values = lean(subject.small), {}
    for name in ("exact", "still"):
        (run,) = execute(Job(task, CONTROLS[name], (3,)), Setting("check"), lambda *_: None)
        if run.status == "skipped":
            raise Skipped(f"{name}: {run.reason}")
        expect(run.status == "ok", f"{name}: status {run.status}: {run.reason}", "status ok", "see the reason")
        points = [point for point in run.rows if point.metric == task.metrics[0] and point.value is not None]
        expect(bool(points), f"{name}: no value of {task.metrics[0]}", "a finite value", "see what the metric needs")
        values[name] = (points[-1].value or 0.0) * (-1 if points[-1].better == "higher" else 1)
    expect(
        values["still"] > values["exact"],
        f"{task.metrics[0]}: exact {values['exact']:.3g}, still {values['still']:.3g}",
        "exact better than still",
        "compare Truth.draw with the law that the metric compares to",
    )


def can_be_ordered(subject: Subject) -> None:
    """It can be run with every method that fits and with the controls, `exact_jko` included if it has symkl_jko."""
    methods = registry.plugins("method").values()
    fitting = [other.name for other in methods if registry.fits(subject.plugin, other) and _usable(other)]
    order = Order.read([subject.text], fitting or ["still"], 2)
    names = {job.identity(0).method for job in order.jobs()}
    wanted = {"exact", "still", *fitting} | ({"exact_jko"} if "symkl_jko" in subject.cls.metrics else set())
    expect(names == wanted, ", ".join(sorted(names)), ", ".join(sorted(wanted)), "see `list`")


def _usable(plugin: registry.Plugin) -> bool:
    try:
        plugin.load()
    except UserError:  # a broken method is not this task's fault
        return False
    return True


def small_copy_is_quick(subject: Subject) -> None:
    """The copy with its smoke fields is built and drawn from within a minute."""
    start = time.perf_counter()
    instance = build(subject, (7,))
    instance.problem[Initial].draw(1000, Streams((7,)))
    if instance.truth.draw is not None:
        instance.truth.draw(0, min(1000, instance.truth.limit or 1000), Streams((7,)))
    took = time.perf_counter() - start
    expect(took <= SECONDS, f"{took:.0f} s", f"at most {SECONDS:g} s", "give `smoke` smaller fields")


def _checks(*functions: Callable[[Subject], None]) -> tuple[Check, ...]:
    return tuple(map(Check, functions))


CHECKS = _checks(
    gives_what_it_offers, truth_draws_what_it_says, draws_go_on, twice_is_the_same,
    seeds_do_not_see_each_other,
    scores_are_gradients, density_has_mass_one, controls_bracket_it, can_be_ordered, small_copy_is_quick,
)  # fmt: skip
