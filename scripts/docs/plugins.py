"""One page for each task, method and metric, from its source: what can't rot, as the build reads it anew."""

from __future__ import annotations

import ast
import builtins
import csv
import importlib
import inspect
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from gwfbench.metrics import known
from gwfbench.plugins import discovery, registry
from gwfbench.plugins.discovery import Kind, Plugin
from gwfbench.protocol import Metric
from scripts.docs.text import cell, code, prose, relative, table, words

ROOT = Path(__file__).parents[2]
GALLERY = ROOT / "docs/gallery"
FOLDER: dict[Kind, str] = {"task": "tasks", "method": "methods"}
CLOCKS = {
    "jko": "JKO steps: each law is one step, of the length by which `t` grows",
    "flow": "flow time: `t` is the time of the flow",
    "none": "none: only the last law means anything",
}
PLAIN = {  # names of information, in words
    "Initial": "the start P_0",
    "LogDensity": "the target's log-density and score",
    "TargetSamples": "samples of the target",
    "InternalEnergy": "an internal energy",
    "InteractionEnergy": "an interaction energy",
    "Encoder": "an encoder of images",
}


@cache
def plugins(kind: Kind) -> dict[str, Plugin]:
    """Those of this checkout, by name."""
    return {plugin.name: plugin for plugin in discovery.own(kind)}


@cache
def source(plugin: Plugin) -> tuple[str, dict[str, object]]:
    """The docstring of its module, and the class variables that are plain values."""
    tree = ast.parse(Path(plugin.file).read_bytes())
    found: dict[str, object] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == plugin.cls:
            for name, value in discovery.variables(node).items():
                try:
                    found[name] = ast.literal_eval(value) if value is not None else None
                except ValueError:
                    continue
    return ast.get_docstring(tree) or "", found


@cache
def boards() -> dict[str, list[tuple[str, str]]]:
    """For each page of results, by folder: the pairs of a task and a method, as typed, that stand on it."""
    found: dict[str, list[tuple[str, str]]] = {}
    root = ROOT / "results"
    for path in [*sorted(root.glob("*/leaderboard.csv")), *sorted(root.glob("studies/*/leaderboard.csv"))]:
        with path.open(encoding="utf-8") as file:
            found[path.parent.relative_to(root).as_posix()] = [
                (row["task"], row["method"]) for row in csv.DictReader(file)
            ]
    return found


@cache
def title(folder: str) -> str:
    """Of a page of results."""
    return str(tomllib.loads((ROOT / "results" / folder / "page.toml").read_text(encoding="utf-8"))["title"])


def pages() -> Iterator[tuple[str, str]]:
    """Path and Markdown of every page."""
    for kind in FOLDER:
        yield f"{FOLDER[kind]}/index.md", _index(kind)
        for plugin in plugins(kind).values():
            yield f"{FOLDER[kind]}/{plugin.name}.md", _page(plugin)
    yield "metrics/index.md", _metrics()
    for metric in known().values():
        yield f"metrics/{metric.name}.md", _metric(metric)


def _index(kind: Kind) -> str:
    head = {
        "task": "# Tasks\n\nA task is a problem with a known answer: a start P_0, a target, the times at which laws are "
        "judged, and the truth. `python -m gwfbench list --task NAME` prints the same facts.",
        "method": "# Methods\n\nA method moves the start P_0 towards the target. It sees only the information that it "
        "needs and the task offers. `python -m gwfbench list --method NAME` prints the same facts.",
    }[kind]
    groups: dict[str, list[Plugin]] = {}
    for plugin in plugins(kind).values():
        groups.setdefault(_group(plugin), []).append(plugin)
    parts = [head]
    for name in sorted(groups, key=lambda name: (-len(groups[name]), name)):
        rows = [[f"[{plugin.name}]({plugin.name}.md)", cell(plugin.summary)] for plugin in groups[name]]
        parts += [f"## {name}", table([kind, "what it is"], rows)]
    return "\n\n".join(parts) + "\n"


def _group(plugin: Plugin) -> str:
    infos = set(plugin.capabilities) - {"Initial"}
    if plugin.kind == "method" and not infos and plugin.one_of:
        return "By whatever the task offers"
    known_ = {
        frozenset({"LogDensity"}): "By the target's density",
        frozenset({"TargetSamples"}): "By samples of the target",
        frozenset({"LogDensity", "TargetSamples"}): "By density or by samples",
    }
    return known_.get(frozenset(infos), "By an energy" if infos else "Others")


