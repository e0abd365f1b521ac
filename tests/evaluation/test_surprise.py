"""A score depends on no later pixel, and is the loss of predicting a window that ends there from its first time steps.

pytest tests/evaluation/test_surprise.py
"""

import re
from collections.abc import Callable

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch

import vjepa_hf
from tiny_models import seeded
from video_files import write_video
from vjepa_hf import VJEPAConfig, VJEPAForPreTraining, VJEPAModel, VJEPAVideoProcessor
from vjepa_hf.evaluation.dense_features import stream_features
from vjepa_hf.evaluation.surprise import Surprise, check_suffix, surprise, write_surprise
from vjepa_hf.model.video_io import VideoDecodeError, VideoFile
from vjepa_hf.training.flops import encoder_flops, predictor_flops

STEPS = 4  # of a window of 8 frames


@pytest.fixture
def config(tiny_config):
    tiny_config.num_frames = 2 * STEPS
    return tiny_config


@pytest.fixture
def model(config):
    return seeded(VJEPAModel, config)


@pytest.fixture
def processor():
    return VJEPAVideoProcessor(size=32, crop_size=32, num_frames=2 * STEPS, frame_step=1)


def noise(num_frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num_frames, 32, 32, 3), dtype=np.uint8)


# --- causality ---


def leaks(scores_of: Callable[[np.ndarray], np.ndarray], frame_step: int) -> list[int]:
    """Frames at which a score changes, of a time step that ends before, if all pixels from there on change."""
    last_frames = frame_step * np.arange(1, 20, 2)  # of 10 time steps of two frames
    num_frames = last_frames[-1] + 1
    video, other = noise(num_frames), noise(num_frames, seed=1)
    expected, found = scores_of(video), []
    for frame in range(1, num_frames):
        past = np.count_nonzero(last_frames < frame)
        scores = scores_of(np.concatenate([video[:frame], other[frame:]]))
        found += [] if np.array_equal(scores[:past], expected[:past], equal_nan=True) else [frame]
        assert scores.shape == expected.shape and not np.array_equal(scores[past:], expected[past:], equal_nan=True)
    return found


@pytest.mark.parametrize(("frame_step", "stride", "batch_size"), [(1, 2, 1), (1, 2, 3), (2, 2, 4), (1, 6, 2)])
def test_no_score_changes_with_any_later_pixel(model, processor, frame_step, stride, batch_size):
    processor.frame_step = frame_step

    def maps_of(video: np.ndarray) -> np.ndarray:
        return surprise(model, video, processor, stride=stride, batch_size=batch_size).maps

    # The windows of stride 6 end with the time steps 3, 6 and 9.
    assert leaks(maps_of, frame_step) == []


def test_causality_check_catches_a_violation(model, processor):
    def norms_of(video: np.ndarray) -> np.ndarray:
        pieces = stream_features(model, processor, video, stride=2)
        return np.concatenate([piece.features.norm(dim=-1).numpy() for piece in pieces])

    assert leaks(norms_of, 1)


# --- what a score is ---


@pytest.mark.parametrize("positions", ["sincos", "rope"])
@pytest.mark.parametrize("context_steps", [1, 3])
def test_a_score_is_the_loss_of_predicting_a_window_from_its_first_steps(config, processor, positions, context_steps):
    config.position_embedding_type = positions
    model = seeded(VJEPAForPreTraining, config).eval()
    model.vjepa.predictor.mask_tokens.data.normal_(generator=torch.Generator().manual_seed(0))
    video = noise(14)
    result = surprise(model, video, processor, context_steps, mask_token_index=1)
    tokens = torch.arange(STEPS * 16)[None]
    for step in range(STEPS - 1, 7):
        pixels = processor(video[2 * (step - STEPS + 1) : 2 * step + 2])["pixel_values_videos"]
        with torch.no_grad():  # untrained: the encoders are equal
            masks = [tokens[:, : 16 * context_steps]], [tokens[:, 16 * context_steps :]]
            loss = model(pixels, *masks, mask_type_indices=[1]).loss
        assert result.scores[step] == pytest.approx(loss.item(), rel=1e-4)
    assert result.scores.tolist()[: STEPS - 1] == pytest.approx([np.nan] * (STEPS - 1), nan_ok=True)
    np.testing.assert_array_equal(result.scores, result.maps.mean(axis=(1, 2)))


