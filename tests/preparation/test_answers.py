"""Answers of many rows in one pass are those of each row alone; one that cannot be aligned costs no other.

Mutants that these tests kill: a batch dropped for one of its rows; chunk ids or places that count from the
batch; rejected chunks counted over the batch; tokens of the prompt counted as the completion's.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from tests.alignment.samples import texts
from tests.alignment.zoo import KINDS, tokenizer_of
from tests.data.templates import FOLDED, IM_START, STRIPPED_PLAIN
from tests.tiny import make_tokenizer
from tide.alignment import ByteTable
from tide.data import Conversation, Message, Rejected, TextRow
from tide.preparation import align_answers, answers, read_pairs

answer_texts = st.one_of(
    texts, st.sampled_from(["in", " for", "x<|end|>y", "ﷺ x", "\u0301a", "no \u2603 token"])
).filter(str.strip)
rows = st.one_of(
    st.builds(TextRow, texts, answer_texts),
    st.lists(st.tuples(texts, answer_texts), min_size=1, max_size=3).map(
        lambda turns: Conversation(
            tuple(
                Message(role, text)
                for turn in turns
                for role, text in zip(("user", "assistant"), turn, strict=True)
            )
        )
    ),
)


def chats(kind: str, template) -> PreTrainedTokenizerFast:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer_of(kind), eos_token="<|end|>", bos_token="<s>"
    )
    tokenizer.chat_template = template.source
    return tokenizer


def same(one, other) -> bool:
    if isinstance(one, Rejected) or isinstance(other, Rejected):
        return one == other
    pairs = [(getattr(one.alignment, name), getattr(other.alignment, name)) for name in vars(one.alignment)]
    return all(np.array_equal(*pair) for pair in pairs) and one[:2] + one[3:] == other[:2] + other[3:]


@settings(deadline=None, max_examples=150)
@given(
    kinds=st.tuples(*[st.sampled_from(list(KINDS))] * 2),
    templates=st.tuples(*[st.sampled_from([IM_START, FOLDED, STRIPPED_PLAIN])] * 2),
    batch=st.lists(rows, min_size=2, max_size=6),
    merge=st.sampled_from([{}, {"merge": "words"}, {"merge": "length", "max_bytes": 6}]),
)
def test_many_rows_are_each_row_alone(kinds, templates, batch, merge):
    sides = tuple(map(chats, kinds, templates))
    tables = ByteTable.from_tokenizer(sides[0]), ByteTable.from_tokenizer(sides[1])
    pairs = [pair for pair in read_pairs(batch, *sides, {}) if not isinstance(pair, Rejected)]
    together = align_answers(pairs, tables, **merge)
    assert len(together) == len(pairs)
    for pair, found in zip(pairs, together, strict=True):
        (alone,) = align_answers([pair], tables, **merge)
        # An error tells the position among the tokens that were laid out together: here, those of the row.
        assert same(found, alone)
        if not isinstance(found, Rejected):
            lengths = [len(side.tokens.token_ids) for side in pair]
            chunks = found.alignment.student_chunks, found.alignment.teacher_chunks
            assert [len(of_side) for of_side in chunks] == lengths
            for of_side, side in zip(chunks, pair, strict=True):
                assert side.tokens.loss_mask[of_side >= 0].all()
                assert set(of_side.tolist()) - {-1} == set(range(found.alignment.num_chunks))


@pytest.mark.parametrize("at", [0, 2, 4])
@pytest.mark.parametrize("tokens_at_once", [1, 20, 1 << 16])
def test_a_respelled_row_costs_no_other(at, tokens_at_once, monkeypatch):
    monkeypatch.setattr(answers, "TOKENS_AT_ONCE", tokens_at_once)
    student = PreTrainedTokenizerFast(tokenizer_object=tokenizer_of("WordPiece, lower case without accents"))
    teacher = make_tokenizer(300)
    good = [TextRow("a ", word) for word in ("return first", "for value in values", "if not", "def add")]
    hard = [TextRow("", "\u2603\u2603"), TextRow("", "for \u2603 value")]
    pairs = read_pairs([*good[:at], *hard, *good[at:]], student, teacher, {})
    tables = ByteTable.from_tokenizer(student), ByteTable.from_tokenizer(teacher)
    found = align_answers(pairs, tables)
    dropped, part = found.pop(at), found.pop(at)
    assert isinstance(dropped, Rejected) and dropped.reason == "not aligned" and "rejected" in dropped.detail
    assert not isinstance(part, Rejected)
    assert (
        part.alignment.num_chunks > 0
        and part.alignment.ends[-1] <= len("for")
        and part.alignment.num_rejected
    )
    for row, aligned in zip(good, found, strict=True):
        assert not isinstance(aligned, Rejected)
        assert aligned.text == row.completion.encode() and aligned.alignment.num_chunks >= 1
        # The student drops blanks, which rejects the teacher's tokens that begin with them.
        assert (aligned.alignment.num_rejected > 0) == (" " in row.completion)


def test_no_rows_have_no_answers():
    table = ByteTable([b"a"])
    assert align_answers([], (table, table)) == []
