"""How unexpected each moment of a video is: the error of the prediction of its features from the past.

A window of `num_frames` frames slides over the video. The encoder sees the first time steps of the window, the
predictor predicts the features of the others, and the error is the loss of pretraining, whose targets come from the
whole window. It is the score of the last time step of the window, so a score depends on no later frame.
"""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import torch

from ..model.checks import check_one_level
from ..model.modeling_vjepa import VJEPAModel, VJEPAPreTrainedModel
from ..model.objective import normed_targets
from ..model.tubelets import Grid
from ..model.video_processing_vjepa import VJEPAVideoProcessor
from .dense_features import WindowClip, stream_windows, window_grid

SUFFIXES = (".parquet", ".csv")


@dataclass(frozen=True)
class Surprise:
    """Surprise at each time step of a video, which is one tubelet long.

    Attributes:
        times: float64 `(steps,)`: time of the first frame of each time step, in seconds; nan for frames in memory.
        scores: float32 `(steps,)`: mean of `maps` over the frame.
        maps: float32 `(steps, h, w)`: mean absolute error of the predicted features at each position, over the hidden
            time steps of the window that ends with this one; nan where no window ends.
    """

    times: np.ndarray
    scores: np.ndarray
    maps: np.ndarray


@torch.no_grad()
def surprise(
    model: VJEPAPreTrainedModel,
    video: Any,
    processor: VJEPAVideoProcessor,
    context_steps: int | None = None,
    mask_token_index: int = 0,
    stride: int | None = None,
    batch_size: int = 4,
) -> Surprise:
    """Measure how unexpected each time step of a video is, from the frames up to its end and no later ones.

    The processor's `frame_step` or `fps` selects the frames. The scores of the first time steps, before a whole window
    has been seen, are nan; so are all scores of a video shorter than a window. If a video ends within a tubelet, the
    score of that time step is nan.

    Args:
        model: model with a predictor, on its device; it is set to evaluation mode.
        video: video of any kind that the processor takes.
        processor: processor of the model.
        context_steps: time steps at the beginning of a window that the prediction is made from; the others are
            hidden, so there is a horizon for each. None: an eighth of the window, at least one.
        mask_token_index: which mask token stands for the hidden time steps: the index of the mask type, in the
            pretraining run, whose masks hide the future. The first one, the default, is always a trained one.
        stride: frames of a clip from one window to the next: a multiple of the tubelet size, `num_frames` at most.
            None: the tubelet size, which scores every time step. Time steps between the ends of windows are nan.
        batch_size: windows per forward pass.

    Raises:
        ValueError: the model has no predictor, or an argument is out of range.
        VideoDecodeError: the video cannot be read.
    """
    encoder: Any = model.base_model
    grid = window_grid(encoder.config, processor)
    context_steps = max(1, grid[0] // 8) if context_steps is None else context_steps
    _check(encoder, grid, context_steps, mask_token_index)
    encoder.eval()
    tubelet_size = encoder.config.tubelet_size
    clips = stream_windows(processor, video, tubelet_size, grid[0], tubelet_size if stride is None else stride)
    times: list[float] = []
    errors: dict[int, np.ndarray] = {}  # by time step
    while batch := list(islice(clips, batch_size)):
        times += [time for clip in batch for time in clip.seconds[clip.window.kept]]
        whole = [clip for clip in batch if clip.is_whole]
        if whole:
            ends = [clip.window.start + grid[0] - 1 for clip in whole]
            errors |= zip(ends, _errors(encoder, whole, grid, context_steps, mask_token_index), strict=True)
    maps = np.full((len(times), *grid[1:]), np.nan, dtype=np.float32)
    for step, error in errors.items():
        maps[step] = error
    return Surprise(np.array(times), maps.mean(axis=(1, 2)), maps)


def _check(model: VJEPAModel, grid: Grid, context_steps: int, mask_token_index: int) -> None:
    if model.predictor is None:
        raise ValueError(
            "surprise needs a predictor, and this model has none; load the folder of a pretraining run, or of a "
            "converted checkpoint with its predictor, with VJEPAModel.from_pretrained(FOLDER)."
        )
    check_one_level(model.config)
    if not 1 <= context_steps < grid[0]:
        raise ValueError(
            f"context_steps={context_steps} must be at least 1 and less than the {grid[0]} time steps of a window "
            "(num_frames / tubelet_size), so that a hidden one remains."
        )
    if not 0 <= mask_token_index < model.config.pred_num_mask_tokens:
        raise ValueError(
            f"mask_token_index={mask_token_index} must be at least 0 and less than the "
            f"{model.config.pred_num_mask_tokens} mask tokens of the model."
        )


def _errors(
    model: VJEPAModel, clips: list[WindowClip], grid: Grid, context_steps: int, mask_token_index: int
) -> np.ndarray:
    """Return the errors `(B, h, w)` of the predicted features of each window, averaged over its hidden time steps."""
    pixels = torch.stack([clip.pixels for clip in clips]).to(model.device, model.dtype)
    tubelets, _ = model.tokenize(pixels)
    tokens = torch.arange(tubelets.shape[1], device=model.device).expand(len(clips), -1)
    num_visible = context_steps * grid[1] * grid[2]
    predictions = model(
        tubelets=tubelets,
        grid_size=grid,
        context_mask=tokens[:, :num_visible],
        target_mask=tokens[:, num_visible:],
        mask_token_index=mask_token_index,
    ).predictor_hidden_state.float()
    targets = normed_targets([model(tubelets=tubelets, grid_size=grid).last_hidden_state[:, num_visible:]])
    return (predictions - targets).abs().mean(dim=-1).unflatten(1, (-1, *grid[1:])).mean(dim=1).cpu().numpy()


def write_surprise(result: Surprise, path: str | Path, suffix: str = ".parquet") -> None:
    """Write the columns `time`, `score` and, in parquet, `map` (h lists of w numbers), one row per time step.

    Args:
        result: result of `surprise`.
        path: file to write.
        suffix: format, ".parquet" or ".csv".

    Raises:
        ValueError: another format.
    """
    check_suffix(suffix)
    table = pa.table({"time": result.times, "score": result.scores})
    if suffix == ".csv":
        pyarrow.csv.write_csv(table, path)
    else:
        pyarrow.parquet.write_table(table.append_column("map", pa.array(result.maps.tolist())), path)


def check_suffix(suffix: str) -> None:
    """Check that `write_surprise` can write this format.

    Raises:
        ValueError: it cannot.
    """
    if suffix not in SUFFIXES:
        raise ValueError(
            f"the format {suffix!r} of the output must be one of {', '.join(SUFFIXES)}; choose a name with it"
        )
