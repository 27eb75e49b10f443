"""The documentation site: what is generated is whole, what is written holds, and what it shows runs."""

import importlib
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import click
import pytest

from gwfbench.cli import cli as commands
from gwfbench.plugins import registry

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
WRITTEN = sorted(path for path in DOCS.rglob("*.md"))
MINE = {"mine", "gaussian_flow", "banana", "NAME"}  # plug-ins of the reader


@pytest.fixture(scope="module")
def site():
    sys.path.insert(0, str(ROOT))
    yield importlib.import_module("scripts.docs.site")
    sys.path.remove(str(ROOT))


@pytest.fixture(scope="module")
def pages(site):
    return site.pages()


# What is generated


def test_every_task_and_method_has_its_page_with_all_that_its_source_says(site, pages):
    for kind, folder in (("task", "tasks"), ("method", "methods")):
        for name, plugin in site.plugins.plugins(kind).items():
            page = pages[f"{folder}/{name}.md"]
            assert f"[{name}]({name}.md)" in pages[f"{folder}/index.md"]
            for field in plugin.fields:
                assert f"| `{field.name}`" in page
            for setting in plugin.settings:
                assert f"`{name}@{setting}`" in page
            keys = re.findall(r"(?m)^@\w+\{([^,]+),", plugin.load().reference)
            assert keys or name.startswith("own_")
            assert all(f"{{{key}," in page for key in keys)
    assert "Variational JKO" in pages["methods/vjko.md"]
    assert "min_T  1/(2a)" in pages["methods/vjko.md"]  # the formula, in a block of its own
    assert "```text\ndX = -A (X - b) dt" in pages["tasks/ou.md"]
    assert "[Ornstein-Uhlenbeck](../results/studies/ou/leaderboard.md)" in pages["methods/ula.md"]
    assert "[vjko](../methods/vjko.md)" in pages["tasks/ou.md"]


def test_every_metric_has_its_page(site, pages):
    for name in site.plugins.known():
        assert f"[{name}]({name}.md)" in pages["metrics/index.md"]
        assert f"metrics/{name}.md" in pages
    assert "[ou](../tasks/ou.md)" in pages["metrics/symkl.md"]
    assert "| `ou`{ .n } | 1.59e-05 |" in pages["metrics/symkl.md"]  # calibrated


def test_every_result_of_the_checkout_is_on_the_site(pages):
    for path in (ROOT / "results").glob("*/**/leaderboard.md"):
        folder = path.parent.relative_to(ROOT / "results").as_posix()
        if folder.startswith("snapshots"):  # copies
            assert f"results/{folder}/leaderboard.md" not in pages
            continue
        assert f"({folder}/leaderboard.md)" in pages["results/index.md"]
        assert '<div class="board"' in pages[f"results/{folder}/leaderboard.md"]
    assert "[what it shows, and the command that made it](index.md)" in pages["results/studies/ou/leaderboard.md"]
    assert "# Ornstein-Uhlenbeck" in pages["results/studies/ou/index.md"]
    for path in (ROOT / "results/papers").glob("*.md"):
        assert f"(papers/{path.name})" in pages["results/index.md"]
    (below,) = re.findall(r"## Table 5: .*\n\n(.*)\n", pages["results/papers/fan2022.md"])
    assert below == "The command: `python -m gwfbench reproduce fan2022 --only table5`"


def test_every_link_between_pages_leads_somewhere(site, pages):
    """Anchors and built pages: test_the_site_is_built_strictly."""
    known = set(pages) | set(site.assets()) | {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.*")}
    texts = pages | {
        path.relative_to(DOCS).as_posix(): site.written(path.read_text(), path.relative_to(DOCS).as_posix())
        for path in WRITTEN
    }
    for page, text in texts.items():
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.S)):
            if "://" not in link:
                assert os.path.normpath(os.path.join(os.path.dirname(page), link)) in known, f"{page}: {link}"


def test_a_board_has_one_number_a_cell_its_interval_below_and_its_marks_explained(site):
    text = "\n".join(
        [
            "| method | tier | w2 |",
            "|:--|:--|:--|",
            "| exact | - | 1.5e-05 [1, 2] (n = 4096) |",
            "| ula:step=1 | a | <= floor 0.2 (n = 4096) |",
            "| still | b | ALARM -3 (1 to 2) (n = 4096) |",
        ]
    )
    made = site.boards.html(text, lambda kind, name: f"{kind}s/{name}.html", "floors.html")
    assert '<th><a href="metrics/w2.html">w2</a><small>(n = 4096)</small></th>' in made
    assert '<th>exact</th><td>-</td><td class="number">1.5e&minus;05<small>[1, 2]</small></td>' in made.replace(
        '<a href="methods/exact.html">exact</a>', "exact"
    )
    assert '<a class="mark floor" href="floors.html#floor"' in made
    assert "&le; floor</a>0.2</td>" in made
    assert 'href="floors.html#alarm"' in made
    assert "alarm</a>&minus;3<small>(1 to 2)</small></td>" in made
    assert "ula</a><small>:<wbr>step=<wbr>1</small>" in made
    mixed = site.boards.html(text.replace("0.2 (n = 4096)", "0.2 (n = 9)"), lambda *_: "", "")
    assert "<small>(n = 9)</small>" in mixed


