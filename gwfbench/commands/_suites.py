"""What commands do with a suite: which runs it has, and its board among the published rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from gwfbench import escape
from gwfbench.commands._edge import note, put, say
from gwfbench.errors import UserError, require
from gwfbench.plugins import registry

if TYPE_CHECKING:
    import pandas as pd

    from gwfbench.report.page.groups import Group
    from gwfbench.report.rows import Facts
    from gwfbench.store.record import Run
    from gwfbench.suites.suite import Suite

FIXED = {"seeds": "--seeds", "budget": "--budget", "judge": "--judge", "curve": "--no-curve"}
RESULTS = Path(__file__).parents[2] / "results"  # of a checkout


def chosen(context: click.Context, name: str, tasks: tuple[str, ...], methods: tuple[str, ...]) -> Suite:
    """The suite, on these of its tasks alone and with these methods for its roster, where there are any.

    Raises:
        UserError: there is no such suite, or something is typed that a suite fixes.
    """
    from gwfbench.suites import suite as suites

    for option, words in FIXED.items():
        typed = context.get_parameter_source(option) == ParameterSource.COMMANDLINE
        require(not typed, f"{words} with --suite", "what the suite says: its board compares like with like",
                f"leave {words} out, or copy the suite into a TOML file of your own and name that")  # fmt: skip
    found = suites.load(name)
    if methods:
        found = found.on(methods)
    if tasks:
        wanted = {registry.canonical("task", task) for task in tasks}
        there = [part.task for part in found.parts]
        for task in wanted.difference(there):
            raise UserError(f"task '{task}'", f"a task of suite '{name}': {', '.join(there)}", "leave --task out")
        found = replace(found, parts=tuple(part for part in found.parts if part.task in wanted))
    return replace(found, parts=tuple(part for part in found.parts if part.methods))


def published(suite: Suite) -> pd.DataFrame | None:
    """The committed rows of a suite; None where there are none, as in a wheel."""
    found = _kept(suite)
    return found[0] if found else None


def _kept(suite: Suite) -> tuple[pd.DataFrame, Facts] | None:
    from gwfbench.report import rows as kept

    path = RESULTS / suite.name / "rows.csv"
    return kept.read(path) if path.is_file() else None


def rows_of(name: str, own: pd.DataFrame | None) -> tuple[Suite, pd.DataFrame]:
    """A whole suite and its rows, of one's own rows and of the published ones.

    Raises:
        UserError: there are none, or there is no such suite.
    """
    from gwfbench.suites import suite as suites

    suite = suites.load(name)
    return suite, _together(suite, own, published(suite))


def _together(suite: Suite, own: pd.DataFrame | None, theirs: pd.DataFrame | None) -> pd.DataFrame:
    """One's own rows and the published ones, as far as they belong to the suite.

    Raises:
        UserError: there are none.
    """
    import pandas as pd

    from gwfbench.report.board import suites as made

    parts = [rows for rows in (own, theirs) if rows is not None]
    require(
        bool(parts), f"suite '{suite.name}': no rows", "runs, or published rows",
        f"python -m gwfbench run --suite {suite.name}",
    )  # fmt: skip
    rows = pd.concat(parts, ignore_index=True)
    first = rows.drop_duplicates(["run_key", "attempt"]).drop_duplicates("run_key")["attempt"]  # one's own come first
    rows = made.of_suite(rows[rows["attempt"].isin(first)], suite)
    require(
        bool(len(rows)), f"suite '{suite.name}': no rows of its tasks, seeds and budget", "some",
        f"python -m gwfbench run --suite {suite.name}",
    )  # fmt: skip
    return rows


def board(name: str, own: pd.DataFrame | None, within: str, form: str, look: Mapping[str, bool]) -> None:
    """Print the board of a whole suite, of one's own rows and of the published ones.

    Args:
        within: `seconds=60` or `calls=1e6`: of each run its last law within it counts.
        form: markdown, or a table for a terminal.

    Raises:
        UserError: there are no rows, or `within` is no such limit.
    """
    from gwfbench.report.board import suites as made
    from gwfbench.report.board.terminal import Look, print_suite

    suite, rows = rows_of(name, own)
    if not name.endswith(".toml") and not (RESULTS / name / "rows.csv").is_file():
        note("no published rows: they come with a clone of gwfbench, not with an installed package")
    if within:
        limit, most = _limit(within, made.LIMITS)
        rows = made.within(rows, suite, limit, most)
        say(f"Within {within}:\n")
    if form == "markdown":
        say(made.markdown(rows, suite))
    else:
        print_suite(rows, suite, Look(**look))


def groups(names: Sequence[str], own: pd.DataFrame | None, metrics: Sequence[str] | None) -> tuple[list[Group], Facts]:
    """What a page shows of suites, and of the numbers of papers; and all environments of these rows.

    Args:
        names: of suites; all: those that have published rows.

    Raises:
        UserError: there is no such suite, or there are no rows of it.
    """
    from gwfbench.report.page import groups as made
    from gwfbench.suites import suite as suites

    if "all" in names:
        names = [name for name in suites.names() if (RESULTS / name / "rows.csv").is_file()]
        require(bool(names), "--suite all", "published rows, which a clone has", "name a suite that you have run")
    found: list[Group] = []
    facts: Facts = {}
    for name in dict.fromkeys(names):
        suite = suites.load(name)
        theirs, environments = _kept(suite) or (None, {})
        facts |= environments
        found.append(made.of_suite(suite, _together(suite, own, theirs), metrics))
    if any(RESULTS.glob("**/rows.csv")):
        papers, environments = made.of_papers(RESULTS)
        found.append(papers)
        facts |= environments
    return found, facts


def _limit(text: str, names: Sequence[str]) -> tuple[str, float]:
    name, _, number = text.partition("=")
    try:
        most = float(number)
    except ValueError:
        most = -1.0
    require(name in names and most > 0, f"--within {text}", f"{' or '.join(names)}, and how many", "write calls=1e6")
    return name, most


def show(name: str, done: list[Run], out: Path, form: str, **look: bool) -> None:
    """The board of a suite after runs of it, or their rows."""
    from gwfbench.audit import counted
    from gwfbench.store.rows import tidy

    today, said = counted.current(done, out)
    for text in said:
        note(escape.line(text))
    rows = tidy(today)
    if form == "csv":
        put(rows.to_csv(index=False))
    elif form == "table":
        board(name, rows, "", form, look)


def expected(suite: Suite) -> dict[tuple[str, str], float]:
    """Seconds of a run by task and method, as the published runs took where they ran."""
    rows = published(suite)
    if rows is None:
        return {}
    of = rows.groupby(["task", "method", "run_key", "attempt"])[["seconds", "sample_seconds", "judge_seconds"]]
    took = of.max().sum(axis=1)  # each is what the run had taken so far
    return took.groupby(level=[0, 1]).median().to_dict()  # type: ignore[return-value]


def hours(suite: Suite) -> tuple[float, int]:
    """Hours of one core that the published runs would take here, controls with them, by their rows, and how many of the
    suite's runs those are, without controls; of runs without units, what they took where they ran."""
    from gwfbench.drive import machine
    from gwfbench.report.board.suites import of_suite

    rows = published(suite)
    if rows is None:
        return 0.0, 0
    rows = of_suite(rows, suite)
    runs = rows.groupby(["run_key", "attempt"])[["seconds", "sample_seconds", "judge_seconds", "unit"]].max()
    spent = runs.drop(columns="unit").sum(axis=1)  # each is what the run had taken so far
    if runs["unit"].notna().any():
        spent *= (machine.unit_here() / runs["unit"]).fillna(1.0)
    return float(spent.sum()) / 3600, rows.loc[rows["role"] == "method", "run_key"].nunique()


def facts(name: str) -> dict[str, Any]:
    """What `suite list` says of one; runs are those of its methods, besides which each task has its controls."""
    from gwfbench.runs.progress import span
    from gwfbench.suites import suite as suites

    suite = suites.load(name)
    spent, ran = hours(suite)
    runs = sum(len(part.methods) for part in suite.parts) * suite.seeds
    some = "" if ran == runs else f" for {ran} of them"
    return {
        "suite": name, "tasks": len(suite.parts), "methods": len(suite.methods), "runs": runs,
        "on one core": f"{span(3600 * spent)}{some}" if ran else "not known", "track": suite.track,
        "title": suite.title,
    }  # fmt: skip
