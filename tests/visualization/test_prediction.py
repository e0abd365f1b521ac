"""Errors of hidden tubelets are those of training, next to trivial predictions.

pytest tests/visualization/test_prediction.py
"""

import numpy as np
import pytest
import torch

from vjepa_hf.visualization.prediction import plot_prediction, prediction_errors


@pytest.fixture
def hidden():
    """The second time step and a block of the first one, on a grid of 2 x 4 x 4."""
    mask = np.zeros((2, 4, 4), dtype=bool)
    mask[1] = mask[0, :2, 1:3] = True
    return mask


def test_the_mean_error_is_the_loss_of_training(tiny_pretraining_model, tiny_clip, hidden):
    errors = prediction_errors(tiny_pretraining_model, tiny_clip[:1], hidden, mask_type_index=1)
    flat = torch.from_numpy(hidden.reshape(-1))
    context, target = ((flat == value).nonzero().T for value in (False, True))
    with torch.no_grad():
        outputs = tiny_pretraining_model(tiny_clip[:1], [context], [target], mask_type_indices=[1])
    assert np.nanmean(errors.model) == pytest.approx(outputs.loss.item(), rel=1e-5)
    for values in vars(errors).values():
        assert values.shape == (2, 4, 4) and (np.isnan(values) == ~hidden).all()


def test_known_targets_are_not_computed_again(tiny_pretraining_model, tiny_clip, hidden, monkeypatch):
    tubelets, grid = tiny_pretraining_model.vjepa.tokenize(tiny_clip[:1])
    targets = tiny_pretraining_model.encode_targets(tubelets, grid)
    expected = prediction_errors(tiny_pretraining_model, tiny_clip[:1], hidden)
    monkeypatch.setattr(tiny_pretraining_model, "encode_targets", None)
    given = prediction_errors(tiny_pretraining_model, tiny_clip[:1], hidden, target_hidden_state=targets)
    np.testing.assert_array_equal(given.model, expected.model)


def test_a_still_clip_makes_copies_exact_and_the_mean_wrong(tiny_pretraining_model, tiny_clip):
    """Without positions, a still clip has the same features at every time step."""
    model, still = tiny_pretraining_model, tiny_clip[:1, :1].expand(-1, 4, -1, -1, -1)
    for encoder in (model.vjepa.encoder, model.context_encoder):
        encoder.embeddings.position_embeddings.zero_()
    future = np.zeros((2, 4, 4), dtype=bool)
    future[1] = True
    errors = prediction_errors(model, still, future)
    assert np.nanmax(errors.copy) < 1e-4 < 0.1 < np.nanmean(errors.mean)


@pytest.mark.parametrize("value", [False, True])
def test_nothing_or_everything_hidden_is_an_error(tiny_pretraining_model, tiny_clip, value):
    with pytest.raises(ValueError, match="hides all tubelets, or none"):
        prediction_errors(tiny_pretraining_model, tiny_clip[:1], np.full((2, 4, 4), value))


def test_errors_are_drawn_below_the_frames(tiny_pretraining_model, tiny_clip, hidden):
    errors = prediction_errors(tiny_pretraining_model, tiny_clip[:1], hidden)
    figure = plot_prediction(np.zeros((2, 8, 8, 3), np.uint8), errors, num_columns=2)
    names = ["video", "prediction", "mean target", "nearest visible"]
    assert [axis.get_ylabel() for axis in figure.axes[::2]] == names
