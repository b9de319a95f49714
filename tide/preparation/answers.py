"""The answers of rows as both models read them, aligned: many rows in one pass. Composes data and alignment.

Legend: R rows, A answers in them, L tokens of one side in all of them, K of these in answers.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tide.alignment import ChunkAlignment, Stretches, align_spans, check_merging
from tide.data import Rejected, shared_contents
from tide.spelling import byte_places

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Literal

    from jaxtyping import Int64

    from tide.alignment import ByteTable, TokenSpans
    from tide.data import Rendered, Span
    from tide.preparation.sides import Side

NO_CHUNK = -1
NOT_ALIGNED = "not aligned"
# Rows are aligned together up to so many of the student's tokens: the pass costs what some thousands do.
TOKENS_AT_ONCE = 1 << 16


class AlignedAnswers(NamedTuple):
    """The answers of a row on both sides.

    Attributes:
        text: their bytes, joined; of each what both sides show and learn.
        number: how many there are.
        alignment: chunks of all tokens of the row, NO_CHUNK (-1) outside answers; where they lie in `text`.
        num_tokens: the student's tokens that hold a byte of an answer, and the teacher's.
    """

    text: bytes
    number: int
    alignment: ChunkAlignment
    num_tokens: tuple[int, int]


class _Answer(NamedTuple):
    """An answer in a text that is tokenized in one piece, in characters, and where its turn begins."""

    start: int
    end: int
    turn: int


class _TokenizedAnswers(NamedTuple):
    """The answers of rows on one side."""

    spans: TokenSpans  # [K] tokens that lie in answers; the answers, joined, are their text
    borders: Int64[np.ndarray, " A1"]  # where each answer begins in that text, and its end
    tokens: Int64[np.ndarray, " K"]  # their positions among all tokens of the rows
    rows: Int64[np.ndarray, " R1"]  # where the tokens of each row begin among these, and their end
    num_tokens: Int64[np.ndarray, " A"]  # tokens that hold a byte of each answer


def align_answers(
    pairs: Sequence[tuple[Side, Side] | Rejected],
    tables: tuple[ByteTable, ByteTable],
    *,
    merge: Literal["none", "words", "length"] = "none",
    max_bytes: int | None = None,
    max_tokens: int | None = None,
) -> list[AlignedAnswers | Rejected]:
    """The chunks of the answers of every row; a row of which all chunks are rejected is rejected itself.

    Args:
        pairs: rows as the student reads them, and as the teacher does; what is rejected stays so.
        tables: bytes of the student's tokens and of the teacher's.
        merge, max_bytes, max_tokens: as `align_spans` takes them.
    Raises:
        ValueError: the options for merging contradict each other.
    """
    check_merging("align_answers", merge, max_bytes, max_tokens)
    aligned: list[AlignedAnswers | Rejected] = []
    for batch in _batches([pair for pair in pairs if not isinstance(pair, Rejected)]):
        answers = [list(_answers(*pair)) for pair in batch]
        student, teacher = (
            _tokenized([pair[i] for pair in batch], [[answer[i] for answer in row] for row in answers], table)
            for i, table in enumerate(tables)
        )
        together = align_spans(
            student.spans,
            teacher.spans,
            borders=student.borders,
            merge=merge,
            max_bytes=max_bytes,
            max_tokens=max_tokens,
        )
        aligned += _row_by_row(together, student, teacher, list(map(len, answers)))
    found = iter(aligned)
    return [pair if isinstance(pair, Rejected) else next(found) for pair in pairs]


def _batches(pairs: Sequence[tuple[Side, Side]]) -> Iterator[Sequence[tuple[Side, Side]]]:
    start = num_tokens = 0
    for at, (student, _) in enumerate(pairs):
        num_tokens += len(student.tokens.token_ids)
        if num_tokens >= TOKENS_AT_ONCE:
            yield pairs[start : at + 1]
            start, num_tokens = at + 1, 0
    if start < len(pairs):
        yield pairs[start:]


def _answers(one: Side, other: Side) -> Iterator[tuple[_Answer, _Answer]]:
    """Where each answer stands on both sides."""
    sides = (one.rendered, other.rendered)
    if one.is_text:
        completion, of_other = (_Answer(0, len(rendered.pieces[-1]), 0) for rendered in sides)
        yield completion, of_other
        return
    for content, of_content in shared_contents(*sides):
        student, teacher = _answer(content, sides[0]), _answer(of_content, sides[1])
        if student is not None and teacher is not None:
            yield student, teacher


def _answer(content: Span, rendered: Rendered) -> _Answer | None:
    """None if the content is empty or not in the loss."""
    start, end = content
    number = bisect_right(rendered.loss_spans, (start, math.inf)) - 1
    if start >= end or number < 0:
        return None
    turn, close = rendered.loss_spans[number]
    return _Answer(start, end, turn) if end <= close else None


def _tokenized(
    sides: Sequence[Side], answers: Sequence[Sequence[_Answer]], table: ByteTable
) -> _TokenizedAnswers:
    """The tokens of one side of rows that lie in their answers."""
    # Of prompt and completion, the completion is aligned: the prompt's tokens are passed over.
    passed = [side.tokens.piece_lengths[0] if side.is_text else 0 for side in sides]
    texts = [side.rendered.pieces[-1] for side in sides]
    ids = [side.tokens.token_ids[skip:] for side, skip in zip(sides, passed, strict=True)]
    spans = table.spans_of(texts, ids)
    text_starts, token_starts, rows = (
        np.cumsum([0, *lengths])
        for lengths in (
            [len(text.encode()) for text in texts],
            map(len, ids),
            [len(side.tokens.token_ids) for side in sides],
        )
    )
    places = [
        tuple(start + place(at) for at in answer)
        for place, start, row in zip(map(byte_places, texts), text_starts[:-1].tolist(), answers, strict=True)
        for answer in row
    ]
    starts, ends, turns = np.array(places, dtype=np.int64).reshape(-1, 3).T
    stretches = Stretches(starts, ends, turns)
    row_of = np.repeat(np.arange(len(sides)), [len(row) for row in answers])
    firsts, afters = spans.positions(stretches)
    # Tokens without bytes at the border of two rows are each in its own.
    firsts = np.maximum(firsts, token_starts[row_of])
    afters = np.maximum(firsts, np.minimum(afters, token_starts[row_of + 1]))
    inside, tokens = spans.gathered(stretches, firsts, afters)
    moved = (rows[:-1] - token_starts[:-1] + passed)[row_of]
    touched = np.searchsorted(spans.starts, ends) - np.searchsorted(spans.ends, starts, side="right")
    return _TokenizedAnswers(
        spans=inside,
        borders=stretches.borders,
        tokens=tokens + np.repeat(moved, afters - firsts),
        rows=rows,
        num_tokens=np.maximum(touched, 0),
    )


def _row_by_row(
    together: ChunkAlignment,
    student: _TokenizedAnswers,
    teacher: _TokenizedAnswers,
    num_answers: Sequence[int],
) -> Iterator[AlignedAnswers | Rejected]:
    """The chunks of each row, its first one 0."""
    text = student.spans.text
    answers = np.cumsum([0, *num_answers])
    borders = student.borders[answers]
    first_chunks, first_rejected = (
        np.searchsorted(places, borders) for places in (together.starts, together.rejected)
    )
    chunks = []
    for side, found in ((student, together.student_chunks), (teacher, together.teacher_chunks)):
        of_tokens = np.full(side.rows[-1], NO_CHUNK, dtype=np.int64)
        of_tokens[side.tokens] = found
        of_tokens -= np.repeat(first_chunks[:-1], np.diff(side.rows)) * (of_tokens >= 0)
        chunks.append([of_tokens[start:end] for start, end in pairwise(side.rows.tolist())])
    totals = [np.append(0, np.cumsum(side.num_tokens))[answers] for side in (student, teacher)]
    num_tokens = zip(*(np.diff(total).tolist() for total in totals), strict=True)
    bounds = (pairwise(of.tolist()) for of in (borders, first_chunks, first_rejected))
    for (start, end), (first, after), rejected, number, counts, of_student, of_teacher in zip(
        *bounds, num_answers, num_tokens, *chunks, strict=True
    ):
        alignment = ChunkAlignment(
            student_chunks=of_student,
            teacher_chunks=of_teacher,
            num_chunks=after - first,
            starts=together.starts[first:after] - start,
            ends=together.ends[first:after] - start,
            rejected=together.rejected[slice(*rejected)] - start,
        )
        if alignment.num_rejected and not alignment.num_chunks:
            yield Rejected(
                NOT_ALIGNED,
                f"all {alignment.num_rejected} chunks of its answers are rejected: a tokenizer respells or "
                "cannot spell some of each, or its ids are of another text",
            )
        else:
            yield AlignedAnswers(text[start:end], number, alignment, counts)
