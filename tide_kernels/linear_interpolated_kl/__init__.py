"""KL between the interpolated target of TIDAL and the student, from hidden states and output heads."""

from tide_kernels._shared.linear_divergence import LinearDivergence
from tide_kernels.linear_interpolated_kl.function import linear_interpolated_kl

__all__ = ["LinearDivergence", "linear_interpolated_kl"]
