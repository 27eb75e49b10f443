"""All checks of one plug-in, beside every partner that fits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gwfbench import registry
from gwfbench.check import method, plugin, task
from gwfbench.check.outcome import Check, Outcome, apply
from gwfbench.check.trial import Subject, Trial
from gwfbench.errors import UserError


@dataclass(frozen=True)
class Plan:
    """One plug-in, and the partners beside which it is checked.

    Raises:
        UserError: there is no such plug-in, or a partner does not fit.
    """

    subject: Subject
    partners: tuple[Subject, ...]

    @staticmethod
    def read(text: str, partners: Iterable[str] = ()) -> Plan:
        """From `method:name:key=value` or `task:name:key=value`; no partners: all that fit and can be used."""
        kind, colon, rest = text.partition(":")
        if kind not in ("method", "task") or not colon or not rest:
            raise UserError(f"check {text}", "method:NAME or task:NAME", "python -m gwfbench check method:ula")
        subject = Subject.read(kind, rest)
        other: registry.Kind = "task" if kind == "method" else "method"
        chosen = tuple(dict.fromkeys(partners))
        for name in chosen:
            pair = (registry.find(other, registry.head(name)), subject.plugin)
            registry.require_fit(*(pair if kind == "method" else pair[::-1]))
        if not chosen:
            known = [each for each in registry.plugins(other).values() if not each.problem]
            chosen = tuple(
                each.name
                for each in known
                if registry.fits(*((each, subject.plugin) if kind == "method" else (subject.plugin, each)))
            )
        built = tuple(Subject.read(other, name) for name in chosen)
        for each in (each for each in (subject, *built) if registry.typed(each.text)):
            registry.parse(each.plugin.kind, each.text)  # a wrong field is the user's mistake, not a failed check
        return Plan(subject, built)

    def outcomes(self) -> Iterator[Outcome]:
        """Each check as it ends. A class that is not what it should be is not run."""
        name, kind = self.subject.text, self.subject.plugin.kind
        for check in plugin.CHECKS:
            outcome = apply(check, self.subject, name)
            yield outcome
            if check.run is plugin.class_variables and outcome.status == "failed":
                return
        for check in task.CHECKS if kind == "task" else ():
            yield apply(check, self.subject, name)
        pair: tuple[Check, ...] = method.BOTH if kind == "task" else (*method.BOTH, *method.CHECKS)
        if not self.partners:
            yield Outcome("runs", name, "", "skipped", f"no {'method' if kind == 'task' else 'task'} fits it")
        for partner in self.partners:
            trial = Trial(*((self.subject, partner) if kind == "task" else (partner, self.subject)))
            for check in pair:
                yield apply(check, trial, name, partner.text)
