"""KL of the student from the teacher, from hidden states and output heads."""

from tide_kernels._shared.linear_divergence import LinearDivergence
from tide_kernels.linear_reverse_kl.function import linear_reverse_kl

__all__ = ["LinearDivergence", "linear_reverse_kl"]
