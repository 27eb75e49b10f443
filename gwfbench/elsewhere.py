"""Where else metrics are: names of modules that have some, by whoever knows of them. It imports nothing.

`gwfbench.metrics` is below the plug-ins and can't ask them, and plug-ins are found without torch, which metrics need.
So `plugins/single.py` leaves word here.
"""

from collections.abc import Callable

METRICS: list[Callable[[], list[str]]] = []
