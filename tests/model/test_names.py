"""Names from files reach a terminal or a log as text only.

pytest tests/model/test_names.py
"""

import pytest

from vjepa_hf.model.names import printable


@pytest.mark.parametrize("name", ["a\x1b[31mb", "a\nb", "a\r\x07b", "a\u202eb", "a\u2028b", "caf\udce9", "a\x9bb"])
def test_controls_are_escaped(name):
    assert printable(name).isprintable() and printable(name).encode() and printable(name) != name
    assert printable(printable(name)) == printable(name)


def test_ordinary_names_are_shown_as_they_are():
    for name in ("a b.mp4", "日本語/ü.mp4", "C:\\videos\\a.mp4", "https://host/a.mp4", ""):
        assert printable(name) == name
