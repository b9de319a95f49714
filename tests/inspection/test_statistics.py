"""Statistics of chunks: every number by hand, and against a count token by token."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers

from tests.alignment.samples import PIECES, SAMPLES
from tests.alignment.zoo import KINDS, tokenizer_of
from tests.chat import CONVERSATIONS, make_chat_tokenizer, make_other_chat_tokenizer
from tests.inspection.samples import aligned, fixed_aligner, of_merges
from tests.tiny import ROWS, make_tokenizer
from tide.alignment import ByteTable, ChunkAlignment, align_spans
from tide.data import Conversation, Message, Rejected, TextRow, parse_row
from tide.inspection import AlignedRow, Aligner, ChunkStatistics, DataSet
from tide.inspection.statistics import NUM_LONGEST, LongChunk, spread
from tide.inspection.tables import longest_table, rejected_texts, sides_table, summary
from tide.preparation import AlignedAnswers


def test_every_number_by_hand():
    align = fixed_aligner()
    rows = [
        aligned(align, TextRow("un", "unhappy!")),
        Rejected("odd", "x"),
        aligned(align, TextRow("", "happy")),
    ]
    found = ChunkStatistics.of(rows)
    assert (found.rows, dict(found.rejected), found.answers) == (3, {"odd": 1}, 2)
    assert (found.answer_bytes, found.covered_bytes, found.coverage) == (13, 13, 1.0)
    assert (found.num_chunks, found.one_to_one) == (3, 1)
    assert found.chunk_bytes == {7: 1, 1: 1, 5: 1}
    assert (found.student.tokens, found.student.in_chunks, dict(found.student.per_chunk)) == (
        4,
        4,
        {2: 1, 1: 2},
    )
    assert (found.teacher.tokens, found.teacher.in_chunks, dict(found.teacher.per_chunk)) == (
        5,
        5,
        {2: 2, 1: 1},
    )
    assert (found.student.chunks_per_token, found.teacher.chunks_per_token) == (3 / 4, 3 / 5)
    assert found.longest == [
        LongChunk(7, "unhappy", 2, 2),
        LongChunk(5, "happy", 1, 2),
        LongChunk(1, "!", 1, 1),
    ]
    assert summary(found) == [
        "Rows aligned: 2 of 3; answers: 2; chunks: 3.",
        "100.00% of 13 bytes of answers lie in a chunk; 33.3% of chunks are one token on both sides.",
    ]
    assert summary(found, DataSet("x.jsonl", 4000))[:2] == [
        "3 of the 4,000 rows of x.jsonl.",
        "Rows aligned: 2 of 3; answers: 2; chunks: 3.",
    ]
    assert sides_table(found).lines == [
        ("student tokens", "4", "100.00%", "0.750", "1.33", "1", "2", "2", "2"),
        ("teacher tokens", "5", "100.00%", "0.600", "1.67", "2", "2", "2", "2"),
        ("bytes", "13", "100.00%", "-", "4.33", "5", "7", "7", "7"),
    ]
    assert longest_table(found).lines[0] == ("unhappy", "7", "2", "2")


def test_rows_may_be_added_one_by_one():
    align = Aligner(make_tokenizer(300), make_tokenizer(340, words=False))
    rows = align(ROWS)
    step_by_step = ChunkStatistics()
    for row in rows:
        step_by_step.add(row)
    assert step_by_step == ChunkStatistics.of(rows)
    assert step_by_step.num_chunks == sum(step_by_step.chunk_bytes.values())


def test_no_rows_have_no_figures():
    found = ChunkStatistics.of([Rejected("odd", "")])
    assert math.isnan(found.coverage) and math.isnan(found.student.chunks_per_token)
    assert summary(found) == ["Rows aligned: 0 of 1; answers: 0; chunks: 0."]
    assert rejected_texts(found) == ["odd: 1"]
    assert sides_table(found).lines[0] == ("student tokens", "0", *"-------")


def test_template_text_does_not_count_as_answers():
    align = Aligner(make_chat_tokenizer(), make_other_chat_tokenizer())
    rows = [parse_row(row) for row in CONVERSATIONS]
    found = ChunkStatistics.of(align(rows))
    answers = [m.content for row in rows for at, m in enumerate(row.messages) if row.is_answer(at)]
    assert found.answers == len(answers) == 4
    assert found.answer_bytes == found.covered_bytes == len("".join(answers).encode())


def test_bytes_in_no_chunk_lower_the_coverage():
    """A special token inside an answer belongs to no chunk."""
    align = Aligner(make_chat_tokenizer(), make_other_chat_tokenizer())
    row = Conversation((Message("user", "a"), Message("assistant", "x = 1<|end|>y")))
    found = ChunkStatistics.of(align([row]))
    assert found.answer_bytes == len("x = 1<|end|>y")
    assert found.covered_bytes == len("x = 1") + len("y")
    assert found.student.tokens == found.student.in_chunks + 1


def test_respelled_text_is_rejected_and_counted():
    tokenizers = (of_merges([], normalizers.NFKC()) for _ in range(2))
    found = ChunkStatistics.of(
        [aligned(Aligner(*tokenizers), TextRow("", "aﬁb"))]
    )  # the ligature becomes "fi"
    assert (found.chunk_bytes, found.rejected_chunks) == ({1: 2}, 1)
    assert (found.covered_bytes, found.answer_bytes) == (2, 5)
    assert any("Rejected chunks" in line and line.endswith(" 1.") for line in summary(found))


@pytest.mark.parametrize("merge", ["none", "words"])
def test_covered_bytes_against_bytes_one_by_one(merge):
    """Between all kinds of tokenizers, with bytes in no chunk."""
    text = "".join((*SAMPLES, "<|end|>", *PIECES))
    sides = []
    for kind in KINDS:
        tokenizer = tokenizer_of(kind)
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        sides.append(ByteTable.from_tokenizer(tokenizer).spans(text, ids))
    for spans in sides:
        for teacher_spans in sides:
            alignment = align_spans(spans, teacher_spans, merge=merge)
            answers = AlignedAnswers(spans.text, 1, alignment, (len(spans), len(teacher_spans)))
            places = zip(alignment.starts.tolist(), alignment.ends.tolist(), strict=True)
            covered = {byte for start, end in places for byte in range(start, end)}
            found = ChunkStatistics.of([AlignedRow((), (), answers)])
            assert found.covered_bytes == len(covered)


def row_of(*chunks: str) -> AlignedRow:
    """A row whose chunks have these texts, each one token on both sides."""
    data = [chunk.encode() for chunk in chunks]
    ends = np.cumsum([len(chunk) for chunk in data])
    starts = ends - [len(chunk) for chunk in data]
    numbers = np.arange(len(data))
    alignment = ChunkAlignment(numbers, numbers, len(data), starts, ends, rejected=starts[:0])
    return AlignedRow((), (), AlignedAnswers(b"".join(data), 1, alignment, (len(data), len(data))))


def test_the_longest_chunks_by_hand():
    rows = [
        row_of("bb", "a", "☕☕"),
        row_of("c" * 9, "bb", "d" * 5, "e" * 4),
        row_of("f" * 4, "g" * 4, "h" * 4, "c" * 9),
        row_of("i" * 3, "j" * 8, "k" * 3, "l" * 3),  # The last two are as long as the tenth, and later.
        row_of("m" * 3, "zz", "a"),
    ]
    found = ChunkStatistics.of(rows).longest
    kept = ["c" * 9, "j" * 8, "☕☕", "d" * 5, "e" * 4, "f" * 4, "g" * 4, "h" * 4, "i" * 3, "k" * 3]
    assert [chunk.text for chunk in found] == kept
    assert [chunk.num_bytes for chunk in found] == [9, 8, 6, 5, 4, 4, 4, 4, 3, 3]
    # Runs of spaces are counted, and what follows begins after a blank.
    indented = longest_table(ChunkStatistics.of([row_of(" " * 8 + "x", "y" + " " * 4)])).lines
    assert [text for text, *_ in indented] == ["·×8 x", "y····"]
    # The next that is longer puts the last one out.
    more = ChunkStatistics.of([*rows, row_of("n" * 4)]).longest
    assert [chunk.text for chunk in more] == [*kept[:8], "n" * 4, "i" * 3]


@given(st.lists(st.lists(st.text("ab☕", min_size=1, max_size=5), min_size=1, max_size=8), max_size=12))
@settings(deadline=None)
def test_the_longest_chunks_are_different_and_in_order(texts):
    found = ChunkStatistics.of([row_of(*chunks) for chunks in texts])
    different = dict.fromkeys(chunk for chunks in texts for chunk in chunks)
    expected = sorted(different, key=lambda text: -len(text.encode()))[:NUM_LONGEST]
    assert found.longest == [LongChunk(len(text.encode()), text, 1, 1) for text in expected]


@pytest.mark.parametrize("values", [[3], [1, 1, 1, 9], list(range(1, 101)), [5] * 98 + [7, 90]])
def test_spread_against_numpy(values):
    found = spread(Counter(values))
    quantiles = np.percentile(values, [50, 90, 99], method="inverted_cdf")
    assert (found.median, found.p90, found.p99, found.largest) == (*quantiles, max(values))
    assert found.mean == pytest.approx(np.mean(values))
