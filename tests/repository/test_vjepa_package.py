"""The page on PyPI's `vjepa` gives the same numbers on both sides.

pytest tests/repository/test_vjepa_package.py
"""

import importlib.util
import re

import pytest
import torch

from house import REPO
from recorded_weights import RECORDED, clips, weights

PAGE = REPO / "docs" / "vjepa_package.md"


def block(side: str) -> str:
    return re.search(rf"<!-- {side} -->\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]


@pytest.fixture
def names(tiny_config, tmp_path) -> dict:
    """Return the names that the blocks use: a checkpoint and a probe in Meta's layout, a clip and a folder."""
    tiny_config.num_labels = 3
    parts = weights(tiny_config)
    classifier = parts.pop("classifier")
    content = {part: {f"module.backbone.{name}": value for name, value in parts[part].items()} for part in parts}
    torch.save(content | {"epoch": 1}, tmp_path / "checkpoint.pth.tar")
    probe = {"classifier": {f"module.{name}": value for name, value in classifier.items()}, "epoch": 1}
    torch.save(probe, tmp_path / "probe.pth.tar")
    paths = {"checkpoint": tmp_path / "checkpoint.pth.tar", "probe": tmp_path / "probe.pth.tar"}
    return paths | {"clip": clips(), "folder": tmp_path / "model"}


def check(names: dict, logits: str) -> None:
    names = names | {"tokens_mean": names["tokens"].mean(dim=1), logits: names["logits"]}
    for result in ("tokens_mean", "pooled", logits):
        torch.testing.assert_close(names[result], torch.tensor(RECORDED[result]), atol=2e-5, rtol=1e-5)


def test_our_side_gives_the_numbers_of_vjepa_0_1_2_but_classifies_without_the_projection(names):
    exec(compile(block("ours"), PAGE, "exec"), names)
    check(names, "plain_logits")
    with torch.no_grad():
        pooled = names["classifier"].pooler(names["tokens"])
    assert (pooled - names["pooled"]).abs().max() > 0.1  # so the projection matters
    with pytest.raises(AssertionError):
        check(names | {"pooled": pooled}, "plain_logits")


@pytest.mark.skipif(importlib.util.find_spec("vjepa") is None, reason="vjepa is not installed")
def test_their_side_gives_the_recorded_numbers(names):
    exec(compile(block("theirs"), PAGE, "exec"), names)
    check(names, "logits")


def test_each_side_has_about_ten_lines():
    for side in ("theirs", "ours"):
        lines = [line for line in block(side).splitlines() if line and not line.startswith(("import", "from"))]
        assert len(lines) <= 10, side
