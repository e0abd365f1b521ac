"""Fixtures of the tests of `vjepa_hf.data`."""

import pytest

from video_files import write_image


@pytest.fixture
def frame_folder(tmp_path):
    """Frames 0, 2, ... 38 of the pattern; sorted by number, not by name, 10 follows 8."""
    for number in range(0, 40, 2):
        write_image(tmp_path / "frames" / f"frame{number}.png", number)
    return tmp_path / "frames"
