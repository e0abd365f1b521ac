"""Generators are ranked by their distance from one real set, with a p-value, and videos by their contribution.

pytest tests/evaluation/test_generators.py
"""

import numpy as np
import pytest

from vjepa_hf.evaluation.distance import VideoSetDistance, VideoSetMoments
from vjepa_hf.evaluation.generators import contributions, rank_generators


def features(seed: int, count: int, scale: float = 1.0, width: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, (count, width))


def moments(array: np.ndarray) -> VideoSetMoments:
    result = VideoSetMoments()
    result.add(array)
    return result


def test_the_difference_is_that_of_the_unbiased_distances_and_the_closer_set_is_first():
    real, sets = features(0, 60), {"far": features(1, 40, 1.5), "near": features(2, 50, 1.1)}
    (record,) = rank_generators(
        moments(real), {name: moments(array) for name, array in sets.items()}, permutations=200
    )
    unbiased = {}
    for name, array in sets.items():
        distance = VideoSetDistance()
        distance.update(real=real, generated=array)
        unbiased[name] = distance.compute()["jedi_unbiased"]
    assert record["first"] == "near" and record["second"] == "far"
    assert record["difference"] == pytest.approx(unbiased["far"] - unbiased["near"])
    assert (record["num_first"], record["num_second"]) == (50, 40)
    assert record["p_value"] <= 0.05


def test_p_values_of_equal_generators_are_uniform():
    real = moments(features(0, 60))
    p_values = []
    for seed in range(100):
        sets = {name: moments(features(1000 + 2 * seed + index, 30)) for index, name in enumerate("ab")}
        (record,) = rank_generators(real, sets, seed, permutations=99)
        p_values.append(record["p_value"])
    assert 0.4 < np.mean(p_values) < 0.6 and 1 <= np.sum(np.array(p_values) <= 0.05) <= 11


def test_every_pair_is_compared_and_one_set_is_an_error():
    real = moments(features(0, 20))
    sets = {name: moments(features(index, 20)) for index, name in enumerate("abc", 1)}
    pairs = [{record["first"], record["second"]} for record in rank_generators(real, sets, permutations=9)]
    assert pairs == [{"a", "b"}, {"a", "c"}, {"b", "c"}]
    with pytest.raises(ValueError, match="1 sets of generated videos cannot be ranked"):
        rank_generators(real, {"a": sets["a"]})


def test_contributions_add_up_to_the_distance_and_name_the_video_that_pulls_away():
    real, generated = features(0, 60), features(1, 30)
    generated[7] *= 4
    distance = VideoSetDistance()
    distance.update(real=real, generated=generated)
    values = contributions(distance.real, distance.generated, generated)
    assert values.sum() == pytest.approx(distance.compute()["jedi"])
    assert values.argmax() == 7 and values.min() < 0
