"""Tokens laid over the texts that they were made of, byte by byte.

A text is read as the tokenizer's own steps read it, piece by piece (`spelling`). Where the tokens spell that
reading, every token lies at a known place, and respelled pieces are rejected with the tokens over them. Where
they do not (a step that acts across pieces, an unknown token), `resuming` finds where both agree again.

Legend: R texts, B bytes, L tokens, E edits, K agreements.
"""

from __future__ import annotations

from collections import defaultdict, deque
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tide.alignment.resuming import Agreement, agreements
from tide.alignment.spelling import Place, Segment
from tide.alignment.token_spans import TokenSpans
from tide.alignment.token_stream import gather

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, Int64, UInt8

    from tide.alignment.literals import Literal
    from tide.alignment.spelling import Speller
    from tide.alignment.token_stream import Texts, Tokens

    # Where the text is not what is read or spelled for it, in order: begin and end in the text, begin and end
    # in the reading or the stream, and a kind: the id of a special token, or one of these.
    Edits = Int64[np.ndarray, " 5 E"]
REJECTED, ADDED, CUT = -1, -2, -3  # respelled or dropped; a prefix; text behind the last token

# A copy of a few bytes costs as much by slices of bytes as this many bytes by an index each.
BYTES_PER_COPY = 16


class Reading(NamedTuple):
    """Texts as their tokenizer reads them.

    Attributes:
        data: all readings, one after the other.
        borders: [R + 1] int64, where each begins in `data`.
        edits: [5, E] int64, with offsets in `data`.
        edit_borders: [R + 1] int64, the edits of each.
    """

    data: bytes
    borders: Int64[np.ndarray, " R1"]
    edits: Edits
    edit_borders: Int64[np.ndarray, " R1"]


def place_tokens(
    texts: Texts, tokens: Tokens, speller: Speller, literals: Sequence[Literal], unknown_id: int | None
) -> tuple[TokenSpans, list[int]]:
    """Spans of the tokens of R texts, and the texts that their tokens spell nothing of.

    Args:
        texts: each may go on behind its last token.
        tokens: of all texts.
        speller: of the tokenizer.
        literals: added tokens that stand in the texts.
        unknown_id: the token that stands for what the tokenizer cannot spell, if it has one.
    """
    reading = read_texts(texts, literals, speller)
    shared, foreign = _shared(reading, tokens, speller.respells, unknown_id)
    edits = _edits_of_stream(reading, texts, tokens, shared)
    return _spans(texts, tokens, edits), foreign


def read_texts(texts: Texts, literals: Sequence[Literal], speller: Speller) -> Reading:
    """What the tokenizer reads for each text; nothing for a special token."""
    if not speller.respells and not literals:
        return Reading(texts.data, texts.bytes, np.zeros((5, 0), dtype=np.int64), np.zeros_like(texts.bytes))
    pieces = speller.respelled(texts, _segments(texts, literals) if speller.respells else [], literals)
    nothing = speller.intern("", b"")
    specials = [(at.start, at.end, nothing, at.token_id) for at in literals if at.special]
    kinds = np.where(pieces.starts < pieces.ends, REJECTED, ADDED)
    rows = np.stack([*pieces, kinds], axis=1)
    if specials:
        rows = np.concatenate([rows, specials])
        rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
    starts, ends, ids, kinds = rows.T
    text_starts, text_ends = texts.byte_at(starts), texts.byte_at(ends)
    spellings = speller.arrays()
    lengths = spellings.lengths[ids]
    grown = np.cumsum(lengths - (text_ends - text_starts))
    read_ends = text_ends + grown
    # An edit that begins at a border belongs to the text behind it.
    num_before = np.append(np.searchsorted(starts, texts.chars[:-1]), len(starts))
    return Reading(
        data=_spelled(texts.data, text_starts, text_ends, spellings.flat, spellings.starts[ids], lengths),
        borders=texts.bytes + np.append(0, grown)[num_before],
        edits=np.stack([text_starts, text_ends, read_ends - lengths, read_ends, kinds]),
        edit_borders=num_before,
    )


def _segments(texts: Texts, literals: Sequence[Literal]) -> list[Segment]:
    """What lies between added tokens and the borders of texts."""
    segments, at, place = [], 0, Place.TEXT_START
    borders = [(border, border, Place.TEXT_START) for border in texts.chars.tolist()]
    cuts = [(literal.start, literal.end, Place.BEHIND_ADDED_TOKEN) for literal in literals]
    for start, end, next_place in sorted([*borders, *cuts]):
        if at < start:
            segments.append(Segment(at, start, place))
        at, place = end, next_place
    return segments


