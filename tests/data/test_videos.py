"""Every kind of video is opened in the same way, and errors name it.

pytest tests/data/test_videos.py
"""

import numpy as np
import pytest
import torch

from video_files import picture, write_image
from vjepa_hf import VJEPAVideoProcessor
from vjepa_hf.data.videos import VideoFailure, decode_video, probe_video
from vjepa_hf.model.video_inputs import open_video, video_name
from vjepa_hf.model.video_io import VideoDecodeError, VideoFile


def test_bytes_paths_and_files_with_either_give_the_same_frames(toy_video_path):
    content = toy_video_path.read_bytes()
    with VideoFile(toy_video_path) as file:
        expected = file.frames([3, 1, 3])
    for video in (content, {"bytes": content, "path": "a.mp4"}, {"bytes": None, "path": str(toy_video_path)}):
        assert torch.equal(decode_video(video, [3, 1, 3]), expected)
        assert probe_video(video) == probe_video(str(toy_video_path))


def test_a_folder_of_frames_is_a_video_in_the_order_of_its_numbers(frame_folder):
    frames = decode_video(str(frame_folder), [5, 0, 5])
    expected = [picture(number, 48, 64) for number in (10, 0, 10)]
    assert torch.equal(frames, torch.from_numpy(np.stack(expected)).permute(0, 3, 1, 2))
    info = probe_video(str(frame_folder))
    assert (info.num_frames, info.height, info.width) == (20, 48, 64) and np.isnan(info.fps)


def test_a_folder_of_frames_checks_indices_like_a_file_and_skips_hidden_files(frame_folder):
    whole = decode_video(str(frame_folder), range(20))
    (frame_folder / "._000.png").write_bytes(b"metadata of another system")
    assert torch.equal(decode_video(str(frame_folder), range(20)), whole)
    for indices in ([-1], []):
        with pytest.raises(ValueError, match="at least one frame number, and none below 0"):
            decode_video(str(frame_folder), indices)


def test_the_processor_samples_a_folder_of_frames_like_a_file(frame_folder):
    pixels = {"do_resize": False, "do_center_crop": False, "do_rescale": False, "do_normalize": False}
    for num_frames, indices in (
        (4, [3, 7, 11, 15]),
        (20, [*range(0, 20, 4), *[19] * 15]),
    ):  # not a clip, although it has 20
        processor = VJEPAVideoProcessor(num_frames=num_frames, **pixels)
        clip = processor(str(frame_folder))["pixel_values_videos"][0]
        assert torch.equal(clip, decode_video(str(frame_folder), indices).float())


@pytest.mark.parametrize("names", [("cat.png", "dog.png"), ("1.png", "2.png", "4.png"), ("1.png", "a1.png"), ()])
def test_images_that_are_not_frames_of_one_video_are_an_error(tmp_path, names):
    (tmp_path / "frames").mkdir()
    for name in names:
        write_image(tmp_path / "frames" / name, 0)
    with pytest.raises(VideoDecodeError, match="not numbered evenly; to use each image as a clip, name them"):
        probe_video(str(tmp_path / "frames"))


def test_frames_of_several_sizes_or_too_few_are_an_error(tmp_path, frame_folder):
    with pytest.raises(VideoDecodeError, match="it has only 20 frames"):
        decode_video(str(frame_folder), [20])
    write_image(frame_folder / "frame40.png", 0, height=64)
    with pytest.raises(VideoDecodeError, match="differ in size"):
        decode_video(str(frame_folder), [0, 20])


def test_an_error_about_bytes_names_their_source():
    with pytest.raises(VideoDecodeError, match="shard 7, clip 3.mp4"):
        decode_video({"bytes": b"not a video", "path": "shard 7, clip 3.mp4"}, [0])
    with pytest.raises(VideoDecodeError, match="neither a path nor bytes"):
        probe_video({"bytes": None, "path": None})


def test_errors_of_fsspec_show_neither_password_nor_query():
    with pytest.raises(VideoDecodeError, match="memory://clips/gone.mp4") as error:
        probe_video("memory://somebody:secret@clips/gone.mp4?key=secret")
    assert "secret" not in str(error.value) and error.value.__suppress_context__


def test_other_urls_are_read_by_fsspec(toy_video_path):
    import fsspec

    with fsspec.open("memory://clips/a.mp4", "wb") as file:
        file.write(toy_video_path.read_bytes())
    assert torch.equal(decode_video("memory://clips/a.mp4", [2]), decode_video(toy_video_path, [2]))
    with pytest.raises(VideoDecodeError, match="memory://clips/gone.mp4"):
        probe_video("memory://clips/gone.mp4")
    with pytest.raises(VideoDecodeError, match="gopher://clips/a.mp4.*gopher"):
        probe_video("gopher://clips/a.mp4")


def test_files_and_folders_are_opened_in_the_same_way(frame_folder, toy_video_path):
    for video in (str(toy_video_path), str(frame_folder)):
        with open_video(video) as opened:
            clips = opened.frames(np.array([[0, 3], [5, 3]]), size=(20, 24))
            assert clips.shape == (2, 2, 3, 20, 24)
            assert torch.equal(clips[1, 1], decode_video(video, [3], size=(20, 24))[0])
            assert opened.info == probe_video(video) or np.isnan(opened.info.fps)
            assert opened.name == video


def test_a_failure_names_the_video_as_its_row_does(tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    for video in (str(tmp_path / "broken.mp4"), tmp_path / "broken.mp4", {"bytes": b"no", "path": "a.mp4"}, b"no"):
        with pytest.raises(VideoDecodeError) as error:
            probe_video(video)
        failure = VideoFailure.of(video, error.value)
        assert failure.video == video_name(video) == error.value.file
        assert str(failure) == f"{failure.video}: {failure.cause}" and "Invalid data" in failure.cause
