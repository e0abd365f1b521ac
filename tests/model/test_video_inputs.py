"""Every kind of video is opened by one function, with one interface, and named in messages without control characters.

pytest tests/model/test_video_inputs.py
"""

import io
import shutil

import datasets
import fsspec
import numpy as np
import pytest
import torch
from PIL import Image

from video_files import read_all, write_video
from vjepa_hf.model.names import printable
from vjepa_hf.model.video_inputs import ArrayFormat, FrameArray, failed_video, list_videos, open_video, video_name
from vjepa_hf.model.video_io import VideoDecodeError, VideoFile


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """12 frames of 48 x 64."""
    return write_video(tmp_path_factory.mktemp("videos") / "video.mp4", num_frames=12)


@pytest.fixture(scope="module")
def frames(video):
    return read_all(video)


def test_every_kind_of_video_has_the_same_frames(video, frames):
    data = video.read_bytes()
    files = [video, str(video), video.as_uri(), data, bytearray(data), memoryview(data), io.BytesIO(data)]
    rows = [{"bytes": data, "path": "a.mp4"}, {"bytes": None, "path": str(video)}, {"bytes": data}]
    arrays = [frames, torch.from_numpy(frames), list(frames), frames.transpose(0, 3, 1, 2)]
    arrays += [[Image.fromarray(frame) for frame in frames]]
    expected = torch.from_numpy(frames).permute(0, 3, 1, 2)
    for kind in (*files, *rows, *arrays):
        with open_video(kind) as opened:
            assert (opened.info.num_frames, opened.info.height, opened.info.width) == (12, 48, 64)
            assert torch.equal(opened.frames(np.array([[3, 1], [3, 3]])), expected[np.array([[3, 1], [3, 3]])])
            assert opened.frames([0], size=(20, 24)).shape == (1, 3, 20, 24)
            timed = list(opened.iter_frames([2, 5, 5]))
        assert [frame.number for frame in timed] == [2, 5, 5]
        assert torch.equal(torch.stack([frame.frame for frame in timed]), expected[[2, 5, 5]])


def test_a_lost_video_fails_with_its_name_and_cause_as_a_path_and_as_a_row():
    lost = failed_video("/a/0.tar", "ReadError: unexpected end of data")
    for kind in (lost, {"bytes": None, "path": lost}):
        assert video_name(kind) == "/a/0.tar"
        with pytest.raises(VideoDecodeError) as error, open_video(kind):
            pass
        assert (error.value.file, error.value.cause) == ("/a/0.tar", "ReadError: unexpected end of data")
    assert video_name(failed_video("https://host/0.tar?key=secret", "gone")) == "https://host/0.tar?..."


def test_an_open_video_stays_open(video):
    with VideoFile(video) as file:
        with open_video(file) as opened:
            opened.frames([0])
        file.frames([1])


@pytest.mark.parametrize("beyond", [[12], [0, 99]])
def test_too_few_frames_in_memory_are_the_error_of_a_file(video, frames, beyond):
    for kind in (video, frames):
        with pytest.raises(VideoDecodeError, match="it has only 12 frames"), open_video(kind) as opened:
            opened.frames(beyond)


def test_what_is_not_a_video_is_an_error_that_says_what_is(frames):
    for kind in (7, [], ["a.mp4", "b.mp4"], object()):
        with pytest.raises(ValueError, match="is not a path, URL, bytes, file, array"):
            open_video(kind)
    with pytest.raises(ValueError, match=r"a dict with the keys \['video', 'label'\] is not a video"):
        open_video({"video": "a.mp4", "label": 1})
    for kind in (None, "", {"bytes": None, "path": None}):
        with pytest.raises(VideoDecodeError, match="neither a path nor bytes"):
            open_video(kind)


def test_a_list_is_flattened_and_frames_in_it_are_one_video(video, frames):
    path, images = str(video), [Image.fromarray(frame) for frame in frames]
    for one in (path, video, video.read_bytes(), {"path": path}, frames, frames[0], frames[..., 0], images, images[0]):
        assert len(list_videos(one)) == 1
    for several in ([path, video], (path, {"path": path}), [frames, path], np.stack([frames] * 2), [images, images]):
        assert len(list_videos(several)) == 2
    assert len(list_videos([[path, path], path])) == 3
    gray = frames[..., 0]  # (T, H, W): an image if it had three rows or columns
    assert len(list_videos([gray, gray])) == 2 and len(list_videos([gray[0], gray[1]])) == 1


