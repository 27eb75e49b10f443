"""Grids in specs, and experiment files."""

import csv
from pathlib import Path

import pytest

from gwfbench.plugins import registry
from gwfbench.runs.order import Order

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("ula", ["ula"]),
        ("ula:step=0.1", ["ula:step=0.1"]),
        ("ula:step=0.1|0.2", ["ula:step=0.1", "ula:step=0.2"]),
        ("m:a=1|2,b=x,c=3|4", ["m:a=1,b=x,c=3", "m:a=1,b=x,c=4", "m:a=2,b=x,c=3", "m:a=2,b=x,c=4"]),
        ('images:data_root="a|b,c"', ['images:data_root="a|b,c"']),
        ('images:data_root="a|b"|c', ['images:data_root="a|b"', "images:data_root=c"]),
        ("vjko@gmm2:steps=3|4", ["vjko@gmm2:steps=3", "vjko@gmm2:steps=4"]),
        ("ula:step", ["ula:step"]),  # the parser refuses it
    ],
)
def test_a_text_with_several_values_means_one_of_each(text, meant):
    assert registry.grid(text) == meant


def test_an_order_has_one_run_of_each():
    order = Order.read(["gaussian:dim=2|3"], ["ula:steps=5|6", "ula:steps=6", "exact"], 1, controls=False)
    jobs = [(registry.spec(job.task), str(job.words()["method"])) for job in order.jobs()]
    assert jobs == [
        (task, method) for task in ("gaussian", "gaussian:dim=3") for method in ("ula:steps=5", "ula:steps=6", "exact")
    ]


def run(cli, path, *words):
    return cli("run", "--config", str(path), "--format", "csv", *words)


def test_a_file_has_the_options_and_what_is_typed_comes_before_it(cli, tmp_path, no_files):
    (tmp_path / "mine.py").write_text((ROOT / "baselines" / "ula.py").read_text())
    path = tmp_path / "experiment.toml"
    path.write_text(f"""
task = ["gaussian"]
method = ["mine:steps=2|3"]
plugin = ["{tmp_path / "mine.py"}"]
seeds = [4, 7]
no-curve = true
controls = false
isolate = false
judge = ["mmd"]
budget = {{ steps = 100, seconds = 60 }}
""")
    code, out, err = run(cli, path)
    assert code == 0, err
    lines = list(csv.DictReader(out.splitlines()))
    assert {(line["method"], line["seed"]) for line in lines} == {(f"mine:steps={k}", s) for k in (2, 3) for s in "47"}
    assert {line["metric"] for line in lines} == {"mmd"}
    assert {line["budget"] for line in lines} == {"seconds=60.0,steps=100.0"}
    code, out, err = run(cli, path, "--seeds", "1", "--method", "mine:steps=4")
    assert code == 0, err
    assert {(line["method"], line["seed"]) for line in csv.DictReader(out.splitlines())} == {("mine:steps=4", "0")}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("task = 'ou'\n", "a list"),
        ("task = ['ou']\nmetod = ['ula']\n", "no option 'metod'"),
        ("seeds = true\n", "a text or a number"),
        ("curve = 3\n", "true or false"),
        ("curve = true\nno-curve = true\n", "each option once"),
        ("task = [3]\n", "a list"),
        ("task = \n", "TOML"),
        ("config = 'x.toml'\n", "no option 'config'"),
    ],
)
def test_mistakes_in_a_file_are_told(cli, tmp_path, text, said):
    path = tmp_path / "experiment.toml"
    path.write_text(text)
    code, _, err = run(cli, path)
    assert code == 2
    assert said in err
    assert "fix:" in err


def test_a_file_that_is_not_there(cli, tmp_path):
    code, _, err = run(cli, tmp_path / "none.toml")
    assert code == 2
    assert "none.toml" in err
