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
from gwfbench.commands._edge import note, put, say
from gwfbench.commands._options import EVERYWHERE, METRIC, OUT, PLACE, check_metrics, example, look, require_file
from gwfbench.commands._rows import METHODS, TASKS, selected, selection
from gwfbench.commands.list import bibliography
from gwfbench.errors import UserError, require
from gwfbench.plugins import registry

if TYPE_CHECKING:
    import pandas as pd

    from gwfbench.audit.verdict import Verdict
    from gwfbench.report.board.leaderboard import Board
    from gwfbench.report.board.terminal import Look

LABEL = click.option(
    "--label", multiple=True, metavar="NAME=TEXT", help="Name of a method of your own choice (repeatable)."
)
FORMS = ["table", "markdown", "csv", "json", "latex", "bibtex"]


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


@click.group(
    invoke_without_command=True, epilog=example("report --rows results/studies/ou/rows.csv --metric symkl --intervals")
)
@selection
@METRIC
@click.option("--format", "form", type=click.Choice(FORMS), default="table", show_default=True, help="Output format.")
@_keeping
@LABEL
@click.option("--suite", "suite_name", help="Suite whose board to print: these rows among the published ones.")
@click.option(
    "--within",
    default="",
    help="With --suite: seconds=60, units=500 or calls=1e6. Of each run its last law within it counts.",
)
@click.option("--stale", is_flag=True, help="Show also runs by other code than today's, marked [stale].")
@look
@click.pass_context
def report(
    context: click.Context, form: str, chosen: tuple[str, ...], write: Path | None, pivot: bool, laws: str,
    label: tuple[str, ...], suite_name: str | None, within: str, stale: bool, wide: bool, intervals: bool, **where: Any,
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
        forms = ("table", "markdown")
        require(form in forms, f"--suite with --format {form}", f"one of {', '.join(forms)}", "leave --format out")
        _suites.board(suite_name, _own(where), within, form, {"wide": wide, "intervals": intervals})
        return
    if within:
        raise UserError(f"--within {within}", "it together with --suite", "name a suite, or leave --within out")
    if label and form != "latex":
        raise UserError(f"--label with --format {form}", "--format latex", "add --format latex, or use report figures")
    rows, facts = _checked(chosen, where | {"stale": stale})
    from gwfbench.report import names
    from gwfbench.report.board import latex
    from gwfbench.report.board.leaderboard import alarms, boards, left_out
    from gwfbench.report.board.terminal import Look

    verdicts = _verdicts(where["out"])
    shown = boards(rows, chosen or None)
    if form == "latex":
        put(latex.tables(shown, pivot, names.given(label)))
    else:
        _show(rows, shown, verdicts, form, pivot, Look(wide, intervals, bool(chosen)))
    for line in alarms(shown):
        say(line, err=True)
    for line in left_out(shown) if form in ("csv", "json", "latex") else []:
        note(line)
    if write:
        _write(write, rows, facts, verdicts, laws, {"pivot": pivot, "metrics": chosen})


def _own(where: dict[str, Any]) -> pd.DataFrame | None:
    """The rows of runs of one's own for a suite; None where there are none, and its published rows are enough."""
    if where["csv"] or where["out"].is_dir():
        try:
            return selected(**where)[0]
        except UserError:
            if where["csv"] or where["tasks"] or where["methods"]:
                raise
    return None


def _require_no_options(context: click.Context) -> None:
    """Options before a subcommand would be ignored."""
    name = context.invoked_subcommand
    for option in context.command.params:
        given = option.name and context.get_parameter_source(option.name) is ParameterSource.COMMANDLINE
        if given and option not in EVERYWHERE:
            words = option.opts[0]
            raise UserError(f"{words} before {name}", f"options after {name}", f"write report {name} ... {words} ...")


@report.command(epilog=example("report html board.html"))
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
    needs no network. With --rows there are no particles and no images. Needs: pip install jinja2 matplotlib.
    """
    require_file(file)
    from gwfbench.report.page import build, groups
    from gwfbench.report.page.draws import Views, views

    csv, out = where["csv"], where["out"]
    if names:
        typed = csv or context.get_parameter_source("out") is ParameterSource.COMMANDLINE
        own, facts = selected(**where) if typed else (None, {})
        made, known = _suites.groups(names, own, chosen or None)
        note(build.put(file, made, known | facts, Views([], [], []), _suites.RESULTS / "calibration.csv"))
        return
    rows, facts = _checked(chosen, where)
    group = groups.of_rows(rows, chosen or None, _verdicts(out))
    calibration = (csv or out).parent / "calibration.csv"
    note(build.put(file, [group], facts, views(rows, None if csv else out), calibration))


@report.command("rows", epilog=example("report rows rows.csv"))
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
    note(f"wrote {file}: {len(rows)} rows")


@report.command(epilog=example("report figures figures --metric sliced_w2"))
@click.argument("folder", type=PLACE)
@METRIC
@click.option(
    "--x",
    "along",
    type=click.Choice(["total", "calls", "train"]),
    default="total",
    show_default=True,
    help="Cost on the horizontal axis: seconds of training and sampling, oracle calls of both, or seconds of training.",
)
@click.option(
    "--columns", type=click.Choice(["1", "2"]), default="1", show_default=True, help="Width, in columns of a page."
)
@LABEL
@click.option(
    "--suite", "suite_name", help="Suite to draw: these rows among the published ones, and ranks over its tasks."
)
@selection
def figures(
    folder: Path, chosen: tuple[str, ...], along: str, columns: str, label: tuple[str, ...], suite_name: str | None,
    **where: Any,
) -> None:  # fmt: skip
    """Draw figures for papers into FOLDER (PNG and PDF).

    For each task: quality against cost, and quality along the flow or along the cost. Without --metric, of each task's
    first metric. With --suite also the rank of each method on each task, with its tier. Needs: pip install matplotlib.
    """
    from gwfbench.report import names
    from gwfbench.report.figures import papers, tiers

    wanted = papers.Wanted(along, int(columns), names.given(label))
    if suite_name:
        if chosen:
            raise UserError("--metric with --suite", "the headline metrics of the suite", "leave --metric out")
        suite, rows = _suites.rows_of(suite_name, _own(where))
        note(tiers.draw(rows, suite, folder, wanted))
        metrics: Any = {part.task: suite.metric(part) for part in suite.parts}
    else:
        rows, _ = _checked(chosen, where)
        metrics = chosen or None
    for message in papers.draw(rows, metrics, folder, wanted):
        note(message)


@report.command(epilog=example("report pictures pictures --task toy2d"))
@click.argument("folder", type=PLACE)
@LABEL
@TASKS
@METHODS
@OUT
def pictures(folder: Path, label: tuple[str, ...], **where: Any) -> None:
    """Draw the laws of runs into FOLDER, one PNG per task.

    In the plane: field, paths and last law of each method; of images, a grid for each method. This needs the points
    that runs keep, so there is no --rows. Needs: pip install matplotlib.
    """
    rows, _ = selected(csv=None, **where)
    from gwfbench.report import names
    from gwfbench.report.figures.flows import draw

    for message in draw(where["out"], set(rows["attempt"]), folder, names.given(label)):
        note(message)


@report.command(epilog=example("report pages results --check"))
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


@report.command(epilog=example("report ablate decay=none --metric symkl"))
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


@report.command(epilog=example("report against results/studies/ou --rows results/mine/rows.csv"))
@click.argument("other", metavar="B", type=click.Path(path_type=Path, exists=True))
@METRIC
@click.option("--format", "form", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True)
@selection
def against(other: Path, form: str, chosen: tuple[str, ...], **where: Any) -> None:
    """Compare results with those of B, cell by cell: better, worse, not told apart, identical, in one alone.

    B, from before, is a CSV of results, a folder with a rows.csv, or a folder of runs. Values under the same seeds are
    compared, by paired t tests with Holm's correction. Exit code: 1 if a cell is worse, or fails where it did not.
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
        note(escape.line(f"left alone: {text}"))
    return verdicts


def _show(
    rows: pd.DataFrame, shown: Sequence[Board], verdicts: Sequence[Verdict], form: str, pivot: bool, look: Look
) -> None:
    """Print the leaderboards."""
    from gwfbench.report.board import tables
    from gwfbench.report.board.leaderboard import frame
    from gwfbench.report.board.terminal import print_boards
    from gwfbench.store.record import to_json

    if form == "csv":
        put(tables.csv(shown))
    elif form == "json":
        for row in frame(shown).to_dict("records"):
            put(to_json(row) + "\n")
    elif form == "bibtex":
        put("\n".join(bibliography(_plugins(rows))) + "\n")
    else:
        if pivot:
            say(tables.pivoted(shown))
        elif form == "markdown":
            say(tables.markdown(shown))
        else:
            print_boards(shown, look)
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
    note(f"wrote {folder / 'rows.csv'} and {names}")
