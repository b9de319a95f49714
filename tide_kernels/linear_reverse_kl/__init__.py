"""KL between the student and the teacher, over hidden states and output heads."""

from tide_kernels._shared.linear_divergence import LinearDivergence
from tide_kernels.linear_reverse_kl.function import linear_reverse_kl

__all__ = ["LinearDivergence", "linear_reverse_kl"]
