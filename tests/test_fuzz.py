"""Whatever is typed, or has become of a file: a UserError or a ValueError that says what, and never another number.

`--hypothesis-profile=long` tries more than 10,000 inputs.
"""

import dataclasses
import hashlib
import json
import math
import typing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gwfbench.budget import Budget
from gwfbench.drive.job import Job
from gwfbench.errors import UserError
from gwfbench.plugins import registry
from gwfbench.store import checked, folders
from gwfbench.store.folders import Attempt
from gwfbench.store.record import Identity, Row, Run, Status, digest

LIMITS = [field.name for field in dataclasses.fields(Budget)]
NUMBERS = [
    "0",
    "-1",
    "1",
    "8",
    "2.5",
    "1e3",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "1e-400",
    "9" * 400,
    "0x10",
    "1_0",
    "none",
    "true",
]
PLUGINS = [plugin for kind in ("task", "method") for plugin in registry.plugins(kind).values()]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([2**63, -(2**70), "1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
fixtures = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def said(error):
    """The words of an error, which are some."""
    assert str(error)
    return str(error)


def parts(error):
    """A UserError has three parts, none empty."""
    assert all(error.args)
    assert len(error.args) == 3
    return str(error)


@given(st.sampled_from(["task", "method"]), st.text(max_size=40))
def test_any_text_as_a_spec(kind, text):
    try:
        registry.parse(kind, text)
    except UserError as error:
        parts(error)


@st.composite
def specs(draw):
    """A plug-in and a spec of it, with fields and values that are right or nearly so."""
    plugin = draw(st.sampled_from(PLUGINS))
    names = [field.name for field in plugin.fields] or ["x"]
    pairs = draw(
        st.lists(
            st.tuples(
                st.sampled_from(names) | st.text(max_size=5),
                st.sampled_from(NUMBERS) | st.floats().map(repr) | st.integers().map(str) | st.text(max_size=6),
            ),
            max_size=3,
        )
    )
    text = plugin.name + ":" + ",".join(f"{key}={value}" for key, value in pairs)
    if draw(st.booleans()) and text:
        at = draw(st.integers(0, len(text) - 1))
        text = text[:at] + draw(st.text(max_size=2)) + text[at + draw(st.integers(0, 2)) :]
    return plugin.kind, text


@given(specs())
def test_a_spec_is_refused_or_means_what_it_says(case):
    kind, text = case
    try:
        made = registry.parse(kind, text)
    except UserError as error:
        parts(error)
        return
    assert registry.parse(kind, registry.spec(made)) == made
    for field in dataclasses.fields(made):
        value = getattr(made, field.name)
        assert not isinstance(value, float) or math.isfinite(value), f"{text}: {field.name}"
        typed = registry.typed(text).get(field.name)
        if type(value) is int and typed is not None:
            assert value == int(typed)


WORDS = {
    "task": "ou:dim=3", "method": "vjko:lr=0.01", "seeds": [2, 5], "device": "cpu", "dtype": "float64", "budget": {"seconds": 60},
}  # fmt: skip


@given(st.dictionaries(st.sampled_from([*WORDS, "extra"]), JSON | specs().map(lambda case: case[1]), max_size=2), JSON)
def test_what_is_no_job_is_refused(change, other):
    for words in (WORDS | change, other):
        try:
            job = Job.read(words)
        except UserError as error:
            parts(error)
            continue
        assert isinstance(words, dict)
        assert job.budget.limits() == words["budget"]
        assert list(job.seeds) == words["seeds"]


@given(
    st.lists(
        st.tuples(st.sampled_from(LIMITS) | st.text(max_size=5), st.sampled_from(NUMBERS) | st.text(max_size=5)),
        max_size=3,
    )
)
def test_a_budget_is_refused_or_is_positive(pairs):
    text = ",".join(f"{name}={number}" for name, number in pairs)
    try:
        budget = Budget.read(text)
    except UserError as error:
        parts(error)
        return
    for name, limit in budget.limits().items():
        assert 0 < limit < math.inf
        assert [limit] == [float(number) for word, number in pairs if word.strip() == name]


@pytest.fixture(scope="module")
def attempt(tmp_path_factory):
    """The folder of a real attempt with a few rows, its run as it is read, and the bytes of its files."""
    out = tmp_path_factory.mktemp("runs")
    identity = Identity("ou", 1, {"dim": 2, "cloud": "iid"}, "ula", 1, {"step": 0.1}, 0, "float32", "cpu")
    run = Run(identity, ("Initial",), "code", "env", "2026-01-01T00:00:00+00:00", {"seconds": 3.5})
    files = Attempt(out, run)
    for step in (1, 2, 3):
        row = Row(
            step, 0.05 * step, "symkl", 1, "lower", "flow", "method", 0.1 / step, None, 10, 1.0, 5, 0, 0, 0.1, 2.0
        )
        run.rows.append(row)
        files.judged(step, [row], np.full((4, 2), step, dtype=np.float32))
    run.steps, run.seconds = 3, 1.25
    files.finish(run, "log\n")
    (folder,) = (path for path in out.iterdir() if path.is_dir())
    return folder, folders.read(folder), {path.name: path.read_bytes() for path in folder.iterdir()}


def reread(attempt, changed):
    """The run with these files instead of its own, or what was said of them."""
    folder, _, files = attempt
    try:
        for name, content in changed.items():
            Path(folder / name).write_bytes(content)
        return folders.read(folder)
    except ValueError as error:
        return said(error)
    finally:
        for name in changed:
            Path(folder / name).write_bytes(files[name])


@fixtures
@given(st.sampled_from(["run.json", "rows.jsonl", "draws.npz", "log.txt"]), st.data())
def test_no_flipped_or_lost_byte_gives_another_run(attempt, name, data):
    content = bytearray(attempt[2][name])
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        for _ in range(data.draw(st.integers(1, 3))):
            content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    assert isinstance(result := reread(attempt, {name: bytes(content)}), str) or result == attempt[1]
    if name != "run.json":
        assert isinstance(result, str) or bytes(content) == attempt[2][name]


def edited(data, tree):
    """The tree with one of its values replaced, added or taken away; the value that was changed, at its end."""
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
    if not keys:
        return data.draw(JSON)
    key = data.draw(st.sampled_from(keys))
    copy = tree.copy()
    if isinstance(tree[key], dict | list) and data.draw(st.booleans()):
        copy[key] = edited(data, tree[key])
    elif data.draw(st.integers(0, 4)) == 0:
        del copy[key]
    elif type(tree[key]) in (int, float) and data.draw(st.booleans()):
        copy[key] = data.draw(st.floats() | st.integers())
    else:
        copy[key] = data.draw(JSON)
    return copy


@fixtures
@given(st.data())
def test_an_edited_value_is_seen(attempt, data):
    before = json.loads(attempt[2]["run.json"])
    after = edited(data, before)
    result = reread(attempt, {"run.json": json.dumps(after).encode()})
    assert isinstance(result, str) or json.dumps(after) == json.dumps(before) or result == attempt[1]
    if json.dumps(after, sort_keys=True) != json.dumps(before, sort_keys=True):
        assert isinstance(result, str)


def sound(run):
    """Types and ranges, said again in other words."""
    assert run.status in typing.get_args(Status)
    json.dumps([*run.tidy()], allow_nan=False).encode()
    numbers = [run.seconds, run.sample_seconds, run.judge_seconds, run.steps, run.batch, run.identity.seed]
    for point in run.rows:
        numbers += [point.step, point.n, point.seconds, point.score_calls, point.log_prob_calls, point.draw_calls]
        numbers += [point.sample_seconds, point.sample_calls, *(x for x in (point.t, point.se) if x is not None)]
        assert point.value is None or type(point.value) in (int, float)
        assert all(type(word) is str for word in (point.metric, point.better, point.law, point.role))
    assert all(type(number) in (int, float) and 0 <= number < 2**1000 for number in numbers)
    assert all(type(word) is str for word in (run.code, run.env, run.started, run.reason, run.attempt))


@fixtures
@given(st.data(), st.booleans())
def test_what_was_edited_and_hashed_again_is_refused_or_of_its_types(attempt, data, in_points):
    content = json.loads(attempt[2]["run.json"])
    rows = [json.loads(line) for line in attempt[2]["rows.jsonl"].splitlines()]
    if in_points:
        rows = edited(data, rows)
    else:
        content = edited(data, content)
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode() if isinstance(rows, list) else b""
    content["files"] = content.get("files") if isinstance(content.get("files"), dict) else {}
    content["files"]["rows.jsonl"] = hashlib.sha256(lines).hexdigest()
    schema = content.pop("schema", 2)
    try:
        content["run_key"] = digest(json.dumps({"schema": schema, **content["identity"]}, sort_keys=True))
        sealed = checked.sealed({key: value for key, value in content.items() if key != "seal"})
    except (ValueError, KeyError, TypeError):
        return  # it can't be hashed
    result = reread(attempt, {"run.json": json.dumps({"schema": schema, **sealed}).encode(), "rows.jsonl": lines})
    if not isinstance(result, str):
        sound(result)


@given(st.text(max_size=60) | JSON.map(json.dumps) | st.binary(max_size=30).map(lambda part: part.decode("latin1")))
def test_any_text_as_json(text):
    try:
        value = checked.from_json(text)
    except ValueError as error:
        said(error)
        return
    assert json.dumps(value, allow_nan=False)
    with pytest.raises(ValueError, match=r"Row|line"):
        Row.read([json.dumps(value)])
