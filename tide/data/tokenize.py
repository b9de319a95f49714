"""Text rows -> token ids in whole blocks, with the completion marked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, Int
    from torch import Tensor
    from transformers import PreTrainedTokenizerFast

    from tide.data.rows import TextRow


def tokenize_rows(
    rows: Sequence[TextRow], tokenizer: PreTrainedTokenizerFast, *, max_length: int, block_size: int
) -> list[tuple[Int[Tensor, " L"], Bool[Tensor, " L"]]]:
    """Token ids of prompt + completion + end-of-text in whole blocks, and which of them are to be learnt.

    Prompt and completion are tokenized apart, so no token straddles the two. End-of-text is part of the
    completion and fills its last block: a shorter last block would tell the model where the text ends, which
    nobody tells it when it writes. What is longer than `max_length` is cut.

    Args:
        rows: prompts and completions.
        tokenizer: with end-of-text and mask tokens.
        max_length: a multiple of block_size.
        block_size: tokens per diffusion block.
    Returns:
        One ([L] int64, [L] bool) per row, L a multiple of block_size; a prompt of max_length or more leaves
        nothing to learn and no True.
    Raises:
        ValueError: max_length is no multiple of block_size, there is no end-of-text token, or a text contains
            the mask token.
    """
    if max_length % block_size:
        raise ValueError(
            f"tokenize_rows: max_length must be a multiple of block_size; got {max_length} and {block_size}."
        )
    if tokenizer.eos_token_id is None:
        raise ValueError(
            "tokenize_rows: the tokenizer has no end-of-text token, which fills the last block of a text. "
            "Set its eos_token."
        )
    if not rows:
        return []
    prompts = tokenizer([row.prompt for row in rows], add_special_tokens=False)["input_ids"]
    completions = tokenizer([row.completion for row in rows], add_special_tokens=False)["input_ids"]
    tokenized = []
    for number, (prompt, completion) in enumerate(zip(prompts, completions, strict=True), 1):
        text = [*prompt, *completion]
        if tokenizer.mask_token_id in text:
            raise ValueError(
                f"tokenize_rows: row {number} (from 1) contains the mask token {tokenizer.mask_token!r}, "
                "which stands for hidden text. Drop the row, or write the token apart."
            )
        num_ends = block_size - len(text) % block_size
        token_ids = torch.tensor([*text, *[tokenizer.eos_token_id] * num_ends][:max_length], dtype=torch.long)
        tokenized.append((token_ids, torch.arange(len(token_ids)) >= len(prompt)))
    return tokenized