def test_the_map_is_largest_where_the_picture_changes(model, processor):
    model.predictor.proj.weight.data.zero_()  # a prediction of zeros: the error depends on the target alone
    video = np.full((8, 32, 32, 3), 128, dtype=np.uint8)
    calm = surprise(model, video, processor).maps[-1]
    video[-2:, 8:16, 24:] = noise(2)[:, 8:16, 24:]
    change = abs(surprise(model, video, processor).maps[-1] - calm)
    assert np.unravel_index(change.argmax(), change.shape) == (1, 3)


def test_times_are_those_of_the_first_frames(model, processor, tmp_path):
    times = [500 + 40 * number + 7 * (number % 3) for number in range(20)]
    path = write_video(tmp_path / "uneven.mp4", 20, times=times)
    result = surprise(model, path, processor)
    with VideoFile(path) as file:
        assert result.times.tolist() == [frame.seconds for frame in file.iter_frames(range(0, 20, 2))]
        frames = file.frames(range(20))
    assert (result.times.dtype, result.scores.dtype, result.maps.dtype) == (np.float64, np.float32, np.float32)
    in_memory = surprise(model, frames, processor)
    assert np.isnan(in_memory.times).all() and in_memory.times.shape == (10,)
    np.testing.assert_array_equal(in_memory.maps, result.maps)


def test_a_larger_stride_keeps_the_scores_of_fewer_steps(model, processor):
    every, some = (surprise(model, noise(22), processor, stride=stride) for stride in (2, 6))
    assert np.flatnonzero(np.isfinite(some.scores)).tolist() == [3, 6, 9, 10]
    kept = np.isfinite(some.scores)
    np.testing.assert_allclose(some.scores[kept], every.scores[kept], rtol=1e-5)
    assert np.isfinite(every.scores).tolist() == [False] * 3 + [True] * 8


