"""Generation by block diffusion: block after block from the left, each denoised from all masks to text.

As in training, blocks start at multiples of the block size from the start of the text, so the first one holds
the end of the prompt. Every sequence of a batch is at its own block. Each step reads the whole text; there is
no key-value cache.

Source: Block Diffusion (arXiv 2503.09573) §3; confidence order as in LLaDA (arXiv 2502.09992) §2.4,
and its draws, by Gumbel noise (arXiv 2409.02908).
Legend: B sequences, L tokens, N masked positions, V vocabulary entries.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from tide.contract import Contract
from tide.data import beginning, render_prompt
from tide.layouts import text_layout
from tide.masking import keyed_generator
from tide.models import output_head, run
from tide.sampling.unmasking import most_confident, tokens_per_step
from tide_kernels import token_logprob, token_scores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, Float, Int
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@torch.no_grad()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str | Sequence[Mapping[str, str]]],
    *,
    max_new_tokens: int = 128,
    block_size: int = 32,
    steps_per_block: int | None = None,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[str]:
    """Complete every prompt in the order of confidence, which is the probability of the proposed token.

    Args:
        model: a block-diffusion model, on any device.
        tokenizer: with a mask token; generation ends at its end-of-text token.
        prompts: texts, which may be empty, or conversations: messages of role and content, which the chat
            template renders up to the next answer.
        max_new_tokens: most tokens to add.
        block_size: tokens per block, as in training.
        steps_per_block: denoising steps per block; None fills one token per step.
        temperature: T of softmax(logits / T), which proposals are drawn from; 0 proposes the likeliest token.
            Confidence is at temperature 1.
        seed: of the draws. Those of a prompt depend on it and the prompt's place in `prompts`, not on the
            other prompts.
    Returns:
        The completions, without prompt and end-of-text, decoded together with their prompts.
    Raises:
        ValueError: prompts is one prompt or not valid UTF-8, a size is below 1, temperature or seed is
            negative, the tokenizer has no mask token, or none or a failing chat template for a conversation.
    """
    if isinstance(prompts, str) or any(isinstance(prompt, Mapping) for prompt in prompts):
        raise ValueError(
            "generate: prompts must be a sequence of texts or conversations; got a single one, "
            f"{str(prompts)[:40]!r}. Pass [prompt]."
        )
    steps = block_size if steps_per_block is None else steps_per_block
    sizes = {"max_new_tokens": max_new_tokens, "block_size": block_size, "steps_per_block": steps}
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"generate: {name} must be at least 1; got {size}.")
    for name, value in {"temperature": temperature, "seed": seed}.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"generate: {name} must be finite and at least 0; got {value}.")
    if tokenizer.mask_token_id is None:
        raise ValueError(
            "generate: the tokenizer has no mask token. Load the one that the model was trained with."
        )
    texts = [_text(prompt, number, tokenizer) for number, prompt in enumerate(prompts, 1)]
    encoded = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    if not encoded:
        return []
    contract = Contract(mask_id=tokenizer.mask_token_id, block_size=block_size)
    starts = torch.tensor([len(ids) for ids in encoded], device=model.device)
    ends = starts + max_new_tokens
    length = -(-int(ends.max()) // block_size) * block_size
    rows = [ids + [contract.mask_id] * (length - len(ids)) for ids in encoded]
    token_ids = torch.tensor(rows, device=model.device)
    refused = _refused_ids(tokenizer, output_head(model).weight.shape[0]).to(model.device)
    position = torch.arange(length, device=model.device)
    block_start = starts // block_size * block_size
    finished = torch.zeros_like(starts, dtype=torch.bool)
    num_steps = 0  # counted alike for all texts, so that the draws of one do not depend on the others
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
            noise = None
            if temperature > 0:
                noise = temperature * _gumbel(masked, len(refused), seed, num_steps + step)
            proposal, log_p = _propose(model, token_ids, valid, masked, contract, refused, noise)
            chosen = most_confident(log_p, masked, tokens_per_step(masked.sum(1), steps - step))
            token_ids = torch.where(chosen, proposal, token_ids)
        if tokenizer.eos_token_id is not None:
            finished |= ((token_ids == tokenizer.eos_token_id) & open_positions).any(1)
        block_start, num_steps = block_end, num_steps + steps
        finished |= block_start >= ends
    return [
        _decode(tokenizer, row[:start].tolist(), row[start:end].tolist())
        for row, start, end in zip(token_ids, starts.tolist(), ends.tolist(), strict=True)
    ]


def _text(prompt: str | Sequence[Mapping[str, str]], number: int, tokenizer: PreTrainedTokenizerFast) -> str:
    """A prompt as the texts of training begin: a chat template writes the first token itself, or has none."""
    text = beginning(tokenizer) + prompt if isinstance(prompt, str) else render_prompt(prompt, tokenizer)
    try:
        text.encode()
    except UnicodeEncodeError as error:  # Commands read bytes that are no UTF-8 as surrogates.
        around = text[max(error.start - 20, 0) : error.start + 20]
        raise ValueError(
            f"generate: prompts must be valid UTF-8; got {around!r} as prompt {number}. Encode it."
        ) from None
    return text


def _gumbel(masked: Bool[Tensor, "B L"], vocab: int, *key: int) -> Float[Tensor, "N V"]:
    """Gumbel noise of every masked position; that of a text depends on its number and the key."""
    # fp64: in fp32, uniforms end at 1 - 2**-24, and no token below a probability of 6e-8 were ever drawn.
    uniform = [
        torch.rand(num_masked, vocab, dtype=torch.float64, generator=keyed_generator(*key, number))
        for number, num_masked in enumerate(masked.sum(1).tolist())
    ]
    return -(-torch.cat(uniform).log()).log().to(masked.device, torch.float32)


def _propose(
    model: PreTrainedModel,
    token_ids: Int[Tensor, "B L"],
    valid: Bool[Tensor, "B L"],
    masked: Bool[Tensor, "B L"],
    contract: Contract,
    refused: Bool[Tensor, " V"],
    noise: Float[Tensor, "N V"] | None,
) -> tuple[Int[Tensor, "B L"], Float[Tensor, "B L"]]:
    """The token of highest logit plus noise at every masked position, none of `refused`, and its log p."""
    rows = masked.any(1)
    end = int(valid[rows].sum(1).max())  # finished texts, and what follows the last open block, are not run
    layout = text_layout(token_ids[rows, :end], valid[rows, :end], masked[rows, :end], contract)
    logits = output_head(model).logits(run(model, layout)).float()
    logits.masked_fill_(refused, -torch.inf)
    chosen, chosen_log_p, *_ = token_scores(logits if noise is None else logits + noise)
    if noise is not None:
        chosen_log_p = token_logprob(logits, chosen)
    log_p = torch.zeros(token_ids.shape, device=token_ids.device)
    return token_ids.masked_scatter(masked, chosen), log_p.masked_scatter(masked, chosen_log_p)


def _refused_ids(tokenizer: PreTrainedTokenizerFast, vocab: int) -> Bool[Tensor, " V"]:
    """True at the mask token and at ids without a token: of a padded head, or holes of the vocabulary."""
    refused = torch.ones(vocab, dtype=torch.bool)
    refused[[token_id for token_id in tokenizer.get_vocab().values() if token_id < vocab]] = False
    refused[tokenizer.mask_token_id] = True
    return refused


def _decode(tokenizer: PreTrainedTokenizerFast, prompt: list[int], token_ids: list[int]) -> str:
    """Text of the tokens after the prompt's: a decoder may drop what a text begins with, as a space."""
    if tokenizer.eos_token_id in token_ids:
        token_ids = token_ids[: token_ids.index(tokenizer.eos_token_id)]
    kept = [token_id for token_id in token_ids if token_id != tokenizer.mask_token_id]
    decoded: list[str] = [
        tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        for ids in (prompt, prompt + kept)
    ]
    before, text = decoded
    # Not len(before): a character that the prompt's last token begins is read as U+FFFD there alone.
    return text[len(os.path.commonprefix((before, text))) :]  # noqa: RUF071 (texts, not paths)
