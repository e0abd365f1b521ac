"""`pipeline("video-classification")` for V-JEPA: batches of videos, and saving with the video processor."""

from collections.abc import Iterable
from typing import Any

import torch
from transformers.pipelines.video_classification import VideoClassificationPipeline
from transformers.utils import logging

from .model.configuration_vjepa import VJEPAConfig
from .model.video_inputs import is_one_video, list_videos

logger = logging.get_logger(__name__)


class VJEPAVideoClassificationPipeline(VideoClassificationPipeline):
    """Pipeline of transformers that takes a `batch_size`, and loads again after `save_pretrained`.

    transformers (5.17 to 5.24) batches and saves a feature extractor, but not a video processor. Therefore the
    video processor of a V-JEPA model is the feature extractor too. Other models are not affected.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        config = self.model.config
        if config.model_type != VJEPAConfig.model_type:
            return
        if self.feature_extractor is None:
            self.feature_extractor = self.video_processor  # type: ignore[assignment]
        if all(name == f"LABEL_{index}" for index, name in (config.id2label or {}).items()):
            logger.warning_once(
                "the classes have no names, so answers say LABEL_0, LABEL_1, ...: convert the probe again with "
                "--class_names FILE (https://github.com/facebookresearch/jepa/issues/18 lists those of K400), or set "
                "model.config.id2label."
            )

    def __call__(self, inputs: Any = None, **kwargs: Any) -> Any:  # type: ignore[override]
        """Classify a video, or each of several videos, such as a column of `datasets`; a stream gives an iterator."""
        if is_one_video(inputs):
            return super().__call__([inputs], **kwargs)[0]  # a list of frames is one video
        if isinstance(inputs, Iterable) and not isinstance(inputs, torch.utils.data.Dataset):
            is_stream = not hasattr(inputs, "__len__")
            inputs = (video for video in inputs) if is_stream else list_videos(inputs)
        return super().__call__(inputs, **kwargs)
