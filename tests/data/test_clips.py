"""The order is a function of (seed, epoch), a clip of (seed, epoch, sample id), and failures are counted and bounded.

pytest tests/data/test_clips.py
"""

import io
import pickle
import tarfile
from collections import Counter

import av
import datasets
import numpy as np
import pytest
import torch

from video_files import picture, write_video
from vjepa_hf.data import videos as videos_module
from vjepa_hf.data.checks import check_video, oddities
from vjepa_hf.data.clips import ClipReader, PretrainingCollator, VideoClipDataset, augment_clips
from vjepa_hf.data.input_log import InputLog, failure_kind
from vjepa_hf.data.masking import MaskSampler, MultiBlockMask
from vjepa_hf.data.order import ClipBatchSampler, ClipRequest, epoch_order
from vjepa_hf.data.sources import load_videos
from vjepa_hf.data.stream import ClipStream
from vjepa_hf.data.transforms import RandomResizedCropFlip
from vjepa_hf.data.videos import VideoFailure, decode_video, for_processor, probe_video
from vjepa_hf.model.video_io import VideoDecodeError, VideoInfo, decode

AUGMENT = RandomResizedCropFlip((32, 32))
MASKS = PretrainingCollator(MaskSampler([MultiBlockMask(2, (0.3, 0.3))], (2, 4, 4), seed=0))

# --- videos ---


