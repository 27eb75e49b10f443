"""`gwfbench report`: leaderboards as text, and subcommands for all else that is made from results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from gwfbench import escape
from gwfbench.commands import _suites
from gwfbench.commands._edge import put, say
from gwfbench.commands._options import METRIC, OUT, PLACE, PLUGIN, check_metrics, require_file
from gwfbench.commands._rows import METHODS, TASKS, selected, selection
from gwfbench.commands.list import bibliography
from gwfbench.errors import UserError
from gwfbench.plugins import registry

if TYPE_CHECKING:
    import pandas as pd

    from gwfbench.audit.verdict import Verdict
    from gwfbench.report.board.leaderboard import Board

FORMS = ["table", "markdown", "csv", "json", "latex", "bibtex"]
MOVED = {  # options of earlier versions, and how to type them now
    "--html": "report html {}",
    "--pages": "report pages {}",
    "--check": "report pages results --check",
    "--figures": "report figures {}",
    "--plot": "report pictures {}",
    "--ablate": "report ablate {}",
}


def _moved(command: Callable[..., Any]) -> Callable[..., Any]:
    """Take the options of earlier versions, and say what to type instead."""

    def refuse(_context: click.Context, option: click.Parameter, value: Any) -> None:
        if value:
            name = option.opts[0]
            now = f"python -m gwfbench {MOVED[name].format(value)}"
            raise UserError(f"report {name}", "a subcommand of report", f"write {now}")

    for name in MOVED:
        flag = name == "--check"
        command = click.option(name, is_flag=flag, hidden=True, expose_value=False, callback=refuse)(command)
    return command


def _keeping(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what is written, and how it is laid out."""
    for option in (
        click.option(
            "--laws",
            type=click.Choice(["all", "last"]),
            default="all",
            show_default=True,
            help="With --write: keep the rows of all judged laws, or of each run's last one.",
        ),
        click.option("--pivot", is_flag=True, help="One table per metric, tasks side by side."),
        click.option("--write", type=PLACE, help="Folder for the rows and their page (Markdown, CSV, LaTeX)."),
    ):
        command = option(command)
    return command


@click.group(invoke_without_command=True)
@selection
@METRIC
@click.option("--format", "form", type=click.Choice(FORMS), default="table", show_default=True, help="Output format.")
@_keeping
@_moved
@click.option("--suite", "suite_name", help="Suite whose board to print: these rows among the published ones.")
@click.option(
    "--within",
    default="",
    help="With --suite: seconds=60, units=500 or calls=1e6. Of each run its last law within it counts.",
)
@click.option("--stale", is_flag=True, help="Show also runs by other code than today's, marked [stale].")
@click.pass_context
def report(
    context: click.Context, form: str, chosen: tuple[str, ...], write: Path | None, pivot: bool, laws: str,
    suite_name: str | None, within: str, stale: bool, **where: Any,
) -> None:  # fmt: skip
    """Print the leaderboards of finished runs, or make something else from them (see the commands below).

    Of each run under --out the newest attempt counts. Runs and values made by other code than today's are left out,
    with a message; --stale shows runs by other code too.
    """
    if context.invoked_subcommand:
        _require_no_options(context)
        return
    if stale and (write or where["csv"] or suite_name):
        raise UserError(
            f"--stale with {'--write' if write else '--rows' if where['csv'] else '--suite'}",
            "runs of a folder, to be looked at", "leave --stale out: what is kept or ranked is by one code",
        )  # fmt: skip
    if suite_name:
        _show_suite(suite_name, within, where)
        return
    if within:
        raise UserError(f"--within {within}", "it together with --suite", "name a suite, or leave --within out")
    rows, facts = _checked(chosen, where | {"stale": stale})
    from gwfbench.report.board.leaderboard import alarms, boards, left_out

    verdicts = _verdicts(where["out"])
    shown = boards(rows, chosen or None)
    _show(rows, shown, verdicts, form, pivot)
    for line in [*alarms(shown), *(left_out(shown) if form in ("csv", "json", "latex") else [])]:
        say(line, err=True)
    if write:
        _write(write, rows, facts, verdicts, laws, {"pivot": pivot, "metrics": chosen})


def _show_suite(name: str, within: str, where: dict[str, Any]) -> None:
    """The board of a suite; without runs of one's own, of its published rows alone."""
    own = None
    if where["csv"] or where["out"].is_dir():
        try:
            own, _ = selected(**where)
        except UserError:
            if where["csv"] or where["tasks"] or where["methods"]:
                raise
    say(_suites.board(name, own, within))


