"""All pages of the site that are not written by hand, and where files of the checkout have theirs.

Pages of docs/ link to files of the checkout, so that their links work there too. On the site such a link leads to the
page that the file has: `../baselines/vjko.py` to the page of vjko, `../results/studies/ou/leaderboard.md` to its board.
"""

from __future__ import annotations

import json
import re
import textwrap
import tomllib
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from gwfbench import fields
from scripts.docs import boards, plugins
from scripts.docs.text import moved, relative, table

ROOT = plugins.ROOT
FLOORS = "concepts/floors.md"
PAPERS = sorted(path.stem for path in (ROOT / "results/papers").glob("*.md"))
WIDE = (".png", ".webp", ".csv", ".tex")  # what a page of results may show or offer
NUMBER = r"-?\d[\d.]*(?:e[+-]?\d+)?"
WHOLE = re.compile(rf"(?<![\w.-])(?:{NUMBER} to {NUMBER}|-?\d[\d.]*e-\d+)")  # what browsers would break
LARGEST = 2**20  # bytes of a file that is copied


@cache
def places() -> dict[str, str]:
    """Path of the page, by the path of the file in the checkout."""
    found = {
        "README.md": "index.md",
        "CHANGELOG.md": "changelog.md",
        "CONTRIBUTING.md": "contributing.md",
        "CITATION.cff": "citing.md",
        "results/README.md": "results/findings.md",
        "results/leaderboard.md": "results/scores.md",
        "results": "results/index.md",
        "baselines": "methods/index.md",
        "tasks": "tasks/index.md",
        "gwfbench/metrics": "metrics/index.md",
        "gwfbench/suites": "results/index.md",
        "gwfbench/protocol.py": "reference/protocol.md",
        "gwfbench/api.py": "reference/python.md",
        "gwfbench/cli.py": "reference/cli.md",
    }
    found |= {f"tasks/{name}.py": f"tasks/{name}.md" for name in plugins.plugins("task")}
    found |= {f"baselines/{name}.py": f"methods/{name}.md" for name in plugins.plugins("method")}
    for path in [*(ROOT / "docs").rglob("*"), *shared()]:
        if path.is_file() and path.suffix != ".ipynb":
            where = path.relative_to(ROOT).as_posix()
            found.setdefault(where, re.sub("README.md$", "index.md", where.removeprefix("docs/")))
    for path in notebooks():
        found[path.relative_to(ROOT).as_posix()] = f"notebooks/{path.stem}.md"
    return found


def shared() -> Iterator[Path]:
    """Files of results/ that the site has: its pages, and small files that they show or offer; no snapshots."""
    for path in sorted((ROOT / "results").glob("**/*")):
        if not {"runs", "snapshots"} & {*path.parts} and path.is_file():
            small = path.suffix in WIDE and path.stat().st_size < LARGEST and path.name != "rows.csv"
            if path.suffix == ".md" or (small and path.parent != ROOT / "results"):
                yield path


def notebooks() -> list[Path]:
    return sorted((ROOT / "docs/notebooks").glob("*.ipynb"))


