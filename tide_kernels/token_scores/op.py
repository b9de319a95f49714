"""Public op: the most probable token per row, and how certain it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tide_kernels._shared.backends import BACKENDS, resolve_backend
from tide_kernels._shared.checks import accumulation_dtype, check_matrix, check_vocab
from tide_kernels.token_scores.reference import TokenScores, token_scores_reference

if TYPE_CHECKING:
    from jaxtyping import Float


@torch.no_grad()
def token_scores(
    logits: Float[Tensor, "N V"], *, vocab_size: int | None = None, backend: str = "auto"
) -> TokenScores:
    """Argmax, its log-probability, the entropy, and the margin between the two best tokens, per row.

    No gradient. Logits may be -inf: such tokens have probability 0 and are chosen only if no other is finite.
    A row that is -inf throughout, or holds a NaN, is NaN.

    Args:
        logits: [N, V], fp32, bf16 or fp16 (fp64 is summed in fp64).
        vocab_size: use the first vocab_size columns.
        backend: "auto" (triton on a GPU, native on a CPU, else torch), "triton" (one pass), "native" (C),
            "torch" (row blocks) or "reference" (the definition).

    Returns:
        TokenScores, each [N]: token_ids int64 (the lowest id in a tie); log_p and entropy fp32, nats; margin
        fp32, a difference of probabilities, 1 if there is one column.

    Raises:
        ValueError: the logits are not floating [N, V], or vocab_size is out of range.

    Source: docs/kernels/tokens_and_chunks.md.
    """
    name = "token_scores"
    check_matrix(name, "logits", logits)
    vocab = check_vocab(name, vocab_size, logits.shape[1])
    dtype = accumulation_dtype(logits)
    which = resolve_backend(name, backend, logits.device, dtype)
    if which != "reference":
        return TokenScores(*_forward(logits, vocab, which))
    return token_scores_reference(logits[:, :vocab].to(dtype))


@torch.library.custom_op(
    "tide_kernels::token_scores",
    mutates_args=(),
    schema="(Tensor logits, SymInt vocab, str backend) -> (Tensor, Tensor, Tensor, Tensor)",
)
def _forward(logits: Tensor, vocab: int, backend: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    token_ids, log_p, entropy, margin = BACKENDS["token_scores"][backend].load().forward(logits, vocab)
    return token_ids, log_p, entropy, margin


@_forward.register_fake
def _(logits: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    num_rows, dtype = logits.shape[0], accumulation_dtype(logits)
    ids = logits.new_empty((num_rows,), dtype=torch.int64)
    log_p, entropy, margin = (logits.new_empty((num_rows,), dtype=dtype) for _ in range(3))
    return ids, log_p, entropy, margin
