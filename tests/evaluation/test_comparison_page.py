"""The page of a comparison escapes names, and shows a video that cannot be read again without frames.

pytest tests/evaluation/test_comparison_page.py
"""

from vjepa_hf.evaluation.comparison_page import comparison_page

VALUES = {
    "jedi": 1.5,
    "jedi_unbiased": 1.2,
    "jedi_unbiased_interval": [-0.5, 2.0],
    "floor": 0.3,
    "num_real": 20,
    "num_generated": 10,
    "unreadable_generated": ["x"],
    "warnings": ["few <videos>"],
    "worst": [{"row": 0, "video": "<b>.mp4", "contribution": 0.25}],
    "blind_spot": "second moments",
    "license": "CC BY-NC",
}


def test_names_are_escaped_and_a_video_that_is_gone_has_no_frames(toy_video_path):
    pairs = [{"first": "<a>", "second": "b", "difference": 0.5, "p_value": 0.02}]
    result = {"generators": {"<a>": VALUES, "b": VALUES}, "pairs": pairs}
    page = comparison_page(result, {"<a>": ["gone.mp4"], "b": [str(toy_video_path)]})
    assert page.count("data:image/jpeg") == 4
    assert not any(text in page for text in ("<a>", "<b>", "<videos>"))
    assert "&lt;a&gt; is closer to the real videos than b" in page and "p = 0.02" in page
    assert "-0.5 to 2" in page and "&lt;b&gt;.mp4 (" in page