@pytest.mark.parametrize(
    ("width", "layers", "patches", "ratio"), [(1024, 24, 14, 1.20), (1280, 32, 14, 1.15), (1280, 32, 24, 1.14)]
)
def test_published_sizes_cost_at_most_1_3_times_dense_features(config, monkeypatch, width, layers, patches, ratio):
    config.num_frames = 16
    model, calls = seeded(VJEPAModel, config), []
    processor = VJEPAVideoProcessor(size=32, crop_size=32, num_frames=16, frame_step=1)
    forward = VJEPAModel.forward

    def counted(self, *args, context_mask=None, target_mask=None, **kwargs):
        calls.append([0 if mask is None else mask.shape[1] // 16 for mask in (context_mask, target_mask)])
        return forward(self, *args, context_mask=context_mask, target_mask=target_mask, **kwargs)

    monkeypatch.setattr(VJEPAModel, "forward", counted)
    surprise(model, noise(16), processor)
    assert calls == [[1, 7], [0, 0]]  # time steps of context and target, and a pass over the whole window
    size = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": 16, "image_size": 16 * patches}
    published, step = VJEPAConfig(**size), patches**2
    extra = encoder_flops(published, step) + predictor_flops(published, step, 7 * step)
    assert 1 + extra / encoder_flops(published) == pytest.approx(ratio, abs=0.01)


# --- bad and unusual input ---


@pytest.mark.parametrize("num_frames", [1, 2, 7])
def test_a_video_shorter_than_a_window_has_no_scores(model, processor, num_frames):
    result = surprise(model, noise(num_frames), processor)
    assert result.maps.shape == ((num_frames + 1) // 2, 4, 4) and np.isnan(result.maps).all()


def test_a_time_step_with_a_repeated_frame_has_no_score(model, processor):
    result = surprise(model, noise(11), processor)
    assert np.isfinite(result.scores).tolist() == [False, False, False, True, True, False]


@pytest.mark.parametrize("size", [(33, 47), (17, 200), (8, 8)])
def test_frames_of_any_size_have_scores(model, size):
    video = np.random.default_rng(0).integers(0, 256, (8, *size, 3), dtype=np.uint8)
    processor = VJEPAVideoProcessor(size=32, crop_size=32, num_frames=8, frame_step=1)
    assert np.isfinite(surprise(model, video, processor).scores[-1])


def test_an_unreadable_video_is_an_error_that_names_it(model, processor, tmp_path):
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(VideoDecodeError, match=r"text\.mp4"):
        surprise(model, tmp_path / "text.mp4", processor)


def test_a_model_without_predictor_is_a_clear_error(config, processor):
    for model in (VJEPAModel(config, add_predictor=False), vjepa_hf.VJEPAForVideoClassification(config)):
        with pytest.raises(ValueError, match="this model has none; load the folder of a pretraining run"):
            surprise(model, noise(8), processor)


def test_wrong_arguments_are_clear_errors(model, processor):
    for context_steps in (0, 4):
        with pytest.raises(ValueError, match=f"context_steps={context_steps} must be at least 1 and less than the 4"):
            surprise(model, noise(8), processor, context_steps)
    for index in (-1, 2):
        with pytest.raises(ValueError, match=f"mask_token_index={index} must be at least 0 and less than the 2"):
            surprise(model, noise(8), processor, mask_token_index=index)
    for stride in (0, 3, 10):
        with pytest.raises(ValueError, match=f"stride={stride} must be a multiple of tubelet_size=2 and at most"):
            surprise(model, noise(8), processor, stride=stride)
    processor.num_frames = 2
    with pytest.raises(ValueError, match="context_steps=1 must be at least 1 and less than the 1 time steps"):
        surprise(model, noise(8), processor)


# --- the file ---


def test_a_predictor_of_several_layers_is_refused(config, processor):
    config.level_layers, config.pred_num_levels = [0, 1], 2
    with pytest.raises(ValueError, match="pred_num_levels=2.*predicts several layers at once"):
        surprise(VJEPAModel(config), noise(8), processor)


def test_a_written_table_has_the_scores(tmp_path):
    maps = np.random.default_rng(0).random((3, 2, 5), dtype=np.float32)
    maps[0] = np.nan
    result = Surprise(np.arange(3.0), maps.mean(axis=(1, 2)), maps)
    write_surprise(result, tmp_path / "a.parquet")
    write_surprise(result, tmp_path / "a.csv", ".csv")
    table = pyarrow.parquet.read_table(tmp_path / "a.parquet")
    np.testing.assert_array_equal(np.array(table["map"].to_pylist(), dtype=np.float32), maps)
    for read in (table, pyarrow.csv.read_csv(tmp_path / "a.csv")):
        np.testing.assert_array_equal(read["time"].to_numpy(), result.times)
        np.testing.assert_allclose(read["score"].to_numpy(), result.scores, rtol=1e-6)
    for suffix in ("", ".txt"):
        with pytest.raises(ValueError, match=re.escape(f"{suffix!r} of the output must be one of .parquet, .csv")):
            check_suffix(suffix)


# --- the package ---


def test_the_package_exports_it_and_reports_other_names():
    assert vjepa_hf.surprise is surprise
    with pytest.raises(AttributeError, match="no attribute 'surprised'"):
        _ = vjepa_hf.surprised


def test_code_on_the_page_runs(repo, tmp_path):
    page = (repo / "docs" / "surprise.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(program, "docs/surprise.md", "exec"), {"video": write_video(tmp_path / "a.mp4", 20)})
