"""All checks of one plug-in, with every partner that fits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gwfbench.check import method, metric, plugin, task
from gwfbench.check.outcome import Check, Outcome, apply
from gwfbench.check.trial import Subject, Trial
from gwfbench.errors import UserError, require
from gwfbench.metrics import choose
from gwfbench.plugins import registry
from gwfbench.protocol import Metric


@dataclass(frozen=True)
class Plan:
    """One plug-in, and the partners with which it is checked.

    Raises:
        UserError: there is no such plug-in, or a partner does not fit.
    """

    subject: Subject
    partners: tuple[Subject, ...]
    left_out: tuple[tuple[str, str], ...] = ()  # partners that can't be used, with reasons

    @staticmethod
    def read(text: str, partners: Iterable[str] = ()) -> Plan:
        """From `method:name:key=value` or `task:name:key=value`; without partners: all that fit and can be used."""
        kind, colon, rest = text.partition(":")
        if kind not in ("method", "task") or not colon or not rest:
            raise UserError(
                f"check {text}", "method:NAME, task:NAME or metric:NAME", "python -m gwfbench check method:ula"
            )
        subject = Subject.read(kind, rest)
        other: registry.Kind = "task" if kind == "method" else "method"
        chosen = tuple(dict.fromkeys(partners))
        for name in chosen:
            pair = (registry.find(other, registry.head(name)), subject.plugin)
            registry.require_fit(*(pair if kind == "method" else pair[::-1]))
        built, left_out = [Subject.read(other, name) for name in chosen], []
        for each in registry.plugins(other).values() if not chosen else ():
            if each.problem or not registry.fits(
                *((each, subject.plugin) if kind == "method" else (subject.plugin, each))
            ):
                continue
            try:
                built.append(Subject.read(other, each.name))
            except UserError as error:  # a partner that the user did not name may be broken
                left_out.append((each.name, error.got))
        for each in (each for each in (subject, *built) if registry.typed(each.text)):
            registry.parse(each.plugin.kind, each.text)  # a wrong field is the user's mistake, not a failed check
        return Plan(subject, tuple(built), tuple(left_out))

    def outcomes(self) -> Iterator[Outcome]:
        """The result of each check, as it ends. Nothing is run if the class itself is wrong."""
        name, kind = self.subject.text, self.subject.plugin.kind
        for check in plugin.CHECKS:
            outcome = apply(check, self.subject, name)
            yield outcome
            if check.run is plugin.class_variables and outcome.status == "failed":
                return
        for check in task.CHECKS if kind == "task" else ():
            yield apply(check, self.subject, name)
        pair: tuple[Check, ...] = method.BOTH if kind == "task" else (*method.BOTH, *method.CHECKS)
        for partner, reason in self.left_out:
            yield Outcome("runs to the end", name, partner, "skipped", reason)
        if not self.partners:
            yield Outcome("runs to the end", name, "", "skipped", "no usable partner fits it")
        for partner in self.partners:
            trial = Trial(*((self.subject, partner) if kind == "task" else (partner, self.subject)))
            for check in pair:
                yield apply(check, trial, name, partner.text)


@dataclass(frozen=True)
class OfMetric:
    """A metric, and the tasks with which it is checked.

    Raises:
        UserError: there is no such metric, or a task can't be judged by it.
    """

    metric: Metric
    tasks: tuple[Subject, ...]

    @staticmethod
    def read(name: str, tasks: Iterable[str] = ()) -> OfMetric:
        """From a metric's name; without tasks: a few that list it, or that it can judge."""
        named = [Subject.read("task", text) for text in tasks]
        own = [one for subject in named for one in metric.instance(subject.small, metric.SEEDS).truth.metrics]
        (found,) = choose([name], own)
        require(not found.unavailable, f"metric '{name}': {found.unavailable}", "a metric that can be had", "see list")
        require(
            found.law == "flow", f"metric '{name}' compares with the exact JKO sequence", "a metric of the flow",
            "run it with exact_jko: --metric " + name,
        )  # fmt: skip
        for subject in named:
            truth = metric.instance(subject.small, metric.SEEDS).truth
            lacks = truth.lacks(found, "flow") or ("" if truth.draw else "the task has no ground truth")
            require(not lacks, f"metric '{name}' on {subject.text}: {lacks}", "a task that it can judge", "see list")
        return OfMetric(found, tuple(named or metric.tasks(found)))

    def outcomes(self) -> Iterator[Outcome]:
        """The result of each check, as it ends."""
        if not self.tasks:
            yield Outcome(
                "gives a number for each seed", self.metric.name, "", "skipped", "no task can be judged by it"
            )
        for subject in self.tasks:
            trial = metric.Trial(self.metric, subject)
            for check in metric.CHECKS:
                yield apply(check, trial, self.metric.name, subject.text)
