"""Definition of linear_reverse_kl: both heads in full, then the definition of reverse_kl."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tide_kernels.reverse_kl.reference import reverse_kl_reference

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from tide_kernels._shared.linear_arguments import LinearArguments, LinearSettings


def linear_reverse_kl_reference(
    arguments: LinearArguments, settings: LinearSettings
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"] | None]:
    """(kl, ce or None) per row in the accumulation dtype; differentiable."""
    student_logits, teacher_logits = arguments.logits(settings)
    return reverse_kl_reference(student_logits, teacher_logits, settings.temperature, arguments.labels)
