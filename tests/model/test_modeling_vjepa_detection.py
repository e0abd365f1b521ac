"""What a box is told to show depends on the features inside it, through time, and on nothing else of the batch.

pytest tests/model/test_modeling_vjepa_detection.py
"""

import copy

import pytest
import torch

from tiny_models import seeded
from vjepa_hf import VJEPAForActionDetection, VJEPAModel
from vjepa_hf.model.modeling_vjepa import box_features

BOXES = torch.tensor([[[0.0, 0.0, 1.0, 1.0], [0.1, 0.2, 0.6, 0.7]], [[0.5, 0.0, 1.0, 0.5], [0.0, 0.0, 0.0, 0.0]]])
MASK = torch.tensor([[True, True], [True, False]])


@pytest.fixture
def detector(tiny_models, tiny_config):
    """Three actions, 4 x 4 features of a box at each of 2 time steps."""
    tiny_config.num_labels, tiny_config.roi_size = 3, 4
    if "detector" not in tiny_models:
        tiny_models["detector"] = seeded(VJEPAForActionDetection, tiny_config)
    return copy.deepcopy(tiny_models["detector"])


@torch.no_grad()
def logits(model, *args, **kwargs):
    return model(*args, **kwargs).logits


def test_the_whole_frame_on_the_grid_of_the_tokens_gives_the_tokens():
    features = torch.randn(2, 2 * 3 * 3, 5, generator=torch.Generator().manual_seed(0))
    whole = torch.tensor([[[0.0, 0.0, 1.0, 1.0]]]).expand(2, -1, -1)
    torch.testing.assert_close(box_features(features, (2, 3, 3), whole, 3), features)


def test_a_box_holds_the_tokens_under_it_at_every_time_step():
    # Each token holds its own (time, row, column); a box over the lower left 2 x 4 of a 4 x 6 grid.
    grid = (2, 4, 6)
    places = torch.cartesian_prod(*(torch.arange(float(length)) for length in grid))[None]
    box = torch.tensor([[[0.0, 0.5, 2 / 3, 1.0]]])
    inside = box_features(places, grid, box, 2).view(2, 2, 2, 3)
    assert inside[0, ..., 0].unique().tolist() == [0.0] and inside[1, ..., 0].unique().tolist() == [1.0]
    assert inside[0, :, 0, 1].tolist() == [2.0, 3.0]
    assert inside[0, 0, :, 2].tolist() == [0.5, 2.5]  # columns 0 and 1, 2 and 3


def test_a_box_is_judged_alike_alone_and_among_others(detector, tiny_clip):
    together = logits(detector, tiny_clip, BOXES, MASK)
    assert together.shape == (2, 2, 3)
    for clip, place in MASK.nonzero().tolist():
        alone = logits(detector, tiny_clip[clip : clip + 1], BOXES[clip : clip + 1, place : place + 1])
        torch.testing.assert_close(alone[0, 0], together[clip, place])


def test_padding_has_score_zero_and_no_part_in_loss_or_gradient(detector, tiny_clip):
    labels = torch.tensor([[[1, 0, 1], [0, 0, 0]], [[0, 1, 0], [1, 1, 1]]])
    outputs = detector(tiny_clip, BOXES, MASK, labels)
    assert (outputs.logits[1, 1].sigmoid() == 0).all()
    other = labels.clone()
    other[1, 1] = 0
    assert detector(tiny_clip, BOXES, MASK, other).loss == outputs.loss
    expected = torch.nn.functional.binary_cross_entropy_with_logits(outputs.logits[MASK], labels[MASK].float())
    torch.testing.assert_close(outputs.loss, expected)
    outputs.loss.backward()
    assert all(p.grad.isfinite().all() for p in detector.parameters())


def test_clips_without_any_box_are_allowed(detector, tiny_clip):
    for num_boxes in (0, 2):
        mask = torch.zeros(2, num_boxes, dtype=torch.bool)
        outputs = detector(tiny_clip, torch.zeros(2, num_boxes, 4), mask, torch.zeros(2, num_boxes, 3))
        assert outputs.logits.shape == (2, num_boxes, 3) and outputs.loss == 0
        outputs.loss.backward()
        assert (detector.classifier.weight.grad == 0).all()


