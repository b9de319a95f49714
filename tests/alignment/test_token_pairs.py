"""One tokenizer under two chat templates: equal tokens of one content, pair by pair."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.alignment.samples import texts
from tests.alignment.zoo import KINDS, tokenizer_of
from tide.alignment import ByteTable, align_tokens


def side(tokenizer, before, content, after):
    """Spans and ids of a content between what a template writes around it."""
    text = before + content + after
    ids = np.array(tokenizer.encode(text).ids, dtype=np.int64)
    start = len(before.encode())
    spans, kept = (
        ByteTable.from_tokenizer(tokenizer).spans(text, ids).within(start, start + len(content.encode()))
    )
    return spans, ids[kept]


@settings(deadline=None, max_examples=200)
@given(
    kind=st.sampled_from(list(KINDS)),
    content=texts,
    templates=st.tuples(*[st.tuples(*[st.sampled_from(["", "\n", "user: ", "<|end|>", "a"])] * 2)] * 2),
)
def test_pairs_are_the_same_token_over_the_same_bytes(kind, content, templates):
    tokenizer = tokenizer_of(kind)
    try:
        (student, student_ids), (teacher, teacher_ids) = (
            side(tokenizer, before, content, after) for before, after in templates
        )
    except ValueError as error:
        assert "could not spell" in str(error)
        return
    pairs = align_tokens(student, teacher, student_ids, teacher_ids)
    student_at, teacher_at = (
        np.flatnonzero(pairs.student_chunks >= 0),
        np.flatnonzero(pairs.teacher_chunks >= 0),
    )
    numbers = list(range(pairs.num_chunks))
    assert pairs.student_chunks[student_at].tolist() == pairs.teacher_chunks[teacher_at].tolist() == numbers
    assert student_ids[student_at].tolist() == teacher_ids[teacher_at].tolist()
    for spans, at in ((student, student_at), (teacher, teacher_at)):
        assert spans.has_bytes[at].all()
        assert spans.starts[at].tolist() == pairs.starts.tolist()
        assert spans.ends[at].tolist() == pairs.ends.tolist()
    # Complete: what is left on one side has no like on the other.
    keys = [keys_of(spans, ids) for spans, ids in ((student, student_ids), (teacher, teacher_ids))]
    assert len(keys[0] & keys[1]) == pairs.num_chunks
    if templates[0] == templates[1]:
        assert pairs.num_chunks == student.has_bytes.sum()


def keys_of(spans, ids):
    splits = np.zeros((2, len(spans)), dtype=np.int64)
    if spans.respelled is not None:
        splits = np.stack([spans.respelled.start_splits, spans.respelled.end_splits])
    rows = zip(spans.starts, spans.ends, *splits, ids, spans.has_bytes, strict=True)
    return {tuple(map(int, row[:-1])) for row in rows if row[-1]}


def test_tokens_that_a_template_has_joined_are_in_no_pair():
    table = ByteTable([b"\n", b"\n\n", b"a", b"b"])
    student, kept = table.spans("\n\nab", [1, 2, 3]).within(1, 4)
    teacher, other = table.spans("\nab", [0, 2, 3]).within(0, 3)
    pairs = align_tokens(student, teacher, [1, 2, 3][kept], [0, 2, 3][other])
    assert (pairs.student_chunks.tolist(), pairs.teacher_chunks.tolist()) == ([0, 1], [-1, 0, 1])
    assert (pairs.starts.tolist(), pairs.ends.tolist()) == ([1, 2], [2, 3])


def test_equal_bytes_of_different_ids_are_no_pair():
    table = ByteTable([b"a", b"a", b"b"])
    pairs = align_tokens(table.spans("ab", [0, 2]), table.spans("ab", [1, 2]), [0, 2], [1, 2])
    assert pairs.student_chunks.tolist() == pairs.teacher_chunks.tolist() == [-1, 0]


def test_errors_name_the_rule():
    table = ByteTable([b"a", b"b"])
    with pytest.raises(ValueError, match="align_tokens: both sides must hold the same text"):
        align_tokens(table.spans("a", [0]), table.spans("b", [1]), [0], [1])
    with pytest.raises(
        ValueError, match=r"align_tokens: teacher_ids must be \[1\], one per span; got shape \(2,\)"
    ):
        align_tokens(table.spans("a", [0]), table.spans("a", [0]), [0], [0, 1])
