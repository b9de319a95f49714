"""Find which bytes that tokens spell are bytes of their text, where a tokenizer respells some of it.

Both are compared without blanks and without the case of ASCII letters, so that a tokenizer that drops,
joins or adds blanks, or lower-cases, is followed step by step. Behind any other difference they are the same
again at a string of 8 bytes that each holds once: tokens spell text in order, so it is one place. Of the
bytes before it and behind the last agreement, those that could belong to either are left out.

Legend: B bytes of text, S bytes of stream, N bytes that are no blanks.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tide.alignment.token_stream import blank_bytes, first_difference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, Int64, UInt64

ANCHOR = 8  # bytes


class Agreement(NamedTuple):
    """Bytes that text and stream share: where they begin in both, and their number."""

    text: int
    stream: int
    size: int


class Folded(NamedTuple):
    """Bytes that are no blanks, in lower case, and [N] where each stands."""

    data: bytes
    at: Int64[np.ndarray, " N"]

    @classmethod
    def of(cls, data: bytes) -> Folded:
        """From all bytes."""
        at = np.flatnonzero(~blank_bytes(data))
        return cls(np.frombuffer(data, dtype=np.uint8)[at].tobytes().lower(), at)


def spelled_places(
    text: bytes, stream: bytes, unknown: Sequence[int], *, may_cut: bool
) -> tuple[Int64[np.ndarray, " S"], int]:
    """The byte of the text that each byte of the stream spells, -1 for none; and the length of the prefix.

    Args:
        text: B bytes.
        stream: S bytes.
        unknown: increasing places in `stream` of unknown tokens, which spell nothing.
        may_cut: the text may go on behind the stream, inside a character, too.
    """
    sides = Folded.of(text), Folded.of(stream)
    places = np.full(len(stream), -1, dtype=np.int64)
    # A space in front that the text does not have is an added prefix.
    num_blanks, num_read = (
        int(np.append(sides[0].at, len(text))[0]),
        int(np.append(sides[1].at, len(stream))[0]),
    )
    lead = int(stream[:1] == b" " and num_read == num_blanks + 1)
    folded_unknown = np.searchsorted(sides[1].at, unknown).tolist()
    for part in agreements(sides[0].data, sides[1].data, folded_unknown, may_cut=may_cut):
        at, stream_at = (
            side.at[start : start + part.size]
            for side, start in zip(sides, (part.text, part.stream), strict=True)
        )
        if part.text == part.stream == 0 and not (unknown and unknown[0] <= stream_at[0]):
            at, stream_at = np.append(-1, at), np.append(lead - 1, stream_at)
        if part.text + part.size == len(sides[0].data) and part.stream + part.size == len(sides[1].data):
            at, stream_at = np.append(at, len(text)), np.append(stream_at, len(stream))
        # Between bytes that follow each other on both sides, as many blanks may be the same ones.
        widths = np.diff(stream_at)
        widths[(np.diff(at) != widths)] = 1
        first = np.repeat(stream_at[:-1], widths)
        offset = np.arange(len(first)) - np.repeat(np.cumsum(widths) - widths, widths)
        inner = (first + offset >= 0) & (first + offset < len(stream))
        places[(first + offset)[inner]] = (np.repeat(at[:-1], widths) + offset)[inner]
        if stream_at[-1] < len(stream):
            places[stream_at[-1]] = at[-1]
    places[:lead] = -1
    return _of_whole_characters(text, stream, places, may_cut=may_cut), lead


def _of_whole_characters(
    text: bytes, stream: bytes, places: Int64[np.ndarray, " S"], *, may_cut: bool
) -> Int64[np.ndarray, " S"]:
    """The places whose bytes are equal, without characters of which some are not."""
    bytes_of_text, bytes_of_stream = (np.frombuffer(side, dtype=np.uint8) for side in (text, stream))
    found = np.flatnonzero(places >= 0)
    found = found[bytes_of_text[places[found]] == bytes_of_stream[found]]
    # The first byte of a character is no continuation 10xxxxxx.
    character = np.cumsum((bytes_of_text & 0xC0) != 0x80) - 1
    of_found = character[places[found]]
    sizes = np.bincount(character, minlength=1)
    is_whole = np.bincount(of_found, minlength=len(sizes)) == sizes
    if may_cut and len(found) and found[-1] == len(stream) - 1:
        is_whole[of_found[-1]] = True
    kept = found[is_whole[of_found]]
    whole = np.full_like(places, -1)
    whole[kept] = places[kept]
    return whole


def agreements(
    text: bytes, stream: bytes, unknown: Sequence[int] = (), *, may_cut: bool = False
) -> list[Agreement]:
    """Parts that text and stream share, in order; O(n log n).

    Args:
        text, stream, unknown, may_cut: as `spelled_places` takes them.
    """
    anchors: tuple[list[int], list[int]] | None = None
    found = []
    at = Agreement(0, 0, 0)
    num_passed = 0  # unknown tokens before the agreement
    while True:
        stop = unknown[num_passed] if num_passed < len(unknown) else len(stream)
        size = _num_shared(text, at.text, stream, at.stream, stop)
        end, stream_end = at.text + size, at.stream + size
        if stream_end == len(stream) and (may_cut or end == len(text)):
            break
        if anchors is None:
            anchors = _anchors(text, stream, unknown)
            if not may_cut:  # Both end together.
                anchors[0].append(len(text))
                anchors[1].append(len(stream))
        anchor = max(bisect_left(anchors[0], end), bisect_left(anchors[1], stream_end))
        if anchor == len(anchors[0]):
            break
        text_anchor, stream_anchor = anchors[0][anchor], anchors[1][anchor]
        num_passed = bisect_right(unknown, stream_anchor)
        lowest = max(at.stream, unknown[num_passed - 1] if num_passed else 0)
        back = _num_shared(text[at.text : text_anchor][::-1], 0, stream[lowest:stream_anchor][::-1], 0)
        overlap = max(0, end - (text_anchor - back), stream_end - (stream_anchor - back))
        found.append(at._replace(size=max(0, size - overlap)))
        back -= overlap
        at = Agreement(text_anchor - back, stream_anchor - back, 0)
    found.append(at._replace(size=size))
    return [part for part in found if part.size > 0]


def _anchors(text: bytes, stream: bytes, unknown: Sequence[int]) -> tuple[list[int], list[int]]:
    """Where strings begin that both streams hold once, without an unknown token inside, in the same order."""
    is_whole = np.ones(max(0, len(stream) - ANCHOR + 1), dtype=np.bool_)
    for place in unknown:
        is_whole[max(0, place - ANCHOR + 1) : place] = False
    (strings, places), (stream_strings, stream_places) = _once(text), _once(stream, is_whole)
    _, one, other = np.intersect1d(strings, stream_strings, assume_unique=True, return_indices=True)
    order = np.argsort(stream_places[other])
    in_text, in_stream = places[one][order], stream_places[other][order]
    in_order = in_text == np.maximum.accumulate(in_text)
    in_order &= in_text == np.minimum.accumulate(in_text[::-1])[::-1]
    return in_text[in_order].tolist(), in_stream[in_order].tolist()


def _once(
    data: bytes, is_whole: Bool[np.ndarray, " N"] | None = None
) -> tuple[UInt64[np.ndarray, " K"], Int64[np.ndarray, " K"]]:
    """Strings that occur once, as numbers, and where."""
    if len(data) < ANCHOR:
        return np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(np.frombuffer(data, dtype=np.uint8), ANCHOR)
    strings = np.ascontiguousarray(windows).view(np.uint64)[:, 0]
    places = np.arange(len(strings)) if is_whole is None else np.flatnonzero(is_whole)
    values, first, counts = np.unique(strings[places], return_index=True, return_counts=True)
    return values[counts == 1], places[first[counts == 1]]


def _num_shared(one: bytes, start: int, other: bytes, other_start: int, other_end: int | None = None) -> int:
    """Bytes that both share from there on."""
    limit = min(len(one) - start, (len(other) if other_end is None else other_end) - other_start)
    size, block = 0, 64
    while size < limit:
        block = min(2 * block, limit - size)
        part = one[start + size : start + size + block]
        difference = first_difference(part, other[other_start + size : other_start + size + block])
        if difference is not None:
            return size + difference
        size += block
    return size
