"""Convert Meta's checkpoints to folders for `from_pretrained`, and back.

- `class_names.json`: class names of the released probes
- `infer`: infer the configuration from the tensors of a checkpoint
- `meta`: read, check and convert checkpoints in both directions
- `released`: Meta's released files by name: address, size, download
- `report`: report of a conversion, model card and class names
"""

from .meta import convert, export_to_meta

__all__ = [
    "convert",
    "export_to_meta",
]
