"""Public op: log-probability of one token per row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tide_kernels._shared.backends import BACKENDS, resolve_backend
from tide_kernels._shared.checks import (
    accumulation_dtype,
    check_id_values,
    check_ids,
    check_inplace_gradient,
    check_mask,
    check_matrix,
    check_no_tangent,
    check_vocab,
)
from tide_kernels._shared.first_order import forbid_double_backward, spend_once
from tide_kernels._shared.row_blocks import RowBlocks, active_rows
from tide_kernels.token_logprob.reference import token_logprob_reference

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


def token_logprob(
    logits: Float[Tensor, "N V"],
    token_ids: Int[Tensor, " N"],
    *,
    mask: Bool[Tensor, " N"] | None = None,
    vocab_size: int | None = None,
    backend: str = "auto",
    inplace_gradient: bool = False,
) -> Float[Tensor, " N"]:
    """log softmax(logits)[y] per row, at T = 1. The gradient is onehot(y) - softmax(logits).

    For a probability within an ulp of 1 the logarithm keeps its relative precision: chunk likelihoods compute
    1 - P from it. Logits may be -inf; a token at -inf gives -inf. A row that is -inf throughout is NaN.

    Args:
        logits: [N, V], fp32, bf16 or fp16 (fp64 is summed in fp64).
        token_ids: [N] integers y.
        vocab_size: normalise over the first vocab_size columns; the others get gradient 0.
        mask, backend, inplace_gradient: as for `interpolated_kl`.

    Returns:
        [N] fp32, nats, at most 0. Differentiable once.

    Raises:
        ValueError: types, shapes, devices or dtypes do not match; an id is outside the columns in use
            (checked on CPU only); the logits have a forward-mode tangent (except with "reference").

    Source: TIDE (arXiv 2604.26951), the token log-probabilities that CALM sums over blocks.
    """
    name = "token_logprob"
    check_matrix(name, "logits", logits)
    vocab = check_vocab(name, vocab_size, logits.shape[1])
    num_rows, device, dtype = logits.shape[0], logits.device, accumulation_dtype(logits)
    which = resolve_backend(name, backend, device, dtype)
    check_mask(name, mask, num_rows, device)
    ids = check_ids(name, "token_ids", token_ids, num_rows, device)
    check_no_tangent(name, which, {"logits": logits})
    if inplace_gradient:
        check_inplace_gradient(name, logits, which)
    if which != "reference":
        log_p: Float[Tensor, " N"] = _forward(logits, ids, mask, vocab, which, inplace_gradient)[0]
        return log_p
    if not torch.compiler.is_compiling():
        check_id_values(name, "token_ids", ids, vocab, mask)
    blocks = RowBlocks(num_rows, active_rows(mask), vocab, dtype, device)
    every = slice(0, blocks.num_active)
    return blocks.scatter(token_logprob_reference(blocks.gather(logits), blocks.select(ids, every)), num_rows)


_INPUTS = "Tensor{} logits, Tensor token_ids, Tensor? mask, SymInt vocab, str backend"
_UPSTREAM = "Tensor statistics, Tensor d_log_p"


@torch.library.custom_op(
    "tide_kernels::token_logprob",
    mutates_args=(),
    schema=f"({_INPUTS.format('')}, bool inplace_gradient) -> (Tensor, Tensor)",
)
def _forward(
    logits: Tensor, token_ids: Tensor, mask: Tensor | None, vocab: int, backend: str, inplace_gradient: bool
) -> tuple[Tensor, Tensor]:
    check_id_values("token_logprob", "token_ids", token_ids, vocab, mask)
    run = BACKENDS["token_logprob"][backend].load()
    log_p, statistics = run.forward(logits, token_ids, mask, vocab)
    return log_p, statistics


@_forward.register_fake
def _(logits: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    num_rows, dtype = logits.shape[0], accumulation_dtype(logits)
    return logits.new_empty((num_rows,), dtype=dtype), logits.new_empty((num_rows, 4), dtype=dtype)


def _write_gradient(
    out: Tensor | None,
    logits: Tensor,
    token_ids: Tensor,
    mask: Tensor | None,
    vocab: int,
    backend: str,
    statistics: Tensor,
    d_log_p: Tensor,
) -> Tensor:
    run = BACKENDS["token_logprob"][backend].load()
    gradient: Tensor = run.backward(logits, token_ids, mask, statistics, d_log_p, vocab, out)
    return gradient


@torch.library.custom_op(
    "tide_kernels::token_logprob_backward",
    mutates_args=(),
    schema=f"({_INPUTS.format('')}, {_UPSTREAM}) -> Tensor",
)
def _backward(*arguments: Any) -> Tensor:
    return _write_gradient(None, *arguments)


@_backward.register_fake
def _(logits: Tensor, *_: Any) -> Tensor:
    return logits.new_empty(logits.shape)


@torch.library.custom_op(
    "tide_kernels::token_logprob_backward_",
    mutates_args=("logits",),
    schema=f"({_INPUTS.format('(a!)')}, {_UPSTREAM}) -> ()",
)
def _backward_(logits: Tensor, *arguments: Any) -> None:
    _write_gradient(logits, logits, *arguments)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.vocab, ctx.backend, ctx.inplace_gradient = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*tensors, output[1])


def _differentiate(ctx: Any, d_log_p: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    if ctx.inplace_gradient:
        spend_once(ctx, "token_logprob")
    logits, token_ids, mask, statistics = ctx.saved_tensors
    arguments = (token_ids, mask, ctx.vocab, ctx.backend, statistics, d_log_p)
    if not ctx.inplace_gradient:
        return _backward(logits, *arguments), *(None,) * 5
    d_logits = logits.detach()
    _backward_(d_logits, *arguments)
    return d_logits, *(None,) * 5


_forward.register_autograd(_differentiate, setup_context=_setup_context)
forbid_double_backward(_backward)
