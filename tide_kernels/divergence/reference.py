"""Definitions of the divergences in plain torch: differentiable, exact in fp64; they hold several [N, V]."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


def interpolated_target(
    student_logits: Float[Tensor, "N V"],
    teacher_logits: Float[Tensor, "N V"],
    lambda_t: Float[Tensor, " N"],
    temperature: float,
) -> Float[Tensor, "N V"]:
    """log r, r = softmax(((1 - lambda) student + lambda teacher) / T), detached.

    lambda = 0 and 1 do not read the other side: 0 * -inf would be NaN.
    """
    share = lambda_t[:, None]
    mixed = torch.where(
        share == 0,
        student_logits,
        torch.where(share == 1, teacher_logits, (1 - share) * student_logits + share * teacher_logits),
    )
    return torch.log_softmax(mixed / temperature, dim=-1).detach()


def kl_to_student(
    target_log_p: Float[Tensor, "N V"], student_logits: Float[Tensor, "N V"], temperature: float
) -> Float[Tensor, " N"]:
    """KL(r || softmax(student / T)) per row; entries with r = 0 are skipped."""
    student_log_p = torch.log_softmax(student_logits / temperature, dim=-1)
    target_p = target_log_p.exp()
    # != instead of >: a NaN must propagate.
    return torch.where(target_p != 0, target_p * (target_log_p - student_log_p), 0.0).sum(-1)


def cross_entropy(student_logits: Float[Tensor, "N V"], labels: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
    """-log softmax(student)_label per row, at T = 1."""
    return -torch.log_softmax(student_logits, dim=-1).gather(-1, labels[:, None]).squeeze(-1)


def interpolated_kl_reference(
    student_logits: Float[Tensor, "N V"],
    teacher_logits: Float[Tensor, "N V"],
    lambda_t: Float[Tensor, " N"],
    temperature: float,
    labels: Int[Tensor, " N"] | None = None,
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"] | None]:
    """KL(r || softmax(student / T)) and, with labels, the cross-entropy, per row, in the arguments' dtype."""
    target_log_p = interpolated_target(student_logits, teacher_logits, lambda_t, temperature)
    kl = kl_to_student(target_log_p, student_logits, temperature)
    return kl, None if labels is None else cross_entropy(student_logits, labels)


def interpolated_kl_gradient(
    student_logits: Float[Tensor, "N V"],
    teacher_logits: Float[Tensor, "N V"],
    lambda_t: Float[Tensor, " N"],
    temperature: float,
) -> Float[Tensor, "N V"]:
    """d KL / d student_logits = (softmax(student / T) - r) / T."""
    target_log_p = interpolated_target(student_logits, teacher_logits, lambda_t, temperature)
    return (torch.softmax(student_logits / temperature, dim=-1) - target_log_p.exp()) / temperature


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
    return kl, cross_entropy(student_logits, labels)


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