def write_image(path, number: int, height: int = 48, width: int = 64):
    """An image without loss, through PyAV like everything else here."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="image2") as container:
        stream = container.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = width, height, "rgb24"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number, height, width), format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture
def frame_folder(tmp_path):
    """Frames 0, 2, ... 38 of the pattern; 10 comes after 8 by number, not by name."""
    for number in range(0, 40, 2):
        write_image(tmp_path / "frames" / f"frame{number}.png", number)
    return tmp_path / "frames"


def test_bytes_paths_and_files_with_either_give_the_same_frames(toy_video_path):
    content = toy_video_path.read_bytes()
    expected = decode(toy_video_path, [3, 1, 3])
    for video in (content, {"bytes": content, "path": "a.mp4"}, {"bytes": None, "path": str(toy_video_path)}):
        assert torch.equal(decode_video(video, [3, 1, 3]), expected)
        assert probe_video(video) == probe_video(str(toy_video_path))


def test_a_folder_of_frames_is_a_video_in_the_order_of_its_numbers(frame_folder):
    frames = decode_video(str(frame_folder), [5, 0, 5])
    expected = [picture(number, 48, 64) for number in (10, 0, 10)]
    assert torch.equal(frames, torch.from_numpy(np.stack(expected)).permute(0, 3, 1, 2))
    info = probe_video(str(frame_folder))
    assert (info.num_frames, info.height, info.width) == (20, 48, 64) and np.isnan(info.fps)


def test_a_folder_of_frames_is_asked_like_a_file_and_its_hidden_files_are_skipped(frame_folder):
    whole = decode_video(str(frame_folder), range(20))
    (frame_folder / "._000.png").write_bytes(b"what some systems leave")
    assert torch.equal(decode_video(str(frame_folder), range(20)), whole)
    for indices in ([-1], []):
        with pytest.raises(ValueError, match="at least one frame number, none of them negative"):
            decode_video(str(frame_folder), indices)


def test_the_processor_gets_what_it_can_read(frame_folder, toy_video_path):
    assert for_processor({"bytes": b"1", "path": "a.mp4"}) == b"1"
    assert for_processor(str(toy_video_path)) == str(toy_video_path)
    assert torch.equal(for_processor(str(frame_folder)), decode_video(str(frame_folder), range(20)))


def test_an_image_is_a_still_clip(tmp_path):
    path = str(write_image(tmp_path / "still.png", 7))
    clip = clip_dataset([path], short_video="repeat_last", transform=None)[request(0)].clip
    assert torch.equal(clip, decode(path, [0]).expand(4, -1, -1, -1))


@pytest.mark.parametrize("names", [("cat.png", "dog.png"), ("1.png", "2.png", "4.png"), ("1.png", "a1.png"), ()])
def test_images_that_are_no_frames_of_one_video_are_an_error(tmp_path, names):
    (tmp_path / "frames").mkdir()
    for name in names:
        write_image(tmp_path / "frames" / name, 0)
    with pytest.raises(VideoDecodeError, match="not numbered evenly; name images one by one in a list"):
        probe_video(str(tmp_path / "frames"))


def test_frames_of_several_sizes_or_too_few_are_an_error(tmp_path, frame_folder):
    with pytest.raises(VideoDecodeError, match="it has only 20 frames"):
        decode_video(str(frame_folder), [20])
    write_image(frame_folder / "frame40.png", 0, height=64)
    with pytest.raises(VideoDecodeError, match="differ in size"):
        decode_video(str(frame_folder), [0, 20])


def test_an_error_about_bytes_says_where_they_came_from():
    with pytest.raises(VideoDecodeError, match="shard 7, clip 3.mp4"):
        decode_video({"bytes": b"not a video", "path": "shard 7, clip 3.mp4"}, [0])
    with pytest.raises(VideoDecodeError, match="neither a path nor bytes"):
        probe_video({"bytes": None, "path": None})


def test_other_addresses_are_read_whole(toy_video_path):
    import fsspec

    with fsspec.open("memory://clips/a.mp4", "wb") as file:
        file.write(toy_video_path.read_bytes())
    assert torch.equal(decode_video("memory://clips/a.mp4", [2]), decode(toy_video_path, [2]))
    with pytest.raises(VideoDecodeError, match="memory://clips/gone.mp4"):
        probe_video("memory://clips/gone.mp4")
    with pytest.raises(VideoDecodeError, match="gopher://clips/a.mp4.*gopher"):
        probe_video("gopher://clips/a.mp4")


# --- order ---


def clips_of(sampler: ClipBatchSampler) -> list[list[tuple[int, int]]]:
    return [[(request.epoch, request.index) for request in batch] for batch in sampler]


def test_every_sample_comes_once_an_epoch_whatever_the_batch():
    sampler = ClipBatchSampler(num_samples=7, per_device_batch_size=3, num_steps=7, seed=5)
    clips = sum(clips_of(sampler), [])
    assert clips == [(epoch, int(index)) for epoch in range(3) for index in epoch_order(7, 5, epoch)]
    assert all(sorted(index for e, index in clips if e == epoch) == list(range(7)) for epoch in range(3))


def test_seed_and_epoch_change_the_order_and_repeat_it():
    orders = [tuple(epoch_order(50, seed, epoch)) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert len(set(orders)) == 3
    epoch_order.cache_clear()
    assert tuple(epoch_order(50, 0, 1)) == orders[1]


@pytest.mark.parametrize("batch, processes, accumulation", [(8, 1, 1), (4, 2, 1), (4, 1, 2), (2, 2, 2)])
def test_any_split_of_a_step_sees_the_same_clips_in_one_mask_group(batch, processes, accumulation):
    whole = list(ClipBatchSampler(num_samples=20, per_device_batch_size=8, num_steps=5, seed=0))
    parts = [
        list(
            ClipBatchSampler(
                20, batch, 5, 0, num_processes=processes, process_index=rank, gradient_accumulation_steps=accumulation
            )
        )
        for rank in range(processes)
    ]
    for step in range(5):
        passes = range(step * accumulation, (step + 1) * accumulation)
        requests = [request for a in passes for rank in range(processes) for request in parts[rank][a]]
        assert requests == whole[step]


def test_the_order_goes_on_at_any_clip_on_any_number_of_processes():
    straight = sum(clips_of(ClipBatchSampler(10, 4, 6, seed=3)), [])
    rest = sum(clips_of(ClipBatchSampler(10, 6, 2, seed=3, first_clip=12)), [])
    assert rest == straight[12:]


def test_mask_groups_are_consecutive_clips_of_a_step():
    sampler = ClipBatchSampler(100, 2, 1, seed=0, num_processes=4, process_index=3, mask_group_size=4)
    ((first, second),) = list(sampler)
    step = [(0, int(index)) for index in epoch_order(100, 0, 0)[:8]]
    assert first.group == second.group == tuple(step[4:])
    assert [(first.epoch, first.index), (second.epoch, second.index)] == step[6:]


def test_several_clips_of_a_video_follow_one_another_each_with_its_own_key():
    sampler = ClipBatchSampler(5, 6, 5, seed=3, clips_per_video=3)
    clips = sum(clips_of(sampler), [])
    assert len(set(clips)) == len(clips) == 30
    videos = [index for _, index in clips]
    assert videos[::3] == videos[1::3] == videos[2::3]
    assert videos[::3] == [int(index) for epoch in (0, 1) for index in epoch_order(5, 3, epoch)]


def test_the_sequence_of_a_stream_is_counted_through():
    assert clips_of(ClipBatchSampler(None, 2, 2, seed=0, first_clip=6)) == [[(0, 6), (0, 7)], [(0, 8), (0, 9)]]


@pytest.mark.parametrize("size", [3, 16])
def test_a_mask_group_that_does_not_fit_is_an_error(size):
    with pytest.raises(ValueError, match=f"mask_group_size {size} must be a multiple of per_device_batch_size 2"):
        ClipBatchSampler(100, 2, 1, seed=0, num_processes=4, mask_group_size=size)


# --- clips ---


def clip_dataset(videos: list, max_attempts: int = 10, **options) -> VideoClipDataset:
    reader = ClipReader(**{"num_frames": 4, "frame_step": 2, "seed": 0, "transform": AUGMENT} | options)
    return VideoClipDataset(datasets.Dataset.from_dict({"video": videos}), reader, max_attempts)


def request(index: int, epoch: int = 0) -> ClipRequest:
    return ClipRequest(index, epoch, group=((epoch, index),))


def test_a_clip_is_a_function_of_epoch_and_sample(toy_video_path):
    clips = clip_dataset([str(toy_video_path)] * 2)
    first, again = clips[request(0)], clips[request(0)]
    assert first.clip.shape == (4, 3, 32, 32) and first.clip.dtype == torch.uint8
    assert torch.equal(first.clip, again.clip)
    assert not torch.equal(first.clip, clips[request(0, epoch=1)].clip)
    assert not torch.equal(first.clip, clips[request(1)].clip)


def test_a_broken_video_is_replaced_alike_every_time_and_named(toy_video_path, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video")
    clips = clip_dataset([str(broken), str(toy_video_path), str(toy_video_path)])
    sample, again = clips[request(0)], clips[request(0)]
    assert torch.equal(sample.clip, again.clip) and sample.failures == again.failures
    assert sample.request.index == 0
    assert {failure.video for failure in sample.failures} == {str(broken)}
    assert clips[request(1)].failures == ()


def test_attempts_are_bounded(tmp_path):
    paths = [str(tmp_path / f"{number}.mp4") for number in range(3)]
    with pytest.raises(ValueError, match="4 videos in a row could not be read, so these are not the right files"):
        clip_dataset(paths, max_attempts=4)[request(0)]


def test_clips_of_one_video_are_those_of_separate_decodes(toy_video_path, monkeypatch):
    clips = clip_dataset([str(toy_video_path)] * 2)
    requests = [request(0, epoch=0), request(0, epoch=1), request(0, epoch=2), request(1, epoch=0)]
    alone = [clips[one].clip for one in requests]
    opened = []
    monkeypatch.setattr(videos_module, "decode", lambda *arguments: opened.append(arguments) or decode(*arguments))
    together = clips.__getitems__(requests)
    assert len(opened) == 2
    assert [sample.request for sample in together] == requests
    assert all(torch.equal(sample.clip, clip) for sample, clip in zip(together, alone, strict=True))
    assert not torch.equal(alone[0], alone[1])


def test_clips_of_a_broken_video_are_replaced_one_by_one(toy_video_path, tmp_path):
    clips = clip_dataset([str(tmp_path / "gone.mp4"), str(toy_video_path)])
    requests = [request(0, epoch=0), request(0, epoch=1)]
    for sample, one in zip(clips.__getitems__(requests), requests, strict=True):
        assert torch.equal(sample.clip, clips[one].clip)
        assert [failure.video for failure in sample.failures][0] == str(tmp_path / "gone.mp4")


def test_augmenting_later_gives_the_numbers_of_the_worker(toy_video_path, tmp_path):
    videos = [str(toy_video_path), str(tmp_path / "gone.mp4"), str(toy_video_path)]
    requests = [request(index) for index in range(3)]
    in_worker = MASKS([clip_dataset(videos)[one] for one in requests])
    later = MASKS([clip_dataset(videos, transform=None)[one] for one in requests])
    clips = augment_clips(later["pixel_values_videos"], later["clip_keys"], AUGMENT, seed=0)
    assert torch.equal(clips, in_worker["pixel_values_videos"])


def test_clips_of_several_sizes_wait_for_the_device(tmp_path):
    videos = [str(write_video(tmp_path / f"{height}.mp4", height=height)) for height in (48, 64)]
    requests = [request(0), request(1)]
    batch = MASKS([clip_dataset(videos, transform=None)[one] for one in requests])
    assert [clip.shape[-2] for clip in batch["pixel_values_videos"]] == [48, 64]
    assert augment_clips(batch["pixel_values_videos"], batch["clip_keys"], AUGMENT, 0).shape == (2, 4, 3, 32, 32)


def test_frames_a_second_make_clips_equally_long_at_any_rate(tmp_path):
    for rate in (10, 30):
        path = write_video(tmp_path / f"{rate}.mp4", num_frames=9 * rate // 5 + 1, fps=rate, options={"qp": "0"})
        clip = clip_dataset([str(path)], fps=5, transform=None, num_frames=10)[request(0)].clip
        assert torch.equal(clip, decode(path, np.arange(10) * rate // 5))


def test_without_a_frame_rate_frames_a_second_are_an_error(frame_folder):
    with pytest.raises(ValueError, match="its frame rate is not known"):
        clip_dataset([str(frame_folder)], fps=5, max_attempts=1)[request(0)]


def test_a_short_video_counts_as_unreadable_where_the_policy_says_error(toy_video_path):
    clips = clip_dataset([str(toy_video_path)], short_video="error", num_frames=500, max_attempts=1)
    with pytest.raises(ValueError, match="a row could not be read.*it has only .* short_video is 'error'"):
        clips[request(0)]


def test_the_collator_stacks_clips_and_draws_the_masks_of_the_group(toy_video_path):
    masks = MaskSampler([MultiBlockMask(2, (0.3, 0.3)), MultiBlockMask(1, (0.5, 0.5))], (2, 4, 4), seed=0)
    clips = clip_dataset([str(toy_video_path)] * 4)
    (whole,) = list(ClipBatchSampler(4, 4, 1, seed=0))
    batch = PretrainingCollator(masks)([clips[request] for request in whole])
    assert batch["pixel_values_videos"].shape == (4, 4, 3, 32, 32)
    assert len(batch["context_masks"]) == len(batch["target_masks"]) == 2
    halves = [PretrainingCollator(masks)([clips[request] for request in whole[i : i + 2]]) for i in (0, 2)]
    for kind in range(2):
        joined = torch.cat([half["context_masks"][kind] for half in halves])
        assert torch.equal(joined, batch["context_masks"][kind])


def test_workers_change_nothing(toy_video_path):
    clips = clip_dataset([str(toy_video_path)] * 6)
    collate = PretrainingCollator(MaskSampler([MultiBlockMask(2, (0.3, 0.3))], (2, 4, 4), seed=0))
    alone, helped = (
        list(
            torch.utils.data.DataLoader(
                clips, batch_sampler=ClipBatchSampler(6, 3, 2, seed=1), num_workers=workers, collate_fn=collate
            )
        )
        for workers in (0, 2)
    )
    for first, second in zip(alone, helped, strict=True):
        assert torch.equal(first["pixel_values_videos"], second["pixel_values_videos"])
        assert torch.equal(first["target_masks"][0], second["target_masks"][0])


def test_nothing_draws_from_global_generators(toy_video_path):
    clips = clip_dataset([str(toy_video_path)])
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    clips[request(0)]
    assert (np.random.get_state()[1] == before[0]).all() and torch.equal(torch.get_rng_state(), before[1])


# --- streams ---


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Four shards of five videos, each video of one gray that tells which it is, and a broken one in the first."""
    folder = tmp_path_factory.mktemp("shards")
    for shard in range(4):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for clip in range(5):
                content = gray_video(10 * (5 * shard + clip) + 20) if (shard, clip) != (0, 2) else b"not a video"
                member = tarfile.TarInfo(f"{shard}-{clip}.mp4")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
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
    stream = ClipStream(sources, weights, reader, sampler, MASKS, shuffle_buffer=3, states=states)
    return torch.utils.data.DataLoader(stream, batch_size=None, num_workers=workers)


