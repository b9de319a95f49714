"""Chunks: the shortest byte spans that are whole tokens on both sides of a pair of tokenizers.

Legend: L_s, L_t tokens; B bytes of text; C chunks; K edges, places at which both sides have a token boundary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tide.alignment.chunk_alignment import ChunkAlignment
from tide.alignment.merging import check_merging, merge_chunks
from tide.spelling.byte_table import check_ids
from tide.spelling.token_stream import ERROR_CONTEXT, first_difference

if TYPE_CHECKING:
    from jaxtyping import Bool, Int32, Int64
    from numpy.typing import ArrayLike

    from tide.alignment.merging import Merge
    from tide.spelling.byte_table import ByteTable
    from tide.spelling.token_spans import TokenSpans
    from tide.spelling.token_stream import Tokens


@dataclass(frozen=True, eq=False)
class _Side:
    """One side's tokens in the text.

    Attributes:
        boundaries: [K] int64, where one token ends, or begins behind text that none covers.
        holes: [H] int64, where text begins that no token covers.
        barriers: [S] int64, where special tokens stand.
    """

    boundaries: Int64[np.ndarray, " K"]
    holes: Int64[np.ndarray, " H"]
    barriers: Int64[np.ndarray, " S"]


def align_spans(
    student: TokenSpans,
    teacher: TokenSpans,
    *,
    borders: ArrayLike | None = None,
    merge: Merge = "none",
    max_bytes: int | None = None,
    max_tokens: int | None = None,
) -> ChunkAlignment:
    """Assign the tokens of two tokenizations of one text to the chunks they share.

    A chunk runs from one place at which both sides have a token boundary to the next. A span with text that
    a tokenizer respells or drops, or with a special token in its interior, is no chunk. Where one side ends
    early (truncation), the span that the cut splits and all that follows it are in no chunk, on both sides.

    Args:
        student: spans [L_s].
        teacher: spans [L_t] in the same text.
        borders: [A + 1] integers, where pieces of the text begin and end, in bytes: from 0 to its length, in
            order. Each piece is aligned as if it stood alone. None for a text in one piece.
        merge: "none" for the shortest chunks; "words" joins those that lie in one word, that is whitespace
            and what follows it up to the next; "length" joins as many as the limits allow. Chunks are never
            joined across a special token or across text that is in no chunk.
        max_bytes: limit on the bytes of a merged chunk. A chunk that is longer by itself stays whole.
        max_tokens: limit on its tokens, on the side that has more.
    Returns:
        Chunk ids [L_s] and [L_t], int32, their number, the bytes that they span, and what is rejected.
        O(L + B).
    Raises:
        ValueError: the two texts differ, borders are not as above, or the options for merging contradict
            each other.
    Source: TIDE (arXiv 2604.26951), Reverse CALM; approximate likelihood matching (arXiv 2503.20083).
    """
    if student.text != teacher.text:
        raise ValueError(
            f"align_spans: both sides must hold the same text; got {_shown(student.text)} and "
            f"{_shown(teacher.text)}. Cut both with `TokenSpans.gathered` to the content that they share."
        )
    check_merging("align_spans", merge, max_bytes, max_tokens)
    pieces = _checked_borders(borders, len(student.text))
    sides = _side(student, pieces), _side(teacher, pieces)
    is_edge = _marked(sides[0].boundaries, len(student.text)) & _marked(
        sides[1].boundaries, len(student.text)
    )
    is_edge[pieces] = True
    is_edge[0] = False  # the first span begins there, whatever the tokens do
    edges = np.append(0, np.flatnonzero(is_edge))
    span_of = np.cumsum(is_edge, dtype=np.int32)  # the span that each place is in, or begins

    # The span that begins at the last edge is none. A special token inside a span makes it no chunk.
    is_chunk = np.ones(len(edges), dtype=np.bool_)
    is_chunk[-1] = False
    barriers = np.concatenate([sides[0].barriers, sides[1].barriers, pieces])
    is_chunk[span_of[barriers[edges[span_of[barriers]] != barriers]]] = False
    for side in sides:
        is_chunk[span_of[side.holes]] = False
    chunk_of_span = np.where(is_chunk, np.cumsum(is_chunk) - 1, -1).astype(np.int32)
    spans = np.flatnonzero(is_chunk)
    alignment = ChunkAlignment(
        student_chunks=_chunks_of_tokens(student, span_of, chunk_of_span),
        teacher_chunks=_chunks_of_tokens(teacher, span_of, chunk_of_span),
        num_chunks=len(spans),
        starts=edges[spans],
        ends=edges[spans + 1],
        rejected=edges[_rejected_spans((student, teacher), span_of, len(edges))],
    )
    if merge == "none" or not len(spans):
        return alignment
    # Chunks that may be joined follow one another, with no special token between them.
    is_barred = np.zeros(len(edges), dtype=np.bool_)
    is_barred[span_of[barriers]] = True
    may_join = (np.diff(spans) == 1) & ~is_barred[spans[1:]]
    groups = merge_chunks(alignment, student.text, may_join, merge, max_bytes, max_tokens)
    return _merged(alignment, groups)


def align_chunks(
    student_ids: ArrayLike,
    teacher_ids: ArrayLike,
    student_table: ByteTable,
    teacher_table: ByteTable,
    *,
    text: str | None = None,
    merge: Merge = "none",
    max_bytes: int | None = None,
    max_tokens: int | None = None,
) -> ChunkAlignment:
    """Assign the tokens of two tokenizations of one text to the chunks they share.

    Without `text`, both sides' tokens must spell the same bytes, and `starts` and `ends` count those. A
    tokenizer that normalises, adds a prefix or drops whitespace spells other bytes than the text has: pass
    the text. `align_spans` defines chunks and how they are merged.

    >>> from tide.alignment import ByteTable
    >>> student, teacher = ByteTable([b"un", b"happy", b"!"]), ByteTable([b"unh", b"appy", b"!"])
    >>> alignment = align_chunks([0, 1, 2, 2], [0, 1, 2], student, teacher)
    >>> alignment.student_chunks.tolist(), alignment.teacher_chunks.tolist(), alignment.num_chunks
    ([0, 0, 1, -1], [0, 0, 1], 2)

    Args:
        student_ids: [L_s] integers, no padding.
        teacher_ids: [L_t] integers, no padding.
        student_table: bytes of the student's tokens.
        teacher_table: bytes of the teacher's tokens.
        text: the text that both were made of, in one piece.
        merge, max_bytes, max_tokens: see `align_spans`.
    Returns:
        Chunk ids [L_s] and [L_t], int32, their number and the bytes that they span. O(L) in tokens and bytes.
    Raises:
        ValueError: ids are not one row of ids of their table, or the texts differ before the shorter ends;
            with `text`, what `ByteTable.spans` raises.
    """
    student_rows = check_ids(student_ids, len(student_table), "align_chunks", "student_ids")
    teacher_rows = check_ids(teacher_ids, len(teacher_table), "align_chunks", "teacher_ids")
    if text is None:
        spans = _spans_of_streams(student_table.stream(student_rows), teacher_table.stream(teacher_rows))
    else:
        spans = student_table.spans(text, student_rows), teacher_table.spans(text, teacher_rows)
    return align_spans(*spans, merge=merge, max_bytes=max_bytes, max_tokens=max_tokens)


def _checked_borders(borders: ArrayLike | None, num_bytes: int) -> Int64[np.ndarray, " A1"]:
    if borders is None:
        return np.array([0, num_bytes], dtype=np.int64)
    array = np.asarray(borders)
    is_row = array.ndim == 1 and len(array) >= 2 and array.dtype.kind in "iu"
    if not is_row or array[0] != 0 or array[-1] != num_bytes or (np.diff(array) < 0).any():
        raise ValueError(
            f"align_spans: borders must be integers that rise from 0 to {num_bytes}, the bytes of the text; "
            f"got {array.tolist()}. Give where each piece begins, and where the last one ends."
        )
    return array.astype(np.int64)


def _side(spans: TokenSpans, borders: Int64[np.ndarray, " A1"]) -> _Side:
    counted = spans.has_bytes
    starts, ends = (
        (spans.starts, spans.ends) if counted.all() else (spans.starts[counted], spans.ends[counted])
    )
    # What is covered before each token, and before the end of each piece.
    before = np.append(borders[:1], ends[:-1])[: len(starts)]
    covered = np.append(borders[:1], ends)[np.searchsorted(starts, borders[1:], side="left")]
    if len(borders) > 2:
        before = np.maximum(before, borders[np.searchsorted(borders, starts, side="right") - 1])
        covered = np.maximum(covered, borders[:-1])
    behind_hole = np.flatnonzero(starts > before)
    return _Side(
        boundaries=np.append(ends, starts[behind_hole]),
        holes=np.append(before[behind_hole], covered[covered < borders[1:]]),
        barriers=spans.starts[spans.special],
    )


def _marked(places: Int64[np.ndarray, " K"], num_bytes: int) -> Bool[np.ndarray, " B1"]:
    marked = np.zeros(num_bytes + 1, dtype=np.bool_)
    marked[places] = True
    return marked


def _chunks_of_tokens(
    spans: TokenSpans, span_of: Int32[np.ndarray, " B1"], chunk_of_span: Int32[np.ndarray, " K"]
) -> Int32[np.ndarray, " L"]:
    chunks: Int32[np.ndarray, " L"] = chunk_of_span[span_of[spans.starts]]
    chunks[~spans.has_bytes] = -1
    return chunks


def _rejected_spans(
    sides: tuple[TokenSpans, TokenSpans], span_of: Int32[np.ndarray, " B1"], num_spans: int
) -> Int64[np.ndarray, " J"]:
    is_rejected = np.zeros(num_spans, dtype=np.bool_)
    for side in sides:
        if side.rejected is not None:
            is_rejected[span_of[:-1][side.rejected]] = True
    return np.flatnonzero(is_rejected)


def _merged(alignment: ChunkAlignment, groups: Int32[np.ndarray, " C"]) -> ChunkAlignment:
    """The alignment whose chunks are runs of this one's; `groups` [C] holds the run of each."""
    is_first = np.diff(groups, prepend=-1) > 0
    is_last = np.append(is_first[1:], True)
    new_ids = np.append(groups, np.int32(-1))  # The last entry stands for id -1.
    return ChunkAlignment(
        student_chunks=new_ids[alignment.student_chunks],
        teacher_chunks=new_ids[alignment.teacher_chunks],
        num_chunks=int(is_first.sum()),
        starts=alignment.starts[is_first],
        ends=alignment.ends[is_last],
        rejected=alignment.rejected,
    )


