"""Find which bytes that tokens spell are bytes of their text, where a tokenizer respells some of it.

Both are compared by what normalizers keep of them: without blanks, controls and marks, case, width and
composition. Most often they are equal then, from end to end. Behind a difference that is left (an unknown
token, a rule of the tokenizer's own) they are the same again at a string of 8 bytes that each holds once. Of
the bytes before it and behind the last agreement, those that could belong to either are left out.

Legend: B bytes of text, S bytes of stream, N bytes of either that are compared.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left, bisect_right
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tide.spelling.token_spans import runs
from tide.spelling.token_stream import first_difference, gather

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, Int64, UInt64

ANCHOR = 8  # bytes


class Agreement(NamedTuple):
    """Bytes that text and stream share: where they begin in both, and their number."""

    text: int
    stream: int
    size: int


class Gap(NamedTuple):
    """Text whose tokens do not spell it as it stands: half-open ranges of bytes of text and stream.

    Attributes:
        unknown: increasing places in the stream of unknown tokens, which spell nothing.
        may_cut: the stream may end before the text does, also inside a character.
    """

    text: tuple[int, int]
    stream: tuple[int, int]
    unknown: Sequence[int]
    may_cut: bool


class Counterparts(NamedTuple):
    """The characters of the text that bytes of the stream stand for, as both are compared.

    Each is -1 for bytes without one, and -2 for blanks and the like, which are not compared.

    Attributes:
        starts: [S] int64, the first such character; of a character with several, its first.
        opens: [S] int64, where what is not compared begins before it.
        ends: [S] int64, the end of the last.
    """

    starts: Int64[np.ndarray, " S"]
    opens: Int64[np.ndarray, " S"]
    ends: Int64[np.ndarray, " S"]


class _Folded(NamedTuple):
    """Parts of a text or stream, folded to what normalizers leave unchanged.

    Attributes:
        data: N bytes.
        at: [N] int64, where in the whole the character of each begins.
        sizes: [N] int64, bytes of that character.
    """

    data: bytes
    at: Int64[np.ndarray, " N"]
    sizes: Int64[np.ndarray, " N"]

    @classmethod
    def of(cls, data: bytes, parts: Sequence[tuple[int, int]]) -> _Folded:
        """Fold parts of UTF-8, in order; a byte that is none stands for itself."""
        ranges = np.array(parts, dtype=np.int64).reshape(-1, 2)
        whole, _ = runs(ranges[:, 0], ranges[:, 1])
        text = b"".join(data[start:end] for start, end in parts).decode("utf-8", "surrogateescape")
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
        numbers = np.zeros(int(points.max(initial=0)) + 1, dtype=np.int32)
        numbers[points] = 1
        distinct = np.flatnonzero(numbers)
        numbers[distinct] = np.arange(len(distinct))
        number = numbers[points]
        folded = [_fold(chr(point)) for point in distinct.tolist()]
        lengths = np.array([len(piece) for piece in folded], dtype=np.int64)
        flat = np.frombuffer(b"".join(folded), dtype=np.uint8)
        widths = 1 + (distinct >= 0x80) + (distinct >= 0x800) + (distinct >= 0x10000)
        widths[(distinct >= 0xDC80) & (distinct < 0xDD00)] = 1
        counts, widths = lengths[number], widths[number]
        starts = whole[np.cumsum(widths) - widths]
        kept = gather(flat, (np.cumsum(lengths) - lengths)[number], counts)
        return cls(kept.tobytes(), np.repeat(starts, counts), np.repeat(widths, counts))


@lru_cache(maxsize=1 << 16)
def _fold(character: str) -> bytes:
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", character).casefold())
    kept = (c for c in plain if unicodedata.category(c)[0] not in "MZ")
    return "".join(c for c in kept if unicodedata.category(c) not in ("Cc", "Cf")).encode(
        errors="surrogatepass"
    )


def is_blank(data: bytes) -> bool:
    """Return True for UTF-8 of whitespace, controls and marks alone, which are not compared."""
    return not any(map(_fold, data.decode(errors="replace")))


def spelled_places(
    text: bytes, stream: bytes, gaps: Sequence[Gap]
) -> tuple[Int64[np.ndarray, " S"], list[int], list[bool], Counterparts]:
    """The byte of the text that each byte of the stream spells, or -1.

    Returns:
        [S] int64; the end of each gap's prefix; whether anything of each gap agrees; the characters that all
        bytes stand for, those that are respelled among them.
    """
    sides = ((text, [gap.text for gap in gaps]), (stream, [gap.stream for gap in gaps]))
    whole, of_stream = (_Folded.of(*side) for side in sides)
    (folded, at, _), (folded_stream, stream_at, sizes) = whole, of_stream
    bounds = (
        np.searchsorted(of, ranges).reshape(-1, 2).tolist()
        for of, (_, ranges) in zip((at, stream_at), sides, strict=True)
    )
    parts: list[tuple[int, int, int]] = []  # first bytes that agree, as they are compared, and their number
    copies: list[tuple[int, int, int]] = []  # first bytes of blanks at edges, and their number
    prefix_ends: list[int] = []
    agrees: list[bool] = []
    for gap, (first, after), (stream_first, stream_after) in zip(gaps, *bounds, strict=True):
        # A space in front that the text does not have is an added prefix.
        num_blanks = (int(at[first]) if first < after else gap.text[1]) - gap.text[0]
        read = int(stream_at[stream_first]) if stream_first < stream_after else gap.stream[1]
        lead = read - gap.stream[0] == num_blanks + 1 and stream[gap.stream[0]] == ord(" ")
        prefix_ends.append(gap.stream[0] + lead)
        one, other = folded[first:after], folded_stream[stream_first:stream_after]
        unknown = (np.searchsorted(stream_at, gap.unknown) - stream_first).tolist() if gap.unknown else []
        found = agreements(one, other, unknown, may_cut=gap.may_cut)
        parts += [(first + part.text, stream_first + part.stream, part.size) for part in found]
        agrees.append(bool(found) or not (one or other))
        if not found:
            continue
        # Where both begin or end, so do the blanks there.
        if (
            found[0].text == found[0].stream == 0
            and 0 not in unknown
            and read - prefix_ends[-1] == num_blanks
        ):
            copies.append((prefix_ends[-1], gap.text[0], num_blanks))
        if (found[-1].text + found[-1].size, found[-1].stream + found[-1].size) == (len(one), len(other)):
            last, stream_last = int(at[after - 1]), int(stream_at[stream_after - 1])
            if gap.text[1] - last == gap.stream[1] - stream_last:
                copies.append((stream_last, last, gap.text[1] - last))
    places = np.full(len(stream), -1, dtype=np.int64)
    first, stream_first, counts = np.array(parts, dtype=np.int64).reshape(-1, 3).T
    pairs, of_part = runs(first, first + counts)
    stream_pairs = pairs + (stream_first - first)[of_part]
    counterparts = _counterparts(whole, of_stream, pairs, stream_pairs, len(stream))
    # As many bytes between two that follow each other may be the same ones.
    widths = np.diff(stream_at[stream_pairs], append=0)
    is_other = (widths != np.diff(at[pairs], append=0)) | (np.diff(of_part, append=-1) != 0)
    widths = np.where(is_other, sizes[stream_pairs], widths)
    ranges = np.stack([stream_at[stream_pairs], at[pairs], widths], axis=1)
    starts, text_starts, widths = np.concatenate([ranges, np.array(copies, dtype=np.int64).reshape(-1, 3)]).T
    where, of_range = runs(starts, starts + widths)
    places[where] = where + (text_starts - starts)[of_range]
    cuts = [gap.stream[1] - 1 for gap in gaps if gap.may_cut and gap.stream[0] < gap.stream[1]]
    return _of_whole_characters(text, stream, places, cuts), prefix_ends, agrees, counterparts


def _counterparts(
    text: _Folded,
    stream: _Folded,
    pairs: Int64[np.ndarray, " K"],
    stream_pairs: Int64[np.ndarray, " K"],
    num_bytes: int,
) -> Counterparts:
    """From the bytes that agree as they are compared, of text and stream."""
    first = np.full(num_bytes + 1, -2, dtype=np.int64)  # The last entry stands for no byte.
    first[runs(stream.at, stream.at + stream.sizes)[0]] = -1
    last = first.copy()
    begins = stream.at[stream_pairs]
    where, of_pair = runs(begins, begins + stream.sizes[stream_pairs])
    numbers = pairs[of_pair]
    last[where], first[where[::-1]] = numbers, numbers[::-1]
    ends = text.at + text.sizes
    opens = np.minimum(np.append(0, ends[:-1]), text.at) if len(ends) else ends
    columns = ((first, text.at), (first, opens), (last, ends))
    return Counterparts(*(np.append(of, [-2, -1])[index] for index, of in columns))


def _of_whole_characters(
    text: bytes, stream: bytes, places: Int64[np.ndarray, " S"], cuts: Sequence[int]
) -> Int64[np.ndarray, " S"]:
    """The places whose bytes are equal, without characters of which some are not, but for those at cuts."""
    bytes_of_text, bytes_of_stream = (np.frombuffer(side, dtype=np.uint8) for side in (text, stream))
    found = np.flatnonzero((places >= 0) & (places < len(text)))
    found = found[bytes_of_text[places[found]] == bytes_of_stream[found]]
    whole = np.full_like(places, -1)
    if not len(found):
        return whole
    # The first byte of a character is no continuation 10xxxxxx.
    character = np.cumsum((bytes_of_text & 0xC0) != 0x80) - 1
    of_found = character[places[found]]
    sizes = np.bincount(character)
    is_whole = np.bincount(of_found, minlength=len(sizes)) == sizes
    is_whole[of_found[np.isin(found, cuts)]] = True
    kept = found[is_whole[of_found]]
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
    num_passed = next_anchor = 0  # unknown tokens before the agreement; anchors tried
    while True:
        stop = unknown[num_passed] if num_passed < len(unknown) else len(stream)
        size = _num_shared(text, at.text, stream, at.stream, stop)
        end, stream_end = at.text + size, at.stream + size
        if stream_end == len(stream) and (may_cut or end == len(text)):
            break
        # A rule may have shortened a run of one byte anywhere in it.
        following = text[end : end + 1] + stream[stream_end : stream_end + 1]
        if size and text[end - 1] in following:
            shared = text[at.text : end]
            num_same = size - len(shared.rstrip(shared[-1:]))
            size, end, stream_end = size - num_same, end - num_same, stream_end - num_same
        if anchors is None:
            anchors = _anchors(text, stream, unknown)
            if not may_cut:  # Both end together.
                anchors[0].append(len(text))
                anchors[1].append(len(stream))
        anchor = max(bisect_left(anchors[0], end), bisect_left(anchors[1], stream_end), next_anchor)
        if anchor == len(anchors[0]):
            break
        text_anchor, stream_anchor, next_anchor = anchors[0][anchor], anchors[1][anchor], anchor + 1
        num_passed = bisect_right(unknown, stream_anchor)
        lowest = max(at.stream, unknown[num_passed - 1] if num_passed else 0)
        back = _num_shared(text[at.text : text_anchor][::-1], 0, stream[lowest:stream_anchor][::-1], 0)
        overlap = max(0, end - (text_anchor - back), stream_end - (stream_anchor - back))
        found.append(at._replace(size=max(0, size - overlap)))
        begin, stream_begin = text_anchor - back + overlap, stream_anchor - back + overlap
        preceding = text[max(0, begin - 1) : begin] + stream[max(0, stream_begin - 1) : stream_begin]
        if text[begin : begin + 1] and text[begin] in preceding:
            shared = text[begin : text_anchor + ANCHOR]
            num_same = len(shared) - len(shared.lstrip(shared[:1]))
            begin, stream_begin = begin + num_same, stream_begin + num_same
        at = Agreement(begin, stream_begin, 0)
    found.append(at._replace(size=size))
    return [part for part in found if part.size > 0]


def _anchors(text: bytes, stream: bytes, unknown: Sequence[int]) -> tuple[list[int], list[int]]:
    """Starts of strings that occur once in text and stream, in one order, with no unknown token inside."""
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