def grays(batch) -> list[int]:
    """Which videos a batch shows."""
    return [round((clip.float().mean().item() - 20) / 10) for clip in batch["pixel_values_videos"]]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_stream_is_shared_out_without_overlap_or_loss(shards, workers, processes):
    source = [load_videos(shards, streaming=True)]
    seen: Counter[int] = Counter()
    for rank in range(processes):
        for batch in stream_loader(source, 9 // processes, workers, processes, rank):
            seen.update(grays(batch))
    # The broken video and the end of the epoch leave at most one clip a lane to the next one.
    assert set(seen) <= set(range(20)) - {2} and len(seen) >= 18 - 2 * max(1, workers) * processes
    assert seen.most_common(1)[0][1] <= 2


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [0, 2, 3])
@pytest.mark.parametrize("kind", ["shards", "mixture"])
def test_a_stream_goes_on_exactly_where_its_batches_were_used(shards, workers, kind):
    source = load_videos(shards, streaming=True)
    sources = [source] if kind == "shards" else [source, load_videos(shards / "1.tar", streaming=True)]
    options = {"weights": (0.6, 0.4)} if kind == "mixture" else {}
    straight = list(stream_loader(sources, 25, workers, **options))
    for used in (5, 13):
        inputs = InputLog(max_failed_share=1.0)
        for batch in straight[:used]:
            inputs.update(batch)
        inputs.gather()
        saved = pickle.loads(pickle.dumps(inputs.state_dict()))
        inputs = InputLog(max_failed_share=1.0)
        inputs.load_state_dict(saved)
        rest = stream_loader(sources, 25 - used, workers, first_clip=2 * used, states=inputs.lane_states, **options)
        for batch, expected in zip(rest, straight[used:], strict=True):
            assert torch.equal(batch["pixel_values_videos"], expected["pixel_values_videos"])
            assert torch.equal(batch["target_masks"][0], expected["target_masks"][0])


