"""`gwfbench reproduce`."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gwfbench.commands._options import OUT, execution, read_execution
from gwfbench.commands.report import collect
from gwfbench.commands.run import performed, tell_failed
from gwfbench.errors import require

if TYPE_CHECKING:
    import pandas as pd

    from gwfbench.drive.job import Job
    from gwfbench.papers.ledger import Answer, Table


@click.command()
@click.argument("paper")
@click.option("--only", multiple=True, help="Only what answers this table, as table2 or figure4 (repeatable).")
@click.option(
    "--paper-settings/--quick",
    "whole",
    default=False,
    show_default=True,
    help="The paper's settings, which may take days; or their cut, where there is one.",
)
@click.option("--seeds", default="3", show_default=True, help="How many (3 means 0 1 2), or which: 3,5,8.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, ...")
@click.option(
    "--rows", multiple=True, type=click.Path(path_type=Path), help="Run nothing: CSVs of points (repeatable)."
)
@click.option(
    "--dry-run", is_flag=True, help="Run nothing and write nothing: say what would run, and what not and why."
)
@click.option(
    "--write",
    type=click.Path(path_type=Path),
    default=Path("results/papers"),
    show_default=True,
    help="Folder of the page, which is always the whole paper's.",
)
@execution
@OUT
def reproduce(
    paper: str, only: tuple[str, ...], whole: bool, seeds: str, device: str, rows: tuple[Path, ...], dry_run: bool,
    write: Path, out: Path, **how: Any,
) -> None:  # fmt: skip
    """Run what answers the numbers of a PAPER, and write them beside ours: published, ours, interval, verdict.

    What is finished under --out is not run again. Exit code: 0 if every run ended well, 1 if one failed, 2 for a
    mistake in the command.
    """
    from gwfbench.papers import ledger

    book = ledger.load(paper)
    tables = ledger.chosen(book, only)
    require(not (rows and only), "--only with --rows", "one of them: a page is always whole", "leave --only out")
    require(not (rows and dry_run), "--dry-run with --rows", "one of them: rows run nothing", "leave --dry-run out")
    if rows:
        from gwfbench.report.rows import read

        make(book, _joined([read(path)[0] for path in rows]), write)
        return
    todo = ledger.to_run(book, tables, whole)
    jobs = listed(paper, todo, tables, seeds, device)
    if dry_run:
        return
    failed = False
    if jobs:
        done, _ = performed(jobs, read_execution(how), out, "table", ())
        failed = tell_failed(done)
    make(book, collect(out)[0] if jobs else _joined([]), write)
    sys.exit(failed)


def listed(paper: str, todo: dict[Answer, list[str]], tables: Sequence[Table], seeds: str, device: str) -> list[Job]:
    """The jobs of these runs; says what they are and what they are for, and what is not run and why."""
    from gwfbench.runs.order import Order

    jobs: list[Job] = []
    for one in todo:
        jobs += Order.read([one.task], [one.method], seeds, device, controls=False).jobs()
    count = sum(len(job.seeds) for job in jobs)
    click.echo(f"{paper}: {count} runs of {len(todo)} settings")
    for one, names in todo.items():
        click.echo(f"  {one.task}  {one.method}\n    {one.setting}, for {', '.join(names)}")
        if one.cut:
            click.echo(f"    cut: {one.cut}")
    why = Counter(number.missing for table in tables for number in table.numbers if number.missing)
    if why:
        click.echo(f"not run: {why.total()} numbers")
    for reason, number in why.most_common():
        click.echo(f"  {number}: {reason}")
    return jobs


def make(book: Any, points: pd.DataFrame, write: Path) -> None:
    """Write the page, and say what it counts."""
    from gwfbench.report.paper_page import counted, page

    text = page(book, points)
    write.mkdir(parents=True, exist_ok=True)
    (write / f"{book.key}.md").write_text(text, encoding="utf-8")
    click.echo(f"wrote {write / book.key}.md: {counted(text)}", err=True)


def _joined(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """All rows; of a run that several files have, the last file's."""
    import pandas as pd

    kept: list[pd.DataFrame] = []
    seen: set[str] = set()
    for part in reversed(parts):
        kept.append(part[~part["run_key"].isin(seen)])
        seen |= set(part["run_key"])
    return pd.concat(reversed(kept), ignore_index=True) if kept else pd.DataFrame()
