import dataclasses
import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Literal

import pytest

from gwfbench import fields
from gwfbench.errors import UserError
from gwfbench.plugins import registry

ROOT = Path(__file__).parents[1]


def test_spec_round_trip():
    task = registry.parse("task", "ou:dim=8,cloud=matched")
    assert (task.dim, task.cloud, task.step) == (8, "matched", 0.05)
    assert registry.spec(task) == "ou:dim=8,cloud=matched"
    assert registry.spec(registry.parse("task", "ou:dim=2")) == "ou"  # a default said is the default
    method = registry.parse("method", " vjko : iterations = 10 , lr=1e-3 ")
    assert registry.spec(method) == "vjko:iterations=10,lr=0.001"
    assert registry.parse("method", registry.spec(method)) == method


def test_the_source_says_what_the_class_says():
    for kind, capability in (("task", "offers"), ("method", "needs")):
        for plugin in registry.plugins(kind).values():
            cls = plugin.load()
            assert {info.__name__ for info in getattr(cls, capability)} == plugin.capabilities
            assert [field.name for field in plugin.fields] == [field.name for field in dataclasses.fields(cls)]
            assert all(field.doc for field in plugin.fields), f"{plugin.name}: every field has a string below it"
            assert plugin.summary


@dataclasses.dataclass(frozen=True)
class Stranger:
    sizes: tuple[int, ...] = (1,)
    on: bool = False
    word: str | None = None
    one: Literal["a", "b"] | None = None

    def __post_init__(self):
        if self.word == "bad":
            raise ValueError("no such word")


def test_fields_by_type():
    made = registry.configure(Stranger, "s", {"on": "True", "word": "none"})
    assert made == Stranger(on=True, word=None)
    assert registry.configure(Stranger, "s", {"word": "good"}).word == "good"
    assert [registry.configure(Stranger, "s", {"one": text}).one for text in ("a", "none")] == ["a", None]
    for values, expected in (
        ({"on": "1"}, "true or false"),
        ({"sizes": "1"}, "a field that can be typed"),
        ({"word": "bad"}, "accepts"),
        ({"one": "c"}, "one of a, b"),
    ):
        with pytest.raises(UserError, match=expected):
            registry.configure(Stranger, "s", values)


def test_the_source_says_the_ranges_of_the_class():
    for kind in ("task", "method"):
        for plugin in registry.plugins(kind).values():
            known = fields.ranges(plugin.load())
            for field in plugin.fields:
                words = " and ".join(limit.words for limit in known.get(field.name, ()))
                assert field.range == words, f"{plugin.name}.{field.name}"


def test_list_shows_ranges(cli):
    code, out, _ = cli("list", "--method", "svgd")
    assert code == 0
    assert re.search(r"particles .*int, at least 1 .*1024", out)
    assert re.search(r"bandwidth .*float or none, a positive number .*none", out)
    code, out, _ = cli("list", "--method", "svgd", "--format", "json")
    field = json.loads(out.splitlines()[-1])["fields"]["rows"]
    assert (field["type"], field["range"], field["default"]) == ("int | None", "at least 1", "None")


def test_controls_have_their_names():
    from gwfbench.drive.controls import CONTROLS

    assert tuple(CONTROLS) == registry.CONTROLS


BROKEN = {
    "syntax": ("def (", "SyntaxError"),
    "nothing": ("x = 1", "has no class Method"),
    "good": (
        '''
        """A foreign method."""
        from dataclasses import dataclass
        EVEN = Range(lambda v: v % 2 == 0, "an even number", 4)
        MODE = Literal["a", "b"]
        from typing import ClassVar
        @dataclass(frozen=True)
        class Method:
            speed: fields.Positive | None = 1.0
            "speed of the flow"
            size: Annotated[int, at_least(2), EVEN] = 4
            "number of points"
            own: Annotated[float, Range(lambda v: v > 3, words="above 3", example=4)] = 4.0
            "weight"
            mode: MODE = "a"
            "which"
            needs: ClassVar = frozenset({Initial})
            clock: ClassVar = "flow"
            seeds: ClassVar = "batched"
            version: ClassVar = 1
            smoke: ClassVar = {}
            reference: ClassVar = "title"
            def fit(self, problem, budget, rng): ...
        ''',
        "",
    ),
}
GOOD = BROKEN["good"][0]
BROKEN |= {
    "clockless": (GOOD.replace('clock: ClassVar = "flow"', ""), "class Method has no class variable clock"),
    "unfit": (GOOD.replace("def fit(", "def run("), "class Method has no method fit"),
    "lonely": (GOOD.replace("from typing", "import flows_nobody_has\n        from typing"), "imports flows_nobody_has"),
}


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """A package outside gwfbench with entry points, of which two are broken and one takes a name of ours."""
    package = tmp_path / "foreign_flows"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('listing must not import me')")
    lines = ["[gwfbench.methods]"]
    for name, (text, _) in BROKEN.items():
        (package / f"{name}.py").write_text(textwrap.dedent(text))
        lines.append(f"foreign_{name} = foreign_flows.{name}:Method")
    lines += ["foreign_gone = foreign_flows.gone:Method", "vjko = foreign_flows.good:Method"]
    info = tmp_path / "foreign_flows-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: foreign-flows\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    registry.plugins.cache_clear()
    yield registry.plugins("method")
    registry.plugins.cache_clear()


def test_entry_points_are_listed_and_the_broken_ones_say_why(foreign):
    for name, (_, problem) in BROKEN.items():
        plugin = foreign[f"foreign_{name}"]
        assert plugin.origin == "foreign-flows"
        assert problem in plugin.problem
        assert bool(problem) == bool(plugin.problem)
    speed, size, own, mode = foreign["foreign_good"].fields
    assert (speed.type, speed.range, speed.doc) == ("float | None", "a positive number", "speed of the flow")
    assert (size.type, size.range, size.default) == ("int", "at least 2 and an even number", "4")
    assert (own.type, own.range) == ("float", "above 3")
    assert (mode.type, mode.range) == ("Literal['a', 'b']", "")
    assert "no module" in foreign["foreign_gone"].problem
    with pytest.raises(UserError, match=r"unavailable: SyntaxError[\s\S]*fix: fix or uninstall foreign-flows"):
        foreign["foreign_syntax"].load()


def test_a_name_taken_twice_is_unavailable_not_shadowed(foreign):
    with pytest.raises(UserError, match="taken twice, by gwfbench and by foreign-flows"):
        foreign["vjko"].load()


def test_listing_imports_nothing_heavy():
    code = """
import sys
sys.argv = ["gwfbench", "list"]
from gwfbench.cli import cli
cli(standalone_mode=False)
print("HEAVY", sorted({"torch", "numpy", "pandas", "scipy", "sklearn", "ot"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"
    assert "vjko" in done.stdout
