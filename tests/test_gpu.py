"""What only a GPU shows: its precisions, attention kernels, compiler, FSDP2, and exact resuming; on a CPU what it can.

pytest -m cuda tests/test_gpu.py
"""

import copy
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.attention import SDPBackend, sdpa_kernel

from forked_runs import command_line
from house import REPO
from tiny_models import seeded
from vjepa_hf import VJEPAConfig, VJEPAForPreTraining
from vjepa_hf.training.checkpoints import list_checkpoints
from vjepa_hf.training.log import read_log
from vjepa_hf.training.setup import compile_layers

CUDA = pytest.param("cuda", marks=pytest.mark.cuda)
FSDP = ("accelerate", "launch", "--config_file", REPO / "examples/accelerate/fsdp.yaml", "--num_processes", "1")

SCALE = 2.0**12  # without it small gradients are 0 in float16; a power of two changes nothing in the other precisions


# --- models ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def model() -> VJEPAForPreTraining:
    """Heads as wide as the published ones: 64 in the encoder, 24 in the predictor."""
    sizes = {"hidden_size": 128, "num_attention_heads": 2, "num_hidden_layers": 2, "num_frames": 8, "image_size": 64}
    return seeded(VJEPAForPreTraining, VJEPAConfig(**sizes, pred_hidden_size=48, pred_num_hidden_layers=2))


def training_step(model: VJEPAForPreTraining, device: str, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Loss and gradients of one step on fixed clips and masks, on the CPU."""
    model = copy.deepcopy(model).to(device)
    clips = torch.randn(2, 8, 3, 64, 64, generator=torch.Generator().manual_seed(0)).to(device)
    context, target = (
        torch.randperm(64, generator=torch.Generator().manual_seed(1)).to(device).expand(2, -1).split(32, 1)
    )
    with torch.autocast(device, dtype, enabled=dtype != torch.float32):
        loss = model(clips, [context], [target]).loss
    (SCALE * loss).backward()
    return [loss.detach().cpu(), *(p.grad.cpu() / SCALE for p in model.parameters() if p.grad is not None)]


def relative_errors(tensors: list[torch.Tensor], expected: list[torch.Tensor]) -> list[float]:
    assert len(tensors) == len(expected) > 50
    return [float((a - b).norm() / b.norm()) for a, b in zip(tensors, expected, strict=True) if b.norm() > 1e-6]


@pytest.mark.cuda
def test_loss_and_gradients_on_a_gpu_are_those_of_a_cpu(model):
    assert max(relative_errors(training_step(model, "cuda"), training_step(model, "cpu"))) < 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("kernel", [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION], ids=lambda k: k.name)
def test_a_fused_kernel_gives_the_step_of_single_precision(model, kernel, device, dtype):
    if device == "cpu" and (kernel is SDPBackend.EFFICIENT_ATTENTION or dtype == torch.float16):
        pytest.skip("PyTorch has no such kernel on a CPU")
    expected = training_step(model, "cpu")
    with sdpa_kernel(kernel):  # an error if the kernel does not accept the heads
        loss, *gradients = relative_errors(training_step(model, device, dtype), expected)
    assert loss < 0.01 and max(gradients) < 0.2 and sum(gradients) / len(gradients) < 0.05


@pytest.mark.cuda
def test_the_flash_attention_package_gives_the_features_of_sdpa(model):
    pytest.importorskip("flash_attn", reason="flash-attn is not installed")
    encoder = model.vjepa.to("cuda", torch.bfloat16).eval()
    clips = torch.randn(2, 8, 3, 64, 64, device="cuda", dtype=torch.bfloat16)
    with torch.no_grad():
        expected = encoder(clips).last_hidden_state
        encoder.set_attn_implementation("flash_attention_2")
        torch.testing.assert_close(encoder(clips).last_hidden_state, expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    "device, backend", [("cpu", "eager"), pytest.param("cuda", "inductor", marks=pytest.mark.cuda)]
)
def test_compiled_layers_give_the_same_loss_and_gradients(model, device, backend):
    torch._dynamo.reset()
    compiled = copy.deepcopy(model)
    compile_layers(compiled, backend=backend)
    for dtype, bound in ((torch.float32, 1e-3), (torch.bfloat16, 0.1)):
        expected = training_step(model, device, dtype)
        assert max(relative_errors(training_step(compiled, device, dtype), expected)) < bound


# --- runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(run_example, toy_videos):
    """Run the pretraining example on a device and return its folder."""

    def pretrain(folder: Path, device: str, precision: str, *more: str, launcher: tuple = ("python",)) -> Path:
        options = {"videos": toy_videos / "train.csv", "output_dir": folder, "mixed_precision": precision}
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0") if device == "cuda" else ""
        words = *command_line(**options), *more
        run_example(*launcher, "examples/pretrain.py", *words, CUDA_VISIBLE_DEVICES=visible)
        return folder

    return pretrain


@pytest.fixture(scope="module")
def single_precision(run, tmp_path_factory) -> Path:
    """Six steps in float32 on a CPU."""
    return run(tmp_path_factory.mktemp("single") / "run", "cpu", "no")


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in read_log(folder / "log.jsonl") if "loss" in row]


def stopped_copy(folder: Path, copy_of_it: Path) -> Path:
    """Copy a finished run without its last checkpoint, as if it had stopped at the one before."""
    shutil.copytree(folder, copy_of_it)
    shutil.rmtree(list_checkpoints(copy_of_it)[-1])
    return copy_of_it


@pytest.mark.slow
@pytest.mark.parametrize(
    "device, precision, launcher",
    [
        ("cpu", "bf16", ("python",)),
        pytest.param("cuda", "no", ("python",), marks=pytest.mark.cuda),
        pytest.param("cuda", "bf16", ("python",), marks=pytest.mark.cuda),
        pytest.param("cuda", "fp16", ("python",), marks=pytest.mark.cuda),
        pytest.param("cuda", "bf16", FSDP, marks=pytest.mark.cuda, id="cuda-bf16-fsdp"),
    ],
)
def test_a_run_stays_close_to_single_precision_and_resumes_bit_by_bit(
    run, single_precision, tmp_path, device, precision, launcher
):
    whole = run(tmp_path / "whole", device, precision, launcher=launcher)
    assert losses(whole) == pytest.approx(losses(single_precision), rel=1e-3 if precision == "no" else 0.03)
    (last,) = list_checkpoints(whole)[-1:]
    assert (last / "scaler.pt").exists() == (precision == "fp16")
    assert (last / "pytorch_model_fsdp_0").exists() == (launcher is FSDP)
    resumed = run(stopped_copy(whole, tmp_path / "resumed"), device, precision, "--resume", launcher=launcher)
    assert losses(resumed) == losses(whole)
    weights, expected = (load_file(folder / "model.safetensors") for folder in (resumed, whole))
    assert weights.keys() == expected.keys()
    assert [name for name in expected if not weights[name].equal(expected[name])] == []


@pytest.mark.slow
@pytest.mark.cuda
def test_clips_augmented_on_a_gpu_are_those_of_the_workers(run, single_precision, tmp_path):
    options = "--augment_on_device", "true"
    assert losses(run(tmp_path / "run", "cuda", "no", *options)) == pytest.approx(losses(single_precision), rel=0.01)
