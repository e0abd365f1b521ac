"""Meta's checkpoints in and out.

- `class_names`: names of the classes of the released probes, where their order is known from public material.
- `infer`: the configuration of a checkpoint, read off the shapes and numbers of its tensors.
- `meta`: checkpoints of Meta's V-JEPA code in and out: `.pth.tar` files <-> folders that `from_pretrained` loads.
- `released`: meta's released V-JEPA checkpoints by name, and a download that survives a broken connection.
- `report`: what a conversion did, and the model card that says so.
"""

from .meta import convert, export_to_meta

__all__ = [
    "convert",
    "export_to_meta",
]
