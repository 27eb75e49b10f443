"""`gwfbench list`."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterable
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import click

from gwfbench import escape
from gwfbench.commands._edge import put, say
from gwfbench.errors import require
from gwfbench.plugins import kept, registry

if TYPE_CHECKING:
    from rich.console import Console

_KEPT = kept.Table("tables", __file__, registry.__file__)


@click.command("list")
@click.option("--task", help="Show one task, its fields and the methods that fit it.")
@click.option("--method", help="Show one method, its fields and the tasks that it fits.")
@click.option("--metrics", "only_metrics", is_flag=True, help="Show the metrics, and which tasks are judged by them.")
@click.option("--format", "form", type=click.Choice(["table", "json", "bibtex"]), default="table", show_default=True)
def list_(task: str | None, method: str | None, only_metrics: bool, form: str) -> None:
    """Show tasks, methods, their fields, and which of them fit together; or the metrics."""
    if only_metrics:
        require(not (task or method), "--metrics with --task or --method", "one of them", "leave the other out")
        _print_metrics(form)
        return
    tasks = [registry.find("task", task)] if task else list(registry.plugins("task").values())
    methods = [registry.find("method", method)] if method else list(registry.plugins("method").values())
    if task and not method:
        methods = [m for m in methods if registry.fits(tasks[0], m)]
    if method and not task:
        tasks = [t for t in tasks if registry.fits(t, methods[0])]
    if form == "json":
        for plugin in [*tasks, *methods]:
            put(json.dumps(_facts(plugin, methods if plugin.kind == "task" else tasks)) + "\n")
        return
    if form == "bibtex":
        say("\n".join(bibliography([*tasks, *methods])))
        return
    from rich.console import Console

    console = Console() if sys.stdout.isatty() else Console(width=140)
    look = version("rich"), console.width, console.color_system, console.is_terminal, console.encoding
    words = json.dumps([*look, bool(method), [_words(plugin) for plugin in [*tasks, *methods]]])
    # to lay the tables out takes longer than all else
    put(_KEPT.get(hashlib.sha256(words.encode()).hexdigest(), lambda: _tables(console, tasks, methods, bool(method))))


def _words(plugin: registry.Plugin) -> list[Any]:
    """All of a plug-in that the tables show."""
    return [plugin.words(), [asdict(setting) for setting in plugin.settings.values()]]


def _tables(console: Console, tasks: list[registry.Plugin], methods: list[registry.Plugin], alone: bool) -> str:
    """The tables of these plug-ins and of their fields, as they look on this console.

    Args:
        alone: whether a user asked for one method, whose named settings are shown too.
    """
    with console.capture() as shown:
        console.print(_listing("tasks", "offers", [(t, methods) for t in tasks]))
        console.print(_listing("methods", "needs", [(m, tasks) for m in methods]))
        for plugin in [*tasks, *methods]:
            if plugin.fields:
                rows = [[f.name, _values(f), plugin.defaults[f.name], f.doc] for f in plugin.fields]
                head = ["field", "values", "default", "meaning"]
                console.print(_table(f"fields of {plugin.kind} {plugin.name}", head, rows))
            if alone and plugin.settings:
                rows = [[f"{plugin.name}@{s.name}", s.track, s.fields, s.source] for s in plugin.settings.values()]
                head = ["name", "track", "fields", "source"]
                console.print(_table(f"named settings of {plugin.name}", head, rows))
        console.print(
            f"Controls, run on every task: {', '.join(registry.CONTROLS)}. Set fields with name:key=value,key=value. "
            "Named settings (method@setting, method@setting:key=value): list --method NAME.",
            style="dim",
        )
    return shown.get()


def _print_metrics(form: str) -> None:
    """What there is to know of each metric that any task may be judged by, and the tasks that name it."""
    from gwfbench.metrics import known

    tasks = [(plugin.name, plugin.load()) for plugin in registry.plugins("task").values() if not plugin.problem]
    facts = [
        {
            "name": metric.name,
            "better": metric.better,
            "at": metric.at,
            "needs": sorted(metric.needs),
            "tasks": [name for name, cls in tasks if metric.name in cls.metrics],
            "source": " ".join(metric.source.split()),
        }
        for _, metric in sorted(known().items())
    ]
    if form == "json":
        put("".join(json.dumps({"kind": "metric", **one}) + "\n" for one in facts))
        return
    from rich.console import Console

    console = Console() if sys.stdout.isatty() else Console(width=140)
    rows = [[" ".join(value) if isinstance(value, list) else value for value in one.values()] for one in facts]
    console.print(_table("metrics", ["name", "better", "judges laws", "needs", "tasks", "source"], rows))
    console.print("A task may have metrics of its own, by other names: its board shows them.", style="dim")


def bibliography(plugins: Iterable[registry.Plugin]) -> list[str]:
    """The BibTeX entries of these plug-ins, each once."""
    found: dict[str, str] = {}
    for plugin in plugins:
        if not plugin.problem:
            for entry in re.split(r"(?m)^(?=@)", plugin.load().reference):
                found.setdefault(entry.partition(",")[0], entry.strip())
    return [entry for entry in found.values() if entry]


def _values(field: registry.FieldText) -> str:
    """What a field may be: `int, at least 1`, `float or none, a positive number`, or its choices."""
    kind = re.sub(r"Literal\[(.*?)\]", lambda found: found[1].replace("'", ""), field.type).replace(
        " | None", " or none"
    )
    return f"{kind}, {field.range}" if field.range else kind


def _partners(plugin: registry.Plugin, others: list[registry.Plugin]) -> list[str]:
    pairs = ((plugin, other) if plugin.kind == "task" else (other, plugin) for other in others)
    return [other.name for other, pair in zip(others, pairs, strict=True) if not other.problem and registry.fits(*pair)]


def _listing(title: str, verb: str, rows: list[tuple[registry.Plugin, list[registry.Plugin]]]) -> Any:
    body = []
    for plugin, others in rows:
        if plugin.problem:
            body.append([plugin.name, f"unavailable ({plugin.origin}): {plugin.problem}", "", ""])
        else:
            body.append(
                [
                    plugin.name,
                    plugin.summary,
                    " ".join(sorted(plugin.capabilities)) if plugin.kind == "task" else registry.needs(plugin),
                    " ".join(_partners(plugin, others)),
                ]
            )
    return _table(title, ["name", "summary", verb, "fits"], body)


def _facts(plugin: registry.Plugin, others: list[registry.Plugin]) -> dict[str, Any]:
    verb = "offers" if plugin.kind == "task" else "needs"
    return {
        "kind": plugin.kind,
        "name": plugin.name,
        "origin": plugin.origin,
        "problem": plugin.problem or None,
        "summary": plugin.summary,
        verb: sorted(plugin.capabilities),
        **({"one_of": sorted(plugin.one_of)} if plugin.one_of else {}),
        "fits": _partners(plugin, others),
        **({"settings": {s.name: asdict(s) for s in plugin.settings.values()}} if plugin.settings else {}),
        "fields": {
            f.name: {"type": f.type, "range": f.range, "default": f.default, "doc": f.doc} for f in plugin.fields
        },
    }


def _table(title: str, head: list[str], body: list[list[str]]) -> Any:
    from rich.table import Table

    table = Table(title=escape.rich(title), title_justify="left", header_style="bold")
    for name in head:
        table.add_column(name, overflow="fold")
    for row in body:
        table.add_row(*map(escape.rich, row))
    return table
