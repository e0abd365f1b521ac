"""pytest tests/test_tubelets.py"""

import pytest
import torch

from vjepa_hf.tubelets import from_tubelets, grid_size, take_tokens, to_tubelets


def test_grid_size_counts_tubelets_in_time_and_space():
    assert grid_size(16, 224, 224, 2, 16) == (8, 14, 14)
    assert grid_size(8, 96, 32, 4, 8) == (2, 12, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((15, 32, 32, 2, 16), "num_frames=15 is not a positive multiple of tubelet_size=2.*num_frames=14"),
        ((16, 30, 32, 2, 16), "height=30 is not a positive multiple of patch_size=16.*height=16"),
        ((16, 32, 8, 2, 16), "width=8 is not a positive multiple of patch_size=16.*width=16"),
        ((0, 32, 32, 2, 16), "num_frames=0"),
    ],
)
def test_lengths_that_tubelets_do_not_fill_are_an_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        grid_size(*arguments)


def test_tubelets_go_back_to_the_same_clip():
    video = torch.randn(2, 6, 3, 16, 24)
    tubelets = to_tubelets(video, tubelet_size=2, patch_size=8)
    assert tubelets.shape == (2, 3 * 2 * 3, 3 * 2 * 8 * 8)
    assert torch.equal(from_tubelets(tubelets, (3, 2, 3), tubelet_size=2, patch_size=8), video)


def test_tokens_run_over_time_then_rows_then_columns():
    t, h, w = 3, 2, 4
    number = torch.arange(t * h * w).reshape(1, t, 1, h, w).repeat_interleave(2, dim=1)
    video = number.repeat_interleave(4, dim=3).repeat_interleave(4, dim=4).expand(1, 2 * t, 3, 4 * h, 4 * w)
    tubelets = to_tubelets(video, tubelet_size=2, patch_size=4)
    assert torch.equal(tubelets, torch.arange(t * h * w).reshape(1, -1, 1).expand_as(tubelets))


def test_embedding_tubelets_equals_the_convolution_of_the_paper():
    convolution = torch.nn.Conv3d(3, 5, kernel_size=(2, 4, 4), stride=(2, 4, 4)).double()
    video = torch.randn(2, 4, 3, 8, 12, dtype=torch.float64)
    expected = convolution(video.transpose(1, 2)).flatten(2).transpose(1, 2)
    ours = torch.nn.functional.linear(to_tubelets(video, 2, 4), convolution.weight.flatten(1), convolution.bias)
    torch.testing.assert_close(ours, expected)


def test_only_a_batch_of_clips_is_cut_into_tubelets():
    with pytest.raises(ValueError, match=r"\(B, T, C, H, W\), got \(4, 3, 8, 8\)"):
        to_tubelets(torch.zeros(4, 3, 8, 8), 2, 4)


def test_tubelets_of_another_grid_are_an_error():
    with pytest.raises(ValueError, match=r"grid \(2, 2, 2\).*got \(1, 9, 96\)"):
        from_tubelets(torch.zeros(1, 9, 96), (2, 2, 2), 2, 4)


def test_take_tokens_keeps_the_named_tokens_in_their_order():
    tokens = torch.arange(10.0).reshape(2, 5, 1)
    taken = take_tokens(tokens, torch.tensor([[4, 0], [1, 1]]))
    assert taken.squeeze(-1).tolist() == [[4.0, 0.0], [6.0, 6.0]]
