"""Commands of vjepa-hf: versions, features in a file, and a report about the videos of a source.

pytest tests/test_cli.py
"""

import json
import os
import re
import shutil
import sys
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pyarrow.parquet
import pytest
import torch
import typer
from datasets import ClassLabel, Dataset
from safetensors.torch import load_file
from typer.testing import CliRunner

from video_files import write_video
from vjepa_hf import VJEPAModel, VJEPAVideoProcessor, __version__, cli
from vjepa_hf.cli import SCRIPTS, app
from vjepa_hf.data.checks import copy_name
from vjepa_hf.data.sources import load_videos
from vjepa_hf.data.videos import probe_video
from vjepa_hf.evaluation.dense_features import stream_features
from vjepa_hf.evaluation.surprise import surprise
from vjepa_hf.model.frame_sampling import regular_clips
from vjepa_hf.training.arguments import shipped_configs


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
def test_features_equal_the_output_of_the_model_and_have_timestamps(model_folder, toy_video_path, tmp_path, num_clips):
    output = tmp_path / "features.safetensors"
    words = ["features", toy_video_path, "-o", output, "--model", model_folder, "--num_clips", num_clips]
    assert f"features ({num_clips}, 2, 4, 4, 48)" in run(*words)
    tensors = load_file(output)
    pixels = VJEPAVideoProcessor.from_pretrained(model_folder)(str(toy_video_path), num_clips=num_clips)
    with torch.no_grad():
        clips = pixels["pixel_values_videos"].reshape(num_clips, 4, 3, 32, 32)
        expected = VJEPAModel.from_pretrained(model_folder)(clips).last_hidden_state
    torch.testing.assert_close(tensors["features"].flatten(1, 3), expected)
    # 16 frames at 12 fps; a clip has frames 0, 2, 4, 6 after its start, and every second one starts a time step.
    first = regular_clips(16, 4, 2, num_clips).reshape(num_clips, 4)[:, :1]
    torch.testing.assert_close(tensors["timestamps"], torch.from_numpy((first + np.array([0, 4])) / 12))


def test_look_writes_a_page_and_refuses_a_mask_that_is_no_box(
    tiny_pretraining_model, model_folder, toy_video_path, tmp_path
):
    tiny_pretraining_model.save_pretrained(model_folder)
    output = tmp_path / "look.html"
    words = ["look", toy_video_path, "--model", model_folder, "-o", output]
    assert "open it in a browser" in run(*words, "--mask", "0,0,.5,.5", "--max_seconds", 1)
    assert '"name":"your box"' in output.read_text()
    output.unlink()
    assert "must be x0,y0,x1,y1" in run(*words, "--mask", "left", exit_code=2)
    assert not output.exists()


def test_dense_features_are_one_mean_per_time_step_of_the_video(model_folder, toy_video_path, tmp_path):
    output = tmp_path / "dense.safetensors"
    words = ["dense-features", toy_video_path, "-o", output, "--model", model_folder]
    assert "features (4, 48)" in run(*words)  # 16 frames are 8 frames of a clip, or 4 time steps
    encoder, processor = VJEPAModel.from_pretrained(model_folder), VJEPAVideoProcessor.from_pretrained(model_folder)
    for options, stride in (([], 4), (["--stride", 2], 2)):
        run(*words, *options)
        pieces = list(stream_features(encoder.eval(), processor, str(toy_video_path), stride))
        tensors = load_file(output)
        torch.testing.assert_close(tensors["features"], torch.cat([p.features for p in pieces]).mean(dim=(1, 2)))
        assert tensors["timestamps"].tolist() == [second for piece in pieces for second in piece.timestamps]
        assert tensors["timestamps"].tolist() == pytest.approx([0, 4 / 12, 8 / 12, 1])


