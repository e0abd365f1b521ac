"""The commands do what they say: versions, features in a file, and a report about the videos of a source.

pytest tests/test_cli.py
"""

import shutil

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from typer.testing import CliRunner

from video_files import write_video
from vjepa_hf import VJEPAModel, VJEPAVideoProcessor
from vjepa_hf.cli import app
from vjepa_hf.data.clips import load_videos
from vjepa_hf.data.videos import probe_video


def run(*words: str, exit_code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == exit_code, result.output
    return result.output


def test_env_names_versions():
    output = run("env")
    assert torch.__version__.split("+")[0] in output
    assert any(line.startswith("av ") for line in output.splitlines())


@pytest.fixture
def model_folder(tiny_config, tmp_path):
    torch.manual_seed(0)
    VJEPAModel(tiny_config).save_pretrained(tmp_path / "model")
    VJEPAVideoProcessor(crop_size=32, num_frames=4, frame_step=2).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("num_clips", [1, 3])
def test_features_are_those_of_the_model_on_its_grid(model_folder, toy_video_path, tmp_path, num_clips):
    output = tmp_path / "features.safetensors"
    run("features", toy_video_path, "-o", output, "--model", model_folder, "--num-clips", num_clips)
    features = load_file(output)["features"]
    assert features.shape == (num_clips, 2, 4, 4, 48)
    pixels = VJEPAVideoProcessor.from_pretrained(model_folder)(str(toy_video_path), num_clips=num_clips)
    with torch.no_grad():
        clips = pixels["pixel_values_videos"].reshape(num_clips, 4, 3, 32, 32)
        expected = VJEPAModel.from_pretrained(model_folder)(clips).last_hidden_state
    torch.testing.assert_close(features.flatten(1, 3), expected)


@pytest.fixture
def folder_with_a_broken_video(toy_video_path, tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    shutil.copy(toy_video_path, folder / "good one.mp4")
    (folder / "broken.mp4").write_bytes(b"not a video")
    return folder


@pytest.mark.parametrize("num_workers", [0, 2])
def test_check_data_names_broken_and_short_videos_and_lists_the_others(
    folder_with_a_broken_video, tmp_path, num_workers
):
    cleaned = tmp_path / "clean.csv"
    words = ["check-data", folder_with_a_broken_video, "--num-frames", 500, "--num-workers", num_workers]
    output = run(*words, "-o", cleaned, exit_code=1)
    assert "unreadable" in output and "broken.mp4" in output
    assert "short" in output and "a clip spans 1997" in output
    assert "2 videos: 1 unreadable, 1 short" in output
    assert load_videos(cleaned)["video"][:] == [str(folder_with_a_broken_video / "good one.mp4")]


def test_check_data_ends_well_when_all_is_well(folder_with_a_broken_video):
    (folder_with_a_broken_video / "broken.mp4").unlink()
    output = run("check-data", folder_with_a_broken_video, "--num-frames", 4, "--num-workers", 0)
    assert "1 videos: 0 unreadable, 0 short" in output


def test_check_data_names_what_is_odd(toy_video_path, tmp_path):
    write_video(tmp_path / "odd.mp4", num_frames=1, height=64, width=320)
    output = run("check-data", tmp_path / "odd.mp4", "--num-frames", 1, "--num-workers", 0)
    assert "odd         " in output and "one frame" in output and "very long in shape, 320 x 64" in output
    assert "0 unreadable, 0 short, 2 odd" in output


def test_check_data_writes_smaller_copies_and_their_list(folder_with_a_broken_video, tmp_path):
    write_video(folder_with_a_broken_video / "large.mp4", num_frames=20, height=96, width=128)
    copies = tmp_path / "copies"
    words = ["--shrink-to", copies, "--short-side", 32, "-o", tmp_path / "clean.csv", "--num-workers", 0]
    run("check-data", folder_with_a_broken_video, *words, exit_code=1)
    videos = load_videos(tmp_path / "clean.csv")["video"][:]
    assert [video.rsplit("_", 1)[-1] for video in videos] == ["good one.mp4", "large.mp4"]
    assert all(video.startswith(str(copies)) for video in videos)
    info = probe_video(videos[1])
    assert (info.num_frames, info.height) == (20, 32)


def test_check_data_lists_what_fits_a_cell(toy_video_path, tmp_path):
    row = {"video": [str(toy_video_path)], "label": [3], "caption": ["a cat"], "thumbnail": [b"\xff\xd8"]}
    Dataset.from_dict(row).to_parquet(tmp_path / "a.parquet")
    run("check-data", tmp_path / "a.parquet", "--num-workers", 0, "-o", tmp_path / "clean.csv")
    assert (tmp_path / "clean.csv").read_text().splitlines() == ["video,label,caption", f"{toy_video_path},3,a cat"]


def test_check_data_says_what_it_cannot_do(toy_video_path, tmp_path):
    assert "does not exist" in run("check-data", tmp_path / "nowhere", exit_code=2)
    Dataset.from_dict({"video": [toy_video_path.read_bytes()]}).to_parquet(tmp_path / "a.parquet")
    words = ["check-data", tmp_path / "a.parquet", "--num-workers", 0]
    assert "16" in run(*words, "--shrink-to", tmp_path / "copies", "--short-side", 8, exit_code=2)
    assert "0 unreadable" in run(*words)
    assert "add --shrink-to" in run(*words, "-o", tmp_path / "a.csv", exit_code=2)
