"""Definition of reverse_kl in plain torch: differentiable, exact in fp64; holds several [N, V]."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


def reverse_kl_reference(
    student_logits: Float[Tensor, "N V"],
    teacher_logits: Float[Tensor, "N V"],
    temperature: float,
    labels: Int[Tensor, " N"] | None = None,
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"] | None]:
    """KL(softmax(student / T) || softmax(teacher / T)) and, with labels, the cross-entropy, per row."""
    student_log_p = torch.log_softmax(student_logits / temperature, dim=-1)
    teacher_log_p = torch.log_softmax(teacher_logits / temperature, dim=-1)
    student_p = student_log_p.exp()
    outside = student_p == 0
    # 0 * (-inf) is NaN in both passes: drop entries without student mass before the product.
    log_ratio = student_log_p.masked_fill(outside, 0.0) - teacher_log_p.masked_fill(outside, 0.0)
    kl = (student_p * log_ratio).sum(-1)
    if labels is None:
        return kl, None
    return kl, -torch.log_softmax(student_logits, dim=-1).gather(-1, labels[:, None]).squeeze(-1)


def reverse_kl_gradient(
    student_logits: Float[Tensor, "N V"], teacher_logits: Float[Tensor, "N V"], temperature: float
) -> Float[Tensor, "N V"]:
    """d KL / d student_logits = p (log p - log q - KL) / T; p of the student, q of the teacher."""
    student_log_p = torch.log_softmax(student_logits / temperature, dim=-1)
    teacher_log_p = torch.log_softmax(teacher_logits / temperature, dim=-1)
    student_p = student_log_p.exp()
    outside = student_p == 0
    log_ratio = student_log_p.masked_fill(outside, 0.0) - teacher_log_p.masked_fill(outside, 0.0)
    kl = (student_p * log_ratio).sum(-1, keepdim=True)
    return torch.where(outside, 0.0, student_p * (log_ratio - kl)) / temperature
