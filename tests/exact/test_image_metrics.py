"""Image metrics against torch-fidelity's own pipeline, closed forms, and hand-made point sets."""

import hashlib
import math

import numpy as np
import pytest
import torch
from PIL import Image

from gwfbench.datasets import images
from gwfbench.datasets.protocols import Called
from gwfbench.errors import UserError
from gwfbench.metrics import image as module
from gwfbench.metrics.image import NAMES, Lens, View, absent, floats, kernel_between, kernel_within, metrics, pixels
from gwfbench.nn import classifier
from gwfbench.nn.classifier import Classifier, fresh, outputs
from gwfbench.plugins import registry
from gwfbench.protocol import Judged, Truth
from gwfbench.rng import Streams

fidelity = pytest.importorskip("gwfbench.nn.fidelity", reason="the extra `image`")

NOBODY = Truth(None, exact=False)
CPU = torch.device("cpu")


def judged(points, name="metric"):
    """Points (S, n, ...)."""
    return Judged(points, None, NOBODY, 0, Streams(tuple(range(len(points))), dtype=torch.float64).fork(name))


def lens_of(features, classes=3):
    """A view whose features of an image are what the rows of a table say; the image's four bytes name the row."""
    rows = torch.as_tensor(features, dtype=torch.float64)

    def extract(named):
        index = named.flatten(1).long() @ torch.tensor([1, 256, 65536, 0])
        return rows[index], rows[index][:, :classes]

    return extract


