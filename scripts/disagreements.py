"""Where published readings of one thing differ, and what it is here: results/disagreements.md.

    python scripts/disagreements.py [NAME ...]                       compute and print these lines, or all
    python scripts/disagreements.py --write results/disagreements.csv    all of them, and the page next to it
    python scripts/disagreements.py --page results/disagreements.csv     the page from the kept values

The readings, each with its source, are in scripts/disagreements.toml. `OURS` has the function that computes what is
known here: a certified truth of a task, a closed form, or a number that anyone can count again. Readings are quoted,
not judged: two densities under one name are both right, and the line says which is which.
"""

from __future__ import annotations

import argparse
import math
import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import softplus

from gwfbench.metrics.density import gaussian_symkl
from gwfbench.plugins import registry
from gwfbench.protocol import Truth
from gwfbench.report.stats import rounded
from gwfbench.rng import Streams

DOUBLE = torch.float64
SEEDS = tuple(range(5))
COMMAND = "python scripts/disagreements.py"
NOT_RUN = "not run"


@dataclass(frozen=True)
class Value:
    """One number that was computed here.

    Args:
        error: its standard error; 0: exact to the digits shown.
        how: what it is, in a few words.
    """

    what: str
    value: float
    error: float
    how: str


@dataclass(frozen=True)
class Disagreement:
    """One line of the page.

    Args:
        name: on the command line.
        title: what is read differently, as a heading.
        finding: one or two sentences, first on the page.
        readings: (value, where it stands).
    """

    name: str
    title: str
    finding: str
    readings: tuple[tuple[str, str], ...]

    def values(self) -> list[Value]:
        """What is known here."""
        return list(OURS[self.name]()) if self.name in OURS else []


def truth_of(spec: str, seeds: tuple[int, ...] = (0,)) -> Truth:
    """The truth of a task."""
    rng = Streams(seeds, dtype=DOUBLE)
    return registry.parse("task", spec).build(rng.fork("task")).truth


def log_z(*specs: str) -> Callable[[], Iterator[Value]]:
    """log Z of these tasks, as their truths have it."""

    def found() -> Iterator[Value]:
        for spec in specs:
            known = truth_of(spec).log_z
            assert known is not None
            yield Value(f"log Z of `{spec}`", float(known[0][0]), float(known[1][0]), "certificate of the task")

    return found


# ---------------------------------------------------------------------------------------------------- computed here


def biased_mmd() -> Iterator[Value]:
    """The root of a squared MMD whose sums within each set have the diagonal, divided by n (n - 1): exact draws."""
    n, rng = 2000, Streams(SEEDS, dtype=DOUBLE)
    truth = truth_of("gmm40:variant=jax", SEEDS)
    assert truth.draw is not None
    x, y = (truth.draw(0, n, rng.fork(name)) for name in ("x", "y"))
    distances = [torch.cdist(a, b).square() for a, b in ((x, x), (y, y), (x, y))]
    width = distances[2].flatten(1).median(1).values[:, None, None]
    xx, yy, xy = ((-part / width).exp().sum((1, 2)) for part in distances)
    found = (xx / (n * (n - 1)) + yy / (n * (n - 1)) - 2 * xy / n**2).sqrt()
    yield spread("two sets of 2000 exact draws, that formula", found, "mean over 5 seeds")
    unbiased = ((xx - n) / (n * (n - 1)) + (yy - n) / (n * (n - 1)) - 2 * xy / n**2) / width.new_tensor(1.0)
    yield spread("the same without the diagonal, squared", unbiased, "mean over 5 seeds; its expectation is 0")
    yield Value("sqrt(2 / (n - 1))", math.sqrt(2 / (n - 1)), 0.0, "what the diagonal adds")


def spread(what: str, values: Tensor, how: str) -> Value:
    """The mean of a number over seeds, with its standard error."""
    return Value(what, float(values.mean()), float(values.std() / math.sqrt(len(values))), how)


def gaussian_energy() -> Iterator[Value]:
    """Energy distance of N(0, 1) and N(1, 1): differences of two draws are N(m, 2), E|N(m, s^2)| in closed form."""

    def absolute(m: float, s: float) -> float:
        return s * math.sqrt(2 / math.pi) * math.exp(-(m**2) / (2 * s**2)) + m * math.erf(m / (s * math.sqrt(2)))

    apart, within = absolute(1.0, math.sqrt(2)), absolute(0.0, math.sqrt(2))
    yield Value("2 E|X - Y| - E|X - X'| - E|Y - Y'|", 2 * apart - 2 * within, 0.0, "N(0, 1) and N(1, 1), closed form")
    yield Value("E|X - Y| - E|X - X'| / 2 - E|Y - Y'| / 2", apart - within, 0.0, "half of it")


