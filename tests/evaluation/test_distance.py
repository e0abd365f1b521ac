"""JEDi equals its definition, streams and adds up, and reports how much of it could be chance.

pytest tests/evaluation/test_distance.py
"""

import math

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from vjepa_hf.evaluation import distance as module
from vjepa_hf.evaluation.distance import JEDi, VideoSetDistance, VideoSetMoments, bootstrap_deviations

WIDTH = 12


def features(seed: int, count: int, shift: float = 0.0, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, 1, (count, width))


def distance_of(real, generated, **options) -> VideoSetDistance:
    distance = VideoSetDistance(**options)
    distance.update(real=real, generated=generated)
    return distance


def kernel_means(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """JEDi by the definition: with the diagonals, and without them."""

    def kernel(a, b):
        return (a @ b.T / x.shape[1]) ** 2

    def off_diagonal(k):
        return (k.sum() - np.trace(k)) / (len(k) * (len(k) - 1))

    xx, yy, xy = kernel(x, x), kernel(y, y), kernel(x, y)
    biased = xx.mean() + yy.mean() - 2 * xy.mean()
    return 100 * biased, 100 * (off_diagonal(xx) + off_diagonal(yy) - 2 * xy.mean())


# --- definition ---


@pytest.mark.parametrize("sizes", [(2, 2), (7, 40), (64, 31)])
def test_the_closed_form_equals_the_kernel_formula(sizes):
    x, y = features(0, sizes[0]), features(1, sizes[1], shift=0.3)
    result = distance_of(x, y).compute()
    assert (result["jedi"], result["jedi_unbiased"]) == pytest.approx(kernel_means(x, y), rel=1e-12, abs=1e-10)
    assert (result["num_real"], result["num_generated"]) == sizes
    assert result["similarity"] == pytest.approx(math.exp(-0.4 * result["jedi"]))


def test_the_value_equals_that_of_the_polynomial_kernel_of_scikit_learn():
    pairwise = pytest.importorskip("sklearn.metrics.pairwise", reason="scikit-learn is not installed")
    x, y = features(0, 50), features(1, 60, shift=0.2)
    means = [
        pairwise.polynomial_kernel(a, b, degree=2, gamma=None, coef0=0).mean() for a, b in ((x, x), (y, y), (x, y))
    ]
    expected = 100 * (means[0] + means[1] - 2 * means[2])
    assert distance_of(x, y).compute()["jedi"] == pytest.approx(expected, abs=1e-10)


# From sklearn 1.9.1: 100 * (mean of polynomial_kernel(degree=2, gamma=None, coef0=0) of x, x + y, y - 2 * x, y).
SKLEARN = {(50, 60, 0.2): 5.0255022406884144, (9, 4, 1.0): 134.45887401429596}


@pytest.mark.parametrize("case", SKLEARN)
def test_the_value_equals_recorded_ones_of_scikit_learn(case):
    num_real, num_generated, shift = case
    x, y = features(0, num_real), features(1, num_generated, shift)
    assert distance_of(x, y).compute()["jedi"] == pytest.approx(SKLEARN[case], abs=1e-10)


def test_a_set_has_distance_zero_from_itself_and_from_its_negative():
    x = features(0, 30)
    for other in (x, -x, x[::-1]):
        assert distance_of(x, other).compute()["jedi"] == pytest.approx(0, abs=1e-12)


# --- chance ---


@pytest.mark.parametrize("count, published", [(50, 4.03), (256, 0.78)])
def test_independent_features_have_the_published_value_but_no_unbiased_one(count, published):
    x, y = (features(seed, count, width=512) for seed in (0, 1))
    result = distance_of(x, y, replicates=50).compute()
    assert result["jedi"] == pytest.approx(published, rel=0.05)
    assert abs(result["jedi_unbiased"]) < 0.05 * published
    assert "below twice the floor" in result["warnings"][0]


@pytest.mark.parametrize("count", [40, 41])
def test_the_floor_is_the_mean_over_random_halves_of_the_real_set(count):
    x = features(0, count)
    floor = distance_of(x, features(1, 20)).compute()["floor"]
    rng = np.random.default_rng(0)
    halves = []
    for _ in range(400):
        order = rng.permutation(count)
        halves.append(kernel_means(x[order[: count // 2]], x[order[count // 2 :]])[0])
    assert floor == pytest.approx(np.mean(halves), rel=4 * np.std(halves) / np.mean(halves) / 20)


def test_a_difference_far_above_the_floor_has_no_warning():
    result = distance_of(features(0, 60), features(1, 60, shift=1)).compute()
    assert result["jedi"] > 2 * result["floor"] and result["warnings"] == []
    low, high = result["jedi_interval"]
    assert low < result["jedi"] < high and low > result["floor"]


def test_the_bootstrap_equals_jedi_of_resampled_sets():
    x, y = features(0, 9), features(1, 7, shift=0.5)
    distance = distance_of(x, y)
    deviations = bootstrap_deviations(distance.real, distance.generated, seed=3, replicates=20)
    values = []
    draws = [module.generator("jedi bootstrap", 3, index) for index in (0, 1)]
    samples = distance.real.sample, distance.generated.sample
    counts = [
        rng.multinomial(len(s), np.full(len(s), 1 / len(s)), size=20) for rng, s in zip(draws, samples, strict=True)
    ]
    for real_counts, generated_counts in zip(*counts, strict=True):
        resampled = samples[0].repeat(real_counts, axis=0), samples[1].repeat(generated_counts, axis=0)
        values.append(kernel_means(*resampled)[0])
    np.testing.assert_allclose(deviations, np.array(values) - np.mean(values), atol=1e-10)


@pytest.mark.parametrize("scale, fewest", [(1.0, 95), (1.3, 90)])
def test_intervals_contain_the_distance_of_the_distributions_and_exclude_zero_if_it_is_large(scale, fewest):
    # Features with standard deviations 1 and `scale`: M is the identity times 1 and scale^2. Near zero the intervals
    # are wider than 95 %, because the bootstrap sees the noise of the difference twice.
    width, count = 4, 150
    truth = 100 / width * (scale**2 - 1) ** 2
    hits = above_zero = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        x, y = rng.normal(0, 1, (count, width)), rng.normal(0, scale, (count, width))
        low, high = distance_of(x, y, replicates=100).compute()["jedi_unbiased_interval"]
        hits += low <= truth <= high
        above_zero += low > 0
    assert hits >= fewest and (above_zero >= 90 if scale > 1 else above_zero <= 5)


def test_a_bounded_sample_gives_about_the_interval_of_all_videos(monkeypatch):
    x, y = features(0, 1200), features(1, 1200, shift=0.3)
    whole = distance_of(x, y).compute()
    monkeypatch.setattr(module, "MAX_SAMPLE", 300)
    sampled = distance_of(x, y)
    assert sampled.real.sample.shape == (300, WIDTH)
    widths = [high - low for low, high in (whole["jedi_interval"], sampled.compute()["jedi_interval"])]
    assert widths[1] == pytest.approx(widths[0], rel=0.25)
    assert sampled.compute()["jedi"] == whole["jedi"]


# --- streams ---


def test_the_result_does_not_depend_on_batches_their_order_or_processes(monkeypatch):
    monkeypatch.setattr(module, "MAX_SAMPLE", 16)
    x, y = features(0, 40), features(1, 30, shift=0.5)
    whole = distance_of(x, y).compute()
    parts = [VideoSetDistance() for _ in range(4)]
    for index in np.random.default_rng(0).permutation(10):
        parts[index % 4].update(real=x[4 * index : 4 * index + 4])
        parts[index % 3].update(generated=torch.from_numpy(y[3 * index : 3 * index + 3]))
    total = VideoSetDistance()
    for part in parts[::-1]:
        total.merge(part)
    merged = total.compute()
    assert merged.keys() == whole.keys()
    for name in set(whole) - {"warnings"}:
        assert merged[name] == pytest.approx(whole[name], rel=1e-12, abs=1e-12), name


def test_the_size_of_the_sums_does_not_depend_on_the_number_of_videos(monkeypatch):
    monkeypatch.setattr(module, "MAX_SAMPLE", 16)
    moments = VideoSetMoments()
    for seed in range(10):
        moments.add(features(seed, 32))
    assert moments.count == 320
    assert (moments.second.shape, moments.sample.shape, moments._hashes.shape) == ((WIDTH, WIDTH), (16, WIDTH), (16,))


def test_saved_sums_continue_where_they_stopped(tmp_path):
    x, y = features(0, 20), features(1, 20, shift=0.5)
    distance = VideoSetDistance()
    distance.update(real=x[:12], generated=y)
    distance.real.save(tmp_path / "real.safetensors", {"encoder": "abc"})
    resumed = VideoSetDistance()
    resumed.real, origin = VideoSetMoments.load(tmp_path / "real.safetensors")
    resumed.update(real=x[12:], generated=y)
    distance.update(real=x[12:])
    assert origin == {"encoder": "abc"} and resumed.compute() == distance.compute()


def test_a_metric_takes_sets_of_different_sizes_and_starts_again_after_compute():
    x, y = features(0, 20), features(1, 9, shift=0.5)
    expected = distance_of(x, y).compute()
    metric = JEDi()
    assert metric.compute(predictions=y, references=x) == expected
    metric.add_batch(references=x[:15], predictions=y)
    metric.add_batch(references=x[15:-1])
    metric.add(reference=x[-1])
    assert metric.compute()["jedi"] == pytest.approx(expected["jedi"])


def test_the_state_of_the_process_does_not_change():
    before = torch.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"].copy()
    assert (
        distance_of(features(0, 9), features(1, 9)).compute() == distance_of(features(0, 9), features(1, 9)).compute()
    )
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state(legacy=False)["state"]["key"]).all()
    assert not torch.distributed.is_initialized()


# --- mistakes ---


@pytest.mark.parametrize(
    "real, message",
    [
        (features(0, 1), "1 real videos are too few: a set needs at least 2"),
        (np.empty((0, WIDTH)), "0 real videos are too few"),
        (np.ones((5, WIDTH)), "the features of all 5 real videos are equal"),
        (np.zeros((5, WIDTH)), "the features of all 5 real videos are equal"),
        (np.array([[1.0], [-1.0]]) * np.ones((2, WIDTH)), "equal, up to their sign"),
    ],
)
def test_sets_that_cannot_be_compared_are_errors(real, message):
    with pytest.raises(ValueError, match=message):
        distance_of(real, features(1, 5)).compute()


@pytest.mark.parametrize(
    "generated, message",
    [
        (np.full((3, WIDTH), np.nan), "generated features of video 0 are not finite"),
        (np.where(np.arange(36).reshape(3, 12) == 30, np.inf, 1.0), "generated features of video 2 are not finite"),
        (np.ones(WIDTH), r"shape \(12,\), but must be \(n, D\)"),
        (np.ones((3, 4, WIDTH)), r"must be \(n, D\)"),
        (np.ones((3, 5)), "width 5, but earlier ones 12"),
    ],
)
def test_wrong_features_are_errors_and_nothing_is_added(generated, message):
    distance = VideoSetDistance()
    with pytest.raises(ValueError, match=message):
        distance.update(real=features(0, 5), generated=generated)
    assert distance.real.count == distance.generated.count == 0


def test_objects_of_unequal_settings_or_widths_do_not_merge():
    with pytest.raises(ValueError, match='encoder is "b" instead of "a"'):
        VideoSetDistance({"encoder": "a"}).merge(VideoSetDistance({"encoder": "b"}))
    with pytest.raises(ValueError, match=r"several widths, \[5, 12\]"):
        distance_of(features(0, 3), None).merge(distance_of(None, features(0, 3, width=5)))


def test_a_damaged_file_of_statistics_is_an_error(tmp_path):
    path = tmp_path / "real.safetensors"
    distance_of(features(0, 3), None).real.save(path, {})
    content = path.read_bytes()
    for damaged in (content[:-8], b"", b"not a file"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="not a complete file of statistics .* delete it"):
            VideoSetMoments.load(path)
    save_file({"weights": np.ones(3)}, path)
    with pytest.raises(ValueError, match="not a complete file of statistics"):
        VideoSetMoments.load(path)