def test_with_other_workers_a_stream_begins_its_next_epoch(shards):
    source = [load_videos(shards, streaming=True)]
    inputs = InputLog(1.0)
    for batch in stream_loader(source, 6, workers=2):
        inputs.update(batch)
    inputs.gather()
    (batch, *_) = stream_loader(source, 1, workers=0, first_clip=12, states=inputs.lane_states)
    (state,) = batch["lane_states"].values()
    assert (state.num_lanes, state.epoch) == (1, 1)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_after_a_change_of_workers_a_stream_goes_on_exactly_again(shards):
    source = [load_videos(shards, streaming=True)]
    inputs = InputLog(1.0)
    for batch in stream_loader(source, 8, workers=4):
        inputs.update(batch)
    inputs.gather()
    changed = list(stream_loader(source, 8, workers=2, first_clip=16, states=inputs.lane_states))
    for used in (1, 4):
        later = InputLog(1.0)
        later.load_state_dict(inputs.state_dict())
        for batch in changed[:used]:
            later.update(batch)
        later.gather()
        rest = stream_loader(source, 8 - used, workers=2, first_clip=16 + 2 * used, states=later.lane_states)
        for batch, expected in zip(rest, changed[used:], strict=True):
            assert torch.equal(batch["pixel_values_videos"], expected["pixel_values_videos"])


