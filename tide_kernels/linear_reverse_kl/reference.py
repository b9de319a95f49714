"""Definition of linear_reverse_kl: both heads in full, then the definition of reverse_kl."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tide_kernels.reverse_kl.reference import reverse_kl_reference

if TYPE_CHECKING:
    from tide_kernels._shared.linear_divergence import LinearArguments, LinearDivergence


def linear_reverse_kl_reference(arguments: LinearArguments) -> LinearDivergence:
    """sum(weight * kl) + sum(ce_weight * ce) of logits = hidden @ weight.T + bias, accumulating wide."""
    student_logits, teacher_logits = arguments.logits()
    kl, ce = reverse_kl_reference(student_logits, teacher_logits, arguments.temperature, arguments.labels)
    return arguments.reduce(kl, ce)
