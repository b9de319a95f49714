"""Bytes of a token as visible characters."""

from __future__ import annotations

import re
import unicodedata

LINE_BREAK = "↵"
_SIGNS = {" ": "·", "\n": LINE_BREAK, "\t": "→"}
_DOTTED_CIRCLE = "◌"
_ESCAPED = re.compile("[\udc80-\udcff]")  # `surrogateescape` decodes a stray byte to one of these.


def readable(spelled: bytes) -> str:
    """The text with a space as ·, a line break as ↵, a tab as →.

    Other characters without a shape become <U+200B>, bytes of a cut character <E4>. A leading combining mark
    stands on a dotted circle.
    """
    text = spelled.decode("utf-8", "surrogateescape")
    shown = "".join(map(_sign, text))
    return _DOTTED_CIRCLE + shown if text and unicodedata.combining(text[0]) else shown


def _sign(character: str) -> str:
    if character in _SIGNS:
        return _SIGNS[character]
    if _ESCAPED.fullmatch(character):
        return f"<{ord(character) - 0xDC00:02X}>"
    # Categories C (control, format, unassigned) and Z (other spaces and separators).
    return f"<U+{ord(character):04X}>" if unicodedata.category(character)[0] in "CZ" else character
