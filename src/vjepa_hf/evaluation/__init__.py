"""Evaluate an encoder: features, probes, metrics, detection.

- `dense_features`: features of a long video, one time step after the other, for whoever looks for moments in it.
- `detection`: what happens in boxes: the files of AVA (Gu et al., 2018), clips around key frames, and detections.
- `features`: tokens of videos from a frozen encoder: kept on disk in shards that are checked when read, or made anew each pass.
- `grouping`: clips of one scene or one person belong together: folds that never split a group, intervals that resample groups.
- `labels`: class indices, and which labels a probe may see.
- `metrics`: metrics of classification as `evaluate.Metric`s that need no download.
- `online`: how good are the features of a run so far: two accuracies on a small labelled set, while pretraining goes on.
- `probes`: judge a frozen encoder: which labels, attentive probes (paper, section 4.3), and scores with their uncertainty.
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
