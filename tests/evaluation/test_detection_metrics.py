"""Frame mAP equals values computed by hand.

pytest tests/evaluation/test_detection_metrics.py
"""

import itertools
import math

import numpy as np
import pytest

from vjepa_hf.evaluation.detection import FrameMeanAveragePrecision, average_precision, box_iou

LEFT, RIGHT, BELOW = [0.0, 0.0, 1.0, 1.0], [2.0, 0.0, 3.0, 1.0], [0.0, 5.0, 1.0, 6.0]
LEFT_HALF = [0.0, 0.0, 0.5, 1.0]  # half of LEFT: their intersection over union is one half
LEFT_LESS = [0.0, 0.0, 0.49, 1.0]


def truth(*boxes, labels=None):
    return {"boxes": list(boxes), "labels": labels or [0] * len(boxes)}


def scored(*boxes_and_scores, labels=None):
    boxes, scores = [box for box, _ in boxes_and_scores], [score for _, score in boxes_and_scores]
    return {"boxes": boxes, "scores": scores, "labels": labels or [0] * len(boxes)}


def frame_map(predictions, references, num_classes=1, **options):
    return FrameMeanAveragePrecision(num_classes, **options).compute(predictions=predictions, references=references)


def test_exact_detections_give_one_and_no_detections_give_zero():
    references = [truth(LEFT, RIGHT), truth(BELOW)]
    exact = [scored((LEFT, 0.9), (RIGHT, 0.2)), scored((BELOW, 0.5))]
    assert frame_map(exact, references)["mean_average_precision"] == 1.0
    result = frame_map([scored(), scored()], references)
    assert result == {"mean_average_precision": 0.0, "average_precision": [0.0], "num_samples": 2}


@pytest.mark.parametrize("box, expected", [(LEFT_HALF, 1.0), (LEFT_LESS, 0.0)])
def test_an_overlap_of_exactly_the_threshold_is_enough(box, expected):
    assert frame_map([scored((box, 1.0))], [truth(LEFT)])["mean_average_precision"] == expected
    assert frame_map([scored((box, 1.0))], [truth(LEFT)], iou_threshold=0.51)["mean_average_precision"] == 0.0


def test_a_second_detection_of_the_same_box_is_wrong():
    # .9 correct, .8 wrong, .7 correct: precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1. Area: 1/2 * 1 + 1/2 * 2/3.
    predictions = [scored((LEFT, 0.9), (LEFT_HALF, 0.8), (RIGHT, 0.7))]
    assert frame_map(predictions, [truth(LEFT, RIGHT)])["mean_average_precision"] == pytest.approx(5 / 6)
    # Whichever of the two overlaps more, the one with the higher score comes first.
    predictions = [scored((LEFT, 0.8), (LEFT_HALF, 0.9), (RIGHT, 0.7))]
    assert frame_map(predictions, [truth(LEFT, RIGHT)])["mean_average_precision"] == pytest.approx(5 / 6)


def test_a_second_detection_is_not_matched_with_the_box_next_to_it():
    neighbor = [0.25, 0.0, 1.25, 1.0]  # its intersection over union with LEFT is .75 / 1.25 = .6
    predictions = [scored((LEFT, 0.9), (LEFT, 0.8))]
    assert frame_map(predictions, [truth(LEFT, neighbor)])["mean_average_precision"] == 0.5


def test_the_precision_at_a_recall_is_the_highest_at_that_recall_or_above():
    # .9 wrong, .8 correct, .7 correct, .6 wrong, .5 correct of 4: precision 0, 1/2, 2/3, 1/2, 3/5; interpolated: 2/3
    # at recall 1/4 and 2/4, 3/5 at 3/4; the fourth is not detected.
    predictions = [scored((BELOW, 0.9), (LEFT, 0.8)), scored((LEFT, 0.7), (BELOW, 0.6)), scored((RIGHT, 0.5))]
    references = [truth(LEFT), truth(LEFT, RIGHT), truth(RIGHT)]
    expected = (2 / 3 + 2 / 3 + 3 / 5) / 4
    assert frame_map(predictions, references)["mean_average_precision"] == pytest.approx(expected)


def test_scores_are_ranked_over_all_frames():
    predictions = [scored((BELOW, 0.9)), scored((LEFT, 0.8))]
    assert frame_map(predictions, [truth(), truth(LEFT)])["mean_average_precision"] == 0.5
    predictions = [scored((BELOW, 0.7)), scored((LEFT, 0.8))]
    assert frame_map(predictions, [truth(), truth(LEFT)])["mean_average_precision"] == 1.0


def test_a_class_without_ground_truth_is_excluded_from_the_mean():
    predictions = [scored((LEFT, 0.9), (LEFT, 0.8), (LEFT, 0.7), labels=[0, 1, 2])]
    result = frame_map(predictions, [truth(LEFT, BELOW, labels=[0, 2])], num_classes=4)
    assert result["mean_average_precision"] == 0.5
    assert result["average_precision"][0] == 1.0 and result["average_precision"][2] == 0.0
    assert math.isnan(result["average_precision"][1]) and math.isnan(result["average_precision"][3])
    assert math.isnan(frame_map([scored((LEFT, 0.9))], [truth()])["mean_average_precision"])


def test_a_detection_of_the_wrong_class_is_wrong():
    result = frame_map([scored((LEFT, 0.9), labels=[1])], [truth(LEFT, RIGHT, labels=[0, 1])], num_classes=2)
    assert result["average_precision"] == [0.0, 0.0]


def test_the_order_of_equal_scores_has_no_influence():
    # 1 correct of 3 at .5, then 2 of 4: precision 1/3 and 1/2 at recall 1/2 and 1, interpolated 1/2 and 1/2.
    entries = [(LEFT, 0.5), (BELOW, 0.5), (LEFT_HALF, 0.5), (RIGHT, 0.1)]
    results = {
        frame_map([scored(*order)], [truth(LEFT, RIGHT)])["mean_average_precision"]
        for order in itertools.permutations(entries)
    }
    assert results == {0.5}
    assert average_precision(np.array([0.5, 0.5]), np.array([True, False]), 1) == 0.5


def test_batches_add_up_to_the_whole():
    predictions = [scored((BELOW, 0.9)), scored((LEFT, 0.8)), scored()]
    references = [truth(), truth(LEFT), truth(RIGHT)]
    metric = FrameMeanAveragePrecision(num_classes=1)
    for prediction, reference in zip(predictions, references, strict=True):
        metric.add_batch(predictions=[prediction], references=[reference])
    assert metric.compute() == frame_map(predictions, references)


def test_overlap_is_intersection_over_union():
    boxes = np.array([LEFT, LEFT_HALF, [0.5, 0.5, 1.5, 1.5], [1.0, 1.0, 1.0, 1.0]])
    np.testing.assert_allclose(box_iou(boxes, np.array([LEFT, RIGHT])), [[1, 0], [0.5, 0], [0.25 / 1.75, 0], [0, 0]])


@pytest.mark.parametrize(
    "prediction, message",
    [
        (scored((LEFT, 0.9), labels=[1]), "num_classes=1"),
        ({"boxes": [LEFT], "scores": [], "labels": [0]}, "1 boxes, 1 labels and 0 scores"),
    ],
)
def test_wrong_entries_are_clear_errors(prediction, message):
    with pytest.raises(ValueError, match=message):
        frame_map([prediction], [truth(LEFT)])
    with pytest.raises(ValueError, match="iou_threshold=0"):
        FrameMeanAveragePrecision(num_classes=1, iou_threshold=0)
