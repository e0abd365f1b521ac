"""Metrics of boxes as `evaluate.Metric`s that need no download.

    frame_map = FrameMeanAveragePrecision(num_classes=60)
    frame_map.add_batch(predictions=[{"boxes": ..., "scores": ..., "labels": ...}], references=[{"boxes": ..., ...}])
    frame_map.compute()["mean_average_precision"]

A sample is a key frame. A box that shows several actions stands in it once for each of them.
"""

from typing import Any

import datasets
import evaluate
import numpy as np


class FrameMeanAveragePrecision(evaluate.Metric):
    """Mean over the actions of the average precision of their boxes: the frame mAP of AVA (Gu et al., 2018).

    A prediction is a key frame's detections `{"boxes": (n, 4), "scores": (n,), "labels": (n,)}` and a reference its
    ground truth `{"boxes": (m, 4), "labels": (m,)}`; boxes are x1, y1, x2, y2 in any one unit, labels are class
    indices. A frame without detections still needs its entry, with empty lists: what was missed there counts.

    As in the evaluation of AVA and of PASCAL VOC since 2010:

    - a detection belongs to the ground truth of its class that it overlaps most, and is right if their intersection
      over union reaches `iou_threshold` and no detection with a higher score has that ground truth already: a second
      box on the same person is wrong, even where a free person stands beside;
    - the average precision of a class is the area under its precision as a function of recall, where the precision at
      a recall is the highest at that recall or a greater one;
    - a class without ground truth has no average precision and does not enter the mean, whatever was detected.

    Detections with equal scores enter together, so the order of the entries has no influence.

    Returns:
        `mean_average_precision`, nan without any ground truth; `average_precision`, one a class, nan without ground
        truth; `num_samples`, the number of key frames.

    Raises:
        ValueError: a label that is not below `num_classes`, or lists of a frame that differ in length.
    """

    def __init__(self, num_classes: int, iou_threshold: float = 0.5, **kwargs: Any) -> None:
        if not 0 < iou_threshold <= 1:
            raise ValueError(f"iou_threshold={iou_threshold} must lie in (0, 1].")
        self.num_classes, self.iou_threshold = num_classes, iou_threshold
        super().__init__(config_name=type(self).__name__, keep_in_memory=True, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        boxes = {
            "boxes": datasets.List(datasets.List(datasets.Value("float64"), length=4)),
            "labels": datasets.List(datasets.Value("int64")),
        }
        scores = {"scores": datasets.List(datasets.Value("float64"))}
        features = datasets.Features({"predictions": boxes | scores, "references": boxes})
        return evaluate.MetricInfo(description=type(self).__doc__ or "", citation="", features=features)

    def _compute(self, predictions: Any, references: Any) -> dict[str, Any]:
        scores: list[list[np.ndarray]] = [[] for _ in range(self.num_classes)]
        hits: list[list[np.ndarray]] = [[] for _ in range(self.num_classes)]
        num_truths = np.zeros(self.num_classes, dtype=np.int64)
        for prediction, reference in zip(predictions, references, strict=True):
            boxes, labels, confidence = self._entries(prediction, "scores")
            truths, truth_labels, _ = self._entries(reference)
            np.add.at(num_truths, truth_labels, 1)
            for label in np.unique(labels):
                mine = labels == label
                scores[label].append(confidence[mine])
                hits[label].append(
                    match(boxes[mine], confidence[mine], truths[truth_labels == label], self.iou_threshold)
                )
        precisions = [
            average_precision(np.concatenate([np.zeros(0), *s]), np.concatenate([np.zeros(0, bool), *h]), n)
            for s, h, n in zip(scores, hits, num_truths, strict=True)
        ]
        mean = float(np.nanmean(precisions)) if num_truths.any() else float("nan")
        return {"mean_average_precision": mean, "average_precision": precisions, "num_samples": len(references)}

    def _entries(self, frame: dict[str, Any], *also: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boxes (n, 4), labels (n,) and scores (n,) of a frame; of ground truth every score is one."""
        labels = np.asarray(frame["labels"], dtype=np.int64)
        boxes = np.asarray(frame["boxes"], dtype=np.float64).reshape(-1, 4)
        scores = np.asarray(frame["scores"], dtype=np.float64) if also else np.ones(len(labels))
        if not len(boxes) == len(labels) == len(scores):
            raise ValueError(f"a frame has {len(boxes)} boxes, {len(labels)} labels and {len(scores)} scores")
        if len(labels) and not 0 <= labels.min() <= labels.max() < self.num_classes:
            raise ValueError(f"labels={sorted(set(labels.tolist()))} must lie below num_classes={self.num_classes}.")
        return boxes, labels, scores


def box_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union `(n, m)` of boxes `(n, 4)` and `(m, 4)`, each x1, y1, x2, y2."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=-1)
    areas, other_areas = ((b[:, 2:] - b[:, :2]).prod(axis=-1) for b in (boxes, others))
    return shared / np.maximum(areas[:, None] + other_areas - shared, np.finfo(np.float64).tiny)


def match(boxes: np.ndarray, scores: np.ndarray, truths: np.ndarray, iou_threshold: float) -> np.ndarray:
    """Which detections `(n,)` of one class in one frame are right; see `FrameMeanAveragePrecision`."""
    hits = np.zeros(len(boxes), dtype=bool)
    if not len(truths):
        return hits
    overlaps = box_iou(boxes, truths)
    taken = np.zeros(len(truths), dtype=bool)
    for place in np.argsort(-scores, kind="stable"):
        best = overlaps[place].argmax()
        hits[place] = overlaps[place, best] >= iou_threshold and not taken[best]
        taken[best] |= hits[place]
    return hits


def average_precision(scores: np.ndarray, hits: np.ndarray, num_truths: int) -> float:
    """Area under the interpolated precision of detections `(n,)` of one class, as a function of recall."""
    if num_truths == 0:
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    scores, right = scores[order], np.cumsum(hits[order])
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True)[: len(scores)])  # of each run of equal scores
    precision = right[last] / (last + 1)
    recall = right[last] / num_truths
    interpolated = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0.0) * interpolated).sum())
