"""Metrics of one's own: as a single file and by an entry point."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RADIUS = (ROOT / "docs/examples/radius.py").read_text()
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cli(elsewhere):
    return elsewhere


RUN = ("run", "--task", "gaussian", "--method", "gaussian_vi", "--seeds", "1", "--no-curve", "--no-controls")


def test_a_file_with_a_metric(cli, home):
    own = home / "radius.py"
    own.write_text(RADIUS)
    code, out, err = cli("list", "--metrics", "--format", "json", "--plugin", own)
    assert code == 0, err
    (fact,) = (one for one in map(json.loads, out.splitlines()) if one["name"] == "radius")
    assert fact["source"].startswith("| E|X| - E|Y| |")
    code, out, err = cli("list", "--format", "json", "--plugin", own)
    assert "radius" not in {json.loads(line)["name"] for line in out.splitlines()}, "it is no broken method"
    code, out, err = cli(
        *RUN, "--out", "judged", "--judge", "radius", "--judge", "mmd", "--format", "json", "--plugin", own
    )
    assert code == 0, err
    judged = {row["metric"]: row["value"] for row in map(json.loads, out.splitlines())}
    assert set(judged) == {"radius", "mmd"}
    assert 0 <= judged["radius"] < 0.1
    assert cli(*RUN, "--out", "scored", "--judge", "mmd")[0] == 0
    code, out, err = cli("score", "--metric", "radius", "--out", "scored", "--plugin", own)
    assert code == 0, err
    assert "radius: 1 runs scored" in out
    code, out, err = cli("score", "--metric", "radius", "--out", "scored")
    assert code == 2, "without the file it is not known"
    assert "no metric 'radius'" in err


def test_an_entry_point(cli, home):
    place = home / "site"
    (place / "acme_metrics").mkdir(parents=True)
    (place / "acme_metrics" / "__init__.py").write_text(RADIUS.replace('"radius"', '"acme_radius"'))
    info = place / "acme_metrics-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-metrics\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[gwfbench.metrics]\nradius = acme_metrics:radius\n")
    code, out, err = cli(*RUN, "--out", "entry", "--judge", "acme_radius", "--format", "json", path=str(place))
    assert code == 0, err
    assert {row["metric"] for row in map(json.loads, out.splitlines())} == {"acme_radius"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (RADIUS.replace('"radius"', '"mmd"'), "two metrics are called 'mmd'"),
        (f"import nothing_here\n{RADIUS}", "nothing_here"),
    ],
)
def test_mistakes_are_told(cli, home, text, said):
    own = home / "wrong.py"
    own.write_text(text)
    code, _, err = cli("score", "--metric", "mmd", "--out", "scored", "--plugin", own)
    assert code == 2
    assert said in err
