"""Tasks of a user's own files: what is read, what is refused, and that the numbers are right."""

import math

import numpy as np
import pytest
import torch

import gwfbench
from gwfbench.errors import UserError
from gwfbench.info import Initial, LogDensity, TargetSamples
from gwfbench.plugins import registry
from gwfbench.rng import Streams

RNG = np.random.default_rng(0)
POINTS = RNG.normal(size=(101, 3)) * [1.0, 10.0, 0.1] + [5.0, 0.0, -1.0]


def built(text, seeds=(0, 1), dtype=torch.float64):
    return registry.parse("task", text).build(Streams(seeds, dtype=dtype).fork("task"))


@pytest.fixture
def files(tmp_path):
    """The same points in each kind of file."""
    np.save(tmp_path / "a.npy", POINTS)
    np.savez(tmp_path / "a.npz", whatever=POINTS)
    body = "\n".join(",".join(repr(float(x)) for x in row) for row in POINTS)
    (tmp_path / "plain.csv").write_text(body)
    (tmp_path / "named.csv").write_text("\ufeffx,y,1\n" + body + "\n")
    return tmp_path


def test_each_kind_of_file_holds_the_same_points(files):
    draws = [
        built(f"own_samples:file={files / name},scale=none").truth.draw(0, 51, Streams((0,), dtype=torch.float64))
        for name in ("a.npy", "a.npz", "plain.csv", "named.csv")
    ]
    assert all(torch.equal(draws[0], one) for one in draws)


def test_halves_have_each_point_once_and_nothing_in_common(files):
    made = built(f"own_samples:file={files / 'a.npy'},scale=none")
    train = made.truth.draw(0, 51, Streams((0, 1), dtype=torch.float64))
    test = made.truth.reference(0, 51, Streams((0, 1), dtype=torch.float64))
    assert (train.shape, test.shape) == ((2, 51, 3), (2, 50, 3))
    for seed in (0, 1):
        both = sorted(map(tuple, torch.cat([train[seed], test[seed]]).tolist()))
        assert both == sorted(map(tuple, POINTS.tolist()))
    given = made.problem[TargetSamples].draw(2000, Streams((0, 1), dtype=torch.float64))
    assert set(map(tuple, given[0].tolist())) == set(map(tuple, train[0].tolist())), "methods never see the test half"


