"""Attacks on the runner and the command line: what breaks is a fault. `make test-hostile` runs them."""

from pathlib import Path

import pytest


def pytest_collection_modifyitems(items):
    """All tests of this folder, and no others: the hook sees those of other folders too."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.hostile)
            item.add_marker(pytest.mark.slow)
