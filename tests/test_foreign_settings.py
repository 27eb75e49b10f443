"""Runs in this process: what the user has set in torch beforehand changes no number and breaks no method."""

import pytest
import torch

from gwfbench import api
from gwfbench.plugins import registry

TASKS = ("toy2d", "barenblatt:step=0.0025,steps=1")


def small(name):
    """The method at its smoke size, and a task that it fits."""
    cls = registry.find("method", name).load()
    words = ",".join(f"{field}={value}" for field, value in cls.smoke.items())
    method = registry.parse("method", f"{name}:{words}" if words else name)
    task = next(
        task
        for task in TASKS
        if registry.fits(registry.find("task", task.partition(":")[0]), registry.find("method", name))
    )
    return task, registry.spec(method)


def values(task, method):
    rows = api.run(task, method, seeds=1, controls=False, curve=False, isolate=False)
    return rows[["step", "metric", "value", "status", "reason"]].to_dict("records")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(registry.plugins("method")))
def test_a_method_does_not_see_the_user_s_settings(name):
    task, method = small(name)
    plain = values(task, method)
    assert all(row["status"] == "ok" for row in plain)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        assert repr(values(task, method)) == repr(plain)  # nan too
        assert torch.get_default_dtype() is torch.float64  # given back
    finally:
        torch.set_default_dtype(before)
    with torch.inference_mode():
        assert repr(values(task, method)) == repr(plain)
        assert torch.is_inference_mode_enabled()
