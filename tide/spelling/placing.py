"""Lay tokens over the texts that they were made of, byte by byte.

Most texts are spelled as they are written, but for special tokens that stand in them and a space that the
tokenizer puts in front. Elsewhere special tokens cut a text and the bytes that its tokens spell (the stream)
into segments, and `resuming` finds which bytes of a segment's stream are bytes of its text. A token of any
other byte is rejected.

Legend: R texts, B bytes of text, L tokens.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tide.spelling.resuming import Gap, spelled_places
from tide.spelling.token_spans import TokenSpans
from tide.spelling.token_stream import gather

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from jaxtyping import Bool, Int64

    from tide.spelling.resuming import Counterparts
    from tide.spelling.token_stream import Texts, Tokens


class Segment(NamedTuple):
    """Text and its tokens: half-open ranges of bytes, stream bytes and tokens."""

    text: tuple[int, int]
    stream: tuple[int, int]
    tokens: tuple[int, int]


class Special(NamedTuple):
    """A special token, its place in the stream, and the literal text that it may stand for."""

    token: int
    stream: int
    content: bytes
    is_unknown: bool = False


class Shift(NamedTuple):
    """From token `first` on, stream bytes lie `shift` bytes further in the text, but not before `floor`."""

    first: int
    shift: int
    floor: int


class Literal(NamedTuple):
    """A special token that stands in a text."""

    special: Special
    start: int
    end: int


class Spelled(NamedTuple):
    """Where tokens spell their text."""

    starts: Int64[np.ndarray, " L"]  # in bytes of the text, if a token is spelled there
    ends: Int64[np.ndarray, " L"]
    spelled: Bool[np.ndarray, " L"]
    respelled: Bool[np.ndarray, " L"]  # starts and ends are those of what stands there for the token
    agrees: Bool[np.ndarray, " L"]  # something beside the token is the text's
    low: Int64[np.ndarray, " L"]  # the text that a token may stand for
    high: Int64[np.ndarray, " L"]


def place_tokens(
    texts: Texts,
    tokens: Tokens,
    special_text: Mapping[int, bytes],
    is_unknown: Bool[np.ndarray, " L"],
    *,
    spells_text: bool,
) -> tuple[TokenSpans, Int64[np.ndarray, " K"]]:
    """Spans of the tokens of R texts, and the numbers of texts that their tokens are not of.

    Args:
        texts: each may go on behind its last token, if the tokenizer spells its texts.
        tokens: of all texts.
        special_text: literal texts of special tokens, by id.
        is_unknown: tokens whose text is not known, as of what the tokenizer cannot spell.
        spells_text: the tokenizer respells nothing.
    """
    shifts: list[Shift] = []
    literals: list[Literal] = []
    resumed: list[tuple[Segment, bool]] = []
    for whole, specials, has_unknown in _texts(texts, tokens, special_text, is_unknown):
        found = None if has_unknown else _as_written(whole, specials, texts.data, tokens.stream, spells_text)
        if found is None:
            in_text = _literals(whole, specials, texts.data)
            segments = list(_between(whole, in_text))
            resumed += [(segment, spells_text and segment is segments[-1]) for segment in segments]
            found = [Shift(whole.tokens[0], 0, 0)], in_text
        shifts += found[0]
        literals += found[1]

    at = _spelled(texts, tokens, shifts, resumed, is_unknown)
    num_agreeing, num_missing, num_unknown = (
        np.diff(np.append(0, np.cumsum(of))[tokens.borders])
        for of in (at.agrees, ~at.spelled & (tokens.lengths > 0), is_unknown)
    )
    is_foreign = (num_missing > 0) & (num_unknown == 0) & (spells_text | (num_agreeing == 0))
    is_of_text = ~np.repeat(is_foreign, np.diff(tokens.borders))
    spelled = at.spelled & is_of_text
    starts, ends, is_placed = at.starts, at.ends, spelled.copy()
    for literal in literals:
        token = literal.special.token
        starts[token], ends[token], is_placed[token] = literal.start, literal.end, True

    # A token that stands for a part of a character ends where the next one that is placed begins.
    placed = np.minimum.accumulate(np.where(is_placed, starts, len(texts.data))[::-1])[::-1]
    ends = np.where(at.respelled, np.maximum(np.minimum(ends, placed), starts), ends)
    located = is_placed | (at.respelled & is_of_text)
    # Other tokens stand between what is located before and behind them; without bytes, at its end.
    before = np.maximum.accumulate(np.where(located, ends, at.low))
    behind = np.minimum.accumulate(np.where(located, starts, at.high)[::-1])[::-1]
    is_empty = (tokens.lengths == 0) & ~is_unknown
    reach = np.where(is_empty, before, np.maximum(before, behind))
    ends = np.maximum.accumulate(np.where(located, ends, reach))
    starts = np.maximum.accumulate(np.where(located, starts, np.where(is_empty, ends, before)))
    rejected = _not_held(texts, tokens, (starts, ends), is_placed, spells_text)
    has_bytes = spelled & (starts < ends)
    spans = TokenSpans(texts.data, starts, ends, has_bytes, tokens.special, rejected, located | is_empty)
    return spans, np.flatnonzero(is_foreign)


def _spelled(
    texts: Texts,
    tokens: Tokens,
    shifts: Sequence[Shift],
    resumed: Sequence[tuple[Segment, bool]],
    is_unknown: Bool[np.ndarray, " L"],
) -> Spelled:
    """Where tokens spell their text, by the shifts of texts as written and in segments to resume."""
    first, shift, floor = np.array(shifts, dtype=np.int64).reshape(-1, 3).T
    counts = np.diff(np.append(first, len(tokens.ids)))
    shift, floor = np.repeat(shift, counts), np.repeat(floor, counts)
    starts, ends = (np.maximum(of + shift, floor) for of in (tokens.starts, tokens.ends))
    low, high = (np.repeat(of, np.diff(tokens.borders)) for of in (texts.bytes[:-1], texts.bytes[1:]))
    spelled = tokens.lengths > 0
    agrees, respelled = spelled.copy(), np.zeros_like(spelled)
    if resumed:
        ranges = [slice(*segment.tokens) for segment, _ in resumed]
        unknown = [of.start + np.flatnonzero(is_unknown[of]) for of in ranges]
        gaps = [
            Gap(segment.text, segment.stream, tokens.starts[of].tolist(), may_cut)
            for (segment, may_cut), of in zip(resumed, unknown, strict=True)
        ]
        at = np.concatenate([np.arange(of.start, of.stop) for of in ranges])
        sizes = [of.stop - of.start for of in ranges]
        low[at], high[at] = (np.repeat([gap.text[side] for gap in gaps], sizes) for side in (0, 1))
        starts[at], ends[at], spelled[at], respelled[at], agrees[at] = _resumed(
            gaps, sizes, at, texts, tokens
        )
    return Spelled(starts, ends, spelled, respelled, agrees, low, high)


def _texts(
    texts: Texts, tokens: Tokens, special_text: Mapping[int, bytes], is_unknown: Bool[np.ndarray, " L"]
) -> Iterator[tuple[Segment, Sequence[Special], bool]]:
    """Every text with its special tokens, and whether some token of it is unknown."""
    at = np.flatnonzero(tokens.special)
    columns = (at, tokens.starts[at], tokens.ids[at], is_unknown[at])
    specials = [
        Special(token, place, special_text.get(token_id, b""), unknown)
        for token, place, token_id, unknown in zip(*(of.tolist() for of in columns), strict=True)
    ]
    special_borders = np.searchsorted(at, tokens.borders).tolist()
    num_unknown = np.append(0, np.cumsum(is_unknown))[tokens.borders].tolist()
    ranges = (pairwise(of.tolist()) for of in (texts.bytes, tokens.stream_borders, tokens.borders))
    for whole, (first, after), (before, behind) in zip(
        map(Segment, *ranges), pairwise(special_borders), pairwise(num_unknown), strict=True
    ):
        yield whole, specials[first:after], before < behind


def _as_written(
    whole: Segment, specials: Sequence[Special], data: bytes, stream: bytes, may_cut: bool
) -> tuple[list[Shift], list[Literal]] | None:
    """Place tokens that spell a text exactly as written; None if they do not."""
    shifts, literals = [], []
    (place, text_end), at, first = whole.text, whole.stream[0], whole.tokens[0]
    for special in (*specials, Special(whole.tokens[1], whole.stream[1], b"")):
        run, lead = stream[at : special.stream], 0
        if not data.startswith(run, place, text_end):
            lead = 1  # An added space is nothing of the text.
            if run[:1] != b" " or not data.startswith(run[1:], place, text_end):
                return None
        shifts.append(Shift(first, place - at - lead, place))
        place += len(run) - lead
        if special.content and data.startswith(special.content, place, text_end):
            literals.append(Literal(special, place, place + len(special.content)))
            place += len(special.content)
        elif special.content and data[place : place + 1].isspace():
            return None  # It may take blanks along.
        at, first = special.stream, special.token + 1
    is_right = place == text_end or (may_cut and place < text_end)
    return (shifts, literals) if is_right else None


def _literals(whole: Segment, specials: Sequence[Special], data: bytes) -> list[Literal]:
    """The special tokens that stand in a text; none unless they and those at its two ends are all there are.

    Those at the ends may have been added to the text.
    """
    contents = sorted({special.content for special in specials} - {b""}, key=len, reverse=True)
    pattern = re.compile(b"|".join(map(re.escape, contents)))
    found = list(pattern.finditer(data, *whole.text)) if contents else []
    written = [match.group() for match in found]
    inside = [special for special in specials if not special.is_unknown or special.content in written]
    num_added = len(inside) - len(found)
    front = sum(special.stream == whole.stream[0] for special in inside)
    back = sum(special.stream == whole.stream[1] for special in inside)
    for lead in {max(0, num_added - back), min(front, num_added)} if 0 <= num_added <= front + back else ():
        of_text = inside[lead : lead + len(found)]
        literals = [Literal(special, *match.span()) for special, match in zip(of_text, found, strict=True)]
        # Text that no token spells any of was not cut by these.
        is_cut = all(
            segment.stream[0] < segment.stream[1] or not data[slice(*segment.text)].strip()
            for segment in _between(whole, literals)
        )
        if is_cut and [special.content for special in of_text] == written:
            return literals
    return []


def _between(whole: Segment, literals: Sequence[Literal]) -> Iterator[Segment]:
    """The segments between the literals of a text."""
    text, stream, token = whole.text[0], whole.stream[0], whole.tokens[0]
    for special, start, end in literals:
        yield Segment((text, start), (stream, special.stream), (token, special.token))
        text, stream, token = end, special.stream, special.token + 1
    yield Segment((text, whole.text[1]), (stream, whole.stream[1]), (token, whole.tokens[1]))


def _resumed(
    gaps: Sequence[Gap], sizes: Sequence[int], at: Int64[np.ndarray, " K"], texts: Texts, tokens: Tokens
) -> tuple[
    Int64[np.ndarray, " K"],
    Int64[np.ndarray, " K"],
    Bool[np.ndarray, " K"],
    Bool[np.ndarray, " K"],
    Bool[np.ndarray, " K"],
]:
    """Starts and ends of the tokens of gaps; whether each is spelled there, respelled, and its gap agrees.

    Args:
        sizes: tokens of each gap.
        at: [K], these tokens.
    """
    places, prefix_ends, agrees, counterparts = spelled_places(texts.data, tokens.stream, gaps)
    lead = np.repeat(np.array(prefix_ends, dtype=np.int64), sizes)
    starts, ends = np.maximum(tokens.starts[at], lead), np.maximum(tokens.ends[at], lead)
    is_prefix = (ends == lead) & (tokens.lengths[at] > 0)
    num_missing = np.append(0, np.cumsum(places < 0))
    places = np.append(places, -1)  # Of tokens without bytes any entry will do.
    last = places[ends - 1]
    spelled = (num_missing[starts] == num_missing[ends]) & (last - places[starts] == ends - 1 - starts)
    spelled = (tokens.lengths[at] > 0) & (spelled | is_prefix)
    text_start = np.repeat(np.array([gap.text[0] for gap in gaps], dtype=np.int64), sizes)
    other_starts, other_ends, respelled = _respelled(starts, ends, texts.data, tokens.stream, counterparts)
    starts, ends = (np.where(is_prefix, text_start, of) for of in (places[starts], last + 1))
    starts, ends = np.where(spelled, starts, other_starts), np.where(spelled, ends, other_ends)
    return starts, ends, spelled, respelled & ~spelled, np.repeat(np.array(agrees, dtype=np.bool_), sizes)


def _respelled(
    starts: Int64[np.ndarray, " K"],
    ends: Int64[np.ndarray, " K"],
    text: bytes,
    stream: bytes,
    counterparts: Counterparts,
) -> tuple[Int64[np.ndarray, " K"], Int64[np.ndarray, " K"], Bool[np.ndarray, " K"]]:
    """Where the characters begin and end that tokens [start, end) of the stream stand for, if it is known."""
    compared = np.append(np.flatnonzero(counterparts.starts > -2), len(stream))
    position = np.searchsorted(compared, starts)
    first, last = compared[position], compared[np.searchsorted(compared, ends) - 1]
    begins = counterparts.starts[first]
    respelled = (first < ends) & (begins >= 0)
    # Blanks in front belong to the token where they are the text's; others stand for those that are there.
    num_blanks = np.where(respelled, np.minimum(first - starts, begins), 0)
    blanks, of_text = (
        gather(np.frombuffer(data, np.uint8), of - num_blanks, num_blanks)
        for data, of in ((text, begins), (stream, first))
    )
    borders = np.cumsum(num_blanks)
    num_other = np.append(0, np.cumsum(blanks != of_text))
    is_other = (num_other[borders] > num_other[borders - num_blanks]) | (num_blanks < first - starts)
    begins = np.where(is_other, counterparts.opens[first], begins - num_blanks)
    return begins, np.maximum(counterparts.ends[last], begins), respelled


def _not_held(
    texts: Texts,
    tokens: Tokens,
    spans: tuple[Int64[np.ndarray, " L"], Int64[np.ndarray, " L"]],
    is_placed: Bool[np.ndarray, " L"],
    spells_text: bool,
) -> Bool[np.ndarray, " B"] | None:
    """The bytes of the texts that no placed token holds, but those behind the last token of a text."""
    starts, ends = (of[is_placed] for of in spans)
    if spells_text:
        reach = np.append(0, np.maximum.accumulate(np.where(is_placed, spans[1], 0)))[tokens.borders[1:]]
        tails = np.maximum(reach, texts.bytes[:-1])
        last = np.append(
            -1, np.maximum.accumulate(np.where(tokens.lengths > 0, np.arange(len(is_placed)), -1))
        )
        last = last[tokens.borders[1:]]
        is_open = (last < tokens.borders[:-1]) | np.append(is_placed, True)[last]
        starts, ends = np.append(starts, tails[is_open]), np.append(ends, texts.bytes[1:][is_open])
    size = len(texts.data) + 1
    held = np.cumsum(np.bincount(starts, minlength=size) - np.bincount(ends, minlength=size))[:-1] > 0
    return None if held.all() else ~held
