"""Every time step of a long video appears once, with its timestamp, at any stride; only current windows are held.

pytest tests/evaluation/test_dense_features.py
"""

import re

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from video_files import write_video
from vjepa_hf import VJEPAVideoProcessor
from vjepa_hf.data.videos import decode_video
from vjepa_hf.evaluation.dense_features import FeaturePiece, Window, plan_windows, stream_features, write_features
from vjepa_hf.model.video_io import VideoDecodeError, VideoFile

# --- windows ---


def test_windows_keep_every_step_once_and_inside():
    for num_steps in range(1, 30):
        for length in range(1, 9):
            for stride in range(1, length + 1):
                windows = plan_windows(num_steps, length, stride)
                kept = [step for window in windows for step in range(window.first, window.last)]
                assert kept == list(range(num_steps))
                assert all(w.start <= w.first < w.last <= w.start + length for w in windows)
                assert num_steps < length or windows[-1].start + length == num_steps


def test_borders_lie_in_the_middle_of_overlaps():
    assert plan_windows(12, 8, 4) == [Window(0, 0, 6), Window(4, 6, 12)]
    assert plan_windows(13, 8, 4) == [Window(0, 0, 6), Window(4, 6, 8), Window(5, 8, 13)]
    assert plan_windows(16, 8, 8) == [Window(0, 0, 8), Window(8, 8, 16)]
    assert plan_windows(3, 8, 4) == [Window(0, 0, 3)]
    for num_steps, length, stride in ((0, 8, 4), (8, 8, 9), (8, 8, 0)):
        with pytest.raises(ValueError, match=f"stride={stride} must be in"):
            plan_windows(num_steps, length, stride)


# --- features ---


@pytest.fixture
def processor():
    """Clips of 4 frames with step 2; a time step has 2 frames, so a window has 2 time steps."""
    return VJEPAVideoProcessor(size=32, crop_size=32, num_frames=4, frame_step=2)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """38 frames at uneven times: 19 frames of a clip, which are 9 and a half time steps."""
    times = [500 + 40 * number + 7 * (number % 3) for number in range(38)]
    return write_video(tmp_path_factory.mktemp("dense") / "uneven.mp4", 38, times=times)


def joined(pieces) -> FeaturePiece:
    pieces = list(pieces)
    return FeaturePiece(
        np.concatenate([piece.timestamps for piece in pieces]), torch.cat([piece.features for piece in pieces])
    )


