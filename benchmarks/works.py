"""What is timed, by name, beside what it took before and what it should take: the lines of `benchmarks/units.py`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks.pieces import Round, Work, bare, command, judged, launches, papers, plain, points, stein, step

BARENBLATT = (
    "vjko:decay=none,start=previous,map=icnn,step=0.0005,iterations=1000,critic_steps=3,pool=512000,map_steps=2,"
    "lr=0.001,depth=2,critic_width=16,critic_depth=4,box=1.5"
)


def _step(task: str, method: str) -> Callable[[float], Round]:
    return partial(step, task, method)


_CPU = "CPU s"
WORKS = {
    "vjko_2": Work(
        "VJKO step, 500 x 3, OU d = 2", _step("ou", "vjko:iterations=500,critic_steps=3,pool=512000"), quick=10,
        authors="50-62", before="31-34", goal="20", bare="bare_2",
    ),
    "vjko_32": Work(
        "VJKO step, 500 x 3, OU d = 32", _step("ou:dim=32", "vjko:iterations=500,critic_steps=3,pool=512000"), quick=10,
        authors="65-84", before="41", goal="28", bare="bare_32",
    ),
    "default_2": Work(
        "VJKO, whole default run, OU d = 2: 18 steps", _step("ou", "vjko"), times=18,
        before="594", goal="108",
    ),
    "gmm_64": Work(
        "GMM d = 64 step, the paper's setting: 1000 iterations, dropout",
        lambda part: step("gmm:dim=64", papers("gmm:dim=64"), part), part=20, quick=100,
        authors="775", before="542", goal="250",
    ),
    "icnn_2": Work(
        "jko_icnn exact, OU d = 2, step", _step("ou", "jko_icnn"), part=2, quick=10,
        authors="454", before="27", goal="20",
    ),
    "icnn_8": Work(
        "jko_icnn exact, OU d = 8, step", _step("ou:dim=8", "jko_icnn"), part=2, quick=10,
        authors="1400", before="51", goal="40",
    ),
    "icnn_13": Work(
        "jko_icnn exact, GMM d = 13, width 512, depth 4, step", _step("gmm:dim=13", "jko_icnn:width=512,depth=4"),
        part=100, quick=250, slow=True, authors="59000", before="8106", goal="1000",
    ),
    "barenblatt_3": Work(
        "Barenblatt d = 3 step, the paper's setting: 1000 iterations",
        lambda part: step("barenblatt:dim=3", papers("barenblatt:dim=3"), part), part=10, quick=50,
        authors="186-270", goal="60",
    ),
    "barenblatt_two": Work(
        "Barenblatt d = 3 step, two layers in the ICNN and four in h, as at 0f65f38",
        _step("barenblatt:dim=3", BARENBLATT), part=10, quick=50, before="192", goal="60",
    ),
    "judge_ou_2": Work(
        "judging a law, ou d = 2", partial(judged, "ou:horizon=0.15", 3), unit=_CPU, before="0.28", goal="0.1"
    ),
    "judge_ou_32": Work(
        "judging a law, ou d = 32", partial(judged, "ou:dim=32,horizon=0.15", 3), unit=_CPU, before="1.8", goal="0.6"
    ),
    "judge_toy2d": Work("judging a law, toy2d", partial(judged, "toy2d", 3), unit=_CPU, before="2.4", goal="0.4"),
    "judge_gmm_2": Work("judging a law, gmm d = 2", partial(judged, "gmm", 3), unit=_CPU, before="2.0", goal="0.4"),
    "judge_images": Work(
        "judging a law, 10,000 images of 28 x 28", partial(judged, "images:data=fashion_mnist", 2), unit=_CPU,
        slow=True, before="25", goal="5",
    ),
    "isolated": Work(
        "600 points cold, trivial plug-in, isolated", partial(points, True, False), unit=_CPU,
        authors="2.3-2.9 (benchopt)", before="20-22", goal="6", slow=True,
    ),
    "in_process": Work(
        "600 points cold, trivial plug-in, not isolated", partial(points, False, False), unit=_CPU,
        authors="2.3-2.9 (benchopt)", before="8", goal="2.5", slow=True,
    ),
    "cached": Work(
        "600 points again, all finished", partial(points, True, True), unit=_CPU,
        authors="1.6-2.3 (benchopt)", before="4.2-5.6", goal="0.5", slow=True,
    ),
    "list": Work("list", partial(command, "list"), unit=_CPU, before="0.7-1.0", goal="0.2"),
    "help": Work("--help", partial(command, "--help"), unit=_CPU, before="0.17", goal="0.15"),
    "launches": Work(
        "an iteration of vjko, OU d = 32, 15 seeds, test device",
        partial(launches, "ou:dim=32", "vjko:critic_steps=3,batch=64,pool=640", 15), unit="launches", before="333",
        goal="180",
    ),
    "ksd_2": Work(
        "KSD of 1e5 points, d = 2", partial(stein, 2, True), part=25, quick=400, before="124", bare="ksd_bare_2"
    ),
    "ksd_64": Work(
        "KSD of 1e5 points, d = 64", partial(stein, 64, True), part=25, quick=400, before="345", bare="ksd_bare_64"
    ),
    "ksd_bare_2": Work(
        "KSD: its two matrix products and exponentials alone, d = 2", partial(stein, 2, False), part=25, quick=400
    ),
    "ksd_bare_64": Work(
        "KSD: its two matrix products and exponentials alone, d = 64", partial(stein, 64, False), part=25, quick=400
    ),
    "plain_2": Work("VJKO step, 500 x 3, OU d = 2, plain eager PyTorch", partial(plain, 2), part=5, quick=25),
    "plain_32": Work("VJKO step, 500 x 3, OU d = 32, plain eager PyTorch", partial(plain, 32), part=5, quick=25),
    "bare_2": Work("VJKO step: the matrix products of the critic alone, d = 2", partial(bare, 2), part=5, quick=25),
    "bare_32": Work("VJKO step: the matrix products of the critic alone, d = 32", partial(bare, 32), part=5, quick=25),
}  # fmt: skip
