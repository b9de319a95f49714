"""Held-out likelihood of a block-diffusion model at fixed diffusion times, in nats per masked byte.

At time t every completion token is masked with probability t; the negative log-likelihood of the masked
tokens is divided by their bytes, which compares across tokenizers. Masks grow with t and depend on seed and
example alone, so models with one tokenizer answer the same questions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tide.alignment import ByteTable
from tide.config import Record
from tide.data import Collator
from tide.layouts import noised_layout
from tide.masking import keyed_generator, one_view
from tide.models import output_head, run
from tide_kernels import token_logprob, token_scores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, Float, Int
    from torch import Tensor
    from transformers import PreTrainedTokenizerFast

    from tide.batch import Example, Layout
    from tide.models import DiffusionModel

TIMES = (0.25, 0.5, 0.75)


class HeldOutLikelihood(Record):
    """Likelihood by diffusion time.

    Attributes:
        nats_per_byte: by time; negative log-likelihood of the masked tokens over their bytes.
        accuracy: by time; share of masked tokens whose most likely token is the true one.
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
    model: DiffusionModel,
    tokenizer: PreTrainedTokenizerFast,
    examples: Sequence[Example],
    *,
    times: Sequence[float] = TIMES,
    batch_size: int = 32,
    seed: int = 0,
) -> HeldOutLikelihood:
    """Evaluate a model on the student's side of held-out examples.

    Args:
        model: on any device, in either mode.
        tokenizer: the one that `examples` were made with.
        examples: held out.
        times: diffusion times in (0, 1].
        batch_size: sequences per forward pass.
        seed: of the masks.
    Returns:
        Likelihood and accuracy at every time, without end-of-text tokens, which stand for no byte. Bytes are
        those that the tokenizer reads (`ByteTable.spells_text`): where it drops whitespace or respells the
        text, the figures do not compare with another tokenizer's.
    Raises:
        ValueError: the model is autoregressive.
    """
    mask_id = model.contract.mask_id
    if mask_id is None:
        raise ValueError(
            "held_out_likelihood: the model must predict masked tokens; got an autoregressive one. "
            "Evaluate its likelihood from left to right."
        )
    byte_lengths = torch.from_numpy(ByteTable.from_tokenizer(tokenizer).lengths)
    collator = Collator(student_pad_id=0)
    nats, correct, tokens, num_bytes = (torch.zeros(len(times), dtype=torch.float64) for _ in range(4))
    by_length = sorted(enumerate(examples), key=lambda numbered: len(numbered[1].student.token_ids))
    for start in range(0, len(by_length), batch_size):
        numbers, group = zip(*by_length[start : start + batch_size], strict=True)
        batch = collator(group).student
        noise = torch.ones(batch.token_ids.shape)
        for row, (number, length) in enumerate(zip(numbers, batch.valid.sum(1).tolist(), strict=True)):
            # The same in any batch; a token is masked at times above its noise.
            noise[row, :length] = torch.rand(length, generator=keyed_generator(seed, number))
        for column, time in enumerate(times):
            noised = one_view(batch, (noise < time) & batch.loss_mask, mask_id)
            lengths = byte_lengths[noised.labels]
            layout = noised_layout(noised, model.contract)
            device = model.network.device
            log_p, hits = _score_rows(model, layout.on_device(device), noised.labels.to(device))
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


def _score_rows(
    model: DiffusionModel, layout: Layout, labels: Int[Tensor, "N"]
) -> tuple[Float[Tensor, "N"], Bool[Tensor, "N"]]:
    """Log-probability of every row's label, and True where it is the most likely token."""
    hidden = run(model.network, layout)
    hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
    logits = output_head(model.network).logits(hidden)
    return token_logprob(logits, labels), token_scores(logits).token_ids == labels