def _spelled(
    data: bytes,
    text_starts: Int64[np.ndarray, " E"],
    text_ends: Int64[np.ndarray, " E"],
    flat: UInt8[np.ndarray, " T"],
    starts: Int64[np.ndarray, " E"],
    lengths: Int64[np.ndarray, " E"],
) -> bytes:
    """The text with flat[starts:starts + lengths] in place of each text[text_starts:text_ends]."""
    gaps = np.append(0, text_ends)
    gap_ends = np.append(text_starts, len(data))
    if len(starts) * BYTES_PER_COPY < len(data):
        spelled = flat.tobytes() if len(starts) else b""
        parts = [b""] * (2 * len(starts) + 1)
        parts[::2] = [data[gap:end] for gap, end in zip(gaps.tolist(), gap_ends.tolist(), strict=True)]
        places = zip(starts.tolist(), lengths.tolist(), strict=True)
        parts[1::2] = [spelled[at : at + size] for at, size in places]
        return b"".join(parts)
    origins, sizes = np.empty((2, 2 * len(starts) + 1), dtype=np.int64)
    origins[::2], origins[1::2] = len(flat) + gaps, starts
    sizes[::2], sizes[1::2] = gap_ends - gaps, lengths
    return gather(np.concatenate([flat, np.frombuffer(data, dtype=np.uint8)]), origins, sizes).tobytes()


def _shared(
    reading: Reading, tokens: Tokens, respells: bool, unknown_id: int | None
) -> tuple[Int64[np.ndarray, " 4 K"], list[int]]:
    """What readings and streams share: text, place in both, bytes; and the texts that share nothing.

    The last entry of each text is its end, with the kind of what is left of it in place of bytes.
    """
    is_unknown = tokens.ids == (-1 if unknown_id is None else unknown_id)
    if (reading.edits[4] == unknown_id).any():
        is_unknown[:] = False  # written out
    at_unknown = tokens.starts[is_unknown]
    bounds = (
        reading.borders.tolist(),
        tokens.stream_borders.tolist(),
        np.searchsorted(np.flatnonzero(is_unknown), tokens.borders).tolist(),
    )
    rows: list[tuple[int, ...]] = []
    foreign = []
    of_texts = zip(*map(pairwise, bounds), strict=True)
    for text, ((read, read_end), (at, end), (first, after)) in enumerate(of_texts):
        unknown, num_rows = at_unknown[first:after], len(rows)
        if first == after and reading.data.startswith(tokens.stream[at:end], read, read_end):
            rows.append((text, read, at, end - at))
        elif first < after or respells:
            cuts = _cuts(reading, tokens, text, is_unknown)
            for start, stop in pairwise([(read, at), *cuts, (read_end, end)]):
                inside = unknown[(unknown >= start[1]) & (unknown <= stop[1])] - start[1]
                one, other = reading.data[start[0] : stop[0]], tokens.stream[start[1] : stop[1]]
                for part in agreements(one, other, inside.tolist()):
                    moved = Agreement(start[0] + part.read, start[1] + part.stream, part.size)
                    rows.append((text, *_of_whole_pieces(moved, reading.edits, stop[1])))
                rows.append((text, *stop, 0))
        if first == after and at < end and not any(size for *_, size in rows[num_rows:]):
            foreign.append(text)
        rows.append((text, read_end, end, CUT if first == after else REJECTED))
    return np.array(rows, dtype=np.int64).reshape(-1, 4).T, foreign


def _cuts(
    reading: Reading, tokens: Tokens, text: int, is_unknown: Bool[np.ndarray, " L"]
) -> list[tuple[int, int]]:
    """Where a text's special tokens stand in reading and stream; none unless they are all that there are."""
    edits = reading.edits[:, slice(*reading.edit_borders[text : text + 2])]
    edits = edits[:, edits[4] >= 0]
    here = slice(*tokens.borders[text : text + 2])
    at = np.flatnonzero(tokens.special[here] & ~is_unknown[here])
    if not np.array_equal(tokens.ids[here][at], edits[4]):
        return []
    return list(zip(edits[2].tolist(), tokens.starts[here][at].tolist(), strict=True))


def _of_whole_pieces(part: Agreement, edits: Edits, stream_end: int) -> Agreement:
    """The part without pieces of which some bytes differ; the tokens may end inside one."""
    start, end = part.read, part.read + part.size
    at = int(np.searchsorted(edits[3], start, side="right"))
    if at < edits.shape[1] and edits[2, at] < start:
        start = int(edits[3, at])
    at = int(np.searchsorted(edits[2], end)) - 1
    if at >= 0 and edits[3, at] > end and part.stream + part.size < stream_end:
        end = int(edits[2, at])
    return Agreement(start, part.stream + start - part.read, end - start)


