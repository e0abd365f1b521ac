"""From videos to batches of clips with their masks.

- `checks`: check videos before a run, and write smaller copies
- `clips`: random augmented clips, and batches of them
- `file_types`: which files are videos
- `input_log`: counts of unreadable videos, and the positions of streams
- `labelled`: clips with labels, for fine-tuning and evaluation
- `masking`: which tokens are context and which are targets
- `mixing`: several sources as one table, and the shard of a worker
- `order`: the order of the clips of a run
- `randomness`: random generators as functions of purpose, seed and key
- `shards`: streams of shards, also of damaged ones
- `sources`: folders, lists, shards and datasets as tables of videos
- `stream`: clips from streams, resumable
- `tables`: tables of `datasets`, cached by the content of files
- `transforms`: augmentation, the same for all frames of a clip
- `videos`: one video of a table: its frames, its properties, its failure
"""

from ..model.video_inputs import open_video
from ..model.video_io import VideoDecodeError
from .checks import shrink_video
from .clips import ClipReader, PretrainingCollator, VideoClipDataset, augment_clips
from .input_log import InputLog
from .labelled import LabelledVideos, TrainingVideos
from .masking import MaskSampler, MultiBlockMask, RandomTubeMask
from .mixing import mix_videos
from .order import ClipBatchSampler, ClipRequest
from .sources import load_images, load_videos
from .stream import ClipStream
from .transforms import Chain, ColorJitter, RandAugment, RandomErasing, RandomResizedCropFlip, normalize
from .videos import VideoFailure, decode_video, probe_video

__all__ = [
    "Chain",
    "ClipBatchSampler",
    "ClipReader",
    "ClipRequest",
    "ClipStream",
    "ColorJitter",
    "InputLog",
    "LabelledVideos",
    "MaskSampler",
    "MultiBlockMask",
    "PretrainingCollator",
    "RandAugment",
    "RandomErasing",
    "RandomResizedCropFlip",
    "RandomTubeMask",
    "TrainingVideos",
    "VideoClipDataset",
    "VideoDecodeError",
    "VideoFailure",
    "augment_clips",
    "decode_video",
    "load_images",
    "load_videos",
    "mix_videos",
    "normalize",
    "open_video",
    "probe_video",
    "shrink_video",
]
