"""Pretrain, resume, probe and classify as users do, with each launcher, on one and two processes.

pytest tests/examples/test_pretrain.py
"""

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import pipeline

import vjepa_hf
from forked_runs import command_line
from vjepa_hf.training.checkpoints import list_checkpoints
from vjepa_hf.training.log import read_log

pytestmark = pytest.mark.slow

ACCELERATE = ("accelerate", "launch")
TWO_PROCESSES = ("accelerate", "launch", "--multi_gpu", "--num_processes", "2")
TORCHRUN = ("torchrun", "--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0")
PYTHON = ("python",)


def pretrain(run_example, launcher, toy_videos, output, *more: str, **changes: str):
    options = {"num_workers": "1", "videos": toy_videos / "train.csv", "output_dir": output} | changes
    return run_example(*launcher, "examples/pretrain.py", *command_line(**options), *more)


def drop_last_checkpoint(output: Path) -> None:
    """Put a finished run in the state of one that stopped at its last checkpoint but one."""
    last = list_checkpoints(output)[-1]
    last.rename(last.with_name("gone"))


def check_exact_resume(run_example, launcher, toy_videos: Path, folder: Path, **options) -> None:
    """Check that `folder / "run"`, resumed from an earlier checkpoint, equals `folder / "straight"`."""
    pretrain(run_example, launcher, toy_videos, folder / "straight", **options)
    pretrain(run_example, launcher, toy_videos, folder / "run", **options)
    drop_last_checkpoint(folder / "run")
    pretrain(run_example, launcher, toy_videos, folder / "run", "--resume", **options)
    assert losses(folder / "run") == losses(folder / "straight")
    assert weight_differences(folder / "run", folder / "straight").max() == 0


