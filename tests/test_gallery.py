"""The gallery has an animation for each method, and its script draws what it is given."""

import importlib.util
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gwfbench.plugins import registry

ROOT = Path(__file__).parents[1]
GALLERY = ROOT / "docs" / "gallery"
FLOWS = tomllib.loads((GALLERY / "captions.toml").read_text())["flow"]


@pytest.fixture(scope="module")
def script():
    place = importlib.util.spec_from_file_location("gallery", ROOT / "scripts" / "gallery.py")
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    return module


def test_each_method_has_one():
    here = {name for name in registry.plugins("method") if not registry.is_control(name)}
    assert [flow["method"] for flow in FLOWS] == sorted(here), "run scripts/gallery.py"
    assert {path.name for path in GALLERY.glob("*.webp")} == {flow["file"] for flow in FLOWS}


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow["method"])
def test_it_is_small_and_moves(flow, script):
    path = GALLERY / flow["file"]
    assert path.stat().st_size < 300_000
    with Image.open(path) as image:
        assert image.size == (script.SIZE, script.SIZE)
        assert image.n_frames > 5
        assert image.info["loop"] == 0
    assert flow["setting"] == script.spec(flow["method"])
    registry.canonical("method", flow["setting"])  # its fields are known today
    assert registry.fits(registry.find("task", registry.head(flow["task"])), registry.find("method", flow["method"]))


def test_points_stand_in_their_places(script, tmp_path):
    """One point right of the middle and above it; a bar under it that is half as wide as the picture."""
    image = script._frame(script._ground(None, 2.0), np.array([[1.0, 1.5]]), 2.0, "#ff0000", "", 0.5)
    pixels = np.asarray(image).astype(int)
    red = pixels[..., 0] - pixels[..., 2]
    row, column = np.unravel_index(red.argmax(), red.shape)
    assert (row, column) == pytest.approx((256 / 8, 256 * 3 / 4), abs=1.5)
    assert (pixels[-1, :126] > 150).all()
    assert (pixels[-1, 130:] < 60).all()
    script.write([image, script._ground(None, 2.0).resize((256, 256))], tmp_path / "a.webp")
    with Image.open(tmp_path / "a.webp") as made:
        assert made.n_frames == 2
