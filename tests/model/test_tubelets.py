"""pytest tests/model/test_tubelets.py"""

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from vjepa_hf.model.tubelets import grid_size, take_tokens, to_tubelets


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
def test_lengths_that_are_not_multiples_of_the_tubelet_are_an_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        grid_size(*arguments)


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


def test_no_tensor_on_the_way_has_more_than_six_dimensions():
    """ExecuTorch's XNNPACK knows no more."""

    class Dimensions(TorchDispatchMode):
        most = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            self.most = max(self.most, result.ndim)
            return result

    with Dimensions() as dimensions:
        to_tubelets(torch.zeros(2, 4, 3, 8, 12), 2, 4)
    assert 5 <= dimensions.most <= 6


def test_only_a_batch_of_clips_is_cut_into_tubelets():
    with pytest.raises(ValueError, match=r"\(B, T, C, H, W\), got \(4, 3, 8, 8\)"):
        to_tubelets(torch.zeros(4, 3, 8, 8), 2, 4)


def test_take_tokens_keeps_the_named_tokens_in_their_order():
    tokens = torch.arange(10.0).reshape(2, 5, 1)
    taken = take_tokens(tokens, torch.tensor([[4, 0], [1, 1]]))
    assert taken.squeeze(-1).tolist() == [[4.0, 0.0], [6.0, 6.0]]


# Properties

LENGTHS = st.tuples(*[st.integers(1, 3)] * 8)  # B, t, h, w, C, tubelet_size, patch_size, and one more to be wrong by


@given(LENGTHS)
def test_cutting_keeps_every_number_in_its_place(lengths):
    batch, t, h, w, channels, tubelet_size, patch_size, _ = lengths
    shape = (batch, t * tubelet_size, channels, h * patch_size, w * patch_size)
    video = torch.arange(math.prod(shape)).view(shape)
    tubelets = to_tubelets(video, tubelet_size, patch_size)
    assert tubelets.shape == (batch, t * h * w, channels * tubelet_size * patch_size**2)
    assert grid_size(*shape[1:2], *shape[3:], tubelet_size, patch_size) == (t, h, w)
    assert torch.equal(tubelets.flatten().sort().values, video.flatten())
    # Token (i, j, k) is the block that begins at (i, j, k) times its size.
    i, j, k = t - 1, h - 1, w - 1
    block = video[:, i * tubelet_size :, :, j * patch_size :, k * patch_size :]
    assert torch.equal(tubelets[:, (i * h + j) * w + k], block.transpose(1, 2).flatten(1))


@given(LENGTHS)
def test_a_length_that_is_no_multiple_is_an_error_with_one_that_is(lengths):
    _, t, h, w, _, tubelet_size, patch_size, more = lengths
    if not more % tubelet_size:
        return
    with pytest.raises(ValueError, match="num_frames") as caught:
        grid_size(t * tubelet_size + more, h * patch_size, w * patch_size, tubelet_size, patch_size)
    proposed = int(re.search(r"to num_frames=(\d+)", str(caught.value))[1])
    assert grid_size(proposed, h * patch_size, w * patch_size, tubelet_size, patch_size)


@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 4), st.data())
def test_taken_tokens_are_those_that_the_lists_name(batch, num_tokens, width, drawn):
    tokens = torch.arange(batch * num_tokens * width).view(batch, num_tokens, width)
    count = drawn.draw(st.integers(1, num_tokens))
    indices = st.lists(st.integers(0, num_tokens - 1), min_size=count, max_size=count)
    mask = torch.tensor(drawn.draw(st.lists(indices, min_size=batch, max_size=batch)))
    expected = torch.stack([row[list_] for row, list_ in zip(tokens, mask, strict=True)])
    assert torch.equal(take_tokens(tokens, mask), expected)
