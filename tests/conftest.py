import cProfile
import os
import signal
import subprocess
import sys
import tempfile

os.environ["OMP_NUM_THREADS"] = "1"  # read where torch and NumPy are loaded, here and in the processes that tests start

import pytest
import torch
from hypothesis import settings
from torch.utils._python_dispatch import TorchDispatchMode

from gwfbench.cli import main
from gwfbench.process.inline import Here
from gwfbench.rng import Streams
from gwfbench.runs import scheduler

_cache = tempfile.TemporaryDirectory()  # the user's own is left alone
os.environ["XDG_CACHE_HOME"] = _cache.name
torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with it ignored
settings.register_profile("short", max_examples=30, derandomize=True, deadline=None, database=None)
settings.register_profile("long", max_examples=1300, deadline=None, database=None)
settings.load_profile("short")


def pytest_addoption(parser):
    parser.addoption(
        "--device", choices=("pretended", "cuda"), default="pretended", help="what tests/device runs on: cuda is a card"
    )


@pytest.fixture(autouse=True)
def one_thread():
    """For the next test, whatever a plug-in of this one has set: two that spin on a busy core take a hundred times as long."""
    yield
    torch.set_num_threads(1)


@pytest.fixture
def streams():
    """Three seeds in float64 on the CPU."""
    return Streams((3, 5, 8), dtype=torch.float64)


@pytest.fixture
def one_process(monkeypatch):
    """Runs in this process, where what a test patches is seen."""
    monkeypatch.setattr(scheduler, "Pool", lambda limits: Here(limits.threads))


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    """The command line, --out in a folder of the test's own; gives exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["gwfbench", *words])
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        done = capsys.readouterr()
        return code, done.out, done.err

    return call


@pytest.fixture
def calls():
    """How many function calls a call makes, those of C included: work, whatever the machine."""

    def count(function, *args):
        profile = cProfile.Profile()
        profile.runcall(function, *args)
        return sum(entry.callcount for entry in profile.getstats())

    return count


class Largest(TorchDispatchMode):
    """Remembers the bytes of the largest tensor that any operation made."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for made in out if isinstance(out, tuple | list) else (out,):
            if isinstance(made, torch.Tensor) and func is not torch.ops.aten.expand.default:
                self.bytes = max(self.bytes, made.numel() * made.element_size())
        return out


@pytest.fixture
def largest():
    """A context that knows, in `bytes`, the largest tensor made in it."""
    return Largest


@pytest.fixture
def no_files(monkeypatch):
    """No single files as plug-ins before the test, nor after it, in a test that names some in this process."""
    from gwfbench.plugins import registry, single

    def forget():
        registry.plugins.cache_clear()
        for name in [name for name in sys.modules if name.partition(".")[0] == single.HOME]:
            del sys.modules[name]

    monkeypatch.setenv(single.FILES, "")
    forget()
    yield
    monkeypatch.setenv(single.FILES, "")
    forget()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder for all tests of a module."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def elsewhere(home):
    """The command line in a process of its own, in `home`; gives exit code, stdout, stderr.

    `path` is a folder of more packages.
    """

    def call(*words, path=""):
        paths = os.pathsep.join(filter(None, [path, os.environ.get("PYTHONPATH", "")]))
        command = [sys.executable, "-m", "gwfbench", *map(str, words)]
        env = os.environ | {"PYTHONPATH": paths}
        done = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False, env=env)
        return done.returncode, done.stdout, done.stderr

    return call
