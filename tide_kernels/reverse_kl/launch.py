"""`triton` backend of reverse_kl: its kernels, launched by `_shared/divergence_launch.py`."""

from __future__ import annotations

from tide_kernels._shared.divergence_launch import DivergenceKernels
from tide_kernels.reverse_kl.kernels import (
    reverse_kl_bwd_kernel,
    reverse_kl_fwd_kernel,
    reverse_kl_join_kernel,
)

KERNELS = DivergenceKernels(
    "reverse_kl",
    reverse_kl_fwd_kernel,
    reverse_kl_join_kernel,
    reverse_kl_bwd_kernel,
    takes_lambda=False,
)
