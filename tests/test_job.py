import json

import pytest

from gwfbench.errors import UserError
from gwfbench.job import Job
from gwfbench.session import Order

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
