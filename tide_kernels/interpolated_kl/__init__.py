"""KL between the interpolated target of TIDAL and the student, from logits."""

from tide_kernels.interpolated_kl.function import interpolated_kl

__all__ = ["interpolated_kl"]
