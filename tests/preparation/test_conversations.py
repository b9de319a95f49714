"""Conversations to examples: the loss reads answers alone, under either side's template, chunk by chunk."""

from __future__ import annotations

import pytest

from tests.chat import CONVERSATIONS, builder, examples_of
from tests.tiny import END, make_tokenizer
from tide.alignment import ByteTable
from tide.data import Conversation, Message, Rejected, TextRow, parse_row
from tide.preparation import Built

ROWS = [parse_row(row) for row in CONVERSATIONS]
LENGTHS = {"max_length": 256, "teacher_max_length": 256, "block_size": 8}


def loss_text(sequence, tokenizer) -> str:
    """The text in the loss mask, special tokens as they are written."""
    return tokenizer.decode(sequence.token_ids[sequence.loss_mask])


def test_every_answer_is_in_the_loss_with_the_end_of_its_turn(chat_tokenizer):
    first, second, third = examples_of(ROWS, chat_tokenizer, max_length=256, block_size=8)
    answer = "def add(first, second):\n    return first + second"
    ends = [loss_text(example.student, chat_tokenizer).removesuffix(END) for example in (first, second)]
    assert loss_text(first.student, chat_tokenizer).startswith(f"{answer}<|end_turn|>assistant<|end_turn|>")
    assert set(ends[0].split("assistant<|end_turn|>")[-1].split(END)) == {""}
    assert loss_text(second.student, chat_tokenizer).startswith("print('über Straße 🙂', 12345)<|end_turn|>")
    assert loss_text(third.student, chat_tokenizer).startswith("x x<|end_turn|>")
    # The question that repeats the answer word for word is context.
    text = chat_tokenizer.decode(first.student.token_ids)
    assert text.count(answer) == 2
    # Nothing follows the last turn in the loss but end-of-text, up to a whole block.
    assert text.rstrip(END[-1]).count("<|turn|>") == 5 and len(first.student.token_ids) % 8 == 0


def test_chunks_cover_the_answers_alone_with_equal_bytes(chat_tokenizer, other_chat_tokenizer):
    examples = examples_of(ROWS, chat_tokenizer, other_chat_tokenizer, **LENGTHS)
    tables = ByteTable.from_tokenizer(chat_tokenizer), ByteTable.from_tokenizer(other_chat_tokenizer)
    for row, example in zip(ROWS, examples, strict=True):
        answers = "".join(
            message.content for at, message in enumerate(row.messages) if row.is_answer(at)
        ).encode()
        for side, table in zip((example.student, example.teacher), tables, strict=True):
            spans: dict[int, bytes] = {}
            for token_id, chunk in zip(side.token_ids.tolist(), side.chunks.tolist(), strict=True):
                if chunk >= 0:
                    spans[chunk] = spans.get(chunk, b"") + table.tokens[token_id]
            assert list(spans) == list(range(example.num_chunks))
            assert b"".join(spans.values()) == answers
            assert side.loss_mask[side.chunks >= 0].all()
    # No chunk runs from one answer into the next.
    assert examples[0].num_chunks > 2


def test_whitespace_that_one_template_strips_is_in_no_chunk(chat_tokenizer, other_chat_tokenizer):
    row = Conversation((Message("user", "a"), Message("assistant", "  x = 1\n")))
    (example,) = examples_of([row], chat_tokenizer, other_chat_tokenizer, **LENGTHS)
    table = ByteTable.from_tokenizer(chat_tokenizer)
    covered = b"".join(
        table.tokens[token] for token in example.student.token_ids[example.student.chunks >= 0].tolist()
    )
    assert covered in (b"x = 1", b" x = 1"[1:])
    assert "  x = 1\n<|end_turn|>" in loss_text(example.student, chat_tokenizer)


@pytest.mark.parametrize("max_length", [24, 40, 64, 72])
def test_a_cut_conversation_keeps_whole_chunks(chat_tokenizer, other_chat_tokenizer, max_length):
    (whole,) = examples_of(ROWS[:1], chat_tokenizer, other_chat_tokenizer, **LENGTHS)
    build = builder(chat_tokenizer, other_chat_tokenizer, **LENGTHS | {"max_length": max_length})
    (built,) = build(ROWS[:1])
    if isinstance(built, Rejected):
        assert built.reason == "nothing to learn within max_length"
        assert not whole.student.loss_mask[:max_length].any()
        return
    example = built.example
    assert built.cut == (len(whole.student.token_ids) > max_length)
    kept = len(example.student.token_ids)
    assert kept == min(max_length, len(whole.student.token_ids))
    # A chunk stays if all of its tokens do.
    chunks = whole.student.chunks
    complete = [chunk for chunk in range(whole.num_chunks) if not (chunks[kept:] == chunk).any()]
    assert example.num_chunks == len([chunk for chunk in complete if (chunks[:kept] == chunk).any()])


@pytest.mark.parametrize(
    ("end_fill", "learnt_ends", "ends"), [("learnt", 3, 3), ("unlearnt", 1, 3), ("none", 1, 1)]
)
def test_end_fill_sets_the_end_of_text_and_its_loss_mask(word_tokenizer, end_fill, learnt_ends, ends):
    row = TextRow("", "é")  # two tokens
    (built,) = builder(word_tokenizer, max_length=20, block_size=5, end_fill=end_fill)([row])
    ids, maskable = built.example.student.token_ids, built.example.student.loss_mask
    is_end = ids == word_tokenizer.eos_token_id
    assert int(is_end.sum()) == ends and int(maskable[is_end].sum()) == learnt_ends
    assert maskable[~is_end].all() and len(ids) == 2 + ends


