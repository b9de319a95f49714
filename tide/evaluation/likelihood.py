"""Held-out likelihood in nats per byte: a bound that compares across tokenizers, and figures at fixed times.

Of a masked diffusion model, with m of the n tokens of a block masked at random and m uniform over 1 ... n,

    -log p(text) <= sum over blocks of E[n / m * (sum over the m masked tokens of -log p(token))],

where a block is given the clean text before it. This is the cross-entropy weighted by 1 / t, integrated over
t in (0, 1), with m counted in place of t drawn: a lower variance, and no weight above n.

Figures at one t depend on how much of the text a token is: they compare within one tokenizer only. Masks
depend on seed and example alone, so models with one tokenizer answer the same questions.

Source: LLaDA (arXiv 2502.09992), the likelihood by number of masked tokens; blocks: BD3LM (arXiv 2503.09573).
Legend: B texts, L tokens, K strata, N masked tokens.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from rich.console import Console
from rich.progress import track

from tide.alignment import ByteTable
from tide.config import Record
from tide.data import Collator
from tide.layouts import noised_layout
from tide.masking import keyed_generator, one_view, predictable
from tide.models import output_head, run
from tide_kernels import token_logprob, token_scores

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from jaxtyping import Bool, Float
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from tide.batch import Example, NoisedTokens, TokenBatch
    from tide.contract import Contract
    from tide.models import DiffusionModel

TIMES = (0.25, 0.5, 0.75)
STRATA = 8  # noised copies of a text
LOGITS_AT_ONCE = 2**26


class LikelihoodBound(Record):
    """Upper bound of the negative log-likelihood of completions, ends included; exact if autoregressive.

    Attributes:
        nats_per_byte: sum over texts, over the bytes of their completions; compares across tokenizers.
        standard_error: of the ratio, over texts as independent draws; holds what the masks add. None for one
            text.
        mask_error: of the same texts under other masks; from the variance between a text's strata, which errs
            on the high side.
    """

    nats_per_byte: float
    standard_error: float | None
    mask_error: float

    def __str__(self) -> str:
        error = "" if self.standard_error is None else f" ± {self.standard_error:.4f}"
        return f"{self.nats_per_byte:.4f}{error}"


class HeldOutLikelihood(Record):
    """The bound, and likelihood by diffusion time, which compares within one tokenizer.

    Attributes:
        bound: over all times.
        nats_per_byte: by time; negative log-likelihood of the masked tokens over their bytes.
        accuracy: by time; share of masked tokens whose most likely token is the true one.
        num_tokens, num_bytes: masked, over all times of these two.
        num_texts: evaluated.
    """

    bound: LikelihoodBound
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
    strata: int = STRATA,
    batch_size: int = 32,
    seed: int = 0,
    progress: bool = False,
) -> HeldOutLikelihood:
    """Evaluate a model on the student's side of held-out examples.

    Args:
        model: on any device, in either mode; dropout is off.
        tokenizer: the one that `examples` were made with.
        examples: held out.
        times: diffusion times in (0, 1]; none apply to an autoregressive model.
        strata: noised copies of each text for the bound, one for each of as many equal parts of m / n.
        batch_size: sequences per forward pass.
        seed: of the masks.
        progress: show a bar on the standard error, if that is a terminal.
    Returns:
        The bound; likelihood and accuracy at every time, these without end-of-text tokens, which stand for no
        byte. Bytes are those that the tokenizer reads (`ByteTable.spells_text`): where it drops whitespace or
        respells the text, the figures do not compare with another tokenizer's. A first token that the model
        has no output for is left out.
    Raises:
        ValueError: strata is below 2, which leaves no variance to estimate.
    """
    if strata < 2:
        raise ValueError(
            f"held_out_likelihood: strata must be at least 2; got {strata}. The default: {STRATA}."
        )
    contract = model.contract
    times = () if contract.autoregressive else tuple(times)
    byte_lengths = torch.from_numpy(ByteTable.from_tokenizer(tokenizer).lengths)
    collator = Collator(student_pad_id=0)
    nats, correct, tokens, num_bytes = (torch.zeros(len(times), dtype=torch.float64) for _ in range(4))
    strata = 1 if contract.autoregressive else strata
    nats_of = torch.zeros(len(examples), strata, dtype=torch.float64)
    bytes_of = torch.zeros(len(examples), dtype=torch.float64)
    by_length = sorted(enumerate(examples), key=lambda numbered: len(numbered[1].student.token_ids))
    console, starts = Console(stderr=True), range(0, len(by_length), batch_size)
    hidden = not (progress and console.is_terminal)
    for start in track(starts, "evaluating", console=console, transient=True, disable=hidden):
        numbers, group = zip(*by_length[start : start + batch_size], strict=True)
        batch = collator(group).student
        batch = replace(batch, loss_mask=predictable(batch.loss_mask, contract))
        number_of = torch.tensor(numbers)
        bytes_of[number_of] = (byte_lengths[batch.token_ids] * batch.loss_mask).sum(1).double()
        noise = torch.ones(batch.token_ids.shape)
        masks = torch.zeros(strata, *noise.shape, dtype=torch.bool)
        weights = torch.ones(masks.shape, dtype=torch.float64)
        for row, (number, length) in enumerate(zip(numbers, batch.valid.sum(1).tolist(), strict=True)):
            # The same in any batch; a token is masked at times above its noise.
            noise[row, :length] = torch.rand(length, generator=keyed_generator(seed, number))
            if not contract.autoregressive:
                generator = keyed_generator(seed, number, 1)
                _stratify(batch.loss_mask[row], contract, generator, masks[:, row], weights[:, row])
        for stratum, masked in enumerate([batch.loss_mask] if contract.autoregressive else masks):
            noised, log_p, _ = _score(model, batch, masked, with_hits=False)
            weighted = weights[stratum].flatten()[noised.rows] * log_p
            nats_of[:, stratum].index_add_(0, number_of[noised.rows // noise.shape[1]], -weighted)
        for column, time in enumerate(times):
            masked = (noise < time) & batch.loss_mask
            noised, log_p, hits = _score(model, batch, masked, with_hits=True)
            lengths = byte_lengths[noised.labels]
            counted = lengths > 0
            nats[column] -= log_p[counted].sum()
            correct[column] += hits[counted].sum()
            tokens[column] += counted.sum()
            num_bytes[column] += lengths.sum()
    return HeldOutLikelihood(
        bound=_bound(nats_of, bytes_of),
        nats_per_byte=dict(zip(times, (nats / num_bytes.clamp_min(1)).tolist(), strict=True)),
        accuracy=dict(zip(times, (correct / tokens.clamp_min(1)).tolist(), strict=True)),
        num_tokens=int(tokens.sum()),
        num_bytes=int(num_bytes.sum()),
        num_texts=len(examples),
    )


def _stratify(
    loss_mask: Bool[Tensor, "L"],
    contract: Contract,
    generator: torch.Generator,
    masks: Bool[Tensor, "K L"],
    weights: Float[Tensor, "K L"],
) -> None:
    """Write a text's masks and their weights n / m; each block has its own order of strata."""
    strata = len(masks)
    for tokens in loss_mask.nonzero().flatten().split(_sizes_of_blocks(loss_mask, contract)):
        share = (
            torch.randperm(strata, generator=generator) + torch.rand(strata, generator=generator)
        ) / strata
        num_masked = (share * len(tokens)).long().clamp_max(len(tokens) - 1) + 1
        rank = torch.rand(strata, len(tokens), generator=generator).argsort(1).argsort(1)
        masks[:, tokens] = rank < num_masked[:, None]
        weights[:, tokens] = (len(tokens) / num_masked.double())[:, None]