def test_surprise_is_a_table_of_the_time_steps_of_a_video(model_folder, toy_video_path, tmp_path):
    words = ["surprise", toy_video_path, "--model", model_folder, "-o"]
    assert "scores of 3 of 4 time steps" in run(*words, tmp_path / "scores.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "scores.parquet")
    encoder, processor = VJEPAModel.from_pretrained(model_folder), VJEPAVideoProcessor.from_pretrained(model_folder)
    result = surprise(encoder, str(toy_video_path), processor)
    np.testing.assert_array_equal(table["score"].to_numpy(), result.scores)
    np.testing.assert_array_equal(table["time"].to_numpy(), result.times)
    assert "scores of 2 of 4" in run(*words, tmp_path / "scores.csv", "--stride", 4)
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 1 + 4


def test_surprise_refuses_formats_and_models_without_predictor(model_folder, toy_video_path, tmp_path):
    words = ["surprise", toy_video_path, "-o", tmp_path / "scores.parquet", "--model"]
    *_, line = run(
        "surprise", toy_video_path, "--model", model_folder, "-o", tmp_path / "a.txt", exit_code=2
    ).splitlines()
    assert "'.txt' of the output must be one of .parquet, .csv" in line
    model = VJEPAModel.from_pretrained(model_folder)
    model.predictor = None
    model.save_pretrained(model_folder)
    *_, line = run(*words, model_folder, exit_code=2).splitlines()
    assert "has no predictor; give the folder of a pretraining run" in line
    assert not list(tmp_path.glob("*.*"))


def test_a_mistake_gives_one_line_and_status_2(model_folder, toy_video_path, tmp_path):
    for command in ("features", "dense-features"):
        words = [command, "nowhere.mp4", "-o", tmp_path / "out.safetensors"]
        for model, message in ((model_folder, "nowhere.mp4"), (tmp_path, "config.json")):
            *bars, line = run(*words, "--model", model, exit_code=2).splitlines()
            assert ": " in line and message in line, line
            assert all(bar.startswith("Loading weights") for bar in bars if bar)
    words = ["dense-features", toy_video_path, "-o", tmp_path / "out.safetensors", "--model", model_folder]
    assert "stride=3 must be a multiple of tubelet_size=2" in run(*words, "--stride", 3, exit_code=2)
    assert not (tmp_path / "out.safetensors").exists()


def options() -> dict[str, list[str]]:
    """Return command -> long names of its options."""
    commands = typer.main.get_command(app).commands
    return {
        name: [word for parameter in command.params for word in parameter.opts if word.startswith("--")]
        for name, command in commands.items()
    }


def test_commands_have_dashes_and_options_underscores(toy_video_path):
    assert {"check-data", *SCRIPTS} < set(options()) and not [name for name in options() if "_" in name]
    names = [name for names in options().values() for name in names]
    assert len(names) > 15 and not [name for name in names if "-" in name.removeprefix("--")]
    for name in ("--num_frames", "--num-frames"):  # 0.1.0 had dashes, which still work
        assert "0 short" in run("check-data", toy_video_path, name, 4, "--num_workers", 0)


def test_every_help_has_an_example(monkeypatch):
    monkeypatch.setattr(sys, "argv", sys.argv)
    assert "Example: vjepa-hf " in run("--help")
    for command in options():
        assert f"Example: vjepa-hf {command}" in run(command, "--help")


def test_version_is_printed():
    assert run("--version") == f"{__version__}\n"


def test_the_shell_completes_commands():
    variables = {"_VJEPA_HF_COMPLETE": "complete_bash", "COMP_WORDS": "vjepa-hf de", "COMP_CWORD": "1"}
    completions = CliRunner().invoke(app, [], prog_name="vjepa-hf", env=variables).output
    assert completions.split() == ["detect-actions", "demo", "dense-features"]


def test_configurations_are_listed_with_a_line_each_and_printed():
    lines = run("configs").splitlines()
    assert "ViT-L/16 at 224 x 224 pixels, as published" in run("configs")
    assert [line.split()[0] for line in lines] == list(shipped_configs()) and len(lines) >= 5
    assert all(line[18] == " " and len(line) > 40 and len(line) < 120 for line in lines)
    assert run("configs", "vitl16") == shipped_configs()["vitl16"].read_text()
    assert "'vitl17' is not one of domain_adaptation, " in run("configs", "vitl17", exit_code=2)


# --- scripts ---


@pytest.fixture
def script(monkeypatch):
    """Runs a script by its command; its name and its words stay in `sys.argv` until the test ends."""
    monkeypatch.setattr(sys, "argv", sys.argv)
    return run


@pytest.mark.parametrize("command", SCRIPTS)
def test_help_of_a_script_shows_the_options_of_the_script(script, command):
    output = script(command, "--help")
    assert f"usage: vjepa-hf {command} " in output and "--model" in output and "--config" in output
    assert "Usage:" not in output  # typer's own


@pytest.mark.parametrize("command", SCRIPTS)
def test_a_mistake_in_the_options_of_a_script_is_one_line_and_status_2(script, command):
    for words, message in (("--modell", "m"), "did you mean 'model'"), (("--config", "vitl61"), "no such file"):
        (line,) = script(command, *words, exit_code=2).splitlines()
        assert line.startswith(f"vjepa-hf {command}: ") and message in line


def test_a_script_gets_every_word_that_follows_its_command(script, tmp_path):
    words = ["--model", str(tmp_path), "--learning-rate", "-1", "1e-3", "--evaluate-only", "--random_init=true", "a-b"]
    assert "evaluate_only tests the weights" in script("probe", *words[:-1], exit_code=2)
    script("probe", *words, exit_code=2)
    assert sys.argv[1:] == [*words[:2], "--learning_rate", "-1", "1e-3", "--evaluate_only", *words[-2:]]


@pytest.fixture
def folder_with_a_broken_video(toy_video_path, tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    shutil.copy(toy_video_path, folder / "good one.mp4")
    (folder / "broken.mp4").write_bytes(b"not a video")
    return folder


@pytest.mark.parametrize("num_workers", [0, 2])
def test_check_data_reports_broken_and_short_videos_and_lists_readable_ones(
    folder_with_a_broken_video, tmp_path, num_workers
):
    cleaned = tmp_path / "clean.csv"
    words = ["check-data", folder_with_a_broken_video, "--num_frames", 500, "--num_workers", num_workers]
    output = run(*words, "-o", cleaned, exit_code=1)
    assert "unreadable" in output and "broken.mp4" in output
    assert "short" in output and "a clip spans 1997" in output
    assert "2 videos: 1 unreadable, 1 short" in output
    assert load_videos(cleaned)["video"][:] == [str(folder_with_a_broken_video / "good one.mp4")]


def test_check_data_has_status_0_if_all_videos_are_readable(folder_with_a_broken_video):
    (folder_with_a_broken_video / "broken.mp4").unlink()
    output = run("check-data", folder_with_a_broken_video, "--num_frames", 4, "--num_workers", 0)
    assert "1 videos: 0 unreadable, 0 short" in output


def test_check_data_reports_unusual_videos(toy_video_path, tmp_path):
    write_video(tmp_path / "odd.mp4", num_frames=1, height=64, width=320)
    output = run("check-data", tmp_path / "odd.mp4", "--num_frames", 1, "--num_workers", 0)
    assert "odd         " in output and "one frame" in output and "elongated, 320 x 64" in output
    assert "0 unreadable, 0 short, 2 odd" in output


def test_check_data_writes_the_names_of_classes(toy_video_path, tmp_path):
    table = Dataset.from_dict({"video": [str(toy_video_path)] * 3, "label": [1, -1, None]})
    table.cast_column("label", ClassLabel(names=["walk", "jump"])).to_parquet(tmp_path / "a.parquet")
    run("check-data", tmp_path / "a.parquet", "--num_workers", 0, "-o", tmp_path / "clean.csv")
    assert (tmp_path / "clean.csv").read_text().splitlines() == [
        "video,label", f"{toy_video_path},jump", f"{toy_video_path},", f"{toy_video_path},",
    ]  # fmt: skip


def test_check_data_writes_smaller_copies_and_their_list(folder_with_a_broken_video, tmp_path):
    write_video(folder_with_a_broken_video / "large.mp4", num_frames=20, height=96, width=128)
    copies = tmp_path / "copies"
    words = ["--shrink_to", copies, "--short_side", 32, "-o", tmp_path / "clean.csv", "--num_workers", 0]
    run("check-data", folder_with_a_broken_video, *words, exit_code=1)
    videos = load_videos(tmp_path / "clean.csv")["video"][:]
    assert [video.rsplit("_", 1)[-1] for video in videos] == ["good one.mp4", "large.mp4"]
    assert all(video.startswith(str(copies)) for video in videos)
    info = probe_video(videos[1])
    assert (info.num_frames, info.height) == (20, 32)


def test_check_data_lists_columns_that_are_not_binary(toy_video_path, tmp_path):
    row = {"video": [str(toy_video_path)], "label": [3], "caption": ["a cat"], "thumbnail": [b"\xff\xd8"]}
    Dataset.from_dict(row).to_parquet(tmp_path / "a.parquet")
    run("check-data", tmp_path / "a.parquet", "--num_workers", 0, "-o", tmp_path / "clean.csv")
    assert (tmp_path / "clean.csv").read_text().splitlines() == ["video,label,caption", f"{toy_video_path},3,a cat"]


def test_mistakes_of_check_data_are_clear_errors(toy_video_path, tmp_path):
    assert "does not exist" in run("check-data", tmp_path / "nowhere", exit_code=2)
    Dataset.from_dict({"video": [toy_video_path.read_bytes()]}).to_parquet(tmp_path / "a.parquet")
    words = ["check-data", tmp_path / "a.parquet", "--num_workers", 0]
    assert "16" in run(*words, "--shrink_to", tmp_path / "copies", "--short_side", 8, exit_code=2)
    assert "0 unreadable" in run(*words)
    assert "add --shrink_to" in run(*words, "-o", tmp_path / "a.csv", exit_code=2)


# --- outputs, names and paths ---


@pytest.fixture
def no_work(monkeypatch):
    """Fail where a command begins its work: a test shows that it ends before."""

    def work(*arguments, **options):
        raise AssertionError("the work began")

    for name in ("load_encoder", "load_videos", "export_to_meta", "convert_checkpoint"):
        monkeypatch.setattr(f"vjepa_hf.cli.{name}", work)


def commands_with(output, video, model_folder, videos) -> dict[str, list]:
    return {
        "features": ["features", video, "--model", model_folder, "-o", output],
        "dense-features": ["dense-features", video, "--model", model_folder, "-o", output],
        "check-data": ["check-data", videos, "--num_workers", 0, "--num_frames", 4, "-o", output],
    }


@pytest.mark.parametrize("command", ["features", "dense-features", "check-data"])
def test_the_folder_of_an_output_is_made_and_the_file_readable_by_others(
    command, model_folder, toy_video_path, tmp_path
):
    output = tmp_path / "new" / "folder" / "out.safetensors"
    run(*commands_with(output, toy_video_path, model_folder, toy_video_path)[command])
    (tmp_path / "plain").touch()
    assert output.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert [path.name for path in output.parent.iterdir()] == [output.name]


@pytest.mark.parametrize("command", ["features", "dense-features", "check-data"])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    command, model_folder, toy_video_path, tmp_path, no_work
):
    (tmp_path / "file").write_text("not a folder")
    video = Path(shutil.copy(toy_video_path, tmp_path / "video.mp4"))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    refused = {
        tmp_path / "file" / "out.csv": "Not a directory|File exists",
        tmp_path: "is not a file",
        Path(os.devnull): "is not a file",
        video: "is the input",
        model_folder / "model.safetensors": "file of a saved model",
    }
    for output, message in refused.items():
        *_, line = run(*commands_with(output, video, model_folder, video)[command], exit_code=2).splitlines()
        assert any(part in line for part in message.split("|")), line
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_failed_command_leaves_no_folder_that_it_made(model_folder, tmp_path):
    run("features", "nowhere.mp4", "--model", model_folder, "-o", tmp_path / "new" / "a" / "b", exit_code=2)
    assert not (tmp_path / "new").exists()


def test_a_folder_for_copies_that_cannot_be_made_is_refused_before_the_work(toy_video_path, tmp_path, no_work):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "copies"):
        run("check-data", toy_video_path, "--shrink_to", folder, exit_code=2)