def test_the_gallery_has_what_there_is(site, monkeypatch, tmp_path):
    monkeypatch.setattr(site.plugins, "GALLERY", tmp_path)
    assert "has not been run here" in site._gallery()
    assert site.plugins.shown("ula", "methods/ula.md") == ""
    (tmp_path / "ula.webp").touch()
    (tmp_path / "svgd.mp4").touch()
    (tmp_path / "captions.toml").write_text(
        '[[flow]]\nmethod = "ula"\ntask = "toy2d"\nsetting = "ula:step=1"\nnote = "cut"\nseconds = 2.5\nlaws = 9\n'
    )
    shown = site.plugins.shown("ula", "methods/ula.md")
    assert "](../gallery/ula.webp)" in shown
    assert shown.endswith("`ula:step=1` on `toy2d` (cut), 9 laws, 2.5 s.")
    page = site._gallery()
    assert "**[ula](methods/ula.md)**" in page
    assert '<video src="gallery/svgd.mp4"' in page
    assert "vjko" not in page


def test_a_notebook_is_a_page_and_can_be_had(pages):
    page = pages["notebooks/compare_my_method.md"]
    assert "[Download this notebook](compare_my_method.ipynb)" in page
    assert "(../howto/add-a-method.md)" in page
    assert "class GaussianFlow:" in page
    assert "<th>gaussianflow</th>" in page  # what a cell printed


def test_the_signs_of_a_docstring_are_no_markdown(site):
    text = importlib.import_module("scripts.docs.text")
    doc = "Flow of P_k * W, by `a_b`.\n\n    x <- x_1 * x_2\n      + y\n\n- one\n- two"
    assert text.prose(doc) == "Flow of P\\_k \\* W, by `a_b`.\n\n```text\nx <- x_1 * x_2\n  + y\n```\n\n- one\n- two"


def test_links_of_the_checkout_lead_to_pages_or_become_names(site):
    text = importlib.import_module("scripts.docs.text")
    places = {
        "results/studies/ou/leaderboard.md": "results/studies/ou/leaderboard.md",
        "baselines/ula.py": "methods/ula.md",
    }

    def moved(markdown):
        return text.moved(markdown, "docs/howto/x.md", "howto/x.md", places)

    assert (
        moved("[board](../../results/studies/ou/leaderboard.md#a)") == "[board](../results/studies/ou/leaderboard.md#a)"
    )
    assert moved("[ula](../../baselines/ula.py)") == "[ula](../methods/ula.md)"
    assert moved("[rows.csv](../../results/studies/ou/rows.csv)") == "`results/studies/ou/rows.csv`"
    assert moved("[these rows](../../results/studies/ou/rows.csv)") == "these rows (`results/studies/ou/rows.csv`)"
    assert moved("[x](https://example.org/a.md)") == "[x](https://example.org/a.md)"
    assert moved("words\n- one\n- two\n") == "words\n\n- one\n- two\n"


def flat(items):
    """The paths of a part of the navigation."""
    for item in items:
        if isinstance(item, str):
            yield item
        else:
            for value in item.values():
                yield from flat([value] if isinstance(value, str) else value)


def test_the_navigation_has_every_page(site, pages):
    text = (ROOT / "mkdocs.yml").read_text()
    shown = set(re.findall(r"[\w/.-]+\.md", text))
    for group in re.findall(r'"@(\w+)"', text):
        shown |= set(flat(site.groups()[group]))
    assert shown == set(pages) | {path.relative_to(DOCS).as_posix() for path in WRITTEN}


# What is written


def command_lines():
    books = [json.loads(path.read_text())["cells"] for path in sorted(DOCS.glob("notebooks/*.ipynb"))]
    texts = ["".join(one["source"]) for cells in books for one in cells]
    for text in [*(path.read_text() for path in WRITTEN), *texts]:
        for block in re.findall(r"```sh\n(.*?)```", text, flags=re.S):
            for line in block.replace("\\\n", " ").splitlines():
                if "python -m gwfbench" in line and "$(" not in line:
                    yield line.strip()


def called(line):
    """A command, and the words after it, up to what it passes on."""
    words = shlex.split(line.partition(" | ")[0].partition(" > ")[0], comments=True)
    words = words[words.index("gwfbench") + 1 :]
    command: click.Command = commands
    while isinstance(command, click.Group) and words and words[0] in command.commands:
        command = command.commands[words.pop(0)]
    return command, words[: words.index("--")] if "--" in words else words


