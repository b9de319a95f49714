"""Divergences over logits: KL from TIDAL's interpolated target, forward KL with it, and reverse KL."""

from tide_kernels.divergence.interpolated_kl import interpolated_kl
from tide_kernels.divergence.reverse_kl import reverse_kl

__all__ = ["interpolated_kl", "reverse_kl"]
