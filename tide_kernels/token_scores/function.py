"""Public op: the most probable token of each row, and how sure the row is of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tide_kernels._shared.backends import resolve_plain_backend
from tide_kernels._shared.checks import accumulation_dtype, check_matrix, check_vocab
from tide_kernels.token_scores.chunked import token_scores_chunked
from tide_kernels.token_scores.reference import TokenScores, token_scores_reference

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@torch.no_grad()
def token_scores(
    logits: Float[Tensor, "N V"], *, vocab_size: int | None = None, backend: str = "auto"
) -> TokenScores:
    """Argmax, its log-probability, the entropy, and the margin between the two best tokens, per row.

    No gradient. Logits may be -inf: such tokens have probability 0 and are never chosen while another is
    finite. A row that is -inf throughout is NaN, as is a row that holds a NaN.

    Args:
        logits: [N, V], fp32, bf16 or fp16 (fp64 works and sums in fp64).
        vocab_size: use the first vocab_size columns.
        backend: "auto", "torch" (row chunks) or "reference".

    Returns:
        TokenScores of [N] each: token_ids int64 (the lowest id among equals), log_p, entropy (nats) and
        margin (difference of probabilities; 1 if there is one column), fp32.

    Raises:
        ValueError: the logits are no floating [N, V], or vocab_size does not fit.
    """
    name = "token_scores"
    which = resolve_plain_backend(name, backend)
    check_matrix(name, "logits", logits)
    vocab = check_vocab(name, vocab_size, logits.shape[1])
    dtype = accumulation_dtype(logits)
    if which == "torch":
        return token_scores_chunked(logits, vocab, dtype)
    return token_scores_reference(logits[:, :vocab].to(dtype))
