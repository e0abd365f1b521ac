"""Masks over a clip: the tubelets that the context encoder sees."""

from pathlib import Path

import torch

from ..files import whole_file
from .strips import plot_strips


def shade_masked(video: torch.Tensor, context_mask: torch.Tensor, tubelet_size: int, patch_size: int) -> torch.Tensor:
    """Darken the tubelets that are hidden from the context encoder.

    Args:
        video: uint8 `(T, C, H, W)`.
        context_mask: indices of the context tokens `(K,)`, in the order time, height, width.
        tubelet_size: frames per tubelet.
        patch_size: side of a tubelet in pixels.

    Returns:
        uint8 `(T, C, H, W)`.
    """
    T, _, H, W = video.shape
    t, h, w = T // tubelet_size, H // patch_size, W // patch_size
    brightness = torch.full((t * h * w,), 0.15)
    brightness[context_mask.cpu()] = 1.0
    # (t, h, w) tokens -> (T, 1, H, W) pixels
    brightness = brightness.view(t, 1, h, w).repeat_interleave(tubelet_size, dim=0)
    brightness = brightness.repeat_interleave(patch_size, dim=2).repeat_interleave(patch_size, dim=3)
    return (video.float() * brightness).round().to(torch.uint8)


def plot_masks(
    video: torch.Tensor,
    context_masks: dict[str, torch.Tensor],
    path: str | Path,
    tubelet_size: int,
    patch_size: int,
    num_columns: int = 8,
) -> None:
    """Draw a clip, and the context of each mask below it, into one PNG.

    Args:
        video: uint8 `(T, C, H, W)`, RGB.
        context_masks: name of a mask -> indices of the context tokens `(K,)`.
        path: PNG to write.
        tubelet_size: frames per tubelet.
        patch_size: side of a tubelet in pixels.
        num_columns: number of evenly spaced frames to draw.
    """
    rows = {"clip": video} | {
        name: shade_masked(video, mask, tubelet_size, patch_size) for name, mask in context_masks.items()
    }
    arrays = {name: frames.permute(0, 2, 3, 1).numpy() for name, frames in rows.items()}
    with whole_file(path) as unfinished:
        plot_strips(arrays, num_columns).savefig(unfinished, dpi=100, format="png")
