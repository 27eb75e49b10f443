"""`new` writes files that run and keep the protocol's promises."""

import json

import pytest

from gwfbench.commands import new


@pytest.fixture(scope="module")
def cli(elsewhere):
    return elsewhere


def rows(out):
    return {row["metric"]: row["value"] for row in map(json.loads, out.splitlines()) if row["t"] is None}


@pytest.mark.slow
@pytest.mark.parametrize(("uses", "task"), [("density", "gaussian"), ("samples", "toy2d")])
def test_a_method_of_one_s_own(cli, uses, task):
    name = f"my_{uses}"
    code, out, err = cli("new", "method", name, "--uses", uses)
    assert code == 0, err
    assert f"run --task {task} --method {name} --plugin {name}.py" in out
    own = ("--plugin", f"{name}.py")
    code, out, err = cli("run", "--task", task, "--method", name, "--seeds", "1", "--no-curve", "--judge", "energy_distance",
                         "--no-controls", "--out", "runs", "--format", "json", *own)  # fmt: skip
    assert code == 0, err
    assert rows(out)["energy_distance"] < 2
    code, out, err = cli("check", f"method:{name}", "--task", task, *own)
    assert code == 0, out + err


@pytest.mark.slow
def test_a_task_of_one_s_own(cli):
    assert cli("new", "task", "my_task")[0] == 0
    own = ("--plugin", "my_task.py")
    code, out, err = cli("run", "--task", "my_task", "--method", "gaussian_vi", "--seeds", "1", "--no-curve",
                         "--no-controls", "--out", "runs", "--format", "json", *own)  # fmt: skip
    assert code == 0, err
    assert rows(out)["energy_distance"] < 0.01
    code, out, err = cli("check", "task:my_task", "--method", "gaussian_vi", *own)
    assert code == 0, out + err


@pytest.mark.slow
def test_a_metric_of_one_s_own(cli):
    assert cli("new", "metric", "my_metric")[0] == 0
    code, out, err = cli("run", "--task", "gaussian", "--method", "gaussian_vi", "--seeds", "1", "--no-curve", "--judge",
                         "my_metric", "--no-controls", "--out", "runs", "--format", "json", "--plugin", "my_metric.py")  # fmt: skip
    assert code == 0, err
    assert 0 <= rows(out)["my_metric"] < 0.1


@pytest.mark.slow
def test_mistakes_are_told(cli, home):
    for words, said in (
        (("method", "ula"), "the name is taken"),
        (("method", "exact"), "the name is taken"),
        (("task", "ou"), "the name is taken"),
        (("metric", "mmd"), "the name is taken"),
        (("method", "My-Flow"), "small letters"),
    ):
        code, _, err = cli("new", *words)
        assert code == 2, words
        assert said in err
    (home / "there.py").write_text("x = 1\n")
    code, _, err = cli("new", "method", "there")
    assert code == 2
    assert "exists" in err
    assert (home / "there.py").read_text() == "x = 1\n"


def test_templates_have_short_lines():
    for path in new.TEMPLATES.glob("*.txt"):
        assert all(len(line) <= 120 for line in path.read_text().splitlines()), path
