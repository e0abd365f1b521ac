"""Names and texts in messages."""


def printable(name: str) -> str:
    r"""Escape what a terminal or a log could take for more than text: controls such as ESC, line breaks, surrogates.

    Names come from files, lists and archives, so they may contain anything. Every message and table shows them through
    this function; the escapes are those of Python, for example `\x1b`.
    """
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in name)


def one_line(text: object) -> str:
    """Return a text, such as the message of an error, on one line and printable."""
    return printable(" ".join(str(text).split()))
