"""Verdicts of `verify` on runs, and the file next to the runs that keeps them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from gwfbench.errors import UserError
from gwfbench.store import checked
from gwfbench.store.record import to_json

FILE = "verified.jsonl"
Word = Literal["identical", "within tolerance", "like another seed", "different", "not run"]


@dataclass(frozen=True)
class Verdict:
    """What became of one run when it was run again."""

    task: str
    method: str
    seed: int
    run_key: str
    attempt: str
    verdict: Word
    what: str = ""  # the worst value: metric, t, got, expected
    why: str = ""  # known reasons for a difference
    values: int = 0  # compared
    code: str = ""  # of the rows
    env: str = ""  # of the rows
    date: str = ""
    env_now: str = ""
    code_now: str = ""


def keep(out: Path, verdict: Verdict) -> None:
    """Append a verdict to verified.jsonl.

    Raises:
        UserError: the folder can't be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with (out / FILE).open("a", encoding="utf-8") as file:
            file.write(to_json(asdict(verdict)) + "\n")
    except OSError as error:
        raise UserError(
            f"--out {out}: {error.strerror}", "a folder that can be written", "name another folder with --out"
        ) from None


def kept(out: Path) -> tuple[list[Verdict], list[str]]:
    """The verdicts so far, and what else was found among them."""
    found: list[Verdict] = []
    strange: list[str] = []
    path = out / FILE
    try:
        lines = checked.read_bytes(path).decode(errors="replace").splitlines() if path.exists() else []
    except OSError as error:
        return [], [f"{FILE}: {error.strerror}"]
    for number, line in enumerate(lines, start=1):
        try:
            found.append(checked.checked(Verdict, checked.from_json(line)))
        except ValueError as error:
            strange.append(f"{FILE}:{number}: {error}")
    return found, strange
