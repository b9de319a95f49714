"""Generation by block diffusion: block after block from the left, each denoised from all masks to text.

As in training, blocks start at multiples of the block size from the start of the text, so the first one holds
the end of the prompt. Every sequence of a batch is at its own block. Each step reads the whole text; there is
no key-value cache.

Source: Block Diffusion (arXiv 2503.09573) §3; confidence order as in LLaDA (arXiv 2502.09992) §2.4.
Legend: B sequences, L tokens, S tokens of a block.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tide.contract import Contract
from tide.data import beginning
from tide.layouts import text_layout
from tide.models import output_head, run
from tide.sampling.unmasking import most_confident, tokens_per_step
from tide_kernels import token_scores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, Float, Int
    from torch import Tensor
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
    """Complete every prompt, greedily in the order of confidence.

    Args:
        model: a block-diffusion model, on any device.
        tokenizer: with a mask token; generation ends at its end-of-text token.
        prompts: texts, which may be empty.
        max_new_tokens: most tokens to add.
        block_size: tokens per block, as in training.
        steps_per_block: denoising steps per block; None fills one token per step.
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
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"generate: {name} must be at least 1; got {size}.")
    if tokenizer.mask_token_id is None:
        raise ValueError(
            "generate: the tokenizer has no mask token. Load the one that the model was trained with."
        )
    first = beginning(tokenizer)  # as the texts of training have it
    encoded = [tokenizer(first + prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
    if not encoded:
        return []
    contract = Contract(mask_id=tokenizer.mask_token_id, block_size=block_size)
    starts = torch.tensor([len(ids) for ids in encoded], device=model.device)
    ends = starts + max_new_tokens
    length = -(-int(ends.max()) // block_size) * block_size
    rows = [ids + [contract.mask_id] * (length - len(ids)) for ids in encoded]
    token_ids = torch.tensor(rows, device=model.device)
    position = torch.arange(length, device=model.device)
    block_start = starts // block_size * block_size
    finished = torch.zeros_like(starts, dtype=torch.bool)
    while not bool(finished.all()):
        # Always a whole block: after training, a short one means that the text ends in it.
        block_end = block_start + block_size
        in_block = (position >= block_start[:, None]) & (position < block_end[:, None]) & ~finished[:, None]
        valid = position < block_end[:, None]
        open_positions = in_block & (position >= starts[:, None])
        for step in range(steps):
            masked = open_positions & (token_ids == contract.mask_id)
            if not bool(masked.any()):
                break
            proposal, log_p = _propose(model, token_ids, valid, masked, contract)
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
    token_ids: Int[Tensor, "B L"],
    valid: Bool[Tensor, "B L"],
    masked: Bool[Tensor, "B L"],
    contract: Contract,
) -> tuple[Int[Tensor, "B L"], Float[Tensor, "B L"]]:
    """The likeliest token of every masked position, never the mask token, and its log-probability."""
    rows = masked.any(1)
    end = int(valid[rows].sum(1).max())  # finished texts, and what follows the last open block, are not run
    layout = text_layout(token_ids[rows, :end], valid[rows, :end], masked[rows, :end], contract)
    logits = output_head(model).logits(run(model, layout)).float()
    logits[:, contract.mask_id] = -torch.inf
    scores = token_scores(logits)
    log_p = torch.zeros(token_ids.shape, device=token_ids.device)
    return token_ids.masked_scatter(masked, scores.token_ids), log_p.masked_scatter(masked, scores.log_p)


def _decode(tokenizer: PreTrainedTokenizerFast, token_ids: list[int]) -> str:
    if tokenizer.eos_token_id in token_ids:
        token_ids = token_ids[: token_ids.index(tokenizer.eos_token_id)]
    kept = [token_id for token_id in token_ids if token_id != tokenizer.mask_token_id]
    text: str = tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text
