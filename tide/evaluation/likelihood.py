"""Held-out likelihood of a block-diffusion model at fixed diffusion times, in units that compare across
tokenizers.

At time t every completion token is masked with probability t, and the model's negative log-likelihood of the
masked tokens is divided by the bytes they stand for: nats per masked byte. Masks are drawn per example
from a fixed seed and grow with t, so two models with one tokenizer are asked the same questions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from tide.alignment import ByteTable
from tide.data import Collator
from tide.masking import keyed_generator, one_view
from tide.models import hidden_rows, output_head
from tide_kernels import token_logprob, token_scores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from tide.batch import Example, NoisedTokens

TIMES = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class HeldOutLikelihood:
    """Likelihood by diffusion time.

    Attributes:
        nats_per_byte: by time; negative log-likelihood of the masked tokens over their bytes.
        accuracy: by time; share of masked tokens whose most likely token is the true one, in [0, 1].
        num_tokens, num_bytes: masked, over all times.
        num_texts: evaluated.
    """

    nats_per_byte: dict[float, float]
    accuracy: dict[float, float]
    num_tokens: int
    num_bytes: int
    num_texts: int


@torch.no_grad()
def held_out_likelihood(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    examples: Sequence[Example],
    *,
    block_size: int,
    times: Sequence[float] = TIMES,
    batch_size: int = 32,
    seed: int = 0,
) -> HeldOutLikelihood:
    """Evaluates the student's side of `examples`.

    Args:
        model: in evaluation mode or not (stock Qwen3 has no dropout to turn off); its device is used.
        tokenizer: the one that `examples` were made with.
        examples: held-out; only their student's side is read.
        block_size: tokens per diffusion block, as in training.
        times: diffusion times in (0, 1].
        batch_size: sequences per forward pass.
        seed: of the masks.
    Returns:
        Likelihood and accuracy at every time. End-of-text tokens stand for no byte and are left out of both.
        Bytes are those that the tokenizer reads (`ByteTable.spells_text`): where it drops white space or
        respells the text, the numbers do not compare with another tokenizer's.
    """
    byte_lengths = torch.from_numpy(ByteTable.from_tokenizer(tokenizer).lengths)
    collator = Collator(student_pad_id=0, pad_to_multiple_of=block_size)
    nats, correct, tokens, num_bytes = (torch.zeros(len(times), dtype=torch.float64) for _ in range(4))
    by_length = sorted(enumerate(examples), key=lambda numbered: len(numbered[1].student.token_ids))
    for start in range(0, len(by_length), batch_size):
        numbered = by_length[start : start + batch_size]
        batch = collator([example for _, example in numbered]).student
        noise = torch.ones(batch.token_ids.shape)
        for row, (number, example) in enumerate(numbered):
            length = len(example.student.token_ids)
            noise[row, :length] = example_noise(length, seed=seed, number=number)
        for column, time in enumerate(times):
            noised = one_view(batch, (noise < time) & batch.loss_mask, tokenizer.mask_token_id)
            lengths = byte_lengths[noised.labels]
            log_p, hits = _score_rows(model, noised.on_device(model.device), block_size)
            counted = lengths > 0
            nats[column] -= log_p.cpu().double()[counted].sum()
            correct[column] += hits.cpu()[counted].sum()
            tokens[column] += counted.sum()
            num_bytes[column] += lengths.sum()
    return HeldOutLikelihood(
        nats_per_byte=dict(zip(times, (nats / num_bytes.clamp_min(1)).tolist(), strict=True)),
        accuracy=dict(zip(times, (correct / tokens.clamp_min(1)).tolist(), strict=True)),
        num_tokens=int(tokens.sum()),
        num_bytes=int(num_bytes.sum()),
        num_texts=len(examples),
    )


def example_noise(length: int, *, seed: int, number: int) -> Float[Tensor, " L"]:
    """Noise of one example's tokens, whatever batch it is in; a token is masked at times above its noise."""
    return torch.rand(length, generator=keyed_generator(seed, number))


def _score_rows(model: PreTrainedModel, noised: NoisedTokens, block_size: int) -> tuple[Tensor, Tensor]:
    """Log-probability of every row's label, and whether it is the most likely token."""
    head, hidden = output_head(model), hidden_rows(model, noised, block_size=block_size)
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    bias = None if head.bias is None else head.bias.to(dtype)
    logits = torch.nn.functional.linear(hidden.to(dtype), head.weight.to(dtype), bias)
    return token_logprob(logits, noised.labels), token_scores(logits).token_ids == noised.labels
