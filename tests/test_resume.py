"""A run that is stopped and goes on gives the rows of one that never stopped: exactly, on the CPU."""

import itertools

import pytest
import torch

from gwfbench import registry
from gwfbench.budget import Budget
from gwfbench.protocol import Resumable
from gwfbench.rng import Streams

VJKO = "vjko:iterations=5,pool=2048,batch=256,width=8"


def clouds(laws, cloud, streams, first=1):
    """Points after each law, pushed as the runner does, and the law's state."""
    for step, law in enumerate(laws, first):
        with torch.no_grad():
            cloud = law.push(cloud, streams.fork(f"push/{step}"))
        yield cloud, law.state()


@pytest.mark.parametrize("words", [VJKO, f"{VJKO},map=prelu,proposal=matched,decay=cosine", "ula:step=0.02"])
@pytest.mark.parametrize("task", ["ou:horizon=0.15", "gmm:dim=2"])
def test_a_method_goes_on_from_each_of_its_states_with_the_same_numbers(words, task):
    streams = Streams((3, 7))
    problem = registry.parse("task", task).build(streams.fork("task")).problem
    method = registry.parse("method", words)
    assert isinstance(method, Resumable)
    start, rng = streams.fork("start").normal(50, 2), streams.fork("method")
    whole = list(itertools.islice(clouds(method.fit(problem, Budget(), rng), start, streams), 4))
    assert len(whole) >= 3
    for step, (cloud, state) in enumerate(whole, 1):
        rest = method.resume(problem, Budget(), Streams((3, 7)).fork("method"), state)
        for (one, _), (other, _) in zip(clouds(rest, cloud, streams, step + 1), whole[step:], strict=False):
            assert torch.equal(one, other)
    states = [state for _, state in whole]
    assert states[0]["k"] == 1  # states are copies: later laws have not changed them
    if "pool" in states[0]:
        assert not torch.equal(states[0]["pool"], states[-1]["pool"])


def test_nothing_is_left_to_do_after_the_last_state():
    streams = Streams((0,))
    problem = registry.parse("task", "ou:horizon=0.1").build(streams).problem
    for words in (VJKO, "ula:step=0.05"):
        method = registry.parse("method", words)
        *_, last = method.fit(problem, Budget(), streams)
        assert not list(method.resume(problem, Budget(), streams, last.state()))
