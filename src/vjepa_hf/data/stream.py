"""Clips from streams: every worker reads its own shard, and a run resumes exactly where it stopped."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import datasets
import torch

from ..model.video_inputs import video_name
from ..model.video_io import VideoDecodeError
from .clips import ClipReader, ClipSample, unreadable_videos
from .mixing import worker_shard
from .order import ClipBatchSampler, ClipRequest
from .randomness import generator
from .tables import named_errors
from .videos import VideoFailure


@dataclass(frozen=True)
class ShardState:
    """Position of one worker in its shard of the streams.

    Attributes:
        num_shards: number of shards: the workers of all processes.
        epoch: number of times that the shard was read to its end.
        block: number of blocks of this epoch that were used.
        used: number of videos of the current block that were used.
        position: `state_dict` of the stream before the block; None at the beginning of an epoch.
    """

    num_shards: int
    epoch: int = 0
    block: int = 0
    used: int = 0
    position: dict[str, Any] | None = None


@dataclass(eq=False)
class ClipStream(torch.utils.data.IterableDataset):
    """Batches of random augmented clips from streams, for a `DataLoader` with `batch_size=None`.

    Every worker of every process reads its own shard (`mixing.worker_shard`) again and again, in blocks of
    `shuffle_buffer` videos that it shuffles. Unreadable videos are skipped. `shard_states` of a batch is the state of
    its worker after the batch. With the states of the batches that were used, a run with equally many processes and
    workers resumes exactly. With other numbers the stream begins its next epoch.

    Attributes:
        sources: streams with the column `video`.
        weights: weight of each source, see `mixing.mix_videos`.
        reader: reader of the clips of a video.
        sampler: requests of this process, made with `num_samples=None`.
        collate: function from samples to a batch.
        shuffle_buffer: number of videos that a worker keeps in memory, as bytes if the stream has bytes.
        max_attempts: number of unreadable videos in a row after which the run stops.
        states: index of a shard -> state to resume from.
    """

    sources: Sequence[datasets.IterableDataset]
    weights: Sequence[float] | None
    reader: ClipReader
    sampler: ClipBatchSampler
    collate: Callable[[Sequence[ClipSample]], dict[str, Any]]
    shuffle_buffer: int = 100
    max_attempts: int = 10
    states: dict[int, ShardState] = field(default_factory=dict)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        info = torch.utils.data.get_worker_info()
        worker, num_workers = (info.id, info.num_workers) if info else (0, 1)
        sampler = self.sampler
        # A resumed loader begins with its first worker, whichever worker made the last batch before.
        passes = sampler.first_clip // sampler.clips_per_step * sampler.gradient_accumulation_steps
        shard = sampler.process_index * num_workers + (worker + passes) % num_workers
        videos = self._videos(shard, self._first_state(shard, sampler.num_processes * num_workers))
        for requests in islice(sampler, worker, None, num_workers):
            samples = []
            for start in range(0, len(requests), sampler.clips_per_video):
                state, clips = self._clips(videos, requests[start : start + sampler.clips_per_video])
                samples += clips
            yield self.collate(samples) | {"shard_states": {shard: state}}

    def _first_state(self, shard: int, num_shards: int) -> ShardState:
        epochs = [state.epoch for state in self.states.values()]
        if any(state.num_shards != num_shards for state in self.states.values()):
            return ShardState(num_shards, epoch=1 + max(epochs))
        return self.states.get(shard, ShardState(num_shards, epoch=min(epochs, default=0)))

    def _clips(
        self, videos: Iterator[tuple[Any, ShardState]], requests: list[ClipRequest]
    ) -> tuple[ShardState, list[ClipSample]]:
        """Read the clips of the next readable video."""
        failures: list[VideoFailure] = []
        for video, state in videos:
            try:
                clips = self.reader.read(video, requests)
            except VideoDecodeError as error:
                failures.append(VideoFailure.of(video, error))
                if len(failures) == self.max_attempts:
                    raise unreadable_videos(failures) from error
                continue
            name = video_name(video)
            samples = [ClipSample(clip, request, name) for clip, request in zip(clips, requests, strict=True)]
            return state, [replace(samples[0], failures=tuple(failures)), *samples[1:]]
        raise AssertionError("a shard never ends")

    def _videos(self, shard: int, state: ShardState) -> Iterator[tuple[Any, ShardState]]:
        """Yield the videos of a shard without end, each with the state after it."""
        while True:
            stream = worker_shard(self.sources, self.weights, shard, state.num_shards, self.reader.seed, state.epoch)
            if state.position is not None:
                stream.load_state_dict(state.position)
            # `iter` does not split the stream over workers again; `worker_shard` has, even for a single file.
            rows = stream.iter(batch_size=1)
            while block := _next_videos(rows, self.shuffle_buffer):
                rng = generator("block of a stream", self.reader.seed, state.epoch, shard, state.block)
                for index in rng.permutation(len(block))[state.used :]:
                    state = replace(state, used=state.used + 1)
                    yield block[index], state
                state = ShardState(state.num_shards, state.epoch, state.block + 1, 0, stream.state_dict())
            if state.block == 0:
                raise ValueError(
                    f"the stream has no video for shard {shard + 1} of {state.num_shards}; use fewer workers or "
                    "processes"
                )
            state = ShardState(state.num_shards, state.epoch + 1)


def _next_videos(rows: Iterator[dict[str, Any]], number: int) -> list[Any]:
    """Return the next videos of a stream.

    Raises:
        ValueError: the stream fails. Streams of `load_videos` do not: they continue with the next shard.
    """
    with named_errors("a stream of videos"):
        return [row["video"][0] for row in islice(rows, number)]