def _page(plugin: Plugin) -> str:
    doc, values = source(plugin)
    summary, _, body = doc.partition("\n")
    folder = FOLDER[plugin.kind]
    parts = [f"# {plugin.name}", prose(summary)]
    parts += [shown(plugin.name, f"{folder}/{plugin.name}.md")] if plugin.kind == "method" else []
    parts += [table(["", ""], _facts(plugin, values)), "## How it works", prose(body) or "See the summary above."]
    if plugin.fields:
        rows = [
            [code(f.name), cell(_values(plugin, f)), code(plugin.defaults[f.name]), cell(f.doc)] for f in plugin.fields
        ]
        parts += ["## Fields", f"Set them with `{plugin.name}:{plugin.fields[0].name}=...`; several with commas."]
        parts += [table(["field", "values", "default", "meaning"], rows)]
    if plugin.settings:
        rows = [
            [code(f"{plugin.name}@{s.name}"), s.track, code(s.fields), cell(f"{s.source}. {s.note}".rstrip(" ."))]
            for s in plugin.settings.values()
        ]
        parts += ["## Named settings", table(["name", "track", "fields", "source"], rows)]
    parts += ["## Run it", f"```sh\n{_command(plugin)}\n```"]
    parts += ["## Results", _results(plugin)]
    reference = str(values.get("reference") or "").strip()
    if reference:
        parts += ["## BibTeX", f"```bibtex\n{reference}\n```"]
    return "\n\n".join(part for part in parts if part) + "\n"


def _facts(plugin: Plugin, values: dict[str, object]) -> list[list[str]]:
    fits = [name for name, other in plugins(_other(plugin.kind)).items() if registry.fits(*_pair(plugin, other))]
    links = ", ".join(f"[{name}](../{FOLDER[_other(plugin.kind)]}/{name}.md)" for name in fits) or "-"
    infos = ", ".join(PLAIN.get(name, name) for name in sorted(plugin.capabilities))
    if plugin.kind == "task":
        known_ = known()
        judged = [f"[{m}](../metrics/{m}.md)" if m in known_ else f"`{m}`" for m in plugin.metrics]
        return [
            ["offers", infos],
            ["metrics", ", ".join(judged) or "chosen by its fields: `list --task` shows them"],
            ["judged points", f"{values['points']:,}" if isinstance(values.get("points"), int) else "-"],
            ["methods that fit", links],
            ["source, version", f"`tasks/{plugin.name}.py`, {values.get('version', '-')}"],
        ]
    some = ", ".join(PLAIN.get(name, name) for name in sorted(plugin.one_of))
    return [
        ["needs", infos + (f"; and one of: {some}" if some else "")],
        ["clock", CLOCKS.get(str(values.get("clock")), "-")],
        ["seeds", "all train at once, as one batch" if values.get("seeds") == "batched" else "one after the other"],
        ["tasks that fit", links],
        ["source, version", f"`baselines/{plugin.name}.py`, {values.get('version', '-')}"],
    ]


def _other(kind: Kind) -> Kind:
    return "method" if kind == "task" else "task"


def _pair(plugin: Plugin, other: Plugin) -> tuple[Plugin, Plugin]:
    return (plugin, other) if plugin.kind == "task" else (other, plugin)


def _values(plugin: Plugin, field: discovery.FieldText) -> str:
    """What a field may be. A name that another module gives to choices is looked up there."""
    kind = field.type
    if kind.isidentifier() and kind not in dir(builtins):
        kind = str(getattr(importlib.import_module(plugin.module), kind)).replace("typing.", "")
    kind = re.sub(r"Literal\[(.*?)\]", lambda found: found[1].replace("'", ""), kind).replace(" | None", " or none")
    return f"{kind}, {field.range}" if field.range else kind


def _command(plugin: Plugin) -> str:
    if plugin.kind == "task":
        fits = [name for name, method in plugins("method").items() if registry.fits(plugin, method)]
        usual = [name for name in ("ula", "mmd_flow", "vjko") if name in fits] or fits
        return f"python -m gwfbench run --task {plugin.name} --method {usual[0]} --seeds 3"
    fits = [name for name, task in plugins("task").items() if registry.fits(task, plugin)]
    usual = [name for name in ("toy2d", "ou") if name in fits] or fits
    return f"python -m gwfbench run --task {usual[0]} --method {plugin.name} --seeds 3"


