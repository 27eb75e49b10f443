"""Finds dead links of the built site, and what its pages would fetch from a network: `python -m scripts.docs.links site`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

FETCHED = {"link", "script", "img", "iframe", "source", "video", "audio", "object", "embed"}


class _Page(HTMLParser):
    """What a page links to, and what can be linked to on it."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.links: list[tuple[str, str]] = []  # tag, address
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.anchors.add(value)
            elif name in ("href", "src", "poster", "data") and value:
                self.links.append((tag, value))


def faults(site: Path) -> Iterator[str]:
    """A line for each dead link, dead anchor and address of a network that is fetched."""
    pages = {path.resolve(): _Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    if site.resolve() / "index.html" not in pages:
        yield f"{site}: no index.html"
    for path, page in pages.items():
        where = path.relative_to(site.resolve())
        for tag, link in dict.fromkeys(page.links):
            address, _, anchor = link.partition("#")
            if re.match(r"(https?:)?//", link):
                if tag in FETCHED:
                    yield f"{where}: <{tag}> fetches {link}"
                continue
            if re.match(r"[a-z]+:", link) or where.name == "404.html":
                continue
            target = (path.parent / unquote(address)).resolve() if address else path
            if not target.is_file():
                yield f"{where}: no {link}"
            elif anchor and target in pages and unquote(anchor) not in pages[target].anchors:
                yield f"{where}: no anchor {link}"
    for path in site.rglob("*.css"):
        for link in re.findall(r"(?:url\(|@import )[\"']?((?:https?:)?//[^\"')]+)", path.read_text(encoding="utf-8")):
            yield f"{path.relative_to(site)}: fetches {link}"


if __name__ == "__main__":
    found = list(faults(Path(sys.argv[1])))
    print("\n".join(found) or "no dead link, and nothing is fetched from a network")
    sys.exit(bool(found))