def named(count, first=0):
    """Images (count, 1, 2, 2) that name rows first, first + 1, ..."""
    k = torch.arange(first, first + count)
    return torch.stack([k % 256, k // 256 % 256, k // 65536, 0 * k], 1).to(torch.uint8).view(-1, 1, 2, 2)


def by_name(lens):
    return dict(zip(NAMES, metrics(lens), strict=True))


def values(points, test, *only, name="metric"):
    """Value and error of each of these metrics, for features (n, k) of the points and of the test images."""
    table = torch.cat([torch.as_tensor(points), torch.as_tensor(test)])
    lens = Lens(lens_of(table), named(len(test), len(points)), fake=len(points))
    x = floats(named(len(points)), torch.float64)[None]
    found = {key: metric.evaluate(judged(x, name)) for key, metric in by_name(lens).items() if key in only}
    return {key: (float(one.value), float(one.se)) for key, one in found.items()}


def gaussian(n, mean, root, seed):
    return np.random.default_rng(seed).normal(size=(n, len(mean))) @ np.asarray(root).T + mean


def kid(x, y):
    return module.kid(x, y, kernel_within(x), kernel_within(y))


def odd(n, k, seed):
    """Features as a network's: most are skew and dependent, some are always 0, and some images are equal."""
    x = torch.as_tensor(gaussian(n, np.linspace(-0.5, 1, k), np.tri(k) / 2, seed)).relu()
    x[:, ::5] = 0
    x[3:6] = x[0]
    return x


# ------------------------------------------------------------------------------------------------ FID


def test_fid_is_torch_fidelity_s_on_folders(tmp_path):
    """Its own calculate_metrics on two folders of PNG files, with our extractor registered, equals our pipeline."""
    import torch_fidelity

    test = images.load("digits")[1]
    own = registry.parse("task", "images").build(Streams((3,)).fork("task"))
    label = own.truth.metrics[0].name.removeprefix("fid_360_")
    noisy = floats(images.load("digits")[0][:360], torch.float32)
    noisy = noisy + 0.4 * torch.randn(noisy.shape, generator=torch.Generator().manual_seed(1))
    for place, some in (("a", pixels(noisy)), ("b", test)):
        (tmp_path / place).mkdir()
        for k, image in enumerate(some):
            Image.fromarray(image[0].numpy()).save(tmp_path / place / f"{k:04}.png")
    theirs = torch_fidelity.calculate_metrics(
        input1=str(tmp_path / "a"), input2=str(tmp_path / "b"), fid=True, kid=True, isc=True, prc=True,
        feature_extractor=label, cuda=False, cache=False, verbose=False, save_cpu_ram=True,
        kid_subset_size=72, kid_subsets=50, samples_shuffle=False,
    )  # fmt: skip
    ours = {metric.name.partition("_360")[0]: metric for metric in own.truth.metrics}
    ours = {key: metric.evaluate(judged(noisy[None])) for key, metric in ours.items()}
    assert float(ours["fid"].value) > 1
    assert float(ours["fid"].value) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6, abs=1e-6)
    for key in ("precision", "recall"):
        assert float(ours[key].value) == pytest.approx(theirs[key], abs=1e-6)
    off = float(ours["kid"].value) - theirs["kernel_inception_distance_mean"]  # other subsets
    assert abs(off) < 5 * theirs["kernel_inception_distance_std"] / 50**0.5
    assert float(ours["inception_score"].value) == pytest.approx(theirs["inception_score_mean"], rel=0.1)


def test_fid_of_gaussians_in_closed_form():
    """|m - m0|^2 + sum (s - s0)^2 for commuting covariances, five jackknife errors of both samples."""
    m, m0, s, s0 = np.array([1.0, -2, 0.5]), np.array([0.0, 1, 0.5]), np.array([1.0, 2, 0.3]), np.array([1.5, 0.7, 0.3])
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
    x, y = gaussian(10_000, turn @ m, turn * s, 1), gaussian(10_000, turn @ m0, turn * s0, 2)
    value, se = values(x, y, "fid")["fid"]
    back = values(y, x, "fid")["fid"]
    exact = ((m - m0) ** 2).sum() + ((s - s0) ** 2).sum()
    assert abs(value - exact) < 5 * math.hypot(se, back[1])
    assert se < 0.02 * exact
    assert value == pytest.approx(back[0], rel=1e-8)


@pytest.mark.parametrize(("n", "m", "k"), [(503, 400, 12), (45, 60, 12), (7, 400, 3), (320, 400, 300)])
def test_fid_is_torch_fidelity_s_formula_and_its_error_the_plain_jackknife(n, m, k):
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    def plain(x):
        statistics = [fid_features_to_statistics(each) for each in (x, y)]
        return fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]

    x, y = odd(n, k, 1), odd(m, k, 2) * 1.3 + 0.1
    value, se = module.fid(x, *View(y, y).gaussian)
    assert value == pytest.approx(plain(x), rel=1e-6)  # theirs has roots of eigenvalues that are 0 but for rounding
    if k > module.WIDE:
        assert math.isnan(se)
        return
    blocks = x.tensor_split(min(20, n // 2))
    left = [plain(torch.cat([*blocks[:b], *blocks[b + 1 :]])) for b in range(len(blocks))]
    assert se == pytest.approx(math.sqrt((len(blocks) - 1) * np.var(left)), rel=1e-5)


def test_fid_s_error_is_the_spread_over_samples():
    y = gaussian(2000, [0.0, 0], np.eye(2), 1)
    found = np.array(
        [values(gaussian(500, [1.0, 0], [[1, 0], [0, 2]], seed), y, "fid")["fid"] for seed in range(10, 60)]
    )
    assert found[:, 1].mean() == pytest.approx(found[:, 0].std(ddof=1), rel=5 / math.sqrt(2 * 49))


def test_the_same_images_twice():
    train = images.load("digits")[0][:360]
    lens = Lens(fidelity.by_classifier("twice", made(), CPU), train)
    found = {key: one.evaluate(judged(floats(train, torch.float32)[None])) for key, one in by_name(lens).items()}
    assert abs(float(found["fid"].value)) < 1e-3
    assert float(found["precision"].value) == float(found["recall"].value) == 1


# ------------------------------------------------------------------------------------------------ KID and the others


@pytest.mark.slow
def test_kid_is_unbiased():
    """Mean over many splits of one law, and for two laws the closed form of E k(x, x') + E k(y, y') - 2 E k(x, y).

    In one dimension, x of deviation 1 about m: k = (1 + x y)^3, so its means are products of E x^k, k = 0 ... 3.
    """

    def mean(m):
        each = [
            values(gaussian(50, [0.5], [[1.0]], seed), gaussian(50, [m], [[1.0]], 9999 - seed), "kid", name=str(seed))
            for seed in range(200)
        ]
        found = np.array([one["kid"][0] for one in each])
        return found.mean(), found.std(ddof=1) / 200**0.5

    moments = lambda m: np.array([1, m, m * m + 1, m**3 + 3 * m])  # noqa: E731
    for m in (0.5, 0.1):
        value, se = mean(m)
        exact = (np.array([1, 3, 3, 1]) * (moments(0.5) - moments(m)) ** 2).sum()
        assert abs(value - exact) < 5 * se


@pytest.mark.parametrize(
    ("shift", "n", "m", "low", "high"), [(0.6, 150, 150, 0.8, 1.25), (0.6, 60, 200, 0.8, 1.25), (0, 150, 150, 1, 1.8)]
)
def test_kid_s_error_is_its_spread_over_points_and_test_images(shift, n, m, low, high):
    """At equal laws 1.4 times that, the square root of 2: what a jackknife gives of pairs without a linear part."""
    found = []
    for seed in range(200):
        luck = np.random.default_rng(seed)
        found.append(kid(*(torch.as_tensor(luck.normal(size=(k, 2)) + c) for k, c in ((n, shift), (m, 0.0)))))
    spread, errors = np.std([value for value, _ in found], ddof=1), [se for _, se in found]
    assert low < np.mean(errors) / spread < high


def test_kid_is_its_double_sums_and_its_error_the_jackknife():
    x, y = (torch.as_tensor(gaussian(k, [c, 0.3], [[1, 0], [0.5, 2]], k)) for k, c in ((7, 1.0), (9, 0.0)))

    def plain(x, y):
        k = [(a @ b.T / 2 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y))]
        within = [(each.sum() - each.trace()) / (len(each) * (len(each) - 1)) for each in k[:2]]
        return float(sum(within) - 2 * k[2].mean())

    value, se = kid(x, y)
    assert value == pytest.approx(plain(x, y), rel=1e-12)
    without = [
        [plain(x[torch.arange(7) != i], y) for i in range(7)],
        [plain(x, y[torch.arange(9) != i]) for i in range(9)],
    ]
    assert se == pytest.approx(math.sqrt(sum((len(each) - 1) * np.var(each) for each in without)), rel=1e-10)


def test_kid_does_not_depend_on_blocks(monkeypatch):
    x, y = (torch.as_tensor(gaussian(k, [c, 0], np.eye(2), k)) for k, c in ((101, 1.0), (90, 0.0)))
    once = kid(x, y)
    for pairs in (17 * 90, 1):
        monkeypatch.setattr(module, "PAIRS", pairs)
        assert kid(x, y) == pytest.approx(once, rel=1e-10)


def test_kid_in_single_precision():
    """To six digits of its error, which is what a value is read by."""
    x, y = odd(700, 64, 3), odd(600, 64, 4) * 1.05
    (value, se), (single, error) = kid(x, y), kid(x.float(), y.float())
    assert abs(single - value) < 1e-5 * se
    assert error == pytest.approx(se, rel=1e-6)
    assert kernel_within(x.float()).dtype == kernel_between(x.float(), y.float())[1].dtype == torch.float64


def test_images_that_are_all_one():
    """A collapsed generator has values; no error is 0."""
    found = values(np.full((60, 2), 0.3), gaussian(60, [0.0, 0], np.eye(2), 1), *NAMES)
    for name, (value, se) in found.items():
        assert math.isfinite(value), name
        assert se != 0 or name == "fid", name  # FID's law is one point, and the test part is given


def test_precision_and_recall_by_hand():
    """Third neighbours: the test images 0, 1, 2, 3 reach 3, 2, 2, 3 far; the points 1.5, 2.5, 3.5, 10 reach 8.5, 7.5, 6.5, 8.5."""
    found = values([[1.5], [2.5], [3.5], [10.0]], [[0.0], [1.0], [2.0], [3.0]], "precision", "recall")
    assert found["precision"] == (0.75, math.sqrt(0.75 * 0.25 / 4))  # 10 is beyond 3 + 3
    assert found["recall"][0] == 1
    narrow = values([[0.0], [0.1], [0.2], [0.3], [0.15]], [[0.0], [0.1], [5.0], [9.0], [20.0]], "precision", "recall")
    assert narrow["precision"][0] == 1
    assert narrow["recall"][0] == pytest.approx(2 / 5)
    one, four = [[2.0]] * 5, [[0.0], [2.0], [2.0], [4.0]]  # a reach of 0 reaches what is there
    assert [share for share, _ in values(one, four, "precision", "recall").values()] == [1, 0.5]
    assert [share for share, _ in values(four, one, "precision", "recall").values()] == [0.5, 1]


@pytest.mark.parametrize(("n", "m"), [(300, 300), (280, 190), (100, 350)])
def test_precision_and_recall_are_torch_fidelity_s(n, m, monkeypatch):
    from torch_fidelity.metric_prc import prc_features_to_metric

    x, y = odd(n, 12, 1), odd(m, 12, 2) * 1.6 + 0.2
    theirs = prc_features_to_metric(x, y, prc_batch_size=64, save_cpu_ram=True, verbose=False)
    assert 0.1 < theirs["precision"] < 0.95
    for pairs in (2**20, 7 * m, 1):
        monkeypatch.setattr(module, "PAIRS", pairs)
        assert View(x, x, View(y, y)).shares == pytest.approx((theirs["precision"], theirs["recall"]), abs=1e-7)


def test_inception_score_of_sure_and_unsure_classifiers():
    sure = 50.0 * np.eye(4)[np.arange(400) % 4]
    table = torch.tensor(sure)
    lens = Lens(lens_of(table, 4), named(400))
    score = metrics(lens, "")[2]
    assert score.name == "inception_score_400"
    assert score.better == "higher"
    order = torch.arange(400)
    value = float(score.evaluate(judged(floats(named(400)[order], torch.float64)[None])).value)
    assert 3.7 < value <= 4 + 1e-9  # splits of 40 do not have 10 of each class exactly
    flat = Lens(lens_of(0 * table, 4), named(400))
    assert float(metrics(flat, "")[2].evaluate(judged(floats(named(400), torch.float64)[None])).value) == pytest.approx(
        1
    )


def test_the_order_of_images_does_not_matter():
    """To rounding; for the score, which takes random splits, within its errors."""
    x, y = gaussian(300, [1.0, 0], [[1, 0], [0.5, 2]], 4), gaussian(300, [0.0, 0], np.eye(2), 5)
    shuffled = y[np.random.default_rng(1).permutation(300)]
    first, second = values(x, y, *NAMES), values(x[::-1].copy(), shuffled, *NAMES)
    for name in ("fid", "kid", "precision", "recall"):
        assert first[name][0] == pytest.approx(second[name][0], rel=1e-9)
    name = "inception_score"
    assert abs(first[name][0] - second[name][0]) < 5 * math.hypot(first[name][1], second[name][1])


def test_seeds_are_judged_apart():
    x, y = gaussian(600, [1.0, 0], np.eye(2), 4), gaussian(300, [0.0, 0], np.eye(2), 5)
    lens = Lens(lens_of(np.concatenate([x, y])), named(300, 600))
    points = floats(named(600), torch.float64).view(2, 300, 1, 2, 2)
    for metric in metrics(lens, ""):
        both = metric.evaluate(judged(points))
        assert both.value.shape == both.se.shape == (2,)
        assert both.n == 300
        assert float(metric.evaluate(judged(points[:1])).value) == float(both.value[0])


def counted(extract):
    calls = []

    def also(images):
        calls.append(len(images))
        return extract(images)

    return also, calls


def test_a_law_is_seen_once_and_never_taken_for_another():
    """Five metrics get slices of the same points, as the judge makes them; other points are others, in place too."""
    x, y = gaussian(900, [1.0, 0], np.eye(2), 4), gaussian(300, [0.0, 0], np.eye(2), 5)
    extract, calls = counted(lens_of(np.concatenate([x, y])))
    judges = metrics(Lens(extract, named(300, 900)), "")
    points = floats(named(900), torch.float64).view(1, 900, 1, 2, 2)

    def fid_of(cloud):
        fid, *_ = [metric.evaluate(judged(cloud[:, :300])) for metric in judges]
        return float(fid.value)

    first = fid_of(points)
    assert sorted(calls) == [300, 300]  # the points, and the test part
    later = float(judges[0].evaluate(judged(points[:, 300:600])).value)
    assert later != first
    assert len(calls) == 3
    assert fid_of(points) == first
    points[:, :300] = points[:, 300:600].clone()
    assert fid_of(points) == later
    assert len(calls) == 5
    assert fid_of(floats(named(300, 600), torch.float64)[None]) not in (first, later)


def test_the_test_part_is_seen_once_by_one_network():
    x = gaussian(60, [0.0, 0], np.eye(2), 5)
    extract, calls = counted(lens_of(x))
    one = Lens(extract, named(30), "ab").reference
    assert Lens(extract, named(30), "ab").reference is one
    assert len(calls) == 1
    for other in (Lens(extract, named(30)), Lens(extract, named(30), "cd"), Lens(extract, named(30, 1), "cd")):
        assert other.reference is not one
    assert len(calls) == 4


def test_too_few_images_are_refused():
    x = floats(named(3), torch.float64)[None]
    for metric in metrics(Lens(lens_of(np.zeros((9, 2))), named(6, 3), fake=3)):
        with pytest.raises(ValueError, match="at least"):
            metric.evaluate(judged(x))


# ------------------------------------------------------------------------------------------------ the protocol


def lens_with(real, fake, part):
    return Lens(lens_of(np.zeros((real, 2))), torch.zeros(real, 1, 2, 2, dtype=torch.uint8), "", fake, part)


@pytest.mark.parametrize(
    ("real", "fake", "part", "network", "fid", "score"),
    [
        (50_000, None, "train", "", "fid_50k_train", "inception_score_50k"),
        (50_000, 10_000, "train", "", "fid_50k_10k_train", "inception_score_10k"),
        (10_000, 5_000, "test", "", "fid_10k_5k", "inception_score_5k"),
        (10_000, None, "test", "_cifar10@ab12", "fid_10k_cifar10@ab12", "inception_score_10k_cifar10@ab12"),
        (360, 360, "test", "_digits@49a1", "fid_360_digits@49a1", "inception_score_360_digits@49a1"),
        (2_500, 64, "train", "_fashion_mnist@0", "fid_2500_64_train_fashion_mnist@0", "inception_score_64_fashion_mnist@0"),
    ],
)  # fmt: skip
def test_names_say_the_protocol_and_are_read_again(real, fake, part, network, fid, score):
    lens = lens_with(real, fake, part)
    found = [metric.name for metric in metrics(lens, network)]
    assert (found[0], found[2]) == (fid, score)
    assert {metric.points for metric in metrics(lens)} == {fake or real}
    for base, name in zip(NAMES, found, strict=True):
        said = Called.read(name)
        assert said == Called(
            base, 0 if base == "inception_score" else real, fake or real,
            part == "train" and base != "inception_score", network.removeprefix("_"),
        )  # fmt: skip
        assert str(said) == name


@pytest.mark.parametrize(
    "name", ["fid", "w2", "fid_digits@49a1", "fid_train", "precision_", "fid_10k_5k_3k", "xfid_10k"]
)
def test_what_has_no_protocol_is_not_read(name):
    assert Called.read(name) is None


def test_a_law_of_another_number_of_points_gets_no_value():
    x = floats(named(50), torch.float64)[None]
    for metric in metrics(Lens(lens_of(np.eye(120)), named(60, 60), fake=60)):
        with pytest.raises(ValueError, match="its protocol has 60 images, and the law gives 50"):
            metric.evaluate(judged(x))


# ------------------------------------------------------------------------------------------------ the classifier


def made(seed=1, channels=1):
    return Classifier(fresh((channels, 8, 8), 10, torch.Generator().manual_seed(seed)), "0" * 64)


def test_the_network_is_its_formula():
    """Against torch.nn's layers, for an odd size."""
    weights = fresh((3, 9, 7), 5, torch.Generator().manual_seed(2))
    u = torch.randint(0, 256, (4, 3, 9, 7), generator=torch.Generator().manual_seed(3)).to(torch.uint8)
    layers = []
    for i in range(3):
        conv = torch.nn.Conv2d(*weights[f"conv{i}_w"].shape[1::-1], 3, stride=2 if i else 1, padding=1)
        conv.weight.data, conv.bias.data = weights[f"conv{i}_w"], weights[f"conv{i}_b"]
        layers += [conv, torch.nn.ReLU()]
    hidden = (
        torch.nn.Sequential(*layers, torch.nn.Flatten())(u / 127.5 - 1) @ weights["hidden_w"].T + weights["hidden_b"]
    )
    features, logits = outputs(weights, u)
    torch.testing.assert_close(features, hidden.relu())
    torch.testing.assert_close(logits, hidden.relu() @ weights["classes_w"].T + weights["classes_b"])


def test_features_do_not_depend_on_the_batch():
    """They are the network's in double precision, to the rounding of single; in the same places the same bits."""
    weights = made()
    extract = fidelity.by_classifier("alone", weights, CPU)
    test = images.load("digits")[1][:200]
    features, logits = extract(test)
    assert features.dtype == logits.dtype == torch.float32
    double = outputs({key: value.double() for key, value in weights.weights.items()}, test)
    for found, exact in zip((features, logits), double, strict=True):
        torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-6 * float(exact.abs().max()))
    alone = torch.cat([extract(image[None])[0] for image in test])
    torch.testing.assert_close(features, alone, rtol=0, atol=1e-6 * float(features.abs().max()))
    together = fidelity.together(CPU)
    assert torch.equal(extract(test[: 2 * together])[0], features[: 2 * together])


