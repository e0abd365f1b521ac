"""Load a saved encoder with its processor; damaged files of a model are one kind of error."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from ..model.modeling_vjepa import VJEPAModel
from ..model.video_processing_vjepa import VJEPAVideoProcessor


@contextmanager
def damaged_models_are_named(model: str) -> Iterator[None]:
    """Turn what transformers raises for the damaged files of a model into a ValueError that names the model.

    Raises:
        ValueError: a configuration has another structure or a value of another type, or the weights are cut off.
    """
    try:
        yield
    except (StrictDataclassError, SafetensorError, RuntimeError, TypeError, LookupError, AttributeError) as error:
        raise ValueError(
            f"cannot load model {model!r} ({type(error).__name__}: {error}); one of its files may be damaged; copy "
            "or save it again."
        ) from error


def load_encoder(model: str) -> tuple[VJEPAModel, VJEPAVideoProcessor]:
    """Return the encoder of a model, on the accelerator if there is one, and its processor.

    Args:
        model: folder or Hub name.

    Raises:
        OSError: the model does not exist.
        ValueError: the model is damaged, or not a V-JEPA model.
    """
    with damaged_models_are_named(model):
        processor = VJEPAVideoProcessor.from_pretrained(model)
        encoder = VJEPAModel.from_pretrained(model, add_predictor=False).eval()
    if torch.accelerator.is_available():
        encoder.to(torch.accelerator.current_accelerator())
    return encoder, processor
