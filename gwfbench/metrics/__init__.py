"""The metrics: every `Metric` of the files of this folder, and of plug-ins, by name.

The package can be called: `gwfbench.metrics()`.
"""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import sys
import types
from collections.abc import Iterable
from functools import cache

from gwfbench import elsewhere
from gwfbench.errors import UserError, require, unknown
from gwfbench.protocol import Metric


def known() -> dict[str, Metric]:
    """All metrics of this folder and of the plug-ins that there are now. Two of one name are a mistake and raise."""
    foreign = [name for names in elsewhere.METRICS for name in names()]
    return _known(tuple(foreign))


@cache
def _known(foreign: tuple[str, ...]) -> dict[str, Metric]:
    found: dict[str, Metric] = {}
    own = [f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__)]
    for name in (*own, *foreign):
        for value in vars(_loaded(name)).values():
            if isinstance(value, Metric) and found.setdefault(value.name, value) is not value:
                require(
                    name in own,
                    f"two metrics are called '{value.name}'; the second is in {name}",
                    "a name that no other metric has",
                    "rename it",
                )
                raise ValueError(f"two metrics are called {value.name!r}; the second is in {name}")
    return found


def _loaded(name: str) -> types.ModuleType:
    """A module.

    Raises:
        UserError: it is a plug-in's, and can't be imported.
    """
    if name.startswith(__name__):
        return importlib.import_module(name)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what it prints must not break --format json
            return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # whatever a third-party module does when imported
        raise UserError(
            f"metrics of {name} can't be imported: {type(error).__name__}: {error}", "a module that can be imported",
            f"install the packages that it imports, or fix {name}",
        ) from error  # fmt: skip


def choose(names: Iterable[str], own: Iterable[Metric] = ()) -> tuple[Metric, ...]:
    """The metrics of these names, a task's own ones included.

    Raises:
        UserError: a name is not known.
    """
    at_hand = known() | {metric.name: metric for metric in own}
    missing = [name for name in names if name not in at_hand]
    if missing:
        raise unknown("metric", missing[0], at_hand)
    return tuple(at_hand[name] for name in names)


class _Metrics(types.ModuleType):
    def __call__(self) -> dict[str, Metric]:
        return known()


sys.modules[__name__].__class__ = _Metrics