def test_masks_of_a_stream_are_those_of_any_split_of_the_step(shards):
    source = [load_videos(shards, streaming=True)]
    halves = [next(iter(stream_loader(source, 1, processes=2, rank=rank))) for rank in range(2)]
    whole = stream_loader(source, 1, gradient_accumulation_steps=2)
    for half, batch in zip(halves, whole, strict=True):
        assert torch.equal(half["target_masks"][0], batch["target_masks"][0])


def test_a_broken_video_of_a_stream_is_left_out_and_named(shards):
    batches = list(stream_loader([load_videos(shards / "0.tar", streaming=True)], 2))
    assert [failure.video for batch in batches for failure in batch["failures"]] == ["0-2.mp4"]


def test_several_clips_of_a_streamed_video_come_together(shards):
    batches = list(stream_loader([load_videos(shards / "1.tar", streaming=True)], 5, clips_per_video=2))
    assert sorted(shown[0] for shown in map(grays, batches)) == [5, 6, 7, 8, 9]
    assert all(first == second for first, second in map(grays, batches))


def test_a_stream_of_nothing_but_broken_videos_ends(tmp_path):
    (tmp_path / "list.txt").write_text("a.mp4\nb.mp4\n")
    with pytest.raises(ValueError, match="10 videos in a row could not be read"):
        next(iter(stream_loader([load_videos(tmp_path / "list.txt", streaming=True)], 1)))


