"""Public op: KL of the student's distribution from the teacher's, per row."""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

from tide_kernels.divergence.formulas import REVERSE_KL
from tide_kernels.divergence.op import register_divergence, row_divergence

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor


OP = register_divergence("reverse_kl", REVERSE_KL.formulas.reference)


@overload
def reverse_kl(
    student_logits: Float[Tensor, "N V"],
    teacher_logits: Float[Tensor, "N V2"],
    *,
    temperature: float = ...,
    labels: None = ...,
    mask: Bool[Tensor, " N"] | None = ...,
    vocab_size: int | None = ...,
    backend: str = ...,
    inplace_gradient: bool = ...,
) -> Float[Tensor, " N"]: ...


@overload
def reverse_kl(
    student_logits: Float[Tensor, "N V"],
    teacher_logits: Float[Tensor, "N V2"],
    *,
    temperature: float = ...,
    labels: Int[Tensor, " N"],
    mask: Bool[Tensor, " N"] | None = ...,
    vocab_size: int | None = ...,
    backend: str = ...,
    inplace_gradient: bool = ...,
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]: ...


def reverse_kl(
    student_logits: Float[Tensor, "N V"],
    teacher_logits: Float[Tensor, "N V2"],
    *,
    temperature: float = 1.0,
    labels: Int[Tensor, " N"] | None = None,
    mask: Bool[Tensor, " N"] | None = None,
    vocab_size: int | None = None,
    backend: str = "auto",
    inplace_gradient: bool = False,
) -> Float[Tensor, " N"] | tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """KL(softmax(student / T) || softmax(teacher / T)) per row.

    With p and q the two distributions, the gradient is p (log p - log q - KL) / T.

    Logits may be -inf. A student entry at -inf is skipped. A teacher entry at -inf where the student has mass
    makes the KL +inf and the row's gradient non-finite: mask the row, or exclude the entry from the student
    too. A row that is -inf throughout is NaN.

    Arguments, results and errors are those of `interpolated_kl`, without lambda_t.

    Source: TIDE (arXiv 2604.26951), the reverse KL baseline; derivation in docs/kernels/divergences.md.
    """
    return row_divergence(
        OP,
        student_logits,
        teacher_logits,
        1.0,
        temperature,
        labels,
        mask,
        vocab_size,
        backend,
        inplace_gradient,
    )
