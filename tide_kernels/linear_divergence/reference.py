"""Definitions of the hidden-in divergences: both heads in full, then the definition over logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tide_kernels.divergence.reference import interpolated_kl_reference, reverse_kl_reference

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from tide_kernels.linear_divergence.arguments import LinearArguments, LinearSettings


def linear_interpolated_kl_reference(
    arguments: LinearArguments, settings: LinearSettings
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"] | None]:
    """(kl, ce or None) per row in the accumulation dtype; differentiable."""
    student_logits, teacher_logits = arguments.logits(settings)
    return interpolated_kl_reference(
        student_logits, teacher_logits, arguments.lambda_t, settings.temperature, arguments.labels
    )


def linear_reverse_kl_reference(
    arguments: LinearArguments, settings: LinearSettings
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"] | None]:
    """(kl, ce or None) per row in the accumulation dtype; differentiable."""
    student_logits, teacher_logits = arguments.logits(settings)
    return reverse_kl_reference(student_logits, teacher_logits, settings.temperature, arguments.labels)
