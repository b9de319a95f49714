"""Operations, one file each: inputs, definition, contestants and targets."""

from __future__ import annotations

from benchmarks._op import Op
from benchmarks.ops import calm, chunk_likelihood, interpolated_kl, reverse_kl, token_logprob

OPS: tuple[Op, ...] = (
    *interpolated_kl.OPS,
    *reverse_kl.OPS,
    *token_logprob.OPS,
    *chunk_likelihood.OPS,
    *calm.OPS,
)


def load_op(name: str) -> Op:
    """The operation of that name."""
    return next(op for op in OPS if op.name == name)
