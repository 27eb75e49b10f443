"""`gwfbench reproduce`."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gwfbench.commands._edge import note, say
from gwfbench.commands._options import OUT, PLACE, example, execution, read_execution
from gwfbench.commands._rows import collected
from gwfbench.commands.run import performed, tell_failed
from gwfbench.errors import require

if TYPE_CHECKING:
    import pandas as pd

    from gwfbench.papers.ledger import Answer, Paper, Table
    from gwfbench.report.paper_rows import Pairs
    from gwfbench.report.rows import Facts


@click.command(epilog=example("reproduce fan2022 --only table2 --dry-run"))
@click.argument("paper")
@click.option("--only", multiple=True, help="Only this table, as table2 or figure4 (repeatable).")
@click.option(
    "--paper-settings/--quick",
    "whole",
    default=False,
    show_default=True,
    help="The paper's settings, which may take days; or a shorter version of them, where there is one.",
)
@click.option("--seeds", default="3", show_default=True, help="Number of seeds (3 means 0,1,2), or a list: 3,5,8.")
@click.option("--device", default="cpu", show_default=True, help="Device: cpu, cuda, cuda:1, ...")
@click.option(
    "--rows",
    multiple=True,
    type=PLACE,
    help="CSV of results to make the page from, instead of running anything; several may follow it.",
)
@click.argument("more", nargs=-1, type=PLACE, metavar="[MORE ROWS]...")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Run nothing and write nothing: list the runs, their cost by earlier rows (--rows, else those under results), "
    "and why the others are left out.",
)
@click.option(
    "--write",
    type=PLACE,
    default=Path("results/papers"),
    show_default=True,
    help="Folder of the page, which always covers the whole paper.",
)
@execution
@OUT
def reproduce(
    paper: str, only: tuple[str, ...], whole: bool, seeds: str, device: str, rows: tuple[Path, ...],
    more: tuple[Path, ...], dry_run: bool, write: Path, out: Path, **how: Any,
) -> None:  # fmt: skip
    """Run the methods behind the published numbers of PAPER, and write a page that compares them with ours.

    Each line has the published value, ours with its interval, the published values that would have agreed, and a
    verdict. Runs that are finished under --out are not run again. With --rows nothing is run, as in `reproduce fan2022
    --rows results/*/rows.csv results/studies/*/rows.csv`. Exit code: 0 if every run ended well, 1 if one failed, 2
    for a mistake in the command.
    """
    from gwfbench.papers import ledger
    from gwfbench.report.rows import files, read
    from gwfbench.runs.order import Order, read_seeds

    require(bool(rows) or not more, f"reproduce {paper} {' '.join(map(str, more))}", "one paper", "write --rows first")
    rows = (*rows, *more)
    book = ledger.load(paper)
    tables = ledger.chosen(book, only)
    whole_page = "one of the two: the page always covers the whole paper"
    require(not (rows and only), "--only with --rows", whole_page, "leave --only out")
    parts = [read(path) for path in rows]
    if rows and not dry_run:
        facts = {name: kept for _, environments in parts for name, kept in environments.items()}
        named = zip(rows, parts, strict=True)
        sources = {str(path): set(zip(part["task"], part["method"], strict=True)) for path, (part, _) in named}
        make(book, _joined([part for part, _ in parts]), facts, write, sources)
        return
    if how["isolate"] and not dry_run:
        from gwfbench.process import forkserver

        forkserver.warm()
    kind = device.partition(":")[0]
    todo, numbers = ledger.to_run(book, tables, whole, kind == "cuda"), read_seeds(seeds)
    tell(paper, todo, tables, len(numbers), kind)
    if dry_run:
        parts = parts or [read(path) for path in files(Path("results"))]
        say(cost(list(todo), len(numbers), _joined([part for part, _ in parts]), kind))
        if told := gpu_cost(tables, len(numbers)):
            say(told)
        return
    jobs = [job for one in todo for job in Order.read([one.task], [one.method], numbers, device, controls=False).jobs()]
    failed = False
    if jobs:
        done, _ = performed(jobs, read_execution(how), out, "table", ())
        failed = tell_failed(done)
    table, facts = collected(out)[:2] if jobs else (_joined([]), {})
    make(book, table, facts, write)
    sys.exit(failed)


def tell(paper: str, todo: dict[Answer, list[str]], tables: Sequence[Table], seeds: int, device: str) -> None:
    """Print these runs with the tables that need them, and why other numbers are not run on this device."""
    say(f"{paper}: {len(todo) * seeds} runs of {len(todo)} settings")
    for answer, names in todo.items():
        say(f"  {answer.task}  {answer.method}\n    {answer.setting}, for {', '.join(names)}")
        if answer.cut:
            say(f"    cut: {answer.cut}")
    shown = {table.name for table in tables}
    left = [number for table in tables if table.again not in shown for number in table.numbers if number.missing]
    why = Counter(number.missing for number in left if not device == number.device == "cuda")
    if why:
        say(f"not run: {why.total()} numbers")
    for reason, number in why.most_common():
        say(f"  {number}: {reason}")


def cost(todo: Sequence[Answer], seeds: int, rows: pd.DataFrame, device: str) -> str:
    """What these runs will take, by what earlier runs of the same settings took, in words.

    Args:
        rows: of earlier runs, on whatever machine; older ones do not say what judging took.
        device: cpu or cuda, of both.
    """
    known: dict[tuple[str, str], float] = {}
    judging = "left out"
    if len(rows):
        rows = rows[rows["device"].str.partition(":")[0] == device] if "device" in rows else rows
    if len(rows):
        unknown = rows["judge_seconds"].isna()
        judging = "left out" if unknown.all() else "left out of older ones" if unknown.any() else "included"
        took = rows.assign(took=rows["seconds"] + rows[["sample_seconds", "judge_seconds"]].fillna(0.0).sum(axis=1))
        runs = took.groupby(["task", "method", "run_key", "attempt"])["took"].max()
        known = runs.groupby(level=[0, 1]).median().to_dict()  # type: ignore[assignment]
    found = [known[one.task, one.method] for one in todo if (one.task, one.method) in known]
    if not found:
        return "cost: not known, as no earlier rows are of these settings"
    more = (len(todo) - len(found)) * seeds
    left = f"; {more} runs are of settings without earlier rows" if more else ""
    hours, what = seeds * sum(found) / 3600, "one core" if device == "cpu" else "one GPU"
    known_runs = len(found) * seeds
    return f"cost: about {hours:.2g} hours of {what} for {known_runs} runs, by earlier rows, judging {judging}{left}"


def gpu_cost(tables: Sequence[Table], seeds: int) -> str:
    """The commands of what takes a GPU, each once, with the minutes of a seed; empty where there are none."""
    from gwfbench.papers.ledger import RATES

    found = {number.command: number for table in tables for number in table.numbers if number.command}
    if not found:
        return ""
    spans = {command: number.minutes for command, number in found.items()}
    lines = [
        f"  python -m gwfbench {command} --seeds {seeds}\n    a seed: {_minutes(spans[command])}" for command in spans
    ]
    least, most = (seeds * sum(span[end] for span in spans.values()) / 60 for end in (0, 1))
    rates = f"{RATES[1] / 1e12:.0f} to {RATES[0] / 1e12:.0f} TFLOP/s"
    head = f"on a GPU: {len(found)} settings, about {least:.2g} to {most:.2g} hours for {seeds} seed(s) of each"
    how = f"operations counted, {rates} assumed: nothing was measured on a GPU; `--device cuda` runs them all"
    return "\n".join([f"{head} ({how})", *lines])


def _minutes(span: tuple[float, float]) -> str:
    least, most = span
    return f"{least:.0f} to {most:.0f} minutes" if least == least else "not counted"


def make(
    book: Paper, rows: pd.DataFrame, facts: Facts, write: Path, sources: Mapping[str, Pairs] | None = None
) -> None:
    """Write the page, and print how many verdicts of each kind it has."""
    from gwfbench.report.paper_page import counted, page

    text, tally = page(book, rows, sources, facts)
    write.mkdir(parents=True, exist_ok=True)
    (write / f"{book.key}.md").write_text(text, encoding="utf-8")
    note(f"wrote {write / book.key}.md: {counted(tally)}")


def _joined(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """All rows; of a run that several files have, the last file's."""
    import pandas as pd

    kept: list[pd.DataFrame] = []
    seen: set[str] = set()
    for part in reversed(parts):
        kept.append(part[~part["run_key"].isin(seen)])
        seen |= set(part["run_key"])
    return pd.concat(reversed(kept), ignore_index=True) if kept else pd.DataFrame()
