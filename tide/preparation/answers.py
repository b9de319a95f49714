"""The answers of rows as both models read them, aligned: many rows in one pass. Composes data and alignment.

Legend: R rows, A answers in them, L tokens of one side in all of them, K of these in answers.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tide.alignment import ChunkAlignment, Stretches, align_spans, check_merging
from tide.data import Rejected, shared_contents

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


class _Place(NamedTuple):
    """An answer in a text that is tokenized in one piece, in characters, and where its turn begins."""

    start: int
    end: int
    turn: int


class _Laid(NamedTuple):
    """The answers of rows on one side.

    Attributes:
        spans: [K] tokens that lie in answers; the answers, joined, are their text.
        borders: [A + 1] int64, where each answer begins in that text.
        tokens: [K] int64, their positions among all tokens of the rows.
        rows: [R + 1] int64, where the tokens of each row begin among these.
        num_tokens: [A] int64, tokens that hold a byte of each answer.
    """

    spans: TokenSpans
    borders: Int64[np.ndarray, " A1"]
    tokens: Int64[np.ndarray, " K"]
    rows: Int64[np.ndarray, " R1"]
    num_tokens: Int64[np.ndarray, " A"]


def align_answers(
    pairs: Sequence[tuple[Side, Side] | Rejected],
    tables: tuple[ByteTable, ByteTable],
    *,
    merge: Literal["none", "words", "length"] = "none",
    max_bytes: int | None = None,
    max_tokens: int | None = None,
) -> list[AlignedAnswers | Rejected]:
    """The chunks of the answers of every row, or why it has none; what one side does not learn has none.

    Args:
        pairs: rows as the student reads them, and as the teacher does; what is dropped stays so.
        tables: bytes of the student's tokens and of the teacher's.
        merge, max_bytes, max_tokens: as `align_spans` takes them.
    Raises:
        ValueError: the options for merging contradict each other.
    """
    check_merging("align_answers", merge, max_bytes, max_tokens)  # not a fault of the rows

    def aligned(batch: Sequence[tuple[Side, Side]]) -> list[AlignedAnswers | Rejected]:
        answers = [list(_answers(*pair)) for pair in batch]
        try:
            student, teacher = (
                _laid_out(
                    [pair[i] for pair in batch], [[answer[i] for answer in row] for row in answers], table
                )
                for i, table in enumerate(tables)
            )
        except ValueError as error:  # The tokens of a row cannot be laid over its text.
            if len(batch) == 1:
                return [Rejected(NOT_ALIGNED, str(error))]
            half = len(batch) // 2
            return aligned(batch[:half]) + aligned(batch[half:])
        together = align_spans(
            student.spans,
            teacher.spans,
            borders=student.borders,
            merge=merge,
            max_bytes=max_bytes,
            max_tokens=max_tokens,
        )
        return list(_row_by_row(together, student, teacher, [len(row) for row in answers]))

    read = [pair for pair in pairs if not isinstance(pair, Rejected)]
    found = iter([row for batch in _batches(read) for row in aligned(batch)])
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


def _answers(one: Side, other: Side) -> Iterator[tuple[_Place, _Place]]:
    """Where each answer stands on both sides."""
    sides = (one.rendered, other.rendered)
    if one.is_text:
        completion, of_other = (_Place(0, len(rendered.pieces[-1]), 0) for rendered in sides)
        yield completion, of_other
        return
    for content, of_content in shared_contents(*sides):
        student, teacher = _place(content, sides[0]), _place(of_content, sides[1])
        if student is not None and teacher is not None:
            yield student, teacher


def _place(content: Span, rendered: Rendered) -> _Place | None:
    """None if the content is empty or not learnt."""
    start, end = content
    turn = next((begin for begin, close in rendered.loss_spans if begin <= start < end <= close), None)
    return None if turn is None else _Place(start, end, turn)


def _laid_out(sides: Sequence[Side], answers: Sequence[Sequence[_Place]], table: ByteTable) -> _Laid:
    """Lays the tokens of one side of rows over their answers.

    Raises:
        ValueError: the tokens of a row do not spell its text.
    """
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
        tuple(start + byte for byte in _bytes(text, place))
        for text, start, row in zip(texts, text_starts[:-1].tolist(), answers, strict=True)
        for place in row
    ]
    starts, ends, turns = np.array(places, dtype=np.int64).reshape(-1, 3).T
    stretches = Stretches(starts, ends, turns)
    row_of = np.repeat(np.arange(len(sides)), [len(row) for row in answers])
    firsts, afters = spans.positions(stretches)
    # Tokens without bytes at the border of two rows are each in its own.
    firsts = np.maximum(firsts, token_starts[row_of])
    afters = np.maximum(firsts, np.minimum(afters, token_starts[row_of + 1]))
    moved = (rows[:-1] - token_starts[:-1] + passed)[row_of]
    inside, tokens = spans.gathered(stretches, firsts, afters)
    touched = np.searchsorted(spans.starts, ends, side="left") - np.searchsorted(
        spans.ends, starts, side="right"
    )
    return _Laid(
        inside, stretches.borders, tokens + np.repeat(moved, afters - firsts), rows, np.maximum(touched, 0)
    )


def _bytes(text: str, place: _Place) -> Sequence[int]:
    """Characters of a text to bytes."""
    return place if text.isascii() else [len(text[:character].encode()) for character in place]


def _row_by_row(
    together: ChunkAlignment, student: _Laid, teacher: _Laid, answers_of_rows: Sequence[int]
) -> Iterator[AlignedAnswers]:
    """The chunks of each row, its first one 0."""
    text = student.spans.text
    answers = np.cumsum([0, *answers_of_rows])
    borders = student.borders[answers]
    first_chunks = np.searchsorted(together.starts, borders, side="left")
    chunks = []
    for laid, found in ((student, together.student_chunks), (teacher, together.teacher_chunks)):
        of_tokens = np.full(laid.rows[-1], NO_CHUNK, dtype=np.int64)
        of_tokens[laid.tokens] = found
        of_tokens -= np.repeat(first_chunks[:-1], np.diff(laid.rows)) * (of_tokens >= 0)
        chunks.append([of_tokens[start:end] for start, end in pairwise(laid.rows.tolist())])
    totals = [np.append(0, np.cumsum(laid.num_tokens))[answers] for laid in (student, teacher)]
    num_tokens = zip(*(np.diff(total).tolist() for total in totals), strict=True)
    bounds = pairwise(borders.tolist()), pairwise(first_chunks.tolist())
    for (start, end), (first, after), number, counts, of_student, of_teacher in zip(
        *bounds, answers_of_rows, num_tokens, *chunks, strict=True
    ):
        alignment = ChunkAlignment(
            student_chunks=of_student,
            teacher_chunks=of_teacher,
            num_chunks=after - first,
            starts=together.starts[first:after] - start,
            ends=together.ends[first:after] - start,
        )
        yield AlignedAnswers(text[start:end], number, alignment, counts)
