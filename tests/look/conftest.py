"""Saved models and a video of the tests of the page."""

import pytest

from video_files import write_video
from vjepa_hf import VJEPAVideoProcessor


@pytest.fixture
def processor(tiny_config) -> VJEPAVideoProcessor:
    """4 frames of 32 x 32, every second one of the video."""
    return VJEPAVideoProcessor(crop_size=32, num_frames=tiny_config.num_frames, frame_step=2)


@pytest.fixture
def save(processor, tmp_path):
    """Saves a model with its processor and returns the folder."""

    def save(model, name="model"):
        model.save_pretrained(tmp_path / name)
        processor.save_pretrained(tmp_path / name)
        return tmp_path / name

    return save


@pytest.fixture
def pretrained(tiny_pretraining_model, save):
    """Folder of a model with predictor."""
    return save(tiny_pretraining_model)


@pytest.fixture(scope="session")
def video(tmp_path_factory) -> str:
    """38 frames at 30 fps: 19 frames of a clip, which are ten time steps, the last of one frame."""
    return str(write_video(tmp_path_factory.mktemp("look") / "pattern.mp4", 38))
