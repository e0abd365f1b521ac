"""Names and texts in messages contain nothing but text.

pytest tests/model/test_names.py
"""

from vjepa_hf.model.names import one_line, printable


def test_controls_line_breaks_and_surrogates_are_escaped_and_other_names_are_not():
    assert printable("a b é あ.mp4") == "a b é あ.mp4"
    assert printable("\x1b[31m\r\n\u202e\udce9\u2028\0") == r"\x1b[31m\r\n\u202e\udce9\u2028\x00"


def test_a_message_of_several_lines_becomes_one_without_controls():
    assert one_line(ValueError("a  b\n\n  c\x1b[31m")) == r"a b c\x1b[31m"
