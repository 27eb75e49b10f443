import json
import subprocess
import sys
from pathlib import Path

import pytest

from gwfbench.errors import UserError
from gwfbench.plugins import registry, settings
from gwfbench.plugins.settings import Setting

ROOT = Path(__file__).parents[1]
METHODS = [plugin for plugin in registry.plugins("method").values() if plugin.origin == "gwfbench" and plugin.settings]
NAMES = [f"{plugin.name}@{name}" for plugin in METHODS for name in plugin.settings]


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_can_be_made_and_goes_by_its_own_name(name):
    method, _, setting = name.partition("@")
    known = registry.find("method", method).settings
    text = registry.canonical("method", name)
    assert "@" not in text
    same = [f"{method}@{other}" for other in known if registry.canonical("method", f"{method}@{other}") == text]
    assert registry.short(text) in (*same, text), "a shorter name for something else"
    assert registry.canonical("method", registry.short(text)) == text
    assert registry.track(text) == known[setting].track
    typed = registry.typed(f"{method}:{known[setting].fields}")
    made = registry.parse("method", name)
    for key, value in typed.items():
        shown = getattr(made, key)
        assert settings._same(value, shown if isinstance(shown, str) else registry._text(shown)), (
            f"{key} as rows have it"
        )


def test_a_setting_and_its_fields_are_the_same_run():
    named, spelt = (
        registry.parse("method", text)
        for text in ("jko_icnn@blr-quick", "jko_icnn:step=1,steps=5,iterations=200,pool=65536")
    )
    assert named == spelt
    assert registry.spec(named) == "jko_icnn:step=1.0,steps=5,iterations=200,pool=65536"
    changed = registry.parse("method", " jko_icnn @ blr-quick : steps = 8 ")
    assert (changed.steps, changed.step) == (8, 1.0)
    assert registry.short(registry.spec(changed)) == "jko_icnn@blr-quick:steps=8"
    assert registry.head("jko_icnn@blr-quick:steps=8") == "jko_icnn"


KNOWN = {
    "a": Setting("a", "paper", "x", "steps=10,rate=0.5,kind=one,size=3"),
    "b": Setting("b", "quick", "x", "steps=1"),
}
DEFAULTS = {"steps": "5", "rate": "1.0", "kind": "two", "size": "3", "seed": "none", "more": "0"}


@pytest.mark.parametrize(
    ("typed", "name", "track"),
    [
        ("", "m", "default"),
        ("steps=10,rate=0.5,kind=one", "m@a", "paper"),  # size is at its default
        ("steps=10.0,rate=5e-1,kind=one", "m@a", "paper"),
        ("steps=10,rate=0.5,kind=one,seed=4", "m@a:seed=4", "own"),
        ("steps=11,rate=0.5,kind=one", "m@a:steps=11", "own"),
        ("rate=0.5,kind=one", "m:rate=0.5,kind=one", "own"),  # steps is back at its default
        ("steps=1", "m@b", "quick"),
        ("steps=2", "m:steps=2", "own"),  # m@b:steps=2 is no shorter
        ('kind="a,b",seed=1', 'm:kind="a,b",seed=1', "own"),
    ],
)
def test_short_names_and_tracks(typed, name, track):
    assert settings.short("m", typed, KNOWN, DEFAULTS) == name
    assert settings.track(typed, KNOWN, DEFAULTS) == track


def test_a_name_that_differs_in_much_is_no_name():
    typed = ",".join(f"f{i}=1" for i in range(5)) + ",steps=10,rate=0.5,kind=one"
    assert settings.short("m", typed, KNOWN, DEFAULTS) == f"m:{typed}"


def test_mistakes_are_told(tmp_path):
    with pytest.raises(UserError, match="no setting of 'vjko' 'gmm3'") as told:
        registry.parse("method", "vjko@gmm3")
    assert "did you mean 'gmm" in told.value.fix
    assert "list --method vjko" in told.value.fix
    with pytest.raises(UserError, match="no setting of 'ula' 'paper'"):
        registry.parse("method", "ula@paper")
    with pytest.raises(UserError, match="tasks and controls have no named settings"):
        registry.parse("task", "ou@paper")
    with pytest.raises(UserError, match="tasks and controls have no named settings"):
        registry.typed("exact@paper")
    with pytest.raises(UserError, match="no field of 'vjko' 'stepz'"):
        registry.parse("method", "vjko@gmm2:stepz=3")
    with pytest.raises(UserError, match="no method 'vjco'"):
        registry.find("method", registry.head("vjco@gmm2:steps=3"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[a]\ntrack = 'paper'\n", r"\[a\]"),
        ("[a]\ntrack = 'mine'\nsource = 'x'\nfields = ''\n", "track"),
        ("[a]\ntrack = 'paper'\nsource = ''\nfields = ''\n", "source"),
        ("[a]\ntrack = 'paper'\nsource = 'x'\nfields = ''\nother = 'y'\n", r"\[a\]"),
        ("a = 3\n", r"\[a\]"),
        ("['a b']\ntrack = 'paper'\nsource = 'x'\nfields = ''\n", "letters, digits"),
        ("[a]\ntrack = 'paper'\nsource = 'x'\nfields = ''\nbase = 'b'\n", "base"),
        ("[a\n", "TOML"),
    ],
)
def test_a_broken_file_is_told(text, said, tmp_path):
    path = tmp_path / "m.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        settings.read(path)


def test_a_plug_in_of_ones_own_has_settings_next_to_it(tmp_path):
    (tmp_path / "mine.py").write_text((ROOT / "baselines" / "ula.py").read_text())
    (tmp_path / "mine.toml").write_text('[fast]\ntrack = "quick"\nsource = "mine"\nfields = "step=0.02"\n')

    def run(*words):
        command = [sys.executable, "-m", "gwfbench", *words, "--plugin", str(tmp_path / "mine.py")]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    out = str(tmp_path / "runs")
    done = run("run", "--task", "gaussian", "--method", "mine@fast", "--method", "mine@fast:steps=3", "--seeds", "1",
               "--out", out, "--no-controls", "--no-curve", "--judge", "mmd", "--format", "csv")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {line.split(",")[1] for line in done.stdout.splitlines()[1:]} == {"mine:step=0.02", '"mine:step=0.02'}

    def names(*words):
        shown = run("report", "--out", out, "--format", "csv", *words)
        return {line.split(",")[1] for line in shown.stdout.splitlines()[1:]}

    assert names() == {"mine@fast", "mine@fast:steps=3"}
    assert names("--method", "mine@fast") == {"mine@fast"}
    assert names("--method", "mine@fast:steps=3") == {"mine@fast:steps=3"}
    listed = run("list", "--method", "mine", "--format", "json")
    facts = [json.loads(line) for line in listed.stdout.splitlines()]
    assert facts[-1]["settings"]["fast"]["fields"] == "step=0.02"
    assert "mine@fast" in run("list", "--method", "mine").stdout
