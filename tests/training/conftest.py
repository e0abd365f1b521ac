"""Fixtures for the tests of training."""

import pytest
import torch
from accelerate import Accelerator

from tiny_run import tiny_arguments
from vjepa_hf import VJEPAForPreTraining
from vjepa_hf.training.setup import model_config


@pytest.fixture
def model() -> VJEPAForPreTraining:
    """A tiny model with fixed weights."""
    torch.manual_seed(0)
    return VJEPAForPreTraining(model_config(tiny_arguments()))


@pytest.fixture
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)
