"""Rows to examples: both sides, their chunks, and what truncation leaves."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny import ROWS, make_tokenizer
from tide.alignment import ByteTable
from tide.data import TextRow, tokenize_rows
from tide.preparation import cross_tokenizer_examples, same_tokenizer_examples

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def chunk_bytes(sequence, table: ByteTable) -> dict[int, bytes]:
    """The bytes under every chunk id, in order of the tokens."""
    spans: dict[int, bytes] = {}
    for token, chunk in zip(
        table.token_bytes(sequence.token_ids.numpy()), sequence.chunks.tolist(), strict=True
    ):
        if chunk >= 0:
            spans[chunk] = spans.get(chunk, b"") + token
    return spans


def cuts(token_ids: torch.Tensor, table: ByteTable, start: int) -> set[int]:
    """Byte offsets after each token of the completion, from the completion's start."""
    lengths = torch.from_numpy(table.lengths)[token_ids[start:]]
    return set(lengths.cumsum(0).tolist())


def check_cross(rows, word_tokenizer, line_tokenizer, max_length: int, teacher_max_length: int) -> int:
    """Every example of `rows` against its definition; returns the number of chunks."""
    examples = cross_tokenizer_examples(
        rows, word_tokenizer, line_tokenizer, max_length=max_length, teacher_max_length=teacher_max_length
    )
    tables = ByteTable.from_tokenizer(word_tokenizer), ByteTable.from_tokenizer(line_tokenizer)
    sides = [
        pair
        for pair in zip(
            tokenize_rows(rows, word_tokenizer, max_length=max_length),
            tokenize_rows(rows, line_tokenizer, max_length=teacher_max_length),
            strict=True,
        )
        if pair[0][1].any()
    ]
    assert len(examples) == len(sides)
    for example, ((ids, maskable), (teacher_ids, teacher_maskable)) in zip(examples, sides, strict=True):
        student, teacher = example.student, example.teacher
        assert torch.equal(student.token_ids, ids) and torch.equal(student.maskable, maskable)
        kept = len(teacher.token_ids)
        assert torch.equal(teacher.token_ids, teacher_ids[:kept])
        assert torch.equal(teacher.maskable, teacher_maskable[:kept])

        spans, teacher_spans = chunk_bytes(student, tables[0]), chunk_bytes(teacher, tables[1])
        assert spans == teacher_spans
        assert sorted(spans) == list(range(example.num_chunks))
        assert not student.maskable[student.chunks >= 0].logical_not().any()
        assert not teacher.maskable[teacher.chunks >= 0].logical_not().any()

        # Minimal and complete: one chunk for every pair of neighbouring common boundaries of the completion.
        start, teacher_start = int((~maskable).sum()), int((~teacher_maskable).sum())
        common = cuts(ids, tables[0], start) & cuts(teacher_ids, tables[1], teacher_start)
        assert example.num_chunks == len(common - {0})
        for side in (student, teacher):
            of_token = side.chunks[side.chunks >= 0]
            assert (of_token.diff() >= 0).all()
    return sum(example.num_chunks for example in examples)


def test_chunks_cover_the_completion_with_equal_bytes_on_both_sides(word_tokenizer, line_tokenizer):
    num_chunks = check_cross(ROWS, word_tokenizer, line_tokenizer, 100, 100)
    examples = cross_tokenizer_examples(
        ROWS, word_tokenizer, line_tokenizer, max_length=100, teacher_max_length=100
    )
    tables = ByteTable.from_tokenizer(word_tokenizer), ByteTable.from_tokenizer(line_tokenizer)
    assert num_chunks > 60
    for row, example in zip(ROWS, examples, strict=True):
        # Nothing is cut, so the chunks are the whole completion; ends of text belong to none.
        for side, table in zip((example.student, example.teacher), tables, strict=True):
            spans = chunk_bytes(side, table)
            assert b"".join(spans[chunk] for chunk in range(example.num_chunks)) == row.completion.encode()
            assert side.token_ids[-1] == 0 and side.chunks[-1] == -1 and side.maskable[-1]
    # Some chunk is more than one token on each side: neither tokenization refines the other.
    for side in ("student", "teacher"):
        sizes = [getattr(example, side).chunks.clamp_min(0).bincount().max() for example in examples]
        assert max(sizes) > 1


@pytest.mark.parametrize("max_length", [8, 13, 20, 100])
@pytest.mark.parametrize("teacher_max_length", [6, 11, 100])
def test_a_chunk_cut_on_either_side_is_dropped_on_both(
    word_tokenizer, line_tokenizer, max_length, teacher_max_length
):
    check_cross(ROWS, word_tokenizer, line_tokenizer, max_length, teacher_max_length)


@given(
    rows=st.lists(st.tuples(texts, texts.filter(bool)), min_size=1, max_size=3),
    max_length=st.integers(30, 60),
    teacher_max_length=st.integers(1, 60),
)
def test_any_text_at_any_length(word_tokenizer, line_tokenizer, rows, max_length, teacher_max_length):
    rows = [TextRow(*row) for row in rows] + [TextRow("", "x")]
    check_cross(rows, word_tokenizer, line_tokenizer, max_length, teacher_max_length)


