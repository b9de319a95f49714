"""Where two streams of bytes agree again behind a difference that no respelled piece explains.

They resume at a string of 8 bytes that each stream holds once: tokens spell text in order, so it is one
place. Of the bytes before it and behind the last agreement, those that could belong to either are left out.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tide.alignment.token_stream import first_difference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, Int64, UInt64

ANCHOR = 8  # bytes
# Bytes of either stream that may differ where no unknown token stands.
MAX_DIFFERENCE = 256


class Agreement(NamedTuple):
    """Bytes that a text's reading and its tokens share: where they begin in both, and their number."""

    read: int
    stream: int
    size: int


def agreements(read: bytes, stream: bytes, unknown: Sequence[int]) -> list[Agreement]:
    """Parts of whole characters that both streams share, in order; O(n log n).

    Args:
        read: what the tokenizer reads.
        stream: what the tokens spell; may end early.
        unknown: increasing places in `stream` of unknown tokens, which spell nothing.
    """
    anchors = _anchors(read, stream, unknown)
    found = []
    at = Agreement(0, 0, 0)
    num_passed = 0  # unknown tokens before the agreement
    while True:
        stop = unknown[num_passed] if num_passed < len(unknown) else len(stream)
        size = _num_shared(read, at.read, stream, at.stream, stop)
        end, stream_end = at.read + size, at.stream + size
        anchor = max(bisect_left(anchors[0], end), bisect_left(anchors[1], stream_end))
        if stream_end == len(stream) or anchor == len(anchors[0]):
            break
        read_anchor, stream_anchor = anchors[0][anchor], anchors[1][anchor]
        now_passed = bisect_right(unknown, stream_anchor)
        is_near = max(read_anchor - end, stream_anchor - stream_end) <= MAX_DIFFERENCE
        if now_passed == num_passed and not is_near:
            break
        lowest = max(at.stream, unknown[now_passed - 1] if now_passed else 0)
        back = _num_shared(read[at.read : read_anchor][::-1], 0, stream[lowest:stream_anchor][::-1], 0)
        overlap = max(0, end - (read_anchor - back), stream_end - (stream_anchor - back))
        found.append(at._replace(size=max(0, size - overlap)))
        back -= overlap
        at, num_passed = Agreement(read_anchor - back, stream_anchor - back, 0), now_passed
    found.append(at._replace(size=size))
    parts = (_of_characters(read, part, len(stream)) for part in found)
    return [part for part in parts if part.size > 0]


def _anchors(read: bytes, stream: bytes, unknown: Sequence[int]) -> tuple[list[int], list[int]]:
    """Where strings begin that both streams hold once, without an unknown token inside, in the same order."""
    is_whole = np.ones(max(0, len(stream) - ANCHOR + 1), dtype=np.bool_)
    for place in unknown:
        is_whole[max(0, place - ANCHOR + 1) : place] = False
    (strings, places), (stream_strings, stream_places) = _once(read), _once(stream, is_whole)
    _, one, other = np.intersect1d(strings, stream_strings, assume_unique=True, return_indices=True)
    order = np.argsort(stream_places[other])
    in_read, in_stream = places[one][order], stream_places[other][order]
    in_order = in_read == np.maximum.accumulate(in_read)
    in_order &= in_read == np.minimum.accumulate(in_read[::-1])[::-1]
    return in_read[in_order].tolist(), in_stream[in_order].tolist()


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


def _of_characters(read: bytes, part: Agreement, stream_end: int) -> Agreement:
    """The part without characters of which some bytes differ; the tokens may end inside one."""
    start, end = part.read, part.read + part.size
    while start < end and read[start] & 0xC0 == 0x80:
        start += 1
    while part.stream + part.size < stream_end and start < end < len(read) and read[end] & 0xC0 == 0x80:
        end -= 1
    return Agreement(start, part.stream + start - part.read, end - start)
