"""The rows behind the lines of a paper's page: which runs, of which commits, from which files, at which cost."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gwfbench import escape

if TYPE_CHECKING:
    import pandas as pd

Pairs = Collection[tuple[str, str]]  # task and method
Runs = frozenset[tuple[str, str]]  # run_key and attempt
SHORT = 7  # letters of a commit


@dataclass(frozen=True)
class Behind:
    """The rows of a page.

    Args:
        rows: all of them.
        facts: environments by their hash, where they are known.
        files: the files that the rows are from, as a reader of the page finds them, with the tasks and methods in each.
        asked: the tasks and methods that the page asks for.
    """

    rows: pd.DataFrame
    facts: Mapping[str, Mapping[str, Any]]
    files: Mapping[str, Pairs]
    asked: Pairs
    _parts: dict[tuple[str, str], pd.DataFrame] = field(default_factory=dict)
    _newest: dict[tuple[str, str], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.rows):
            parts: Any = self.rows.groupby(["task", "method"], sort=False)
            self._parts.update({key: part for key, part in parts if key in self.asked})
            newest: Any = self.rows.groupby(["task", "metric"])["metric_version"].max()
            self._newest.update(newest.to_dict())

    def runs(self, pair: tuple[str, str], metric: str) -> Runs:
        """The runs behind a cell, failed ones too; not those whose values are of an older version of the metric."""
        part = self._parts.get(pair)
        if part is None:
            return frozenset()
        old = part[(part["metric"] == metric) & (part["metric_version"] < self._newest.get((pair[0], metric), 0))]
        return _runs(part) - _runs(old)

    def commits(self, pair: tuple[str, str], metric: str) -> str:
        """The commits of these runs, `-` where they are not known."""
        found = self._facts(self._rows([pair], self.runs(pair, metric)), "commit")
        return escape.markdown(" ".join(dict.fromkeys(map(_short, found)))) or "-"

    def cost(self, pairs: Pairs, runs: Runs) -> str:
        """Number and hours of runs, in words."""
        import pandas as pd

        part = self._rows(pairs, runs)
        seconds = pd.to_numeric(part["seconds"])
        others = [pd.to_numeric(part[name]) for name in ("sample_seconds", "judge_seconds") if name in part]
        told = "judge_seconds" in part and bool(part["judge_seconds"].notna().all())
        whole = seconds + sum((other.fillna(0.0) for other in others), 0.0 * seconds)
        took = part.assign(took=whole, seconds=seconds).groupby(["run_key", "attempt"])[["took", "seconds"]].max().sum()
        left = "" if told else "; what judging took is left out where older rows don't say it"
        return (
            f"{len(runs)} runs, {took['took'] / 3600:.2g} hours of one core, {took['seconds'] / 3600:.2g} of them "
            f"training{left}"
        )

    def sources(self, pairs: Pairs) -> list[str]:
        """The files that these rows are from, as links."""
        return [f"[{_named(name)}]({name})" for name, own in self.files.items() if set(pairs) & set(own)]

    def machines(self, pairs: Pairs, runs: Runs) -> list[str]:
        """What the runs were made with and on, a line each."""
        part = self._rows(pairs, runs)
        said = []
        for name, title in (("commit", "commits"), ("cpu", "processors"), ("torch", "torch")):
            found = self._facts(part, name)
            said.append(f"{title}: {', '.join(map(escape.markdown, found))}" if found else "")
        return said

    def _rows(self, pairs: Iterable[tuple[str, str]], runs: Runs) -> pd.DataFrame:
        import pandas as pd

        part = pd.concat([self._parts[pair] for pair in dict.fromkeys(pairs) if pair in self._parts])
        return part[pd.MultiIndex.from_frame(part[["run_key", "attempt"]]).isin(list(runs))]

    def _facts(self, part: pd.DataFrame, name: str) -> list[str]:
        envs = dict.fromkeys(part["env"]) if "env" in part else {}
        known = [self.facts[str(env)] for env in envs if str(env) in self.facts]
        return sorted({str(fact[name]) for fact in known if fact.get(name)})


def _runs(part: pd.DataFrame) -> Runs:
    return frozenset(zip(part["run_key"], part["attempt"], strict=True))


def _short(commit: str) -> str:
    return commit[:SHORT] + ("+" if commit.endswith("+") else "")


def _named(path: str) -> str:
    """A file as one reads it: the folder of a results page, else the path."""
    folder, _, file = path.rpartition("/")
    return folder.removeprefix("../") if file == "rows.csv" and path.startswith("../") else path
