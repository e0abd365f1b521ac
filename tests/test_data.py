"""The order is a function of (seed, epoch), clips of (seed, epoch, sample id), and broken videos are counted and bounded.

pytest tests/test_data.py
"""

import datasets
import numpy as np
import pytest
import torch

from vjepa_hf.data import (
    ClipBatchSampler,
    ClipRequest,
    ClipReader,
    InputLog,
    PretrainingCollator,
    VideoClipDataset,
    VideoFailure,
    check_video,
    epoch_order,
)
from vjepa_hf.masking import MaskSampler, MultiBlockMask
from vjepa_hf.transforms import RandomResizedCropFlip
from vjepa_hf.video_io import VideoDecodeError

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
    with pytest.raises(VideoDecodeError):
        clip_dataset(paths, max_attempts=4)[request(0)]


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