@cache
def pages() -> dict[str, str]:
    """Markdown of every generated page, by its path."""
    found = dict(plugins.pages())
    found["results/index.md"] = _results()
    found["gallery.md"] = _gallery()
    for path in [*(path for path in shared() if path.suffix == ".md"), ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"]:
        origin = path.relative_to(ROOT).as_posix()
        target = places()[origin]
        text = moved(path.read_text(encoding="utf-8"), origin, target, places())
        if path.name == "leaderboard.md":
            text = _boarded(text, target)
        elif origin.startswith("results/"):
            text = re.sub(r"(?m)^\|.*$", lambda line: _unbroken(line[0]), text)
        if origin == "results/README.md":
            text = text.replace("# Results", "# What the results say", 1)
        found[target] = text
    for path in notebooks():
        found[f"notebooks/{path.stem}.md"] = _notebook(path)
    return found


def assets() -> dict[str, Path]:
    """Files that are copied, by their path on the site."""
    return {places()[path.relative_to(ROOT).as_posix()]: path for path in shared() if path.suffix != ".md"}


def written(text: str, path: str) -> str:
    """A page of docs/, as the site shows it."""
    text = re.sub(r"<!-- board (\S+) -->", lambda found: first_board(found[1], path), text)
    text = text.replace("<!-- ranges -->", _ranges())
    return moved(text, f"docs/{path}", path, places())


def _ranges() -> str:
    """The named types of fields."""
    rows = [
        [f"`{name}`", f"`{kind.__origin__.__name__}`", " and ".join(part.words for part in kind.__metadata__)]
        for name, kind in vars(fields).items()
        if typing.get_origin(kind) is typing.Annotated
    ]
    return table(["name", "type", "range"], rows)


def groups() -> dict[str, list[Any]]:
    """What stands in the navigation of mkdocs.yml for `@name`."""
    suites = [folder for folder in plugins.boards() if _about(folder).get("suite")]
    others = [folder for folder in plugins.boards() if folder not in suites]

    def told(folder: str) -> Any:
        """The page of text of a folder, if there is one, with its board."""
        own = f"results/{folder}/leaderboard.md"
        return [f"results/{folder}/index.md", {"Board": own}] if f"results/{folder}/README.md" in places() else own

    return {
        "tasks": [f"tasks/{name}.md" for name in plugins.plugins("task")],
        "methods": [f"methods/{name}.md" for name in plugins.plugins("method")],
        "metrics": sorted(path for path in pages() if path.startswith("metrics/") and not path.endswith("index.md")),
        "suites": [{_about(folder)["suite"]: told(folder)} for folder in suites],
        "boards": [{re.split("[:;]", plugins.title(folder))[0]: told(folder)} for folder in others],
        "papers": [{_paper(name): f"results/papers/{name}.md"} for name in PAPERS],
    }


def _paper(name: str) -> str:
    """`fan2022` as `Fan 2022`."""
    found = re.fullmatch(r"([a-z]+)(\d{4}\w*)", name)
    return f"{found[1].title()} {found[2]}" if found else name


def _about(folder: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / "results" / folder / "page.toml").read_text(encoding="utf-8"))


def _boarded(text: str, page: str) -> str:
    """A page of boards: where its numbers are explained, and its boards as HTML."""
    text = boards.html(text, _links(page), _address(FLOORS, page))
    folder = page.rpartition("/")[0]
    title, _, rest = text.partition("\n")
    told = f"{folder}/README.md" in places()
    what = "; [what it shows, and the command that made it](index.md)" if told else ""
    offered = [f"[CSV]({name})" if name.endswith("csv") else f"[LaTeX]({name})"
               for name in ("leaderboard.csv", "leaderboard.tex") if f"{folder}/{name}" in places()]  # fmt: skip
    above = f"[How to read a board]({relative(FLOORS, page)}){what}" + "".join(f"; {one}" for one in offered) + "."
    return f"{title}\n\n{above if len(page.split('/')) > 2 else ''}\n{rest}"


def _unbroken(line: str) -> str:
    """A line of a table whose numbers, and short verdicts, browsers don't break."""
    line = re.sub(r"(\*\*[a-z ]+\*\*) (\([^()|]*\))", r'<span class="verdict">\1 <small>\2</small></span>', line)
    return WHOLE.sub(r'<span class="n">\g<0></span>', line)


def _address(path: str, page: str) -> str:
    """Of a page in HTML."""
    return relative(path.removesuffix(".md") + ".html", page)


def _links(page: str) -> boards.Links:
    def address(kind: str, name: str) -> str:
        path = f"{kind}s/{name}.md"
        known = name in plugins.plugins("method") if kind == "method" else name in plugins.known()
        return _address(path, page) if known else ""

    return address


def first_board(folder: str, page: str) -> str:
    """The first board of a page of results, without the columns that only those who compare costs need."""
    text = (ROOT / "results" / folder / "leaderboard.md").read_text(encoding="utf-8")
    lines = [line for line in re.search(r"(?m)^(\| method.*\n(\|.*\n)+)", text)[0].splitlines()]  # type: ignore[index]
    rows = [boards.cells(line) for line in lines if not line.startswith("|:")]
    kept = [i for i, name in enumerate(rows[0]) if name not in ("failed", "calls", "uses", "train s")]
    rows = [[row[i] for i in kept] for row in rows]
    return boards.board_of(rows, _links(page), _address(FLOORS, page))


