"""Options from YAML and the command line, and errors that name the mistake.

pytest tests/training/test_arguments.py
"""

import sys
from dataclasses import dataclass

import pytest
import yaml
from transformers import TrainingArguments

from vjepa_hf.data.masking import LONG_RANGE, SHORT_RANGE, make_mask
from vjepa_hf.training import arguments
from vjepa_hf.training.arguments import (
    OPTIONS_OF_0_1,
    PUBLISHED_MASKS,
    PretrainingArguments,
    mistakes_exit,
    option,
    parse,
    parse_arguments,
    shipped_configs,
)
from vjepa_hf.training.optimization import make_optimizer
from vjepa_hf.training.setup import MAX_DECODE_ATTEMPTS, model_config


def config_file(tmp_path, text: str):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


def test_the_command_line_overrides_the_file_and_the_file_the_defaults(tmp_path):
    path = config_file(
        tmp_path,
        "max_steps: 50\nlearning_rate: 3e-4\nwarmup_steps: 5\nmodel: {image_size: [32, 64], layer_norm_eps: 1e-5}\n",
    )
    args = parse_arguments(["--config", str(path), "--max_steps", "9", "--model.hidden_size", "384"])
    assert args.optimization.max_steps == 9
    assert args.optimization.learning_rate == 3e-4  # PyYAML reads a number without a dot as text
    assert args.model == {"image_size": [32, 64], "layer_norm_eps": 1e-5, "hidden_size": 384}
    assert args.optimization.final_learning_rate == 1e-6


def test_the_default_file_is_used_unless_another_is_named(tmp_path):
    default = config_file(tmp_path, "seed: 4\n")
    assert parse_arguments([], default).run.seed == 4
    other = tmp_path / "other.yaml"
    other.write_text("model:\n  num_frames: 4\n")
    assert parse_arguments(["--config", str(other)], default).run.seed == 0


def test_a_shipped_configuration_is_found_by_its_name_unless_a_file_has_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vitl16").mkdir()  # a folder, such as that of the run, is not a configuration
    for words in (["--config", "vitl16"], ["--config=vitl16"]):
        assert parse_arguments(words) == parse_arguments(["--config", str(shipped_configs()["vitl16"])])
    (tmp_path / "vith16").write_text("seed: 3\n")
    assert parse_arguments(["--config", "vith16"]).run.seed == 3
    with pytest.raises(ValueError, match="vitl61: no such file; .*: domain_adaptation, tiny_cpu, .*vitl16"):
        parse_arguments(["--config", "vitl61"])


def test_one_source_or_several_are_a_list(tmp_path):
    assert parse_arguments(["--config", str(config_file(tmp_path, "videos: folder\n"))]).data.videos == ["folder"]
    several = parse_arguments(["--videos", "a b", "c.csv", "--video_weights", "0.7", "0.3"]).data
    assert (several.videos, several.video_weights) == (["a b", "c.csv"], [0.7, 0.3])


def test_null_and_empty_lists_survive(tmp_path):
    path = config_file(tmp_path, "mask_group_size: null\nreport_to: []\n")
    args = parse_arguments(["--config", str(path)])
    assert args.masking.mask_group_size is None and args.run.report_to == []


def test_saved_arguments_read_back_as_themselves(tmp_path):
    args = parse_arguments(
        ["--mask_group_size", "48", "--seed", "3", "--max_grad_norm", ".inf", "--model.image_size", "64"]
    )
    args.save(tmp_path / "arguments.yaml")
    assert parse_arguments(["--config", str(tmp_path / "arguments.yaml")]) == args
    assert len(yaml.safe_load((tmp_path / "arguments.yaml").read_text())) > 40