def test_a_stream_of_videos_is_listed(video):
    stream = datasets.Dataset.from_dict({"video": [str(video)] * 2}).to_iterable_dataset()
    for several in (stream["video"], (path for path in [video, video]), dict.fromkeys([video, str(video)]).keys()):
        assert len(list_videos(several)) == 2


def test_frames_of_a_list_may_be_arrays_tensors_and_images(frames):
    mixed = [torch.from_numpy(frames[0]), frames[1], Image.fromarray(frames[2])]
    for frame_list in (mixed, mixed[::-1]):
        assert FrameArray(frame_list).info.num_frames == 3
    assert np.array_equal(FrameArray(mixed).frames([0, 1, 2]).permute(0, 2, 3, 1), frames[:3])


@pytest.mark.parametrize("shape", [(0, 8, 8, 3), (4, 0, 8, 3), (4, 8, 0, 3), (4, 3, 0, 8), (4, 0, 8)])
def test_an_array_without_pixels_is_an_error(shape):
    with pytest.raises(ValueError, match="has no frames or no pixels"):
        open_video(np.zeros(shape, dtype=np.uint8))


def test_chained_addresses_are_read(video):
    fsspec.filesystem("memory").pipe("/chained.mp4", video.read_bytes())
    for address in ("simplecache::memory://chained.mp4", "filecache::memory://chained.mp4"):
        with open_video(address) as opened:
            assert opened.info.num_frames == 12


def test_a_chained_address_tells_no_secret():
    for address in ("filecache::http://me:secret@127.0.0.1:1/a.mp4?key=secret", "zip://a::http://me:secret@[::1/b"):
        with pytest.raises(VideoDecodeError) as error:
            open_video(address)
        assert "secret" not in str(error.value) and "me:" not in str(error.value)


def test_a_path_may_look_like_a_chained_address(video, tmp_path):
    shutil.copy(video, tmp_path / "a::b.mp4")
    with open_video(tmp_path / "a::b.mp4") as opened:
        assert opened.info.num_frames == 12


def test_errors_of_file_systems_are_decode_errors_that_name_the_address():
    for address in (
        "github://a:b@c/x.mp4",
        "dir://x.mp4",
        "reference://x.mp4",
        "tar://a::file:///gone.tar",
        "zip://a",
    ):
        with pytest.raises(VideoDecodeError, match="cannot read the file: "):
            open_video(address)


def test_the_format_of_arrays_is_followed(frames):
    gray = FrameArray(frames[..., 0], ArrayFormat(num_channels=1))
    assert gray.frames([0]).shape == (1, 1, 48, 64)
    ambiguous = np.zeros((16, 3, 5, 3), dtype=np.uint8)
    assert FrameArray(ambiguous, ArrayFormat(data_format="channels_last")).info.height == 3
    assert FrameArray(ambiguous).info.height == 5
    unscaled = FrameArray(frames - 500.0, ArrayFormat(highest=None))
    assert unscaled.frames([0]).min() < -400


@pytest.mark.parametrize("name", ["a\x1b[31mb", "a\nb", "a\r\x07b", "a\u202eb", "a\u2028b", "caf\udce9"])
def test_names_are_printable_wherever_they_come_from(name, tmp_path):
    shown = printable(name)
    assert shown.isprintable() and shown.encode() and shown != name
    assert video_name(name) == video_name({"bytes": b"1", "path": name}) == shown
    for kind in (name, {"bytes": b"no video", "path": name}):
        with pytest.raises(VideoDecodeError) as error:
            open_video(kind)
        assert error.value.file == shown and str(error.value).isprintable()
    folder = tmp_path / name
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system does not have such names")
    with pytest.raises(VideoDecodeError) as error:
        open_video(folder)
    assert str(error.value).isprintable()
