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
from gwfbench.plugins import discovery, registry
from gwfbench.runs.order import Order

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
            assert plugin.metrics == (cls.metrics if kind == "task" else ())


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
        ({"sizes": "1"}, "a field that a command can set"),
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
    with pytest.raises(UserError, match=r"unavailable: SyntaxError[\s\S]*fix: correct the source of foreign-flows"):
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


# ------------------------------------------------------------------------------------------------ files of one's own

METHOD = '''
"""A method of one's own."""
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar
from gwfbench.fields import Count, check_fields
from gwfbench.info import Initial
from gwfbench.protocol import Drawn
print("imported")
@dataclass(frozen=True)
class Mine:
    steps: Count = 2
    "number of steps"
    __post_init__ = check_fields
    needs = frozenset({Initial})
    clock: ClassVar = "none"
    seeds: ClassVar = "batched"
    version: ClassVar = 1
    smoke: ClassVar = {}
    reference: ClassVar = ""
    def fit(self, problem, budget, rng):
        points = problem[Initial].draw(64, rng)
        for k in range(self.steps):
            yield Drawn(float(k + 1), lambda n, rng: points[:, :n], limit=64)
'''


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Writes files below the test's folder; gives a function that adds them as plug-ins."""
    monkeypatch.setenv(discovery.FILES, "")

    def add(**files):
        for name, text in files.items():
            path = tmp_path / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        registry.add_files(path for path in sorted(tmp_path.rglob("*.py")) if "helper" not in path.name)

    yield add
    registry.plugins.cache_clear()
    for name in [name for name in sys.modules if name.startswith(discovery.HOME)]:
        del sys.modules[name]


def test_needs_without_annotation_and_a_byte_order_mark(plugin, cli):
    plugin(my_unmarked=b"\xef\xbb\xbf" + METHOD.encode())
    found = registry.find("method", "my_unmarked")
    assert (found.problem, found.capabilities) == ("", {"Initial"})
    words = ("--method", "my_unmarked", "--seeds", "1", "--no-controls", "--no-isolate", "--no-curve")
    code, out, err = cli("run", "--task", "gaussian:dim=2", *words, "--format", "json")
    assert code == 0, err
    assert all(line.startswith("{") for line in out.splitlines()), "what it prints goes elsewhere"


MISTAKES = {
    "not_frozen": (lambda text: text.replace("@dataclass(frozen=True)", "@dataclass"), "no frozen dataclass", "@dataclass\\(frozen=True\\) above class Mine"),
    "no_dataclass": (lambda text: text.replace("@dataclass(frozen=True)", ""), "no frozen dataclass", "@dataclass"),
    "a_field": (lambda text: text.replace("version: ClassVar", "version: int"), "has version among its fields", "ClassVar"),
    "no_version": (lambda text: text.replace("    version: ClassVar = 1\n", ""), "no class variable version", "version: ClassVar = 1"),
    "no_fit": (lambda text: text.replace("def fit", "def go"), "no method fit", r"fit\(self, problem, budget, rng\)"),
    "neither": (lambda text: text.replace("    needs = frozenset({Initial})\n", ""), "no class with the class variable needs", "needs: ClassVar"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_one_mistake_one_message_and_its_own_fix(plugin, cli, name):
    change, got, fix = MISTAKES[name]
    plugin(**{name: change(METHOD)})
    code, out, err = cli("run", "--task", "ou", "--method", name, "--seeds", "1")
    assert (code, out) == (2, "")
    first, expected, last = err.split("\n  ")
    assert re.search(got, first), err
    assert expected.startswith("expected: ")
    assert re.search(f"fix: .*{fix}", last), err
    assert "uninstall" not in err


@pytest.mark.parametrize("name", registry.CONTROLS)
def test_a_plug_in_can_t_have_the_name_of_a_control(plugin, cli, name):
    plugin(**{name: METHOD})
    code, _, err = cli("run", "--task", "ou:horizon=0.05", "--method", name, "--seeds", "1")
    assert code == 2
    assert f"'{name}' is the name of a control" in err
    assert "fix: rename" in err


def test_a_draw_that_gives_too_few_points_says_how_to_limit_it(plugin, cli):
    plugin(my_limitless=METHOD.replace(", limit=64", ""))
    words = ("--method", "my_limitless", "--seeds", "1", "--no-controls", "--no-isolate")
    code, _, err = cli("run", "--task", "gaussian:dim=2", *words)
    assert code == 1
    assert "its draw gave (1, 64, 2)" in err
    assert "Drawn(..., limit=64)" in err


def test_names_that_are_taken_or_can_t_be_typed(plugin, monkeypatch):
    plugin(ula=METHOD)
    with pytest.raises(UserError, match=r"taken twice, by gwfbench and by .*ula.py"):
        registry.find("method", "ula").load()
    odd = [registry.Plugin(name, "method", "m", "C", "strange") for name in ("a,b", "a:b", "a\x1b", "")]
    monkeypatch.setattr(discovery, "foreign", lambda kind: odd)
    registry.plugins.cache_clear()
    for one in odd:
        with pytest.raises(UserError, match="the name has other characters"):
            registry.find("method", one.name).load()


@pytest.mark.parametrize(
    "line", ["from gwfbench_plugins.helper import x", "from . import helper", "import gwfbench_plugins.helper as h",
             "from gwfbench_plugins import helper", "from .helper import x", "from gwfbench_plugins import link_helper"],
)  # fmt: skip
def test_two_folders_with_a_module_of_one_name_are_refused(plugin, line):
    helpers = {f"{place}__helper": "x = 1" for place in ("a", "b")}
    links = {"a__link_helper": "from gwfbench_plugins.helper import x"}
    plugin(a__first=f"{line}\n{METHOD}", b__second=METHOD, **helpers, **links)
    with pytest.raises(
        UserError, match=r"gwfbench_plugins.helper, which is in two places: .*a/helper.py and .*b/helper"
    ):
        registry.find("method", "first").load()
    assert registry.find("method", "second").load()  # it imports none


def test_equal_settings_typed_two_ways_are_one():
    order = Order.read(["ou", "ou:dim=2", "ou:horizon=0.90"], ["ula", "ula:step=0.010", "exact"], 1)
    assert len(order.tasks) == len(set(order.tasks))
    jobs = [(job.identity(0).task, job.identity(0).method) for job in order.jobs()]
    assert len(jobs) == len(set(jobs))


@pytest.mark.parametrize("text", ["a,b", 'say "x"', "none", "None", "back\\slash", " padded ", "a=b,c=d", '"', "x"])
def test_any_text_can_be_typed(text):
    task = dataclasses.replace(registry.parse("task", "images"), data="folder", data_root=text)
    assert registry.parse("task", registry.spec(task)) == task
