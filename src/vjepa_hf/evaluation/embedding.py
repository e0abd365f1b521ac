"""Vectors of videos by a frozen encoder, one per video or one per clip. V is the number of clips of a video."""

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.videos import VideoFailure
from ..model.video_io import VideoDecodeError
from ..model.video_processing_vjepa import VJEPAVideoProcessor
from .comparison import load_set_encoder
from .features import FrozenEncoder
from .shards import encoder_fingerprint, weights_fingerprint
from .vector_table import TableParts, TimedVectors, VectorTable

POOLS = ("mean", "trained_pooler")
ROWS = ("video", "clip")
Sample = tuple[int, torch.Tensor | VideoFailure, np.ndarray]  # row, clips (V, T, C, H, W), and their times (V, 2)


class VectorEncoder:
    """Encoder of videos to vectors, with their times.

    A vector is the mean over the tokens of a clip, or the output of the attentive pooler of a probe. The vector of a
    video is the mean over its clips. Vectors are not normalized; compare them by their cosine.

    Args:
        model: folder or Hub name of a model.
        pool: "mean", or "trained_pooler" for a model with an attentive pooler.
        rows: "video" for one vector per video, "clip" for one per clip.
        num_clips: V, evenly spaced clips per video.
        batch_size: clips per forward pass.
        num_workers: worker processes that decode, per process.

    Raises:
        OSError: the model does not exist.
        ValueError: unknown `pool` or `rows`, no pooler, or a processor that makes clips of another size.
    """

    def __init__(
        self,
        model: str | Path,
        pool: str = "mean",
        rows: str = "video",
        num_clips: int = 1,
        batch_size: int = 16,
        num_workers: int = 0,
    ) -> None:
        for name, value, allowed in (("pool", pool, POOLS), ("rows", rows, ROWS)):
            if value not in allowed:
                raise ValueError(f"{name}={value!r} must be one of {', '.join(allowed)}")
        loaded = load_set_encoder(model, pool)
        self.accelerator, self.processor = loaded.accelerator, loaded.clips.processor
        self.rows, self.num_clips, self.batch_size, self.num_workers = rows, num_clips, batch_size, num_workers
        self.options = {"model": str(model), "pool": pool, "rows": rows, "num_clips": num_clips}
        self.settings = {
            "encoder": encoder_fingerprint(loaded.model),
            "pooler": weights_fingerprint(loaded.pooler),
            "processor": json.loads(json.dumps(self.processor.to_dict(), default=str)),
        }
        self._encoder = FrozenEncoder(self.accelerator, loaded.model, batch_size, loaded.pooler, loaded.layers)

    def __call__(self, video: Any) -> TimedVectors:
        """Encode a video of any kind that the processor takes.

        Raises:
            VideoDecodeError: the video cannot be read.
        """
        ((_, vectors),) = self._encode([(0, *read_clips(self.processor, self.num_clips, video))])
        assert isinstance(vectors, TimedVectors)
        return vectors

    def write_table(self, videos: Sequence[Any], output: str | Path) -> VectorTable:
        """Write the vectors of videos to a parquet table, or resume an interrupted call. Call it on all processes.

        The columns are `video`, `start` and `end` (seconds) and `vector` (D), in the order of the videos. Unreadable
        videos have no row. The table depends neither on interruptions nor on the number of processes.

        Args:
            videos: values of the column `video` of a source.
            output: the table. Its parts are in the folder `OUTPUT.parts` until it is complete.

        Returns:
            The table; at once, if it exists and has the same videos and settings.

        Raises:
            OSError: the folder of the table cannot be written.
            ValueError: a table of other videos or settings exists, no video can be read, or a vector is not finite.
        """
        precision = {"precision": str(self.accelerator.mixed_precision)}
        settings = self.options | self.settings | precision
        parts = TableParts(Path(output), videos, settings, self._encoder.model.config.hidden_size)
        if parts.is_finished():
            return VectorTable(output)
        rank, num_processes = self.accelerator.process_index, self.accelerator.num_processes
        missing = [part for part in range(rank, len(parts.files), num_processes) if not parts.is_complete(part)]
        encoded = self._encode_parts(videos, [parts.rows(part) for part in missing])
        for part, rows in zip(missing, encoded, strict=True):
            parts.write(part, rows)
        self.accelerator.wait_for_everyone()
        failures = parts.failures()
        if self.accelerator.is_main_process:
            parts.merge(failures)
        self.accelerator.wait_for_everyone()
        return VectorTable(output)

    def _encode_parts(
        self, videos: Sequence[Any], parts: Sequence[range]
    ) -> Iterator[list[TimedVectors | VideoFailure]]:
        """Yield the vectors of the rows of each part."""
        # A batch is within a part, so that its numbers do not depend on which parts are complete.
        size = max(1, self.batch_size // self.num_clips)
        batches = [[rows[start : start + size] for start in range(0, len(rows), size)] for rows in parts]
        loader = torch.utils.data.DataLoader(
            _ClipDataset(videos, self.processor, self.num_clips),
            batch_sampler=[list(rows) for part in batches for rows in part],
            num_workers=self.num_workers,
            collate_fn=list,
            generator=torch.Generator(),  # the loader draws a seed, by default from the global generator
        )
        loaded = iter(loader)
        for part in batches:
            yield [vectors for batch in islice(loaded, len(part)) for _, vectors in self._encode(batch)]

    def _encode(self, batch: Sequence[Sample]) -> list[tuple[int, TimedVectors | VideoFailure]]:
        encoded = self._encoder([(row, clips) for row, clips, _ in batch], to="cpu")
        return [
            (row, tokens if isinstance(tokens, VideoFailure) else self._timed(tokens[:, 0].numpy(), times))
            for (row, tokens), (_, _, times) in zip(encoded, batch, strict=True)
        ]

    def _timed(self, vectors: np.ndarray, times: np.ndarray) -> TimedVectors:
        if self.rows == "clip":
            return TimedVectors(vectors, times)
        return TimedVectors(vectors.mean(axis=0, keepdims=True), np.array([[times[0, 0], times[-1, 1]]]))


def read_clips(processor: VJEPAVideoProcessor, num_clips: int, video: Any) -> tuple[torch.Tensor, np.ndarray]:
    """Return the clips `(V, T, C, H, W)` of a video, and the seconds of their first and last frames `(V, 2)`.

    Times are those of a constant frame rate; nan for a folder of frames.
    """
    with processor.open_video(video) as opened:
        inputs = processor(opened, num_clips=num_clips, num_crops=1, return_metadata=True, return_tensors="pt")
        frames = inputs["video_metadata"][0].frames_indices.reshape(num_clips, -1)
        return inputs["pixel_values_videos"].flatten(0, -5), frames[:, [0, -1]] / opened.info.fps


class _ClipDataset(torch.utils.data.Dataset):
    """Dataset of samples; those of unreadable videos have a failure in place of the clips."""

    def __init__(self, videos: Sequence[Any], processor: VJEPAVideoProcessor, num_clips: int) -> None:
        self.videos, self.processor, self.num_clips = videos, processor, num_clips

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, row: int) -> Sample:
        video = self.videos[row]
        try:
            return row, *read_clips(self.processor, self.num_clips, video)
        except VideoDecodeError as error:
            return row, VideoFailure.of(video, error), np.empty((0, 2))
