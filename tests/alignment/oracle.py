"""Spans and chunks restated slowly: byte by byte, without arrays."""

from __future__ import annotations

import unicodedata
from itertools import pairwise

import numpy as np

from tide.alignment import Stretches


def within(spans, start, end):
    """The tokens that lie wholly inside a stretch of the text, and their positions."""
    stretches = Stretches.of([(start, end)])
    found = spans.positions(stretches)
    return spans.gathered(stretches, *found)[0], slice(*(int(of[0]) for of in found))


def owners(spans):
    """The token that holds each byte of the text as it is; None for no token."""
    owner = [None] * len(spans.text)
    for token in np.flatnonzero(spans.has_bytes).tolist():
        for byte in range(spans.starts[token], spans.ends[token]):
            assert owner[byte] is None, "two tokens hold one byte"
            owner[byte] = token
    return owner


def boundaries(owner):
    """Places inside the text where a token ends, or begins behind text that none holds."""
    return {at for at in range(1, len(owner)) if owner[at - 1] != owner[at]} - {
        at for at in range(1, len(owner)) if owner[at - 1] is None and owner[at] is None
    }


def common_spans(student, teacher):
    """Spans of bytes from one common boundary to the next, and the owners of either side."""
    sides = owners(student), owners(teacher)
    size = len(student.text)
    edges = sorted(boundaries(sides[0]) & boundaries(sides[1]) | {0, size})
    return list(pairwise(edges)), sides


def chunks(student, teacher):
    """The positions of the tokens of each chunk on either side, in text order."""
    spans, sides = common_spans(student, teacher)
    barriers = {int(at) for side in (student, teacher) for at in side.starts[side.special]}
    found = []
    for start, end in spans:
        held = [owner[start:end] for owner in sides]
        crossed = any(start < barrier < end for barrier in barriers)
        if not crossed and all(token is not None for owner in held for token in owner):
            found.append(tuple(sorted(set(owner)) for owner in held))
    return found


def rejected(student, teacher):
    """The first byte of each common span in which a side respells something."""
    spans, _ = common_spans(student, teacher)
    masks = [side.rejected for side in (student, teacher) if side.rejected is not None]
    return [start for start, end in spans if any(mask[start:end].any() for mask in masks)]


def assert_right(spans, tokens, *, is_whole=True):
    """Every token lies over its own bytes, in order, and every byte that none holds is accounted for.

    Args:
        spans: of one text.
        tokens: the bytes of each token.
        is_whole: the tokens are those of the whole text.
    """
    data = spans.text
    assert (np.diff(spans.starts) >= 0).all() and (np.diff(spans.ends) >= 0).all()
    assert (spans.starts <= spans.ends).all()
    mask = np.zeros(len(data), dtype=bool) if spans.rejected is None else spans.rejected
    behind_special = {0, *spans.ends[spans.special].tolist()}
    held = np.zeros(len(data), dtype=bool)
    for at, token in enumerate(tokens):
        start, end = int(spans.starts[at]), int(spans.ends[at])
        if spans.has_bytes[at]:
            is_prefixed = data[start:end] != token
            assert data[start:end] in (token, token.removeprefix(b" ")), f"token {at}"
            assert not is_prefixed or start in behind_special, f"token {at} has a prefix inside the text"
            assert not held[start:end].any() and not mask[start:end].any()
        else:
            # An added prefix has no text; all else that is not special was rejected.
            assert spans.special[at] or mask[start:end].all(), f"token {at}"
        held[start:end] = True
    last = int(spans.ends.max(initial=0))
    assert not is_whole or (held | mask)[:last].all(), "bytes that are neither held nor rejected"
    # Blanks and controls that are dropped at the end look as if the tokens were cut off.
    rest = "".join(c for c in data[last:].decode() if unicodedata.category(c)[0] not in "ZC")
    assert not is_whole or not rest or mask[last:].all()
