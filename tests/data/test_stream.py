"""Streams are split over workers without overlap or loss and resume exactly after the batches that were used.

pytest tests/data/test_stream.py
"""

import io
import pickle
from collections import Counter

import av
import datasets
import numpy as np
import pytest
import torch

from video_files import write_tar
from vjepa_hf.data.clips import ClipReader, PretrainingCollator
from vjepa_hf.data.input_log import InputLog
from vjepa_hf.data.masking import MaskSampler, MultiBlockMask
from vjepa_hf.data.order import ClipBatchSampler
from vjepa_hf.data.sources import load_videos
from vjepa_hf.data.stream import ClipStream

MASKS = PretrainingCollator(MaskSampler([MultiBlockMask(2, (0.3, 0.3))], (2, 4, 4), seed=0))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Four shards of five videos, each with its own gray level, and a broken one in the first."""
    folder = tmp_path_factory.mktemp("shards")
    for shard in range(4):
        files = {f"{shard}-{clip}.mp4": gray_video(10 * (5 * shard + clip) + 20) for clip in range(5)}
        write_tar(folder / f"{shard}.tar", files | ({"0-2.mp4": b"not a video"} if shard == 0 else {}))
    return folder


def gray_video(level: int) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=10, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for _ in range(8):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), level, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def stream_loader(sources, num_steps, workers=0, processes=1, rank=0, first_clip=0, states=None, weights=None, **more):
    reader = ClipReader(num_frames=4, frame_step=1, seed=0)
    sampler = ClipBatchSampler(
        None, 2, num_steps, seed=0, num_processes=processes, process_index=rank, first_clip=first_clip, **more
    )
    stream = ClipStream(sources, weights, reader, sampler, MASKS, shuffle_buffer=3, states=states or {})
    return torch.utils.data.DataLoader(stream, batch_size=None, num_workers=workers)


def grays(batch) -> list[int]:
    """Return the indices of the videos of a batch."""
    return [round((clip.float().mean().item() - 20) / 10) for clip in batch["pixel_values_videos"]]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_stream_is_split_without_overlap_or_loss(shards, workers, processes):
    source = [load_videos(shards, streaming=True)]
    seen: Counter[int] = Counter()
    for rank in range(processes):
        for batch in stream_loader(source, 9 // processes, workers, processes, rank):
            seen.update(grays(batch))
    # The broken video and the end of the epoch leave at most one clip per worker to the next epoch.
    assert set(seen) <= set(range(20)) - {2} and len(seen) >= 18 - 2 * max(1, workers) * processes
    assert seen.most_common(1)[0][1] <= 2


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 2, 3])
@pytest.mark.parametrize("source_type", ["shards", "mixture"])
def test_a_stream_resumes_exactly_after_the_batches_that_were_used(shards, workers, source_type):
    source = load_videos(shards, streaming=True)
    sources = [source] if source_type == "shards" else [source, load_videos(shards / "1.tar", streaming=True)]
    options = {"weights": (0.6, 0.4)} if source_type == "mixture" else {}
    straight = list(stream_loader(sources, 25, workers, **options))
    for used in (5, 13):
        inputs = InputLog(max_failed_share=1.0)
        for batch in straight[:used]:
            inputs.update(batch)
        inputs.gather()
        saved = pickle.loads(pickle.dumps(inputs.state_dict()))
        inputs = InputLog(max_failed_share=1.0)
        inputs.load_state_dict(saved)
        rest = stream_loader(sources, 25 - used, workers, first_clip=2 * used, states=inputs.shard_states, **options)
        for batch, expected in zip(rest, straight[used:], strict=True):
            assert torch.equal(batch["pixel_values_videos"], expected["pixel_values_videos"])
            assert torch.equal(batch["target_masks"][0], expected["target_masks"][0])


def test_with_other_workers_a_stream_begins_its_next_epoch(shards):
    source = [load_videos(shards, streaming=True)]
    inputs = InputLog(1.0)
    for batch in stream_loader(source, 6, workers=2):
        inputs.update(batch)
    inputs.gather()
    (batch, *_) = stream_loader(source, 1, workers=0, first_clip=12, states=inputs.shard_states)
    (state,) = batch["shard_states"].values()
    assert (state.num_shards, state.epoch) == (1, 1)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_after_a_change_of_workers_a_stream_resumes_exactly_again(shards):
    source = [load_videos(shards, streaming=True)]
    inputs = InputLog(1.0)
    for batch in stream_loader(source, 8, workers=4):
        inputs.update(batch)
    inputs.gather()
    changed = list(stream_loader(source, 8, workers=2, first_clip=16, states=inputs.shard_states))
    for used in (1, 4):
        later = InputLog(1.0)
        later.load_state_dict(inputs.state_dict())
        for batch in changed[:used]:
            later.update(batch)
        later.gather()
        rest = stream_loader(source, 8 - used, workers=2, first_clip=16 + 2 * used, states=later.shard_states)
        for batch, expected in zip(rest, changed[used:], strict=True):
            assert torch.equal(batch["pixel_values_videos"], expected["pixel_values_videos"])


def test_masks_of_a_stream_do_not_depend_on_the_split_of_the_step(shards):
    source = [load_videos(shards, streaming=True)]
    halves = [next(iter(stream_loader(source, 1, processes=2, rank=rank))) for rank in range(2)]
    whole = stream_loader(source, 1, gradient_accumulation_steps=2)
    for half, batch in zip(halves, whole, strict=True):
        assert torch.equal(half["target_masks"][0], batch["target_masks"][0])


def test_a_broken_video_of_a_stream_is_skipped_and_named(shards):
    batches = list(stream_loader([load_videos(shards / "0.tar", streaming=True)], 2))
    assert [failure.video for batch in batches for failure in batch["failures"]] == ["0-2.mp4"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_shard_of_a_stream_is_skipped_named_and_counted(shards, tmp_path, workers):
    for shard in shards.glob("*.tar"):
        (tmp_path / shard.name).write_bytes(shard.read_bytes())
    source = load_videos(tmp_path, streaming=True)
    (tmp_path / "3.tar").unlink()
    content = (tmp_path / "1.tar").read_bytes()
    (tmp_path / "1.tar").write_bytes(content[: len(content) // 2 + 100])
    batches = list(stream_loader([source], 12, workers))
    causes = {failure.video: failure.cause for batch in batches for failure in batch["failures"]}
    assert causes[str(tmp_path / "1.tar")] == "ReadError: unexpected end of data"
    assert causes[str(tmp_path / "3.tar")].startswith("FileNotFoundError")
    assert {video for batch in batches for video in grays(batch)} >= {0, 1, 3, 4, 5, 10, 11, 12, 13, 14}
    inputs = InputLog(max_failed_share=0.5)
    for batch in batches:
        inputs.update(batch)
    inputs.gather()
    assert inputs.videos[str(tmp_path / "3.tar")] >= 1 <= inputs.causes["ReadError: unexpected end of data"]


def test_a_stream_of_others_that_breaks_is_an_error_of_ours(shards, tmp_path):
    (tmp_path / "0.tar").write_bytes((shards / "1.tar").read_bytes()[:9000])
    files = {"train": [str(shards / "2.tar"), str(tmp_path / "0.tar")]}
    stream = datasets.load_dataset("webdataset", data_files=files, split="train", streaming=True)
    with pytest.raises(ValueError, match="a stream of videos cannot be read: "):
        list(stream_loader([load_videos(stream)], 9))


def test_several_clips_of_a_streamed_video_come_together(shards):
    batches = list(stream_loader([load_videos(shards / "1.tar", streaming=True)], 5, clips_per_video=2))
    assert sorted(first for first, _ in map(grays, batches)) == [5, 6, 7, 8, 9]
    assert all(first == second for first, second in map(grays, batches))


def test_a_stream_of_only_broken_videos_stops(tmp_path):
    (tmp_path / "list.txt").write_text("a.mp4\nb.mp4\n")
    with pytest.raises(ValueError, match="10 videos in a row could not be read"):
        next(iter(stream_loader([load_videos(tmp_path / "list.txt", streaming=True)], 1)))


def test_a_stream_too_small_for_its_workers_is_an_error():
    source = [datasets.Dataset.from_dict({"video": ["a.mp4"]}).to_iterable_dataset()]
    with pytest.raises(ValueError, match="no video for shard 2 of 2; use fewer workers"):
        next(iter(stream_loader(source, 1, processes=2, rank=1)))
