"""Small models with the same weights in every test."""

import torch
from transformers import PreTrainedModel

from vjepa_hf import VJEPAConfig


def seeded(model_class: type[PreTrainedModel], config: VJEPAConfig) -> PreTrainedModel:
    """A model with the same weights in every test; the state of the global generator does not change."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return model_class(config).eval()
