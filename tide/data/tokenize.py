"""Text rows -> token ids, with the completion marked."""

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
    rows: Sequence[TextRow], tokenizer: PreTrainedTokenizerFast, *, max_length: int
) -> list[tuple[Int[Tensor, "L"], Bool[Tensor, "L"]]]:
    """Token ids of prompt + completion + end-of-text, cut to `max_length`, and which of them belong to the
    completion.

    Prompt and completion are tokenized apart, so no token straddles the two. The end-of-text token, where the
    tokenizer has one, is part of the completion.

    Returns:
        One ([L] int64, [L] bool) per row; a prompt of max_length or more leaves nothing to learn and no True.
    """
    if not rows:  # Tokenizers fail on an empty list.
        return []
    prompts = tokenizer([row.prompt for row in rows], add_special_tokens=False)["input_ids"]
    completions = tokenizer([row.completion for row in rows], add_special_tokens=False)["input_ids"]
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    tokenized = []
    for prompt, completion in zip(prompts, completions, strict=True):
        token_ids = torch.tensor([*prompt, *completion, *end][:max_length], dtype=torch.long)
        tokenized.append((token_ids, torch.arange(len(token_ids)) >= len(prompt)))
    return tokenized
