"""The order is a function of (seed, epoch) and does not depend on the split of a step over processes.

pytest tests/data/test_order.py
"""

import pytest

from vjepa_hf.data.order import ClipBatchSampler, epoch_order


def clips_of(sampler: ClipBatchSampler) -> list[list[tuple[int, int]]]:
    return [[(request.epoch, request.index) for request in batch] for batch in sampler]


def test_every_sample_occurs_once_per_epoch_at_any_batch_size():
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


def test_the_order_resumes_at_any_clip_on_any_number_of_processes():
    straight = sum(clips_of(ClipBatchSampler(10, 4, 6, seed=3)), [])
    rest = sum(clips_of(ClipBatchSampler(10, 6, 2, seed=3, first_clip=12)), [])
    assert rest == straight[12:]


def test_mask_groups_are_consecutive_clips_of_a_step():
    sampler = ClipBatchSampler(100, 2, 1, seed=0, num_processes=4, process_index=3, mask_group_size=4)
    ((first, second),) = list(sampler)
    step = [(0, int(index)) for index in epoch_order(100, 0, 0)[:8]]
    assert first.group == second.group == tuple(step[4:])
    assert [(first.epoch, first.index), (second.epoch, second.index)] == step[6:]


def test_clips_of_the_same_video_are_consecutive_each_with_its_own_key():
    sampler = ClipBatchSampler(5, 6, 5, seed=3, clips_per_video=3)
    clips = sum(clips_of(sampler), [])
    assert len(set(clips)) == len(clips) == 30
    videos = [index for _, index in clips]
    assert videos[::3] == videos[1::3] == videos[2::3]
    assert videos[::3] == [int(index) for epoch in (0, 1) for index in epoch_order(5, 3, epoch)]


def test_sample_ids_of_a_stream_are_positions():
    assert clips_of(ClipBatchSampler(None, 2, 2, seed=0, first_clip=6)) == [[(0, 6), (0, 7)], [(0, 8), (0, 9)]]


@pytest.mark.parametrize("size", [3, 16])
def test_a_mask_group_that_does_not_fit_is_an_error(size):
    with pytest.raises(ValueError, match=f"mask_group_size {size} must be a multiple of per_device_batch_size 2"):
        ClipBatchSampler(100, 2, 1, seed=0, num_processes=4, mask_group_size=size)
