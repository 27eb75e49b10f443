"""The conformance kit finds each broken promise, and says which; single-file plug-ins are found and hashed."""

import itertools
import json
import sys
from pathlib import Path

import pytest

from gwfbench.check import kit, method
from gwfbench.check.kit import Plan
from gwfbench.cli import main
from gwfbench.errors import UserError
from gwfbench.plugins import discovery, registry
from gwfbench.store import fingerprint

METHOD = '''"""Shrinks every point, by a factor that its seed draws."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from gwfbench.fields import Share, check_fields, refuse
from gwfbench.info import Initial, LogDensity
from gwfbench.protocol import Drawn, Pushed
from gwfbench.rng import Streams


@dataclass(frozen=True)
class Shrink:
    rate: Share = 0.5
    "how fast"

    __post_init__ = check_fields

    needs: ClassVar = frozenset({Initial, LogDensity})
    clock: ClassVar = "flow"
    seeds: ClassVar = "batched"
    version: ClassVar = 1
    smoke: ClassVar = {"rate": 0.25}
    reference: ClassVar = "@misc{shrink, title={Shrink}}"

    def fit(self, problem, budget, rng):
        return self._laws(problem, rng, 0)

    def resume(self, problem, budget, rng, state):
        return self._laws(problem, rng, state["done"])

    def _laws(self, problem, rng, done):
        grid = (0.0, *problem.grid(0.1, 3))
        for k in range(done + 1, len(grid)):
            t = grid[k]
            factor = 1 - self.rate * rng.fork(f"step/{k}").uniform(1, 1)
            problem[LogDensity].score(problem[Initial].draw(5, rng))

            def push(x, noise, factor=factor):
                return factor * x

            def log_det(x, factor=factor):
                return (x.shape[2] * factor[..., 0].log()).expand(x.shape[:2])

            yield Pushed(t, push, log_det, lambda y, factor=factor: y / factor, lambda k=k: {"done": k})
'''
DRAW = "yield Drawn(t, lambda n, noise: {}, limit={}, state=lambda k=k: {{'done': k}})"
LAST = METHOD[METHOD.index("yield Pushed") :].strip()
LARGE = (
    "log_det(x, factor=factor):\n                return (x.shape[2] *",
    "log_det(x, factor=factor):\n                return (2 * x.shape[2] *",
)
BAD_METHODS = [  # what is replaced, by what, the check that must see it, its words
    ("(frozen=True)", "", "class variables", "expected: a frozen dataclass"),
    ("rate: Share = 0.5", "rate: Share", "class variables", "no default for rate"),
    ('clock: ClassVar = "flow"', 'clock: ClassVar = "sun"', "class variables", "clock = 'sun'"),
    ("version: ClassVar = 1", "version: ClassVar = 0", "class variables", "version = 0"),
    ('{"rate": 0.25}', '{"speed": 1}', "class variables", "smoke = {'speed': 1}"),
    ("@misc{shrink, title={Shrink}}", "Shrink, 1999", "reference", "a BibTeX entry"),
    ("frozenset({Initial, LogDensity})", "frozenset([Initial, LogDensity][:1])", "class variables", "in the source"),
    ('    reference: ClassVar', '    shapes: ClassVar = "flat"\n    reference: ClassVar', "class variables", "shapes = 'flat'"),
    ('    reference: ClassVar', '    one_of: ClassVar = frozenset([Initial, LogDensity][:1])\n    reference: ClassVar', "class variables", "one_of reads"),
    ("rate: Share", "rate: float", "numbers have ranges", "no range for rate"),
    ("rate: Share", "rate: int | None", "numbers have ranges", "no range for rate"),
    ("    __post_init__ = check_fields\n", "", "values outside are refused", "rate=nan is accepted"),
    ("__post_init__ = check_fields", "__post_init__ = lambda self: refuse(self, 'needs', when=not 0 <= self.rate < 1, expected='else')", "values outside are refused", "an error in three parts that names rate"),
    ("__post_init__ = check_fields", "__post_init__ = lambda self: refuse(self, 'rate', when=not 0 <= self.rate < 1, expected='')", "values outside are refused", "an error in three parts that names rate"),
    ('    "how fast"\n', "", "documentation", "no text for rate"),
    ("import torch\n", "import torch\nfrom gwfbench.drive.controls import CONTROLS\n", "imports", "imports gwfbench.drive.controls"),
    ("import torch\n", "import torch\nimport gwfbench.baselines.ula\n", "imports", "imports gwfbench.baselines.ula"),
    ("@dataclass", "torch.set_num_threads(torch.get_num_threads() + 1)\n\n\n@dataclass", "stands alone", "the number of threads"),
    ("            problem[LogDensity].score(problem[Initial].draw(5, rng))\n", "", "runs to the end", "no call of an oracle"),
    ("factor * x", "factor * x / 0", "runs to the end", "status diverged"),
    ("factor * x", "factor * x / 0", "yields finite laws", "points not finite at law 1"),
    ("factor * x", "factor * x[:, :9]", "runs to the end", "its push gave"),
    ("factor * x", "(factor * x).mean(2)", "yields finite laws", "points (1, 64) at law 1"),
    (LAST, "yield t", "yields finite laws", "fit yielded a float"),
    ("({Initial, LogDensity})", "({Initial})", "yields finite laws", "offers no LogDensity"),
    ("t = grid[k]", "t = grid[1]", "time grows to the last judged", "flow times [0.1, 0.1]"),
    ("t = grid[k]", "t = grid[k] / 2", "time grows to the last judged", "it ended at t = 0.1"),
    ("factor * x", "(factor * x).float()", "keeps precision and device", "torch.float32 on cpu"),
    ("rng.fork(f\"step/{k}\").uniform(1, 1)", "torch.rand(1, 1, 1)", "twice is the same", "other points in a second run"),
    (LAST, DRAW.format("torch.zeros(len(noise.seeds), n, 2)", "None"), "twice is the same", "the same points from seeds 7 and 8"),
    ("uniform(1, 1)\n", "uniform(1, 1).mean(0, keepdim=True)\n", "seeds do not see each other", "seed 2 differs"),
    ("t = grid[k]", "t = grid[k]\n            torch.rand(1)", "leaves the process alone", "PyTorch's global random state"),
    ("t = grid[k]", "t = grid[k]\n            torch.set_grad_enabled(False)", "leaves the process alone", "gradients off at law 1"),
    ("factor * x", "factor * x + torch.rand(1)", "laws are functions", "law 1 gives other points when asked again"),
    ("factor * x", "x.mul_(factor)", "laws are functions", "law 1 changes its argument"),
    ("factor * x", "factor * x.clamp_(max=0.5)", "laws are functions", "law 1 changes its argument"),
    ("expand(x.shape[:2])", "expand(x.shape[0], 1)", "laws are functions", "log-densities (1, 1) at law 1"),
    (LAST, DRAW.format("noise.normal(10, 2)[:, noise.integers(10, n)[0]]", 10), "draws no more than it has", "different points of 10"),
    (LAST, DRAW.format("noise.normal(n, 2)", 10), "draws no more than it has", "when asked for 11 of 10"),
    (*LARGE, "log det and inverse are those of the push", "log_det of law 1 is off by"),
    ("y / factor", "y * factor", "log det and inverse are those of the push", "inverse of law 1 is off by"),
    ("            t = grid[k]", "            from gwfbench.budget import BudgetSpent\n            import time\n            try:\n                time.sleep(3)\n            except BudgetSpent:\n                time.sleep(1)\n            t = grid[k]", "obeys seconds", "of a budget of 0.1 s"),
    ("problem[LogDensity].score(problem[Initial].draw(5, rng))", "try:\n                problem[LogDensity].score(problem[Initial].draw(5, rng))\n            except BaseException as e:\n                raise OSError from e", "obeys counts", "status error: OSError"),
    ("range(done + 1", "range(max(done, 1)", "resumes", "other laws after a resume from law 1"),
    ('lambda k=k: {"done": k}', 'lambda k=k: {"done": str(k)}', "resumes", "state 'done' is a str"),
    ("def resume(", "def again(", "resumes", "state without resume"),
]  # fmt: skip
TASK = (Path(__file__).parent / "thirdparty" / "acme_flows" / "shift.py").read_text()
BAD_TASKS = [
    ('("symkl", "bures_w2")', '["symkl"]', "class variables", "metrics = ['symkl']"),
    ("20_000", "20", "class variables", "points = 20"),
    ("    points: ClassVar", '    files: ClassVar = "data"\n    points: ClassVar', "class variables", "files = 'data'"),
    ("dim: Annotated[int, between(1, 100)]", "dim: int", "numbers have ranges", "no range for dim"),
    ("from gwfbench.rng", "from gwfbench.drive.execute import execute\nfrom gwfbench.rng", "imports", "imports gwfbench.drive.execute"),
    ('("symkl", "bures_w2")', '("symkl", "beauty")', "gives what it offers", "no metric 'beauty'"),
    ("(start, target))", "(start,))", "gives what it offers", "a problem with Initial"),
    ("(self.horizon,)", "(self.horizon, 0.1)", "gives what it offers", "times (0.5, 0.1)"),
    ("streams.normal(n, self.dim), lambda", "streams.normal(n, self.dim).float(), lambda", "gives what it offers", "P_0's draw gives"),
    ("mean.to(streams.dtype)[:, None] + streams", "0.9 * mean.to(streams.dtype)[:, None] + streams", "truth draws what it says", "standard errors off"),
    ("(mean, torch.eye", "(mean.float(), torch.eye", "truth draws what it says", "moments ("),
    ('rng.fork("b").host().normal(self.dim)', "torch.rand(len(rng.seeds), self.dim).double()", "twice is the same", "it changed PyTorch's global"),
    ("normal(self.dim)).to", "normal(self.dim).mean(0, keepdim=True).expand(len(rng.seeds), -1)).to", "seeds do not see each other", "the truth of seed 2 differs"),
    ("b.to(x.dtype)[:, None] - x)", "x - b.to(x.dtype)[:, None])", "scores are gradients", "the target's score is off"),
    ("score=lambda index, x: mean.to(x.dtype)[:, None] - x", "score=lambda index, x: -x", "scores are gradients", "the truth's score is off"),
    ("self.dim * math.log(2 * math.pi)", "0.9 * self.dim * math.log(2 * math.pi)", "density has mass one", "standard error 0.00"),
    ("mean.to(streams.dtype)[:, None] + streams", "-3 * mean.to(streams.dtype)[:, None] + streams", "controls bracket it", "symkl: exact"),
    ("    def build(self, rng: Streams) -> Instance:\n", "    def build(self, rng: Streams) -> Instance:\n        __import__('time').sleep(0.3)\n", "small copy is quick", "at most 0.2 s"),
]  # fmt: skip
NUMBERS = itertools.count()


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Write a text as a single-file plug-in and name it; each gets a module of its own."""
    monkeypatch.setenv(discovery.FILES, "")

    def make(text, stem):
        path = tmp_path / f"{stem}_{next(NUMBERS)}.py"  # modules stay loaded: no name twice
        path.write_text(text)
        registry.add_files([path])
        return path.stem

    yield make
    monkeypatch.undo()  # the list of files too, before plug-ins are listed again
    registry.plugins.cache_clear()


def only(monkeypatch, name):
    """Leave this check alone in the kit."""
    for module, table in ((kit.plugin, "CHECKS"), (kit.task, "CHECKS"), (kit.method, "CHECKS"), (kit.method, "BOTH")):
        monkeypatch.setattr(module, table, tuple(check for check in getattr(module, table) if check.name == name))


def run(text, partner):
    return list(Plan.read(text, [partner]).outcomes())


@pytest.mark.slow
def test_a_good_method_passes(plugin):
    outcomes = run(f"method:{plugin(METHOD, 'good')}", "ou:horizon=0.2,step=0.1")
    assert [outcome for outcome in outcomes if outcome.status == "failed"] == []
    assert {outcome.check for outcome in outcomes if outcome.status == "skipped"} == {"draws no more than it has"}


@pytest.mark.parametrize(
    ("text", "status"), [('""', "skipped"), ('"@misc{a, title={A}}"', "passed"), ('"a paper"', "failed")]
)
def test_what_is_new_cites_nothing(plugin, monkeypatch, text, status):
    only(monkeypatch, "reference")
    name = plugin(METHOD.replace('"@misc{shrink, title={Shrink}}"', text), "cited")
    (found,) = run(f"method:{name}", "ou")
    assert found.status == status


@pytest.mark.slow
@pytest.mark.parametrize(("old", "new", "check", "words"), BAD_METHODS)
def test_a_bad_method_is_found_out(plugin, monkeypatch, old, new, check, words):
    assert METHOD.count(old) == 1
    only(monkeypatch, check)
    monkeypatch.setattr(method, "SECONDS", 0.1)
    monkeypatch.setattr(method, "GRACE", 0.3)
    (outcome,) = run(f"method:{plugin(METHOD.replace(old, new), 'bad')}", "ou:horizon=0.2,step=0.1")
    assert outcome.status == "failed"
    assert words in f"{outcome.got}\nexpected: {outcome.expected}\nfix: {outcome.fix}"


@pytest.mark.slow
@pytest.mark.parametrize(("old", "new", "check", "words"), BAD_TASKS)
def test_a_bad_task_is_found_out(plugin, monkeypatch, old, new, check, words):
    assert TASK.count(old) == 1
    only(monkeypatch, check)
    monkeypatch.setattr(kit.task, "SECONDS", 0.2)
    (outcome,) = run(f"task:{plugin(TASK.replace(old, new), 'bad')}", "ula")
    assert outcome.status == "failed"
    assert words in f"{outcome.got}\nexpected: {outcome.expected}\nfix: {outcome.fix}"


def command(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["gwfbench", *words])
    with pytest.raises(SystemExit) as end:
        main()
    done = capsys.readouterr()
    return end.value.code, done.out, done.err


def test_the_command(plugin, tmp_path, monkeypatch, capsys):
    path = tmp_path / "mine.py"
    path.write_text(METHOD.replace("factor * x", "factor * x / 0"))
    words = ["check", "method:mine:rate=0.3", "--plugin", str(path), "--task", "ou:horizon=0.1"]
    only(monkeypatch, "yields finite laws")
    code, out, _ = command(monkeypatch, capsys, *words)
    assert code == 1
    assert "failed  mine:rate=0.3 with ou:horizon=0.1: yields finite laws\n  got: points not finite" in out
    assert out.endswith("0 passed, 1 failed, 0 skipped\n")
    code, out, _ = command(monkeypatch, capsys, *words, "--format", "json")
    assert code == 1
    assert json.loads(out)["status"] == "failed"


@pytest.mark.parametrize(
    ("words", "got"),
    [
        (["check", "ula"], "check ula"),
        (["check", "method:ulla"], "no method 'ulla'"),
        (["check", "method:ula:step=x"], "ula:step=x"),
        (["check", "method:ula", "--task", "barenblatt"], "needs Initial, LogDensity"),
        (["check", "task:ou", "--task", "ou"], "--task"),
        (["check", "method:ula", "--plugin", "nowhere.py"], "nowhere.py: no such file"),
    ],
)
def test_mistakes_end_with_2(plugin, monkeypatch, capsys, words, got):
    code, out, err = command(monkeypatch, capsys, *words)
    assert (code, out) == (2, "")
    assert got in err


@pytest.mark.slow
def test_a_single_file_is_a_plugin_in_every_process(plugin, tmp_path):
    name = plugin(METHOD, "mine")
    found = registry.find("method", name)
    assert (found.summary, found.problem) == ("Shrinks every point, by a factor that its seed draws.", "")
    assert registry.spec(registry.parse("method", f"{name}:rate=0.1")) == f"{name}:rate=0.1"
    assert registry.name_of(found.load()()) == name
    (tmp_path / "ula.py").write_text(METHOD)
    registry.add_files([tmp_path / "ula.py"])
    with pytest.raises(UserError, match="taken twice, by gwfbench and by"):
        registry.parse("method", "ula")
    (tmp_path / "torn.py").write_text("def (")
    registry.add_files([tmp_path / "torn.py"])
    assert "SyntaxError" in registry.find("method", "torn").problem
    assert "torn" not in registry.plugins("task")


def test_the_code_of_a_single_file_and_of_its_neighbours_is_hashed(plugin, tmp_path):
    (tmp_path / "near.py").write_text("RATE = 1\n")
    name = plugin(METHOD.replace("import torch\n", "import torch\nfrom gwfbench_plugins import near\n"), "hashed")
    module = registry.find("method", name).load().__module__

    def now():
        fingerprint.forget()
        return fingerprint.code_hash(module)

    first = now()
    (tmp_path / "near.py").write_text("RATE = 2\n")
    second = now()
    assert second != first
    path = tmp_path / f"{name}.py"
    path.write_text(path.read_text().replace("1 - self.rate", "2 - self.rate"))
    assert now() not in (first, second)
