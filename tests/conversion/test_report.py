"""The model card names the source of converted weights, and class names are given only if they are certain.

pytest tests/conversion/test_report.py
"""

import hashlib
import re

import pytest
import torch

from vjepa_hf import VJEPAConfig
from vjepa_hf.conversion.meta import UNUSED_PROJECTION, convert
from vjepa_hf.conversion.released import PROBES
from vjepa_hf.conversion.report import NO_NAMES, class_names


def test_card_names_source_checksum_license_and_everything_dropped(checkpoint, probe, tmp_path, monkeypatch, capsys):
    report = convert(checkpoint, tmp_path / "model", probe, num_attention_heads=2)
    card = (tmp_path / "model" / "README.md").read_text()
    assert "checkpoint.pth.tar" in card and "probe.pth.tar" in card
    for name in ("opt", "scaler", "epoch", "loss", "batch_size", "world_size", f"{UNUSED_PROJECTION}*"):
        assert name in card and name in str(report)
    assert card.startswith("---\nlicense: cc-by-nc-4.0\n") and "CC BY-NC 4.0" in card and "CC BY-NC 4.0" in str(report)
    assert hashlib.sha256(checkpoint.read_bytes()).hexdigest() in card
    for text in (card, str(report)):  # whoever will see LABEL_17 learns what to do
        assert "LABEL_i" in text and "--class_names FILE" in text and "facebookresearch/jepa/issues/18" in text
    monkeypatch.chdir(tmp_path / "model")
    exec(re.search("```python\n(.*?)```", card, re.DOTALL)[1], {})
    assert "LABEL_" in capsys.readouterr().out
    convert(checkpoint, tmp_path / "mine", num_attention_heads=2, license="apache-2.0")
    assert "CC BY-NC" not in (tmp_path / "mine" / "README.md").read_text()


def test_names_from_files_are_only_text_in_the_card_and_in_the_report(content, tmp_path):
    names = [
        "ema\n\n## License\n\nPublic domain",
        "[link](https://example.org) https://example.org",
        "<script>alert(1)</script>",
        "a`b` | c",
        "\x1b[31mred\u202e",
        "x" * 10_000,
    ]
    file = tmp_path / "my | check`point` [x](y).pth.tar"
    torch.save(content | dict.fromkeys(names, 0) | {7: 0}, file)
    report = convert(file, tmp_path / "model", num_attention_heads=2)
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert card.count("\n## License") == 1 and "Public domain" in card and len(card) < 5_000
    assert "\x1b" not in card + str(report) and "\u202e" not in card + str(report)
    outside_of_code = re.sub(r"`[^`\n]*`", "", re.sub(r"```.*?```", "", card, flags=re.DOTALL))
    for part in ("example.org", "script", "[x]", "c`", "31mred", "Public"):
        assert part in card and part not in outside_of_code, part
    (row,) = [line for line in card.splitlines() if "check" in line and line.startswith("|")]
    assert row.count("|") == 4


def test_class_names_come_from_a_file_and_must_fit(checkpoint, probe, tmp_path):
    names = ["walk", "run", "jump", "sit", "stand"]
    (tmp_path / "names.pth.tar").write_text("\n".join(names))
    convert(checkpoint, tmp_path / "model", probe, num_attention_heads=2, labels=tmp_path / "names.pth.tar")
    config = VJEPAConfig.from_pretrained(tmp_path / "model")
    assert config.id2label == dict(enumerate(names)) and config.label2id["jump"] == 2
    for labels, message in (("ssv2", "174 different names for 5 classes"), ("nothing", "neither a text file")):
        with pytest.raises(ValueError, match=message):
            convert(checkpoint, tmp_path / "other", probe, num_attention_heads=2, labels=labels)
    with pytest.raises(ValueError, match="add one with probe"):
        convert(checkpoint, tmp_path / "other", num_attention_heads=2, labels=tmp_path / "names.pth.tar")
    assert not (tmp_path / "other").exists()


def test_every_class_has_its_own_name():
    for dataset, count in (("ssv2", 174), ("in1k", 1000)):
        names = class_names(dataset)
        assert len(names) == len(set(names)) == count


def test_names_have_the_order_of_the_data_set():
    names = class_names("ssv2")
    assert names == sorted(names)  # the numbers of labels.json follow the alphabet
    assert names[67].startswith("Pretending to open something") and names[93] == "Pushing something from left to right"
    names = class_names("in1k")
    assert (names[0], names[207], names[999]) == ("tench", "golden retriever", "toilet tissue")


def test_every_released_probe_has_names_or_a_reason_not_to():
    assert set(PROBES) == {"ssv2", "in1k"} | set(NO_NAMES)
    for dataset in NO_NAMES:
        assert class_names(dataset) is None
    assert class_names("anything else") is None
