"""The edge of the command line: what is printed, and what becomes of an exception that nothing else has caught.

All text leaves through `say`, which shows control characters instead of sending them. Whatever exception arrives here
ends with a message and an exit code: 2 for what the user can mend, 70 for a fault of gwfbench.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.metadata
import io
import os
import platform
import shlex
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import click

from gwfbench import __version__, escape
from gwfbench.errors import UserError

FAULT = 70  # EX_SOFTWARE of sysexits.h
GONE = 141  # 128 + SIGPIPE: as a program ends whose reader has gone
INTERRUPTED = 130
FRAMES = 3  # of a traceback, in the message
FIXES = {
    errno.ENOSPC: "free some space, or name a place on another disk",
    errno.EDQUOT: "free some space, or name a place on another disk",
    errno.EFBIG: "allow larger files (ulimit -f), or name a place on another disk",
    errno.EMFILE: "allow more open files (ulimit -n 1024), or run fewer at once",
    errno.ENFILE: "close other programs, or run fewer at once",
    errno.EACCES: "change its permissions, or name another place",
    errno.EPERM: "change its permissions, or name another place",
    errno.EROFS: "name a place on a disk that can be written",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ENOMEM: "free some memory, or run fewer at once",
    errno.EIO: "check the disk, or name a place on another one",
}  # what a file system says that is no fault of ours, even where it names no file


class Level:
    """How much is said: all, the usual, or only what is asked for and errors."""

    quiet = False
    verbose = False
    began = time.monotonic()


def note(text: str) -> None:
    """Print what a user may like to know, on standard error, unless -q is given."""
    if not Level.quiet:
        say(text, err=True)


def detail(text: str) -> None:
    """Print what goes on inside, with the seconds since the start, if -v is given."""
    if Level.verbose:
        say(f"{time.monotonic() - Level.began:6.1f} s  {escape.line(text)}", err=True)


def say(text: str, err: bool = False) -> None:
    """Print text, whoever wrote it, with its control characters shown; on standard error, nothing that fails."""
    put(escape.block(text) + "\n", err)


def put(text: str, err: bool = False) -> None:
    """Print text as it is: JSON, CSV, Markdown and LaTeX, whose writers have escaped it."""
    try:
        click.echo(text, nl=False, err=err)
    except OSError as error:
        if not err:
            raise OSError(error.errno, error.strerror, "standard output") from error
        _mute(sys.stderr)  # a message that can't be written must not end a run


def guarded(call: Callable[[], Any]) -> int:
    """The exit code of a call, after a message if it ends with an exception."""
    _open_streams()
    try:
        return _ended(call)
    except BrokenPipeError:
        _mute(sys.stdout)
        return GONE
    except UserError as error:
        say(f"gwfbench: {error}", err=True)
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        say(shown.getvalue().rstrip("\n"), err=True)
    except (KeyboardInterrupt, click.Abort):
        say("gwfbench: interrupted; finished runs are kept, and the same command resumes from there", err=True)
        return INTERRUPTED
    except Exception as error:
        known = _of_the_machine(error)
        say(f"gwfbench: {known}" if known else fault(error, sys.argv[1:]), err=True)
        return 2 if known else FAULT
    return 2


def _ended(call: Callable[[], Any]) -> int:
    """The exit code of a call that ends by itself, its output written to the last byte."""
    try:
        code = call()
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # rich's answer to it
            raise BrokenPipeError from None
        code = end.code
    sys.stdout.flush()
    return int(code or 0)


def _of_the_machine(error: Exception) -> UserError | None:
    """What a file system or the memory has refused, in three parts; None if that is not what the error says."""
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
        return UserError("the memory is used up", "enough of it for what was asked", "ask for less")
    home = str(Path(__file__).parents[1])
    if not isinstance(error, OSError) or (error.errno not in FIXES and str(error.filename or home).startswith(home)):
        return None
    what = "standard output, or a file that was open" if error.filename is None else str(error.filename)
    try:
        sys.stdout.flush()
    except OSError:  # it still has what could not be written
        _mute(sys.stdout)
    fix = FIXES.get(error.errno or 0, "name another file or folder")
    return UserError(f"{what}: {error.strerror or error}", "a place that can be read and written", fix)


def fault(error: BaseException, words: Sequence[str]) -> str:
    """A report of a fault of gwfbench: what was typed, with which versions, and where it broke.

    The whole traceback goes into a file. Names of the machine, of its user and of their folders are left out.
    """
    whole = "".join(traceback.format_exception(error))
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES:]
    where = " < ".join(f"{_short(frame.filename)}:{frame.lineno} in {frame.name}" for frame in reversed(frames))
    facts = f"gwfbench {__version__}, Python {platform.python_version()}, torch {_version('torch')}"
    head = [
        "gwfbench: this is a fault of gwfbench, not of your command. Please report it with these lines:",
        f"  command: gwfbench {_anonymous(escape.line(shlex.join(words)))}",
        f"  error: {escape.line(_anonymous(f'{type(error).__name__}: {error}'))[:500]}",
        f"  where: {where}",
        f"  versions: {facts}, {platform.system()} {platform.machine()}",
    ]
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="gwfbench-fault-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.write("\n".join([*head, "", _anonymous(whole)]))
        return "\n".join([*head, f"  the full traceback is in {file.name}"])
    except OSError:  # no place for a file
        return "\n".join([*head, _anonymous(whole)])


def _anonymous(text: str) -> str:
    home = os.path.expanduser("~")
    return text.replace(home, "~") if len(home) > 1 else text


def _short(file: str) -> str:
    """A file by its place in its package."""
    for place in sorted(filter(None, sys.path), key=len, reverse=True):
        if Path(file).is_relative_to(place):
            return str(Path(file).relative_to(place))
    return Path(file).name


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _open_streams() -> None:
    """Let a closed standard stream lead nowhere: its number must not go to the next file that is opened."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the encoding lacks is shown, not an error
            stream.reconfigure(errors="backslashreplace")


def _mute(stream: IO[str]) -> None:
    """Send what is left for a stream that can't be written nowhere: the interpreter flushes it once more at its end."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