@torch.no_grad()
def by_hand(model, processor, video, stride) -> torch.Tensor:
    """Compute the features of the whole decoded video, each time step from the window that keeps it."""
    numbers = [*range(0, 38, 2), 36]  # the last frame is repeated
    clip = processor(decode_video(video, numbers), do_sample_frames=False)["pixel_values_videos"][0]
    steps = []
    for window in plan_windows(10, 2, stride // 2):
        pixels = clip[2 * window.start : 2 * window.start + 4][None]
        steps.append(model(pixels).last_hidden_state.unflatten(1, (2, 4, 4))[0])
        steps[-1] = steps[-1][window.first - window.start : window.last - window.start]
    return torch.cat(steps)


@pytest.mark.parametrize("stride", [2, 4])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_streamed_features_are_those_of_the_decoded_video(tiny_model, processor, video, stride, batch_size):
    piece = joined(stream_features(tiny_model, processor, video, stride, batch_size))
    assert not piece.features.is_inference(), "no head could learn on them"
    torch.testing.assert_close(piece.features, by_hand(tiny_model, processor, video, stride), rtol=1e-4, atol=1e-5)
    with VideoFile(video) as file:
        seconds = [frame.seconds for frame in file.iter_frames(range(0, 38, 4))]
    assert piece.timestamps.tolist() == seconds and seconds[3] == pytest.approx((500 + 40 * 12 + 7 * 0) / 1000)


def test_a_video_of_one_window_has_the_features_of_the_model(tiny_model, processor, tmp_path):
    path = write_video(tmp_path / "short.mp4", 7)
    piece = joined(stream_features(tiny_model, processor, path, 4))
    with torch.no_grad():
        expected = tiny_model(**processor(str(path))).last_hidden_state.unflatten(1, (2, 4, 4))[0]
    torch.testing.assert_close(piece.features, expected)


def test_a_video_shorter_than_a_window_has_no_padded_time_steps(tiny_model, processor, tmp_path):
    piece = joined(stream_features(tiny_model, processor, write_video(tmp_path / "1.mp4", 1), 2))
    assert piece.features.shape == (1, 4, 4, 48) and piece.timestamps.tolist() == [0]


def test_fps_above_the_frame_rate_repeats_frames(tiny_model, tmp_path):
    path = write_video(tmp_path / "slow.mp4", 10, fps=10)
    processor = VJEPAVideoProcessor(size=32, crop_size=32, num_frames=4, fps=20)
    piece = joined(stream_features(tiny_model, processor, path, 4))
    assert piece.timestamps.tolist() == pytest.approx(np.arange(10) / 10)


def test_every_frame_is_decoded_once_at_any_overlap(tiny_model, processor, video, monkeypatch):
    decoded = []
    for name in ("_after_key", "_from_start"):
        original = getattr(VideoFile, name)

        def counted(self, *arguments, original=original):
            for number, frame in original(self, *arguments):
                decoded.append(number)
                yield number, frame

        monkeypatch.setattr(VideoFile, name, counted)
    joined(stream_features(tiny_model, processor, video, 2))
    assert len(decoded) == len(set(decoded)) >= 19


def test_a_piece_needs_only_the_frames_of_its_windows(tiny_model, processor, video, monkeypatch):
    decoded, pieces = [], []
    original = VideoFile.iter_frames

    def counted(self, indices):
        for frame in original(self, indices):
            decoded.append(frame.number)
            yield frame

    monkeypatch.setattr(VideoFile, "iter_frames", counted)
    for piece in stream_features(tiny_model, processor, video, 4, batch_size=1):
        pieces.append((len(piece.timestamps), decoded[-1]))
    assert pieces == [(2, 6), (2, 14), (2, 22), (2, 30), (2, 36)]


def test_a_stride_that_splits_a_tubelet_is_a_clear_error(tiny_model, processor, video):
    for stride in (3, 6, 0):
        with pytest.raises(ValueError, match=f"stride={stride} must be a multiple of tubelet_size=2 and at most"):
            next(stream_features(tiny_model, processor, video, stride))


# --- the file ---


def pieces(count):
    generator = torch.Generator().manual_seed(0)
    for number in range(count):
        yield FeaturePiece(np.arange(3.0) + 3 * number, torch.randn(3, 2, 2, 5, generator=generator))


@pytest.mark.parametrize("keep_grid", [False, True])
def test_safetensors_reads_a_file_written_piece_by_piece(tmp_path, keep_grid):
    whole = joined(pieces(4))
    shape = write_features(pieces(4), tmp_path / "f.safetensors", {"video": 'a "name" of 12 é'}, keep_grid)
    read = load_file(tmp_path / "f.safetensors")
    torch.testing.assert_close(read["features"], whole.features if keep_grid else whole.features.mean(dim=(1, 2)))
    assert read["timestamps"].tolist() == whole.timestamps.tolist() and read["features"].shape == shape
    with safe_open(tmp_path / "f.safetensors", "pt") as file:
        assert file.metadata() == {"video": 'a "name" of 12 é'}
    assert [path.name for path in tmp_path.iterdir()] == ["f.safetensors"]


def test_a_failed_write_leaves_no_file(tmp_path):
    def failing():
        yield from pieces(1)
        raise VideoDecodeError("x.mp4", "frames", "cut off")

    with pytest.raises(VideoDecodeError):
        write_features(failing(), tmp_path / "f.safetensors", {})
    assert list(tmp_path.iterdir()) == []


def test_code_on_the_page_runs(repo, video):
    page = (repo / "docs" / "dense_features.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert "assert" in program
    exec(compile(program, "docs/dense_features.md", "exec"), {"video": video})