def _spans_of_streams(student: Tokens, teacher: Tokens) -> tuple[TokenSpans, TokenSpans]:
    """Spans in the bytes that both sides' tokens spell; the longer stream is the text."""
    text = max(student.stream, teacher.stream, key=len)
    if not (text.startswith(student.stream) and text.startswith(teacher.stream)):
        raise ValueError(_difference_message(student, teacher))
    return student.as_text(text), teacher.as_text(text)


def _difference_message(student: Tokens, teacher: Tokens) -> str:
    num_shared = min(len(student.stream), len(teacher.stream))
    at = first_difference(student.stream[:num_shared], teacher.stream)
    assert at is not None
    context = slice(max(0, at - ERROR_CONTEXT), at + ERROR_CONTEXT)
    return (
        f"align_chunks: both sides must hold the same text; the bytes first differ at offset {at}: "
        f"student {student.stream[context]!r} (token {student.token_at(at)}), "
        f"teacher {teacher.stream[context]!r} (token {teacher.token_at(at)}). "
        "Align only the text that both sides share, without the words of their chat templates, and tokenize "
        "it from one string. If a tokenizer normalises text, pass the text itself: text=."
    )


def _shown(text: bytes) -> str:
    return (
        repr(text)
        if len(text) <= 2 * ERROR_CONTEXT
        else f"{text[: 2 * ERROR_CONTEXT]!r}... ({len(text)} bytes)"
    )