def test_commands_have_options_that_exist_and_names_that_are_known():
    lines = list(command_lines())
    assert len(lines) > 80
    for line in lines:
        command, words = called(line)
        options = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= options, line
        specs = [(option[2:], word) for option, word in pairwise(words) if option in ("--task", "--method")]
        if command.name == "tune":
            specs.append(("method", words[0]))
        for kind, spec in specs:
            if registry.head(spec) not in MINE and "own_" not in spec and "@mine" not in spec and ".." not in spec:
                for one in registry.grid(spec):
                    assert registry.parse(kind, one)


def test_examples_in_the_readme_are_those_of_the_site():
    files = [path.read_text().strip() for path in DOCS.glob("examples/*.py")]
    for block in re.findall(r'```python\n(""".*?)```', (ROOT / "README.md").read_text(), flags=re.S):
        assert block.strip() in files


def test_the_tree_is_the_tree():
    tree = (DOCS / "examples/tree.txt").read_text()
    shown = {line.split()[0].rstrip("/") for line in tree.splitlines() if line.startswith("  ")}
    assert {path.parent.name for path in ROOT.glob("gwfbench/*/__init__.py")} <= shown
    for line in tree.splitlines()[1:]:
        assert ((ROOT / "gwfbench" if line.startswith("  ") else ROOT) / line.split()[0]).exists()


def test_the_columns_of_rows_are_those_described():
    described = re.findall(r"(?m)^\| (`.*?`) \|", (DOCS / "reference/format.md").read_text().partition("## Rows")[2])
    head = []
    for path in ROOT.glob("results/*/rows.csv"):
        with path.open() as file:
            head += file.readline().strip().split(",")
    assert {name for cell in described for name in re.findall(r"`(\w+)`", cell)} <= set(head)


def test_the_experiment_file_is_thirty_runs(cli, tmp_path):
    plan = tmp_path / "plan.jsonl"
    code, _, err = cli("run", "--config", str(DOCS / "examples/experiment.toml"), "--plan", str(plan))
    assert code == 0, err
    lines = [json.loads(line) for line in plan.read_text().splitlines()]
    assert len([line for line in lines if "flow" in str(line)]) == 30


def test_the_suite_can_be_shown(cli):
    code, out, err = cli("suite", "show", str(DOCS / "examples/suite.toml"))
    assert code == 0, err
    assert "Flows by samples on two shapes" in out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_gets_its_completion(shell):
    code = "import sys; from gwfbench.cli import main; sys.argv = ['gwfbench']; main()"
    env = os.environ | {"_GWFBENCH_COMPLETE": f"{shell}_source"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0
    assert "_GWFBENCH_COMPLETE" in done.stdout


# What takes longer


@pytest.mark.slow
def test_the_task_of_the_site_keeps_its_promises(cli):
    plugin = ("--plugin", str(DOCS / "examples/banana.py"))
    code, out, err = cli("check", "task:banana", "--method", "sliced_flow", "--method", "ula", *plugin)
    assert code == 0, out + err


@pytest.mark.slow
def test_the_notebooks_and_the_session_run(tmp_path):
    """In one process, as its start takes as long as they do; cells with what they should find have asserts."""
    for path in DOCS.glob("notebooks/*.ipynb"):
        cells = [one for one in json.loads(path.read_text())["cells"] if one["cell_type"] == "code"]
        assert sum(bool(one["outputs"]) for one in cells) > 2
        (tmp_path / f"{path.stem}.py").write_text("\n".join("".join(one["source"]) for one in cells))
    session = (DOCS / "examples/session.py").read_text()
    quick = session.replace("seeds=2", 'seeds=1, isolate=False, judge="symkl"').replace("horizon=0.2", "horizon=0.05")
    assert quick != session
    (tmp_path / "session.py").write_text(quick)
    for path in tmp_path.glob("*.py"):
        assert "isolate=False" in path.read_text()
    code = "import glob, runpy\nfor path in sorted(glob.glob('*.py')): runpy.run_path(path, run_name='__main__')"
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "torch.Size([1000, 2])" in done.stdout


@pytest.mark.slow
def test_the_site_is_built_strictly_without_a_dead_link_or_a_network(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    links = runpy.run_path(str(ROOT / "scripts/docs/links.py"))
    assert list(links["faults"](tmp_path)) == []
    index = (tmp_path / "search/search_index.js").read_text()
    assert index.startswith("var __index = {")
    assert "noise floor" in index
    assert len(index) < 3e6


def test_dead_links_and_fetched_files_are_found(tmp_path):
    (tmp_path / "index.html").write_text(
        '<h1 id="top">x</h1><a href="#top"></a><a href="other.html#end"></a><a href="gone.html"></a><a href="https://a.b"></a>'
        '<script src="https://a.b/c.js"></script><a href="other.html"></a>'
    )
    (tmp_path / "other.html").write_text("<p>x</p>")
    (tmp_path / "a.css").write_text("@import url('https://a.b/c.css')")
    links = runpy.run_path(str(ROOT / "scripts/docs/links.py"))
    assert sorted(links["faults"](tmp_path)) == [
        "a.css: fetches https://a.b/c.css",
        "index.html: <script> fetches https://a.b/c.js",
        "index.html: no anchor other.html#end",
        "index.html: no gone.html",
    ]
