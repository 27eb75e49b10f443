"""Protocols of image metrics: which images are compared, the floor, what a wrong one does, and that none is mixed up."""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from gwfbench.commands._options import check_metrics
from gwfbench.datasets import images
from gwfbench.datasets.protocols import Called, apart
from gwfbench.errors import UserError
from gwfbench.metrics.image import pixels
from gwfbench.papers import ledger
from gwfbench.plugins import registry
from gwfbench.protocol import Judged
from gwfbench.rng import Streams

pytest.importorskip("gwfbench.nn.fidelity", reason="the extra `image`")
TRAIN, TEST = images.load("digits")
SIZES = {"cifar10": {"train": 50_000, "test": 10_000}}


def build(text):
    return registry.parse("task", text).build(Streams((3, 5)).fork("task"))


def held(x):
    return {bytes(image) for image in x.flatten(0, -4).numpy()}


def names(instance):
    return [metric.name.partition("_digits@")[0] for metric in instance.truth.metrics]


@pytest.mark.parametrize(
    ("fields", "fid", "real", "fake"),
    [
        ("", "fid_360", 360, 360),
        ("against=test,fake=100", "fid_360_100", 360, 100),
        ("real=200,fake=300", "fid_200_300", 200, 300),
        ("against=train", "fid_1437_train", 1437, 1437),
        ("against=train,fake=200", "fid_1437_200_train", 1437, 200),
        ("against=train,real=500,fake=900", "fid_500_900_train", 500, 900),
    ],
)
def test_metrics_compare_the_images_that_they_name(fields, fid, real, fake):
    instance = build(f"images:{fields}" if fields else "images")
    metric, truth = instance.truth.metrics[0], instance.truth
    assert names(instance)[0] == fid
    assert metric.points == fake
    assert metric.evaluate.args[0].real.shape[0] == real
    part = TRAIN if "train" in fields else TEST
    assert held(metric.evaluate.args[0].real) <= held(part)
    found = pixels(truth.reference(0, 2000, Streams((3, 5))))
    assert found.shape[1] == real
    assert held(found) == held(metric.evaluate.args[0].real)
    assert truth.points == 10_000


@pytest.mark.parametrize("fields", ["", "real=100", "against=train", "against=train,real=500", "fake=1000"])
def test_exact_never_draws_what_it_is_compared_with(fields):
    instance = build(f"images:{fields}" if fields else "images")
    lens = instance.truth.metrics[0].evaluate.args[0]
    drawn = pixels(instance.truth.draw(0, instance.truth.limit, Streams((3, 5))))
    assert not held(drawn) & held(lens.real)
    assert held(drawn) <= held(torch.cat([TRAIN, TEST]))
    for seed in drawn:
        assert len(held(seed[None])) == instance.truth.limit  # without replacement


def test_the_images_are_the_same_ones_for_all_seeds_and_all_classes_are_there():
    lens = [build("images:against=train,real=500").truth.metrics[0].evaluate.args[0].real for _ in range(2)]
    assert torch.equal(*lens)
    assert len(held(lens[0])) == len(held(lens[0]) & held(TRAIN)) == 500
    assert not torch.equal(lens[0], TRAIN[:500])  # a folder's images are in the order of their classes


def test_where_no_floor_can_be_had_there_is_one_by_fewer_points():
    instance = build("images:against=train")
    assert names(instance)[::5] == ["fid_1437_train", "fid_1437_360_train"]
    assert len(names(build("images"))) == 5
    x = instance.truth.draw(0, instance.truth.limit, Streams((3, 5)))
    assert x.shape[1] == 360
    judged = Judged(x, None, instance.truth, 0, Streams((3, 5)))
    whole, fewer = instance.truth.metrics[::5]
    with pytest.raises(ValueError, match="its protocol has 1437 images, and the law gives 360"):
        whole.evaluate(judged)
    assert 0 < float(fewer.evaluate(judged).value.max()) < 2


def test_more_real_images_than_there_are_are_refused():
    with pytest.raises(UserError, match="real=361 of the test part of digits"):
        build("images:real=361")


@pytest.mark.slow
def test_the_runner_judges_by_the_points_of_the_protocol(tmp_path, one_process, cli):
    """Also by more than the task's own number of points."""
    words = ("run", "--task", "images:fake=10100,real=50", "--method", "still", "--seeds", "1", "--out", "runs")
    code, out, err = cli(*words, "--metric", "inception_score_10100_digits@49a1", "--format", "csv")
    assert code == 0, err
    rows = pd.read_csv(__import__("io").StringIO(out))
    still = rows[rows["method"] == "still"]
    assert set(still["n"]) == {10_100}
    assert still["value"].notna().all()


# ------------------------------------------------------------------------------------------------ never mixed up


def test_another_protocol_is_refused_with_the_reason():
    with pytest.raises(UserError, match="fid_50k_train is of 50000 images of the training part, 50000 points") as error:
        check_metrics(("fid_50k_train",), {"w2", "fid_10k", "fid_10k_5k", "kid_10k"})
    assert "fid_10k_5k is of 10000 images of the test part, 5000 points, Inception" in error.value.got
    assert "kid" not in error.value.got
    with pytest.raises(UserError, match="no metric 'fid_50k_train'"):
        check_metrics(("fid_50k_train",), {"w2"})
    check_metrics(("fid_10k",), {"fid_10k", "fid_10k_5k"})


