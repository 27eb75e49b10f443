"""scripts/snapshot.py: a snapshot keeps what it is made from, the same bytes each time, and tells when a file changed."""

import gzip
import importlib.util
import shutil
from pathlib import Path

import pytest

from gwfbench.report import rows

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"


@pytest.fixture(scope="module")
def snapshot():
    place = importlib.util.spec_from_file_location("snapshot", ROOT / "scripts" / "snapshot.py")
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    return module


@pytest.fixture
def made(snapshot, tmp_path):
    """A snapshot of two suites, next to the results that it is of."""
    results = tmp_path / "results"
    for name in ("smoke", "images-small"):
        shutil.copytree(RESULTS / name, results / name)
    shutil.copytree(RESULTS / "papers", results / "papers")
    folder = results / "snapshots" / "2026-12"
    snapshot.make(results, folder)
    return folder


def test_its_rows_are_those_of_the_results(made):
    packed, facts = rows.read(made / "smoke" / "rows.csv.gz")
    now, facts_now = rows.read(RESULTS / "smoke" / "rows.csv")
    assert packed.equals(now)
    assert facts == facts_now
    assert (
        gzip.decompress((made / "smoke" / "rows.csv.gz").read_bytes()) == (RESULTS / "smoke" / "rows.csv").read_bytes()
    )


def test_the_same_results_give_the_same_bytes(snapshot, made):
    before = (made / "SHA256SUMS").read_bytes()
    snapshot.make(made.parents[1], made)
    assert (made / "SHA256SUMS").read_bytes() == before
    assert snapshot.differences(made) == []


def test_each_kind_of_change_is_told(snapshot, made):
    (made / "smoke" / "leaderboard.csv").write_text("task,method\n")
    (made / "README.md").unlink()
    (made / "more.txt").write_text("x")
    found = snapshot.differences(made)
    assert [line.partition(":")[0] for line in found] == ["README.md", "more.txt", "smoke/leaderboard.csv"]


def test_its_references_are_of_all_its_tasks_and_methods(made):
    text = (made / "references.bib").read_text()
    assert text.startswith("@software{gwfbench")
    from gwfbench.plugins import registry

    for method in ("gan", "drifting", "sinkhorn_flow"):
        entry = registry.find("method", method).load().reference.split("{")[1].partition(",")[0]
        assert entry in text


def test_links_of_its_papers_lead_somewhere(made):
    for page in (made / "papers").glob("*.md"):
        for link in page.read_text().split("](../../../")[1:]:
            assert (RESULTS / link.partition(")")[0]).exists()


@pytest.mark.parametrize("folder", sorted((RESULTS / "snapshots").glob("*")), ids=lambda path: path.name)
def test_committed_snapshots_are_as_they_were(snapshot, folder):
    assert snapshot.differences(folder) == []


def test_rows_in_gzip_that_are_broken_are_refused(made):
    from gwfbench.errors import UserError

    path = made / "smoke" / "rows.csv.gz"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match="ended before"):
        rows.read(path)