def test_standard_units_are_those_of_the_training_half(files):
    made = built(f"own_samples:file={files / 'a.npy'}")
    train = made.truth.draw(0, 51, Streams((0,), dtype=torch.float64))[0]
    torch.testing.assert_close(train.mean(0), torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(train.std(0, correction=0), torch.ones(3, dtype=torch.float64))


def test_a_constant_column_and_a_single_one_are_taken(tmp_path):
    np.save(tmp_path / "flat.npy", np.column_stack([POINTS[:, 0], np.full(101, 7.0)]))
    np.save(tmp_path / "line.npy", POINTS[:, 0])
    flat = built(f"own_samples:file={tmp_path / 'flat.npy'}").truth.draw(0, 51, Streams((0,)))
    assert bool((flat[..., 1] == 0).all())
    assert built(f"own_samples:file={tmp_path / 'line.npy'}").problem.shape == (1,)


def test_the_start_has_its_density():
    start = built("own_samples:start=2").problem[Initial]
    x = start.draw(20_000, Streams((0,), dtype=torch.float64))
    assert float(x.std()) == pytest.approx(2, rel=0.02)
    normal = torch.distributions.Normal(0.0, 2.0)
    torch.testing.assert_close(start.log_prob(x), normal.log_prob(x).sum(-1))


WRONG = {
    "few.npy": (lambda path: np.save(path, POINTS[:5]), "5 rows"),
    "nan.npy": (lambda path: np.save(path, np.where(POINTS > 20, np.nan, POINTS)), "not finite, for example row"),
    "deep.npy": (lambda path: np.save(path, np.zeros((30, 2, 2))), "shape (30, 2, 2)"),
    "two.npz": (lambda path: np.savez(path, a=POINTS, b=POINTS), "arrays a, b"),
    "words.csv": (lambda path: path.write_text("x,y\n" + "1,red\n" * 30), "column y has something else"),
    "text.npy": (lambda path: path.write_text("no"), "text.npy"),
    "object.npy": (lambda path: np.save(path, np.array([{}] * 30), allow_pickle=True), "pickle"),
    "complex.npy": (lambda path: np.save(path, POINTS * 1j), "complex128"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_table_is_refused_with_the_reason(tmp_path, name):
    make, said = WRONG[name]
    make(tmp_path / name)
    with pytest.raises(UserError) as told:
        built(f"own_samples:file={tmp_path / name}")
    assert said in str(told.value)


@pytest.mark.parametrize("task", ["own_samples", "own_logistic"])
@pytest.mark.parametrize(("file", "said"), [("none.csv", "no such file"), ("mine.xlsx", "ends in .csv")])
def test_a_file_that_is_not_there_is_told_before_anything_runs(cli, task, file, said):
    code, _, err = cli("run", "--task", f"{task}:file={file}", "--method", "still")
    assert (code, said in err) == (2, True), err


def test_what_a_file_holds_is_part_of_a_run_s_code(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, POINTS)
    from gwfbench.drive.controls import CONTROLS
    from gwfbench.drive.job import Job

    one = Job(registry.parse("task", f"own_samples:file={path}"), CONTROLS["still"], (0,)).code()
    np.save(path, POINTS + 1)
    assert Job(registry.parse("task", f"own_samples:file={path}"), CONTROLS["still"], (0,)).code() != one


def test_a_method_runs_on_one_s_own_points(files):
    rows = gwfbench.run(
        f"own_samples:file={files / 'a.npy'},scale=none", "sliced_flow:steps=200", 1, isolate=False, curve=False
    )
    by = rows[rows["metric"] == "energy_distance"].set_index("method")["value"]
    assert by.filter(like="sliced_flow").iloc[0] < by["still"] / 2


# ------------------------------------------------------------------------------------------------- logistic regression


def signed(path, n=400):
    """Rows of features and a class that follow a logistic law."""
    f = RNG.normal(size=(n, 2)) * [1.0, 3.0]
    p = 1 / (1 + np.exp(-(0.5 + f @ [1.0, -0.5])))
    np.save(path, np.column_stack([f, np.where(RNG.uniform(size=n) < p, 4.0, 2.0)]))


def test_the_posterior_is_the_formula_s(tmp_path):
    path = tmp_path / "a.npy"
    signed(path)
    made = built(f"own_logistic:file={path},deviation=2", (0,))
    rows = np.load(path)[np.random.default_rng(42).permutation(400)]
    f, y = rows[:320, :2], np.where(rows[:320, 2] == 4, 1.0, -1.0)
    f = np.column_stack([np.ones(320), (f - f.mean(0)) / f.std(0)])
    w = np.array([[0.3, -0.2, 0.9], [1.0, 2.0, -1.0]])
    expected = -np.log1p(np.exp(-y * (w @ f.T))).sum(1) - (w**2).sum(1) / 8 - 1.5 * math.log(2 * math.pi * 4)
    found = made.problem[LogDensity].log_prob(torch.from_numpy(w)[None])[0].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_laplace_is_exact_where_the_law_is_gaussian():
    cls = registry.find("task", "own_logistic").load()
    import sys

    laplace = sys.modules[cls.__module__].laplace
    precision = torch.tensor([[4.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    mean = torch.tensor([3.0, -1.0], dtype=torch.float64)
    law = LogDensity(lambda x: -0.5 * ((x - mean) @ precision * (x - mean)).sum(-1), lambda x: -(x - mean) @ precision)
    torch.testing.assert_close(laplace(law, 2, torch.device("cpu")), torch.linalg.inv(precision))


def test_ksd_is_about_0_for_draws_of_the_posterior_and_not_for_the_prior(tmp_path):
    """By importance resampling from Laplace's approximation, widened, in three dimensions."""
    path = tmp_path / "a.npy"
    signed(path)
    made = built(f"own_logistic:file={path}", (0,))
    import sys

    module = sys.modules[registry.find("task", "own_logistic").load().__module__]
    law = made.problem[LogDensity]
    covariance = 1.5 * module.laplace(law, 3, torch.device("cpu"))
    w = torch.zeros(1, 1, 3, dtype=torch.float64)
    for _ in range(200):
        w = w + 0.002 * law.score(w)
    proposal = torch.distributions.MultivariateNormal(w[0, 0], covariance)
    torch.manual_seed(0)
    x = proposal.sample((200_000,))
    weights = torch.softmax(law.log_prob(x[None])[0] - proposal.log_prob(x), 0)
    draws = x[torch.multinomial(weights, 3000, replacement=False)]
    by = {metric.name: metric for metric in made.truth.metrics}

    def value(points):
        from gwfbench.protocol import Judged

        return by["ksd_laplace"].evaluate(Judged(points[None], None, made.truth, 0, Streams((0,))))

    good, bad = value(draws), value(made.problem[Initial].draw(3000, Streams((0,), dtype=torch.float64))[0])
    assert abs(float(good.value)) < 6 * float(good.se)
    assert float(bad.value) > 100 * abs(float(good.value))


@pytest.mark.parametrize("column", [np.zeros(100), np.arange(100.0)])
def test_a_last_column_without_two_classes_is_told(tmp_path, column):
    np.save(tmp_path / "a.npy", np.column_stack([np.arange(100.0), column]))
    with pytest.raises(UserError, match="two classes in the last column"):
        built(f"own_logistic:file={tmp_path / 'a.npy'}")