@pytest.mark.parametrize(
    "command_line, message",
    [
        (["--max_stepz", "3"], "unknown option 'max_stepz'; did you mean 'max_steps'"),
        (["--max_step", "3"], "unknown option 'max_step'; did you mean 'max_steps'"),  # abbreviations are not accepted
        (["--hidden_size", "3"], "unknown option 'hidden_size'; did you mean 'model.hidden_size'"),
        (["--seed.x", "3"], "unknown option 'seed.x'"),
        (["more"], "nrecognized arguments: more"),
        (["--max_steps"], "--max_steps: expected one argument"),
        (["--config"], "--config: expected one argument; `--help`"),
        (["--resume_from_hub"], "--resume_from_hub: expected one argument; `--help`"),
        (["--max_steps", "many"], "max_steps: Expected a int. Got value: many; `--help` lists all options"),
        (["--warmup_steps", "100001"], r"warmup_steps must lie in \[0, max_steps=90000\], got 100001"),
        (["--color_jitter", "0.4", "0.4"], "color_jitter must be brightness, contrast, saturation and hue"),
        (["--clips_per_video", "0"], "clips_per_video must be at least 1"),
        (["--seed", "-1"], "seed must be 0 or more and finite, got -1"),
        (["--save_steps", "0"], "save_steps must be at least 1"),
        (["--resume", "--overwrite_output_dir"], "exclude each other"),
        (["--resume_step", "3", "--overwrite_output_dir"], "exclude each other"),
        (["--max_skipped_steps", "0"], "max_skipped_steps must be at least 1"),
        (["--max_grad_norm_ratio", "1"], "max_grad_norm_ratio must be more than 1, got 1.0"),
        (["--init_parts", "predictor"], r"init_parts \['predictor'\] needs init_from"),
    ],
)
def test_wrong_command_lines_are_errors_that_name_the_argument(command_line, message):
    with pytest.raises(ValueError, match=message):
        parse_arguments(command_line)


def test_resuming_and_overwriting_are_not_saved(tmp_path):
    args = parse_arguments(["--resume_step", "3", "--save_steps", "7"])
    assert args.run.resume and args.run.resume_step == 3
    args.save(tmp_path / "arguments.yaml")
    again = parse_arguments(["--config", str(tmp_path / "arguments.yaml"), "--overwrite_output_dir", "true"])
    assert not again.run.resume and again.run.resume_step is None and again.run.save_steps == 7
    assert [path.name for path in tmp_path.iterdir()] == ["arguments.yaml"]


def test_domain_adaptation_has_a_constant_ema_momentum(repo):
    args = parse_arguments(["--config", str(repo / "examples" / "configs" / "domain_adaptation.yaml")])
    assert args.optimization.ema_momentum == args.optimization.final_ema_momentum


def test_every_shipped_config_parses_and_makes_a_model_configuration(repo):
    paths = sorted((repo / "examples" / "configs").glob("*.yaml"))
    assert {path.stem for path in paths} >= {"tiny_cpu", "vitl16", "vith16", "vith16_384"}
    for path in paths:
        args = parse_arguments(["--config", str(path)])
        assert isinstance(args, PretrainingArguments)
        assert model_config(args).num_frames == args.model["num_frames"]


@pytest.mark.parametrize(
    "name, schedule, frames, batch",
    [
        ("vjepa2_vitl", "constant", 16, 24),
        ("vjepa2_cooldown", "linear", 64, 12),
        ("domain_adaptation", "linear", 16, 24),
    ],
)
def test_runs_of_v_jepa_2_have_its_positions_mask_token_and_schedule(repo, name, schedule, frames, batch):
    args = parse_arguments(["--config", str(repo / "examples" / "configs" / f"{name}.yaml")])
    config, optimization = model_config(args), args.optimization
    assert (config.position_embedding_type, config.image_size, config.num_frames) == ("rope", 256, frames)
    assert (config.pred_num_attention_heads, config.pred_num_mask_tokens) == (12, 10)
    assert not config.pred_mask_token_per_mask_type
    assert (optimization.learning_rate_schedule, optimization.per_device_batch_size) == (schedule, batch)
    assert optimization.ema_momentum == optimization.final_ema_momentum == 0.99925
    assert optimization.max_grad_norm == float("inf") and args.data.fps == 4


