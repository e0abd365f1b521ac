"""The parts of a saved model, and why some are missing."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ..conversion.folders import find_folder
from ..files import named_damage
from ..model.checks import check_one_level
from ..model.configuration_vjepa import VJEPAConfig
from ..model.modeling_vjepa import VJEPAForPreTraining, VJEPAForVideoClassification, VJEPAModel
from ..model.video_processing_vjepa import VJEPAVideoProcessor

NO_PREDICTOR = "This model has no predictor. Give the folder of a pretraining run to see predictions and surprise."
NO_POOLER = "This model has no attentive pooler and classifier. Give the folder of a probe to see these."
POOLER_OF_BOXES = "The pooler of this model looks at boxes around people, not at whole frames."


@dataclass
class Parts:
    """Parts of a model that are there.

    Attributes:
        encoder: target encoder.
        processor: processor of the model.
        pretraining: both encoders and the predictor, whose target encoder is `encoder`.
        classifier: encoder, pooler and classifier, whose encoder is `encoder`.
        missing: "predictor" and "classifier" -> why it is not there.
    """

    encoder: VJEPAModel
    processor: VJEPAVideoProcessor
    pretraining: VJEPAForPreTraining | None = None
    classifier: VJEPAForVideoClassification | None = None
    missing: dict[str, str] = field(default_factory=dict)


def load_parts(model: str | Path) -> Parts:
    """Load what a folder or Hub repository holds, on the accelerator if there is one.

    Raises:
        OSError: the model does not exist.
        ValueError: it is damaged, or not a V-JEPA model.
    """
    folder = find_folder(model)
    if folder is None:
        raise ValueError(f"{str(model)!r} is not a folder, nor a name on the Hub; give the folder of a model.")
    missing: dict[str, str] = {}
    with named_damage(folder):
        config = VJEPAConfig.from_pretrained(folder)
        processor = VJEPAVideoProcessor.from_pretrained(folder)
        names = _weight_names(folder)
        pretraining = classifier = None
        if not any("predictor." in name for name in names):
            missing["predictor"] = NO_PREDICTOR
        elif reason := _other_objective(config):
            missing["predictor"] = reason
        else:
            pretraining = _load_pretraining(folder, names).eval()
        if pretraining is not None:
            encoder = pretraining.vjepa
        else:
            encoder = VJEPAModel.from_pretrained(folder, add_predictor=False).eval()
        if not any(name.startswith("pooler.") for name in names):
            missing["classifier"] = NO_POOLER
        elif "VJEPAForActionDetection" in (config.architectures or []):
            missing["classifier"] = POOLER_OF_BOXES
        else:
            classifier = VJEPAForVideoClassification.from_pretrained(folder).eval()
            classifier.vjepa = encoder
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    for part in (pretraining, encoder, classifier):
        if part is not None:
            part.to(device)
    return Parts(encoder, processor, pretraining, classifier, missing)


def _load_pretraining(folder: Path, names: set[str]) -> VJEPAForPreTraining:
    """Load both encoders and the predictor; the only encoder of a `VJEPAModel` takes both places."""
    if any(name.startswith("context_encoder.") for name in names):
        return VJEPAForPreTraining.from_pretrained(folder)
    vjepa = VJEPAModel.from_pretrained(folder)
    with torch.device("meta"):
        pretraining = VJEPAForPreTraining(vjepa.config)
    pretraining.vjepa, pretraining.context_encoder = vjepa, vjepa.encoder
    return pretraining


def _weight_names(folder: Path) -> set[str]:
    names: set[str] = set()
    for path in folder.glob("*.safetensors"):
        try:
            with safe_open(path, "pt") as file:
                names |= set(file.keys())
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged ({error}); copy it here again.") from error
    return names


def _other_objective(config: VJEPAConfig) -> str:
    """Return why the predictor cannot be compared with the target encoder; an empty string if it can."""
    try:
        check_one_level(config)
    except ValueError:
        return "The predictor of V-JEPA 2.1 predicts several layers at once, which this page does not show."
    return ""


def is_untrained(encoder: nn.Module) -> bool:
    """Return whether all biases and layer norms have their initial values, which the first training step changes."""
    norms = [module for module in encoder.modules() if isinstance(module, nn.LayerNorm)]
    biases = [weight for name, weight in encoder.named_parameters() if name.endswith("bias")]
    return all(bool((norm.weight == 1).all()) for norm in norms) and not any(bool(bias.any()) for bias in biases)
