"""Checkpoints in the layout of Meta's programs, with random weights."""

import torch

from vjepa_hf import VJEPAConfig, VJEPAForPreTraining, VJEPAForVideoClassification
from vjepa_hf.conversion.meta import UNUSED_PROJECTION, to_meta


def pretraining_content(config: VJEPAConfig) -> dict:
    """A pretraining file as Meta's training program writes it, with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = VJEPAForPreTraining(config)
        for parameter in model.parameters():
            parameter.data.normal_(std=0.02)
    parts = to_meta(model.state_dict())
    content = {part: {f"module.backbone.{name}": value for name, value in parts[part].items()} for part in parts}
    return content | {"opt": {"state": {}}, "scaler": None, "epoch": 3, "loss": 0.4, "batch_size": 24, "world_size": 1}


def probe_content(config: VJEPAConfig) -> dict:
    """A probe file as Meta's evaluation program writes it, with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = VJEPAForVideoClassification(config)
        weights = {name: torch.randn_like(value) for name, value in model.state_dict().items() if "vjepa" not in name}
        probe = to_meta(weights)["classifier"]
        probe |= {name: torch.randn_like(value) for name, value in probe.items() if name.startswith(UNUSED_PROJECTION)}
    return {
        "classifier": {f"module.{name}": value for name, value in probe.items()},
        "opt": {},
        "epoch": 20,
        "lr": 1e-3,
    }
