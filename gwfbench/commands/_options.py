"""Options that several commands have, and what they do with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gwfbench.commands._edge import Level, put, say

if TYPE_CHECKING:
    import pandas as pd

    from gwfbench.protocol import Task
    from gwfbench.runs.options import Options


class Place(click.Path):
    """A file or folder, as a `Path`; no name is none: it would be the folder that one happens to be in."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        text = str(value)
        if not text.strip() or "\0" in text:
            from gwfbench.errors import UserError

            what = param.opts[0] if param else "path"
            raise UserError(f"{what} {text!r}", "the name of a file or folder", "name one: . is this folder")
        return super().convert(value, param, ctx)


PLACE = Place()


def require_file(path: Path) -> None:
    """Raise `UserError` if a file that is to be written has the name of a folder."""
    from gwfbench.errors import require

    folder = not path.name or path.name == ".." or path.is_dir()
    require(not folder, f"{path}: a folder", "the name of a file", "name a file in it")


OUT = click.option(
    "--out",
    type=PLACE,
    default=Path("results/runs"),
    show_default=True,
    help="Folder of the runs.",
)
METRIC = click.option("--metric", "chosen", multiple=True, help="Metric to show (repeatable).  [default: all]")

_EXECUTION = (
    click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads per run."),
    click.option("--jobs", type=click.IntRange(1), help="Number of runs at once.  [default: 1 on the CPU, 1 per GPU]"),
    click.option("--gpus", default="", help="GPUs for --device cuda: 0,1; 0,0 puts two runs on one.  [default: all]"),
    click.option("--timeout", type=float, help="Limit on the wall time of each run, in seconds.  [default: none]"),
    click.option("--memory", type=float, help="Limit on the memory of each run, in GiB.  [default: none]"),
    click.option("--retry", default="", help="Statuses of runs to repeat: error,oom,timeout,diverged."),
    click.option("--force", is_flag=True, help="Repeat finished runs."),
    click.option(
        "--isolate/--no-isolate", default=True, show_default=True, help="Each run in a process of its own, or all in "
        "this one (for a debugger)."
    ),
    click.option(
        "--curve/--no-curve", default=True, show_default=True, help="Judge about 20 laws on the way where only the "
        "limit counts, or the last law alone, which can be much quicker."
    ),
    click.option("--judge", multiple=True, help="Metric to judge by, alone and at each judged law (repeatable); no "
        "more points are moved than it takes. Such a run answers no command that asks for more: without --judge it "
        "runs again. `score` adds a metric to it.  "
        "[default: all of the task, w2 and c2st at the last law only]"
    ),
)  # fmt: skip


def execution(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how runs are performed; `read_execution` turns them into `Options`."""
    for option in reversed(_EXECUTION):
        command = option(command)
    return command


def read_execution(words: dict[str, Any]) -> Options:
    """The options that `execution` took.

    Raises:
        UserError: they don't go together.
    """
    from gwfbench.errors import UserError
    from gwfbench.runs.options import Options

    try:
        gpus = tuple(int(part) for part in words["gpus"].split(",") if part.strip())
    except ValueError:
        raise UserError(f"--gpus {words['gpus']}", "numbers of GPUs", "write --gpus 0,1") from None
    retry = frozenset(part.strip() for part in words["retry"].split(",") if part.strip())
    return Options(**words | {"gpus": gpus, "retry": retry})


def _known(context: click.Context, _option: click.Parameter, files: tuple[Path, ...]) -> None:
    context.meta["plugin"] = files
    if files:
        from gwfbench.plugins.registry import add_files

        add_files(files)


PLUGIN = click.Option(
    ["--plugin"],
    type=PLACE,
    multiple=True,
    expose_value=False,
    is_eager=True,
    callback=_known,
    help="File with a task or method of your own, named like the file (repeatable).",
)


def _level(_context: click.Context, option: click.Parameter, value: bool) -> None:
    """Before a command's name these options say how it begins; after it they can only add."""
    if value or _context.parent is None:
        setattr(Level, str(option.name), value)


QUIET = click.Option(["-q", "--quiet"], is_flag=True, expose_value=False, callback=_level,
                     help="Say only errors and the result.")  # fmt: skip
VERBOSE = click.Option(["-v", "--verbose"], is_flag=True, expose_value=False, callback=_level,
                       help="Say also what goes on inside, with seconds.")  # fmt: skip
EVERYWHERE = (PLUGIN, QUIET, VERBOSE)  # options of every command


def example(words: str) -> str:
    """The end of a command's help."""
    return f"\b\nExample:\n  python -m gwfbench {words}"


def look(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options --wide and --intervals, for tables."""
    for option in (
        click.option("--intervals", is_flag=True, help="In tables: 95 % intervals as [low, high] in place of ±."),
        click.option("--wide", is_flag=True, help="In tables: all metrics and all costs."),
    ):
        command = option(command)
    return command


def check_metrics_of(chosen: tuple[str, ...], tasks: Iterable[Task]) -> None:
    """Raise `UserError` unless each metric is one of a task's, or of its truth's, which is built only if need be."""
    tasks = list(dict.fromkeys(tasks))
    known = {name for task in tasks for name in task.metrics}
    if not set(chosen) <= known:
        from gwfbench.rng import Streams

        known |= {metric.name for task in tasks for metric in task.build(Streams((0,))).truth.metrics}
    check_metrics(chosen, known)


def check_metrics(chosen: tuple[str, ...], known: set[str]) -> None:
    from gwfbench.datasets.protocols import apart
    from gwfbench.errors import require, unknown

    for name in chosen:
        if name not in known:
            other = apart(name, sorted(known))
            require(
                not other,
                f"no metric '{name}' here: {other}",
                "one protocol: values depend on which images are compared, and on how many",
                "choose a protocol by the fields against, real and fake of images, and run again",
            )
            raise unknown("metric", name, known, see="python -m gwfbench list --metrics")


def show(rows: pd.DataFrame, form: str, chosen: tuple[str, ...], wide: bool, intervals: bool) -> None:
    """Print the rows as CSV, or their leaderboards as tables."""
    from gwfbench.report.board.leaderboard import alarms, boards

    made = boards(rows, chosen or None)
    if form == "csv":
        rows = rows[rows["metric"].isin(chosen) | rows["metric"].isna()] if chosen else rows
        put(rows.to_csv(index=False))
    else:
        from gwfbench.report.board.terminal import Look, print_boards

        print_boards(made, Look(wide, intervals, bool(chosen)))
    for line in alarms(made):
        say(line, err=True)
