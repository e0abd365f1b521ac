"""Masks are drawn at the positions of the tokens.

pytest tests/visualization/test_masks.py
"""

import torch
from PIL import Image

from vjepa_hf.visualization.masks import plot_masks, shade_masked


def test_only_hidden_tubelets_are_darkened():
    video = torch.full((4, 3, 16, 24), 200, dtype=torch.uint8)
    # grid 2 x 2 x 3; token 7 = time step 1, row 0, column 1
    shaded = shade_masked(video, torch.tensor([7]), tubelet_size=2, patch_size=8)
    kept = shaded == 200
    assert kept[2:, :, :8, 8:16].all()
    assert kept.sum() == 2 * 3 * 8 * 8
    assert (shaded[~kept] == 30).all()


def test_masks_over_a_clip_become_a_picture(tmp_path):
    video = torch.randint(256, (4, 3, 16, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    plot_masks(video, {"short": torch.tensor([0, 5]), "long": torch.tensor([11])}, tmp_path / "masks.png", 2, 8, 4)
    with Image.open(tmp_path / "masks.png") as picture:
        assert picture.width > picture.height > 100
