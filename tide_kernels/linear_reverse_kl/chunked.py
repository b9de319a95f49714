"""The `torch` backend of linear_reverse_kl: the row formulas of reverse_kl on logits that live for one
chunk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tide_kernels._shared.linear_divergence import linear_divergence
from tide_kernels.reverse_kl.chunked import REVERSE_KL

if TYPE_CHECKING:
    from tide_kernels._shared.linear_divergence import LinearArguments, LinearDivergence


def linear_reverse_kl_chunked(arguments: LinearArguments, workspace_bytes: int | None) -> LinearDivergence:
    """As the reference, without a tensor of [N, V]; gradients are made in forward."""
    return linear_divergence(REVERSE_KL, arguments, workspace_bytes)
