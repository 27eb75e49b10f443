import numpy as np
import pytest

from gwfbench.report.plots import Kept, _box, _liveliest, picture

rng = np.random.default_rng(5)
CLOUD = rng.normal(size=(300, 2))


def flow(paired, shift=4.0):
    return Kept(
        "method", ["1", "2", "4"], [CLOUD, CLOUD + np.array([shift, 0]), CLOUD + np.array([shift + 0.1, 0])], paired
    )


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("end", ["png", "pdf"])
def test_a_figure_is_written(tmp_path, paired, end):
    path = tmp_path / "deep" / f"a.{end}"
    picture("toy", CLOUD, CLOUD + 4, [flow(paired), flow(True)], path)
    assert path.read_bytes()[:4] in (b"\x89PNG", b"%PDF")
    assert path.stat().st_size > 5000


def test_the_field_is_drawn_where_most_moves():
    assert _liveliest(flow(True)) == (0, 1)
    still = Kept("still", ["1"], [CLOUD], True)
    assert _liveliest(still) == (0, 0)


def test_a_stray_point_does_not_set_the_view():
    stray = np.concatenate([CLOUD, [[1e6, 0.0]]])
    (left, right), _ = _box([stray])
    assert left > -10
    assert right < 1e5


def test_only_the_plane_is_drawn(tmp_path):
    with pytest.raises(ValueError, match=r"\(n, 2\)"):
        picture("toy", CLOUD, None, [Kept("method", ["1"], [np.zeros((4, 3))], True)], tmp_path / "a.png")
    with pytest.raises(ValueError, match="at least one"):
        picture("toy", CLOUD, None, [], tmp_path / "a.png")
