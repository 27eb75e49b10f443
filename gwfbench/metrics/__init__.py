"""The metrics: every `Metric` of the files of this folder, by name. The package can be called: `gwfbench.metrics()`."""

from __future__ import annotations

import importlib
import pkgutil
import sys
import types
from collections.abc import Iterable
from functools import cache

from gwfbench.errors import unknown
from gwfbench.protocol import Metric


@cache
def known() -> dict[str, Metric]:
    """All metrics of this folder. Two of one name are a mistake and raise."""
    found: dict[str, Metric] = {}
    for module in pkgutil.iter_modules(__path__):
        for value in vars(importlib.import_module(f"{__name__}.{module.name}")).values():
            if isinstance(value, Metric) and found.setdefault(value.name, value) is not value:
                raise ValueError(f"two metrics are called {value.name!r}; the second is in {module.name}.py")
    return found


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
