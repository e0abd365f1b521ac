"""Clips from streams: every worker reads its own part, and a run resumes exactly where it stood."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import datasets
import torch

from ..model.video_io import VideoDecodeError
from .clips import ClipReader, ClipSample, nothing_loads
from .mixing import part_of_stream
from .order import ClipBatchSampler, ClipRequest
from .randomness import generator
from .videos import VideoFailure, video_name


@dataclass(frozen=True)
class LaneState:
    """Where one worker stands in its part of a stream.

    Attributes:
        num_lanes: workers of all processes.
        epoch: how often the part was read to its end.
        block: blocks of the epoch that were used up.
        used: videos of the present block that were used up.
        position: `state_dict` of the stream before the block; None at the beginning of an epoch.
    """

    num_lanes: int
    epoch: int = 0
    block: int = 0
    used: int = 0
    position: dict[str, Any] | None = None


class ClipStream(torch.utils.data.IterableDataset):
    """Batches of random augmented clips from streams, for a `DataLoader` with `batch_size=None`.

    Every worker of every process reads its own part, a lane (`sources.part_of_stream`), over and over, in blocks of
    `shuffle_buffer` videos that it shuffles. An unreadable video is left out. A batch carries the state of its worker
    as `lane_states`, so whoever saves those of the batches that were used can go on exactly there, with equally many
    processes and workers. With other numbers the stream begins its next epoch.

    Args:
        sources: streams with the column `video`.
        weights: share of each source, see `sources.mix_videos`.
        reader: cuts clips out of a video.
        sampler: the requests of this process, made with `num_samples=None`.
        collate: makes a batch of samples.
        shuffle_buffer: videos that a worker holds, as bytes if the stream has bytes.
        max_attempts: videos in a row that may fail before the run ends.
        states: lane -> its state, to go on from.
    """

    def __init__(
        self,
        sources: Sequence[datasets.IterableDataset],
        weights: Sequence[float] | None,
        reader: ClipReader,
        sampler: ClipBatchSampler,
        collate: Callable[[Sequence[ClipSample]], dict[str, Any]],
        shuffle_buffer: int = 100,
        max_attempts: int = 10,
        states: dict[int, LaneState] | None = None,
    ) -> None:
        self.sources = sources
        self.weights = weights
        self.reader = reader
        self.sampler = sampler
        self.collate = collate
        self.shuffle_buffer = shuffle_buffer
        self.max_attempts = max_attempts
        self.states = states or {}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        info = torch.utils.data.get_worker_info()
        worker, num_workers = (info.id, info.num_workers) if info else (0, 1)
        sampler = self.sampler
        # A loader that goes on begins with its first worker, wherever the one before it stood.
        passes = sampler.first_clip // sampler.clips_per_step * sampler.gradient_accumulation_steps
        lane = sampler.process_index * num_workers + (worker + passes) % num_workers
        videos = self._videos(lane, self._first_state(lane, sampler.num_processes * num_workers))
        for requests in islice(sampler, worker, None, num_workers):
            samples = []
            for start in range(0, len(requests), sampler.clips_per_video):
                state, clips = self._clips(videos, requests[start : start + sampler.clips_per_video])
                samples += clips
            yield self.collate(samples) | {"lane_states": {lane: state}}

    def _first_state(self, lane: int, num_lanes: int) -> LaneState:
        if all(state.num_lanes == num_lanes for state in self.states.values()):
            unused = LaneState(num_lanes, epoch=min((state.epoch for state in self.states.values()), default=0))
            return self.states.get(lane, unused)
        return LaneState(num_lanes, epoch=1 + max(state.epoch for state in self.states.values()))

    def _clips(
        self, videos: Iterator[tuple[Any, LaneState]], requests: list[ClipRequest]
    ) -> tuple[LaneState, list[ClipSample]]:
        """Clips of the next readable video."""
        failures: list[VideoFailure] = []
        for video, state in videos:
            try:
                clips = self.reader.read(video, requests)
            except VideoDecodeError as error:
                failures.append(VideoFailure.of(video, error))
                if len(failures) == self.max_attempts:
                    raise nothing_loads(failures) from error
                continue
            samples = [ClipSample(clip, one, video_name(video)) for clip, one in zip(clips, requests, strict=True)]
            return state, [replace(samples[0], failures=tuple(failures)), *samples[1:]]
        raise AssertionError("a lane never ends")

    def _videos(self, lane: int, state: LaneState) -> Iterator[tuple[Any, LaneState]]:
        """The videos of a lane without end, each with the state after it."""
        while True:
            stream = part_of_stream(self.sources, self.weights, lane, state.num_lanes, self.reader.seed, state.epoch)
            if state.position is not None:
                stream.load_state_dict(state.position)
            # `iter` leaves the sharing out among workers to us: by lanes, it also works for few shards.
            rows = stream.iter(batch_size=1)
            while block := [row["video"][0] for row in islice(rows, self.shuffle_buffer)]:
                rng = generator("block of a stream", self.reader.seed, state.epoch, lane, state.block)
                for place in rng.permutation(len(block))[state.used :]:
                    state = replace(state, used=state.used + 1)
                    yield block[place], state
                state = LaneState(state.num_lanes, state.epoch, state.block + 1, 0, stream.state_dict())
            if state.block == 0:
                raise ValueError(
                    f"the stream has no video for part {lane + 1} of {state.num_lanes}: use fewer workers or processes"
                )
            state = LaneState(state.num_lanes, state.epoch + 1)
