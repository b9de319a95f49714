"""`triton` backend of interpolated_kl: its kernels, launched by `_shared/divergence_launch.py`."""

from __future__ import annotations

from tide_kernels._shared.divergence_launch import DivergenceKernels
from tide_kernels.interpolated_kl.kernels import (
    interpolated_kl_bwd_kernel,
    interpolated_kl_fwd_kernel,
    interpolated_kl_join_kernel,
)

KERNELS = DivergenceKernels(
    "interpolated_kl",
    interpolated_kl_fwd_kernel,
    interpolated_kl_join_kernel,
    interpolated_kl_bwd_kernel,
    takes_lambda=True,
)
