"""Clips to tubelet tokens, the token grid and its position embeddings: pure functions.

A tubelet is a block of `tubelet_size` frames by `patch_size` x `patch_size` pixels. Tubelets do not overlap, so the
3D convolution of the paper (section 3.3, kernel = stride) is one matmul over flattened tubelets. Token order is
time, then row, then column (column fastest); inside a token it is channel, frame, row, column, which is the order of
a convolution weight `(D, C, tubelet_size, patch_size, patch_size)` after `flatten(1)`.
"""

import torch
from torch import nn

Grid = tuple[int, int, int]  # tokens (t, h, w)


def grid_size(num_frames: int, height: int, width: int, tubelet_size: int, patch_size: int) -> Grid:
    """Return the token grid (t, h, w) of a clip of `num_frames` frames of `height` x `width` pixels.

    Raises:
        ValueError: a length that is not a positive multiple of the tubelet's. Nothing is cropped silently.
    """
    for name, length, step in (
        ("num_frames", num_frames, tubelet_size),
        ("height", height, patch_size),
        ("width", width, patch_size),
    ):
        if length <= 0 or length % step:
            unit = "tubelet_size" if name == "num_frames" else "patch_size"
            nearest = max(step, length - length % step)
            raise ValueError(
                f"{name}={length} is not a positive multiple of {unit}={step}; pad or crop the clip, "
                f"for example to {name}={nearest}."
            )
    return num_frames // tubelet_size, height // patch_size, width // patch_size


def to_tubelets(video: torch.Tensor, tubelet_size: int, patch_size: int) -> torch.Tensor:
    """Cut clips `(B, T, C, H, W)` into tubelet tokens `(B, N, C * tubelet_size * patch_size * patch_size)`."""
    if video.ndim != 5:
        raise ValueError(f"a batch of clips has the shape (B, T, C, H, W), got {tuple(video.shape)}.")
    batch, num_frames, channels, height, width = video.shape
    t, h, w = grid_size(num_frames, height, width, tubelet_size, patch_size)
    # In two steps, because ExecuTorch knows six dimensions: (B t, tubelet, C, H W) -> (B t, C, tubelet, H W), and then
    # (B t, C tubelet, h, p, w, p) -> (B t, h, w, C tubelet, p, p)
    frames = video.reshape(batch * t, tubelet_size, channels, height * width).transpose(1, 2)
    blocks = frames.reshape(batch * t, channels * tubelet_size, h, patch_size, w, patch_size)
    return blocks.permute(0, 2, 4, 1, 3, 5).reshape(batch, t * h * w, channels * tubelet_size * patch_size**2)


def take_tokens(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Take the tokens `(B, K, D)` of `tokens` `(B, N, D)` at the indices `mask` `(B, K)`, in their order."""
    return tokens.gather(1, mask.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


def sincos_positions(grid: Grid, width: int, uniform_power: bool) -> torch.Tensor:
    """Make the fixed 3D sin-cos position embeddings `(N, width)` in float32 (paper, section 3.3).

    Time, row and column each get a part of the width, all sines then all cosines: three parts of `2 * ceil(width / 6)`
    cut to `width` with `uniform_power`, else one half, one quarter and one quarter.
    """
    part = 2 * -(-width // 6)
    parts = (part, part, part) if uniform_power else (width // 2, width // 4, width // 4)
    coordinates = torch.meshgrid(*(torch.arange(length, dtype=torch.float64) for length in grid), indexing="ij")
    tables = []
    for coordinate, part in zip(coordinates, parts, strict=True):
        frequencies = 10000.0 ** (-torch.arange(part // 2, dtype=torch.float64) / (part / 2))
        angles = coordinate.reshape(-1, 1) * frequencies
        tables += [angles.sin(), angles.cos()]
    return torch.cat(tables, dim=1)[:, :width].float()


def resize_positions(table: torch.Tensor, grid: Grid, new_grid: Grid) -> torch.Tensor:
    """Resample a position table `(N, D)` of `grid` to `new_grid`, trilinearly and by explicit size."""
    if grid == new_grid:
        return table
    volume = table.float().T.reshape(1, -1, *grid)
    volume = nn.functional.interpolate(volume, size=new_grid, mode="trilinear", align_corners=False)
    return volume.flatten(2)[0].T.to(table.dtype)
