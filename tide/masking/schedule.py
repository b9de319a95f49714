"""The linear masking schedule: α(t) = 1 − t, so a token is masked with probability t and weighs 1/t.

Source: Block Diffusion (arXiv 2503.09573) §3; MDLM (arXiv 2406.07524) §3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


def sample_timesteps(
    batch_size: int, *, time_epsilon: float = 1e-3, generator: torch.Generator | None = None
) -> Float[Tensor, "B"]:
    """Draw one diffusion time per sequence, uniform in [time_epsilon, 1], in fp32.

    Raises:
        ValueError: time_epsilon is outside (0, 1).
    """
    if not 0 < time_epsilon < 1:
        raise ValueError(
            f"sample_timesteps: time_epsilon must be in (0, 1); got {time_epsilon}. 1e-3 is usual: it "
            "bounds the weight 1/t."
        )
    return time_epsilon + (1 - time_epsilon) * torch.rand(batch_size, generator=generator)


def masking_probability(t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Probability that a token is masked at time t: 1 − α(t) = t."""
    return t


def touched_probability(t: Float[Tensor, "B L"], count: Float[Tensor, "B L"]) -> Float[Tensor, "B L"]:
    """Probability that at least one of `count` tokens is masked at time t: 1 − α(t)^count."""
    # In fp64, so that it is t itself for one token.
    return (1 - (1 - masking_probability(t).double()) ** count).to(t.dtype)


def diffusion_weight(t: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Weight of a masked token's cross-entropy in the diffusion bound: −α'(t) / (1 − α(t)) = 1/t."""
    return 1.0 / t
