"""Chunks: the shortest byte spans that are whole tokens on both sides of a pair of tokenizers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tide.alignment.byte_table import check_ids

if TYPE_CHECKING:
    from jaxtyping import Bool, Int32, Int64
    from numpy.typing import ArrayLike

    from tide.alignment.byte_table import ByteTable

# Bytes of each stream that an error shows on either side of the first difference.
ERROR_CONTEXT = 20


@dataclass(frozen=True, eq=False)
class ChunkAlignment:
    """The chunk of every token on both sides.

    Chunk ids run 0, 1, ..., num_chunks - 1 from left to right; each occurs on both sides.

    Attributes:
        student_chunks: [L_s] int32, -1 for tokens in no chunk.
        teacher_chunks: [L_t] int32, -1 for tokens in no chunk.
        num_chunks: number of chunks.
    """

    student_chunks: Int32[np.ndarray, " L_s"]
    teacher_chunks: Int32[np.ndarray, " L_t"]
    num_chunks: int


@dataclass(frozen=True, eq=False)
class _Side:
    """One token sequence laid over its byte stream; offsets are in bytes."""

    stream: bytes
    starts: Int64[np.ndarray, " L"]
    ends: Int64[np.ndarray, " L"]
    has_bytes: Bool[np.ndarray, " L"]
    barriers: Int64[np.ndarray, " S"]  # offsets at which special tokens stand

    @classmethod
    def of(cls, ids: Int64[np.ndarray, " L"], table: ByteTable) -> _Side:
        lengths = table.lengths[ids]
        ends = np.cumsum(lengths, dtype=np.int64)
        stream = b"".join([table.tokens[token_id] for token_id in ids.tolist()])
        return cls(stream, ends - lengths, ends, lengths > 0, ends[table.special[ids]])


def align_chunks(
    student_ids: ArrayLike, teacher_ids: ArrayLike, student_table: ByteTable, teacher_table: ByteTable
) -> ChunkAlignment:
    """Assign the tokens of two tokenizations of one text to the chunks they share.

    A chunk runs from one byte offset at which both sides have a token boundary to the next. Special tokens
    shift no bytes and belong to no chunk; a span with a special token of either side in its interior is no
    chunk. Where one text is cut short (truncation), the span that the cut splits and all that follows it are
    in no chunk, on both sides.

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
    Returns:
        Chunk ids [L_s] and [L_t], int32, and their number. O(L log L) in the number of tokens.
    Raises:
        ValueError: ids are not one row of ids of their table, or the texts differ before the shorter ends.
    Source: TIDE (arXiv 2604.26951), Reverse CALM; approximate likelihood matching (arXiv 2503.20083).
    """
    student_rows = check_ids(student_ids, len(student_table), "align_chunks", "student_ids")
    teacher_rows = check_ids(teacher_ids, len(teacher_table), "align_chunks", "teacher_ids")
    student, teacher = _Side.of(student_rows, student_table), _Side.of(teacher_rows, teacher_table)
    _check_same_text(student, teacher)

    # Tokens with bytes end at strictly increasing offsets, so each side has no offset twice.
    student_cuts, teacher_cuts = student.ends[student.has_bytes], teacher.ends[teacher.has_bytes]
    cuts = np.intersect1d(student_cuts, teacher_cuts, assume_unique=True)
    edges = np.concatenate([np.zeros(1, dtype=np.int64), cuts])
    chunk_of_span = _number_spans(edges, np.concatenate([student.barriers, teacher.barriers]))
    return ChunkAlignment(
        student_chunks=_chunks_of_tokens(student, edges, chunk_of_span),
        teacher_chunks=_chunks_of_tokens(teacher, edges, chunk_of_span),
        num_chunks=int((chunk_of_span >= 0).sum()),
    )


def _number_spans(
    edges: Int64[np.ndarray, " E"], barriers: Int64[np.ndarray, " S"]
) -> Int32[np.ndarray, " E"]:
    """Chunk id of the span that begins at each edge; -1 for the last, which no common boundary closes."""
    span = np.searchsorted(edges, barriers, side="right") - 1
    is_chunk = np.ones(len(edges), dtype=np.bool_)
    # A special token at an edge stands between two spans; at any other offset it stands inside one.
    is_chunk[span[edges[span] != barriers]] = False
    is_chunk[-1] = False
    return np.where(is_chunk, np.cumsum(is_chunk) - 1, -1).astype(np.int32)


def _chunks_of_tokens(
    side: _Side, edges: Int64[np.ndarray, " E"], chunk_of_span: Int32[np.ndarray, " E"]
) -> Int32[np.ndarray, " L"]:
    span = np.searchsorted(edges, side.starts, side="right") - 1
    # Special and empty tokens share their start with the token that follows; they are in no chunk themselves.
    return np.where(side.has_bytes, chunk_of_span[span], np.int32(-1))


def _check_same_text(student: _Side, teacher: _Side) -> None:
    num_shared = min(len(student.stream), len(teacher.stream))
    if student.stream[:num_shared] == teacher.stream[:num_shared]:
        return
    shared = [np.frombuffer(side.stream, dtype=np.uint8, count=num_shared) for side in (student, teacher)]
    at = int(np.argmax(shared[0] != shared[1]))
    context = slice(max(0, at - ERROR_CONTEXT), at + ERROR_CONTEXT)
    raise ValueError(
        f"align_chunks: both sides must hold the same text; the bytes first differ at offset {at}: "
        f"student {student.stream[context]!r} (token {_token_at(student, at)}), "
        f"teacher {teacher.stream[context]!r} (token {_token_at(teacher, at)}). "
        "Align only the text that both sides share, without the words of their chat templates, and tokenize "
        "it from one string."
    )


def _token_at(side: _Side, offset: int) -> int:
    """Position of the token that holds the byte: the first that ends after it."""
    return int(np.searchsorted(side.ends, offset, side="right"))
