"""An excerpt is a part of a video with the times of the whole, and its pictures show what the model sees.

pytest tests/look/test_excerpt.py
"""

import numpy as np
import pytest
import torch

from video_files import write_video
from vjepa_hf import VJEPAVideoProcessor
from vjepa_hf.data.videos import decode_video
from vjepa_hf.look.excerpt import DISPLAY_SIDE, Excerpt, FramesForDisplay
from vjepa_hf.model.video_inputs import open_video
from vjepa_hf.model.video_io import VideoDecodeError


def test_an_excerpt_has_the_frames_and_times_of_its_seconds(video):
    with open_video(video) as opened:
        excerpt = Excerpt(opened, start=0.5, max_seconds=0.4)
        assert excerpt.info.num_frames == 12 and excerpt.info.fps == opened.info.fps
        frames = list(excerpt.iter_frames([0, 4, 11]))
        assert [frame.number for frame in frames] == [0, 4, 11]
        assert [frame.seconds for frame in frames] == pytest.approx([0.5, 0.5 + 4 / 30, 0.5 + 11 / 30])
        expected = decode_video(video, [15, 19, 26])
        assert torch.equal(torch.stack([frame.frame for frame in frames]), expected)
        assert torch.equal(excerpt.frames([0, 4, 11]), expected)


def test_frames_without_times_get_times():
    frames = np.zeros((50, 8, 8, 3), np.uint8)
    with open_video(frames) as opened:
        excerpt = Excerpt(opened, start=0.4, max_seconds=1)
        assert not excerpt.has_times and excerpt.info.num_frames == 25
        assert [frame.seconds for frame in excerpt.iter_frames([0, 5])] == pytest.approx([0.4, 0.6])


def test_frames_are_chosen_by_time_where_the_rate_varies(tmp_path):
    times = [10 * number**2 for number in range(12)]
    path = write_video(tmp_path / "uneven.mp4", 12, times=times)
    with open_video(str(path)) as opened:
        numbers = np.array([2, 5])
        whole, excerpt = Excerpt(opened, 0, 1e3), Excerpt(opened, 2 / opened.info.fps, 1e3)
        assert whole.at_constant_rate(numbers).tolist() == opened.at_constant_rate(numbers).tolist() != [2, 5]
        assert excerpt.at_constant_rate(numbers - 2).tolist() == (opened.at_constant_rate(numbers) - 2).tolist()


def test_a_video_that_ends_before_the_excerpt_is_an_error(video):
    with open_video(video) as opened, pytest.raises(VideoDecodeError, match="frames from second 60 on: it has 38"):
        Excerpt(opened, start=60, max_seconds=10)


@pytest.mark.parametrize("size", [None, {"shortest_edge": 36}, {"height": 32, "width": 48}])
def test_pictures_show_the_part_that_the_model_sees_but_larger(tmp_path, size):
    path = write_video(tmp_path / "large.mp4", 8, height=720, width=960)
    processor = VJEPAVideoProcessor(size=size, crop_size={"height": 32, "width": 48}, num_frames=4, frame_step=2)
    with open_video(str(path)) as opened:
        shown = FramesForDisplay(Excerpt(opened, 0, 9), processor)
        frames = list(shown.iter_frames([0, 2, 4]))
    assert len(frames) == len(shown.pictures) == len(shown.times)
    assert shown.pictures[0].dtype == np.uint8
    assert shown.pictures[0].shape == (round(DISPLAY_SIDE / 1.5), DISPLAY_SIDE, 3)
    seen = processor(frames[1].frame[None], do_sample_frames=False, do_normalize=False, do_rescale=False)
    seen = torch.as_tensor(seen["pixel_values_videos"])[0].float()
    shrunk = torch.from_numpy(shown.pictures[1]).permute(2, 0, 1)[None].float()
    shrunk = torch.nn.functional.interpolate(shrunk, size=(32, 48), mode="area")
    red, mirrored = ((pictures - seen)[:, 0].abs().mean() for pictures in (shrunk, shrunk.flip(-1)))
    assert red < 10 and mirrored > 40


def test_small_videos_are_not_enlarged_and_fast_ones_keep_every_other_picture(tmp_path, processor):
    path = write_video(tmp_path / "small.mp4", 20, height=48, width=64, fps=60)
    with open_video(str(path)) as opened:
        shown = FramesForDisplay(Excerpt(opened, 0, 9), processor)
        assert len(list(shown.iter_frames(range(0, 20, 2)))) == 10
    assert [picture.shape for picture in shown.pictures] == [(48, 48, 3)] * 5
