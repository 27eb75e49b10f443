"""gwfbench: benchmark and reproducibility suite for Wasserstein gradient flows.

>>> import gwfbench
>>> rows = gwfbench.run("ou:dim=2", "ula", seeds=3)  # a DataFrame, one row per judged (seed, time, metric)
>>> board = gwfbench.leaderboard(rows)

`tasks()`, `methods()` and `metrics()` list what there is; `task(spec)` and `method(spec)` give one, configured;
`load(out)` reads the rows of finished runs. What a plug-in imports is in `gwfbench.protocol` and next to it.
"""

from importlib import import_module as _import_module
from pathlib import Path as _Path
from types import ModuleType as _ModuleType
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

__version__ = "0.2.0"
__all__ = ["Streams", "UserError", "leaderboard", "load", "method", "methods", "metrics", "run", "task", "tasks"]

# In a checkout, gwfbench.tasks and gwfbench.baselines are the folders next to this one.
if (_Path(__file__).parents[1] / "pyproject.toml").is_file():
    __path__.append(str(_Path(__file__).parents[1]))

if _TYPE_CHECKING:
    from gwfbench.api import load, method, methods, metrics, run, task, tasks
    from gwfbench.errors import UserError
    from gwfbench.report.board.leaderboard import leaderboard
    from gwfbench.rng import Streams

# Loaded on first use: `python -m gwfbench list` must not pay for torch and pandas.
_PUBLIC = {
    "Streams": "rng",
    "UserError": "errors",
    "leaderboard": "report.board.leaderboard",
    **dict.fromkeys(("load", "method", "methods", "run", "task"), "api"),
}


class _Tasks(_ModuleType):
    """The package of the tasks; called, it lists them: `gwfbench.tasks()`."""

    def __call__(self) -> dict[str, str]:
        from gwfbench.api import tasks

        return tasks()


_import_module("gwfbench.tasks").__class__ = _Tasks


def __getattr__(name: str) -> _Any:
    if name == "metrics":  # the package; called, it lists the metrics
        return _import_module("gwfbench.metrics")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'gwfbench' has no attribute {name!r}; public names: {', '.join(__all__)}")
    return getattr(_import_module(f"gwfbench.{_PUBLIC[name]}"), name)
