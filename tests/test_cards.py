"""What the command finds out about GPUs without a place on them, by a driver that is not there."""

import ctypes
from types import SimpleNamespace

import pytest
import torch

import gwfbench
from gwfbench.runs.order import read_device
from gwfbench.store import environment


def libcuda(*cards, code=0):
    """The driver with these cards, or with an error code."""

    def get(device, number):
        if number >= len(cards):
            return 101
        device._obj.value = 10 + number
        return 0

    def name_of(name, length, device):
        name.value = cards[device.value - 10].encode()[: length - 1]
        return 0

    return SimpleNamespace(cuInit=lambda _: code, cuDeviceGet=get, cuDeviceGetName=name_of)


@pytest.fixture
def driver(monkeypatch):
    """A function that puts a driver there, or none."""

    def put(found):
        def load(name):
            assert name == "libcuda.so.1"
            if found is None:
                raise OSError("no such file")
            return found

        monkeypatch.setattr(ctypes, "CDLL", load)

    return put


def never(*_):
    raise AssertionError("this would start CUDA")


def test_a_card_is_named_by_the_driver(driver):
    driver(libcuda("NVIDIA A", "NVIDIA B"))
    assert [environment.card(number) for number in (0, 1, 2)] == ["NVIDIA A", "NVIDIA B", ""]
    driver(libcuda("NVIDIA A", code=100))
    assert environment.card(0) == ""
    for none in (None, object()):
        driver(none)
        assert environment.card(0) == ""


def test_the_environment_of_a_card_starts_no_cuda(driver, monkeypatch):
    driver(libcuda("NVIDIA A", "NVIDIA B"))
    monkeypatch.setattr(torch.cuda, "get_device_name", never)
    facts = environment.environment.__wrapped__("cuda:1", 1)
    assert facts["device"] == "NVIDIA B"
    assert facts["tf32"].keys() == {"matmul", "cudnn"}
    assert facts["deterministic"] is False
    assert environment.environment.__wrapped__("cuda", 1)["device"] == "NVIDIA A"
    assert not {"tf32", "deterministic"} & environment.environment.__wrapped__("cpu", 1).keys()
    assert not torch.cuda.is_initialized()


def test_a_device_is_counted_not_used(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "empty", never)
    assert [read_device(name) for name in ("cpu:0", "cuda", "cuda:1")] == ["cpu", "cuda", "cuda:1"]
    with pytest.raises(gwfbench.UserError, match="--device cuda:2: this ") as told:
        read_device("cuda:2")
    assert told.value.expected == "one of cpu, cuda:0, cuda:1"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(gwfbench.UserError, match="--device cuda: this ") as told:
        read_device("cuda")
    assert told.value.expected == "one of cpu"
