"""Names in messages contain nothing but text.

pytest tests/model/test_names.py
"""

from vjepa_hf.model.names import printable


def test_controls_line_breaks_and_surrogates_are_escaped_and_other_names_are_not():
    assert printable("a b é あ.mp4") == "a b é あ.mp4"
    assert printable("\x1b[31m\r\n\u202e\udce9\u2028\0") == r"\x1b[31m\r\n\u202e\udce9\u2028\x00"