@pytest.mark.parametrize(
    "name, frames, batch, schedule, warmup, by_distance",
    [
        ("vjepa2_1_vitl", 16, 48, "constant", [15_000, 30_000], True),
        ("vjepa2_1_cooldown", 64, 24, "linear", [], False),
    ],
)
def test_runs_of_v_jepa_2_1_have_levels_images_and_a_context_loss(
    repo, name, frames, batch, schedule, warmup, by_distance
):
    args = parse_arguments(["--config", str(repo / "examples" / "configs" / f"{name}.yaml")])
    config, optimization = model_config(args), args.optimization
    assert config.position_embedding_type == "rope_interpolated" and config.level_layers == [5, 11, 17, 23]
    assert (config.pred_num_levels, config.pred_context_head, config.image_tokenizer) == (4, True, True)
    assert (config.num_frames, config.pred_num_hidden_layers) == (frames, 24)
    assert (optimization.image_passes, optimization.gradient_accumulation_steps) == (1, 2)
    assert (optimization.per_device_batch_size, optimization.per_device_image_batch_size) == (batch, 72)
    assert (optimization.context_loss_weight, optimization.context_loss_warmup) == (0.5, warmup)
    assert optimization.context_loss_by_distance == by_distance
    assert (optimization.learning_rate_schedule, optimization.learning_rate) == (schedule, 6e-4)


def test_a_cooldown_starts_from_the_model_of_its_run(repo):
    def settings(name):
        return parse_arguments(["--config", str(repo / "examples" / "configs" / f"{name}.yaml")])

    for run, cooldown in (("vjepa2_vitl", "vjepa2_cooldown"), ("vjepa2_1_vitl", "vjepa2_1_cooldown")):
        before, after = settings(run), settings(cooldown)
        assert after.model == before.model | {"num_frames": 64} and after.masking.masks == before.masking.masks
        assert after.optimization.learning_rate == before.optimization.learning_rate


@pytest.mark.parametrize(
    "words, message",
    [
        ("--images folder", "images .* and image_passes 0 belong together"),
        ("--image_passes 1 --gradient_accumulation_steps 2", "images .* and image_passes 1 belong together"),
        ("--images folder --image_passes 1", "image_passes must be at least 0 and less than gradient_accumulation"),
        (
            "--images folder --image_passes 1 --gradient_accumulation_steps 2",
            "add --model.image_tokenizer true",
        ),
        ("--context_loss_warmup 5", "context_loss_warmup must be two increasing steps"),
        ("--context_loss_warmup 5 5", "context_loss_warmup must be two increasing steps"),
        ("--context_loss_weight -1", "context_loss_weight must be 0 or more"),
        ("--image_masks [{type:random_tube,ratio:2}]", "image_masks"),
    ],
)
def test_images_and_context_losses_that_cannot_be(words, message):
    with pytest.raises(ValueError, match=message):
        parse_arguments(words.split())


@pytest.mark.parametrize(
    "name, hidden_size, layers, image_size, batch",
    [("vitl16", 1024, 24, 224, 3072), ("vith16", 1280, 32, 224, 3072), ("vith16_384", 1280, 32, 384, 2400)],
)
def test_published_runs_have_the_published_settings(repo, name, hidden_size, layers, image_size, batch):
    args = parse_arguments(["--config", str(repo / "examples" / "configs" / f"{name}.yaml")])
    assert (args.model["hidden_size"], args.model["num_hidden_layers"]) == (hidden_size, layers)
    assert (args.model["num_attention_heads"], args.model["image_size"]) == (16, image_size)
    assert batch % args.optimization.per_device_batch_size == 0
    assert (args.optimization.max_steps, args.optimization.warmup_steps) == (90_000, 12_000)
    assert [make_mask(settings) for settings in args.masking.masks] == [SHORT_RANGE, LONG_RANGE]
    assert [make_mask(settings) for settings in PUBLISHED_MASKS] == [SHORT_RANGE, LONG_RANGE]


# --- any dataclass ---


@dataclass
class Group(TrainingArguments):
    """Arguments of the Trainer with another default."""

    learning_rate: float = option("initial learning rate", 5e-4)


