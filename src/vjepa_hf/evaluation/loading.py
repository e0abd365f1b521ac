"""Load a saved encoder with its processor."""

from typing import Any

import torch

from ..files import named_damage
from ..model.modeling_vjepa import VJEPAModel
from ..model.video_processing_vjepa import VJEPAVideoProcessor


def load_encoder(model: str, add_predictor: bool = False) -> tuple[VJEPAModel, VJEPAVideoProcessor]:
    """Return the encoder of a model, on the accelerator if there is one, and its processor.

    Args:
        model: folder or Hub name.
        add_predictor: whether to load the predictor too.

    Raises:
        OSError: the model does not exist.
        ValueError: the model is damaged, not a V-JEPA model, or has no predictor but should.
    """
    with named_damage(model):
        processor = VJEPAVideoProcessor.from_pretrained(model)
        loaded: Any = VJEPAModel.from_pretrained(model, add_predictor=add_predictor, output_loading_info=True)
    encoder, info = loaded
    if add_predictor and any(name.startswith("predictor.") for name in info["missing_keys"]):
        raise ValueError(
            f"model {model!r} has no predictor; give the folder of a pretraining run, or of a converted checkpoint. "
            "Classifiers are saved without one."
        )
    encoder.eval()
    if torch.accelerator.is_available():
        encoder.to(torch.accelerator.current_accelerator())
    return encoder, processor
