"""Tokens that stand for the same bytes on both sides of one tokenizer under two chat templates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tide.alignment.chunk_alignment import ChunkAlignment

if TYPE_CHECKING:
    from jaxtyping import Int64
    from numpy.typing import ArrayLike

    from tide.alignment.token_spans import TokenSpans


def align_tokens(
    student: TokenSpans, teacher: TokenSpans, student_ids: ArrayLike, teacher_ids: ArrayLike
) -> ChunkAlignment:
    """Pair the tokens that one tokenizer makes of a text under two chat templates.

    Chunk k is one token on each side, over the same bytes and with the same id. Tokens that differ, such as
    one that a template's newline has joined, are in no chunk.

    Args:
        student: spans [L_s].
        teacher: spans [L_t] in the same text: both cut with `TokenSpans.within` to the content they share.
        student_ids: [L_s] integers, the tokens of `student`.
        teacher_ids: [L_t] integers, the tokens of `teacher`, from the same vocabulary.
    Returns:
        Chunk ids as `align_spans` gives them; where chunk k is token i of the student and j of the teacher,
        student_ids[i] == teacher_ids[j].
    Raises:
        ValueError: the texts differ, or ids and spans are not equally many.
    """
    if student.text != teacher.text:
        raise ValueError(
            "align_tokens: both sides must hold the same text. Cut both with `TokenSpans.within` to the "
            "content that they share."
        )
    rows = []
    for name, spans, ids in (("student", student, student_ids), ("teacher", teacher, teacher_ids)):
        array = np.asarray(ids)
        if array.shape != (len(spans),):
            raise ValueError(
                f"align_tokens: {name}_ids must be [{len(spans)}], one per span; got shape {array.shape}. "
                "Slice them as `within` says."
            )
        rows.append(array.astype(np.int64))

    splits = [_splits(spans) for spans in (student, teacher)]
    # Places inside a respelled stretch are told apart by the bytes before them.
    fractions = 1 + max(int(part.max(initial=0)) for pair in splits for part in pair)
    at, keys = [], []
    for spans, (start_splits, _) in zip((student, teacher), splits, strict=True):
        at.append(np.flatnonzero(spans.has_bytes))
        keys.append((spans.starts * fractions + start_splits)[at[-1]])
    _, in_student, in_teacher = np.intersect1d(keys[0], keys[1], assume_unique=True, return_indices=True)
    student_at, teacher_at = at[0][in_student], at[1][in_teacher]
    same = student.ends[student_at] == teacher.ends[teacher_at]
    same &= splits[0][1][student_at] == splits[1][1][teacher_at]
    same &= rows[0][student_at] == rows[1][teacher_at]
    student_at, teacher_at = student_at[same], teacher_at[same]
    chunks = np.full(len(student), -1, dtype=np.int32), np.full(len(teacher), -1, dtype=np.int32)
    numbers = np.arange(len(student_at), dtype=np.int32)
    chunks[0][student_at], chunks[1][teacher_at] = numbers, numbers
    return ChunkAlignment(*chunks, len(numbers), student.starts[student_at], student.ends[student_at])


def _splits(spans: TokenSpans) -> tuple[Int64[np.ndarray, " L"], Int64[np.ndarray, " L"]]:
    if spans.respelled is None:
        zeros = np.zeros(len(spans), dtype=np.int64)
        return zeros, zeros
    return spans.respelled.start_splits, spans.respelled.end_splits
