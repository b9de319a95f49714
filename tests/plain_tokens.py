"""What becomes of text rows, said in the plainest way: an oracle for the examples."""

from __future__ import annotations

import torch


def tokenize_rows(rows, tokenizer, *, max_length, block_size):
    """Prompt, completion and end-of-text up to a whole block, cut; and which tokens are learnt."""
    tokenized = []
    for row in rows:
        prompt, completion = (
            tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
            for text in (row.prompt, row.completion)
        )
        token_ids = [*prompt, *completion, tokenizer.eos_token_id]
        while len(token_ids) % block_size:
            token_ids.append(tokenizer.eos_token_id)
        kept = torch.tensor(token_ids[:max_length])
        tokenized.append((kept, torch.arange(len(kept)) >= len(prompt)))
    return tokenized