@dataclass
class Options:
    """A script."""

    trainer: Group
    videos: str = option("a required option")
    label_ratio: list[float] = option("fractions, 100 % at most", [0.1, 0.5])
    names: list[str] | None = option("a list or nothing", None)


def test_options_of_groups_have_no_prefix(tmp_path):
    words = ["--videos", "3", "--label_ratio", "1", "0.2", "--output_dir", str(tmp_path), "--seed", "5"]
    options = parse(Options, words)
    assert (options.videos, options.label_ratio, options.names) == ("3", [1.0, 0.2], None)
    assert (options.trainer.seed, options.trainer.learning_rate) == (5, 5e-4)
    assert parse(Options, [*words, "--label_ratio"]).label_ratio == []


def test_a_missing_required_option_is_an_error():
    with pytest.raises(ValueError, match="required.*: videos|'videos' is required"):
        parse(Options, [])


def test_help_lists_every_option_with_its_default(capsys):
    with pytest.raises(SystemExit) as end:
        parse_arguments(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 0
    for name in parse_arguments([]).to_dict():
        assert f"--{name} " in text or f"--{name}," in text
    assert "model.hidden_size=1024" in text and "default: 90000" in text


def test_a_mistake_prints_one_sentence_and_exits(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["examples/pretrain.py", "--max_step", "3"])
    with pytest.raises(SystemExit) as end:
        parse_arguments()
    sentence = "pretrain.py: unknown option 'max_step'; did you mean 'max_steps'? `--help` lists all options\n"
    assert end.value.code == 2 and capsys.readouterr().err == sentence


def test_a_field_of_the_model_of_the_wrong_type_is_one_sentence(capsys):
    args = parse_arguments(["--model.hidden_size", "wide"])
    with pytest.raises(SystemExit) as end, mistakes_exit():
        model_config(args)
    assert end.value.code == 2 and "'hidden_size' expected int" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line, message",
    [
        ("image_size: [32]", "unknown option 'image_size'; did you mean 'model.image_size'"),
        ("mask_num_blocks: [8, 2]", "'mask_num_blocks' of version 0.1.0 is now `num_blocks` of each entry of `masks`"),
        ("eval_videos: train.csv", "'eval_videos' of version 0.1.0 is now `eval_train_videos`"),
        ("adam_beta1: 0.9", "'adam_beta1' of version 0.1.0 was removed; it is 0.9"),
    ],
)
def test_a_file_of_version_0_1_is_refused_with_the_new_place_of_its_options(tmp_path, line, message):
    with pytest.raises(ValueError, match=message):
        parse_arguments(["--config", str(config_file(tmp_path, f"{line}\n"))])


def test_removed_options_have_the_values_that_the_messages_give(tiny_pretraining_model):
    optimizer = make_optimizer(tiny_pretraining_model, parse_arguments([]).optimization)
    adam = {"adam_beta1": optimizer.defaults["betas"][0], "adam_beta2": optimizer.defaults["betas"][1]}
    adam["adam_epsilon"] = optimizer.defaults["eps"]
    assert all(float(OPTIONS_OF_0_1[name].split()[-1]) == value for name, value in adam.items())
    assert f"tries {MAX_DECODE_ATTEMPTS} videos" in OPTIONS_OF_0_1["max_decode_attempts"]


# --- paths ---


def test_a_tilde_is_the_home_folder_in_files_and_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    config_file(tmp_path, "videos: [~/a, b]\noutput_dir: ~/runs\ninit_from: ~/m\neval_label: '~'\n")
    args = parse_arguments(["--config=~/config.yaml", "--eval_train_videos", "~/c.csv", "--eval_test_videos=~/d.csv"])
    assert args.data.videos == [f"{tmp_path}/a", "b"] and args.run.output_dir == f"{tmp_path}/runs"
    assert args.optimization.init_from == f"{tmp_path}/m"
    assert args.evaluation.eval_train_videos == f"{tmp_path}/c.csv"
    assert args.evaluation.eval_test_videos == f"{tmp_path}/d.csv"


