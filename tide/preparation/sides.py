"""A row as each model reads it: rendered, tokenized, and its answers aligned. Composes data and alignment."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tide.alignment import align_spans, check_merging
from tide.alignment.token_spans import Stretches
from tide.data import BadRow, render, shared_contents, tokenize_rendered

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any, Literal

    from jaxtyping import Int64
    from transformers import PreTrainedTokenizerFast

    from tide.alignment import ByteTable, ChunkAlignment, TokenSpans
    from tide.data import Rendered, Row, Span, TokenizedText

NO_CHUNK = -1
NOT_ALIGNED = "not aligned"


class Dropped(NamedTuple):
    """A row that makes no example.

    Attributes:
        reason: a fixed phrase, for counting.
        detail: what is wrong with this row.
    """

    reason: str
    detail: str


class Side(NamedTuple):
    """A row as one model reads it."""

    rendered: Rendered
    tokens: TokenizedText


class AlignedAnswer(NamedTuple):
    """One answer on both sides.

    Attributes:
        student_at, teacher_at: its tokens, by their positions in the row.
        spans, teacher_spans: where they lie in the bytes of the answer.
        alignment: their chunks, from 0.
    """

    student_at: slice
    teacher_at: slice
    spans: TokenSpans
    teacher_spans: TokenSpans
    alignment: ChunkAlignment


def read_sides(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerFast,
    template_arguments: Mapping[str, Any] | None = None,
) -> list[Side | Dropped]:
    """Rows as one side reads them, or why it cannot.

    Args:
        rows: of any form.
        tokenizer: with a chat template where a row is a conversation.
        template_arguments: variables of that template.
    """
    sides: list[Side | Dropped | None] = []
    rendered: list[Rendered] = []
    for row in rows:
        try:
            rendered.append(render(row, tokenizer, template_arguments))
        except BadRow as error:
            sides.append(Dropped(error.reason, error.detail))
        except ValueError as error:
            sides.append(Dropped("template: none that works", str(error)))
        else:
            sides.append(None)  # until it is tokenized
    tokenized = iter(zip(rendered, tokenize_rendered(rendered, tokenizer), strict=True))
    for at, side in enumerate(sides):
        if side is None:
            text, tokens = next(tokenized)
            if isinstance(tokens, BadRow):
                sides[at] = Dropped(tokens.reason, tokens.detail)
            else:
                sides[at] = Side(text, tokens)
    return [side for side in sides if side is not None]


def read_pairs(
    rows: Sequence[Row],
    student: PreTrainedTokenizerFast,
    teacher: PreTrainedTokenizerFast,
    template_arguments: Mapping[str, Mapping[str, Any]],
) -> list[tuple[Side, Side] | Dropped]:
    """Rows as both sides read them, or why one cannot.

    Args:
        rows: of any form.
        student, teacher: their tokenizers.
        template_arguments: variables of the chat templates, by "student" and "teacher".
    """
    pairs: list[tuple[Side, Side] | Dropped] = []
    for one, other in zip(
        read_sides(rows, student, template_arguments.get("student")),
        read_sides(rows, teacher, template_arguments.get("teacher")),
        strict=True,
    ):
        if isinstance(one, Dropped):
            pairs.append(one)
        elif isinstance(other, Dropped):
            pairs.append(Dropped(other.reason, f"teacher's side: {other.detail}"))
        else:
            pairs.append((one, other))
    return pairs


def align_answers(
    one: Side,
    other: Side,
    tables: tuple[ByteTable, ByteTable],
    *,
    merge: Literal["none", "words", "length"] = "none",
    max_bytes: int | None = None,
    max_tokens: int | None = None,
) -> list[AlignedAnswer] | Dropped:
    """The chunks of every answer of a row, or why there are none; what is not learnt on both sides has none.

    Args:
        one: the student's side of the row.
        other: the teacher's.
        tables: bytes of the student's tokens and of the teacher's.
        merge, max_bytes, max_tokens: as `align_spans` takes them.
    Raises:
        ValueError: the options for merging contradict each other.
    """
    check_merging("align_answers", merge, max_bytes, max_tokens)  # not a fault of the row
    try:
        return [
            AlignedAnswer(
                at,
                teacher_at,
                spans,
                teacher_spans,
                align_spans(spans, teacher_spans, merge=merge, max_bytes=max_bytes, max_tokens=max_tokens),
            )
            for (spans, at), (teacher_spans, teacher_at) in _answers(one, other, tables)
        ]
    except ValueError as error:  # The tokens of a side cannot be laid over its text.
        return Dropped(NOT_ALIGNED, str(error))


def chunk_ids(
    answers: Sequence[AlignedAnswer], one: Side, other: Side
) -> tuple[Int64[np.ndarray, " L_s"], Int64[np.ndarray, " L_t"]]:
    """Chunk ids of every token of a row on both sides, from 0 through all answers; NO_CHUNK elsewhere."""
    chunks, teacher_chunks = (np.full(len(side.tokens.token_ids), NO_CHUNK) for side in (one, other))
    num_chunks = 0
    for answer in answers:
        for of_side, place, found in (
            (chunks, answer.student_at, answer.alignment.student_chunks),
            (teacher_chunks, answer.teacher_at, answer.alignment.teacher_chunks),
        ):
            of_side[place] = np.where(found >= 0, found + num_chunks, NO_CHUNK)
        num_chunks += answer.alignment.num_chunks
    return chunks, teacher_chunks


def _answers(
    one: Side, other: Side, tables: tuple[ByteTable, ByteTable]
) -> Iterator[tuple[tuple[TokenSpans, slice], tuple[TokenSpans, slice]]]:
    """Both sides' tokens of every answer, laid over the answer's bytes, and their positions."""
    sides = (one, other)
    if len(one.rendered.pieces) > 1:  # Prompt and completion are tokenized apart.
        found = []
        for side, table in zip(sides, tables, strict=True):
            first = side.tokens.piece_lengths[0]
            spans = table.spans(side.rendered.pieces[1], side.tokens.token_ids[first:])
            found.append((spans, slice(first, None)))
        yield found[0], found[1]
        return
    laid = [
        table.spans(side.rendered.text, side.tokens.token_ids)
        for side, table in zip(sides, tables, strict=True)
    ]
    for places in shared_contents(one.rendered, other.rendered):
        student, teacher = map(_inside, laid, (side.rendered for side in sides), places)
        if student is not None and teacher is not None:
            yield student, teacher


def _inside(spans: TokenSpans, rendered: Rendered, content: Span) -> tuple[TokenSpans, slice] | None:
    """The tokens of a content, the space in front of it included; None if it is empty or not learnt."""
    start, end = content
    turn = next((begin for begin, close in rendered.learnt if begin <= start < end <= close), None)
    if turn is None:
        return None
    first, after, blanks_from = (len(rendered.text[:place].encode()) for place in (start, end, turn))
    stretch = Stretches.of([(first, after)], [blanks_from])
    (begin,), (close,) = found = spans.positions(stretch)
    return spans.gathered(stretch, *found), slice(int(begin), int(close))
