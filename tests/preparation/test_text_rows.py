"""Prompt, completion and end-of-text as ids in whole blocks, with the completion marked."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.chat import examples_of
from tests.tiny import END, MASK, ROWS, make_tokenizer
from tide.data import TextRow


@pytest.fixture(scope="module")
def byte_tokenizer():
    """A text of n ASCII characters is n tokens."""
    return make_tokenizer(258)


def tokens_of(rows, tokenizer, *, max_length, block_size):
    """Ids and loss mask of every row that makes an example."""
    examples = examples_of(rows, tokenizer, max_length=max_length, block_size=block_size)
    return [(example.student.token_ids, example.student.loss_mask) for example in examples]


def ids(tokenizer, text: str) -> list[int]:
    return tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids


def test_prompt_and_completion_are_tokenized_apart(line_tokenizer):
    # Together they are fewer tokens: one would straddle the two.
    row = ROWS[0]
    together = ids(line_tokenizer, row.prompt + row.completion)
    prompt, completion = ids(line_tokenizer, row.prompt), ids(line_tokenizer, row.completion)
    assert len(together) < len(prompt) + len(completion)
    ((token_ids, loss_mask),) = tokens_of([row], line_tokenizer, max_length=100, block_size=1)
    assert token_ids.dtype == torch.int64 and loss_mask.dtype == torch.bool
    assert token_ids.tolist() == [*prompt, *completion, line_tokenizer.eos_token_id]
    assert loss_mask.tolist() == [False] * len(prompt) + [True] * (len(completion) + 1)


@pytest.mark.parametrize(
    ("num_prompt", "num_completion", "num_ends"),
    [(0, 1, 3), (2, 1, 1), (3, 1, 4), (4, 4, 4), (5, 4, 3), (1, 6, 1)],
)
def test_ends_of_text_fill_the_last_block(byte_tokenizer, num_prompt, num_completion, num_ends):
    """A text that ends on the edge of a block is followed by a whole block of them."""
    row = TextRow("p" * num_prompt, "c" * num_completion)
    ((token_ids, loss_mask),) = tokens_of([row], byte_tokenizer, max_length=64, block_size=4)
    text = ids(byte_tokenizer, row.prompt + row.completion)
    assert token_ids.tolist() == text + [byte_tokenizer.eos_token_id] * num_ends
    assert loss_mask.tolist() == [False] * num_prompt + [True] * (num_completion + num_ends)


@given(
    num_prompt=st.integers(0, 12),
    num_completion=st.integers(1, 12),
    block_size=st.integers(1, 9),
    num_blocks=st.integers(1, 5),
)
def test_lengths_are_whole_blocks_and_no_more_than_allowed(
    byte_tokenizer, num_prompt, num_completion, block_size, num_blocks
):
    row = TextRow("p" * num_prompt, "c" * num_completion)
    max_length, num_text = block_size * num_blocks, num_prompt + num_completion
    if num_prompt >= max_length:
        assert tokens_of([row], byte_tokenizer, max_length=max_length, block_size=block_size) == []
        return
    ((token_ids, loss_mask),) = tokens_of([row], byte_tokenizer, max_length=max_length, block_size=block_size)
    # The blocks that hold the text and the first end-of-text after it.
    assert len(token_ids) == min(max_length, (num_text // block_size + 1) * block_size)
    ends = token_ids == byte_tokenizer.eos_token_id
    assert ends.tolist() == [position >= num_text for position in range(len(token_ids))]
    assert loss_mask.tolist() == [position >= num_prompt for position in range(len(token_ids))]


def test_a_rows_example_does_not_depend_on_the_others(word_tokenizer):
    together = tokens_of(ROWS, word_tokenizer, max_length=96, block_size=8)
    for row, (token_ids, loss_mask) in zip(ROWS, together, strict=True):
        ((alone_ids, alone_mask),) = tokens_of([row], word_tokenizer, max_length=96, block_size=8)
        assert torch.equal(token_ids, alone_ids) and torch.equal(loss_mask, alone_mask)
        assert word_tokenizer.decode(token_ids[loss_mask], skip_special_tokens=True) == row.completion


def test_rows_are_cut_at_the_end(word_tokenizer):
    ((whole, _),) = tokens_of([ROWS[0]], word_tokenizer, max_length=100, block_size=5)
    num_prompt = len(ids(word_tokenizer, ROWS[0].prompt))
    assert len(whole) > num_prompt + 5
    for max_length in range((num_prompt // 5 + 1) * 5, len(whole) + 11, 5):
        ((token_ids, loss_mask),) = tokens_of([ROWS[0]], word_tokenizer, max_length=max_length, block_size=5)
        assert token_ids.tolist() == whole.tolist()[:max_length]
        assert int(loss_mask.sum()) == min(max_length, len(whole)) - num_prompt


def test_a_truncation_stored_with_the_tokenizer_is_not_applied():
    tokenizer = make_tokenizer(260)
    tokenizer.backend_tokenizer.enable_truncation(max_length=3)
    tokenizer.backend_tokenizer.enable_padding(length=50)
    ((token_ids, _),) = tokens_of([TextRow("", "abcdef")], tokenizer, max_length=100, block_size=1)
    assert token_ids.tolist() == [*ids(make_tokenizer(260), "abcdef"), 0]


@pytest.mark.parametrize("row", [TextRow(f"a{MASK}", "b"), TextRow("", f"{'b' * 30}{MASK}")])
def test_a_text_that_contains_the_mask_token_is_rejected(byte_tokenizer, row):
    """Also where truncation would cut it off: whether a row is fit should not hang on the length."""
    assert len(tokens_of([ROWS[0], row, ROWS[4]], byte_tokenizer, max_length=40, block_size=4)) == 2
    assert tokens_of([row], byte_tokenizer, max_length=16, block_size=4) == []


def test_the_mask_tokens_letters_are_text_to_a_tokenizer_without_that_token(byte_tokenizer):
    maskless = make_tokenizer(258, mask=None)
    ((token_ids, _),) = tokens_of([TextRow("", "<|mask")], byte_tokenizer, max_length=8, block_size=4)
    assert token_ids.tolist() == [*ids(byte_tokenizer, "<|mask"), 0, 0]
    ((token_ids, _),) = tokens_of([TextRow("", f"a{END}b")], maskless, max_length=8, block_size=4)
    assert token_ids.tolist() == [*ids(maskless, "a"), 0, *ids(maskless, "b"), 0]
