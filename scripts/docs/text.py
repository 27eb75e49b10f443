"""Text as Markdown for the site: docstrings, links between files of the checkout, and lists that GitHub would accept."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from itertools import groupby

FENCE = re.compile(r"(^```.*?^```[^\n]*$)", re.M | re.S)
LINK = re.compile(r"(?P<text>!?\[(?:[^\[\]]|\[[^\[\]]*\])*\])\((?P<to>[^()\s]+)\)")
SPECIAL = re.compile(r"([\\*_<>\[\]|#])")


def moved(text: str, origin: str, target: str, places: Mapping[str, str]) -> str:
    """Markdown of the checkout, for another place: links to files that the site has lead there, others become names.

    Args:
        origin: path of the file in the checkout.
        target: path of its page.
        places: path of the page, by the path in the checkout.
    """

    def link(found: re.Match[str]) -> str:
        to, hash_, anchor = found["to"].partition("#")
        if not to or "://" in to or to.startswith("mailto:"):
            return found[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), to))
        if path in places:
            return f"{found['text']}({relative(places[path], target)}{hash_}{anchor})"
        name = found["text"].lstrip("!")[1:-1].strip("`")
        return f"`{path}`" if path.endswith(name) else f"{name} (`{path}`)"

    parts = FENCE.split(text)
    parts[::2] = [_spaced(LINK.sub(link, part)) for part in parts[::2]]
    return "".join(parts)


def relative(to: str, target: str) -> str:
    """The way from one page to another."""
    return posixpath.relpath(to, posixpath.dirname(target) or ".")


def _spaced(text: str) -> str:
    """With the empty lines before lists and tables that Python-Markdown needs and GitHub does not."""
    lines: list[str] = []
    for line in text.split("\n"):
        before = lines[-1] if lines else ""
        for mark in ("- ", "* ", "1. ", "|"):
            if line.startswith(mark) and before.strip() and not before.startswith((mark, " ", "- ", "* ", "1. ")):
                lines.append("")
                break
        lines.append(line)
    return "\n".join(lines)


def prose(doc: str) -> str:
    """Markdown of a docstring: what is indented is a formula, what stands in backticks is code, all else is words."""
    blocks: list[str] = []
    for filled, group in groupby(doc.strip("\n").split("\n"), key=lambda line: bool(line.strip())):
        lines = list(group)
        if not filled:
            continue
        if lines[0].startswith("    "):
            least = min(len(line) - len(line.lstrip()) for line in lines)
            blocks.append("```text\n" + "\n".join(line[least:] for line in lines) + "\n```")
        else:
            blocks.append("\n".join(map(words, lines)))
    joined = "\n\n".join(blocks)
    return joined.replace("\n```\n\n```text\n", "\n\n")  # one formula in two parts


def words(line: str) -> str:
    """A line of plain text, whose signs are no Markdown. Backticks keep their meaning, and so does a list's dash."""
    parts = line.split("`")
    if len(parts) % 2 == 0:
        return SPECIAL.sub(r"\\\1", line)
    parts[::2] = [SPECIAL.sub(r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


def cell(text: str) -> str:
    """Plain text in a cell of a Markdown table."""
    return words(" ".join(text.split())).replace("`|`", "`\\|`") or "-"


def code(text: str) -> str:
    """Code in a cell of a Markdown table; a short one stays in one line."""
    whole = " ".join(text.split())
    return f"`{whole}`".replace("|", "\\|") + ("{ .n }" if len(whole) < 20 else "") if whole else ""


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table of cells that are Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|" + ":---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
