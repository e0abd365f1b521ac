"""Masks have the published statistics, are functions of seed and clip, and cover any grid.

pytest tests/data/test_masking.py
"""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vjepa_hf.data.masking import (
    LONG_RANGE,
    SHORT_RANGE,
    MaskSampler,
    MultiBlockMask,
    RandomTubeMask,
    make_mask,
    nearest_context,
)

GRID = (8, 14, 14)
FUTURE = MultiBlockMask(num_blocks=0, context_steps=3)
NUM_TOKENS = 8 * 14 * 14


def draw(mask, number, grid=GRID):
    return np.stack([mask(grid, np.random.default_rng((7, index))) for index in range(number)])


def keys(number, epoch=0):
    return [(epoch, index) for index in range(number)]


# --- statistics of the published settings ----------------------------------------------------------------------------


@pytest.mark.parametrize(("mask", "mean", "std"), [(SHORT_RANGE, 0.63, 0.077), (LONG_RANGE, 0.81, 0.072)])
def test_masked_fraction_is_that_of_the_published_settings(mask, mean, std):
    fractions = draw(mask, 2000).mean(axis=1)
    assert fractions.mean() == pytest.approx(mean, abs=0.01)
    assert fractions.std() == pytest.approx(std, abs=0.006)


@pytest.mark.parametrize(("mask", "name"), [(SHORT_RANGE, "short"), (LONG_RANGE, "long")])
def test_block_sizes_are_as_frequent_as_in_metas_code(shared, mask, name):
    theirs = np.load(shared / "fixtures" / "masks" / "masks.npz")[f"{name}.block_sizes"]
    ours = [mask.block_size(GRID, np.random.default_rng((1, index))) for index in range(20000)]
    sizes = {tuple(size) for size in theirs.tolist()} | set(ours)
    assert len(sizes) >= 5
    for size in sizes:
        assert np.mean([other == size for other in ours]) == pytest.approx(
            (theirs == size).all(1).mean(), abs=0.035
        ), size


@pytest.mark.parametrize(("mask", "scale"), [(SHORT_RANGE, 0.15), (LONG_RANGE, 0.7)])
def test_blocks_have_the_requested_area_and_aspect_ratio(mask, scale):
    sizes = np.array([mask.block_size(GRID, np.random.default_rng((1, index))) for index in range(2000)])
    assert (sizes[:, 0] == 8).all(), "each block spans all time steps"
    areas, ratios = sizes[:, 1] * sizes[:, 2] / 196, sizes[:, 1] / sizes[:, 2]
    assert areas.mean() == pytest.approx(scale, abs=0.03)
    assert ratios.min() > 0.6 and ratios.max() < 1.9
    assert np.median(ratios) == pytest.approx(1.1, abs=0.15)


def test_blocks_span_all_time_steps_so_masks_are_constant_in_time():
    for target in draw(SHORT_RANGE, 20).reshape(20, *GRID):
        assert (target == target[:1]).all()


def test_temporal_scale_makes_shorter_blocks():
    mask = MultiBlockMask(num_blocks=1, spatial_scale=(0.5, 0.5), temporal_scale=(0.5, 0.5))
    steps = draw(mask, 50).reshape(50, *GRID).any(axis=(2, 3)).sum(axis=1)
    assert (steps == 4).all()


# --- keep-rates over time --------------------------------------------------------------------------------------------


def keep_rates(mode, batch=24, batches=12):
    sampler = MaskSampler([SHORT_RANGE], GRID, seed=3, mode=mode)
    kept = np.zeros(8)
    for epoch in range(batches):
        (context,), _ = sampler(keys(batch, epoch))
        kept += np.bincount(context.flatten().numpy() // 196, minlength=8)
    return kept / (batch * batches * 196)


def test_default_mode_keeps_every_time_step_equally():
    rates = keep_rates("subsample")
    assert rates.max() / rates.min() < 1.1


def test_reference_mode_loses_late_time_steps_as_metas_code_does():
    rates = keep_rates("reference")
    assert rates[0] == pytest.approx(0.37, abs=0.04)
    assert rates[-1] < 0.05
    assert (np.diff(rates) < 0.01).all()


def test_both_modes_draw_the_same_masks_and_cut_them_to_the_same_length():
    subsampled, cut = (MaskSampler([LONG_RANGE], GRID, mode=mode)(keys(6)) for mode in ("subsample", "reference"))
    for ours, theirs in zip(subsampled, cut, strict=True):
        assert ours[0].shape == theirs[0].shape
        assert not torch.equal(ours[0], theirs[0])


def test_masks_are_made_from_the_settings_of_a_yaml_file():
    assert make_mask({"type": "multi_block", "num_blocks": 8, "spatial_scale": [0.15, 0.15]}) == SHORT_RANGE
    for name, mask in (("multi_block", replace(LONG_RANGE, context_steps=4)), ("random_tube", RandomTubeMask(0.9))):
        assert make_mask({"type": name} | asdict(mask)) == mask


# --- index lists -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mask", [SHORT_RANGE, LONG_RANGE, RandomTubeMask(0.9), FUTURE, replace(SHORT_RANGE, context_steps=4)]
)
def test_context_and_targets_are_sorted_disjoint_indices_of_the_grid(mask):
    (context,), (target,) = MaskSampler([mask], GRID)(keys(5))
    assert context.dtype == target.dtype == torch.long
    assert context.shape[0] == target.shape[0] == 5
    for row, other in zip(context, target, strict=True):
        assert (row.diff() > 0).all() and (other.diff() > 0).all()
        assert not set(row.tolist()) & set(other.tolist())
        assert 0 <= min(row[0], other[0]) and max(row[-1], other[-1]) < NUM_TOKENS


