"""The device of pretended.py, for all tests of this folder."""

import importlib.util
import sys
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("pretended", Path(__file__).with_name("pretended.py"))
module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look for it there
spec.loader.exec_module(module)


@pytest.fixture
def pretended():
    """A context in which device="cuda" works, and that knows what was asked of it."""
    return module.pretended
