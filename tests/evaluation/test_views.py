"""Views equal those of the processor, or are functions of (seed, row, view).

pytest tests/evaluation/test_views.py
"""

import numpy as np
import pytest
import torch

from vjepa_hf.evaluation.views import AugmentedClips, RegularClips, ViewDataset, augmentation


def test_augmented_clips_are_a_function_of_seed_row_and_view(crops, videos):
    clips = crops(videos[0], row=5)
    assert clips.shape == (3, 4, 3, 32, 32)
    assert torch.equal(clips, crops(videos[0], row=5))
    assert not torch.equal(clips, crops(videos[0], row=6))
    assert not torch.equal(clips[0], clips[1])
    alone = AugmentedClips(crops.processor, crops.transform, seed=3, views=(2,))
    assert torch.equal(alone(videos[0], row=5)[0], clips[2])


def test_regular_clips_equal_those_of_the_processor(processor, videos):
    processor.num_clips = 2
    clips = RegularClips(processor)
    assert torch.equal(clips(videos[0], row=9), processor(videos[0])["pixel_values_videos"][0])
    assert clips.num_views == 2


@pytest.mark.parametrize("name", ["crop", "flip", "auto"])
def test_augmentations_give_clips_of_the_size_of_the_model(name):
    video = torch.randint(256, (4, 3, 40, 60), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert augmentation(name, (32, 48))(video, np.random.default_rng(0)).shape == (4, 3, 32, 48)


def test_an_unknown_augmentation_is_an_error_and_none_is_none():
    assert augmentation("none", (32, 32)) is None
    with pytest.raises(ValueError, match="'mixup' must be one of none, crop, flip, auto"):
        augmentation("mixup", (32, 32))


def test_an_unreadable_video_is_a_failure_in_place_of_its_clips(processor, videos):
    dataset = ViewDataset([videos[0], "missing.mp4"], RegularClips(processor))
    row, failure = dataset[1]
    assert row == 1 and failure.video == "missing.mp4" and "No such file" in failure.cause
    assert dataset[0][1].shape == (1, 4, 3, 32, 32)