def signed_ksd() -> Iterator[Value]:
    """KSD of exact draws of a Gaussian mixture with both signs of the kernel's mixed derivative, width 1."""
    n, rng = 1000, Streams(SEEDS, dtype=DOUBLE)
    truth = truth_of("gmm", SEEDS)
    assert truth.draw is not None
    assert truth.score is not None
    x = truth.draw(0, n, rng.fork("x"))
    score, b, d = truth.score(0, x), 0.5, x.shape[-1]
    apart = x[:, :, None] - x[:, None]
    square = apart.square().sum(-1)
    kernel = (-b * square).exp()
    first = torch.einsum("sid,sjd->sij", score, score)
    cross = 2 * b * (torch.einsum("sid,sijd->sij", score, apart) - torch.einsum("sjd,sijd->sij", score, apart))
    off = 1 - torch.eye(n, dtype=DOUBLE)
    for what, sign in (("textbook, 2 b k - 4 b^2 (x - y)^2 k", -1), ("as coded, 2 b k + 4 b^2 (x - y)^2 k", 1)):
        terms = kernel * (first + cross + 2 * b * d + sign * 4 * b**2 * square)
        found = (terms * off).sum((1, 2)) / (n * (n - 1))
        yield spread(f"squared KSD of 1000 exact draws, {what}", found, "`gmm`, b = 1/2, mean over 5 seeds")


def ou_floor() -> Iterator[Value]:
    """SymKL of the exact JKO sequence, 18 steps of 0.05, from the exact flow at t = 0.9."""
    for d in (2, 8, 32):
        truth = truth_of(f"ou:dim={d}", SEEDS)
        assert truth.jko is not None
        assert truth.moments is not None
        scheme = truth.jko((0.05,) * 18)
        assert scheme.moments is not None
        last = round(0.9 / registry.parse("task", "ou").step) - 1
        found = gaussian_symkl(*scheme.moments(17), *truth.moments(last))
        yield Value(f"d = {d}", float(found.mean()), float(found.std()), "mean and s.d. over 5 targets, closed form")


def barenblatt_mass() -> Iterator[Value]:
    """Mass of the profile whose constant comes from a radius at age 1e-3, m = 2: (beta / t)^q R^(n + 2 q) V."""
    for n, radius in ((3, 0.4), (6, 0.6)):
        beta = 1 / (2 * 2 * (n + 2))
        volume = math.exp(n / 2 * math.log(math.pi) + math.lgamma(2) - math.lgamma(n / 2 + 2))
        yield Value(f"n = {n}, radius {radius}", beta / 1e-3 * radius ** (n + 2) * volume, 0.0, "closed form")


def gmm40_apart() -> Iterator[Value]:
    """How far two densities called GMM-40 are from each other."""
    truths = [truth_of(f"gmm40:variant={name}", SEEDS) for name in ("fab", "jax")]
    n, rng = 4000, Streams(SEEDS, dtype=DOUBLE)
    x, y, z = (truth.draw(0, n, rng.fork(name)) for truth, name in zip((*truths, truths[1]), "xyz", strict=True))  # type: ignore[misc]
    for what, other in (("fab against jax", x), ("jax against itself", z)):
        apart = 2 * torch.cdist(other, y).mean((1, 2))
        within = sum(torch.cdist(a, a).sum((1, 2)) / (n * (n - 1)) for a in (other, y))
        yield spread(f"energy distance of {n} draws, {what}", apart - within, "mean over 5 seeds")


def dw4_square() -> Iterator[Value]:
    """E|x_1 - x_2|^2 of exact draws of DW4."""
    truth = truth_of("dw4", SEEDS)
    assert truth.moments is not None
    _, covariance = truth.moments(0)
    yield Value("mean square of a pair's distance", 4 * float(covariance[0, 0, 0]), 0.0, "quadrature (task `dw4`)")


def brownian_scales() -> Iterator[Value]:
    """Posterior means of the two scales, softplus of the first two coordinates, by exact draws."""
    truth, rng = truth_of("brownian", SEEDS), Streams(SEEDS, dtype=DOUBLE)
    assert truth.draw is not None
    scales = softplus(truth.draw(0, 40_000, rng)[..., :2]).mean(1)
    for i, what in enumerate(("innovation scale", "observation scale")):
        yield spread(f"posterior mean of the {what}", scales[:, i], "5 x 40,000 exact draws (task `brownian`)")


