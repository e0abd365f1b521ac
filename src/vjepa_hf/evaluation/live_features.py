"""Tokens of videos, computed again in every pass, so that augmented clips differ in every epoch."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from ..data.videos import VideoFailure
from ..model.modeling_vjepa import VJEPAModel
from ..model.video_processing_vjepa import VJEPAVideoProcessor
from .features import FrozenEncoder, view_of_epoch
from .views import AugmentedClips, Clips, RegularClips, ViewDataset


class LiveFeatures:
    """Features with the interface of `VideoFeatures` that decodes and encodes the videos in every pass.

    It takes the arguments of `extract_features`, without the folder.

    Attributes:
        failures: row -> failure, for the unreadable videos among the rows read so far.

    Raises:
        ValueError: there are several processes, which would all do the same work.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: VJEPAModel,
        processor: VJEPAVideoProcessor | Clips,
        videos: Sequence[Any],
        batch_size: int = 16,
        num_workers: int = 0,
        layers: Sequence[int] | None = None,
    ) -> None:
        if accelerator.num_processes > 1:
            raise ValueError(
                f"live features need a single process, not {accelerator.num_processes}: launch one, or cache the "
                "features in a folder"
            )
        self.encoder = FrozenEncoder(accelerator, model, batch_size, layers=layers)
        self.clips = processor if isinstance(processor, Clips) else RegularClips(processor)
        self.videos, self.num_workers = videos, num_workers
        self.failures: dict[int, VideoFailure] = {}

    @property
    def readable(self) -> np.ndarray:
        """Sorted rows that are not known to be unreadable."""
        return np.array([row for row in range(len(self.videos)) if row not in self.failures], dtype=np.int64)

    @property
    def num_views(self) -> int:
        """V."""
        return self.clips.num_views

    def batches(
        self, row_batches: Iterable[np.ndarray], epoch: int | None = None, num_clips: int = 1
    ) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """Yield rows and their tokens like `VideoFeatures.batches`; augmented clips differ in every epoch."""
        clips, views = self.clips, slice(None)
        if epoch is not None and isinstance(clips, AugmentedClips):
            clips = replace(clips, views=(epoch,), num_clips=num_clips)
        else:
            views = view_of_epoch(epoch, clips.num_views, num_clips)
        loader = torch.utils.data.DataLoader(
            ViewDataset(self.videos, clips),
            batch_sampler=[list(rows) for rows in row_batches],
            num_workers=self.num_workers,
            collate_fn=list,
        )
        for batch in loader:
            self.failures |= {row: failure for row, failure in batch if isinstance(failure, VideoFailure)}
            readable = [(row, pixels[views]) for row, pixels in batch if isinstance(pixels, torch.Tensor)]
            encoded = {row: tokens for row, tokens in self.encoder(readable) if isinstance(tokens, torch.Tensor)}
            if encoded:
                yield np.array(list(encoded)), torch.stack(list(encoded.values()))