def _results(plugin: Plugin) -> str:
    column = 0 if plugin.kind == "task" else 1
    rows = []
    for folder, pairs in boards().items():
        mine = [pair for pair in pairs if re.split("[:@ ]", pair[column])[0] == plugin.name]
        if mine:
            others = sorted({pair[1 - column] for pair in mine} - {"exact", "exact_jko", "still"})
            names = ", ".join(map(code, others[:8])) + (f" and {len(others) - 8} more" if len(others) > 8 else "")
            rows.append([f"[{cell(title(folder))}](../results/{folder}/leaderboard.md)", names])
    if not rows:
        return "No committed board has it yet."
    return table(["board", "on the tasks" if plugin.kind == "method" else "methods"], rows)


def animation(name: str) -> str:
    """The name of the file of a method's animation; empty if there is none."""
    return next((f"{name}.{ending}" for ending in ("webp", "mp4") if (GALLERY / f"{name}.{ending}").is_file()), "")


def caption(name: str) -> str:
    """What an animation shows, by captions.toml next to it (scripts/gallery.py)."""
    path = GALLERY / "captions.toml"
    flows = tomllib.loads(path.read_text(encoding="utf-8"))["flow"] if path.is_file() else []
    for flow in flows:
        if flow["method"] == name:
            note = f" ({words(flow['note'])})" if flow["note"] else ""
            return f"`{flow['setting']}` on `{flow['task']}`{note}, {flow['laws']} laws, {flow['seconds']:g} s."
    return ""


def shown(name: str, page: str) -> str:
    """The animation of a method with its caption, in Markdown; empty if there is none."""
    if not animation(name):
        return ""
    to, alt = relative(f"gallery/{animation(name)}", page), f"points of {name} on their way to the target"
    picture = f"![{alt}]({to}){{ loading=lazy width=256 }}"
    if to.endswith(".mp4"):
        picture = f'<video src="{to}" aria-label="{alt}" controls loop muted playsinline width="256"></video>'
    return f"{picture}\n\n{caption(name)}".strip()


def _metrics() -> str:
    rows = []
    for name, metric in sorted(known().items()):
        rows.append([f"[{name}]({name}.md)", metric.better, cell(_first(metric.source))])
    head = (
        "# Metrics\n\nA metric is a function of points, log-densities and the truth; it never sees the method. Each "
        "states its source, its standard error and the number of points that it uses. Metrics of images "
        "([images](../tasks/images.md)) have names that say their protocol, such as `fid_50k_train`, and are not listed "
        "here. [Calibration](../results/calibration.md) shows what each can see on each task."
    )
    return f"{head}\n\n{table(['metric', 'better', 'what it is'], rows)}\n"


def _first(text: str) -> str:
    """The first sentence."""
    return re.split(r"(?<=[a-z)\d])\. (?=[A-Z])", " ".join(text.split()))[0]


def _metric(metric: Metric) -> str:
    tasks = [name for name, plugin in plugins("task").items() if metric.name in plugin.metrics]
    module = inspect.getmodule(metric.evaluate)
    family = Path(module.__file__).relative_to(ROOT).as_posix() if module and module.__file__ else ""
    rows = [
        ["better", metric.better],
        ["judges", "each law" if metric.at == "each" else "the last law only"],
        ["compares with", "the flow" if metric.law == "flow" else "the exact JKO sequence of the method's own steps"],
        ["needs", ", ".join(sorted(metric.needs)) or "-"],
        ["points, at most", f"{metric.points:,}" if metric.points else "all of the task's"],
        ["tasks judged by it", ", ".join(f"[{name}](../tasks/{name}.md)" for name in tasks) or "-"],
        ["source, version", f"`{family}`, {metric.version}" if family else str(metric.version)],
    ]
    parts = [f"# {metric.name}", prose(" ".join(metric.source.split()).rstrip(".") + "."), table(["", ""], rows)]
    parts += [_calibrated(metric.name)]
    parts += [f"```sh\npython -m gwfbench score --metric {metric.name}    # on the points that finished runs kept\n```"]
    return "\n\n".join(part for part in parts if part) + "\n"


@cache
def _calibration() -> list[dict[str, str]]:
    with (ROOT / "results/calibration.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _calibrated(name: str) -> str:
    def short(text: str) -> str:
        return f"{float(text):.3g}" if text else "-"

    rows = [
        [code(row["task"]), *(short(row[key]) for key in ("floor", "still", "shift", "scale"))]
        for row in _calibration()
        if row["metric"] == name and row["status"] == "ok"
    ]
    if not rows:
        return ""
    text = (
        "Measured on exact draws: the value of `exact` (the noise floor), that of `still`, and the smallest shift (in "
        "standard deviations) and relative change of scale that it sees in 95 % of trials."
    )
    return f"## What it can see\n\n{text}\n\n{table(['task', 'floor', 'still', 'shift', 'scale'], rows)}"
