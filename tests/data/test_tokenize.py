"""Prompt, completion and end-of-text as ids, with the completion marked."""

from __future__ import annotations

import pytest
import torch

from tests.tiny import ROWS, make_tokenizer
from tide.data import TextRow, tokenize_rows


def ids(tokenizer, text: str) -> list[int]:
    return tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids


def test_prompt_and_completion_are_tokenized_apart(line_tokenizer):
    # Together they are fewer tokens: one would straddle the two.
    row = ROWS[0]
    together = ids(line_tokenizer, row.prompt + row.completion)
    prompt, completion = ids(line_tokenizer, row.prompt), ids(line_tokenizer, row.completion)
    assert len(together) < len(prompt) + len(completion)
    ((token_ids, maskable),) = tokenize_rows([row], line_tokenizer, max_length=100)
    assert token_ids.dtype == torch.int64 and maskable.dtype == torch.bool
    assert token_ids.tolist() == [*prompt, *completion, line_tokenizer.eos_token_id]
    assert maskable.tolist() == [False] * len(prompt) + [True] * (len(completion) + 1)


def test_every_row_is_itself_whatever_stands_beside_it(word_tokenizer):
    together = tokenize_rows(ROWS, word_tokenizer, max_length=100)
    for row, (token_ids, maskable) in zip(ROWS, together, strict=True):
        ((alone_ids, alone_maskable),) = tokenize_rows([row], word_tokenizer, max_length=100)
        assert torch.equal(token_ids, alone_ids) and torch.equal(maskable, alone_maskable)
        assert word_tokenizer.decode(token_ids[maskable], skip_special_tokens=True) == row.completion


def test_rows_are_cut_at_the_end(word_tokenizer):
    (whole, _), num_prompt = (
        tokenize_rows([ROWS[0]], word_tokenizer, max_length=100)[0],
        len(ids(word_tokenizer, ROWS[0].prompt)),
    )
    for max_length in range(1, len(whole) + 2):
        ((token_ids, maskable),) = tokenize_rows([ROWS[0]], word_tokenizer, max_length=max_length)
        assert token_ids.tolist() == whole.tolist()[:max_length]
        # A prompt that fills the length leaves nothing to learn.
        assert int(maskable.sum()) == max(0, min(max_length, len(whole)) - num_prompt)


def test_no_end_of_text_where_the_tokenizer_has_none():
    tokenizer = make_tokenizer(260, end=None)
    ((token_ids, maskable),) = tokenize_rows([TextRow("", "ab")], tokenizer, max_length=100)
    assert token_ids.tolist() == ids(tokenizer, "ab") and maskable.all()


def test_a_truncation_stored_with_the_tokenizer_is_not_applied():
    tokenizer = make_tokenizer(260)
    tokenizer.backend_tokenizer.enable_truncation(max_length=3)
    tokenizer.backend_tokenizer.enable_padding(length=50)
    ((token_ids, _),) = tokenize_rows([TextRow("", "abcdef")], tokenizer, max_length=100)
    assert token_ids.tolist() == [*ids(make_tokenizer(260), "abcdef"), 0]


@pytest.mark.parametrize("max_length", [1, 100])
def test_no_rows(word_tokenizer, max_length):
    assert tokenize_rows([], word_tokenizer, max_length=max_length) == []
