"""Small weights in the layout of Meta's code that are a function of their names, for numbers recorded from other code.

`vjepa_0_1_2.json` has what PyPI's `vjepa` 0.1.2 computes with them on `clips()`: encoder and `AttentiveClassifier` of
width 48 with 2 layers and 2 heads, LayerNorm eps 1e-6 and 1e-5, clips of 4 frames of 32 x 32 in tubelets of 2 x 8 x 8,
`(B, C, T, H, W)`. `tokens_mean` is the mean of the encoder's output, `pooled` the output of `classifier.pooler`,
`logits` that of `classifier`, and `plain_logits` the latter with an identity as the output projection of the
cross-attention, which Meta's code does not apply.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import torch

from vjepa_hf import VJEPAConfig, VJEPAForPreTraining, VJEPAForVideoClassification
from vjepa_hf.conversion.meta import to_meta

RECORDED = json.loads((Path(__file__).parent / "vjepa_0_1_2.json").read_text())
POSITIONS = "pos_embed"  # not random


def drawn(name: str, shape: tuple[int, ...], scale: float) -> torch.Tensor:
    values = np.random.default_rng(zlib.crc32(name.encode())).normal(0, scale, shape)
    return torch.from_numpy(values.astype(np.float32))


def clips() -> torch.Tensor:
    """Two clips `(B, T, C, H, W)`."""
    return drawn("clips", (2, 4, 3, 32, 32), 1.0)


def weights(config: VJEPAConfig) -> dict[str, dict[str, torch.Tensor]]:
    """Part -> name in Meta's code -> tensor, of the parts encoder, target_encoder, predictor and classifier."""
    models = VJEPAForPreTraining(config), VJEPAForVideoClassification(config)
    state = models[0].state_dict() | {k: v for k, v in models[1].state_dict().items() if not k.startswith("vjepa.")}
    return {
        part: {
            name: value if POSITIONS in name else drawn(name, tuple(value.shape), 0.3)
            for name, value in tensors.items()
        }
        for part, tensors in to_meta(state).items()
    }
