import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

import gwfbench
from gwfbench.drive.job import Job
from gwfbench.errors import UserError
from gwfbench.report import rows as kept_rows
from gwfbench.runs.order import Order
from gwfbench.store import folders
from gwfbench.store.record import Run

WORDS = {
    "task": "ou:dim=3",
    "method": "vjko:lr=0.01",
    "seeds": [2, 5],
    "device": "cpu",
    "dtype": "float64",
    "budget": {"seconds": 60},
}


def test_words_and_back():
    job = Job.read(WORDS)
    assert json.loads(json.dumps(job.words())) == WORDS
    assert Job.read(job.words()) == job


def test_every_job_of_an_order_has_words():
    order = Order.read(["ou", "gmm"], ["ula:step=0.01"], "2", budget="steps=5")
    for job in order.jobs():
        assert Job.read(json.loads(json.dumps(job.words()))) == job


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"task": "oo"}, "no task 'oo'"),
        ({"method": "vjko:width=x"}, "width"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [1, 1]}, "seeds"),
        ({"seeds": [True]}, "seeds"),
        ({"dtype": "float16"}, "dtype"),
        ({"budget": {"seconds": "60"}}, "budget"),
        ({"budget": {"hours": 1}}, "budget hours"),
        ({"extra": 1}, "job"),
        ({"device": 3}, "job"),
        ({"device": "abacus"}, "device 'abacus'"),
        ({"device": "cuda:x"}, "device 'cuda:x'"),
    ],
)
def test_what_is_no_job_is_refused(change, word):
    with pytest.raises(UserError, match=word):
        Job.read(WORDS | change)


@pytest.mark.parametrize("words", [None, [], "ou", {}, 3])
def test_what_is_no_mapping_is_refused(words):
    with pytest.raises(UserError, match="let `run --plan FILE` write it"):
        Job.read(words)


@pytest.mark.slow
def test_an_infinite_field_is_kept_and_is_not_a_missing_one(tmp_path):
    """JSON has no infinity: as null, `step=inf` could not be read again, and its run was lost."""
    call = {"task": "toy2d", "method": "gwf:step=inf,steps=1,iterations=1,batch=8", "seeds": 1, "controls": False}
    ran = gwfbench.run(**call, out=tmp_path)
    assert set(ran.status) == {"ok"}
    assert list(gwfbench.run(**call, out=tmp_path).attempt) == list(ran.attempt)  # found, not run again
    (run,), strange = folders.attempts(tmp_path)
    assert not strange
    assert run.identity.method_fields["step"] == "inf"


def test_a_run_that_could_not_be_read_again_is_not_begun(tmp_path):
    job = next(Order.read(["ou"], ["ula"], "1", controls=False).jobs())
    who = replace(job.identity(0), method_fields={"step": math.inf})
    with pytest.raises(ValueError, match="run key"):
        folders.Attempt(tmp_path, Run(who, (), "c", "e", "2026-01-01T00:00:00+00:00"))
    assert not list(tmp_path.iterdir())


PLAIN = {"task": "ou", "method": "vjko", "seeds": [0], "device": "cpu", "dtype": "float32", "budget": {}}


def test_a_field_that_came_later_leaves_older_keys_alone(monkeypatch):
    """At the value that is as before it is not in the key; at another one, or if it had always been there, it is."""
    job, other = (Job.read(PLAIN | {"method": text}) for text in ("vjko", "vjko:follow=0.1"))
    assert not {"follow", "white"} & job.identity(0).method_fields.keys()
    assert other.identity(0).method_fields["follow"] == 0.1
    assert job.identity(0).key != other.identity(0).key
    key = job.identity(0).key
    monkeypatch.setattr(type(job.contestant), "later", {})
    assert job.identity(0).key != key


def test_published_runs_of_vjko_have_the_keys_of_today():
    rows, _ = kept_rows.read(Path(__file__).parents[1] / "results/smoke/rows.csv")
    for row in rows[rows["method"].str.startswith("vjko")].to_dict("records"):
        job = Job.read(PLAIN | {"task": row["task"], "method": row["method"]})
        assert job.identity(row["seed"]).key == row["run_key"]
