"""Make docs/gallery: one short animation per method, of points that a run has kept, and captions.toml about them.

    python scripts/gallery.py                 run what is not finished in results/runs/gallery, then draw all
    python scripts/gallery.py --method ula    only this method (repeatable)

All methods start from N(0, I) and move to the checkerboard of toy2d, seed 0; porous_particles, which needs an internal
energy, flows on aggregation_diffusion. Each frame is a judged law, 500 of its points over draws of the truth. Settings
are defaults, or cut where these take minutes (CUT says so, and the captions do). It takes about 10 minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gwfbench.plugins import registry
from gwfbench.report import kept_points
from gwfbench.report.figures.style import looks
from gwfbench.report.kept_points import Draws
from gwfbench.store import folders

ROOT = Path(__file__).parents[1]
TASK, HALF = "toy2d:shape=checkerboard", 1.6  # half the side of the square that is seen
ELSEWHERE = {"porous_particles": ("aggregation_diffusion", 3.4)}
CUT = {  # settings that are no defaults, and why
    "dds": ("iterations=300,every=20", "300 of 1000 iterations, for time"),
    "drift_density": ("steps=500", "500 of 1000 steps, for time"),
    "drifting": ("steps=1000", "1000 of 2000 steps, for time"),
    "gan": ("iterations=1000,every=50", "1000 of 2500 iterations, for time; a law every 50"),
    "gaussian_vi": ("step=0.002", "a smaller step: the default diverges on squares with such sharp edges"),
    "gwf": ("steps=10,iterations=100", "10 steps of 100 iterations for 5 of 500, for time"),
    "jko_flow": ("iterations=60,critic_steps=3", "60 of 500 iterations per step, for time"),
    "jko_icnn": (
        "step=0.005,steps=25,iterations=100,pool=32768",
        "short steps for sharp edges, 100 iterations, for time",
    ),
    "pis": ("iterations=300,every=20", "300 of 1000 iterations, for time"),
    "sjko": ("steps=10,iterations=60", "10 steps of 60 iterations for 5 of 500, for time"),
    "vjko": ("step=0.02,steps=20,iterations=150,pool=65536", "20 short steps of 150 iterations, for time"),
}
SIZE, SCALE = 256, 3  # pixels; drawn larger by SCALE, then reduced
POINTS, RADIUS = 500, 1.9
TRUTH = 200_000  # draws behind the points
GROUND, INK = (17, 24, 39), (226, 232, 240)
FRAME, LAST = 160, 1600  # milliseconds
QUALITIES = (60, 45, 30)  # the first that gives a file of at most MOST bytes, or the last
MOST = 120_000


def task_of(method: str) -> tuple[str, float]:
    """The task that a method is shown on, and half the side of what is seen."""
    return ELSEWHERE.get(method, (TASK, HALF))


def spec(method: str) -> str:
    """The method as one types it."""
    return f"{method}:{CUT[method][0]}" if method in CUT else method


def run(methods: Sequence[str], out: Path) -> None:
    """Run what is not finished, by the command line."""
    for task in dict.fromkeys(task_of(method)[0] for method in methods):
        chosen = [spec(method) for method in methods if task_of(method)[0] == task]
        words = [word for name in chosen for word in ("--method", name)]
        command = [
            "run",
            "--task",
            task,
            *words,
            "--seeds",
            "1",
            "--no-controls",
            "--judge",
            "sliced_w2",
            "--out",
            str(out),
        ]
        subprocess.run([sys.executable, "-m", "gwfbench", *command], cwd=ROOT, check=True)


def frames(draws: Draws, half: float, colour: str) -> list[Image.Image]:
    """A picture of each law, the draws of P_0 before it where its points are moved from there."""
    start, truth = kept_points.ends(draws.run, TRUTH)
    laws = [("start", start)] * draws.run.paired + list(zip(draws.times, draws.laws, strict=True))
    ground = _ground(truth, half)
    return [_frame(ground, points, half, colour, text, i / (len(laws) - 1)) for i, (text, points) in enumerate(laws)]


def _ground(truth: np.ndarray | None, half: float) -> Image.Image:
    """Draws of the truth as a light on the ground."""
    side = 96
    shade = np.zeros((side, side))
    if truth is not None:
        shade, _, _ = np.histogram2d(-truth[:, 1], truth[:, 0], bins=side, range=[[-half, half], [-half, half]])
        shade = np.minimum(shade / np.quantile(shade[shade > 0], 0.8), 1.0)
    mask = Image.fromarray((70 * shade).astype(np.uint8)).resize((SIZE * SCALE, SIZE * SCALE), Image.Resampling.BICUBIC)
    ground = Image.new("RGB", mask.size, GROUND)
    ground.paste(INK, mask=mask)
    return ground


def _frame(ground: Image.Image, points: np.ndarray, half: float, colour: str, text: str, done: float) -> Image.Image:
    image, side = ground.copy(), SIZE * SCALE
    pen = ImageDraw.Draw(image)
    for x, y in (points[:POINTS] * [1, -1] / half + 1) / 2 * side:
        pen.circle((float(x), float(y)), RADIUS * SCALE, fill=colour)
    pen.rectangle((0, side - 2 * SCALE, done * side, side), fill=INK)
    image = image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    ImageDraw.Draw(image).text((8, SIZE - 22), text, fill=INK, font=ImageFont.load_default(13))
    return image


def _bright(colour: str) -> str:
    """A third lighter, for a dark ground."""
    return "#" + "".join(f"{(2 * int(colour[i : i + 2], 16) + 255) // 3:02x}" for i in (1, 3, 5))


def write(images: Sequence[Image.Image], path: Path) -> None:
    """An animation that loops and rests on its last frame; each frame no longer than half a second."""
    each = min(500, max(FRAME, 2400 // len(images)))
    times = [each] * (len(images) - 1) + [LAST]
    for quality in QUALITIES:
        images[0].save(path, save_all=True, append_images=images[1:], duration=times, loop=0, quality=quality, method=4)
        if path.stat().st_size <= MOST:
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", action="append", help="only this one (repeatable)")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "runs" / "gallery", help="folder of the runs")
    parser.add_argument("--folder", type=Path, default=ROOT / "docs" / "gallery", help="where the animations go")
    words = parser.parse_args()
    every = sorted(registry.plugins("method"))
    every = [name for name in every if not registry.is_control(name)]
    chosen = words.method or every
    run(chosen, words.out)
    words.folder.mkdir(parents=True, exist_ok=True)
    places = folders.places(words.out)
    done = {
        (run.identity.task, run.identity.method): run for run in folders.attempts(words.out)[0] if run.status == "ok"
    }
    style = looks((name, "method") for name in every)
    file = words.folder / "captions.toml"
    known = {one["method"]: one for one in tomllib.loads(file.read_text())["flow"]} if file.exists() else {}
    captions = []
    for method in every:
        if method not in chosen and method in known:
            captions.append(known[method])
            continue
        task, half = task_of(method)
        found = done.get((registry.canonical("task", task), registry.canonical("method", spec(method))))
        draws = kept_points.read(places[found.attempt]) if found else None
        if draws is None or found is None:
            print(f"no points of {spec(method)} on {task}")
            continue
        path = words.folder / f"{method}.webp"
        write(frames(draws, half, _bright(style[method].colour)), path)
        print(f"{path.name}: {len(draws.laws)} laws, {path.stat().st_size / 1000:.0f} kB")
        captions.append({
            "method": method, "task": task, "setting": spec(method), "note": CUT.get(method, ("", ""))[1],
            "seconds": round(found.seconds + found.sample_seconds, 1), "laws": len(draws.laws), "file": path.name,
        })  # fmt: skip
    text = "\n".join("[[flow]]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in one.items()) for one in captions)
    file.write_text(f"# made by scripts/gallery.py; seconds of training and sampling\n\n{text}")


if __name__ == "__main__":
    main()