@pytest.mark.parametrize(("end_fill", "learnt_ends"), [("learnt", None), ("unlearnt", 0), ("none", 0)])
def test_a_turn_brings_its_own_end(chat_tokenizer, end_fill, learnt_ends):
    (built,) = builder(chat_tokenizer, max_length=256, block_size=8, end_fill=end_fill)(ROWS[1:2])
    ids, maskable = built.example.student.token_ids, built.example.student.loss_mask
    is_end = ids == chat_tokenizer.eos_token_id
    turn_end = chat_tokenizer.convert_tokens_to_ids("<|end_turn|>")
    assert ids[~is_end][-1] == turn_end and maskable[~is_end][-1]
    assert int(is_end.sum()) == (0 if end_fill == "none" else -int((~is_end).sum()) % 8)
    if learnt_ends is None:
        assert maskable[is_end].all()
    else:
        assert int(maskable[is_end].sum()) == learnt_ends


def test_rejected_rows_have_a_reason(chat_tokenizer, other_chat_tokenizer, word_tokenizer):
    build = builder(chat_tokenizer, other_chat_tokenizer, max_length=32, block_size=8)
    long = Conversation((Message("user", "many words " * 40), Message("assistant", "y")))
    masked = Conversation((Message("user", "a"), Message("assistant", f"b {chat_tokenizer.mask_token}")))
    fine = Conversation((Message("user", "a"), Message("assistant", "b")))
    one, two, three = build([long, masked, fine])
    assert one.reason == "nothing to learn within max_length" and "tokens" in one.detail
    assert two.reason == "mask token in the text"
    assert isinstance(three, Built) and three.example.num_chunks > 0


def test_a_tokenizer_without_end_of_text_is_refused(line_tokenizer):
    endless = make_tokenizer(300, end=None)
    with pytest.raises(
        ValueError, match=r"the teacher's tokenizer has no end-of-text token.*Set its eos_token"
    ):
        builder(line_tokenizer, endless, max_length=32, block_size=8)


def test_merged_chunks_end_with_words(word_tokenizer, line_tokenizer):
    row = TextRow("", "values_and_counters = internationalisation(values)")
    sizes = {}
    for merging in ("none", "words"):
        layout = {"max_length": 96, "block_size": 8, "chunk_merging": merging}
        (example,) = examples_of([row], word_tokenizer, line_tokenizer, **layout)
        sizes[merging] = example.num_chunks
    assert 1 <= sizes["words"] <= 3 < sizes["none"]


# No whitespace: "words" makes one chunk of it.
CHINESE = TextRow("", "分词器把一段没有空格的文字当作一个词，于是整段只有一个块。")


@pytest.mark.parametrize(
    ("options", "limit", "size_of"),
    [
        ({"chunk_merging": "words", "chunk_max_tokens": 6}, 6, "tokens"),
        ({"chunk_merging": "length", "chunk_max_tokens": 6}, 6, "tokens"),
        ({"chunk_merging": "words", "chunk_max_bytes": 12}, 12, "bytes"),
        ({"chunk_merging": "length", "chunk_max_bytes": 12}, 12, "bytes"),
    ],
)
def test_limits_reach_the_chunks(word_tokenizer, line_tokenizer, options, limit, size_of):
    def built(**options):
        (example,) = examples_of([CHINESE], word_tokenizer, line_tokenizer, **LENGTHS, **options)
        return example

    def sizes(example):
        counts = [
            side.chunks[side.chunks >= 0].bincount(minlength=example.num_chunks).tolist()
            for side in (example.student, example.teacher)
        ]
        if size_of == "tokens":
            return list(map(max, *counts))
        table = ByteTable.from_tokenizer(word_tokenizer)
        student, lengths = example.student, [0] * example.num_chunks
        for token_id, chunk in zip(student.token_ids.tolist(), student.chunks.tolist(), strict=True):
            if chunk >= 0:
                lengths[chunk] += len(table.tokens[token_id])
        return lengths

    assert built(chunk_merging="words").num_chunks == 1 and sizes(built())[0] < limit
    limited = built(**options)
    assert 1 < limited.num_chunks < built().num_chunks
    assert max(sizes(limited)) <= limit
    assert sum(sizes(limited)) >= sum(sizes(built(chunk_merging="words")))
    # Two that stand beside each other would not have been one chunk.
    pairs = zip(sizes(limited), sizes(limited)[1:], strict=False)
    assert size_of == "tokens" or all(one + other > limit - 2 for one, other in pairs)


def test_contradictory_options_are_an_error_not_a_rejected_row(word_tokenizer, line_tokenizer):
    build = builder(word_tokenizer, line_tokenizer, **LENGTHS, chunk_merging="length")
    with pytest.raises(ValueError, match="align_answers: max_bytes and max_tokens limit merged chunks"):
        build([CHINESE])


def test_an_answer_of_weight_0_is_context(chat_tokenizer, other_chat_tokenizer):
    turns = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "wrong", "weight": 0},
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": "right"},
    ]
    row = parse_row({"messages": turns})
    (example,) = examples_of([row], chat_tokenizer, other_chat_tokenizer, **LENGTHS)
    for side, tokenizer, answer in (
        (example.student, chat_tokenizer, "right<|"),
        (example.teacher, other_chat_tokenizer, " right<|"),  # its template puts the space there
    ):
        assert "wrong" in tokenizer.decode(side.token_ids)
        assert loss_text(side, tokenizer).startswith(answer) and (side.chunks >= 0).any()
        assert "wrong" not in loss_text(side, tokenizer)
        assert tokenizer.decode(side.token_ids[side.chunks >= 0]) == "right"