def test_every_path_of_a_comparison_may_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    given = []

    def stop(*values, **options):
        given.extend([*values, *options.values()])
        raise ValueError("enough")

    monkeypatch.setattr(cli, "load_set_encoder", lambda model, *values, **options: given.append(model) or MagicMock())
    monkeypatch.setattr(cli, "write_comparison", stop)
    paths = ["--model", "~/m", "-o", "~/c.json", "--real_stats", "~/s", "--page", "~/p", "--features_dir", "~/f"]
    run("compare", "~/real", "~/a", "~/b", *paths, exit_code=2)
    named = [path for value in given for path in (value.values() if isinstance(value, dict) else [value])]
    paths = [str(path) for path in named if isinstance(path, str | Path)]
    assert len(paths) == 8 and all(path.startswith(str(tmp_path)) for path in paths)


def test_every_path_may_begin_at_home(model_folder, toy_video_path, tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.chdir(tmp_path)
    shutil.copy(toy_video_path, home / "a.mp4")
    shutil.copytree(model_folder, home / "model")
    for command in ("features", "dense-features"):
        run(command, "~/a.mp4", "--model=~/model", "-o", f"~/{command}.safetensors")
        assert (home / f"{command}.safetensors").exists()
    words = ["--num_workers", 0, "--num_frames", 4, "--shrink_to", "~/copies", "-o", "~/clean.csv"]
    run("check-data", "~/a.mp4", *words)
    assert load_videos(home / "clean.csv")["video"][0].startswith(str(home / "copies"))
    assert "~" not in os.listdir(tmp_path)


def test_a_damaged_model_is_one_line_and_status_2(model_folder, toy_video_path, tmp_path):
    def changed(name: str, content: bytes) -> Path:
        folder = shutil.copytree(model_folder, tmp_path / f"damaged_{len(list(tmp_path.iterdir()))}")
        (folder / name).write_bytes(content)
        return folder

    config = json.loads((model_folder / "config.json").read_text())
    weights = (model_folder / "model.safetensors").read_bytes()
    damages = [
        changed("model.safetensors", weights[:1000]),
        changed("model.safetensors", b""),
        changed("model.safetensors.index.json", b"[]"),
        changed("config.json", b"[1]"),
        changed("config.json", b"[" * 100_000),
        changed("config.json", json.dumps(config | {"hidden_size": "wide"}).encode()),
        changed("config.json", json.dumps(config | {"hidden_size": 96}).encode()),
        changed("video_preprocessor_config.json", b"[]"),
        tmp_path / "nowhere",
    ]
    (damages[2] / "model.safetensors").unlink()
    for folder in damages:
        for command in ("features", "dense-features"):
            words = [command, toy_video_path, "--model", folder, "-o", tmp_path / "out.safetensors"]
            *bars, line = run(*words, exit_code=2).splitlines()
            assert ": " in line and all(bar.startswith("Loading weights") for bar in bars if bar), (folder, line)
    assert not (tmp_path / "out.safetensors").exists()


def test_names_are_printed_without_control_characters(toy_video_path, tmp_path):
    name = "red \x1b[31m\nforged: 0 unreadable\u202e.mp4"
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / name).write_bytes(b"not a video")
    output = run("check-data", tmp_path / "videos", "--num_workers", 0, exit_code=1)
    assert r"red \x1b[31m\nforged: 0 unreadable\u202e.mp4" in output
    assert "\x1b" not in output and not any(line.startswith("forged") for line in output.splitlines())