@pytest.fixture
def copied_run(tmp_path):
    """The file of a run that was copied after it had been written."""
    (tmp_path / "copy" / "checkpoints").mkdir(parents=True)
    args = parse_arguments(["--output_dir", str(tmp_path / "original")])
    args.save(tmp_path / "copy" / "arguments.yaml")
    return ["--config", str(tmp_path / "copy" / "arguments.yaml")]


def test_a_copied_run_resumes_where_its_file_lies(copied_run, tmp_path):
    assert parse_arguments([*copied_run, "--resume"]).run.output_dir == str(tmp_path / "copy")
    assert parse_arguments([*copied_run, "--resume_step", "3"]).run.output_dir == str(tmp_path / "copy")
    named = parse_arguments([*copied_run, "--resume", "--output_dir", "elsewhere"])
    assert named.run.output_dir == "elsewhere"
    assert parse_arguments(copied_run).run.output_dir == str(tmp_path / "original")


def test_the_file_of_a_copied_run_does_not_delete_the_original(copied_run, tmp_path):
    with pytest.raises(ValueError, match="names the folder .*original', not its own; give --output_dir"):
        parse_arguments([*copied_run, "--overwrite_output_dir"])


# --- a short run ---


def test_a_shorter_run_shortens_the_warm_up_of_its_file(repo):
    for path in sorted((repo / "examples" / "configs").glob("*.yaml")):
        optimization = parse_arguments(["--config", str(path), "--max_steps", "100"]).optimization
        if path.stem.endswith("cooldown"):  # which has no warm-up
            assert optimization.effective_warmup_steps == 0
            continue
        assert optimization.effective_warmup_steps == 10 and optimization.warmup_steps > 100
    assert parse_arguments(["--max_steps", "1"]).optimization.effective_warmup_steps == 0
    assert parse_arguments([]).optimization.effective_warmup_steps == 12_000
    with pytest.raises(ValueError, match=r"warmup_steps must lie in \[0, max_steps=9\], got 10"):
        parse_arguments(["--max_steps", "9", "--warmup_steps=10"])


# --- files that would take for ever ---


LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "config.yaml: the alias .a is not supported"),
        ("model: &m {num_frames: 4}\nvideos: *m\n", "alias .m is not supported"),
        ("videos: " + "[" * 10_000, "nested more than 20 deep"),
        ("masks: " + "{a: " * 10_000, "nested more than 20 deep"),
        ("".join(" " * depth + "a:\n" for depth in range(300)), "nested more than 20 deep"),
        ("#" * 2**21, "larger than 1,048,576 bytes"),
    ],
    ids=["laughs", "alias", "lists", "dicts", "block", "large"],
)
def test_aliases_depth_and_size_of_a_file_are_refused_before_it_is_built(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        parse_arguments(["--config", str(config_file(tmp_path, text))])


def test_a_deep_value_on_the_command_line_is_an_error():
    with pytest.raises(ValueError):
        parse_arguments(["--masks", "[" * 5_000 + "]" * 5_000])


def test_a_run_on_the_hub_brings_its_arguments_which_the_command_line_overrides(tmp_path, monkeypatch):
    path = config_file(tmp_path, "max_steps: 7\nseed: 3\n")
    files = {("me/it", "v1"): path}
    monkeypatch.setattr(arguments, "hf_hub_download", lambda name, file, revision: files[name, revision])
    words = ["--resume_from_hub", "me/it@v1", "--seed", "4"]
    args = parse_arguments(words)
    assert (args.optimization.max_steps, args.run.seed, args.run.resume) == (7, 4, True)
    args.save(tmp_path / "saved.yaml")
    saved = parse_arguments(["--config", str(tmp_path / "saved.yaml")])
    assert saved.run.resume_from_hub is None and not saved.run.resume
    (tmp_path / "other.yaml").write_text("max_steps: 8\n")
    other = tmp_path / "other.yaml"
    assert parse_arguments([*words, "--config", str(other)]).optimization.max_steps == 8


def test_a_run_that_is_not_on_the_hub_is_one_sentence():
    with pytest.raises(ValueError, match="resume_from_hub: cannot download the arguments.yaml of 'me/it'"):
        parse_arguments(["--resume_from_hub", "me/it"])
