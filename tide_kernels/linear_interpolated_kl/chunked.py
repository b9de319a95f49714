"""The `torch` backend of linear_interpolated_kl: the row formulas of interpolated_kl on logits that live for
one chunk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tide_kernels._shared.linear_divergence import linear_divergence
from tide_kernels.interpolated_kl.chunked import INTERPOLATED_KL

if TYPE_CHECKING:
    from tide_kernels._shared.linear_divergence import LinearArguments, LinearDivergence


def linear_interpolated_kl_chunked(
    arguments: LinearArguments, workspace_bytes: int | None
) -> LinearDivergence:
    """As the reference, without a tensor of [N, V]; gradients are made in forward."""
    return linear_divergence(INTERPOLATED_KL, arguments, workspace_bytes)
