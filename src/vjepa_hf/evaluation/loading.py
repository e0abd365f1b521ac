"""Load a saved encoder with its processor."""

import torch

from ..files import named_damage
from ..model.modeling_vjepa import VJEPAModel
from ..model.video_processing_vjepa import VJEPAVideoProcessor


def load_encoder(model: str) -> tuple[VJEPAModel, VJEPAVideoProcessor]:
    """Return the encoder of a model, on the accelerator if there is one, and its processor.

    Args:
        model: folder or Hub name.

    Raises:
        OSError: the model does not exist.
        ValueError: the model is damaged, or not a V-JEPA model.
    """
    with named_damage(model):
        processor = VJEPAVideoProcessor.from_pretrained(model)
        encoder = VJEPAModel.from_pretrained(model, add_predictor=False).eval()
    if torch.accelerator.is_available():
        encoder.to(torch.accelerator.current_accelerator())
    return encoder, processor