def _require_no_options(context: click.Context) -> None:
    """Options before a subcommand would be ignored."""
    name = context.invoked_subcommand
    for option in context.command.params:
        given = option.name and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE
        if given and option is not PLUGIN:
            words = option.opts[0]
            raise UserError(f"{words} before {name}", f"options after {name}", f"write report {name} ... {words} ...")


@report.command()
@click.argument("file", type=PLACE)
@click.option(
    "--suite", "names", multiple=True, help="Published rows of this suite (repeatable; all: of every suite), with the "
    "numbers of papers next to ours. Rows that --rows or --out name stand next to them.",
)  # fmt: skip
@METRIC
@selection
@click.pass_context
def html(context: click.Context, file: Path, names: tuple[str, ...], chosen: tuple[str, ...], **where: Any) -> None:
    """Write one self-contained HTML page to FILE.

    It has sortable leaderboards, plots, particles and images, and for every number the runs behind it and a link. It
    needs no network. With --rows there are no particles and no images. Needs: pip install 'gwfbench[report]'.

    Example: report html site.html --suite all
    """
    require_file(file)
    from gwfbench.report.page import build, groups
    from gwfbench.report.page.draws import Views, views

    csv, out = where["csv"], where["out"]
    if names:
        typed = csv or context.get_parameter_source("out") is ParameterSource.COMMANDLINE
        own, facts = selected(**where) if typed else (None, {})
        made, known = _suites.groups(names, own, chosen or None)
        say(build.put(file, made, known | facts, Views([], [], []), _suites.RESULTS / "calibration.csv"), err=True)
        return
    rows, facts = _checked(chosen, where)
    group = groups.of_rows(rows, chosen or None, _verdicts(out))
    calibration = (csv or out).parent / "calibration.csv"
    say(build.put(file, [group], facts, views(rows, None if csv else out), calibration), err=True)


@report.command("rows")
@click.argument("file", type=PLACE)
@selection
def rows_(file: Path, **where: Any) -> None:
    """Write the rows into FILE: .csv, .parquet, or .json with an object a line.

    One row for each judged (seed, time, metric). Parquet needs: pip install pyarrow.
    """
    require_file(file)
    rows, _ = selected(**where)
    from gwfbench.report.rows import export

    export(rows, file)
    say(f"wrote {file}: {len(rows)} rows", err=True)


@report.command()
@click.argument("folder", type=PLACE)
@METRIC
@selection
def figures(folder: Path, chosen: tuple[str, ...], **where: Any) -> None:
    """Draw figures for papers into FOLDER (PNG and PDF).

    For each task: quality against training time, and quality along the flow or along training; one column wide.
    Without --metric, of each task's first metric. Needs: pip install 'gwfbench[report]'.
    """
    rows, _ = _checked(chosen, where)
    from gwfbench.report.figures.papers import draw

    for message in draw(rows, chosen or None, folder):
        say(message, err=True)


@report.command()
@click.argument("folder", type=PLACE)
@TASKS
@METHODS
@OUT
def pictures(folder: Path, **where: Any) -> None:
    """Draw the laws of runs into FOLDER, one PNG per task.

    In the plane: field, paths and last law of each method; of images, a grid for each method. This needs the points
    that runs keep, so there is no --rows. Needs: pip install 'gwfbench[report]'.
    """
    rows, _ = selected(csv=None, **where)
    from gwfbench.report.figures.flows import draw

    for message in draw(where["out"], set(rows["attempt"]), folder):
        say(message, err=True)


