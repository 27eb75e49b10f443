"""The numbers of the findings in results/README.md, computed from the rows, with the command that makes those rows.

    python scripts/findings.py [NUMBER ...]

A test holds each number against the text of its finding.
"""

from __future__ import annotations

import csv
import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd

from gwfbench.plugins import registry
from gwfbench.report import rows as kept_rows
from gwfbench.report import stats
from gwfbench.report.board import suites
from gwfbench.report.board.cells import last_laws
from gwfbench.report.board.leaderboard import boards
from gwfbench.suites import suite as of_toml

RESULTS = Path(__file__).parents[1] / "results"
Numbers = dict[str, str]  # as the README prints them, by what they are


@dataclass(frozen=True)
class Finding:
    """A finding: its numbers, and the command that makes the rows that they are of."""

    about: str
    run: str
    numbers: Callable[[], Numbers]


@cache
def rows(folder: str) -> pd.DataFrame:
    """All rows of a folder of results."""
    return kept_rows.read(RESULTS / folder / "rows.csv")[0]


def last(folder: str, metric: str, task: str = "", method: str = "", seeds: int = 0) -> pd.DataFrame:
    """The rows of each run's last law, of one metric, on a task, of methods whose name begins so."""
    found = last_laws(rows(folder))
    kept = found["metric"].str.startswith(metric) & found["method"].str.startswith(method)
    found = found[kept & (found["task"] == task if task else True)]
    return found[found["seed"] < seeds] if seeds else found


def median(folder: str, metric: str, task: str, method: str, seeds: int = 0) -> float:
    """The median over seeds of a method's last law."""
    found = last(folder, metric, task, method, seeds)
    if len(set(found["method"])) != 1:
        raise ValueError(f"{folder}, {task}: {len(set(found['method']))} methods {method}, expected one")
    return float(found["value"].median())


@cache
def board(name: str) -> dict[str, suites.Entry]:
    """The methods of a suite by name, with their scores and tiers."""
    suite = of_toml.load(name)
    return {one.name: one for one in suites.entries(suites.of_suite(rows(name), suite), suite)}


def short(value: float, digits: int = 2) -> str:
    """A number as the README prints it."""
    return f"{value:.{digits}g}" if value < 1e4 else f"{value:.1e}".replace("e+0", "e")


def learnt_against_smc() -> Numbers:
    """Pairs of a learnt method and a metric that can be told from smc at equal calls, as the page counts them; error of
    smc's log Z of the Cox process with 64 temperatures."""
    page = (RESULTS / "sampling/leaderboard.md").read_text(encoding="utf-8")  # a test holds it against its rows
    found = re.search(r"Of (\d+) pairs of a learnt method .*?, (\d+) are worse than `smc`, (\w+)", page)
    if not found or "No learnt method beats `smc`" not in page:
        raise ValueError("results/sampling/leaderboard.md no longer says that no learnt method beats smc")
    cox = median("studies/evidence", "log_z", "lgcp:data=dds127", "smc:particles=2000,temperatures=64,")
    return {"pairs": found[1], "worse": found[2], "better": found[3], "Cox process": short(cox)}


def calls_of_chains() -> Numbers:
    """Oracle calls, those of the judged points with them, over four tasks."""
    entries = board("sampling-small")
    chains = sorted(entries[name].calls for name in ("nuts", "mala", "ula"))
    return {"least": f"{chains[0] / 1e6:.0f}", "most": f"{chains[-1] / 1e6:.0f} million"}


def errors_of_log_z() -> Numbers:
    """Estimates within three of their standard errors, of targets with 20 seeds; errors on the funnel."""
    found = last("studies/log_z", "log_z")
    ratio = (found["value"].abs() / found["se"]).groupby(found["task"])
    right = [task for task, own in ratio if len(own) == 20 and (own < 3).mean() > 0.9]
    funnel = found[found["task"] == "funnel"]
    times = math.sqrt((funnel["value"] ** 2).mean()) / funnel["se"].median()
    of = sum(len(own) == 20 for _, own in ratio)
    return {"right": f"{len(right)} of {of} targets", "too small": f"{times:.0f} times"}


def disagreements() -> Numbers:
    """The certified log Z of the two readings of the Cox process."""
    with (RESULTS / "disagreements.csv").open(encoding="utf-8") as file:
        log_z = [float(line["value"]) for line in csv.DictReader(file) if line["name"] == "lgcp"][:2]
    lines = (RESULTS / "disagreements.md").read_text(encoding="utf-8").count("\n## ")
    return {"nats": f"{abs(log_z[1] - log_z[0]):.1f}", "disagreements": str(lines)}