def test_a_cut_student_text_ends_the_teachers_with_the_last_shared_byte(word_tokenizer, line_tokenizer):
    tables = ByteTable.from_tokenizer(word_tokenizer), ByteTable.from_tokenizer(line_tokenizer)
    row, shorter = ROWS[1], 0
    ((whole, maskable),) = tokenize_rows([row], word_tokenizer, max_length=100)
    ((taught_whole, _),) = tokenize_rows([row], line_tokenizer, max_length=100)
    for max_length in range(int((~maskable).sum()) + 1, len(whole)):
        (example,) = cross_tokenizer_examples(
            [row], word_tokenizer, line_tokenizer, max_length=max_length, teacher_max_length=100
        )
        seen = b"".join(tables[0].token_bytes(example.student.token_ids.numpy()))
        taught = b"".join(tables[1].token_bytes(example.teacher.token_ids.numpy()))
        shared = cuts(example.student.token_ids, tables[0], 0) & cuts(taught_whole, tables[1], 0)
        assert taught == seen[: max(shared)]
        shorter += len(taught) < len(seen)
    assert shorter  # some cut fell inside a chunk
    # A text that is not cut leaves the teacher all of its tokens, the end of text included.
    (example,) = cross_tokenizer_examples(
        [row], word_tokenizer, line_tokenizer, max_length=len(whole) + 1, teacher_max_length=100
    )
    assert torch.equal(example.teacher.token_ids, taught_whole)


def test_a_cut_before_the_first_shared_byte_leaves_the_teacher_nothing(word_tokenizer, line_tokenizer):
    row = TextRow("", "    return x\n")  # four spaces are one token to the teacher, and split for the student
    (example,) = cross_tokenizer_examples(
        [row], word_tokenizer, line_tokenizer, max_length=1, teacher_max_length=100
    )
    assert example.num_chunks == 0 and example.student.maskable.tolist() == [True]
    assert len(example.teacher.token_ids) == 0


def test_a_prompt_that_fills_the_length_drops_the_row(word_tokenizer, line_tokenizer):
    long = TextRow("value = 1\n" * 20, "done\n")
    settings = {"max_length": 20, "teacher_max_length": 100}
    examples = cross_tokenizer_examples([long, ROWS[0]], word_tokenizer, line_tokenizer, **settings)
    assert len(examples) == 1
    assert torch.equal(
        examples[0].student.token_ids, tokenize_rows(ROWS[:1], word_tokenizer, max_length=20)[0][0]
    )
    same = same_tokenizer_examples([long, ROWS[0]], word_tokenizer, max_length=20, with_teacher=True)
    assert len(same) == 1


def test_one_tokenizer_gives_both_sides_the_same_tokens(word_tokenizer):
    examples = same_tokenizer_examples(ROWS, word_tokenizer, max_length=30, with_teacher=True)
    sides = tokenize_rows(ROWS, word_tokenizer, max_length=30)
    for example, (token_ids, maskable) in zip(examples, sides, strict=True):
        for side in (example.student, example.teacher):
            assert torch.equal(side.token_ids, token_ids) and torch.equal(side.maskable, maskable)
            assert side.chunks.dtype == torch.int64 and side.chunks.tolist() == [-1] * len(token_ids)
        assert example.num_chunks == 0


def test_without_a_teacher_there_is_no_teachers_side(word_tokenizer):
    examples = same_tokenizer_examples(ROWS, word_tokenizer, max_length=30, with_teacher=False)
    assert [example.teacher for example in examples] == [None] * len(ROWS)


def test_nothing_left_is_an_error(word_tokenizer, line_tokenizer):
    rows = [TextRow("a long prompt", "x"), TextRow("another long prompt", "y")]
    message = r"prepare examples: no row has a completion within max_length=3 tokens\. Raise data\.max_length"
    for given_rows in (rows, []):
        with pytest.raises(ValueError, match=message):
            same_tokenizer_examples(given_rows, word_tokenizer, max_length=3, with_teacher=True)
        with pytest.raises(ValueError, match=message):
            cross_tokenizer_examples(
                given_rows, word_tokenizer, line_tokenizer, max_length=3, teacher_max_length=100
            )


def test_a_row_that_only_one_side_reads_as_text_is_named(line_tokenizer):
    marked = make_tokenizer(300)
    marked.add_special_tokens({"pad_token": "<|pad|>"})  # no bytes here, seven characters to the teacher
    rows = [ROWS[0], TextRow("", "say <|pad|> twice")]
    with pytest.raises(
        ValueError, match=r"cross_tokenizer_examples: row 2 .* first differ at offset 4: .*<\|pad"
    ):
        cross_tokenizer_examples(rows, marked, line_tokenizer, max_length=60, teacher_max_length=60)