def lj13_depth() -> Iterator[Value]:
    """Energy of the icosahedron of 13 at its best size under both counts of pairs, the oscillator left out."""
    golden = (1 + math.sqrt(5)) / 2
    shell = torch.tensor([
        point for a in (-1.0, 1.0) for b in (-golden, golden) for point in ((0.0, a, b), (a, b, 0.0), (b, 0.0, a))
    ], dtype=DOUBLE)  # fmt: skip
    cluster = torch.cat([torch.zeros(1, 3, dtype=DOUBLE), shell / shell[0].norm()])
    lengths = torch.pdist(cluster)
    sixth, twelfth = float(lengths.pow(-6).sum()), float(lengths.pow(-12).sum())
    least = -(sixth**2) / twelfth  # of s^-12 B - 2 s^-6 A over the size s: at s^6 = B / A
    yield Value("each pair once", least, 0.0, "13 particles, wells of depth 1, closed form")
    yield Value("each pair twice", 2 * least, 0.0, "the same energy at half the temperature")


OURS: dict[str, Callable[[], Iterator[Value]]] = {  # lines without one are not run here
    "lgcp": log_z("lgcp:data=pines126", "lgcp:data=dds127"),
    "credit": log_z("logistic:data=credit", "logistic:data=credit,prior=none"),
    "gmm40": gmm40_apart,
    "mmd": biased_mmd,
    "lj13": lj13_depth,
    "dw4": dw4_square,
    "brownian": log_z("brownian"),
    "brownian_scales": brownian_scales,
    "evidence": log_z("logistic:data=sonar", "logistic:data=ionosphere"),
    "energy": gaussian_energy,
    "ksd": signed_ksd,
    "ou": ou_floor,
    "barenblatt": barenblatt_mass,
}


LINES = tuple(
    Disagreement(line["name"], line["title"], line["finding"], tuple(map(tuple, line["readings"])))
    for line in tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))["line"]
)


# -------------------------------------------------------------------------------------------------------- the page


def computed(lines: Iterable[Disagreement]) -> pd.DataFrame:
    """What these lines' functions give, a row a value."""
    return pd.DataFrame([{"name": line.name, **asdict(value)} for line in lines for value in line.values()])


def shown(value: float, error: float) -> str:
    """A number with as many digits as its error leaves it."""
    if not error:
        return f"{value:.6g}"
    digits = max(0, 1 - math.floor(math.log10(error)))
    if digits > 8:
        return f"{rounded(value)} +- {rounded(error)}"
    return f"{value:.{digits}f} +- {error:.{digits}f}"


def page(found: pd.DataFrame) -> str:
    """Findings first, then each line with its readings."""
    parts = [
        "# Known disagreements",
        "Published readings of one thing that differ, each with its source, and what it is here, with standard error. "
        "They are readings, not mistakes: where two densities share a name, both are right. Made by "
        f"`{COMMAND} --write results/disagreements.csv`; one line again: `{COMMAND} NAME`.",
        "| | what differs | here |\n|:--|:--|:--|",
    ]
    for line in LINES:
        values = found[found["name"] == line.name].to_dict("records")
        here = "; ".join(f"{row['what']}: {shown(row['value'], row['error'])}" for row in values) or NOT_RUN
        parts[-1] += f"\n| [{line.name}](#{anchor(line.title)}) | {line.title} | {here.replace('|', chr(92) + '|')} |"
    for line in LINES:
        values = found[found["name"] == line.name].to_dict("records")
        readings = "\n".join(f"- published: **{value}**, {where}" for value, where in line.readings)
        ours = "\n".join(
            f"- here: **{shown(row['value'], row['error'])}**, {row['what']} ({row['how']})" for row in values
        )
        parts += [f"## {line.title}", line.finding, f"{readings}\n{ours or f'- here: {NOT_RUN}'}"]
        parts += [f"`{COMMAND} {line.name}`"] if ours else []
    return "\n\n".join(parts) + "\n"


def anchor(title: str) -> str:
    """A heading's name in a link, as GitHub makes it."""
    kept = "".join(letter for letter in title.lower() if letter.isalnum() or letter in " -")
    return kept.replace(" ", "-")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="lines to compute; default: all")
    parser.add_argument("--write", type=Path, help="CSV of the values; the page goes next to it")
    parser.add_argument("--page", type=Path, help="CSV of kept values: compute nothing")
    options = parser.parse_args()
    known = [line.name for line in LINES]
    strange = sorted(set(options.names) - set(known))
    if strange:
        parser.error(f"no line {', '.join(strange)}; expected one of {', '.join(known)}")
    if options.write and options.names:
        parser.error(f"--write with {', '.join(options.names)}; expected all lines; leave the names out")
    if options.page:
        options.page.with_suffix(".md").write_text(page(pd.read_csv(options.page)), encoding="utf-8")
        return
    found = computed(line for line in LINES if not options.names or line.name in options.names)
    for row in found.to_dict("records"):
        print(f"{row['name']}: {row['what']}: {shown(row['value'], row['error'])} ({row['how']})")
    if options.write:
        found.to_csv(options.write, index=False, float_format="%.10g")
        options.write.with_suffix(".md").write_text(page(pd.read_csv(options.write)), encoding="utf-8")


if __name__ == "__main__":
    main()
