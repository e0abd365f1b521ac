"""Evaluate an encoder: features, probes, metrics, action detection.

- `dense_features`: features of long videos, one per time step
- `detection`: action detection: AVA's files, clips around key frames, frame mAP
- `features`: features of videos, in checked shards or computed on the fly
- `grouping`: cross-validation folds and intervals over groups
- `labels`: class indices, and few-label draws
- `metrics`: classification metrics that need no download
- `online`: evaluate during pretraining: nearest neighbours and a linear probe
- `probes`: attentive probes, sweeps of them, and scores
"""

from .dense_features import stream_features, write_features
from .detection import (
    FrameMeanAveragePrecision,
    KeyFrameClips,
    collate_key_frames,
    plot_detections,
    read_actions,
    read_annotations,
    read_boxes,
    to_detections,
    whole_frame_processor,
    write_results,
)
from .features import AugmentedClips, LiveFeatures, extract_features
from .grouping import grouped_folds, grouped_interval
from .labels import draw_labels, encode_labels
from .metrics import MeanClassAccuracy, TopKAccuracy
from .online import OnlineEvaluation
from .probes import fit_probe, predict, score

__all__ = [
    "AugmentedClips",
    "FrameMeanAveragePrecision",
    "KeyFrameClips",
    "LiveFeatures",
    "MeanClassAccuracy",
    "OnlineEvaluation",
    "TopKAccuracy",
    "collate_key_frames",
    "draw_labels",
    "encode_labels",
    "extract_features",
    "fit_probe",
    "grouped_folds",
    "grouped_interval",
    "plot_detections",
    "predict",
    "read_actions",
    "read_annotations",
    "read_boxes",
    "score",
    "stream_features",
    "to_detections",
    "whole_frame_processor",
    "write_features",
    "write_results",
]