def particles_and_generators() -> Numbers:
    """Methods with the best letter, and generators among them."""
    entries = board("particles-2d")
    best = {name for name, one in entries.items() if "a" in one.tier}
    generators = {"gan", "gwf", "sjko", "jko_flow", "drifting"}
    if best & generators or not best:
        raise ValueError(f"best letter: {', '.join(sorted(best))}")
    return {
        "that move particles": f"{len(set(entries) - generators)} methods",
        "generators": f"{len(generators)} generators",
    }


def box_and_ellipsoid() -> Numbers:
    """By what factor an ellipsoid has a smaller Jensen-Shannon divergence than the paper's box, at dimension 6; KSD of
    vjko on a mixture in 64 dimensions, least and largest, at a setting of ours and at a cut of the paper's."""
    found = last("studies/barenblatt", "jsd", "barenblatt:dim=6,step=0.0025,steps=10", "vjko", 5)
    box = found["method"].str.contains("box=")
    factor = found[box]["value"].median() / found[~box]["value"].median()
    ranges = {}
    for setting in ("vjko@mixture", "vjko@gmm64-quick"):
        ksd = last("studies/gmm_density", "ksd", "gmm:dim=64", registry.canonical("method", setting))["value"]
        ranges[f"KSD of {setting}"] = f"{short(ksd.min())} to {short(ksd.max())}"
    return {"factor": f"{factor:.0f}", **ranges}


def posteriors() -> Numbers:
    """Oracle calls of mala next to those of a Gaussian; what a mu that follows the map does for vjko."""
    entries = board("posteriors")
    ratio = entries["mala"].calls / entries["gaussian_vi"].calls
    if (
        not entries["mala"].score
        < entries["gaussian_vi"].score
        < min(entries[x].score for x in ("svgd", "ula", "blob"))
    ):
        raise ValueError("mala, gaussian_vi, the others: no longer in this order")
    found = last("studies/blr", "energy_distance", method="vjko")
    found = found[~found["task"].str.contains("posterior=") & ~found["method"].str.contains("previous")]
    follows = found["method"].str.contains("follow=")
    before, after = (found[kept].groupby("task")["value"].median() for kept in (~follows, follows))
    gain = (before / after).sort_values()  # image, which is told apart, has the least
    if "image" not in str(gain.index[0]) or gain.isna().any():
        raise ValueError(f"vjko@posterior: no longer so that image gains least: {gain}")
    return {
        "calls of mala": f"{ratio:.0f} times",
        "energy distance of vjko": f"{math.floor(gain.iloc[1])} times",
        "sets": f"{len(gain) - 1} of {len(gain)} sets",
        "on image": f"{gain.iloc[0]:.2g} times",
    }


def proximal_term() -> Numbers:
    """FID on digits without the proximal term, as a multiple of that with it: slow critic, and one that keeps up."""
    slow = [
        median("studies/images", "fid", "images", f"gwf:{step}steps=10,iterations=400") for step in ("step=inf,", "")
    ]
    table = last("studies/critic", "fid", "images", "gwf").pivot_table(index="seed", columns="method", values="value")
    without = next(name for name in table if "step=inf" in name)
    ratio, half = stats.paired(
        {seed: math.log(row[without] / row.drop(without).item()) for seed, row in table.iterrows()}
    )
    page = (RESULTS / "studies/proximal/leaderboard.md").read_text(encoding="utf-8")  # a test holds it against its rows
    plane = page.partition("`step=inf` does to w2\n")[2].partition("| all of them")[2].split("|")[2]  # moons
    low, high = math.exp(ratio - half), math.exp(ratio + half)
    return {
        "slow critic": f"{slow[0] / slow[1]:.0f} times",
        "one that keeps up": f"{math.exp(ratio):.2f} times",
        "95 % interval": f"{low:.2f} to {high:.1f}",
        "moons": f"{100 * (float(plane.split()[1]) - 1):.0f} %",
    }


def shares() -> Numbers:
    """W2 of drifting's printed field from the target's points with wrong weights, and of not moving."""
    task = "two_points:start=0.05,start_share=0.9"
    return {name: short(median("studies/drifting", "w2", task, name), 3) for name in ("drifting", "still")}


