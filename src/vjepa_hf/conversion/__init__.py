"""Convert Meta's checkpoints to folders for `from_pretrained`, and back.

- `class_names.json`: class names of the released probes
- `folders`: read and write folders of `save_pretrained`
- `generation`: distinguish V-JEPA, V-JEPA 2 and 2.1, and add what their files do not contain
- `infer`: infer the configuration from the tensors of a checkpoint
- `meta`: read, check and convert checkpoints in both directions
- `released`: Meta's released files by name: address, size, download
- `report`: report of a conversion, model card and class names
- `transformers_format`: V-JEPA 2 from and to the format of transformers
"""

from .meta import convert, export_to_meta

__all__ = [
    "convert",
    "export_to_meta",
]