def test_a_stream_too_small_for_its_workers_is_an_error():
    source = [datasets.Dataset.from_dict({"video": ["a.mp4"]}).to_iterable_dataset()]
    with pytest.raises(ValueError, match="no video for part 2 of 2: use fewer workers"):
        next(iter(stream_loader(source, 1, processes=2, rank=1)))


# --- failures and checks ---


def batch_of(failures: list[VideoFailure], num_clips: int) -> dict:
    return {"failures": failures, "clip_keys": [(0, 0, 0)] * num_clips}


def test_each_failure_is_named_once_and_counted_by_its_cause():
    log = InputLog(max_failed_share=0.5)
    first = VideoFailure("a.mp4", "ValueError: it has only 31 frames")
    second = VideoFailure("b.mp4", "ValueError: it has only 7 frames")
    log.update(batch_of([first, first, second], 20))
    assert log.gather() == [first, second]
    log.update(batch_of([first], 20))
    assert log.gather() == []
    assert log.figures() == {"failed_videos": 4, "failed_videos/ValueError: it has only N frames": 4}


def test_too_many_failures_end_the_run_and_say_why():
    log = InputLog(max_failed_share=0.1, min_videos=20)
    log.update(batch_of([VideoFailure("a.mp4", "no frames")] * 7, 58))
    with pytest.raises(ValueError, match="7 of 65 videos.*max_failed_share=0.1: 7 x no frames.*a.mp4 .7 x."):
        log.gather()


def test_the_share_is_not_judged_by_the_first_video():
    log = InputLog(max_failed_share=0.0, min_videos=10)
    log.update(batch_of([VideoFailure("a", "b")], 1))
    log.gather()


def test_a_log_goes_on_from_its_state():
    log, other = InputLog(0.5), InputLog(0.5)
    failure = VideoFailure("a.mp4", "no frames")
    log.update(batch_of([failure], 30))
    log.gather()
    other.load_state_dict(pickle.loads(pickle.dumps(log.state_dict())))
    for either in (log, other):
        either.update(batch_of([failure], 30))
        assert either.gather() == []
    assert log.state_dict() == other.state_dict()
    assert other.figures()["failed_videos"] == 2 and other.num_loaded == 60


def test_the_kind_of_a_failure_holds_nothing_of_one_file():
    causes = [
        f"InvalidDataError: [Errno 1094995529] Invalid data found when processing input: '/x/{n}.mp4'" for n in "ab"
    ]
    assert {failure_kind(cause) for cause in causes} == {"InvalidDataError: Invalid data found when processing input"}


def test_check_video_tells_good_from_broken(toy_video_path, tmp_path):
    assert check_video(str(toy_video_path)).info.num_frames > 1
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(toy_video_path.read_bytes()[:200])
    assert check_video(str(broken)).info is None and check_video(str(broken)).cause


@pytest.mark.parametrize(
    "info, words",
    [
        (VideoInfo(100, 30.0, 240, 320), []),
        (VideoInfo(1, 30.0, 240, 320), ["one frame"]),
        (VideoInfo(100, 1.0, 48, 320), ["small, 320 x 48", "very long", "1 frames a second"]),
        (VideoInfo(100, 1000.0, 240, 320), ["1e+03 frames a second"]),
        (VideoInfo(100, float("nan"), 240, 320), []),
    ],
)
def test_oddities_are_named(info, words):
    found = oddities(info)
    assert len(found) == len(words) and all(text.startswith(word) for text, word in zip(found, words, strict=True))