def held_for_other_reasons() -> Numbers:
    """By what factor exact JKO steps are as far from ou's flow as vjko; two methods on one density."""
    steps, found = (last("studies/ou_paper", "symkl", method=name) for name in ("exact_jko", "vjko"))
    found = found[found["method"].str.contains("map=prelu") & found["task"].str.contains("dim=")]
    solver, scheme = (one[one["metric"] == "symkl"].groupby("task")["value"].median() for one in (found, steps))
    ratio = (scheme / solver).dropna()
    dims = sorted(int(task.partition("dim=")[2]) for task in ratio.index)
    image = "blr:data=image,posterior=authors"
    return {
        "scheme and solver": f"{ratio.min():.2f} to {ratio.max():.1f} times",
        "dimensions": f"n = {dims[0]} to {dims[-1]}",
        **{name: f"{median('studies/blr', 'log_likelihood', image, name):.3f}" for name in ("svgd", "vjko")},
    }


def fid_fooled() -> Numbers:
    """On CIFAR-10 (JPEG copies): FID of drifting in pixels over that in the features of an encoder, which is noise; and
    of the training images by a protocol that does not see that they are learnt by heart, by scripts/protocols.py. On
    Fashion-MNIST: two generators that FID and KID order differently, both telling them apart."""
    found = last("studies/cifar10_jpeg", "fid", method="drifting")
    features = found["method"].str.contains("features=encoder")
    ratio = found[~features]["value"].median() / found[features]["value"].median()
    page = (RESULTS / "studies/cifar10_jpeg/README.md").read_text(encoding="utf-8")
    line = next(line for line in page.splitlines() if line.startswith("| training images, by heart | 0.000"))
    numbers = {"pixels": f"{ratio:.1f} times", "by heart, fid_10k_5k": line.split("|")[-2].split()[0]}
    garments = rows("images-small")[rows("images-small")["task"] == "images:data=fashion_mnist"]
    for metric, first in (("fid", "drifting"), ("kid", "gan")):
        (name,) = (one for one in garments["metric"].dropna().unique() if one.startswith(f"{metric}_"))
        (board,) = boards(garments, [name])
        two = {one: next(line for line in board.lines if line.method.startswith(one)) for one in ("drifting", "gan")}
        if two[first].tier != "a" or sorted(line.tier for line in two.values()) != ["a", "b"]:
            raise ValueError(f"{name}: {first} is no longer told to be the best")
        values = (short(two[one].cells[name].value, 3 if metric == "kid" else 2) for one in two)
        numbers[f"{metric} of drifting and gan"] = " and ".join(values)
    return numbers


RUN = "python -m gwfbench run"
FINDINGS = (
    Finding("learnt samplers", f"{RUN} --suite sampling; {RUN} --task lgcp:data=dds127 --seeds 3 --no-curve "
            "--judge log_z --method smc:particles=2000,temperatures=64,moves=1,after=0", learnt_against_smc),
    Finding("calls of chains", f"{RUN} --suite sampling-small", calls_of_chains),
    Finding("error bars of log Z", "results/studies/log_z/README.md has it", errors_of_log_z),
    Finding("log-Gaussian Cox", "python scripts/disagreements.py", disagreements),
    Finding("the plane", f"{RUN} --suite particles-2d", particles_and_generators),
    Finding("box", "results/studies/barenblatt/README.md and results/studies/gmm_density/README.md have it",
            box_and_ellipsoid),
    Finding("posteriors", f"{RUN} --suite posteriors; results/studies/blr/README.md has that of vjko", posteriors),
    Finding("held for other reasons", "results/studies/ou_paper/README.md and results/studies/blr/README.md have it",
            held_for_other_reasons),
    Finding("proximal term", f"sh results/studies/images/run.sh; {RUN} --task images --method gwf@mnist-quick "
            "--method gwf@mnist-quick:step=inf --seeds 5 --no-curve", proximal_term),
    Finding("shares", "results/studies/drifting/README.md has it", shares),
    Finding("FID fooled", "sh results/studies/cifar10_jpeg/run.sh; python scripts/protocols.py cifar10_jpeg; "
            f"{RUN} --suite images-small", fid_fooled),
)  # fmt: skip


def main() -> None:
    """Prints each finding's numbers."""
    wanted = {int(text) for text in sys.argv[1:]} or set(range(1, len(FINDINGS) + 1))
    for number, finding in enumerate(FINDINGS, 1):
        if number in wanted:
            said = ", ".join(f"{what}: {value}" for what, value in finding.numbers().items())
            print(f"{number}. {finding.about}: {said}\n   {finding.run}")


if __name__ == "__main__":
    main()
