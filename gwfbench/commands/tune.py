"""`gwfbench tune`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gwfbench.commands._edge import note, put, say
from gwfbench.commands._options import PLACE, example, execution, read_execution
from gwfbench.errors import UserError, require
from gwfbench.plugins import registry, settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gwfbench.commands._search import Found

SHOWN = 20  # candidates in the table


@click.command(epilog=example("tune 'mmd_flow:step=0.1|1|10' --task toy2d --seeds 3"))
@click.argument("method")
@click.option("--task", "tasks", multiple=True, required=True, help="Task to tune on (repeatable).")
@click.option("--metric", default="", help="Metric that counts.  [default: the first of each task]")
@click.option("--random", "count", type=int, help="Number of candidates to draw.  [default: all combinations]")
@click.option(
    "--seeds",
    type=int,
    default=3,
    show_default=True,
    help="Number of seeds: 1000, 1001, ..., never those that boards judge.",
)
@click.option("--budget", default="", help="Limits on the training of each run, for example seconds=60.")
@click.option("--device", default="cpu", show_default=True, help="Device to compute on: cpu, cuda, cuda:1, ...")
@click.option("--write", "name", help="Keep the best one as this setting, in the file of the method's settings.")
@click.option("--out", type=PLACE, default=Path("results/tuning"), show_default=True, help="Folder of the runs.")
@execution
def tune(
    method: str, tasks: tuple[str, ...], metric: str, count: int | None, seeds: int, budget: str, name: str | None,
    device: str, out: Path, **how: Any,
) -> None:  # fmt: skip
    """Search for a setting of METHOD by its score over tasks: 0 is exact, 1 is still.

    METHOD has values to choose from, as mmd_flow:step=0.1|1|10,noise=0|0.1, or with --random also ranges, as
    step=0.1..10. All tasks count alike, and of equal scores the quicker candidate wins. With --write the best is from
    then on METHOD@NAME, of the track `tuned`, and boards say what the search has cost.

    Runs that are finished under --out are not repeated. Exit code: 1 if every candidate failed somewhere.
    """
    from gwfbench.commands import _search as search
    from gwfbench.commands.run import performed, tell_failed

    plugin = registry.find("method", registry.head(method))
    tasks = tuple(registry.canonical("task", task) for task in tasks)
    file = _file(plugin.name) if name else None
    if file:
        require(name not in settings.read(file), f"--write {name}: {file} has it", "a new name", "write another one")
    chosen = search.candidates(method, count)
    from gwfbench.runs.order import Order
    from gwfbench.store.rows import tidy

    counting = {metric or search.metric_of(task) for task in tasks}
    how |= {"curve": False, "judge": tuple(counting) if len(counting) == 1 else ()}
    order = Order.read(tasks, chosen, search.seeds(seeds), device, budget=budget)
    done, _ = performed(list(order.jobs()), read_execution(how), out, "table", ())
    rows = tidy(done)
    found = search.best(rows, tasks, seeds, metric)
    _show(found)
    cost = search.told(rows)
    say(f"{len(chosen)} candidates on {', '.join(tasks)}, seeds {search.FIRST} to {search.FIRST + seeds - 1}: {cost}.")
    if tell_failed(done) and all(one.failed for one in found):
        sys.exit(1)
    text = _section(name or "tuned", found[0], method, tasks, budget, cost, len(chosen))
    if file:
        _append(file, text)
        say(f"wrote [{name}] into {file}: {plugin.name}@{name}")
    else:
        put(f"\n{text}")
        note("keep it: --write NAME")


# a search judges by what counts, at the last law: these two are not for the user to say
tune.params[:] = [option for option in tune.params if option.name not in ("judge", "curve")]


def _show(found: Sequence[Found]) -> None:
    from gwfbench.report import terminal

    rows = [[one.method, f"{one.score:.3f}", f"{one.units:.3g}", str(one.failed)] for one in found[:SHOWN]]
    terminal.show(terminal.Table(["candidate", "score", "time [units]", "failed"], rows))
    if len(found) > SHOWN:
        say(f"and {len(found) - SHOWN} more")


def _file(name: str) -> Path:
    """The file of a method's settings: next to its module."""
    source = registry.find("method", name).file
    require(
        bool(source), f"--write for '{name}', which is in no file", "a method of a file",
        "save it in one, and name that by --plugin",
    )  # fmt: skip
    return Path(source).with_suffix(".toml")


def _section(
    name: str, best: Found, method: str, tasks: Sequence[str], budget: str, cost: str, count: int
) -> str:  # fmt: skip
    limits = f" with {budget}" if budget else ""
    source = f"best of {count} by tune {method} on {', '.join(tasks)}{limits}: score {best.score:.3f}; {cost}"
    fields = best.method.partition(":")[2]
    lines = {"track": "tuned", "source": source, "fields": fields}
    quoted = {key: value.replace("\\", "\\\\").replace('"', '\\"') for key, value in lines.items()}
    return f"[{name}]\n" + "".join(f'{key} = "{value}"\n' for key, value in quoted.items())


def _append(file: Path, text: str) -> None:
    """The section at the end of a file, which stays as it was if that can't be read any more.

    Raises:
        UserError: it can't be written.
    """
    before = file.read_text(encoding="utf-8") if file.is_file() else ""
    draft = file.with_name(f"{file.stem}.draft.toml")
    try:
        draft.write_text(before + ("\n" if before else "") + text, encoding="utf-8")
        settings.read(draft)
        draft.replace(file)
    except OSError as error:
        fix = "write it into a file of settings by hand, or into a copy of the checkout that is yours"
        raise UserError(f"{file} can't be written: {error}", "a file that can", fix) from None
    finally:
        draft.unlink(missing_ok=True)
    settings.read.cache_clear()
