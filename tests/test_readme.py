"""What the README promises, run as it stands."""

import re
import textwrap
from pathlib import Path

import pytest

import gwfbench
from gwfbench.plugins import registry

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


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


def test_make_demo_is_the_command_shown():
    makefile = (ROOT / "Makefile").read_text()
    (shown,) = re.findall(r"```sh\n\.venv/bin/python -m gwfbench (run [^\n]*)\n```", README)
    assert f"$(RUN) {shown}" in makefile


def test_every_option_that_the_readme_names_exists():
    from gwfbench.cli import cli

    commands = [
        one for command in cli.commands.values() for one in (command, *getattr(command, "commands", {}).values())
    ]
    options = {
        opt
        for command in commands
        for param in command.params
        for opt in (*param.opts, *param.secondary_opts)
        if not getattr(param, "hidden", False)
    }
    text = "\n".join(line for line in README.splitlines() if "make" not in line and "pytest" not in line)
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) <= options


def test_the_python_example_is_the_public_interface():
    (code,) = re.findall(r"```python\n(import gwfbench\n.*?)```", README, flags=re.S)
    for name in re.findall(r"gwfbench\.(\w+)\(", code):
        assert name in gwfbench.__all__
    compile(textwrap.dedent(code), "README", "exec")
