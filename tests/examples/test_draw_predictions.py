"""The picture of predictions: one command draws it, and its decoder decodes.

pytest tests/examples/test_draw_predictions.py
"""

import numpy as np
import pytest
import torch
from PIL import Image

import draw_predictions
from vjepa_hf import VJEPAVideoProcessor


@pytest.fixture
def model_folder(tiny_pretraining_model, tmp_path) -> str:
    tiny_pretraining_model.save_pretrained(tmp_path / "model")
    VJEPAVideoProcessor(crop_size=32, num_frames=4, frame_step=1).save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def test_one_command_draws_the_picture_on_a_transparent_page(model_folder, tmp_path):
    output = tmp_path / "new" / "predictions.png"
    draw_predictions.main(["--model", model_folder, "--output", str(output), "--num_clips", "4"])
    picture = np.asarray(Image.open(output))
    assert picture.shape[0] > 800 and picture.shape[2] == 4
    assert picture[0, 0, 3] == 0 and (picture[..., 3] == 255).mean() > 0.1
    assert output.stat().st_size < 500_000


def test_clips_are_functions_of_their_number():
    processor = VJEPAVideoProcessor(crop_size=32, num_frames=4, frame_step=2)
    several, alone = draw_predictions.toy_clips(processor, [5, 6]), draw_predictions.toy_clips(processor, [6])
    assert several.shape == (2, 4, 3, 32, 32) and torch.equal(several[1], alone[0])
    assert not torch.equal(several[0], several[1])


def test_decoder_recovers_pixels_that_are_linear_in_the_features(tiny_pretraining_model, monkeypatch):
    weights = torch.randn(49, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def encode(model, processor, clips):
        features = torch.nn.functional.layer_norm(clips.flatten(1).float()[:, : 32 * 48].unflatten(1, (32, 48)), (48,))
        return None, features, torch.nn.functional.pad(features, (0, 1), value=1.0).double() @ weights

    monkeypatch.setattr(draw_predictions, "encode", encode)
    processor = VJEPAVideoProcessor(crop_size=32, num_frames=4, frame_step=1)
    decoder = draw_predictions.fit_decoder(tiny_pretraining_model, processor, range(20))
    _, features, pixels = encode(None, None, draw_predictions.toy_clips(processor, [99]))
    torch.testing.assert_close(decoder(features), pixels)


def test_hidden_parts_show_predictions_and_nothing_else(tiny_pretraining_model):
    processor = VJEPAVideoProcessor(crop_size=32, num_frames=4, frame_step=1)
    inputs, _, pixels = draw_predictions.encode(
        tiny_pretraining_model, processor, draw_predictions.toy_clips(processor, [0])
    )
    decoder = draw_predictions.Decoder(torch.zeros(49, pixels.shape[-1], dtype=torch.float64))
    for hidden in draw_predictions.masks(tiny_pretraining_model.config.grid_size).values():
        clip, colors, seen, predicted, true, heat = draw_predictions.rows_of(
            tiny_pretraining_model, decoder, hidden, inputs[0], pixels[0]
        )
        assert colors.shape == (*hidden.shape, 3) and np.array_equal(heat[..., 3] > 0, hidden)
        opaque = hidden.repeat(8, axis=1).repeat(8, axis=2)
        assert np.array_equal(seen[..., 3] > 0, ~opaque) and np.array_equal(predicted[..., 3] > 0, opaque)
        assert (predicted[..., :3] == 0).all() and (true[..., :3] == 0).all()  # what this decoder decodes
        # the first frame of a tubelet is that frame of the clip
        mean, std = (np.array(values) for values in (processor.image_mean, processor.image_std))
        frames = inputs[0, ::2].permute(0, 2, 3, 1).numpy() * std + mean
        np.testing.assert_allclose(clip, frames.clip(0, 1), atol=1e-6)
