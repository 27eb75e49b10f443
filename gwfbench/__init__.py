"""gwfbench: benchmark and reproducibility suite for Wasserstein gradient flows.

>>> import gwfbench
>>> points = gwfbench.run("ou:dim=2", "vjko", seeds=3)    # tidy pandas.DataFrame, one row a judged (seed, time, metric)
>>> gwfbench.leaderboard(points)
"""

from pathlib import Path as _Path
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

__version__ = "0.1.0"
__all__ = ["UserError", "leaderboard", "run"]

# In a checkout, gwfbench.tasks and gwfbench.baselines are the folders beside this one.
if (_Path(__file__).parents[1] / "pyproject.toml").is_file():
    __path__.append(str(_Path(__file__).parents[1]))

if _TYPE_CHECKING:
    from gwfbench.api import run
    from gwfbench.errors import UserError
    from gwfbench.report.board.leaderboard import leaderboard

# Loaded on first use: `python -m gwfbench list` must not pay for torch and pandas.
_PUBLIC = {"run": "api", "leaderboard": "report.board.leaderboard", "UserError": "errors"}


def __getattr__(name: str) -> _Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'gwfbench' has no attribute {name!r}; public names: {', '.join(__all__)}")
    from importlib import import_module

    return getattr(import_module(f"gwfbench.{_PUBLIC[name]}"), name)
