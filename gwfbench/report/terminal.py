"""Tables for a terminal: never wider than it is, and no cell is cut or broken.

A table takes the first of these forms that fits: all columns in a line; the last column, if it is prose, on lines of
its own below each row; the first column, a name, on a line of its own too; each cell on a line of its own. In a pipe
there are 80 columns, or as many as COLUMNS says.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import click

from gwfbench import escape

GAP = "  "


@dataclass(frozen=True)
class Table:
    """A table whose cells are text of one line; heads may have several.

    Args:
        left: columns of text, by number; the others are numbers.
        prose: the last column is long text.
        dim: rows that matter less, by number.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: Collection[int] = (0,)
    prose: bool = False
    dim: Collection[int] = ()

    def lines(self, room: int) -> list[tuple[str, str]]:
        """Lines of at most so many columns, where no single cell is longer, each with its style."""
        rows = [[escape.line(cell) for cell in row] for row in self.rows]
        last = len(self.heads) - self.prose
        whole = len(self.heads) if any(row[-1] for row in rows) else last
        for names, columns, below in (
            (False, range(whole), False),
            (False, range(last), self.prose),
            (True, range(1, last), self.prose),
        ):
            grid = self._grid(rows, columns, 2 * names)
            if columns and max(_size(line) for line in grid) <= room:
                return self._joined(rows, grid, names, below, room)
        return self._stacked(rows, room)

    def _grid(self, rows: Sequence[Sequence[str]], columns: Sequence[int], indent: int) -> list[str]:
        """The lines of the head, a rule, and a line for each row, of these columns alone."""
        heads = [self.heads[i].split("\n") for i in columns]
        deep = max(map(len, heads), default=0)
        heads = [[""] * (deep - len(head)) + head for head in heads]
        body = [*zip(*heads, strict=True), *([row[i] for i in columns] for row in rows)]
        sizes = [max(_size(line[k]) for line in body) for k in range(len(columns))]
        aligned = [
            GAP.join(_padded(cell, size, i in self.left) for cell, size, i in zip(line, sizes, columns, strict=True))
            for line in body
        ]
        rule = GAP.join("─" * size for size in sizes)
        return [(" " * indent + line).rstrip() for line in [*aligned[:deep], rule, *aligned[deep:]]]

    def _joined(
        self, rows: Sequence[Sequence[str]], grid: Sequence[str], names: bool, below: bool, room: int
    ) -> list[tuple[str, str]]:
        """The grid, with names above its rows and prose below them."""
        top = len(grid) - len(rows)
        found = [(self.heads[0].replace("\n", " "), "bold")] * names
        found += [(line, "bold") for line in grid[: top - 1]] + [(grid[top - 1], "dim")]
        for number, (row, line) in enumerate(zip(rows, grid[top:], strict=True)):
            style = "dim" if number in self.dim else ""
            found += [(row[0], style)] * names + [(line, style)]
            if below and row[-1]:
                found += [(text, "dim") for text in wrapped(row[-1], room, "    ")]
        return found

    def _stacked(self, rows: Sequence[Sequence[str]], room: int) -> list[tuple[str, str]]:
        heads = [head.replace("\n", " ") for head in self.heads]
        wide = max(map(_size, heads[1:]), default=0)
        found = []
        for number, row in enumerate(rows):
            style = "dim" if number in self.dim else ""
            found.append((row[0], style or "bold"))
            for head, cell in zip(heads[1:], row[1:], strict=True):
                if cell.strip():
                    text = f"  {_padded(head, wide, True)}{GAP}{' '.join(cell.split())}"
                    found += [(line, style) for line in wrapped(text, room, "", " " * (wide + 4))]
        return found


def show(table: Table, title: str = "", below: Sequence[str] = ()) -> None:
    """Print a table under its title, and sentences below it."""
    room = width()
    lines = [(line, "bold") for line in wrapped(title, room)] if title else []
    lines += table.lines(room)
    lines += [(line, "dim") for text in below for line in wrapped(text, room)]
    put(lines)


def put(lines: Sequence[tuple[str, str]]) -> None:
    """Print lines in their styles, bold or dim, which only a terminal gets, and none where NO_COLOR is set."""
    plain = _plain()
    shown = [click.style(escape.line(text).translate(plain), **{style: True} if style else {}) for text, style in lines]
    click.echo("".join(f"{line}\n" for line in shown), nl=False, color=False if os.environ.get("NO_COLOR") else None)


def width() -> int:
    """Columns to write in."""
    return max(20, shutil.get_terminal_size((80, 24)).columns)


def wrapped(text: str, room: int, first: str = "", later: str | None = None) -> list[str]:
    """Prose in lines, broken between words alone."""
    later = first if later is None else later
    return textwrap.wrap(
        text, room, initial_indent=first, subsequent_indent=later, break_long_words=False, break_on_hyphens=False
    )


def _plain() -> dict[int, str]:
    """What an encoding without them gets for the characters of tables."""
    try:
        "±─≤…".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return {ord("±"): "+-", ord("─"): "-", ord("≤"): "<=", ord("…"): "..."}
    return {}


def _size(text: str) -> int:
    """Columns that text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _padded(text: str, size: int, left: bool) -> str:
    space = " " * (size - _size(text))
    return text + space if left else space + text