def _edits_of_stream(
    reading: Reading, texts: Texts, tokens: Tokens, shared: Int64[np.ndarray, " 4 K"]
) -> Edits:
    """Edits with offsets in the stream: those of the reading inside what is shared, and all that is not."""
    text_starts, text_ends, starts, ends, _ = edits = reading.edits
    moved = np.append(0, text_ends - ends)  # from the reading to the text, behind each edit
    text, read, stream, sizes = shared
    read_ends, is_end = read + np.maximum(sizes, 0), sizes < 0
    is_first = np.diff(text, prepend=-1) > 0

    behind, before = np.searchsorted(ends, read, side="right"), np.searchsorted(starts, read_ends)
    begins = read + moved[np.where(sizes, behind, before)]
    from_start = is_first & (read == reading.borders[text]) & (stream == tokens.stream_borders[text])
    begins = np.where(from_start, texts.bytes[text], begins)
    before = np.where(sizes, before, behind)  # Without bytes, all that is dropped there is kept apart.
    closes = np.maximum(read_ends + moved[before], np.append(0, text_ends)[before])
    closes = np.where(read_ends == reading.borders[text + 1], texts.bytes[text + 1], closes)
    begins = np.where(is_end, closes, begins)

    last_closes = np.where(is_first, texts.bytes[text], np.append(0, closes[:-1]))
    last_stream = np.where(
        is_first, tokens.stream_borders[text], np.append(0, (stream + np.maximum(sizes, 0))[:-1])
    )
    kinds = np.where(is_end & (last_stream == stream), sizes, REJECTED)
    gaps = np.stack([last_closes, begins, last_stream, stream, kinds])
    gaps = gaps[:, (last_closes < begins) | (last_stream < stream)]

    part = np.searchsorted(begins, text_starts, side="right") - 1
    reach = np.where(stream + sizes == tokens.stream_borders[text + 1], reading.borders[text + 1], read_ends)
    is_inside = (text_ends <= closes[part]) & (starts >= read[part]) & (ends <= reach[part])
    part, edits = part[is_inside], edits[:, is_inside]
    edits[2:4] += stream[part] - read[part]
    edits[3] = np.minimum(edits[3], tokens.stream_borders[text[part] + 1])
    edits = np.concatenate([edits, gaps], axis=1)
    return edits[:, np.lexsort(edits[[3, 2, 1, 0]])] if gaps.size else edits


def _spans(texts: Texts, tokens: Tokens, edits: Edits) -> TokenSpans:
    """Spans from edits with offsets in the stream."""
    data = texts.data
    if not edits.size:
        return tokens.as_text(data)
    text_starts, text_ends, starts, ends, kinds = edits
    # Tokens that hold a prefix begin at its place in the text.
    reached = np.searchsorted(tokens.starts, np.where(kinds == ADDED, starts, ends))
    counts = np.diff(reached, prepend=0, append=len(tokens.ids))
    shift, floor = (np.repeat(np.append(0, of), counts) for of in (text_ends - ends, text_ends))
    token_starts, token_ends = (np.maximum(of + shift, floor) for of in (tokens.starts, tokens.ends))
    has_bytes = tokens.lengths > 0
    rejected = None
    if (kinds == REJECTED).any():
        text_starts, text_ends, starts, ends, _ = edits[:, kinds == REJECTED]
        # Of each token: the first edit that ends behind its beginning, and the first that begins at its end.
        first = np.searchsorted(ends, tokens.starts, side="right")
        after = np.searchsorted(starts, tokens.ends, side="left")
        over = np.flatnonzero((first < after) & has_bytes)
        first, last = first[over], after[over] - 1
        token_starts[over] = np.minimum(token_starts[over], text_starts[first])
        token_ends[over] = text_ends[last] + np.maximum(0, tokens.ends[over] - ends[last])
        has_bytes[over] = False
        rejected = np.cumsum(
            np.bincount(np.append(text_starts, token_starts[over]), minlength=len(data) + 1)
            - np.bincount(np.append(text_ends, token_ends[over]), minlength=len(data) + 1)
        )[:-1] > 0  # fmt: skip
    # A token without bytes lies where the last one ended, or spans the literal text that it stands for.
    is_empty = tokens.lengths == 0
    token_ends[is_empty] = 0
    found, literals = _special_tokens(texts, tokens, edits)
    token_starts[found], token_ends[found] = literals
    is_empty[found] = False
    token_ends = np.maximum.accumulate(token_ends)
    token_starts[is_empty] = token_ends[is_empty]
    token_starts = np.maximum.accumulate(token_starts)
    has_bytes &= token_starts < token_ends
    return TokenSpans(data, token_starts, token_ends, has_bytes, tokens.special, rejected)


def _special_tokens(
    texts: Texts, tokens: Tokens, edits: Edits
) -> tuple[Int64[np.ndarray, " S"], Int64[np.ndarray, " 2 S"]]:
    """Special tokens that stand in the texts, and where: the first of their id where the stream is as far."""
    edits = edits[:, edits[4] >= 0]
    text = np.searchsorted(texts.bytes, edits[0], side="right") - 1
    literals = np.stack([text, edits[2], edits[4]])
    at = np.flatnonzero(tokens.special)
    text = np.searchsorted(tokens.borders, at, side="right") - 1
    specials = np.stack([text, tokens.starts[at], tokens.ids[at]])
    if np.array_equal(literals, specials):
        return at, edits[:2]
    waiting: defaultdict[tuple[int, ...], deque[int]] = defaultdict(deque)
    for key, token in zip(specials.T.tolist(), at.tolist(), strict=True):
        waiting[tuple(key)].append(token)
    candidates = [waiting[tuple(key)] for key in literals.T.tolist()]
    found = [queue.popleft() if queue else -1 for queue in candidates]
    is_found = np.array(found, dtype=np.int64) >= 0
    return np.array(found, dtype=np.int64)[is_found], edits[:2, is_found]
