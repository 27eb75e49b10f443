import hashlib
import json
import re
import shutil
import zipfile
from pathlib import Path

import pytest

from gwfbench.store import texts

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cli(elsewhere):
    return elsewhere


@pytest.fixture(scope="module")
def mine(cli, home):
    """The bundle of a plug-in of one's own that has run with two seeds."""
    (home / "here").mkdir()
    source = home / "here" / "mine.py"
    source.write_text((ROOT / "baselines" / "gaussian_vi.py").read_text())
    (home / "here" / "mine.toml").write_text('[fast]\ntrack = "quick"\nsource = "x"\nfields = ""\n')
    words = (
        "run",
        "--task",
        "gaussian",
        "--method",
        "mine",
        "--seeds",
        "2",
        "--out",
        "runs",
        "--no-curve",
        "--no-controls",
    )
    code, _, err = cli(*words, "--plugin", source)
    assert code == 0, err
    code, out, err = cli("bundle", "mine.zip", "--by", "A. Person", "--out", "runs", "--plugin", source)
    assert code == 0, err
    assert "2 runs" in out
    shutil.move(home / "here", home / "gone")  # whoever accepts it has nothing but the bundle
    return home / "mine.zip"


def changed(bundle, pattern, change, hashes=True, seals=False):
    """The bundle with a file changed, and with what a forger would make new."""
    target = bundle.with_name("forged.zip")
    with zipfile.ZipFile(bundle) as old:
        files = {name: old.read(name) for name in old.namelist()}
    (name,) = (name for name in files if re.fullmatch(pattern, name))
    files[name] = change(files[name])
    folder = name.rpartition("/")[0]
    if seals:
        run = f"{folder}/run.json"
        content = texts.opened(files[run].decode()) | {"schema": json.loads(files[run])["schema"]}
        content["files"]["rows.jsonl"] = hashlib.sha256(files[name]).hexdigest()
        files[run] = texts.sealed(content).encode()
    if hashes:
        manifest = json.loads(files["manifest.json"])
        manifest["files"] = {n: hashlib.sha256(files[n]).hexdigest() for n in files if n != "manifest.json"}
        files["manifest.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile(target, "w") as new:
        for each, text in files.items():
            new.writestr(each, text)
    return target


def edited(text):
    """One number of a run is better by a hundredth."""
    lines = text.decode().splitlines(keepends=True)
    at = next(i for i, line in enumerate(lines) if '"metric":"energy_distance"' in line.replace(" ", ""))
    number = re.search(r'"value": ?(-?[\d.e-]+)', lines[at])
    lines[at] = lines[at].replace(number[1], repr(float(number[1]) - 0.5))
    return "".join(lines).encode()


ROWS = r"runs/gaussian-mine-s0-.*/rows.jsonl"


def test_a_bundle_is_accepted_and_its_rows_are_labelled(mine, cli, home):
    with zipfile.ZipFile(mine) as packed:
        names = packed.namelist()
        assert {"source/mine.py", "source/mine.toml", "manifest.json"} <= set(names)
    code, out, err = cli("accept", str(mine), "--count", "1", "--write", "results/mine")
    assert code == 0, out + err
    assert "accepted: mine: 2 runs by A. Person" in out
    assert "re-run (1 of them were run again, and none differs)" in out
    page = (home / "results/mine/leaderboard.md").read_text()
    assert re.search(r"\| mine +\| re-run +\| A. Person +\| 2 +\| 1 +\|", page), page[-800:]
    code, out, err = cli("accept", str(mine), "--count", "0", "--write", "results/mine")  # once more, in their place
    assert code == 0, err
    assert "self-reported" in out
    assert (home / "results/mine/rows.csv").read_text().count(",mine,0,") == (
        home / "results/mine/rows.csv"
    ).read_text().count(",mine,1,")
    assert "self-reported" in (home / "results/mine/leaderboard.md").read_text()


@pytest.mark.parametrize(
    ("pattern", "change", "hashes", "seals", "said"),
    [
        (ROWS, edited, False, False, r"refused: runs/gaussian-mine-s0-.*/rows.jsonl: sha256"),
        (ROWS, edited, True, False, r"refused: runs/gaussian-mine-s0-.*: rows.jsonl has changed"),
        (ROWS, edited, True, True, r"refused: gaussian mine seed 0: different when run again: energy_distance"),
        (r"source/mine.py", lambda text: text.replace(b"0.5", b"0.25"), True, False, r"refused: gaussian mine seed 0: the code has changed"),
        (r"source/mine.py", lambda text: text + b"\n# x", False, False, r"refused: source/mine.py: sha256"),
    ],
)  # fmt: skip
def test_what_was_edited_is_refused_with_its_name(mine, cli, pattern, change, hashes, seals, said):
    code, out, err = cli("accept", str(changed(mine, pattern, change, hashes, seals)), "--count", "2")
    assert code == 1, out + err
    assert re.search(said, out), out
    assert "accepted" not in out


def test_a_suite_s_runs_must_all_be_there(mine, cli, home):
    suite = home / "s.toml"
    suite.write_text('title = "x"\ntrack = "default"\nseeds = 5\nmethods = ["ula"]\n[[tasks]]\ntask = "gaussian"\n')
    code, out, _ = cli("accept", str(mine), "--count", "0", "--suite", str(suite))
    assert code == 1
    assert re.findall(r"missing: gaussian mine seed (\d)", out) == ["2", "3", "4"]


def test_mistakes_are_told(mine, cli, home):
    for words, said in (
        (("bundle", str(mine), "--by", "x", "--out", "runs"), "exists"),
        (("bundle", "b.zip", "--by", "x", "--out", "none"), "no runs"),
        (("accept", "runs/none.zip"), "none.zip"),
    ):
        code, _, err = cli(*words)
        assert code == 2, words
        assert said in err
    (home / "no.zip").write_text("no")
    code, _, err = cli("accept", "no.zip")
    assert (code, "a bundle, as" in err) == (2, True)
    with zipfile.ZipFile(home / "evil.zip", "w") as evil:
        name = "runs/../../evil.txt"
        evil.writestr(
            "manifest.json",
            json.dumps(
                {"schema": 1, "by": "x", "made": "x", "plugins": [], "files": {name: hashlib.sha256(b"x").hexdigest()}}
            ),
        )
        evil.writestr(name, b"x")
    code, _, err = cli("accept", "evil.zip")
    assert code == 2
    assert "evil.txt" in err
    assert not (home.parent / "evil.txt").exists()


@pytest.fixture(scope="module")
def acme(cli, home):
    """The example package where pip would put it, and the bundle of two of its runs on its own task."""
    place = home / "site"
    shutil.copytree(ROOT / "tests" / "thirdparty" / "acme_flows", place / "acme_flows")
    info = place / "acme_flows-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-flows\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[gwfbench.methods]\nacme_particles = acme_flows.particles:Particles\n"
        "[gwfbench.tasks]\nacme_shift = acme_flows.shift:Shift\n"
    )
    code, _, err = cli("run", "--task", "acme_shift", "--method", "acme_particles", "--seeds", "2", "--no-curve", "--out",
                       "acme_runs", path=str(place))  # fmt: skip
    assert code == 0, err
    code, out, err = cli("bundle", "acme.zip", "--by", "Acme", "--out", "acme_runs", path=str(place))
    assert code == 0, err
    assert re.search(r"[2-9] runs", out)
    return place, home / "acme.zip"


