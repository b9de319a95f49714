"""Generation by block diffusion: block after block from the left, each denoised from all masks to text.

Blocks are those of training: they start at multiples of the block size from the start of the text, so the
first one holds the end of the prompt. Every sequence of a batch is at its own block. The whole text is read
again at every step; there is no key-value cache.

Source: Block Diffusion (arXiv 2503.09573) §3; confidence order as in LLaDA (arXiv 2502.09992) §2.4.
Legend: B sequences, L tokens, S tokens of a block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tide.models import hidden_states, output_head
from tide.sampling.unmasking import most_confident, tokens_per_step
from tide_kernels import token_scores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 128,
    block_size: int = 32,
    steps_per_block: int | None = None,
) -> list[str]:
    """Completes every prompt, greedily in the order of confidence.

    Args:
        model: a block-diffusion model; its device is used.
        tokenizer: with a mask token; generation ends at its end-of-text token.
        prompts: texts; an empty one starts from nothing.
        max_new_tokens: tokens to add at most.
        block_size: tokens per block, as in training.
        steps_per_block: denoising steps per block; None is one token per step, fewer steps fill several
            tokens at once.
    Returns:
        The completions, without prompt and end-of-text.
    Raises:
        ValueError: prompts is one string, a size is below 1, or the tokenizer has no mask token.
    """
    if isinstance(prompts, str):
        raise ValueError(
            f"generate: prompts must be a sequence of texts; got one text, {prompts[:40]!r}. Pass [prompt]."
        )
    steps = block_size if steps_per_block is None else steps_per_block
    sizes = {"max_new_tokens": max_new_tokens, "block_size": block_size, "steps_per_block": steps}
    if wrong := next((name for name, size in sizes.items() if size < 1), None):
        raise ValueError(f"generate: {wrong} must be at least 1; got {sizes[wrong]}.")
    if tokenizer.mask_token_id is None:
        raise ValueError(
            "generate: the tokenizer has no mask token. Load the one that the model was trained with."
        )
    encoded = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
    if not encoded:
        return []
    starts = torch.tensor([len(ids) for ids in encoded], device=model.device)
    ends = starts + max_new_tokens
    length = -(-int(ends.max()) // block_size) * block_size
    rows = [ids + [tokenizer.mask_token_id] * (length - len(ids)) for ids in encoded]
    token_ids = torch.tensor(rows, device=model.device)
    position = torch.arange(length, device=model.device)
    block_start = starts // block_size * block_size
    finished = torch.zeros_like(starts, dtype=torch.bool)
    while not bool(finished.all()):
        # Whole blocks, as in training: a short one would say that the text ends here.
        block_end = block_start + block_size
        in_block = (position >= block_start[:, None]) & (position < block_end[:, None]) & ~finished[:, None]
        valid = position < block_end[:, None]
        open_positions = in_block & (position >= starts[:, None])
        for step in range(steps):
            masked = open_positions & (token_ids == tokenizer.mask_token_id)
            if not bool(masked.any()):
                break
            proposal, log_p = _propose(model, token_ids, valid, masked, tokenizer.mask_token_id, block_size)
            chosen = most_confident(log_p, masked, tokens_per_step(masked.sum(1), steps - step))
            token_ids = torch.where(chosen, proposal, token_ids)
        if tokenizer.eos_token_id is not None:
            finished |= ((token_ids == tokenizer.eos_token_id) & open_positions).any(1)
        block_start = block_end
        finished |= block_start >= ends
    return [
        _decode(tokenizer, row[start:end].tolist())
        for row, start, end in zip(token_ids, starts.tolist(), ends.tolist(), strict=True)
    ]


def _propose(
    model: PreTrainedModel,
    token_ids: torch.Tensor,
    valid: torch.Tensor,
    masked: torch.Tensor,
    mask_id: int,
    block_size: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """[B, L]: the likeliest token of every masked position, never the mask token, and its log-probability."""
    rows = masked.any(1)
    end = int(valid[rows].sum(1).max())  # Nothing after the last open block, and no finished text, is run.
    open_ids, open_masked = token_ids[rows, :end], masked[rows, :end]
    head = output_head(model)
    hidden = hidden_states(model, open_ids, valid[rows, :end], block_size=block_size)[open_masked]
    logits = torch.nn.functional.linear(hidden, head.weight, head.bias).float()
    logits[:, mask_id] = -torch.inf
    scores = token_scores(logits)
    proposal = token_ids.masked_scatter(masked, scores.token_ids)
    return proposal, torch.zeros(token_ids.shape, device=token_ids.device).masked_scatter(
        masked, scores.log_p
    )


def _decode(tokenizer: PreTrainedTokenizerFast, token_ids: list[int]) -> str:
    if tokenizer.eos_token_id in token_ids:
        token_ids = token_ids[: token_ids.index(tokenizer.eos_token_id)]
    kept = [token_id for token_id in token_ids if token_id != tokenizer.mask_token_id]
    text: str = tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text
