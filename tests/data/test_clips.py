"""A clip is a function of (seed, epoch, sample id), and the number of replacements of unreadable videos is bounded.

pytest tests/data/test_clips.py
"""

import datasets
import numpy as np
import pytest
import torch

from video_files import write_image, write_video
from vjepa_hf.data import clips as clips_module
from vjepa_hf.data.clips import ClipReader, PretrainingCollator, VideoClipDataset, augment_clips
from vjepa_hf.data.masking import MaskSampler, MultiBlockMask
from vjepa_hf.data.order import ClipBatchSampler, ClipRequest
from vjepa_hf.data.transforms import RandomResizedCropFlip
from vjepa_hf.data.videos import decode_video
from vjepa_hf.model.video_inputs import open_video

AUGMENT = RandomResizedCropFlip((32, 32))
MASKS = PretrainingCollator(MaskSampler([MultiBlockMask(2, (0.3, 0.3))], (2, 4, 4), seed=0))


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


def test_a_broken_video_is_replaced_deterministically_and_named(toy_video_path, tmp_path):
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
    with pytest.raises(
        ValueError, match="4 videos in a row could not be read; check their paths and formats: .*0.mp4"
    ):
        clip_dataset(paths, max_attempts=4)[request(0)]


def test_clips_of_one_video_equal_those_of_separate_decodes(toy_video_path, monkeypatch):
    clips = clip_dataset([str(toy_video_path)] * 2)
    requests = [request(0, epoch=0), request(0, epoch=1), request(0, epoch=2), request(1, epoch=0)]
    alone = [clips[one].clip for one in requests]
    opened = []
    monkeypatch.setattr(clips_module, "open_video", lambda video: opened.append(video) or open_video(video))
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


def test_augmentation_on_the_device_equals_that_of_the_worker(toy_video_path, tmp_path):
    videos = [str(toy_video_path), str(tmp_path / "gone.mp4"), str(toy_video_path)]
    requests = [request(index) for index in range(3)]
    in_worker = MASKS([clip_dataset(videos)[one] for one in requests])
    later = MASKS([clip_dataset(videos, transform=None)[one] for one in requests])
    clips = augment_clips(later["pixel_values_videos"], later["clip_keys"], AUGMENT, seed=0)
    assert torch.equal(clips, in_worker["pixel_values_videos"])


def test_clips_of_several_sizes_are_augmented_after_collation(tmp_path):
    videos = [str(write_video(tmp_path / f"{height}.mp4", height=height)) for height in (48, 64)]
    requests = [request(0), request(1)]
    batch = MASKS([clip_dataset(videos, transform=None)[one] for one in requests])
    assert [clip.shape[-2] for clip in batch["pixel_values_videos"]] == [48, 64]
    assert augment_clips(batch["pixel_values_videos"], batch["clip_keys"], AUGMENT, 0).shape == (2, 4, 3, 32, 32)


def test_fps_gives_clips_of_equal_duration_at_any_frame_rate(tmp_path):
    for rate in (10, 30):
        path = write_video(tmp_path / f"{rate}.mp4", num_frames=9 * rate // 5 + 1, fps=rate, options={"qp": "0"})
        clip = clip_dataset([str(path)], fps=5, transform=None, num_frames=10)[request(0)].clip
        assert torch.equal(clip, decode_video(path, np.arange(10) * rate // 5))


def test_fps_gives_clips_of_equal_duration_if_the_frame_rate_varies(tmp_path):
    times = [200 * number for number in range(20)] + [4000 + 20 * number for number in range(200)]
    path = write_video(tmp_path / "varies.mp4", num_frames=220, times=times, options={"qp": "0"})
    frames = decode_video(path, range(220)).flatten(1)
    for index in range(6):
        clip = clip_dataset([str(path)] * 6, fps=5, transform=None, num_frames=8)[request(index)].clip.flatten(1)
        shown = [int((frames == frame).all(dim=1).nonzero()[0]) for frame in clip]
        assert times[shown[-1]] - times[shown[0]] == pytest.approx(1400, abs=240)


def test_fps_without_a_frame_rate_is_an_error(frame_folder):
    with pytest.raises(ValueError, match="fps=5 needs the frame rate of the video, which is not known"):
        clip_dataset([str(frame_folder)], fps=5)[request(0)]


def test_a_short_video_is_unreadable_with_the_policy_error(toy_video_path):
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
    for index in range(2):
        joined = torch.cat([half["context_masks"][index] for half in halves])
        assert torch.equal(joined, batch["context_masks"][index])


def test_the_number_of_workers_does_not_change_clips(toy_video_path):
    clips = clip_dataset([str(toy_video_path)] * 6)
    collate = PretrainingCollator(MaskSampler([MultiBlockMask(2, (0.3, 0.3))], (2, 4, 4), seed=0))
    in_process, in_workers = (
        list(
            torch.utils.data.DataLoader(
                clips, batch_sampler=ClipBatchSampler(6, 3, 2, seed=1), num_workers=workers, collate_fn=collate
            )
        )
        for workers in (0, 2)
    )
    for first, second in zip(in_process, in_workers, strict=True):
        assert torch.equal(first["pixel_values_videos"], second["pixel_values_videos"])
        assert torch.equal(first["target_masks"][0], second["target_masks"][0])


def test_clips_do_not_use_global_generators(toy_video_path):
    clips = clip_dataset([str(toy_video_path)])
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    clips[request(0)]
    assert (np.random.get_state()[1] == before[0]).all() and torch.equal(torch.get_rng_state(), before[1])


def test_an_image_is_a_still_clip(tmp_path):
    path = str(write_image(tmp_path / "still.png", 7))
    clip = clip_dataset([path], short_video="repeat_last", transform=None)[request(0)].clip
    assert torch.equal(clip, decode_video(path, [0]).expand(4, -1, -1, -1))