def test_a_single_clip_keeps_all_its_tokens():
    (context,), (target,) = MaskSampler([SHORT_RANGE], GRID)(keys(1))
    assert context.shape[1] + target.shape[1] == NUM_TOKENS


def test_tube_mask_hides_the_same_positions_at_every_time_step():
    target = draw(RandomTubeMask(0.75), 1)[0].reshape(GRID)
    assert target[0].sum() == 147 and (target == target[:1]).all()


def test_causal_mask_predicts_the_future_from_the_past():
    target = draw(FUTURE, 1)[0].reshape(GRID)
    assert not target[:3].any() and target[3:].all()
    blocks = draw(replace(SHORT_RANGE, context_steps=3), 1)[0].reshape(GRID)
    assert blocks[:3].any() and not blocks[:3].all() and blocks[3:].all()


# --- randomness ------------------------------------------------------------------------------------------------------


def test_masks_are_a_function_of_seed_epoch_sample_and_mask_type():
    def context(seed=0, epoch=0, sample=5, masks=(SHORT_RANGE, SHORT_RANGE)):
        return MaskSampler(masks, GRID, seed=seed)([(epoch, sample)])[0]

    first, second = context()
    assert torch.equal(first, context()[0])
    assert not torch.equal(first, second)
    for other in (context(seed=1), context(epoch=1), context(sample=6)):
        assert not torch.equal(first, other[0])


def test_masks_do_not_use_global_generators():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    MaskSampler([SHORT_RANGE], GRID)(keys(3))
    assert torch.equal(before[0], torch.get_rng_state()) and (before[1] == np.random.get_state()[1]).all()


def test_masks_do_not_depend_on_how_a_group_is_split_into_batches():
    sampler = MaskSampler([SHORT_RANGE, LONG_RANGE], GRID, seed=2)
    whole = sampler(keys(8))
    for index in range(2):
        for lists in range(2):
            parts = [sampler(keys(8)[start : start + 2], group=keys(8))[lists][index] for start in range(0, 8, 2)]
            assert torch.equal(torch.cat(parts), whole[lists][index])


def test_a_larger_group_cuts_to_its_own_shortest_list():
    sampler = MaskSampler([SHORT_RANGE], GRID)
    alone, grouped = sampler(keys(2)), sampler(keys(2), group=keys(24))
    assert grouped[0][0].shape[1] < alone[0][0].shape[1]


# --- errors ----------------------------------------------------------------------------------------------------------


def test_a_grid_too_small_for_the_mask_is_an_error_and_not_a_loop():
    with pytest.raises(ValueError, match=r"the grid .* = \(2, 1, 1\) is too small for MultiBlockMask.*100 draws"):
        MaskSampler([LONG_RANGE], (2, 1, 1))(keys(1))
    with pytest.raises(ValueError, match="context_steps=8 must be less than the 8 time steps of a clip"):
        MaskSampler([MultiBlockMask(0, context_steps=8)], GRID)