def test_what_is_far_from_a_box_in_the_features_has_no_influence():
    features = torch.zeros(1, 32, 5)
    box = torch.tensor([[[0.0, 0.0, 0.5, 0.5]]])
    features.view(2, 4, 4, 5)[:, 3:, :] = 7.0
    assert (box_features(features, (2, 4, 4), box, 2) == 0).all()
    features.view(2, 4, 4, 5)[1, 0, 0] = 7.0
    assert (box_features(features, (2, 4, 4), box, 2) != 0).any()


def test_other_sizes_of_the_frame_keep_the_boxes(detector):
    clip = torch.randn(1, 6, 3, 24, 40, generator=torch.Generator().manual_seed(0))
    assert logits(detector, clip, BOXES[:1]).shape == (1, 2, 3)


def test_half_precision_stays_close_to_single(detector, tiny_clip):
    single = logits(detector, tiny_clip, BOXES, MASK)[MASK]
    half = logits(detector.to(torch.bfloat16), tiny_clip.bfloat16(), BOXES, MASK)[MASK]
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), single, atol=0.02, rtol=0.05)


def test_saving_and_loading_gives_the_same_scores(detector, tiny_clip, tmp_path):
    detector.save_pretrained(tmp_path)
    again = VJEPAForActionDetection.from_pretrained(tmp_path)
    assert again.config.roi_size == 4
    torch.testing.assert_close(logits(again, tiny_clip, BOXES, MASK), logits(detector, tiny_clip, BOXES, MASK))


def test_a_pretraining_folder_gives_its_target_encoder(tiny_pretraining_model, tiny_clip, tmp_path):
    target, context = tiny_pretraining_model.vjepa.encoder, tiny_pretraining_model.context_encoder
    with torch.no_grad():
        for parameter in context.parameters():
            parameter.add_(1.0)
    tiny_pretraining_model.save_pretrained(tmp_path)
    detector, info = VJEPAForActionDetection.from_pretrained(tmp_path, num_labels=3, output_loading_info=True)
    assert all(key.startswith(("pooler.", "classifier.")) for key in info["missing_keys"]) and info["missing_keys"]
    assert not info["unexpected_keys"] and not info["mismatched_keys"]
    for name, value in target.state_dict().items():
        assert torch.equal(detector.vjepa.encoder.state_dict()[name], value), name
    detector.save_pretrained(tmp_path / "detector")
    encoder = VJEPAModel.from_pretrained(tmp_path / "detector").encoder
    assert torch.equal(encoder.norm.weight, target.norm.weight)


def test_a_frozen_encoder_gets_no_gradient_and_the_head_does(detector, tiny_clip):
    detector.vjepa.requires_grad_(False)
    detector(tiny_clip, BOXES, MASK, torch.ones(2, 2, 3)).loss.backward()
    assert all(parameter.grad is None for parameter in detector.vjepa.parameters())
    head = [*detector.pooler.parameters(), *detector.classifier.parameters()]
    assert all(parameter.grad is not None for parameter in head)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"boxes": BOXES[:1]}, r"\(2, R, 4\), got \(1, 2, 4\)"),
        ({"boxes": BOXES[0]}, r"\(2, R, 4\), got \(2, 4\)"),
        ({"boxes": BOXES}, "x1 < x2"),  # one of them is padding, and nothing says so
        ({"boxes": BOXES * 32, "box_mask": MASK}, "divide pixels by the width"),
        ({"boxes": BOXES, "box_mask": MASK.long()}, "bool tensor"),
        ({"boxes": BOXES, "box_mask": MASK[:, :1]}, r"bool tensor \(2, 2\), got torch.bool \(2, 1\)"),
        ({"boxes": BOXES, "box_mask": MASK, "labels": torch.zeros(2, 2, 4)}, r"num_labels\) = \(2, 2, 3\)"),
    ],
)
def test_wrong_boxes_are_errors_that_say_what_was_expected(detector, tiny_clip, arguments, message):
    with pytest.raises(ValueError, match=message):
        detector(tiny_clip, **arguments)


def test_the_loss_falls_on_one_batch(detector, tiny_clip):
    labels = torch.tensor([[[1, 0, 1], [0, 1, 0]], [[0, 1, 1], [0, 0, 0]]])
    optimizer = torch.optim.AdamW(detector.train().parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = detector(tiny_clip, BOXES, MASK, labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 < losses[0]


def test_a_trainer_is_told_that_the_loss_is_a_mean_over_the_batch():
    assert VJEPAForActionDetection.accepts_loss_kwargs is False
