"""What a run may spend. How it is counted, and the rule that ends a run, are in drive/meter.py."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from gwfbench.errors import UserError, require


@dataclass(frozen=True)
class Budget:
    """Limits of a run. The driver and the oracles enforce them, and a method may plan with them. None: no limit.

    Args:
        seconds: of training; evaluation is off the clock.
        steps: number of laws yielded.
        score_calls, log_prob_calls, draw_calls: points per seed passed to an oracle.
    """

    seconds: float | None = None
    steps: float | None = None
    score_calls: float | None = None
    log_prob_calls: float | None = None
    draw_calls: float | None = None

    @staticmethod
    def read(text: str) -> Budget:
        """From words: `seconds=60,score_calls=1e6`; empty for no limit.

        Raises:
            UserError: a part is not a known name with a positive number.
        """
        known = [one.name for one in dataclasses.fields(Budget)]
        limits: dict[str, float] = {}
        for part in filter(None, (one.strip() for one in text.split(","))):
            name, _, number = part.partition("=")
            try:
                value = float(number)
            except ValueError:
                value = math.nan
            good = name in known and name not in limits and 0 < value < math.inf
            require(
                good, f"--budget {part}", f"each once and a positive number: {', '.join(known)}", "--budget seconds=60"
            )
            limits[name] = value
        return Budget(**limits)

    @staticmethod
    def of(limits: object) -> Budget:
        """From a mapping with numbers, as a row keeps it.

        Raises:
            UserError: it is not one.
        """
        if not isinstance(limits, dict) or not all(type(value) in (int, float) for value in limits.values()):
            raise UserError(f"budget {limits!r}", "limits by name", 'for example {"seconds": 60}')
        return Budget.read(",".join(f"{name}={value!r}" for name, value in limits.items()))

    def limits(self) -> dict[str, float]:
        """The limits there are, by name."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


class BudgetSpent(BaseException):
    """The budget ended inside a method. Not an `Exception`, so that a method's own `except` can't swallow it.

    Args:
        name: of the limit that was reached, as in `Budget`.
        limit: its value.
    """

    def __init__(self, name: str, limit: float):
        super().__init__(name, limit)
        unit = "s" if name == "seconds" else name.replace("_", " ")
        self.words = f"the budget of {limit:g} {unit} was spent"

    def __str__(self) -> str:
        return self.words
