"""pytest tests/training/test_flops.py"""

from collections import Counter

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vjepa_hf import VJEPAForPreTraining
from vjepa_hf.training.flops import clip_flops, encoder_flops, matmul_rate, step_flops
from vjepa_hf.training.starting_weights import freeze_first_layers

CONTEXT, TARGET = (9, 4), (20, 28)


@pytest.fixture
def masks():
    """Two clips, two mask types of different sizes."""
    order = torch.stack([torch.randperm(32, generator=torch.Generator().manual_seed(i)) for i in range(2)])
    return [order[:, :k] for k in CONTEXT], [order[:, -m:] for m in TARGET]


def counted(call) -> Counter:
    """Return FLOPs by operator. The math backend is used because PyTorch < 2.15 does not count fused CPU attention."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        call()
    return Counter(counter.get_flop_counts()["Global"])


@pytest.mark.parametrize("freeze_layers", [0, 1])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_training_step_is_counted_as_pytorch_counts_it(tiny_config, tiny_clip, masks, attention, freeze_layers):
    tiny_config._attn_implementation = attention
    tiny_config.mlp_ratio, tiny_config.pred_mlp_ratio = 3.0, 2.0
    model = VJEPAForPreTraining(tiny_config)
    freeze_first_layers(model, freeze_layers)
    flops = clip_flops(tiny_config, CONTEXT, TARGET, freeze_layers)
    outputs = []
    forward = counted(lambda: outputs.append(model(tiny_clip, *masks)))
    assert forward.total() == 2 * (flops.target + flops.context + flops.predictor)
    backward = counted(outputs[0].loss.backward)
    assert backward.total() == 2 * flops.backward
    # Only attention multiplies batches of matrices, and each product has two in the backward pass.
    assert backward[torch.ops.aten.bmm] == 2 * 2 * flops.attention
    assert step_flops(tiny_config, *masks, freeze_layers) == 2 * flops.total


@pytest.mark.parametrize("image", [False, True])
def test_a_step_of_v_jepa_2_1_is_counted_as_pytorch_counts_it(tiny_config, tiny_clip, image):
    fields = {"level_layers": [0, 1], "pred_num_levels": 2, "pred_context_head": True, "image_tokenizer": True}
    fields |= {"position_embedding_type": "rope_interpolated"}
    config = type(tiny_config)(**tiny_config.to_diff_dict() | fields)
    model = VJEPAForPreTraining(config)
    order = torch.stack([torch.randperm(16, generator=torch.Generator().manual_seed(i)) for i in range(2)])
    masks = [order[:, :5]], [order[:, 6:]]
    clips = tiny_clip[:, :1] if image else tiny_clip
    outputs = []
    flops = clip_flops(config, [5], [10], image=image)
    forward = counted(lambda: outputs.append(model(clips, *masks)))
    assert forward.total() == 2 * (flops.target + flops.context + flops.predictor)
    assert counted(outputs[0].loss.backward).total() == 2 * flops.backward
    assert step_flops(config, *masks, image=image) == 2 * flops.total


def test_the_encoder_alone_is_counted_as_pytorch_counts_it(tiny_model, tiny_config, tiny_clip):
    with torch.no_grad():
        assert counted(lambda: tiny_model(tiny_clip)).total() == 2 * encoder_flops(tiny_config)


def test_the_flops_of_vitl16_match_a_calculation_by_hand():
    from vjepa_hf import VJEPAConfig

    # ViT-L/16 with the token counts of Meta's code at 24 clips a GPU, worked out by hand elsewhere: 2.56 TFLOP.
    flops = clip_flops(VJEPAConfig(), (376, 107), (744, 1097))
    assert flops.total == pytest.approx(2.56e12, rel=0.02)


def test_the_measured_matmul_rate_is_plausible():
    # Between a slow single thread and more than any CPU can do.
    assert 1e8 < matmul_rate("cpu", torch.float32, repeats=1) < 1e15
