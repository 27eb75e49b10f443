"""What a reader needs besides numbers: a sentence about each task, method and metric, and what to cite for it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from gwfbench.errors import UserError
from gwfbench.metrics import known
from gwfbench.plugins import registry

KINDS: tuple[registry.Kind, ...] = ("task", "method")


def about(tasks: Iterable[str], methods: Iterable[str], metrics: Iterable[str]) -> dict[str, Any]:
    """Sentences by `task NAME`, `method NAME` and `metric NAME`, and BibTeX entries likewise; of what is known here."""
    names = dict(zip(KINDS, (tasks, methods), strict=True))
    plugins = {
        f"{kind} {name}": plugin
        for kind in KINDS
        for name in sorted({registry.head(text) for text in names[kind]})
        if (plugin := registry.plugins(kind).get(name)) and not plugin.problem
    }
    sources = {f"metric {name}": metric.source for name, metric in known().items() if name in set(metrics)}
    return {
        "says": {key: plugin.summary for key, plugin in plugins.items()}
        | {key: _definition(source) for key, source in sources.items()},
        "cites": {key: _entries(plugin) for key, plugin in plugins.items()},
    }


def _definition(source: str) -> str:
    """What a metric is, without how its standard error is made."""
    return re.split(r"[.,;]? Standard error|, standard error", " ".join(source.split()))[0].rstrip(".") + "."


def _entries(plugin: registry.Plugin) -> list[str]:
    try:
        reference = str(plugin.load().reference)  # type: ignore[attr-defined]
    except UserError:  # a package of it is not installed here
        return []
    return [entry.strip() for entry in re.split(r"(?m)^(?=@)", reference) if entry.strip()]