def _sizes_of_blocks(loss_mask: Bool[Tensor, "L"], contract: Contract) -> list[int]:
    """Tokens to predict by block, without blocks that have none."""
    blocks = loss_mask.split(contract.block_size or len(loss_mask))
    return [count for block in blocks if (count := int(block.sum()))]


def _bound(nats: Float[Tensor, "B K"], num_bytes: Float[Tensor, "B"]) -> LikelihoodBound:
    total, num_texts, strata = num_bytes.sum().clamp_min(1), *nats.shape
    per_text = nats.mean(1)
    ratio = per_text.sum() / total
    by_mask = nats.var(1).sum() / strata if strata > 1 else torch.zeros(())
    standard_error = None
    if num_texts > 1:
        spread = (per_text - ratio * num_bytes).square().sum() * num_texts / (num_texts - 1)
        standard_error = float(spread.sqrt() / total)
    return LikelihoodBound(
        nats_per_byte=float(ratio),
        standard_error=standard_error,
        mask_error=float(by_mask.sqrt() / total),
    )


def _score(
    model: DiffusionModel, batch: TokenBatch, masked: Bool[Tensor, "B L"], *, with_hits: bool
) -> tuple[NoisedTokens, Float[Tensor, "N"], Bool[Tensor, "N"]]:
    """The noised texts; each masked token's log-probability and, `with_hits`, if it is the likeliest."""
    noised = one_view(batch, masked, model.contract.mask_id)
    device = model.network.device
    layout, labels = noised_layout(noised, model.contract).on_device(device), noised.labels.to(device)
    with _without_dropout(model.network):
        hidden = run(model.network, layout)
    hidden, head = hidden.to(torch.promote_types(hidden.dtype, torch.float32)), output_head(model.network)
    log_p, hits = [labels.new_zeros(0, dtype=hidden.dtype)], [labels.new_zeros(0, dtype=torch.bool)]
    num_rows = max(LOGITS_AT_ONCE // len(head.weight), 1)
    for rows, of_rows in zip(hidden.split(num_rows), labels.split(num_rows), strict=True):
        logits = head.logits(rows)
        log_p.append(token_logprob(logits, of_rows))
        if with_hits:
            hits.append(token_scores(logits).token_ids == of_rows)
    return noised, torch.cat(log_p).cpu().double(), torch.cat(hits).cpu()


@contextmanager
def _without_dropout(network: PreTrainedModel) -> Iterator[None]:
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)