def _results() -> str:
    rows: dict[bool, list[str]] = {True: [], False: []}
    for folder, pairs in plugins.boards().items():
        about = _about(folder)
        tasks = list(dict.fromkeys(task for task, _ in pairs))
        names = ", ".join(f"`{task}`" for task in tasks[:4]) + (f" and {len(tasks) - 4} more" if len(tasks) > 4 else "")
        count = len({re.split("[:@ ]", method)[0] for _, method in pairs} - {*boards.CONTROLS})
        name = f"`{about['suite']}`: " if about.get("suite") else ""
        rows[bool(name)].append(
            f"| {name}[{about['title']}]({folder}/leaderboard.md) | {names} | {count} |".replace("\n", " ")
        )
    head = "| board | tasks | methods |\n|:---|:---|---:|\n"
    papers = "\n".join(f"- [{_headline(name)}](papers/{name}.md)" for name in PAPERS)
    return (
        "# Results\n\n"
        "Every number here is a row that `run` wrote, and every board says which commit and machine made its rows. "
        f"[How to read a board](../{FLOORS}); [what the results say, and the commands](findings.md); "
        "[the best of each suite](scores.md).\n\n"
        "## Suites\n\nA suite fixes tasks, methods, seeds and budget, so that its board can be quoted.\n\n"
        f"{head}{chr(10).join(rows[True])}\n\n## Studies\n\nSingle questions, with settings and seeds of their own.\n\n{head}{chr(10).join(rows[False])}\n\n"
        "## Papers\n\nPublished numbers next to ours, with the command and a verdict on each.\n\n"
        f"{papers}\n\n"
        "## About the numbers\n\n- [Known disagreements](disagreements.md): published readings of one thing that "
        "differ\n- [Calibration](calibration.md): what each metric can see\n- [Defaults](defaults.md): why defaults "
        "are what they are\n- [Speed](speed.md): what everything costs\n"
    )


@cache
def _headline(paper: str) -> str:
    return (ROOT / f"results/papers/{paper}.md").read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")


def _gallery() -> str:
    text = (
        "---\nhide: [navigation, toc]\n---\n\n# Gallery\n\nHow each method moves its points, from the start to the target, which is the light shade. Each "
        "frame is a law that was judged. An animation shows how a method moves, not how good it is: for that, see its "
        "page."
    )
    cards = [
        f"-   **[{name}](methods/{name}.md)**\n\n" + textwrap.indent(plugins.shown(name, "gallery.md"), "    ")
        for name in plugins.plugins("method")
        if plugins.animation(name)
    ]
    if not cards:
        return f"{text}\n\nThe animations are made by `python scripts/gallery.py`, which has not been run here.\n"
    return text + '\n\n<div class="grid cards gallery" markdown>\n\n' + "\n\n".join(cards) + "\n\n</div>\n"


def _notebook(path: Path) -> str:
    """A notebook as Markdown: its cells, and what they printed when it was last run."""
    parts = []
    for one in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        text = "".join(one["source"])
        if one["cell_type"] == "markdown":
            parts.append(text)
            continue
        parts.append(f"```python\n{text}\n```")
        for output in one.get("outputs", ()):
            data = output.get("data", {})
            if "text/html" in data:
                plain = re.sub(r"<style.*?</style>", "", "".join(data["text/html"]), flags=re.S)
                parts.append('<div class="output">' + re.sub(r"\n\s*", "", plain).replace(' border="1"', "") + "</div>")
            elif "image/png" in data:
                picture = "".join(data["image/png"]).replace("\n", "")
                parts.append(f'<img alt="what the cell draws" src="data:image/png;base64,{picture}">')
            elif "text/plain" in data or "text" in output:
                parts.append("```text\n" + "".join(data.get("text/plain") or output["text"]).rstrip() + "\n```")
    text = moved("\n\n".join(parts), path.relative_to(ROOT).as_posix(), f"notebooks/{path.stem}.md", places())
    title, _, rest = text.partition("\n")
    return f"{title}\n\n[Download this notebook]({path.name}){{ .md-button download }}\n{rest}\n"
