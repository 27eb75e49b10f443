"""What is read from a file is what was written, or is refused by name."""

import dataclasses
import json
import math

import pytest

from gwfbench.store import checked, record
from gwfbench.store.record import Identity, Row, Run

IDENTITY = Identity("ou", 1, {"dim": 2}, "ula", 1, {"step": 0.1}, 0, "float32", "cpu")
POINT = Row(1, 0.05, "symkl", 1, "lower", "flow", "method", -0.1, None, 10, 1.0, 5, 0, 0, 0.1, 2.0)
RUN = Run(IDENTITY, ("Initial",), "code", "env", "2026-01-01T00:00:00+00:00", {"seconds": 3.0})


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ('{"a": NaN}', "NaN is no JSON number"),
        ("[-Infinity]", "-Infinity is no JSON number"),
        ("[1e999]", "1e999 is no JSON number"),
        ('{"a": 1, "b": 2, "a": 1}', "'a' is there twice"),
        ("[" * 200_000, "nested without end"),
        ("[1", "delimiter"),
        ("1" * 5000, "limit"),
    ],
)
def test_json_proper(text, word):
    with pytest.raises(ValueError, match=word):
        checked.from_json(text)


def test_a_seal_holds_every_value():
    content = {"a": 1, "b": {"c": [0.1, None, "x"]}}
    kept = json.loads(json.dumps(checked.sealed(content)))
    assert checked.unsealed(kept) == content
    for change in ({"a": 2}, {"a": 1.5}, {"b": {"c": [0.1000001, None, "x"]}}, {"new": 0}, {"seal": "0" * 64}):
        with pytest.raises(ValueError, match="has changed"):
            checked.unsealed(kept | change)
    with pytest.raises(ValueError, match="not sealed"):
        checked.unsealed(content)


def plain(run):
    return json.loads(json.dumps(dataclasses.asdict(run)))


def test_runs_round_trip():
    assert Run.read(plain(RUN), [POINT]) == dataclasses.replace(RUN, rows=[POINT])
    assert Row.read([json.dumps(plain(POINT))] * 3) == [POINT] * 3
    assert Row.read([]) == []


def values(hint_of, name):
    """What can't stand in a field of this name."""
    wrong = ["1", [], {}, True, math.nan, math.inf, -math.inf, 2**2000, -(2**2000)]
    hint = str(hint_of[name])
    if name != "value":
        wrong += [-1, -1e-9]
    if "str" in hint:
        wrong = [value for value in wrong if value != "1" or name in ("better", "law", "role")]
    if hint == "int":
        wrong += [0.5, 1.0, None]
    return [*wrong, "\ud800"]


HINTS = {field.name: field.type for field in dataclasses.fields(Row)}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in HINTS for value in values(HINTS, name)])
def test_a_point_s_values_are_of_their_type(name, value):
    with pytest.raises(ValueError, match=f"Row: {name} can't be"):
        checked.all_checked(Row, [plain(POINT), plain(POINT) | {name: value}], record._TESTS)


@pytest.mark.parametrize(
    "change",
    [
        lambda line: line.replace('"step": 1', '"step": 7, "step": 1'),
        lambda line: line.replace('"step": 1', '"step": 1.0'),
        lambda line: line.replace('"step": 1', '"step": true'),
        lambda line: line.replace('"step": 1', '"step": 1e0'),
        lambda line: line.replace('"seconds": 1.0', '"seconds": 1e999'),
        lambda line: line.replace('"seconds": 1.0', '"seconds": NaN'),
        lambda line: line.replace('"step": 1, ', ""),
        lambda line: line[:-1] + ', "more": 1}',
        lambda line: line[:-1],
        lambda line: f"{line}, {line}",
        lambda line: f"[{line}]",
        lambda line: "",
        lambda line: "1",
        lambda line: '{"a": ' * 100_000 + "}",
    ],
    ids=range(14),
)
def test_a_line_is_as_it_was_written_or_refused(change):
    line = json.dumps(plain(POINT))
    assert Row.read([line, line]) == [POINT, POINT]
    assert change(line) != line
    with pytest.raises(ValueError, match=r"twice|Row|JSON|Expecting|Extra|delimiter"):
        Row.read([line, change(line)])


def test_lines_that_are_whole_only_together_are_refused():
    for lines in (
        ['{"a": 1}, "b", {"c": 2}', '{"a": 1}', '{"a": 1}, {"a": 1}'],
        ['{"a": 1}, {"a": 1}', ""],
        ['{"a": {"b": 1}', '"c": 2}, {"a": 1}'],
        ['{"a": {"b": 1}', '{"c": 2}}'],
    ):
        with pytest.raises(ValueError, match=r"Extra|Expecting|delimiter"):
            checked.from_lines(lines)


@pytest.mark.parametrize("line", ['{"a": {"b": 1}}', '{"a":1}', '{"a": "x\\": y"}', ' {"a": 1}', '{"a": 1e100}', "{}"])
def test_other_spellings_of_an_object_are_read_line_by_line(line):
    assert checked.from_lines([line, '{"a": 2}']) == [json.loads(line), {"a": 2}]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"status": "fine"}, "Run: status can't be 'fine'"),
        ({"status": "error"}, "status error without a reason"),
        ({"seconds": -1.0}, "seconds"),
        ({"seconds": "1"}, "seconds"),
        ({"steps": 1.5}, "steps"),
        ({"batch": 0}, "batch"),
        ({"started": "yesterday"}, "started"),
        ({"budget": {"seconds": 0}}, "budget"),
        ({"budget": {"seconds": math.nan}}, "budget"),
        ({"budget": [60]}, "budget"),
        ({"information": "Initial"}, "information"),
        ({"information": [1]}, "information"),
        ({"identity": None}, "Identity: its fields"),
        ({"identity": plain(RUN)["identity"] | {"seed": -1}}, "Identity: seed can't be -1"),
        ({"identity": plain(RUN)["identity"] | {"seed": True}}, "Identity: seed can't be True"),
        ({"identity": plain(RUN)["identity"] | {"dtype": "float8"}}, "Identity: dtype"),
        ({"identity": plain(RUN)["identity"] | {"task_fields": [1]}}, "Identity: task_fields"),
        ({"identity": plain(RUN)["identity"] | {"task_version": 0}}, "Identity: task_version"),
        ({"extra": 1}, "the difference is 'extra'"),
    ],
)
def test_a_run_s_values_are_of_their_type(change, word):
    with pytest.raises(ValueError, match=word):
        Run.read(plain(RUN) | change, [])


NEWER = {"judge": (), "unit": None, "memory": None, "energy": None}
NEEDED = [field.name for field in dataclasses.fields(Run) if field.name not in ("rows", *NEWER)]


def test_a_run_of_before_some_values_were_written_is_a_whole_one():
    content = {name: value for name, value in plain(RUN).items() if name not in NEWER}
    run = Run.read(content, [])
    assert {name: getattr(run, name) for name in NEWER} == NEWER


@pytest.mark.parametrize("name", ["unit", "memory", "energy"])
@pytest.mark.parametrize("value", ["1", -1, True])
def test_what_the_machine_gave_is_a_number_or_nothing(name, value):
    with pytest.raises(ValueError, match=name):
        Run.read(plain(RUN) | {name: value}, [])


@pytest.mark.parametrize("name", NEEDED)
def test_no_value_of_a_run_may_be_missing(name):
    content = plain(RUN)
    del content[name]
    with pytest.raises(ValueError, match="Identity" if name == "identity" else f"the difference is '{name}'"):
        Run.read(content, [])
