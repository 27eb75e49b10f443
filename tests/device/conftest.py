"""The device of all tests of this folder: that of pretended.py, or with --device cuda a card."""

import importlib.util
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

ONLY_PRETENDED = {  # what counts what is asked of the device, or needs the host's draws on it
    "test_pretended.py": "", "test_launches.py": "", "test_plugins.py": "test_the_device_gives_the_hosts_numbers",
}  # fmt: skip

spec = importlib.util.spec_from_file_location("pretended", Path(__file__).with_name("pretended.py"))
module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look for it there
spec.loader.exec_module(module)


@contextmanager
def card():
    """A card, of which nothing is known but what it raises; float32 is what it says, as in a run."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield module.Seen()


@pytest.fixture
def pretended(request):
    """A context in which device="cuda" works, and that knows what was asked of it."""
    return card if request.config.getoption("--device") == "cuda" else module.pretended


def pytest_collection_modifyitems(config, items):
    if config.getoption("--device") == "pretended":
        return
    for item in items:
        only = ONLY_PRETENDED.get(item.path.name)
        if item.path.parent == Path(__file__).parent and only is not None and item.name.startswith(only):
            item.add_marker(pytest.mark.skip(reason="of the pretended device alone"))
