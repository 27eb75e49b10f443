import numpy as np
import pytest

from gwfbench.report.figures.flows import Kept, _box, _liveliest, grid, grids, picture

rng = np.random.default_rng(5)
CLOUD = rng.normal(size=(300, 2))


def flow(paired, shift=4.0):
    return Kept(
        "method",
        "#0072B2",
        ["1", "2", "4"],
        [CLOUD, CLOUD + np.array([shift, 0]), CLOUD + np.array([shift + 0.1, 0])],
        paired,
    )


@pytest.mark.slow
@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("end", ["png", "pdf"])
def test_a_figure_is_written(tmp_path, paired, end):
    path = tmp_path / "deep" / f"a.{end}"
    picture("toy", CLOUD, CLOUD + 4, [flow(paired), flow(True)], path)
    assert path.read_bytes()[:4] in (b"\x89PNG", b"%PDF")
    assert path.stat().st_size > 5000


def test_the_field_is_drawn_where_most_moves():
    assert _liveliest(flow(True)) == (0, 1)
    still = Kept("still", "#0072B2", ["1"], [CLOUD], True)
    assert _liveliest(still) == (0, 0)


def test_a_stray_point_does_not_set_the_view():
    stray = np.concatenate([CLOUD, [[1e6, 0.0]]])
    (left, right), _ = _box([stray])
    assert left > -10
    assert right < 1e5


def test_only_the_plane_is_drawn(tmp_path):
    with pytest.raises(ValueError, match=r"\(n, 2\)"):
        picture("toy", CLOUD, None, [Kept("method", "#0072B2", ["1"], [np.zeros((4, 3))], True)], tmp_path / "a.png")
    with pytest.raises(ValueError, match="at least one"):
        picture("toy", CLOUD, None, [], tmp_path / "a.png")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_has_each_image_in_its_place(channels):
    """Image k is k/50 - 1 grey, its upper left pixel white; lines between images are white; the 65th is left out."""
    images = np.tile((np.arange(66) / 50 - 1)[:, None, None, None], (1, channels, 4, 6))
    images[:, :, 0, 0] = 7.0
    canvas = grid(images)
    assert canvas.shape == (8 * 5 - 1, 8 * 7 - 1, 3)
    for k in (0, 9, 63):
        top, left = k // 8 * 5, k % 8 * 7
        assert canvas[top + 3, left + 5] == pytest.approx(np.full(3, k / 100))
        assert (canvas[top, left] == 1).all()
    assert (canvas[4::5] == 1).all()
    assert (canvas[:, 6::7] == 1).all()
    assert (grid(images[:3])[:, 21:] == 1).all()


def test_colours_stay_in_their_channels():
    image = np.full((1, 3, 2, 2), -1.0)
    image[0, 1] = 1.0
    assert grid(image)[1, 1].tolist() == [0, 1, 0]


def test_grids_are_written(tmp_path):
    some = rng.normal(size=(70, 1, 8, 8))
    grids("digits", {f"method {k}": some for k in range(5)}, tmp_path / "deep" / "a.png")
    assert (tmp_path / "deep" / "a.png").stat().st_size > 5000
    for bad in ({}, {"a": some[:0]}, {"a": some[:, 0]}, {"a": rng.normal(size=(70, 2, 8, 8))}):
        with pytest.raises(ValueError, match="images"):
            grids("digits", bad, tmp_path / "b.png")