def test_copies_of_long_and_odd_names_get_names_that_fit(toy_video_path, tmp_path):
    names = ["\u3042" * 83 + ".mp4", "a" * 251 + ".mp4", "b|<>?*.mp4"]
    (tmp_path / "videos").mkdir()
    for name in names:
        shutil.copy(toy_video_path, tmp_path / "videos" / name)
    words = ["--num_workers", 0, "--num_frames", 4, "--shrink_to", tmp_path / "copies", "-o", tmp_path / "clean.csv"]
    assert "0 unreadable, 0 short" in run("check-data", tmp_path / "videos", *words)
    copies = sorted(path.name for path in (tmp_path / "copies").iterdir())
    assert len(copies) == 3 and max(len(copy.encode()) for copy in copies) <= 255
    assert [Path(video).name for video in load_videos(tmp_path / "clean.csv")["video"]] == copies


def test_a_copy_is_named_without_the_signature_of_a_url():
    name = copy_name("list.csv", 3, "https://example.org/clips/one.mp4?X-Signature=" + "s" * 400)
    assert name.startswith("00000003_") and name.endswith("_one.mp4")


def test_copies_of_two_sources_do_not_replace_each_other(toy_video_path, tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        shutil.copy(toy_video_path, tmp_path / folder / "clip.mp4")
        words = ["--num_workers", 0, "--num_frames", 4, "--shrink_to", tmp_path / "copies"]
        run("check-data", tmp_path / folder, *words)
    assert len(os.listdir(tmp_path / "copies")) == 2


def test_a_copy_that_fails_is_reported_and_the_others_are_listed(
    folder_with_a_broken_video, toy_video_path, tmp_path, monkeypatch
):
    shutil.copy(toy_video_path, folder_with_a_broken_video / "second.mp4")

    def failing(video, path, *options):
        if "second" in video:
            raise OSError(28, "No space left on device")
        shutil.copy(video, path)

    monkeypatch.setattr("vjepa_hf.data.checks.shrink_video", failing)
    (folder_with_a_broken_video / "broken.mp4").unlink()
    words = ["--num_workers", 0, "--num_frames", 4, "--shrink_to", tmp_path / "copies", "-o", tmp_path / "clean.csv"]
    output = run("check-data", folder_with_a_broken_video, *words, exit_code=1)
    assert "not copied  " in output and "No space left" in output and "0 unreadable" in output
    assert [video.rsplit("_", 1)[-1] for video in load_videos(tmp_path / "clean.csv")["video"]] == ["good one.mp4"]


def test_embed_writes_a_table_that_search_reads(model_folder, toy_videos, tmp_path):
    table = tmp_path / "new" / "table.parquet"
    videos = sorted((toy_videos / "test").glob("*.mp4"))
    words = ["embed", toy_videos / "test", "--model", model_folder, "-o", table, "--rows", "clip", "--num_clips", 2]
    assert f"{2 * len(videos)} vectors (mean, one per clip) in {table}; 0 unreadable videos" in run(*words)
    output = run("search", videos[3], table, "--num_matches", 3)
    found = re.findall(r"([\d.]+) +([\d.]+) - +([\d.]+) s  (.*)$", output, re.MULTILINE)
    assert len(found) == 3 and (found[0][0], found[0][3]) == ("1.000", str(videos[3]))
    run("search", videos[3], tmp_path / "missing.parquet", exit_code=2)
    run("search", model_folder / "config.json", table, exit_code=2)
    run("embed", toy_videos / "test", "--model", model_folder, "-o", table, exit_code=2)  # other settings
    run("embed", tmp_path / "missing", "--model", model_folder, "-o", tmp_path / "b.parquet", exit_code=2)
    assert not (tmp_path / "b.parquet").exists()