def test_one_remaining_token_is_enough():
    (context,), (target,) = MaskSampler([RandomTubeMask(0.5)], (1, 1, 2))(keys(4))
    assert context.shape == target.shape == (4, 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MultiBlockMask(0, (0.1, 0.1)), "num_blocks=0"),
        (lambda: MultiBlockMask(1, (0.0, 0.1)), r"spatial_scale=\(0.0, 0.1\)"),
        (lambda: MultiBlockMask(1, (0.5, 1.5)), r"spatial_scale=\(0.5, 1.5\)"),
        (lambda: MultiBlockMask(1, (0.1, 0.1), temporal_scale=(0.9, 0.1)), r"temporal_scale=\(0.9, 0.1\)"),
        (lambda: MultiBlockMask(1, (0.1, 0.1), aspect_ratio=(-1.0, 1.0)), r"aspect_ratio=\(-1.0, 1.0\)"),
        (lambda: RandomTubeMask(1.0), "ratio=1.0"),
        (lambda: MultiBlockMask(1, context_steps=0), "context_steps=0 must be at least 1, or None"),
        (lambda: make_mask({"ratio": 0.5}), "type=None must be one of multi_block, random_tube"),
        (lambda: make_mask({"type": "random_tube"}), "random_tube: .* missing .*'ratio'"),
        (lambda: make_mask({"type": "random_tube", "fraction": 0.5}), "random_tube has no setting 'fraction'"),
        (lambda: make_mask({"type": "multi_block", "num_blocks": 2.5}), "num_blocks=2.5 must be a number"),
        (lambda: make_mask({"type": "multi_block", "num_blocks": True}), "num_blocks=True must be a number"),
        (lambda: MaskSampler([], GRID), "masks is empty"),
        (lambda: MaskSampler([SHORT_RANGE], GRID, mode="prefix"), "mode='prefix' must be"),
        (lambda: MaskSampler([SHORT_RANGE], GRID, seed=-1), "seed=-1"),
    ],
)
def test_wrong_settings_are_errors_naming_field_and_value(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# --- properties of any mask type on any grid -------------------------------------------------------------------------

GRIDS = st.tuples(st.integers(1, 8), st.integers(1, 14), st.integers(1, 14))
FRACTIONS = st.floats(0.05, 1.0)
PAIRS = st.tuples(FRACTIONS, FRACTIONS).map(lambda pair: tuple(sorted(pair)))
BLOCKS = st.builds(
    MultiBlockMask,
    num_blocks=st.integers(1, 8),
    spatial_scale=PAIRS,
    temporal_scale=PAIRS,
    aspect_ratio=st.tuples(st.floats(0.2, 1), st.floats(1, 5)),
)
MASK_TYPES = st.one_of(
    BLOCKS,
    st.builds(RandomTubeMask, ratio=st.floats(0.05, 0.95)),
    st.builds(replace, BLOCKS, context_steps=st.integers(1, 7)),
    st.integers(1, 7).map(lambda steps: MultiBlockMask(0, context_steps=steps)),
)
MODES = st.sampled_from(["subsample", "reference"])


def masks_or_none(masks, grid, seed, mode, samples):
    """Return masks, or None if the error says that the grid is too small for them."""
    try:
        return MaskSampler(masks, grid, seed, mode)(samples)
    except ValueError as error:
        assert "is too small for" in str(error) or "must be less than" in str(error)
        return None


@given(GRIDS, st.lists(MASK_TYPES, min_size=1, max_size=2), MODES, st.integers(1, 4), st.integers(0, 2**31))
def test_any_mask_gives_every_clip_sorted_disjoint_tokens_of_the_grid(grid, mask_types, mode, batch, seed):
    masks = masks_or_none(mask_types, grid, seed, mode, keys(batch))
    if masks is None:
        return
    for context, target in zip(*masks, strict=True):
        assert context.dtype == target.dtype == torch.long
        assert len(context) == len(target) == batch and context.shape[1] > 0 and target.shape[1] > 0
        for kept, hidden in zip(context.tolist(), target.tolist(), strict=True):
            assert kept == sorted(set(kept)) and hidden == sorted(set(hidden))
            assert not set(kept) & set(hidden)
            assert 0 <= min(kept + hidden) and max(kept + hidden) < np.prod(grid)
        if batch == 1:
            assert context.shape[1] + target.shape[1] == np.prod(grid)


@given(GRIDS, MASK_TYPES, MODES, st.integers(2, 5), st.data())
def test_any_mask_is_a_function_of_its_clip_and_its_group(grid, mask_type, mode, batch, drawn):
    group = keys(batch)
    whole = masks_or_none([mask_type], grid, 3, mode, group)
    if whole is None:
        return
    sampler = MaskSampler([mask_type], grid, 3, mode)
    order = drawn.draw(st.permutations(range(batch)))
    for number in order:  # one by one, in any order, as another number of processes would ask for them
        alone = sampler([group[number]], group)
        for together, single in zip(whole, alone, strict=True):
            assert torch.equal(together[0][number : number + 1], single[0])


@given(GRIDS, BLOCKS, st.integers(0, 2**31))
def test_any_block_fits_the_grid_and_masks_no_more_than_its_size(grid, blocks, seed):
    size = blocks.block_size(grid, np.random.default_rng(seed))
    assert all(1 <= length <= whole for length, whole in zip(size, grid, strict=True))
    target = blocks(grid, np.random.default_rng(seed))
    assert target.shape == (np.prod(grid),) and target.dtype == bool
    assert np.prod(size) <= target.sum() <= blocks.num_blocks * np.prod(size)


def test_the_nearest_context_token_of_a_hidden_future_is_the_same_place_at_the_last_visible_step():
    grid = (3, 2, 4)
    context, targets = torch.arange(8), torch.arange(8, 24)
    assert nearest_context(context, targets, grid).tolist() == 2 * list(range(8))
    # columns 0 and 3 of the only row are visible: 1 is nearer to 0, and 2 to 3
    assert nearest_context(torch.tensor([0, 3]), torch.tensor([1, 2]), (1, 1, 4)).tolist() == [0, 3]
