"""Numbers recorded from Meta's code, and our models loaded with its weights; the README beside them names each tensor.

The recordings stand beside a checkout and are not part of the project: without them the tests that ask are skipped.
"""

import functools
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from house import SHARED
from vjepa_hf import VJEPAForPreTraining, VJEPAForVideoClassification, VJEPAModel
from vjepa_hf.conversion.meta import convert

FIXTURES = SHARED / "fixtures"
NO_FIXTURES = f"no recorded numbers at {FIXTURES}; set VJEPA_SHARED to the folder that holds them"
MODELS = sorted(path.name for path in FIXTURES.glob("model_*")) or [
    pytest.param("none", marks=pytest.mark.skip(reason=NO_FIXTURES))
]


def models_with(file: str) -> list:
    """The recorded models that have this file."""
    found = [name for name in MODELS if isinstance(name, str) and (FIXTURES / name / file).exists()]
    return found or [pytest.param("none", marks=pytest.mark.skip(reason=NO_FIXTURES))]


@dataclass(frozen=True)
class Recording:
    """What was recorded of one small model."""

    folder: Path
    settings: dict

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pth.tar"

    @property
    def probe(self) -> Path:
        return self.folder / "probe.pth.tar"

    def tensors(self, name: str = "io") -> dict[str, torch.Tensor]:
        return load_file(self.folder / f"{name}.safetensors")

    def numbers(self, name: str) -> dict:
        return json.loads((self.folder / f"{name}.json").read_text())

    @property
    def optimization(self) -> SimpleNamespace:
        """Meta's settings of a run; its counts of epochs become counts of steps."""
        return SimpleNamespace(**self.settings["optimization"])


def recording(name: str) -> Recording:
    folder = FIXTURES / name
    return Recording(folder, json.loads((folder / "config.json").read_text()))


_SCRATCH = tempfile.TemporaryDirectory(prefix="vjepa_hf_")  # lives as long as the process


@functools.cache
def converted(name: str) -> Path:
    """The folder that our converter makes of the recorded checkpoint and probe; made once in a process."""
    source = recording(name)
    folder = Path(_SCRATCH.name) / name
    convert(source.checkpoint, folder, source.probe, num_attention_heads=source.settings["model"]["num_heads"])
    return folder


def load(model_class: type, name: str, **kwargs) -> torch.nn.Module:
    """A fresh model with the recorded weights, in evaluation mode."""
    return model_class.from_pretrained(converted(name), **kwargs).eval()


def load_all(name: str, **kwargs) -> tuple[VJEPAForPreTraining, VJEPAModel, VJEPAForVideoClassification]:
    return tuple(
        load(model_class, name, **kwargs)
        for model_class in (VJEPAForPreTraining, VJEPAModel, VJEPAForVideoClassification)
    )


def as_clips(recorded: torch.Tensor) -> torch.Tensor:
    """Clips (B, T, C, H, W) from the recorded layout (B, C, T, H, W); int8 codes are in steps of 1 / 32."""
    clips = recorded.float() / 32 if recorded.dtype == torch.int8 else recorded
    return clips.transpose(1, 2)


def masks(tensors: dict[str, torch.Tensor], kind: str) -> list[torch.Tensor]:
    """The index lists `enc` or `pred` of all mask kinds."""
    count = sum(name.startswith(f"masks_{kind}.") for name in tensors)
    return [tensors[f"masks_{kind}.{index}"] for index in range(count)]


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest difference in units of the tensor's largest value."""
    assert ours.shape == theirs.shape, f"{tuple(ours.shape)} instead of {tuple(theirs.shape)}"
    return ((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max()).item()
