"""Broken and odd videos are named; copies are smaller, have the frames of the original and appear when complete.

pytest tests/data/test_checks.py
"""

import av
import numpy as np
import pytest
from PIL import Image

from video_files import write_video
from vjepa_hf.data.checks import check_video, oddities, shrink_video
from vjepa_hf.data.videos import VideoFailure, decode_video, probe_video
from vjepa_hf.model.video_io import VideoDecodeError, VideoInfo


@pytest.fixture
def original(tmp_path):
    return write_video(tmp_path / "original.mp4", num_frames=300, height=96, width=128, fps=24, options={"g": "300"})


def key_frames(path) -> list[int]:
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    times = sorted(packet.pts for packet in packets)
    return sorted(times.index(packet.pts) for packet in packets if packet.is_keyframe)


def test_a_copy_is_smaller_has_all_frames_and_key_frames_nearby(original, tmp_path):
    copy = tmp_path / "copy.mp4"
    shrink_video(original, copy, short_side=48, keyframe_interval=10)
    info = probe_video(copy)
    assert (info.num_frames, info.height, info.width, info.fps) == (300, 48, 64, 24)
    assert max(np.diff(key_frames(copy))) <= 10 < max([300, *np.diff(key_frames(original))])
    assert list(tmp_path.glob("*.unfinished")) == []


def test_frame_i_of_a_copy_is_frame_i_of_the_original(original, tmp_path, monkeypatch):
    monkeypatch.setattr("vjepa_hf.data.checks.CRF", 0)
    shrink_video(original, tmp_path / "copy.mp4", short_side=96)
    for number in (0, 7, 255, 256, 299):
        copied, expected = (decode_video(path, [number])[0].float() for path in (tmp_path / "copy.mp4", original))
        other = decode_video(original, [(number + 150) % 300])[0].float()
        assert (copied - expected).abs().mean() < 4 < (copied - other).abs().mean()


def test_a_video_is_never_enlarged_and_sides_are_even(tmp_path):
    small = write_video(tmp_path / "small.avi", num_frames=5, height=33, width=47, codec="ffv1", pix_fmt="yuv444p")
    shrink_video(small, tmp_path / "copy.mp4", short_side=256)
    info = probe_video(tmp_path / "copy.mp4")
    assert (info.num_frames, info.height, info.width) == (5, 32, 48)


def test_an_unreadable_video_leaves_no_copy(tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    with pytest.raises(VideoDecodeError):
        shrink_video(tmp_path / "broken.mp4", tmp_path / "copy.mp4")
    damaged = tmp_path / "frames"
    damaged.mkdir()
    Image.new("RGB", (32, 32)).save(damaged / "0.png")
    (damaged / "1.png").write_bytes(b"no image")
    with pytest.raises(VideoDecodeError, match="1.png"):
        shrink_video(damaged, tmp_path / "copy.mp4")
    assert not list(tmp_path.glob("copy.*"))


@pytest.mark.parametrize("options", [{"short_side": 8}, {"keyframe_interval": 0}])
def test_invalid_sizes_are_errors(original, tmp_path, options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}="):
        shrink_video(original, tmp_path / "copy.mp4", **options)


def test_check_video_distinguishes_good_from_broken(toy_video_path, tmp_path):
    assert check_video(str(toy_video_path)) == probe_video(toy_video_path)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(toy_video_path.read_bytes()[:200])
    failure = check_video(str(broken))
    assert isinstance(failure, VideoFailure) and failure.video == str(broken) and failure.cause


def test_damage_anywhere_in_a_video_or_folder_is_noticed(tmp_path):
    path = write_video(tmp_path / "a.avi", codec="png", pix_fmt="rgb24", num_frames=40)
    assert check_video(str(path)).num_frames == 40
    data = path.read_bytes()
    start = data.index(b"IDAT", len(data) // 3)  # of a frame that is not the first, middle or last
    path.write_bytes(data[:start] + b"XXXX" + data[start + 4 :])
    assert isinstance(check_video(str(path)), VideoFailure)
    for name, size in (("sizes", 16), ("whole", 32)):
        for number in range(7):
            (tmp_path / name).mkdir(exist_ok=True)
            side = size if number == 4 else 32
            Image.new("RGB", (side, side)).save(tmp_path / name / f"{number}.png")
    assert "differ in size" in check_video(str(tmp_path / "sizes")).cause
    assert check_video(str(tmp_path / "whole")).num_frames == 7


@pytest.mark.parametrize(
    "info, warnings",
    [
        (VideoInfo(100, 30.0, 240, 320), []),
        (VideoInfo(1, 30.0, 240, 320), ["one frame"]),
        (VideoInfo(100, 1.0, 48, 320), ["small, 320 x 48", "elongated", "1 fps"]),
        (VideoInfo(100, 1000.0, 240, 320), ["1e+03 fps"]),
        (VideoInfo(100, float("nan"), 240, 320), []),
    ],
)
def test_oddities_are_named(info, warnings):
    assert len(oddities(info)) == len(warnings)
    assert all(text.startswith(start) for text, start in zip(oddities(info), warnings, strict=True))
