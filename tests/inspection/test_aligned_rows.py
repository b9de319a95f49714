"""Aligned rows: tokens, chunks and columns written out by hand; nothing lost, whatever the text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.chat import CONVERSATIONS, make_chat_tokenizer, make_other_chat_tokenizer
from tests.inspection.samples import aligned, fixed_aligner, texts_of
from tests.tiny import make_tokenizer
from tide.config import DataConfig
from tide.data import Rejected, TextRow, parse_row
from tide.inspection import AlignedRow, Aligner
from tide.inspection.readable import readable
from tide.methods import METHODS
from tide.preparation import NO_CHUNK
from tide.preparation.examples import ExampleBuilder


def test_columns_by_hand():
    row = aligned(fixed_aligner(), TextRow("un", "unhappy!\n!"))
    shown = [(texts_of(c.student), texts_of(c.teacher), c.chunk, c.line_break) for c in row.columns()]
    assert shown == [
        (["un"], ["un"], NO_CHUNK, None),  # the prompt
        (["un", "happy"], ["unh", "appy"], 0, None),
        (["!"], ["!"], 1, None),
        (["↵"], ["↵"], 2, "after"),
        (["!"], ["!"], 3, None),
    ]
    assert [token.in_loss for token in row.student] == [False, True, True, True, True, True]
    assert [token.chunk for token in row.teacher] == [NO_CHUNK, 0, 0, 1, 2, 3]


def test_a_prompt_of_unlike_lengths_stands_token_by_token():
    row = aligned(fixed_aligner(), TextRow("unha", "!"))
    assert [(texts_of(c.student), texts_of(c.teacher)) for c in row.columns()] == [
        (["un"], ["unh"]),
        (["ha"], ["a"]),
        (["!"], ["!"]),
    ]
    row = aligned(fixed_aligner(), TextRow("happy", "!"))
    columns = [(texts_of(c.student), texts_of(c.teacher)) for c in row.columns()]
    assert columns == [(["happy"], ["h"]), ([], ["appy"]), (["!"], ["!"])]


def test_words_end_chunks_where_they_are_merged():
    row = TextRow("", "un happy")
    columns = list(aligned(fixed_aligner("words"), row).columns())
    assert [texts_of(c.student) for c in columns] == [["un"], ["·", "happy"]]
    assert [texts_of(c.teacher) for c in columns] == [["un"], ["·", "h", "appy"]]
    assert len(list(aligned(fixed_aligner(), row).columns())) == 3


def test_conversations_have_chunks_in_answers_alone():
    align = Aligner(make_chat_tokenizer(), make_other_chat_tokenizer())
    rows = [parse_row(row) for row in CONVERSATIONS]
    for row, found in zip(rows, align(rows), strict=True):
        assert isinstance(found, AlignedRow)
        answers = [m.content for at, m in enumerate(row.messages) if row.is_answer(at)]
        for tokens, table in zip((found.student, found.teacher), align.tables, strict=True):
            held = b"".join(table.tokens[token.token_id] for token in tokens if token.chunk != NO_CHUNK)
            assert held == "".join(answers).encode()
        ends = [token for token in found.student if token.text == "<|end_turn|>"]
        assert len(ends) == len(row.messages) and {token.chunk for token in ends} == {NO_CHUNK}
        assert sum(token.in_loss for token in ends) == len(answers)


def test_templates_get_the_arguments_of_their_side():
    tokenizers = make_chat_tokenizer(), make_other_chat_tokenizer()
    for tokenizer in tokenizers:
        tokenizer.chat_template = "{{ flavour }}" + tokenizer.chat_template
    arguments = {"student": {"flavour": "sweet"}, "teacher": {"flavour": "sour"}}
    rows = [parse_row(row) for row in CONVERSATIONS]
    given = Aligner(*tokenizers, template_arguments=arguments)(rows)
    build = ExampleBuilder(
        DataConfig(max_length=800), METHODS["calm"], *tokenizers, block_size=8, template_arguments=arguments
    )
    for row, built in zip(given, build(rows), strict=True):
        assert "".join(texts_of(row.student)).startswith("sweet<|turn|>")
        assert "".join(texts_of(row.teacher)).startswith("sour<|begin|>")
        for tokens, sequence in ((row.student, built.example.student), (row.teacher, built.example.teacher)):
            end = 1 + max(at for at, token in enumerate(tokens) if token.in_loss)
            assert [token.token_id for token in tokens[:end]] == sequence.token_ids[:end].tolist()
            assert [token.chunk for token in tokens[:end]] == sequence.chunks[:end].tolist()
    (without,) = Aligner(*tokenizers)(rows[:1])
    assert "sweet" not in "".join(texts_of(without.student))


@given(st.text(min_size=1, max_size=60), st.text(max_size=20))
@settings(max_examples=60, deadline=None)
def test_no_token_is_lost_and_chunks_stand_above_one_another(completion: str, prompt: str):
    tokenizers = make_tokenizer(300), make_tokenizer(340, words=False)
    (row,) = Aligner(*tokenizers)([TextRow(prompt, completion)])
    if isinstance(row, Rejected):  # The text may hold the mask token's.
        assert "mask" in row.reason
        return
    columns = list(row.columns())
    for side, tokens, tokenizer in (
        ("student", row.student, tokenizers[0]),
        ("teacher", row.teacher, tokenizers[1]),
    ):
        held = [token for column in columns for token in getattr(column, side)]
        assert held == list(tokens)
        ids = [
            i for piece in (prompt, completion) for i in tokenizer(piece, add_special_tokens=False).input_ids
        ]
        assert [token.token_id for token in tokens] == ids
    for column in columns:
        chunks = {token.chunk for token in (*column.student, *column.teacher)}
        assert chunks == {column.chunk}
    assert [c.chunk for c in columns if c.chunk != NO_CHUNK] == list(range(len(row.answers.alignment.starts)))


def test_rows_that_cannot_be_aligned_keep_their_places():
    align = Aligner(make_tokenizer(300, mask=None), make_tokenizer(340))
    found = align([TextRow("", "x"), TextRow("", "<|mask|>"), TextRow("", "y")])
    assert [isinstance(row, AlignedRow) for row in found] == [True, False, True]
    assert found[1].reason == "mask token in the text" and found[1].detail.startswith(
        "on the teacher's side, "
    )
    assert texts_of(found[2].student) == ["y"]


@pytest.mark.parametrize(
    ("spelled", "shown"),
    [
        (b" a b", "·a·b"),
        (b"\tx\n", "→x↵"),
        (b"\r", "<U+000D>"),
        ("\u200bé\u00a0".encode(), "<U+200B>é<U+00A0>"),
        ("\u0301a".encode(), "◌\u0301a"),
        ("a\u0301".encode(), "a\u0301"),
        (b"\xe4\xbd", "<E4><BD>"),
        ("你".encode()[1:] + b"x", "<BD><A0>x"),
        (b"<E4>", "<E4>"),
        (b"", ""),
    ],
)
def test_readable(spelled: bytes, shown: str):
    assert readable(spelled) == shown
