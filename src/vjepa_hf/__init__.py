"""V-JEPA for Hugging Face: learn from unlabelled video by predicting the features of hidden regions.

The import registers the classes with the `Auto*` classes of transformers and has no other side effect.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForPreTraining,
    AutoModelForVideoClassification,
    AutoVideoProcessor,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES
from transformers.pipelines import PIPELINE_REGISTRY

from .model.configuration_vjepa import VJEPAConfig
from .model.modeling_vjepa import (
    VJEPAForActionDetection,
    VJEPAForPreTraining,
    VJEPAForVideoClassification,
    VJEPAModel,
    VJEPAPreTrainedModel,
)
from .model.video_processing_vjepa import VJEPAVideoProcessor

if TYPE_CHECKING:
    from .evaluation.surprise import surprise

__version__ = "0.2.0"

AutoConfig.register(VJEPAConfig.model_type, VJEPAConfig, exist_ok=True)
AutoModel.register(VJEPAConfig, VJEPAModel, exist_ok=True)
AutoModelForPreTraining.register(VJEPAConfig, VJEPAForPreTraining, exist_ok=True)
AutoModelForVideoClassification.register(VJEPAConfig, VJEPAForVideoClassification, exist_ok=True)
AutoVideoProcessor.register(VJEPAConfig, VJEPAVideoProcessor, exist_ok=True)
# The pipeline looks up supported classes by name, and would log that this one is not supported.
MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES[VJEPAConfig.model_type] = VJEPAForVideoClassification.__name__
# Not by `register_pipeline`: it warns, and makes saved pipelines ask for trust_remote_code.
_classification = PIPELINE_REGISTRY.supported_tasks["video-classification"]
if isinstance(_classification["impl"], str):  # by name, because the class imports a decoder
    _classification["impl"] = f"{__name__}.pipelines.VJEPAVideoClassificationPipeline"
else:  # an older transformers, which has imported one already
    from .pipelines import VJEPAVideoClassificationPipeline

    _classification["impl"] = VJEPAVideoClassificationPipeline


def __getattr__(name: str) -> Any:
    """Import `surprise` once it is asked for, because its module imports a decoder."""
    if name != "surprise":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .evaluation.surprise import surprise

    return surprise


def __dir__() -> list[str]:
    """Return the names that `__getattr__` knows too."""
    return sorted(globals().keys() | set(__all__))


def tiny_checkpoint() -> Path:
    """Return the folder of a tiny model that comes with the package, for `from_pretrained` without a download.

    Its card, README.md in the folder, says what it is good for and what it is not.
    """
    return Path(__file__).parent / "tiny"


__all__ = [
    "VJEPAConfig",
    "VJEPAForActionDetection",
    "VJEPAForPreTraining",
    "VJEPAForVideoClassification",
    "VJEPAModel",
    "VJEPAPreTrainedModel",
    "VJEPAVideoProcessor",
    "surprise",
    "tiny_checkpoint",
]
