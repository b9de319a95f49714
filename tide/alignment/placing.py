"""Lay tokens over the texts that they were made of, byte by byte.

Special tokens cut a text and the bytes that its tokens spell (the stream) into segments. Most segments are
spelled as they are written, but for a space that the tokenizer puts in front. Elsewhere `resuming` finds
which bytes of the stream are bytes of the text; a token of any other byte is rejected.

Legend: R texts, B bytes of text, L tokens.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tide.alignment.resuming import spelled_places
from tide.alignment.token_spans import TokenSpans

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Bool, Int64

    from tide.alignment.token_stream import Texts, Tokens


class Segment(NamedTuple):
    """Text without special tokens, and its tokens: half-open ranges of bytes, stream bytes and tokens."""

    text: tuple[int, int]
    stream: tuple[int, int]
    tokens: tuple[int, int]


class Literal(NamedTuple):
    """A special token that stands in a text: its token and the bytes that it is written in."""

    token: int
    start: int
    end: int


def place_tokens(
    texts: Texts,
    tokens: Tokens,
    special_text: Mapping[int, bytes],
    unknown_id: int | None,
    *,
    spells_text: bool,
) -> tuple[TokenSpans, list[int]]:
    """Spans of the tokens of R texts, and the numbers of texts that their tokens spell nothing of.

    Args:
        texts: each may go on behind its last token, if the tokenizer spells its texts.
        tokens: of all texts.
        special_text: literal texts of special tokens, by id.
        unknown_id: the token that stands for what the tokenizer cannot spell, if it has one.
        spells_text: the tokenizer respells nothing.
    """
    data = texts.data
    if (
        not tokens.special.any()
        and unknown_id not in tokens.ids
        and _is_as_written(texts, tokens, may_cut=spells_text)
    ):
        return tokens.as_text(data), []
    is_unknown = tokens.ids == (-1 if unknown_id is None else unknown_id)
    starts, ends = tokens.starts.copy(), tokens.ends.copy()
    spelled = np.zeros(len(starts), dtype=np.bool_)
    low, high = np.zeros_like(starts), np.zeros_like(ends)  # text that each token may stand for
    held = np.zeros(len(data) + 1, dtype=np.int64)  # +1 where a span begins, -1 where it ends
    foreign = []
    for text, (first, after) in enumerate(pairwise(tokens.borders.tolist())):
        segments, literals = _cut(texts, tokens, text, special_text, is_unknown)
        for segment in segments:
            here = slice(*segment.tokens)
            low[here], high[here] = segment.text
            starts[here], ends[here], spelled[here] = _place(
                segment, data, tokens, is_unknown, may_cut=spells_text and segment is segments[-1]
            )
        for token, start, end in literals:
            starts[token] = low[token] = start
            ends[token] = high[token] = end
            held[start] += 1
            held[end] -= 1
        here = slice(first, after)
        if not is_unknown[here].any():
            is_missing = ~spelled[here] & (tokens.lengths[here] > 0)
            if is_missing.any() and (spells_text or not spelled[here].any()):
                foreign.append(text)
                spelled[here] = False
        counted = np.flatnonzero((tokens.lengths[here] > 0) | is_unknown[here])
        # Text behind the last token is no one's.
        if spells_text and (not len(counted) or spelled[first + counted[-1]]):
            last = max([int(texts.bytes[text]), *ends[here][spelled[here]], *(at.end for at in literals)])
            held[last] += 1
            held[texts.bytes[text + 1]] -= 1
    is_literal = (low < high) & (starts == low) & (ends == high) & tokens.special & ~is_unknown
    np.add.at(held, starts[spelled], 1)
    np.add.at(held, ends[spelled], -1)
    rejected = np.cumsum(held)[:-1] == 0

    # Other tokens stand between what is spelled before and behind them; without bytes, at its end.
    is_placed = spelled | is_literal
    before = np.maximum.accumulate(np.where(is_placed, ends, low))
    behind = np.minimum.accumulate(np.where(is_placed, starts, high)[::-1])[::-1]
    is_empty = (tokens.lengths == 0) & ~is_unknown
    starts = np.where(is_placed, starts, before)
    ends = np.where(is_placed, ends, np.where(is_empty, before, np.maximum(before, behind)))
    has_bytes = spelled & (starts < ends)
    return TokenSpans(
        data, starts, ends, has_bytes, tokens.special, rejected if rejected.any() else None
    ), foreign


def _is_as_written(texts: Texts, tokens: Tokens, *, may_cut: bool) -> bool:
    """Return True if the tokens spell every text to its end; the last as far as they go, if it may be cut."""
    same = np.array_equal(texts.bytes[:-1], tokens.stream_borders[:-1])
    return same and (texts.data.startswith(tokens.stream) if may_cut else texts.data == tokens.stream)


def _cut(
    texts: Texts,
    tokens: Tokens,
    text: int,
    special_text: Mapping[int, bytes],
    is_unknown: Bool[np.ndarray, " L"],
) -> tuple[list[Segment], list[Literal]]:
    """One text between the special tokens that stand in it, and these."""
    text_start, text_end = texts.bytes[text : text + 2].tolist()
    first, after = tokens.borders[text : text + 2].tolist()
    stream_start, stream_end = tokens.stream_borders[text : text + 2].tolist()
    whole = Segment((text_start, text_end), (stream_start, stream_end), (first, after))
    special = first + np.flatnonzero(tokens.special[first:after])
    if not len(special):
        return [whole], []
    literals = _literals(texts.data, whole, special, tokens, special_text, is_unknown)
    segments = []
    at, stream_at, token_at = text_start, stream_start, first
    for token, start, end in literals:
        segments.append(Segment((at, start), (stream_at, int(tokens.starts[token])), (token_at, token)))
        at, stream_at, token_at = end, int(tokens.starts[token]), token + 1
    segments.append(Segment((at, text_end), (stream_at, stream_end), (token_at, after)))
    return segments, literals


def _literals(
    data: bytes,
    whole: Segment,
    special: Int64[np.ndarray, " K"],
    tokens: Tokens,
    special_text: Mapping[int, bytes],
    is_unknown: Bool[np.ndarray, " L"],
) -> list[Literal]:
    """The special tokens that stand in a text; none unless they and those at its two ends are all there are.

    Those at the ends may have been added to the text.
    """
    contents = {
        special_text[token_id]: token_id
        for token_id in tokens.ids[special].tolist()
        if token_id in special_text
    }
    contents.pop(b"", None)
    pattern = b"|".join(re.escape(content) for content in sorted(contents, key=len, reverse=True))
    found = [match.span() for match in re.finditer(pattern, data[slice(*whole.text)])] if contents else []
    ids = [contents[data[whole.text[0] + start : whole.text[0] + end]] for start, end in found]
    is_written_unknown = any(is_unknown[token] and tokens.ids[token] in ids for token in special.tolist())
    inside = [token for token in special.tolist() if is_written_unknown or not is_unknown[token]]
    for lead in range(len(inside) - len(ids) + 1):
        of_text, added = inside[lead : lead + len(ids)], inside[lead + len(ids) :]
        if lead and tokens.starts[inside[lead - 1]] > whole.stream[0]:
            break
        if any(tokens.starts[token] < whole.stream[1] for token in added):
            continue
        if tokens.ids[of_text].tolist() == ids:
            offset = whole.text[0]
            return [
                Literal(token, offset + start, offset + end)
                for token, (start, end) in zip(of_text, found, strict=True)
            ]
    return []


def _place(
    segment: Segment, data: bytes, tokens: Tokens, is_unknown: Bool[np.ndarray, " L"], *, may_cut: bool
) -> tuple[Int64[np.ndarray, " l"], Int64[np.ndarray, " l"], Bool[np.ndarray, " l"]]:
    """Starts and ends of a segment's tokens in the text, and whether each is spelled there."""
    text_start, text_end = segment.text
    stream_start, stream_end = segment.stream
    here = slice(*segment.tokens)
    starts, ends = tokens.starts[here], tokens.ends[here]
    stream = tokens.stream[stream_start:stream_end]
    unknown = (starts[is_unknown[here]] - stream_start).tolist()
    for lead in (0, 1) if stream[:1] == b" " else (0,):
        is_all = may_cut or text_end - text_start == len(stream) - lead
        if is_all and not unknown and data.startswith(stream[lead:], text_start, text_end):
            shift = text_start - stream_start - lead
            starts, ends = (np.maximum(of + shift, text_start) for of in (starts, ends))
            return starts, ends, starts < ends
    places, lead = spelled_places(data[text_start:text_end], stream, unknown, may_cut=may_cut)
    # Of tokens without bytes any entry will do.
    places = np.append(places, -1)
    starts = np.maximum(starts - stream_start, lead)
    ends = np.maximum(ends - stream_start, lead)
    num_missing = np.append(0, np.cumsum(places < 0))
    last = places[ends - 1]
    spelled = (starts < ends) & (num_missing[starts] == num_missing[ends])
    spelled &= last - places[starts] == ends - 1 - starts
    return text_start + places[starts], text_start + last + 1, spelled
