"""Evaluate an encoder: features, probes, metrics, action detection.

- `comparison`: features of sets of videos, and JEDi between them
- `comparison_page`: an HTML page about a comparison
- `dense_features`: features of long videos, one per time step
- `detection`: action detection: files of AVA, clips around key frames, frame mAP
- `distance`: JEDi, the distance between a set of real and a set of generated videos
- `embedding`: vectors of videos, one per video or per clip
- `export`: files for ONNX Runtime and torch.export, and how their outputs drift
- `features`: tokens of videos, computed once and cached on disk
- `generators`: which of several generators is closer to the real videos
- `labels`: class indices, and class-balanced draws
- `live_features`: tokens of videos, computed in every pass
- `loading`: saved encoder and processor
- `metrics`: classification metrics that need no download
- `online`: evaluation during pretraining: nearest neighbors and a linear probe
- `probes`: attentive probes, hyperparameter sweeps, predictions and metrics
- `search`: the videos of a table that are nearest to a query
- `shards`: files of features that record their origin
- `surprise`: how unexpected each moment of a video is, from predictions of hidden future tokens
- `vector_table`: vectors of videos in a parquet table, written in parts
- `video_embedder`: one vector per video, as MTEB asks for it
- `views`: clips of a video for a frozen encoder
"""

from .comparison import compare_generators, compare_videos, load_set_encoder
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
from .distance import JEDi, VideoSetDistance
from .embedding import VectorEncoder
from .features import extract_features
from .labels import draw_labels, encode_labels
from .live_features import LiveFeatures
from .metrics import MeanClassAccuracy, TopKAccuracy
from .online import OnlineEvaluation
from .probes import fit_probe, predict, score, train_heads
from .search import load_table_encoder, nearest_videos
from .vector_table import VectorTable
from .video_embedder import VideoEmbedder
from .views import AugmentedClips

__all__ = [
    "AugmentedClips",
    "FrameMeanAveragePrecision",
    "JEDi",
    "KeyFrameClips",
    "LiveFeatures",
    "MeanClassAccuracy",
    "OnlineEvaluation",
    "TopKAccuracy",
    "VectorEncoder",
    "VectorTable",
    "VideoEmbedder",
    "VideoSetDistance",
    "collate_key_frames",
    "compare_generators",
    "compare_videos",
    "draw_labels",
    "encode_labels",
    "extract_features",
    "fit_probe",
    "load_set_encoder",
    "load_table_encoder",
    "nearest_videos",
    "plot_detections",
    "predict",
    "read_actions",
    "read_annotations",
    "read_boxes",
    "score",
    "stream_features",
    "to_detections",
    "train_heads",
    "whole_frame_processor",
    "write_features",
    "write_results",
]
