"""Public op: log-probability of one token per row, from hidden states."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tide_kernels._shared.backends import resolve_plain_backend
from tide_kernels._shared.checks import accumulation_dtype, check_id_values, check_ids, check_vocab
from tide_kernels._shared.head import check_head, check_workspace, cut_to_vocabulary
from tide_kernels.linear_token_logprob.chunked import LinearTokenLogprobFunction
from tide_kernels.linear_token_logprob.reference import linear_token_logprob_reference

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


def linear_token_logprob(
    hidden: Float[Tensor, "N d"],
    weight: Float[Tensor, "V d"],
    token_ids: Int[Tensor, " N"],
    *,
    bias: Float[Tensor, " V"] | None = None,
    vocab_size: int | None = None,
    workspace_bytes: int | None = None,
    backend: str = "auto",
) -> Float[Tensor, " N"]:
    """log softmax(hidden @ weight.T + bias)[token] per row at T = 1, without holding [N, V] logits.

    Forward keeps a few numbers per row; backward makes the logits of a chunk of rows once more. Products
    accumulate in fp32 and logits are not rounded to the model's dtype.

    Args:
        hidden: [N, d], fp32, bf16 or fp16 (fp64 works in fp64): the rows a loss reads, and no others.
        weight: [V, d], the head; may require grad, be frozen, or be tied to an embedding.
        token_ids: [N] integers in [0, V).
        bias: [V] or None.
        vocab_size: normalise over the first vocab_size entries; the others get gradient 0.
        workspace_bytes: for logits in flight, at least one row's; None for the environment variable
            TIDE_WORKSPACE_BYTES, or 256 MiB on CPU and 2 GiB on a GPU.
        backend: "auto", "torch" (row chunks) or "reference" (all logits at once).

    Returns:
        [N] fp32, nats, at most 0. Differentiable once.

    Raises:
        ValueError: shapes, devices or dtypes that do not fit, or ids outside the vocabulary (read on CPU
            only).
    """
    name = "linear_token_logprob"
    which = resolve_plain_backend(name, backend)
    check_head(name, "", hidden, weight, bias, frozen=False)
    check_workspace(name, workspace_bytes)
    vocab = check_vocab(name, vocab_size, weight.shape[0])
    token_ids = check_ids(name, "token_ids", token_ids, hidden.shape[0], hidden.device)
    check_id_values(name, "token_ids", token_ids, vocab, None)
    weight = cut_to_vocabulary(weight, vocab)
    bias = None if bias is None else cut_to_vocabulary(bias, vocab)
    dtype = accumulation_dtype(hidden, weight)
    if which == "reference":
        return linear_token_logprob_reference(hidden, weight, bias, token_ids, dtype)
    log_p: Tensor = LinearTokenLogprobFunction.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, token_ids, dtype, workspace_bytes
    )
    return log_p