@pytest.mark.parametrize("together", [1, 7, fidelity.TOGETHER_CPU, fidelity.TOGETHER_GPU])
def test_features_of_colour_images_by_the_deep_network(monkeypatch, together):
    """Theirs in double precision, to the rounding of single, however many are seen at once."""
    monkeypatch.setattr(fidelity, "TOGETHER_CPU", together)
    rng = torch.Generator().manual_seed(6)
    deep = Classifier(fresh((3, 12, 10), 10, rng, deep=True), "1" * 64)
    u = torch.randint(0, 256, (100, 3, 12, 10), generator=rng).to(torch.uint8)
    found = fidelity.by_classifier("deep", deep, CPU)(u)
    double = outputs({key: value.double() for key, value in deep.weights.items()}, u)
    for single, exact in zip(found, double, strict=True):
        torch.testing.assert_close(single.double(), exact, rtol=0, atol=2e-6 * float(exact.abs().max()))


def test_a_gpu_sees_more_images_at_once():
    assert fidelity.together(torch.device("cuda")) == fidelity.TOGETHER_GPU > fidelity.together(CPU)


def test_grey_files_with_three_channels_are_seen_as_grey():
    extract = fidelity.by_classifier("channels", made(), CPU)
    test = images.load("digits")[1][:50]
    assert torch.equal(extract(test)[0], extract(test.expand(-1, 3, -1, -1))[0])


