"""Token log-probabilities, and the masked-diffusion cross-entropy made of them.

Legend: V vocabulary entries, d hidden size, B sequences.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tide.losses.options import check_choice
from tide.losses.reductions import NORMALIZERS, check_rows, flat_rows, partial_mask, row_weights
from tide_kernels import check_tensor, linear_token_logprob, token_logprob

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch.distributed import ProcessGroup


def token_log_probs(
    logits: Float[Tensor, "... V"],
    token_ids: Int[Tensor, " ..."],
    mask: Bool[Tensor, " ..."] | None = None,
    *,
    vocab_size: int | None = None,
    backend: str = "auto",
    inplace_gradient: bool = False,
) -> Float[Tensor, " ..."]:
    """log softmax(logits)[token] at T = 1: what chunk likelihoods are summed from.

    Args:
        logits: [..., V], fp32, bf16 or fp16.
        token_ids: [...] integers in [0, V).
        mask: [...], True on the rows to compute; the others give 0, are not read, and need no valid id.
        vocab_size: normalise over the first ``vocab_size`` entries only.
        backend: ``auto`` (``triton`` on a GPU, ``native`` on a CPU, else ``torch``) or one of these, or
            ``reference``.
        inplace_gradient: write the gradient over the logits, which nothing else may use.

    Returns:
        [...] fp32, nats, at most 0.

    Raises:
        ValueError: types or shapes that do not fit, or an id outside the vocabulary (not checked on a GPU).
    """
    check_tensor("token_log_probs", "logits", logits)
    leading = logits.shape[:-1]
    check_rows("token_log_probs", leading, token_ids=token_ids, mask=mask)
    log_p = token_logprob(
        flat_rows(logits, leading),
        flat_rows(token_ids, leading),
        mask=flat_rows(partial_mask(mask), leading),
        vocab_size=vocab_size,
        backend=backend,
        inplace_gradient=inplace_gradient,
    )
    return log_p.reshape(leading)


def linear_token_log_probs(
    hidden: Float[Tensor, "... d"],
    weight: Float[Tensor, "V d"],
    token_ids: Int[Tensor, " ..."],
    mask: Bool[Tensor, " ..."] | None = None,
    *,
    bias: Float[Tensor, " V"] | None = None,
    vocab_size: int | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    logits_dtype: torch.dtype | None = None,
    workspace_bytes: int | None = None,
    vocab_group: ProcessGroup | None = None,
    backend: str = "auto",
) -> Float[Tensor, " ..."]:
    """`token_log_probs` of ``hidden @ weight.T + bias``, without ever holding [N, V] logits.

    Args:
        hidden: [..., d], the states before the output head.
        weight: [V, d], the head.
        token_ids, vocab_size, backend: as in `token_log_probs`.
        mask: [...], True on the rows to compute; the others are dropped before the head and give 0.
        bias: [V] or None.
        logit_scale, softcap, logits_dtype, vocab_group: as in `tide.losses.HiddenOptions`, of the one head.
        workspace_bytes: bytes for logits in flight; None for the environment variable TIDE_WORKSPACE_BYTES or
            a default.

    Returns:
        [...] fp32, nats, at most 0.

    Raises:
        ValueError: as `token_log_probs`.
    """
    check_tensor("linear_token_log_probs", "weight", weight)
    check_tensor("linear_token_log_probs", "hidden", hidden)
    leading = hidden.shape[:-1]
    check_rows("linear_token_log_probs", leading, token_ids=token_ids, mask=mask)
    rows, ids, active = flat_rows(hidden, leading), flat_rows(token_ids, leading), None
    if (mask := partial_mask(mask)) is not None:
        active = mask.flatten().nonzero().squeeze(1)
        rows, ids = rows[active], ids[active]
    log_p = linear_token_logprob(
        rows,
        weight,
        ids,
        bias=bias,
        vocab_size=vocab_size,
        logit_scale=logit_scale,
        softcap=softcap,
        logits_dtype=logits_dtype,
        workspace_bytes=workspace_bytes,
        vocab_group=vocab_group,
        backend=backend,
    )
    if active is not None:
        log_p = log_p.new_zeros(math.prod(leading)).index_put((active,), log_p)
    return log_p.reshape(leading)


def cross_entropy_loss(
    logits: Float[Tensor, "... V"],
    labels: Int[Tensor, " ..."],
    mask: Bool[Tensor, " ..."] | None = None,
    *,
    weight: Float[Tensor, " ..."] | None = None,
    loss_mask: Bool[Tensor, " ..."] | None = None,
    normalizer: str = "token",
    count: float | Tensor | None = None,
    ignore_index: int = -100,
    vocab_size: int | None = None,
    backend: str = "auto",
) -> Float[Tensor, ""]:
    """Cross-entropy of masked positions, weighted by 1/t and normalised by the positions trained on.

    Args:
        logits: [..., V], fp32, bf16 or fp16.
        labels: [...] token ids; rows with ``ignore_index`` are neither read nor counted.
        mask: [...], True where the student's input was masked; None for every labelled row.
        weight: [B] or [...], -alpha'(t) / (1 - alpha(t)): 1/t for the linear schedule. None for 1.
        loss_mask: [...], True on the positions trained on, masked this time or not. Defaults to the rows that
            count, for their plain mean; required with a weight (see Raises).
        normalizer: ``token`` divides by the number of positions in loss_mask, ``sequence`` averages
            per-sequence means over the first dimension, ``batch`` divides by the number of sequences, ``sum``
            does not divide.
        count: denominator over a larger batch; see ``row_weights``.
        ignore_index: label of rows without a target.
        vocab_size, backend: as in `token_log_probs`.

    Returns:
        Scalar fp32, nats. No row that counts: 0 with a connected graph.

    Raises:
        ValueError: types or shapes that do not fit, an unknown normalizer, or a weight without loss_mask
            where the normalizer counts positions: dividing weights of 1/t by the masked ones would apply 1/t
            twice.

    Source: masked diffusion objective of LLaDA (arXiv 2502.09992) and BD3LM (arXiv 2503.09573).
    """
    function = "cross_entropy_loss"
    check_tensor(function, "logits", logits)
    check_rows(function, logits.shape[:-1], labels=labels, mask=mask, loss_mask=loss_mask)
    check_choice(function, "normalizer", normalizer, NORMALIZERS)
    counts_positions = normalizer == "sequence" or (normalizer == "token" and count is None)
    if weight is not None and loss_mask is None and counts_positions:
        raise ValueError(
            f"{function}: normalizer {normalizer!r} with weight needs loss_mask, the positions trained on; "
            "got None. Pass loss_mask=labels != ignore_index, or loss_mask=mask for a mean over masked rows."
        )
    active = labels != ignore_index if mask is None else mask & (labels != ignore_index)
    loss_mask = active if loss_mask is None else loss_mask
    factor = 1.0 if weight is None else weight
    weights = row_weights(active, loss_mask, factor, normalizer=normalizer, count=count)
    log_p = token_log_probs(logits, labels, active, vocab_size=vocab_size, backend=backend)
    return -(weights * log_p).sum()
