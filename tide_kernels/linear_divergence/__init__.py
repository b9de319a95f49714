"""The divergences over hidden states and output heads: no [N, V] logits."""

from tide_kernels.linear_divergence.linear_interpolated_kl import linear_interpolated_kl
from tide_kernels.linear_divergence.linear_reverse_kl import linear_reverse_kl
from tide_kernels.linear_divergence.op import LinearDivergence

__all__ = ["LinearDivergence", "linear_interpolated_kl", "linear_reverse_kl"]
