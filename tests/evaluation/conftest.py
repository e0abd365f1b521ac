"""Processor, videos and augmented clips of the tests of features."""

import pytest

from vjepa_hf import VJEPAVideoProcessor
from vjepa_hf.evaluation.views import AugmentedClips, augmentation


@pytest.fixture
def processor(tiny_config) -> VJEPAVideoProcessor:
    return VJEPAVideoProcessor(crop_size=tiny_config.image_size, num_frames=tiny_config.num_frames, frame_step=2)


@pytest.fixture(scope="module")
def videos(toy_videos) -> list[str]:
    return [str(path) for path in sorted(toy_videos.rglob("*.mp4"))[:4]]


@pytest.fixture
def crops(processor) -> AugmentedClips:
    return AugmentedClips(processor, augmentation("crop", (32, 32)), seed=3, views=(0, 1, 2))