def test_a_network_is_part_of_the_protocol():
    assert "cifar10@ab12" in apart("fid_10k", ["fid_10k_cifar10@ab12"])
    assert apart("fid_10k", ["fid_10k", "fid_5k"]) == apart("w2", ["fid_5k"]) == apart("fid_10k", ["kid_10k"]) == ""


PAPER = """
[paper]
title = "A paper"
link = "https://arxiv.org/abs/0000.00000"
[[table]]
name = "Table 1"
title = "FID"
source = "there"
protocol = "fid_50k_train"
numbers = [{ what = "GAN", value = 9.0, metric = "fid_50k_train", task = "images", method = "gan" }]
"""


def test_a_ledger_does_not_answer_by_another_protocol():
    from gwfbench.report.paper_page import page

    rows = pd.read_csv(Path(__file__).parents[1] / "results/studies/images/rows.csv")
    rows = rows[(rows["task"] == "images") & rows["metric"].str.startswith("fid_")]
    rows = rows[rows["method"] == next(name for name in rows["method"] if name.startswith("gan"))]
    paper = ledger.parse("paper", PAPER.replace('method = "gan"', f'method = "{rows["method"].iloc[0]}"'))
    rows["metric"] = "fid_360_digits@49a1"
    text, tally = page(paper, rows)
    assert tally == {"not run": 1}
    assert "judged by another protocol: fid_50k_train is of 50000 images of the training part" in text
    rows["metric"] = "fid_50k_train"
    assert "not run" not in page(paper, rows)[1]


@pytest.mark.parametrize(
    ("before", "after"),
    [('metric = "fid_50k_train"', 'metric = "fid_10k"'), ('protocol = "fid_50k_train"', 'protocol = "fid"')],
)
def test_a_ledger_s_metric_is_that_of_its_protocol(before, after):
    assert before in PAPER
    with pytest.raises(UserError, match="protocol"):
        ledger.parse("paper", PAPER.replace(before, after))


def cifar_numbers():
    for key in ledger.papers():
        for table in ledger.load(key).tables:
            for number in table.numbers:
                if "CIFAR-10" in table.title + table.definition and number.value:
                    yield pytest.param(number, id=f"{key} {table.name} {number.what}")


@pytest.mark.parametrize("number", list(cifar_numbers()))
def test_every_published_number_of_cifar10_has_its_protocol_and_what_makes_it(number):
    if not number.protocol:  # a number of a third paper
        assert "protocol" in number.definition
        assert "protocol" in number.missing
        return
    assert Called.read(number.protocol)
    if "not implemented" in number.missing:
        return
    assert number.command
    assert number.minutes[0] > 0
    fields = registry.typed(number.task)
    part = fields.get("against", "test")
    real = int(fields.get("real", SIZES["cifar10"][part]))
    fake = int(fields.get("fake", real))
    assert str(Called("fid", real, fake, part == "train", "")) == number.protocol
    registry.parse("task", number.task)


# ------------------------------------------------------------------------------------------------ a wrong one


@pytest.fixture
def script():
    path = Path(__file__).parents[1] / "scripts" / "protocols.py"
    spec = importlib.util.spec_from_file_location("protocols", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_wrong_protocol_gives_another_number(script):
    """The same fakes: fewer of them give more, and images learnt by heart are without fault by the training part."""
    from gwfbench.nn.classifier import Classifier

    own = Classifier.read((script.FOLDER / "digits.npz").read_bytes())
    heart = script.four(TRAIN, TEST, script.made(TRAIN, "by heart"), own)
    assert list(heart) == ["fid_1437_train", "fid_1437_360_train", "fid_360", "fid_360_180"]
    assert abs(heart["fid_1437_train"][0]) < 1e-3
    assert 0.05 < heart["fid_1437_360_train"][0] < heart["fid_360"][0] < heart["fid_360_180"][0]
    blurred = script.four(TRAIN, TEST, script.made(TRAIN, "blur"), own)
    assert all(blurred[name][0] > heart[name][0] + 5 * blurred[name][1] for name in heart)
    text = script.table(TRAIN, TEST, {"heart": script.made(TRAIN, "by heart")[:400]}, own)
    assert text.splitlines()[0] == "| fakes | fid_1437_360_train | fid_360 | fid_360_180 |"


def test_fakes_of_a_file(script, tmp_path):
    x = TRAIN[:7].numpy()
    np.save(tmp_path / "a.npy", x)
    np.savez(tmp_path / "b.npz", t2=x / 255 + 9, t10=x.astype(np.float32) / 127.5 - 1, l10=np.zeros(7))
    assert torch.equal(script.read(tmp_path / "a.npy"), TRAIN[:7])
    assert torch.equal(script.read(tmp_path / "b.npz"), TRAIN[:7])
