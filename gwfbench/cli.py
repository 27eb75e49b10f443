"""The command line: its commands, and its exit codes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from gwfbench import __version__
from gwfbench.commands._edge import guarded
from gwfbench.commands._options import EVERYWHERE, QUIET, VERBOSE, example
from gwfbench.commands.bundle import accept, bundle
from gwfbench.commands.calibrate import calibrate
from gwfbench.commands.check import check
from gwfbench.commands.exec import exec_
from gwfbench.commands.list import list_
from gwfbench.commands.new import new
from gwfbench.commands.report import report
from gwfbench.commands.reproduce import reproduce
from gwfbench.commands.run import run
from gwfbench.commands.score import score
from gwfbench.commands.status import status
from gwfbench.commands.submit import submit
from gwfbench.commands.suite import suite
from gwfbench.commands.tune import tune
from gwfbench.commands.verify import verify


def main() -> None:
    """Run the command line; exit codes are in README, and `commands._edge` has the last word on exceptions."""
    sys.exit(guarded(_called))


def _called() -> int | None:
    """What click's `main` does, without its own answer to a closed pipe."""
    if "_GWFBENCH_COMPLETE" in os.environ:  # a shell asks for completions
        return cli(standalone_mode=False)
    name = "gwfbench" if Path(sys.argv[0]).name == "gwfbench" else "python -m gwfbench"
    try:
        with cli.make_context(name, sys.argv[1:]) as context:
            cli.invoke(context)
    except click.exceptions.Exit as end:  # after --help and --version
        return end.exit_code
    return None


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=example("run --suite smoke --jobs 2"),
    params=[QUIET, VERBOSE],
)
@click.version_option(__version__)
def cli() -> None:
    """Run, time and judge Wasserstein-gradient-flow methods on problems with known answers."""


for command in (
    list_,
    new,
    suite,
    run,
    tune,
    exec_,
    submit,
    status,
    score,
    verify,
    report,
    reproduce,
    calibrate,
    check,
    bundle,
    accept,
):
    for one in (command, *(command.commands.values() if isinstance(command, click.Group) else ())):
        one.params += EVERYWHERE
    cli.add_command(command)