def test_the_bundle_of_a_package_is_accepted_where_the_package_is(acme, cli, home):
    place, bundle = acme
    with zipfile.ZipFile(bundle) as packed:
        assert {
            "source/acme_flows/particles.py",
            "source/acme_flows/gaussians.py",
            "source/acme_flows/shift.py",
        } <= set(packed.namelist())
    code, out, err = cli("accept", bundle, "--count", "2", "--write", "results/acme", path=str(place))
    assert code == 0, out + err
    assert "accepted: acme_particles" in out
    assert "re-run (2 of them were run again, and none differs)" in out
    assert re.search(r"\| acme_particles +\| re-run +\| Acme ", (home / "results/acme/leaderboard.md").read_text())


def test_the_bundle_of_a_package_that_is_not_here_is_refused(acme, cli):
    code, out, _ = cli("accept", acme[1])
    assert code == 1
    assert "refused: method 'acme_particles' is not here: install acme-flows 1.0" in out


def better(text):
    """One number of a run is better by a half, in whatever metric."""
    number = re.search(rb'"value": ?(-?[\d.e-]+)', text)
    return text.replace(number[1], repr(float(number[1]) / 2).encode(), 1)


@pytest.mark.parametrize(
    ("hashes", "seals", "said"),
    [
        (False, False, r"refused: runs/acme_shift-acme_particles-s0-.*/rows.jsonl: sha256"),
        (True, True, r"refused: acme_shift acme_particles seed 0: (different|other bits) when run again"),
    ],
)
def test_an_edited_number_of_a_package_is_refused_with_its_name(acme, cli, hashes, seals, said):
    place, bundle = acme
    forged = changed(bundle, r"runs/acme_shift-acme_particles-s0-.*/rows.jsonl", better, hashes, seals)
    code, out, err = cli("accept", forged, "--count", "2", path=str(place))
    assert code == 1, out + err
    assert re.search(said, out), out


def test_failed_runs_are_packed_too(cli, home):
    source = home / "fragile.py"
    text = (ROOT / "baselines" / "gaussian_vi.py").read_text()
    body = "    def fit(self, problem: Problem, budget: Budget, rng: Streams) -> Iterator[Marginal]:\n"
    assert text.count(body) == 1
    at = text.index(body) + len(body)
    source.write_text(
        text[:at] + '        if 1 in rng.seeds:\n            raise RuntimeError("not under seed 1")\n' + text[at:]
    )
    words = ("run", "--task", "gaussian", "--method", "fragile", "--seeds", "2", "--out", "fragile_runs", "--no-curve",
             "--no-controls", "--plugin", source)  # fmt: skip
    assert cli(*words)[0] == 1
    code, out, err = cli("bundle", "fragile.zip", "--by", "x", "--out", "fragile_runs", "--plugin", source)
    assert code == 0, err
    assert "2 runs" in out
    code, out, err = cli("accept", "fragile.zip", "--count", "2", "--write", "results/fragile")
    assert code == 0, out + err
    assert "1/2, 1 error" in (home / "results/fragile/leaderboard.md").read_text()
