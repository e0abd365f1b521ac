"""A look at a video has everything that its model can show, for each time step, and says what is wrong with the model.

pytest tests/look/test_clip.py
"""

import numpy as np
import pytest
import torch

from tiny_models import seeded
from video_files import write_image, write_video
from vjepa_hf import VJEPAForPreTraining, VJEPAForVideoClassification, VJEPAVideoProcessor
from vjepa_hf.data.videos import decode_video
from vjepa_hf.look.clip import UNTRAINED, look_at
from vjepa_hf.model.video_io import VideoDecodeError


def test_a_pretraining_model_shows_features_predictions_and_surprise(pretrained, video):
    look = look_at(video, pretrained, box=(0, 0, 0.5, 0.5), seed=1)
    assert look.times == pytest.approx(np.arange(10) * 4 / 30)
    assert look.frames.shape == (19, 48, 48, 3) and look.frames.dtype == np.uint8
    assert look.pca.projections.shape == (10, 4, 4, 3)
    assert [region.name for region in look.regions] == ["short range", "long range", "future", "your box"]
    for region in look.regions:
        assert region.hidden.shape == (10, 4, 4)
        assert (np.isfinite(region.errors.model) == region.hidden).all()
    assert look.surprise.scores.shape == (10,) and np.isfinite(look.surprise.scores).any()
    assert look.attention is None and look.probabilities is None and list(look.missing) == ["classifier"]


def test_a_classifier_shows_attention_and_the_probabilities_of_its_clips(tiny_classifier, processor, save, video):
    look = look_at(video, save(tiny_classifier))
    assert look.regions == () and look.surprise is None and list(look.missing) == ["predictor"]
    assert look.attention.shape == (10, 4, 4)
    clips = look.attention.reshape(5, 2, 4, 4).sum(axis=(1, 2, 3))
    assert clips == pytest.approx(np.ones(5))
    numbers = np.minimum(np.arange(0, 40, 2), 36)
    pixels = processor(decode_video(video, numbers), do_sample_frames=False)["pixel_values_videos"]
    with torch.no_grad():
        logits = tiny_classifier(torch.as_tensor(pixels).reshape(5, 4, 3, 32, 32)).logits
    expected = logits.softmax(dim=-1).repeat_interleave(2, dim=0).numpy()
    np.testing.assert_allclose(look.probabilities, expected, atol=1e-5)
    assert look.class_names == ("LABEL_0", "LABEL_1", "LABEL_2")


def test_a_probe_of_several_layers_and_clips_shows_one_map(tiny_config, save, video):
    tiny_config.num_labels, tiny_config.pooler_layers, tiny_config.pooler_num_clips = 3, [0, 1], 2
    look = look_at(video, save(seeded(VJEPAForVideoClassification, tiny_config)))
    assert look.attention.shape == (10, 4, 4) and look.probabilities.shape == (10, 3)


def test_a_regression_has_no_probabilities(tiny_config, save, video):
    tiny_config.num_labels, tiny_config.problem_type = 1, "regression"
    look = look_at(video, save(seeded(VJEPAForVideoClassification, tiny_config)))
    assert look.probabilities is None and look.attention is not None


def test_rotary_positions_work_too(tiny_config, save, video):
    tiny_config.position_embedding_type, tiny_config.hidden_size = "rope", 48
    tiny_config.pred_mask_token_per_mask_type = False
    look = look_at(video, save(seeded(VJEPAForPreTraining, tiny_config)))
    assert len(look.regions) == 3 and look.surprise is not None


def test_untrained_and_collapsed_models_are_called_so(tiny_pretraining_model, save, video):
    assert UNTRAINED in look_at(video, save(tiny_pretraining_model)).warnings
    with torch.no_grad():  # features that do not depend on the token
        for encoder in (tiny_pretraining_model.vjepa.encoder, tiny_pretraining_model.context_encoder):
            encoder.norm.weight.mul_(1e-3)
            encoder.norm.bias.copy_(torch.linspace(-1, 1, 48))
    warnings = look_at(video, save(tiny_pretraining_model, "collapsed")).warnings
    assert UNTRAINED not in warnings
    assert any(warning.startswith("constant-features") for warning in warnings)


def test_a_start_and_a_limit_of_seconds_choose_the_part(pretrained, video):
    look = look_at(video, pretrained, start=0.4, max_seconds=0.5)
    assert look.times == pytest.approx(0.4 + np.arange(4) * 4 / 30)
    assert "0.5 of 1.3 s" in look.facts
    for options in ({"start": -1}, {"max_seconds": 0}, {"start": float("nan")}):
        with pytest.raises(ValueError, match="must be 0 or more"):
            look_at(video, pretrained, **options)


def test_seeds_change_masks_and_nothing_else_changes_between_calls(pretrained, video):
    first, again, other = (look_at(video, pretrained, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.regions[0].errors.model, again.regions[0].errors.model)
    assert (first.regions[0].hidden != other.regions[0].hidden).any()
    np.testing.assert_array_equal(first.pca.colors, other.pca.colors)


def test_odd_videos_are_looked_at(pretrained, tmp_path):
    image = write_image(tmp_path / "image.png", 0)
    one_frame, look = write_video(tmp_path / "one.mp4", 1), None
    for video in (str(image), str(one_frame), np.full((1, 40, 40, 3), 9, np.uint8)):
        look = look_at(video, pretrained)
        assert look.times.tolist() == [0] and len(look.frames) == 1
        assert (look.neighbors == -1).all() and look.surprise is None
    assert "frames without times, taken for 25 per second" in look.facts
    wide = write_video(tmp_path / "wide.mp4", 6, height=16, width=620)
    assert look_at(str(wide), pretrained).frames.shape[1] == look_at(str(wide), pretrained).frames.shape[2]


def test_unreadable_videos_are_errors_that_name_them(pretrained, video, tmp_path):
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(VideoDecodeError, match=r"text\.mp4: cannot read"):
        look_at(str(tmp_path / "text.mp4"), pretrained)
    with pytest.raises(VideoDecodeError, match="frames from second 9 on"):
        look_at(video, pretrained, start=9)


def test_memory_holds_the_looked_at_part_of_a_long_video_only(pretrained, tmp_path):
    """A video of any length: no frame after `max_seconds` is decoded."""
    long = write_video(tmp_path / "long.mp4", 400)
    look = look_at(str(long), pretrained, max_seconds=1)
    assert look.frame_times.max() < 1 and look.times.max() < 1
    processor = VJEPAVideoProcessor.from_pretrained(pretrained)
    with processor.open_video(str(long)) as opened:
        read = []
        original = opened.iter_frames
        opened.iter_frames = lambda numbers: (read.extend(np.asarray(numbers).tolist()), original(numbers))[1]
        look_at(opened, pretrained, max_seconds=1)
    assert read and max(read) < 30
