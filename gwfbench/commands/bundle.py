"""`gwfbench bundle` and `gwfbench accept`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gwfbench import escape
from gwfbench.commands._edge import note, say
from gwfbench.commands._options import OUT, PLACE, example
from gwfbench.commands._rows import METHODS, TASKS
from gwfbench.errors import UserError, require

if TYPE_CHECKING:
    import pandas as pd

    from gwfbench.audit.bundle import Bundle


@click.command(epilog=example('bundle mine.zip --by "A. Person" --method mine --plugin mine.py'))
@click.argument("target", metavar="FILE.zip", type=PLACE)
@click.option("--by", required=True, help="Who has made the runs: a name, an address.")
@TASKS
@METHODS
@OUT
def bundle(target: Path, by: str, tasks: tuple[str, ...], methods: tuple[str, ...], out: Path) -> None:
    """Pack finished runs into one file that others can check: rows, kept points, environments, plug-ins' source.

    Of each run the newest attempt by today's code is packed, failed ones included.
    """
    from gwfbench.audit import bundle as bundles
    from gwfbench.audit.today import Today
    from gwfbench.commands.score import select
    from gwfbench.store import folders

    require(not target.exists(), f"{target}: exists", "a new file", "name another one")
    runs, strange = folders.attempts(out)
    for text in strange:
        note(escape.line(f"left alone: {text}"))
    today = Today()
    whole = [run for run in runs if run.status != "killed" and not today.why_stale(run)]
    chosen = select(whole, tasks, methods, failed=True)  # a failure is a result
    require(bool(chosen), f"--out {out}: no runs by today's code that fit", "at least one", "run them first")
    count = bundles.pack(out, chosen, target, by)
    size = target.stat().st_size / 2**20
    say(f"wrote {target}: {len(chosen)} runs, {count} files, {size:.1f} MiB; to check it: gwfbench accept {target}")


@click.command(epilog=example("accept mine.zip --suite smoke --write results/smoke"))
@click.argument("path", metavar="BUNDLE", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--count",
    type=click.IntRange(0),
    default=3,
    show_default=True,
    help="Number of runs to run again, chosen at random.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of that choice.")
@click.option("--suite", "suite_name", help="Suite whose tasks and seeds must all be there.")
@click.option("--write", type=PLACE, help="Results folder to add the rows to, with their label.")
def accept(path: Path, count: int, seed: int, suite_name: str | None, write: Path | None) -> None:
    """Check a bundle of results, run some of its runs again, and say whether it can be accepted, under which label.

    Checked are the hash of every file, the seals of the runs, and whether they were made by the code of the bundle's
    plug-ins and of this checkout. Labels: self-reported (--count 0), or re-run. THIS RUNS THE CODE IN THE BUNDLE: read
    its folder source/ first. Exit code: 0 if it is accepted, 1 if it is refused, 2 for a mistake in the command.
    """
    from gwfbench.audit import bundle as bundles

    with tempfile.TemporaryDirectory(prefix="gwfbench-accept-") as place:
        found = bundles.unpack(path, Path(place))
        refused = found.wrong or _refused(found, suite_name)
        rows, facts = (None, {}) if refused else _rows(found)
        again = 0
        if rows is not None and count:
            again, refused = _again(rows, facts, count, seed)
        for text in refused:
            say(escape.line(f"refused: {text}"))
        if refused or rows is None:
            sys.exit(1)
        methods = list(dict.fromkeys(rows.loc[rows["role"] == "method", "method"]))
        runs = rows["run_key"].nunique()
        word = "re-run" if again else "self-reported"
        say(escape.line(f"accepted: {', '.join(methods)}: {runs} runs by {found.by}, made {found.made[:10]}: {word}"
                        + (f" ({again} of them were run again, and none differs)" if again else "")))  # fmt: skip
        if write:
            label = {"label": word, "by": found.by, "runs": int(runs), "again": again, "made": found.made[:10]}
            _write(write, rows, facts, methods, label)


def _refused(found: Bundle, suite_name: str | None) -> list[str]:
    """Why these runs can't be accepted: what is broken, not today's, or missing."""
    from gwfbench.audit.today import Today
    from gwfbench.plugins import registry
    from gwfbench.store import folders

    known = registry.plugins("method").keys() | registry.plugins("task").keys()
    lacks = [one for one in found.plugins if not one["single"] and one["name"] not in known]
    if lacks:
        return [f"{one['kind']} '{one['name']}' is not here: install {one['origin']} {one['version']}" for one in lacks]
    registry.add_files(file for file in found.single_files() if file.stem not in known)
    runs, strange = folders.attempts(found.runs)
    said = [f"runs/{text}" for text in strange]
    today = Today()
    for run in runs:
        why = today.why_stale(run)
        if why:
            who = run.identity
            said.append(f"{who.task} {who.method} seed {who.seed}: {why}")
    if not runs:
        said.append("no runs")
    if suite_name:
        from gwfbench.suites import suite as suites

        there = {(run.identity.task, run.identity.method, run.identity.seed) for run in runs}
        methods = dict.fromkeys(r.identity.method for r in runs if not registry.is_control(r.identity.method))
        suite = suites.load(suite_name).on(list(methods))
        asked = [(part.task, method, seed) for part in suite.parts for method in part.methods
                 for seed in range(suite.seeds)]  # fmt: skip
        said += [f"missing: {task} {method} seed {seed}, of suite {suite_name}" for task, method, seed in asked
                 if (task, method, seed) not in there]  # fmt: skip
    return said


def _rows(found: Bundle) -> tuple[pd.DataFrame, dict[str, Any]]:
    from gwfbench.report import rows as kept

    rows, facts, _ = kept.rows_of(found.runs)
    return rows, facts


def _again(rows: pd.DataFrame, facts: dict[str, Any], count: int, seed: int) -> tuple[int, list[str]]:
    """How many runs were run again, and those that are different now."""
    from gwfbench.audit import verify

    refused, done = [], 0
    for some in verify.pick(rows[rows["role"] == "method"], count, seed):
        verdict = verify.verify(some, facts.get(str(some["env"].iloc[0]), {}), rows)
        done += 1
        note(f"run again: {verdict.task} {verdict.method} seed {verdict.seed}: {verdict.verdict}")
        who = f"{verdict.task} {verdict.method} seed {verdict.seed}"
        if verdict.verdict in ("different", "not run"):
            refused.append(f"{who}: {verdict.verdict} when run again: {verdict.what}. {verdict.why}")
        elif verdict.verdict == "within tolerance" and not verdict.why:
            refused.append(f"{who}: other bits when run again by the same code on the same machine: {verdict.what}")
    return done, refused


def _write(folder: Path, rows: pd.DataFrame, facts: Any, methods: list[str], label: dict[str, Any]) -> None:
    """Add rows to a results folder, and keep their label."""
    import pandas as pd

    from gwfbench.audit import bundle as bundles
    from gwfbench.report import pages
    from gwfbench.report import rows as kept

    mine = rows[rows["method"].isin(methods)]
    if (folder / "rows.csv").is_file():
        before, known = kept.read(folder / "rows.csv")
        theirs = before[before["method"].isin(methods)]
        if len(theirs) and not set(methods) <= bundles.origins(folder).keys():
            raise UserError(
                f"--write {folder}: it has rows of {', '.join(sorted(set(theirs['method'])))} already",
                "rows that no one else has made", "name another folder",
            )  # fmt: skip
        mine = pd.concat([before[~before["method"].isin(methods)], mine], ignore_index=True)
        facts = known | facts
    else:
        mine = rows
    pages.keep(folder, mine, facts, [], pages.Layout.read(folder))
    bundles.label(folder, methods, label)
    changed = pages.written(pages.made(folder, *kept.read(folder / "rows.csv")))
    note(f"added to {folder / 'rows.csv'}; wrote {', '.join(map(str, changed))}")