def test_the_hash_changes_with_the_weights(monkeypatch, tmp_path):
    task = registry.find("task", "images").load()
    content = (classifier.FOLDER / "digits.npz").read_bytes()
    before = task().build(Streams((3,))).truth.metrics[0].name
    with np.load(classifier.FOLDER / "digits.npz") as arrays:
        changed = dict(arrays)
    changed["classes_b"] = changed["classes_b"] + np.float16(0.01)
    np.savez(tmp_path / "digits.npz", **changed)
    monkeypatch.setattr(classifier, "FOLDER", tmp_path)
    assert task().build(Streams((3,))).truth.metrics[0].name != before
    (tmp_path / "digits.npz").write_bytes(content)
    assert task().build(Streams((3,))).truth.metrics[0].name == before


def test_weights_with_pickles_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", conv0_w=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        Classifier.read((tmp_path / "a.npz").read_bytes())


# ------------------------------------------------------------------------------------------------ Inception


@pytest.fixture
def weights(monkeypatch, tmp_path):
    """A file where torch-fidelity looks for Inception's, under the name that its hash asks for; random weights."""
    content = b"weights"
    place = tmp_path / "checkpoints" / f"weights-inception-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(fidelity, "URL_INCEPTION_V3", f"http://127.0.0.1:9/{place.name}")
    monkeypatch.setattr(torch, "load", lambda *_, **__: {})
    monkeypatch.setattr(fidelity.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
    place.parent.mkdir()
    place.write_bytes(content)
    return place


@pytest.mark.slow
def test_inception_is_used_where_its_weights_are_and_never_called_ours(weights):
    task = registry.parse("task", "images")
    before = torch.get_rng_state()
    metric = task.build(Streams((3,))).truth.metrics[0]
    assert metric.name == "fid_360"
    features, logits = metric.evaluate.args[0].extract(images.load("digits")[1][:2])  # grey: three equal channels
    assert (features.shape, logits.shape) == ((2, 2048), (2, 1008))
    assert not torch.equal(features[0], features[1])
    assert torch.equal(before, torch.get_rng_state())
    weights.unlink()
    assert task.build(Streams((3,))).truth.metrics[0].name.startswith("fid_360_digits@")


def test_damaged_weights_and_failed_downloads_are_said(weights):
    weights.write_bytes(b"torn")
    with pytest.raises(UserError, match="SHA-256"):
        registry.parse("task", "images").build(Streams((3,)))
    weights.unlink()
    with pytest.raises(UserError, match="can't be downloaded"):
        registry.parse("task", "images:download=true").build(Streams((3,)))
    assert not weights.exists()


def test_what_is_absent_says_what_is_missing():
    assert [metric.name for metric in absent("weights")] == list(NAMES)
    assert {metric.unavailable for metric in absent("no weights")} == {"no weights"}