@report.command()
@click.argument("root", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option("--check", is_flag=True, help="Write nothing; fail if a page is not what its rows give.")
def pages(root: Path, check: bool) -> None:
    """Make every page below ROOT again from its rows.csv.

    These are the leaderboards of each folder, their index, the pages of papers, and the tables in the README next to
    ROOT. Exit code with --check: 1 if a page differs from what its rows give.
    """
    from gwfbench.report import pages as made

    files = made.all_made(root)
    if check:
        found = list(made.differences(files))
        for line in found:
            say(line, err=True)
        say(f"{len(files)} pages, {len(found)} of them not what the rows give")
        raise SystemExit(1 if found else 0)
    for path in made.written(files):
        say(f"wrote {path}")


@report.command()
@click.argument("change", metavar="KEY=VALUE")
@METRIC
@_keeping
@selection
def ablate(change: str, chosen: tuple[str, ...], write: Path | None, pivot: bool, laws: str, **where: Any) -> None:
    """Compare methods with and without the field KEY=VALUE.

    Each method that ran with this field is compared, seed by seed, with the same method without it: the ratio (or
    difference) of the two with a 95 % interval, and whether it is significant. --write also keeps rows and page, with
    this table on it.
    """
    rows, facts = _checked(chosen, where)
    from gwfbench.report.board import ablation

    say(ablation.markdown(ablation.ablation(rows, change, chosen or None), change))
    if write:
        settings = {"pivot": pivot, "metrics": chosen, "ablate": change}
        _write(write, rows, facts, _verdicts(where["out"]), laws, settings)


@report.command()
@click.argument("other", metavar="B", type=click.Path(path_type=Path, exists=True))
@METRIC
@click.option("--format", "form", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True)
@selection
def against(other: Path, form: str, chosen: tuple[str, ...], **where: Any) -> None:
    """Compare results with those of B, cell by cell: better, worse, not told apart, identical, in one alone.

    B, from before, is a CSV of results, a folder with a rows.csv, or a folder of runs. Values under the same seeds are
    compared, by paired t tests with Holm's correction. Exit code: 1 if a cell is worse, or fails where it did not.

    Example: report against results/ou --rows results/mine/rows.csv
    """
    rows, _ = _checked(chosen, where)
    before, _ = selected(where["tasks"], where["methods"], _csv_of(other), other)
    from gwfbench.report.board import changes
    from gwfbench.store.record import to_json

    found = changes.changes(rows, before, chosen or None)
    if form == "table":
        say(changes.markdown(found))
    elif form == "csv":
        put(changes.frame(found).to_csv(index=False))
    else:
        put("".join(to_json(row) + "\n" for row in changes.frame(found).to_dict("records")))
    raise SystemExit(int(any(one.outcome == "worse" for one in found)))


def _csv_of(place: Path) -> Path | None:
    """The CSV of results that is meant; None for a folder of runs."""
    if place.is_dir():
        return place / "rows.csv" if (place / "rows.csv").is_file() else None
    return place


for command in report.commands.values():
    command.params.append(PLUGIN)


def _checked(chosen: tuple[str, ...], where: dict[str, Any]) -> tuple[pd.DataFrame, Any]:
    """The selected rows, which have the chosen metrics, and their environments."""
    rows, facts = selected(**where)
    check_metrics(chosen, set(rows["metric"].dropna()))
    return rows, facts


def _verdicts(out: Path) -> list[Verdict]:
    """The verdicts of `verify` on runs under a folder; prints what else is in their file."""
    from gwfbench.audit import verdict

    verdicts, unreadable = verdict.kept(out)
    for text in unreadable:
        say(escape.line(f"left alone: {text}"), err=True)
    return verdicts


def _show(rows: pd.DataFrame, shown: Sequence[Board], verdicts: Sequence[Verdict], form: str, pivot: bool) -> None:
    """Print the leaderboards."""
    from gwfbench.report import pages
    from gwfbench.report.board import tables
    from gwfbench.report.board.leaderboard import frame
    from gwfbench.store.record import to_json

    if form == "csv":
        put(tables.csv(shown))
    elif form == "json":
        for row in frame(shown).to_dict("records"):
            put(to_json(row) + "\n")
    elif form == "latex":
        put(pages.latex(shown) + "\n")
    elif form == "bibtex":
        put("\n".join(bibliography(_plugins(rows))) + "\n")
    else:
        if pivot:
            say(tables.pivoted(shown))
        elif form == "markdown":
            say(tables.markdown(shown))
        else:
            tables.print_boards(shown)
        put(escape.block(tables.verified(rows, verdicts)))


def _plugins(rows: pd.DataFrame) -> list[registry.Plugin]:
    """The tasks and methods of these rows that are known here."""
    found = {("task", registry.head(task)): None for task in rows["task"]}
    found |= {("method", registry.head(method)): None for method in rows["method"]}
    return [registry.plugins(kind)[name] for kind, name in found if name in registry.plugins(kind)]  # type: ignore[index]


def _write(
    folder: Path, rows: pd.DataFrame, facts: Any, verdicts: Sequence[Verdict], laws: str, settings: dict[str, Any]
) -> None:
    """Keep rows in a folder and make its page; its layout changes if any of the settings is given."""
    from gwfbench.report import pages
    from gwfbench.report.rows import read

    layout = pages.Layout.read(folder)
    if any(settings.values()):
        layout = replace(layout, **settings)
    pages.keep(folder, pages.of_laws(rows, laws), facts, verdicts, layout)
    changed = pages.written(pages.made(folder, *read(folder / "rows.csv")))
    names = ", ".join(map(str, changed)) or "no page: none has changed"
    say(f"wrote {folder / 'rows.csv'} and {names}", err=True)