@pytest.fixture
def damaged_videos(toy_videos, tmp_path) -> Path:
    """A folder with five videos and one that is not a video."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for path in sorted((toy_videos / "train").glob("*.mp4"))[:5]:
        shutil.copy(path, folder)
    (folder / "broken.mp4").write_bytes(b"not a video")
    return folder


@pytest.fixture(scope="module")
def finished_run(run_example, toy_videos, tmp_path_factory) -> Path:
    """Six steps in one go, on one process of `accelerate launch`."""
    output = tmp_path_factory.mktemp("pretrain") / "run"
    result = pretrain(run_example, ACCELERATE, toy_videos, output)
    assert f'VJEPAModel.from_pretrained("{output}")' in result.stdout
    assert "warm-up end step" in result.stdout and "health:" in result.stderr + result.stdout
    return output


def losses(output: Path) -> list[float]:
    return [row["loss"] for row in read_log(output / "log.jsonl") if "loss" in row]


def weight_differences(first: Path, second: Path) -> torch.Tensor:
    """Absolute differences of all exported weights of two runs."""
    a, b = (load_file(folder / "model.safetensors") for folder in (first, second))
    assert a.keys() == b.keys()
    return torch.cat([(a[name].double() - b[name].double()).abs().flatten() for name in a])


def assert_same_but_for_rounding(first: Path, second: Path) -> None:
    """Check that at most one weight in 10,000 differs by more than 1e-6, and none by 1e-4.

    A gradient can be 0 in one run and 1e-10 in the other, because the L1 loss sums signs. Adam divides both by their
    size, so that rounding becomes a step.
    """
    differences = weight_differences(first, second)
    assert (differences > 1e-6).double().mean() <= 1e-4 and differences.max() < 1e-4


def test_a_run_leaves_arguments_log_curves_checkpoints_and_a_model_that_loads(finished_run):
    assert {"arguments.yaml", "log.jsonl", "curves.png", "checkpoints", "config.json", "model.safetensors"} <= {
        path.name for path in finished_run.iterdir()
    }
    assert [folder.name for folder in list_checkpoints(finished_run)] == ["step_00000003", "step_00000006"]
    assert len(losses(finished_run)) == 6
    model = vjepa_hf.VJEPAModel.from_pretrained(finished_run)
    processor = vjepa_hf.VJEPAVideoProcessor.from_pretrained(finished_run)
    clip = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    with torch.no_grad():
        assert model(**processor(clip)).last_hidden_state.shape == (1, 32, 32)


def test_a_resumed_run_equals_an_uninterrupted_one_bit_by_bit(run_example, toy_videos, finished_run, tmp_path):
    output = tmp_path / "run"
    pretrain(run_example, PYTHON, toy_videos, output)
    drop_last_checkpoint(output)
    pretrain(run_example, ACCELERATE, toy_videos, output, "--resume")
    assert losses(output) == losses(finished_run)
    assert weight_differences(output, finished_run).max() == 0


@pytest.mark.parametrize("launcher", [TWO_PROCESSES, TORCHRUN], ids=["accelerate", "torchrun"])
def test_two_processes_with_half_the_batch_give_the_same_model(
    run_example, toy_videos, finished_run, tmp_path, launcher
):
    pretrain(run_example, launcher, toy_videos, tmp_path / "run", per_device_batch_size="2")
    assert losses(tmp_path / "run") == pytest.approx(losses(finished_run), abs=1e-5)
    assert_same_but_for_rounding(tmp_path / "run", finished_run)


def test_accumulation_gives_the_same_model(run_example, toy_videos, finished_run, tmp_path):
    more = {"per_device_batch_size": "2", "gradient_accumulation_steps": "2", "gradient_checkpointing": "true"}
    pretrain(run_example, PYTHON, toy_videos, tmp_path / "run", **more)
    assert losses(tmp_path / "run") == pytest.approx(losses(finished_run), abs=1e-5)
    assert_same_but_for_rounding(tmp_path / "run", finished_run)


def test_another_seed_gives_another_model(run_example, toy_videos, finished_run, tmp_path):
    pretrain(run_example, PYTHON, toy_videos, tmp_path / "run", seed="1", max_steps="2", num_workers="0")
    assert losses(tmp_path / "run")[0] != losses(finished_run)[0]


@pytest.mark.parametrize("launcher", [ACCELERATE, TWO_PROCESSES], ids=["one", "two"])
def test_a_probe_of_the_run_answers_in_the_pipeline(run_example, toy_videos, lists, finished_run, tmp_path, launcher):
    options = ["--model", finished_run, "--train_videos", lists[0], "--test_videos", lists[1], "--label", "side"]
    options += ["--labels_per_class", "4", "--epochs", "3", "--output_dir", tmp_path / "probe"]
    run_example(*launcher, "examples/probe.py", *options)
    result = json.loads((tmp_path / "probe" / "result.json").read_text())
    assert result["num_samples"] == result["test_videos"] == 8 and result["train_videos"] == 8
    video = str(sorted((toy_videos / "test").glob("*.mp4"))[0])
    answers = pipeline("video-classification", model=str(tmp_path / "probe"))(video, top_k=3)
    assert {answer["label"] for answer in answers} == {"left", "right"}
    printed = run_example(
        "python", "examples/classify_video.py", "--model", tmp_path / "probe", "--videos", video
    ).stdout
    assert answers[0]["label"] in printed


def test_a_random_encoder_is_the_baseline_of_a_probe(run_example, lists, finished_run, tmp_path):
    options = ["--model", finished_run, "--train_videos", lists[0], "--test_videos", lists[1], "--label", "side"]
    options += ["--epochs", "1", "--random_init", "--output_dir", tmp_path / "probe"]
    run_example("python", "examples/probe.py", *options)
    assert json.loads((tmp_path / "probe" / "result.json").read_text())["random_init"] is True


def test_an_unreadable_video_is_named_once_and_too_many_end_the_run(run_example, toy_videos, damaged_videos, tmp_path):
    options = {"videos": damaged_videos, "max_steps": "8", "save_steps": "8"}
    result = pretrain(run_example, PYTHON, toy_videos, tmp_path / "run", max_failed_share="0.9", **options)
    printed = result.stdout + result.stderr
    assert printed.count("skipped an unreadable video") == 1 and "broken.mp4" in printed
    last = [row for row in read_log(tmp_path / "run" / "log.jsonl") if "failed_videos" in row][-1]
    causes = {name: count for name, count in last.items() if name.startswith("failed_videos/")}
    assert last["failed_videos"] == sum(causes.values()) > 1 and len(causes) == 1
    strict = {"output_dir": tmp_path / "strict", "max_failed_share": "0.1", "max_steps": "60", "save_steps": "60"}
    words = command_line(**options | strict, num_workers="2")
    failed = run_example("python", "examples/pretrain.py", *words, expect_failure=True)
    last = failed.stderr.strip().splitlines()[-1]
    assert last.startswith("ValueError: ") and "max_failed_share=0.1" in last  # nothing below the cause


def test_a_resumed_run_has_the_failures_of_an_uninterrupted_one(run_example, toy_videos, damaged_videos, tmp_path):
    options = {"videos": damaged_videos, "max_failed_share": "0.9"}
    pretrain(run_example, PYTHON, toy_videos, tmp_path / "straight", **options)
    pretrain(run_example, PYTHON, toy_videos, tmp_path / "run", **options)
    drop_last_checkpoint(tmp_path / "run")
    result = pretrain(run_example, PYTHON, toy_videos, tmp_path / "run", "--resume", **options)
    assert "skipped an" not in result.stdout + result.stderr  # reported before the checkpoint, so not again
    straight, resumed = (read_log(tmp_path / name / "log.jsonl") for name in ("straight", "run"))
    counts = [[row["failed_videos"] for row in rows if "failed_videos" in row] for rows in (straight, resumed)]
    assert counts[0] == counts[1] and counts[0][-1] > 0


@pytest.mark.parametrize("launcher", [PYTHON, TWO_PROCESSES], ids=["one", "two"])
def test_a_run_on_a_stream_resumes_exactly(run_example, toy_videos, tmp_path, launcher):
    shards = tmp_path / "shards"
    shards.mkdir()
    for number in range(2):
        with tarfile.open(shards / f"{number}.tar", "w") as tar:
            for path in sorted((toy_videos / "train").glob("*.mp4"))[number::2]:
                tar.add(path, path.name)
    options = {"streaming": "true", "shuffle_buffer": "3", "per_device_batch_size": "2"}
    options |= {"videos": f"{shards} {toy_videos / 'test.csv'}", "video_weights": "3 1"}
    check_exact_resume(run_example, launcher, toy_videos, tmp_path, **options)


@pytest.mark.parametrize("launcher", [PYTHON, TWO_PROCESSES], ids=["one", "two"])
def test_a_run_of_v_jepa_2_1_with_images_resumes_exactly(run_example, toy_videos, tmp_path, launcher):
    images = tmp_path / "images"
    images.mkdir()
    for number in range(5):
        shade = np.arange(40 * 48 * 3, dtype=np.uint8).reshape(40, 48, 3) * number
        Image.fromarray(shade).save(images / f"{number}.png")
    fields = {"hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "pred_hidden_size": 24}
    fields |= {"position_embedding_type": "rope_interpolated", "level_layers": "[0,1,2,3]", "pred_num_levels": 4}
    fields |= {"pred_context_head": "true", "image_tokenizer": "true", "pred_mask_token_per_mask_type": "false"}
    options = {f"model.{name}": value for name, value in fields.items()} | {"images": images, "image_passes": "1"}
    options |= {"gradient_accumulation_steps": "2", "per_device_batch_size": "2", "context_loss_warmup": "1 4"}
    options |= {"image_masks": json.dumps([{"type": "random_tube", "ratio": 0.5}], separators=(",", ":"))}
    check_exact_resume(run_example, launcher, toy_videos, tmp_path, **options)
    rows = read_log(tmp_path / "run" / "log.jsonl")
    assert [row["step"] for row in rows if "context_loss" in row] == [3, 6]


def test_augmenting_on_the_device_gives_the_same_run(run_example, toy_videos, tmp_path):
    options = {"max_steps": "2", "rand_augment_magnitude": "7", "erase_probability": "0.25", "clips_per_video": "2"}
    options |= {"color_jitter": "0.2 0.2 0.2 0.1", "mask_group_size": "4"}
    for on_device in ("false", "true"):
        pretrain(run_example, PYTHON, toy_videos, tmp_path / on_device, augment_on_device=on_device, **options)
    assert losses(tmp_path / "true") == losses(tmp_path / "false")


def test_a_run_without_readable_videos_stops_at_once(run_example, toy_videos, tmp_path):
    (tmp_path / "list.txt").write_text("gone.mp4\nnowhere.mp4\n")
    words = command_line(videos=tmp_path / "list.txt", output_dir=tmp_path / "run", num_workers="1")
    failed = run_example("python", "examples/pretrain.py", *words, expect_failure=True)
    assert "videos in a row could not be read; check their paths and formats" in failed.stderr
