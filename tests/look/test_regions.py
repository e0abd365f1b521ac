"""Masks hide what they say, and the same for the same seed.

pytest tests/look/test_regions.py
"""

import numpy as np
import pytest

from vjepa_hf import VJEPAConfig
from vjepa_hf.look.regions import DESCRIPTIONS, HiddenRegion, box_mask, mask_token_index, read_box, region_masks
from vjepa_hf.visualization.prediction import PredictionErrors

GRID = (4, 6, 8)


def test_masks_are_those_of_training_and_a_box():
    masks = region_masks(GRID, (0, 0, 0.5, 1), seed=3)
    assert list(masks) == list(DESCRIPTIONS)
    assert masks["future"].mean(axis=(1, 2)).tolist() == [0, 0, 1, 1]
    for name in ("short range", "long range", "your box"):
        assert (masks[name] == masks[name][0]).all() and 0 < masks[name].mean() < 1
    assert masks["your box"][0].mean(axis=0).tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    again, other = region_masks(GRID, None, seed=3), region_masks(GRID, None, seed=4)
    assert list(again) == list(DESCRIPTIONS)[:3]
    assert all((again[name] == masks[name]).all() for name in again)
    assert (other["short range"] != masks["short range"]).any()


def test_one_time_step_has_no_future():
    assert list(region_masks((1, 6, 8), None, seed=0)) == ["short range", "long range"]


def test_each_mask_type_has_its_token_as_in_training():
    tokens = {number: VJEPAConfig(pred_num_mask_tokens=number) for number in (1, 2, 3)}
    assert [mask_token_index(name, tokens[3]) for name in DESCRIPTIONS] == [0, 1, 2, 0]
    assert [mask_token_index(name, tokens[2]) for name in DESCRIPTIONS] == [0, 1, 0, 0]
    assert [mask_token_index(name, tokens[1]) for name in DESCRIPTIONS] == [0, 0, 0, 0]
    shared = VJEPAConfig(pred_num_mask_tokens=3, pred_mask_token_per_mask_type=False)
    assert {mask_token_index(name, shared) for name in DESCRIPTIONS} == {0}


def test_a_box_is_read_and_checked():
    assert read_box("0.1, .2,0.5,1") == (0.1, 0.2, 0.5, 1.0)
    for text in ("", "1,2,3", "a,b,c,d", "0,0,1,1,1"):
        with pytest.raises(ValueError, match="must be x0,y0,x1,y1 in fractions"):
            read_box(text)
    for box in ((0.5, 0, 0.1, 1), (0, 0, 2, 1), (-0.1, 0, 1, 1), (0, 0, 1), (float("nan"), 0, 1, 1)):
        with pytest.raises(ValueError, match="must be x0, y0, x1, y1 with"):
            box_mask(box, GRID)
    for box, count in (((0, 0, 1, 1), 48), ((0.01, 0.01, 0.02, 0.02), 0)):
        with pytest.raises(ValueError, match=f"hides {count} of 6 x 8 tubelets"):
            box_mask(box, GRID)


def test_means_count_hidden_tubelets_only():
    hidden = np.array([[[True, False], [False, True]]])
    errors = [np.where(hidden, np.array([[[low, 9], [9, low + 2]]]), np.nan) for low in (1.0, 2.0, 4.0)]
    assert HiddenRegion("future", hidden, PredictionErrors(*errors)).means == {"model": 2, "mean": 3, "copy": 5}
