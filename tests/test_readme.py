"""What the README and the other pages for developers promise, run or looked up as it stands."""

import re
import sys
import textwrap
from pathlib import Path
from unittest.mock import MagicMock

import click
import pytest
import torch

import gwfbench
from gwfbench.plugins import registry
from gwfbench.protocol import Judged
from gwfbench.rng import Streams

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("results/**/README.md"), *ROOT.glob("docs/**/*.md"),
         *ROOT.glob(".github/**/*.md")]  # fmt: skip
MADE = ("results/runs", "results/mine", "aside/", "slurm/")  # by runs
IN_PLACE = (ROOT, ROOT / "gwfbench")  # where a path in code begins


@pytest.fixture
def tutorial(tmp_path, monkeypatch):
    """The README's method as an installed package with an entry point."""
    (text,) = re.findall(r'```python\n("""Gaussian particle flow.*?)```', README, flags=re.S)
    (tmp_path / "readme_flows.py").write_text(text)
    info = tmp_path / "readme_flows-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: readme-flows\nVersion: 1.0\n")
    entry = "[gwfbench.methods]\ngaussian_flow = readme_flows:GaussianFlow\n"
    (info / "entry_points.txt").write_text(entry)
    monkeypatch.syspath_prepend(tmp_path)
    registry.plugins.cache_clear()
    yield text
    registry.plugins.cache_clear()


@pytest.mark.slow
def test_the_tutorial_s_method_runs_and_is_good(tutorial):
    points = gwfbench.run("ou:horizon=0.2", "gaussian_flow", seeds=2)
    board = gwfbench.leaderboard(points).set_index("method")
    assert board.loc["gaussian_flow", "seeds"] == "2/2"
    assert board.loc["gaussian_flow", "symkl"] < 0.05 * board.loc["still", "symkl"]
    assert board.loc["gaussian_flow", "score_calls"] == 20 * 20_000


def test_the_tutorial_is_as_short_as_it_says(tutorial):
    body = tutorial[tutorial.index("@dataclass") :]
    assert len(body.splitlines()) <= 35


def test_the_tutorial_s_metric_tells_a_law_from_the_truth():
    scope = {}
    exec(compile((ROOT / "docs/examples/radius.py").read_text(), "radius.py", "exec"), scope)
    streams = Streams((0, 1, 2))
    truth = registry.parse("task", "ou").build(streams).truth
    points = truth.draw(0, 4096, streams.fork("law"))

    def value(points):
        return scope["radius"].evaluate(Judged(points, None, truth, 0, streams.fork("eval")))

    assert truth.lacks(scope["radius"], "none") == ""
    good, bad = value(points), value(2 * points)
    assert torch.all(good.value < 5 * good.se)
    assert torch.all(bad.value > 10 * bad.se)
    assert good.n == 4096


def test_the_makefile_s_commands_and_those_of_the_readme_are_commands(tmp_path, monkeypatch):
    """What `make demo` types is parsed; the README shows `make demo`."""
    from gwfbench.cli import cli

    makefile = (ROOT / "Makefile").read_text()
    monkeypatch.chdir(tmp_path)
    typed = re.findall(r"^\t\$\(RUN\) (.*)$", makefile, flags=re.M)
    assert len(typed) >= 4
    for words in map(str.split, typed):
        context = cli.make_context("gwfbench", words)
        while isinstance(context.command, click.Group) and context._protected_args:
            name, command, rest = context.command.resolve_command(context, [*context._protected_args, *context.args])
            context = command.make_context(name, rest, parent=context)
    assert "make demo" in README


def options_of(command):
    """The options of a command and of those below it."""
    for param in command.params:
        yield from (*param.opts, *param.secondary_opts)
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            yield from options_of(inner)


def test_every_option_that_the_readme_names_exists():
    from gwfbench.cli import cli

    text = "\n".join(line for line in README.splitlines() if "make" not in line and "pytest" not in line)
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) <= set(options_of(cli))


def test_the_python_example_is_the_public_interface():
    (code,) = re.findall(r"```python\n(import gwfbench\n.*?)```", README, flags=re.S)
    for name in re.findall(r"gwfbench\.(\w+)\(", code):
        assert name in gwfbench.__all__
    compile(textwrap.dedent(code), "README", "exec")


def paths_in(text):
    """What inline code names with a slash or a file's ending, and what links point to in the checkout."""
    prose = re.sub(r"```.*?```", "", text, flags=re.S)
    for code in re.findall(r"`([^`]+)`", prose):
        word = code.partition("::")[0]
        if re.fullmatch(r"[\w.*-]+(/[\w.*-]+)*/?", word) and (
            "/" in word or re.search(r"\.(py|toml|md|cff|yml)$", word)
        ):
            yield word, IN_PLACE
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", prose):
        if "://" not in link:
            yield link, ()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_that_a_page_names_exists(page):
    named = [(word, places or (page.parent,)) for word, places in paths_in(page.read_text())]
    assert named or page.is_relative_to(ROOT / "docs")
    missing = {word for word, places in named if not any(list(place.glob(word)) for place in places)}
    missing -= {word for word in missing if "/" not in word and list(page.parent.glob(f"*/{word}"))}  # one a folder
    assert {word for word in missing if not word.startswith(MADE)} == set()


@pytest.mark.slow
@pytest.mark.parametrize("package", ["wandb", "mlflow"])
def test_the_ways_into_other_trackers_run_as_they_stand(package, monkeypatch, tmp_path):
    """With stand-ins for the two packages, whose calls are compared with the rows."""
    monkeypatch.chdir(tmp_path)
    (code,) = [
        one for one in re.findall(r"```python\n(.*?)```", (ROOT / "docs/exports.md").read_text(), flags=re.S)
        if f"import {package}" in one
    ]  # fmt: skip
    code = code.replace('"ou", "vjko", seeds=3', '"ou:horizon=0.1", "ula", seeds=2, isolate=False')
    logged, tracker = [], MagicMock()
    tracker.log.side_effect = lambda values, step: logged.extend((step, name, x) for name, x in values.items())
    tracker.log_metric.side_effect = lambda name, value, step: logged.append((step, name, value))
    monkeypatch.setitem(sys.modules, package, tracker)
    space = {}
    exec(compile(code, package, "exec"), space)
    rows = space["rows"].dropna(subset=["value"])
    wanted = set(zip(rows["step"].astype(int), rows["metric"], rows["value"], strict=True))
    assert wanted <= set(logged)
    opened = tracker.init if package == "wandb" else tracker.start_run
    assert opened.call_count == space["rows"].groupby(["method", "seed"]).ngroups
