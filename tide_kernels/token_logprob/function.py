"""Public op: log-probability of one token per row."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tide_kernels._shared.backends import resolve_backend
from tide_kernels._shared.checks import accumulation_dtype, check_ids, check_mask, check_matrix, check_vocab
from tide_kernels._shared.chunking import RowChunks, active_rows
from tide_kernels.token_logprob.chunked import TokenLogProbFunction
from tide_kernels.token_logprob.reference import token_logprob_reference

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor


def token_logprob(
    logits: Float[Tensor, "N V"],
    token_ids: Int[Tensor, " N"],
    *,
    mask: Bool[Tensor, " N"] | None = None,
    vocab_size: int | None = None,
    backend: str = "auto",
) -> Float[Tensor, " N"]:
    """log softmax(logits)[y] per row, at T = 1. The gradient is onehot(y) - softmax(logits).

    A probability within an ulp of 1 keeps the relative precision of its logarithm: chunk likelihoods read 1 -
    P off it. Logits may be -inf; the token itself at -inf gives -inf. A row that is -inf throughout is NaN.

    Args:
        logits: [N, V], fp32, bf16 or fp16 (fp64 works and sums in fp64).
        token_ids: [N] integers y.
        mask: [N] bool. Rows at False are neither read nor counted: 0, with gradient 0, whatever they hold.
        vocab_size: normalise over the first vocab_size columns; the others get gradient 0.
        backend: "auto", "torch" (row chunks; beyond the gradient it holds a few MiB) or "reference".

    Returns:
        [N] fp32, nats, at most 0. Differentiable once.

    Raises:
        ValueError: shapes, devices or dtypes that do not fit; ids outside the columns in use (values are read
            on CPU only).

    Source: TIDE (arXiv 2604.26951), the token log-probabilities that CALM sums over chunks.
    """
    name = "token_logprob"
    which = resolve_backend(name, backend)
    check_matrix(name, "logits", logits)
    vocab = check_vocab(name, vocab_size, logits.shape[1])
    num_rows, device = logits.shape[0], logits.device
    check_mask(name, mask, num_rows, device)
    active = active_rows(mask)
    ids = check_ids(name, "token_ids", token_ids, num_rows, vocab, device, active)
    dtype = accumulation_dtype(logits)
    if which == "torch":
        log_p: Float[Tensor, " N"] = TokenLogProbFunction.apply(logits, ids, active, vocab, dtype)  # type: ignore[no-untyped-call]
        return log_p
    chunks = RowChunks(num_rows, active, vocab, dtype, device)
    every = slice(0, chunks.num_active)
    return chunks.scatter(token_logprob_reference(chunks.gather(logits), chunks.select(ids, every)), num_rows)
