"""YAML first, then the command line; an unknown key or a wrong value is an error that names it.

pytest tests/training/test_arguments.py
"""

import pytest
import yaml

from vjepa_hf.training.arguments import PretrainingArguments, parse_arguments


def config_file(tmp_path, text: str):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


def test_the_command_line_overrides_the_file_and_the_file_the_defaults(tmp_path):
    path = config_file(tmp_path, "max_steps: 50\nlearning_rate: 3e-4\nwarmup_steps: 5\nimage_size: [32, 64]\n")
    args = parse_arguments(["--config", str(path), "--max_steps", "9", "--report_to", "tensorboard"])
    assert args.optimization.max_steps == 9
    assert args.optimization.learning_rate == 3e-4  # YAML reads it as text, for want of a dot
    assert args.model.frame_size == (32, 64)
    assert args.run.report_to == ["tensorboard"]
    assert args.optimization.final_learning_rate == 1e-6


def test_the_default_file_is_used_unless_another_is_named(tmp_path):
    default = config_file(tmp_path, "seed: 4\n")
    assert parse_arguments([], default).run.seed == 4
    other = tmp_path / "other.yaml"
    other.write_text("num_frames: 4\n")
    assert parse_arguments(["--config", str(other)], default).run.seed == 0


def test_one_source_or_several_are_a_list(tmp_path):
    assert parse_arguments(["--config", str(config_file(tmp_path, "videos: folder\n"))]).data.videos == ["folder"]
    several = parse_arguments(["--videos", "a b", "c.csv", "--video_weights", "0.7", "0.3"]).data
    assert (several.videos, several.video_weights) == (["a b", "c.csv"], [0.7, 0.3])


def test_null_and_empty_lists_survive(tmp_path):
    path = config_file(tmp_path, "mask_group_size: null\nreport_to: []\n")
    args = parse_arguments(["--config", str(path)])
    assert args.masks.mask_group_size is None and args.run.report_to == []


def test_saved_arguments_read_back_as_themselves(tmp_path):
    args = parse_arguments(["--mask_group_size", "48", "--seed", "3", "--max_grad_norm", "inf", "--image_size", "64"])
    args.save(tmp_path / "arguments.yaml")
    assert parse_arguments(["--config", str(tmp_path / "arguments.yaml")]) == args
    assert len(yaml.safe_load((tmp_path / "arguments.yaml").read_text())) > 40


@pytest.mark.parametrize(
    "text, message",
    [
        ("max_stepz: 3\n", "config.yaml: unknown key 'max_stepz'"),
        ("max_steps: soon\n", "max_steps.*invalid int value: 'soon'"),
        ("short_video: loop\n", "short_video.*invalid choice: 'loop'"),
        ("- 3\n", "expected lines `key: value`, found a list"),
        ("max_steps: 0\n", "max_steps must be at least 1, got 0"),
        ("resume: maybe\n", "Truthy value expected: got maybe"),
    ],
)
def test_wrong_files_are_errors_that_name_the_key(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        parse_arguments(["--config", str(config_file(tmp_path, text))])


@pytest.mark.parametrize(
    "command_line, message",
    [
        (["--max_stepz", "3"], "unknown argument '--max_stepz'"),
        (["--max_step", "3"], "unknown argument '--max_step'"),  # no guessing from a beginning
        (["--max_steps", "many"], "invalid int value: 'many'"),
        (["--warmup_steps", "100001"], r"warmup_steps must lie in \[0, max_steps=90000\], got 100001"),
        (["--mask_num_blocks", "8"], r"mask_num_blocks \[8\] and mask_block_scale"),
        (["--mask_num_blocks", "8", "0"], r"mask_num_blocks \[8, 0\] hides nothing"),
        (["--image_size", "1", "2", "3"], "image_size must be one side or height and width"),
        (["--color_jitter", "0.4", "0.4"], "color_jitter must be brightness, contrast, saturation and hue"),
        (["--clips_per_video", "0"], "clips_per_video must be at least 1"),
        (["--seed", "-1"], "seed must not be negative, got -1"),
        (["--save_steps", "0"], "save_steps must be at least 1"),
        (["--resume", "--overwrite_output_dir"], "exclude each other"),
        (["--resume_step", "3", "--overwrite_output_dir"], "exclude each other"),
        (["--max_skipped_steps", "0"], "max_skipped_steps must be at least 1"),
        (["--max_grad_norm_ratio", "1"], "max_grad_norm_ratio must be more than 1, or None, got 1.0"),
        (["--init_parts", "predictor"], r"init_parts \['predictor'\] needs init_from"),
    ],
)
def test_wrong_command_lines_are_errors_that_name_the_argument(command_line, message):
    with pytest.raises(ValueError, match=message):
        parse_arguments(command_line)


def test_how_a_run_was_started_is_not_told_to_the_next_start(tmp_path):
    args = parse_arguments(["--resume_step", "3", "--save_steps", "7"])
    assert args.run.resume and args.run.resume_step == 3
    args.save(tmp_path / "arguments.yaml")
    again = parse_arguments(["--config", str(tmp_path / "arguments.yaml"), "--overwrite_output_dir", "true"])
    assert not again.run.resume and again.run.resume_step is None and again.run.save_steps == 7
    assert [path.name for path in tmp_path.iterdir()] == ["arguments.yaml"]


def test_domain_adaptation_keeps_the_average_at_one_momentum(repo):
    args = parse_arguments(["--config", str(repo / "examples" / "configs" / "domain_adaptation.yaml")])
    assert args.optimization.ema_momentum == args.optimization.final_ema_momentum


def test_every_shipped_config_parses_and_makes_a_model_configuration(repo):
    from vjepa_hf.training.setup import model_config

    paths = sorted((repo / "examples" / "configs").glob("*.yaml"))
    assert {path.stem for path in paths} >= {"tiny_cpu", "vitl16", "vith16", "vith16_384"}
    for path in paths:
        args = parse_arguments(["--config", str(path)])
        assert isinstance(args, PretrainingArguments)
        assert model_config(args.model, len(args.masks.mask_num_blocks)).num_frames == args.model.num_frames


@pytest.mark.parametrize(
    "name, hidden_size, layers, image_size, batch",
    [("vitl16", 1024, 24, 224, 3072), ("vith16", 1280, 32, 224, 3072), ("vith16_384", 1280, 32, 384, 2400)],
)
def test_published_runs_have_the_published_numbers(repo, name, hidden_size, layers, image_size, batch):
    args = parse_arguments(["--config", str(repo / "examples" / "configs" / f"{name}.yaml")])
    assert (args.model.hidden_size, args.model.num_hidden_layers) == (hidden_size, layers)
    assert (args.model.num_attention_heads, args.model.frame_size) == (16, (image_size, image_size))
    assert batch % args.optimization.per_device_batch_size == 0
    assert (args.optimization.max_steps, args.optimization.warmup_steps) == (90_000, 12_000)
    assert (args.masks.mask_num_blocks, args.masks.mask_block_scale) == ([8, 2], [0.15, 0.7])
