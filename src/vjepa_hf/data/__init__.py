"""From videos to batches of clips with their masks.

- `checks`: check videos before a run, and write smaller copies that training reads faster.
- `clips`: from videos to batches of clips with their masks.
- `input_log`: what the input of a run has been through: unreadable videos, and where streams stand.
- `labelled`: videos with their classes, for training and for evaluation.
- `masking`: which tokens are context and which are targets: per-clip generator in, index lists out.
- `mixing`: several sources as one, each with its weight, and the part of a stream that a worker reads.
- `order`: the order of the clips of a run, a function of (seed, epoch) alone.
- `sources`: where videos come from: every kind of source becomes a table with the column `video`; nothing is decoded here.
- `stream`: clips from streams: every worker reads its own part, and a run resumes exactly where it stood.
- `transforms`: clip-consistent augmentation on uint8 frames, and normalization on the device.
- `videos`: one value of the column `video`: its name, its frames, what it holds.
"""

from ..model.video_io import VideoDecodeError
from .checks import shrink_video
from .clips import ClipReader, PretrainingCollator, VideoClipDataset, augment_clips
from .input_log import InputLog
from .labelled import LabelledVideos, TrainingVideos
from .masking import CausalMask, MaskSampler, MultiBlockMask, TubeMask
from .mixing import mix_videos
from .order import ClipBatchSampler
from .sources import load_images, load_videos
from .stream import ClipStream
from .transforms import Chain, ColorJitter, RandAugment, RandomErasing, RandomResizedCropFlip, normalize
from .videos import VideoFailure, decode_video, probe_video

__all__ = [
    "CausalMask",
    "Chain",
    "ClipBatchSampler",
    "ClipReader",
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
    "TrainingVideos",
    "TubeMask",
    "VideoClipDataset",
    "VideoDecodeError",
    "VideoFailure",
    "augment_clips",
    "decode_video",
    "load_images",
    "load_videos",
    "mix_videos",
    "normalize",
    "probe_video",
    "shrink_video",
]
