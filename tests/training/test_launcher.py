"""A launcher is followed, or refused in one sentence; variables that we do not know are refused too.

pytest tests/training/test_launcher.py
"""

import os

import pytest
import torch

from tiny_run import tiny_arguments
from vjepa_hf.training.launcher import (
    check_launcher,
    check_trackers,
    find_trackers,
    make_pretraining_accelerator,
    match_launcher,
)


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("ACCELERATE_", "FSDP_"))]:
        monkeypatch.delenv(name)


# What `accelerate launch` sets without options.
DEFAULTS = {
    "ACCELERATE_USE_CPU": "False",
    "ACCELERATE_MIXED_PRECISION": "no",
    "ACCELERATE_DYNAMO_BACKEND": "NO",
    "ACCELERATE_DYNAMO_MODE": "default",
    "ACCELERATE_DYNAMO_USE_FULLGRAPH": "False",
    "ACCELERATE_DYNAMO_USE_DYNAMIC": "True",
    "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION": "False",
    "ACCELERATE_CPU_AFFINITY": "1",
    "ACCELERATE_DEBUG_MODE": "true",
    "ACCELERATE_USE_SAGEMAKER": "true",
    "ACCELERATE_SAGEMAKER_DISTRIBUTED_TYPE": "NO",
}


def test_a_plain_launch_is_accepted(monkeypatch):
    for name, value in DEFAULTS.items():
        monkeypatch.setenv(name, value)
    check_launcher()
    assert match_launcher() == "no"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("USE_DEEPSPEED", "true", "DeepSpeed is not supported. .*fsdp.yaml"),
        ("DEEPSPEED_ZERO_STAGE", "2", "ACCELERATE_DEEPSPEED_ZERO_STAGE=2. This is not supported"),
        ("USE_MEGATRON_LM", "true", "Megatron-LM is not supported"),
        ("USE_PARALLELISM_CONFIG", "true", "Tensor, context and sequence parallelism are not supported"),
        ("DYNAMO_BACKEND", "INDUCTOR", "ACCELERATE_DYNAMO_BACKEND=INDUCTOR. .*--compile"),
        ("GRADIENT_CLIPPING", "1.0", "ACCELERATE_GRADIENT_CLIPPING=1.0"),
        ("SAGEMAKER_DISTRIBUTED_TYPE", "DATA_PARALLEL", "SAGEMAKER_DISTRIBUTED_TYPE"),
        ("DOWNCAST_BF16", "1", "DOWNCAST_BF16"),
        ("OF_TOMORROW", "1", "ACCELERATE_OF_TOMORROW=1"),
        ("USE_FSDP", "true", "FSDP, which this script does not support"),
    ],
)
def test_what_the_scripts_do_not_follow_is_refused(monkeypatch, name, value, words):
    monkeypatch.setenv(f"ACCELERATE_{name}", value)
    with pytest.raises(ValueError, match=words):
        check_launcher()
    monkeypatch.setenv(f"ACCELERATE_{name}", "no")
    check_launcher()


def test_fsdp_is_accepted_in_version_2_where_the_script_shards(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="FSDP version 1. Launch with --fsdp_version 2"):
        check_launcher(shards=True)
    monkeypatch.setenv("FSDP_VERSION", "2")
    check_launcher(shards=True)


def test_the_precision_of_the_launcher_is_followed_and_a_contradiction_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert match_launcher() == match_launcher("bf16") == "bf16"
    for other in ("no", "fp16"):
        with pytest.raises(ValueError, match=f"launcher asks for mixed_precision bf16, but the run for {other}"):
            match_launcher(other)
    for unset in ("no", ""):  # "no" is also what it sets without an option
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", unset)
        assert match_launcher() == "no" and match_launcher("bf16") == "bf16"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    with pytest.raises(ValueError, match="mixed_precision fp8 is not supported"):
        match_launcher()


def test_fp16_on_a_cpu_is_refused_because_it_would_be_float32(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    with pytest.raises(ValueError, match="fp16 needs a GPU"):
        match_launcher("fp16")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert match_launcher("fp16") == "fp16"
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    with pytest.raises(ValueError, match="fp16 needs a GPU"):
        match_launcher("fp16")


def test_another_gradient_accumulation_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    assert match_launcher(gradient_accumulation_steps=4) == "no"
    with pytest.raises(ValueError, match="STEPS=4, but the run accumulates 1"):
        match_launcher()


def test_the_precision_in_force_is_saved_with_the_run(monkeypatch, tmp_path):
    run = tiny_arguments("--output_dir", str(tmp_path)).run
    assert run.mixed_precision is None
    accelerator = make_pretraining_accelerator(run, tiny_arguments().optimization)
    assert accelerator.mixed_precision == run.mixed_precision == "no"


# --- trackers ---


def test_none_is_no_tracker():
    assert find_trackers([]) == find_trackers(["none"]) == []


@pytest.mark.parametrize("names", [["tensorbord"], ["none", "wandb"], ["None"]])
def test_a_name_that_is_not_a_tracker_is_an_error(names):
    with pytest.raises(ValueError, match="is not a tracker; choose one of none, .*tensorboard"):
        find_trackers(names)


def test_a_tracker_that_is_not_installed_is_an_error():
    with pytest.raises(ValueError, match="the package of 'wandb' is not installed; installed: aim"):
        check_trackers(["aim", "wandb"], ["aim", "wandb"], ["aim"])
