"""Rows to examples: both sides, their chunks, and what truncation leaves."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import normalizers

from tests.chat import builder, examples_of
from tests.plain_tokens import tokenize_rows
from tests.tiny import ROWS, make_tokenizer
from tide.alignment import ByteTable
from tide.config import DataConfig
from tide.data import TextRow
from tide.methods import METHODS
from tide.preparation import ExampleBuilder
from tide.preparation.examples import build_part

END = 0
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


def check_cross(
    rows, word_tokenizer, line_tokenizer, max_length: int, teacher_max_length: int, block_size: int
) -> int:
    """Every example of `rows` against its definition; returns the number of chunks."""
    examples = examples_of(
        rows,
        word_tokenizer,
        line_tokenizer,
        max_length=max_length,
        teacher_max_length=teacher_max_length,
        block_size=block_size,
    )
    tables = ByteTable.from_tokenizer(word_tokenizer), ByteTable.from_tokenizer(line_tokenizer)
    sides = [
        pair
        for pair in zip(
            tokenize_rows(rows, word_tokenizer, max_length=max_length, block_size=block_size),
            tokenize_rows(rows, line_tokenizer, max_length=teacher_max_length, block_size=block_size),
            strict=True,
        )
        if pair[0][1].any()
    ]
    assert len(examples) == len(sides)
    for example, ((ids, maskable), (teacher_ids, teacher_maskable)) in zip(examples, sides, strict=True):
        student, teacher = example.student, example.teacher
        assert torch.equal(student.token_ids, ids) and torch.equal(student.loss_mask, maskable)
        kept = len(teacher.token_ids)
        assert len(student.token_ids) % block_size == kept % block_size == 0
        assert torch.equal(teacher.token_ids, teacher_ids[:kept])
        assert torch.equal(teacher.loss_mask, teacher_maskable[:kept])

        spans, teacher_spans = chunk_bytes(student, tables[0]), chunk_bytes(teacher, tables[1])
        assert spans == teacher_spans
        assert sorted(spans) == list(range(example.num_chunks))
        assert not student.loss_mask[student.chunks >= 0].logical_not().any()
        assert not teacher.loss_mask[teacher.chunks >= 0].logical_not().any()

        # Minimal and complete: one chunk for every pair of neighbouring common boundaries of the completion.
        start, teacher_start = int((~maskable).sum()), int((~teacher_maskable).sum())
        common = cuts(ids, tables[0], start) & cuts(teacher_ids, tables[1], teacher_start)
        assert example.num_chunks == len(common - {0})
        for side in (student, teacher):
            of_token = side.chunks[side.chunks >= 0]
            assert (of_token.diff() >= 0).all()
    return sum(example.num_chunks for example in examples)


def test_chunks_cover_the_completion_with_equal_bytes_on_both_sides(word_tokenizer, line_tokenizer):
    num_chunks = check_cross(ROWS, word_tokenizer, line_tokenizer, 96, 96, 8)
    examples = examples_of(
        ROWS, word_tokenizer, line_tokenizer, max_length=96, teacher_max_length=96, block_size=8
    )
    tables = ByteTable.from_tokenizer(word_tokenizer), ByteTable.from_tokenizer(line_tokenizer)
    assert num_chunks > 60
    for row, example in zip(ROWS, examples, strict=True):
        # Nothing is cut, so the chunks are the whole completion; ends of text belong to none.
        for side, table in zip((example.student, example.teacher), tables, strict=True):
            spans = chunk_bytes(side, table)
            assert b"".join(spans[chunk] for chunk in range(example.num_chunks)) == row.completion.encode()
            ends = side.token_ids == END
            assert 1 <= int(ends.sum()) <= 8 and not ends[: -int(ends.sum())].any()
            assert side.loss_mask[ends].all() and (side.chunks[ends] == -1).all()
    # Some chunk is more than one token on each side: neither tokenization refines the other.
    for side in ("student", "teacher"):
        sizes = [getattr(example, side).chunks.clamp_min(0).bincount().max() for example in examples]
        assert max(sizes) > 1


@pytest.mark.parametrize("max_length", [8, 12, 20, 100])
@pytest.mark.parametrize("teacher_max_length", [4, 12, 100])
def test_a_chunk_cut_on_either_side_is_removed_on_both(
    word_tokenizer, line_tokenizer, max_length, teacher_max_length
):
    check_cross(ROWS, word_tokenizer, line_tokenizer, max_length, teacher_max_length, 4)


@given(
    rows=st.lists(st.tuples(texts, texts.filter(bool)), min_size=1, max_size=3),
    block_size=st.integers(1, 8),
    num_blocks=st.integers(1, 8),
    num_teacher_blocks=st.integers(1, 8),
)
def test_any_text_at_any_length(
    word_tokenizer, line_tokenizer, rows, block_size, num_blocks, num_teacher_blocks
):
    rows = [TextRow(*row) for row in rows] + [TextRow("", "x")]
    lengths = num_blocks * block_size, num_teacher_blocks * block_size
    check_cross(rows, word_tokenizer, line_tokenizer, *lengths, block_size)


@pytest.mark.parametrize("block_size", [1, 4])
def test_a_cut_student_text_ends_the_teachers_with_the_block_of_the_last_shared_chunk(
    word_tokenizer, line_tokenizer, block_size
):
    tables = ByteTable.from_tokenizer(word_tokenizer), ByteTable.from_tokenizer(line_tokenizer)
    row = ROWS[1]
    ((whole, maskable),) = tokenize_rows([row], word_tokenizer, max_length=100, block_size=block_size)
    ((taught_whole, _),) = tokenize_rows([row], line_tokenizer, max_length=100, block_size=block_size)
    taught_ends = torch.from_numpy(tables[1].lengths)[taught_whole[taught_whole != END]].cumsum(0)
    num_text, num_prompt = int((whole != END).sum()), int((~maskable).sum())
    lengths, inside_a_chunk, after_it = set(), 0, 0
    for max_length in range(num_prompt // block_size * block_size + block_size, len(whole) + 9, block_size):
        (example,) = examples_of(
            [row],
            word_tokenizer,
            line_tokenizer,
            max_length=max_length,
            teacher_max_length=100,
            block_size=block_size,
        )
        if max_length > num_text:  # Not cut: the teacher keeps all of its tokens, ends of text included.
            assert torch.equal(example.teacher.token_ids, taught_whole)
            continue
        student_cuts = cuts(example.student.token_ids, tables[0], 0)
        last_shared = max(student_cuts & cuts(taught_whole, tables[1], 0))
        num_shared = int((taught_ends <= last_shared).sum())
        expected = -(-num_shared // block_size) * block_size
        assert torch.equal(example.teacher.token_ids, taught_whole[:expected])
        lengths.add(expected)
        inside_a_chunk += last_shared < max(student_cuts)
        after_it += expected > num_shared
    assert len(lengths) > 2 and inside_a_chunk
    assert bool(after_it) == (block_size > 1)


def test_a_cut_before_the_first_shared_byte_leaves_the_teacher_nothing(word_tokenizer, line_tokenizer):
    row = TextRow("", "    return x\n")  # four spaces are one token to the teacher, and split for the student
    (example,) = examples_of(
        [row], word_tokenizer, line_tokenizer, max_length=1, teacher_max_length=100, block_size=1
    )
    assert example.num_chunks == 0 and example.student.loss_mask.tolist() == [True]
    assert len(example.teacher.token_ids) == 0


def test_a_prompt_that_fills_the_length_rejects_the_row(word_tokenizer, line_tokenizer):
    long = TextRow("value = 1\n" * 20, "done\n")
    settings = {"max_length": 20, "teacher_max_length": 100, "block_size": 4}
    examples = examples_of([long, ROWS[0]], word_tokenizer, line_tokenizer, **settings)
    assert len(examples) == 1
    assert torch.equal(
        examples[0].student.token_ids,
        tokenize_rows(ROWS[:1], word_tokenizer, max_length=20, block_size=4)[0][0],
    )
    assert len(examples_of([long, ROWS[0]], word_tokenizer, max_length=20, block_size=4)) == 1


@pytest.mark.parametrize("method", ["none", "tide_shared"])
def test_one_tokenizer_gives_a_teacher_the_students_tokens(word_tokenizer, method):
    build = ExampleBuilder(DataConfig(max_length=32), METHODS[method], word_tokenizer, block_size=8)
    sides = tokenize_rows(ROWS, word_tokenizer, max_length=32, block_size=8)
    for (example, *_), (token_ids, loss_mask) in zip(build(ROWS), sides, strict=True):
        student = example.student
        assert example.teacher is (None if method == "none" else student)
        assert torch.equal(student.token_ids, token_ids) and torch.equal(student.loss_mask, loss_mask)
        assert student.chunks.dtype == torch.int64 and student.chunks.tolist() == [-1] * len(token_ids)
        assert example.num_chunks == 0


def test_rows_whose_prompt_fills_the_length_are_rejected(word_tokenizer, line_tokenizer):
    rows = [TextRow("a long prompt", "x"), TextRow("another long prompt", "y")]
    for tokenizers in ((word_tokenizer,), (word_tokenizer, line_tokenizer)):
        build = builder(*tokenizers, max_length=3, teacher_max_length=100, block_size=1)
        assert [row.reason for row in build(rows)] == ["nothing to learn within max_length"] * 2
        assert build([]) == []


def test_no_chunk_holds_what_only_one_side_reads_as_text(line_tokenizer):
    marked = make_tokenizer(300)
    marked.add_special_tokens({"pad_token": "<|pad|>"})  # no bytes here, seven characters to the teacher
    tables = ByteTable.from_tokenizer(marked), ByteTable.from_tokenizer(line_tokenizer)
    (example,) = examples_of(
        [TextRow("", "say <|pad|> twice")],
        marked,
        line_tokenizer,
        max_length=60,
        teacher_max_length=60,
        block_size=4,
    )
    spans, teacher_spans = (
        chunk_bytes(side, table)
        for side, table in zip((example.student, example.teacher), tables, strict=True)
    )
    assert spans == teacher_spans
    text = b"".join(spans[chunk] for chunk in range(example.num_chunks))
    assert text.startswith(b"say") and text.endswith(b"twice") and b"pad" not in text


def test_a_chunk_that_one_tokenizer_respells_is_rejected_and_counted():
    composing = make_tokenizer(340, words=False)
    composing.backend_tokenizer.normalizer = normalizers.NFC()
    build = builder(make_tokenizer(300), composing, max_length=128, block_size=8)
    part = build_part([{"text": "plain words and e\u0301 then more words"}], build)
    assert (part.counts.kept, part.counts.rejected_chunks) == (1, 1) and part.counts.chunks > 10
    assert "chunks (1 rejected)" in str(part.counts)
