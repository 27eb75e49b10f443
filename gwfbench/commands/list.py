"""`gwfbench list`."""

from __future__ import annotations

import json
import os
import re
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import click

from gwfbench.commands._edge import put, say
from gwfbench.commands._options import example
from gwfbench.errors import require
from gwfbench.plugins import registry
from gwfbench.report import terminal


@click.command("list", epilog=example("list --method vjko"))
@click.option("--task", help="Show one task, its fields and the methods that fit it.")
@click.option("--method", help="Show one method, its fields and the tasks that it fits.")
@click.option("--fields", is_flag=True, help="Show all fields of all of them, and what they offer or need.")
@click.option("--metrics", "only_metrics", is_flag=True, help="Show the metrics, and which tasks are judged by them.")
@click.option("--format", "form", type=click.Choice(["table", "json", "bibtex"]), default="table", show_default=True)
def list_(task: str | None, method: str | None, fields: bool, only_metrics: bool, form: str) -> None:
    """Show the tasks and the methods, one line each; of one, its fields and what fits it; or the metrics."""
    if only_metrics:
        require(not (task or method), "--metrics with --task or --method", "one of them", "leave the other out")
        _print_metrics(form, fields)
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
    named = [plugin for plugin in tasks if task] + [plugin for plugin in methods if method]
    shown = [*tasks, *methods] if fields else named
    below = bool(named) and not fields and not (task and method)  # what fits is listed
    for plugin in shown:
        _print_one(plugin, [] if below else methods if plugin.kind == "task" else tasks, settings=plugin in named)
    for kind, some in (("tasks", tasks), ("methods", methods)):
        rest = [plugin for plugin in some if plugin not in shown]
        if rest:
            terminal.put([(f"{kind} that fit" if shown else kind, "bold")])
            _print_lines([(plugin.name, _what(plugin)) for plugin in rest])
    controls = f"Controls, which run on every task: {', '.join(registry.CONTROLS)}."
    more = " Fields, named settings and what fits: list --task NAME, list --method NAME; of all: list --fields."
    _print_below(f"{controls} Set fields with name:key=value,key=value.{'' if shown else more}")


def _what(plugin: registry.Plugin) -> str:
    return f"unavailable ({plugin.origin}): {plugin.problem}" if plugin.problem else plugin.summary


def _print_lines(rows: Sequence[tuple[str, str]]) -> None:
    """One line each, cut where the terminal ends; whole ones for a program."""
    wide = max(len(name) for name, _ in rows)
    room = terminal.width() - wide - 4 if sys.stdout.isatty() or "COLUMNS" in os.environ else 10**6
    terminal.put([(f"  {name:<{wide}}  {textwrap.shorten(text, max(room, 20), placeholder=' …')}", "")
                  for name, text in rows])  # fmt: skip
    terminal.put([("", "")])


def _print_below(text: str) -> None:
    terminal.put([(line, "dim") for line in terminal.wrapped(text, terminal.width())])


def _print_one(plugin: registry.Plugin, others: list[registry.Plugin], settings: bool) -> None:
    """All of a plug-in that there is to know.

    Args:
        settings: whether its named ones are shown too.
    """
    verb = "offers" if plugin.kind == "task" else "needs"
    has = " ".join(sorted(plugin.capabilities)) if plugin.kind == "task" else registry.needs(plugin)
    facts = {"": _what(plugin), verb: has, "fits": " ".join(_partners(plugin, others))}
    terminal.put([(f"{plugin.kind} {plugin.name}", "bold")])
    for head, text in facts.items():
        if text and not (head and plugin.problem):
            first = f"  {head + ': ' if head else ''}"
            terminal.put([(line, "") for line in terminal.wrapped(text, terminal.width(), first, "    ")])
    tables = [("fields", ["field", "values", "default", "meaning"],
               [[f.name, _values(f), plugin.defaults[f.name], f.doc] for f in plugin.fields])]  # fmt: skip
    if settings:
        tables.append(("named settings", ["name", "track", "fields"],
                       [[f"{plugin.name}@{s.name}", s.track, f"{s.fields.replace(',', ', ')} ({s.source})"]
                        for s in plugin.settings.values()]))  # fmt: skip
    for title, heads, rows in tables:
        if rows:
            terminal.put([("", "")])
            terminal.show(terminal.Table(heads, rows, range(len(heads)), prose=True), title)
    terminal.put([("", "")])


def _print_metrics(form: str, fields: bool) -> None:
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
    if fields:
        for one in facts:
            words = [
                f"{one['better']} is better", f"judges {one['at']} law",
                *([f"needs {', '.join(one['needs'])}"] if one["needs"] else []),
                *([f"tasks: {', '.join(one['tasks'])}"] if one["tasks"] else []),
            ]  # fmt: skip
            lines = [part for text in (one["source"], "; ".join(words))
                     for part in terminal.wrapped(text, terminal.width(), "  ", "    ")]  # fmt: skip
            terminal.put([(one["name"], "bold"), *((line, "") for line in lines), ("", "")])
    else:
        terminal.put([("metrics", "bold")])
        _print_lines([(one["name"], one["source"]) for one in facts])
    more = "" if fields else " What they need, and which tasks they judge: list --metrics --fields."
    _print_below(f"A task may have metrics of its own, by other names: its board shows them.{more}")


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
