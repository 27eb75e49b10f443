"""What the files of an attempt say: sealed when they are written, checked when they are read."""

from __future__ import annotations

import contextlib
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from gwfbench.store import checked
from gwfbench.store.record import SCHEMA, Row, Run, digest, to_json

SUMS = "sums.txt"  # of a half-written folder: a hash of each line of rows.jsonl


class OtherSchema(ValueError):
    """The files of another version of gwfbench, which are not ours to judge."""

    def __init__(self, schema: object):
        newer = type(schema) is int and schema > SCHEMA
        fix = "update gwfbench to read it" if newer else "the version that wrote it can read it"
        super().__init__(f"its schema is {checked.shown(schema)}, and this version reads {SCHEMA}: {fix}")


def line_of(row: Row) -> str:
    return to_json(vars(row)) + "\n"


def content_of(run: Run) -> dict[str, Any]:
    alone = asdict(replace(run, rows=[]))  # its rows have a file of their own
    return {"schema": SCHEMA, "run_key": run.identity.key, **alone, "rows": len(run.rows)}


def run_of(content: Mapping[str, Any], rows: list[Row]) -> Run:
    """The run of what `content_of` gave; raises what a wrong content raises."""
    content = {name: value for name, value in content.items() if name not in ("schema", "rows")}
    key = content.pop("run_key")
    run = Run.read(content, rows)
    if run.identity.key != key:
        raise ValueError("its run key is not that of its identity")
    return run


def sealed(content: dict[str, Any]) -> str:
    """What `content_of` gave as the text of a file."""
    content = json.loads(to_json(content))
    return to_json({"schema": content.pop("schema"), **checked.sealed(content)}, indent=2) + "\n"


def opened(text: str) -> dict[str, Any]:
    """The content of a text that `sealed` made; raises what a wrong content raises."""
    content = checked.from_json(text)
    if content["schema"] != SCHEMA:
        raise OtherSchema(content["schema"])
    return checked.unsealed({name: value for name, value in content.items() if name != "schema"})


def unsealed(text: str) -> Run:
    """The run of a text that `sealed` made, without its rows; raises what a wrong content raises."""
    return run_of(opened(text), [])


@contextlib.contextmanager
def told() -> Iterator[None]:
    """What reading a damaged file can raise, as a ValueError that says what is wrong."""
    try:
        yield
    except FileNotFoundError as error:
        raise ValueError(f"it has no {Path(error.filename).name}") from None
    except OtherSchema:
        raise
    except (OSError, KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None
    except (RecursionError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


def whole_rows(folder: Path) -> list[str]:
    """The lines of rows that end: a kill inside a write leaves one that does not.

    Raises:
        ValueError: one is not as it was written, or is gone.
    """
    lines, sums = ([] if not (folder / name).exists() else checked.read_bytes(folder / name).split(b"\n")[:-1]
                   for name in ("rows.jsonl", SUMS))  # fmt: skip
    for number, line in enumerate(lines):
        if number >= len(sums) or sum_of(line.decode(errors="replace") + "\n").encode() != sums[number] + b"\n":
            raise ValueError(f"line {number + 1} of rows.jsonl has changed since it was written")
    return [line.decode() for line in lines]


def sum_of(line: str) -> str:
    return f"{digest(line)}\n"
