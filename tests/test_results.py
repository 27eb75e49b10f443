"""The committed results: every page is what its rows give, and its rows are known tasks, methods and papers."""

from pathlib import Path

import pytest

from gwfbench.plugins import registry
from gwfbench.report import pages, rows

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_every_page_is_what_its_rows_give():
    assert list(pages.differences(pages.all_made(ROOT / "results"))) == []


@pytest.mark.parametrize("path", rows.files(ROOT / "results"), ids=lambda path: path.parent.name)
def test_rows_are_of_tasks_and_methods_that_can_be_typed(path):
    points, facts = rows.read(path)
    for kind in ("task", "method"):
        for text in set(points[kind]) - set(registry.CONTROLS):
            assert registry.parse(kind, text) is not None
    assert set(points["env"]) <= set(facts)
    assert points["code"].notna().all()
