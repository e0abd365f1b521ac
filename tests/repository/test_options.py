"""What a step could do otherwise (benchmarks/options.py) computes the same, to the rounding that an option brings.

pytest tests/repository/test_options.py
"""

import importlib.util
import sys

import pytest
import torch

from house import REPO
from vjepa_hf import VJEPAConfig, VJEPAForPreTraining
from vjepa_hf.model import linear, modeling_vjepa
from vjepa_hf.training import setup as training

spec = importlib.util.spec_from_file_location("options", REPO / "benchmarks" / "options.py")
options = importlib.util.module_from_spec(spec)
sys.modules["options"] = options  # which dataclasses look up
spec.loader.exec_module(options)

# The least and the most that a loss may differ: exact options by rounding only, others by some of what they round.
APART = {"bf16 target weights": (1e-7, 1e-2), "float8 target": (1e-7, 3e-2)}


@pytest.fixture(autouse=True)
def package_as_before(monkeypatch):
    """Options replace what the package does for good; tests do not."""
    for module, name in ((linear, "USE_ONEDNN"), (modeling_vjepa, "attend"), (modeling_vjepa, "forgotten")):
        monkeypatch.setattr(module, name, getattr(module, name))
    monkeypatch.setattr(training, "KEPT_ACTIVATIONS", training.KEPT_ACTIVATIONS)


def losses(name: str | None, bf16: bool) -> list[float]:
    """Three steps of a small model whose target encoder follows."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "pred_hidden_size": 32}
    sizes |= {"image_size": 32, "patch_size": 8, "num_frames": 4, "pred_num_hidden_layers": 2}
    model = VJEPAForPreTraining(VJEPAConfig(**sizes))
    if name:
        options.OPTIONS[name].apply(model)
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.5)
    clips = torch.randn(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    context, target = torch.arange(32).expand(2, -1).split([12, 20], dim=1)
    found = []
    for _ in range(3):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model(clips, [context], [target]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        model.update_target_encoder(0.5)
        found.append(loss.item())
    return found


# PyTorch 2.10 has no float8 products on a CPU.
HAS_FLOAT8 = torch._C._dispatch_has_kernel_for_dispatch_key("aten::_scaled_mm_v2", "CPU")
CASES = [
    (name, bf16)
    for bf16 in (False, True)
    for name, option in options.OPTIONS.items()
    if option.is_for("cpu", bf16) and not option.compiled and (HAS_FLOAT8 or name != "float8 target")
]


@pytest.mark.parametrize(("name", "bf16"), CASES)
def test_an_option_changes_the_loss_by_rounding_only(name, bf16):
    least, most = APART.get(name, (0.0, 1e-3 if bf16 else 1e-6))
    plain, changed = losses(None, bf16), losses(name, bf16)
    apart = max(abs(a - b) / a for a, b in zip(plain, changed, strict=True))
    assert least <= apart <= most
    assert plain[0] != plain[2]


def test_targets_of_another_encoder_follow_the_average():
    for name in ("bf16 target weights", "float8 target")[: 1 + HAS_FLOAT8]:
        plain, changed = losses(None, bf16=True), losses(name, bf16=True)
        assert abs(plain[2] - changed[2]) < 0.2 * abs(plain[2] - plain[0]), name


def test_numbers_of_eight_bits_keep_the_size_of_every_row():
    rows = torch.randn(5, 64, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [[1e-6], [1e-3], [1], [1e3], [0]]
    )
    numbers, scale = options.to_float8(rows)
    torch.testing.assert_close(numbers.float() * scale, rows, rtol=0.07, atol=1e-9)


def test_compiled_options_compile():
    for name, option in options.OPTIONS.items():
        model = VJEPAForPreTraining(VJEPAConfig(hidden_size=64, num_hidden_layers=1, pred_num_hidden_layers=1))
        option.apply(model)
        compiled = any(module._compiled_call_impl is not None for module in model.modules())
        assert compiled == option.compiled, name
