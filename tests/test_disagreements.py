"""The page of known disagreements: it is what its values give, and the values can be had again."""

import importlib.util
import math
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("disagreements", ROOT / "scripts/disagreements.py")
disagreements = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(disagreements)
KEPT = pd.read_csv(ROOT / "results/disagreements.csv")
COMPUTED = [line for line in disagreements.LINES if line.name in disagreements.OURS]


def test_the_page_is_what_the_values_give():
    assert (ROOT / "results/disagreements.md").read_text(encoding="utf-8") == disagreements.page(KEPT)


@pytest.mark.parametrize("line", COMPUTED, ids=lambda line: line.name)
def test_a_value_comes_out_again(line):
    kept = KEPT[KEPT["name"] == line.name].to_dict("records")
    found = line.values()
    assert [row["what"] for row in kept] == [value.what for value in found]
    for row, value in zip(kept, found, strict=True):
        assert math.isclose(row["value"], value.value, rel_tol=1e-6, abs_tol=max(value.error / 100, 1e-9))


def test_every_line_has_two_readings_with_sources():
    assert len({line.name for line in disagreements.LINES}) == len(disagreements.LINES)
    assert set(disagreements.OURS) <= {line.name for line in disagreements.LINES}
    for line in disagreements.LINES:
        assert len(line.readings) >= 2
        assert all(value and where for value, where in line.readings)


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [(501.8123, 0.0123, "501.812 +- 0.012"), (-44.3268014, 0.0, "-44.3268"), (1.2345e-7, 2e-8, "1.23e-07 +- 2e-08"), (5.0, 20.0, "5 +- 20")],
)  # fmt: skip
def test_digits_follow_the_error(value, error, text):
    assert disagreements.shown(value, error) == text
