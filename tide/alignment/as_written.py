"""Spans of tokens that spell their texts as they stand, but for special tokens and added prefixes.

Legend: R texts, L tokens of all of them.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from tide.alignment.token_spans import TokenSpans

if TYPE_CHECKING:
    from collections.abc import Mapping, Set

    from tide.alignment.speller import Speller
    from tide.alignment.token_stream import Texts, Tokens


def spans_as_written(
    texts: Texts,
    tokens: Tokens,
    speller: Speller,
    special_text: Mapping[int, bytes],
    strips: Set[int],
    *,
    may_go_on: bool,
) -> TokenSpans | None:
    """Spans where the bytes of the tokens are those of the texts; None where they are not.

    What a tokenizer puts before a text, or before what follows a special token, is nothing of the text.

    Args:
        texts: R.
        tokens: of each text.
        speller: tells what is put before a text.
        special_text: literal texts of special tokens, by id; one that does not stand in the text was added.
        strips: special tokens that take white space beside them along; texts with one are not read here.
        may_go_on: the last text may go on behind its last token.
    """
    data, stream, begins = texts.data, tokens.stream, tokens.starts
    specials = np.flatnonzero(tokens.special)
    of_text = np.searchsorted(specials, tokens.borders).tolist()
    special_list, special_ids = specials.tolist(), tokens.ids[specials].tolist()
    if strips and not strips.isdisjoint(special_ids):
        return None
    special_begins = begins[specials].tolist()
    # Runs of tokens between special ones: the first, how far its bytes are moved, where its text begins.
    runs: list[tuple[int, int, int]] = []
    literal_starts, literal_ends = [], []
    borders = zip(
        pairwise(tokens.borders.tolist()),
        pairwise(tokens.stream_borders.tolist()),
        pairwise(texts.bytes.tolist()),
        pairwise(of_text),
        strict=True,
    )
    for (first, after), (at, stream_end), (text_start, text_end), inner in borders:
        place = text_start
        for special in range(inner[0], inner[1] + 1):
            is_last = special == inner[1]
            position, end = (
                (after, stream_end) if is_last else (special_list[special], special_begins[special])
            )
            run, added = stream[at:end], b""
            if not data.startswith(run, place):
                added = speller.prefix(at_start=place == text_start)
                if not added or not run.startswith(added) or not data.startswith(run[len(added) :], place):
                    return None
            if first < position:
                runs.append((first, place - at - len(added), place))
            place += len(run) - len(added)
            if not is_last:
                literal = special_text.get(special_ids[special], b"")
                literal_starts.append(place)
                if literal and data.startswith(literal, place, text_end):
                    place += len(literal)
                literal_ends.append(place)
            first, at = position + 1, end
        # What is left may be a cut, or white space that was dropped after a prefix was added.
        if place > text_end or (place < text_end and not (may_go_on and text_end == len(data))):
            return None
    firsts, shifts, floors = np.array(runs, dtype=np.int64).reshape(-1, 3).T
    if len(firsts) == 1 and not len(specials) and not shifts.any():
        return TokenSpans(data, begins, tokens.ends, tokens.lengths > 0, tokens.special)
    counts = np.diff(np.append(firsts, len(begins)))
    starts, ends = np.empty_like(begins), np.empty_like(begins)
    ordinary = slice(int(firsts[0]) if len(firsts) else len(begins), None)
    shift, floor = np.repeat(shifts, counts), np.repeat(floors, counts)
    starts[ordinary] = np.maximum(begins[ordinary] + shift, floor)
    ends[ordinary] = np.maximum(tokens.ends[ordinary] + shift, floor)
    starts[specials], ends[specials] = literal_starts, literal_ends
    return TokenSpans(data, starts, ends, ~tokens.special & (starts < ends), tokens.special)
