"""Public op: KL between the interpolated target and the student, per row."""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

from tide_kernels.divergence.formulas import INTERPOLATED_KL
from tide_kernels.divergence.op import register_divergence, row_divergence

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor


OP = register_divergence("interpolated_kl", INTERPOLATED_KL.formulas.reference)


@overload
def interpolated_kl(
    student_logits: Float[Tensor, "N V"],
    teacher_logits: Float[Tensor, "N V2"],
    lambda_t: float | Float[Tensor, " N"],
    *,
    temperature: float = ...,
    labels: None = ...,
    mask: Bool[Tensor, " N"] | None = ...,
    vocab_size: int | None = ...,
    backend: str = ...,
    inplace_gradient: bool = ...,
) -> Float[Tensor, " N"]: ...


@overload
def interpolated_kl(
    student_logits: Float[Tensor, "N V"],
    teacher_logits: Float[Tensor, "N V2"],
    lambda_t: float | Float[Tensor, " N"],
    *,
    temperature: float = ...,
    labels: Int[Tensor, " N"],
    mask: Bool[Tensor, " N"] | None = ...,
    vocab_size: int | None = ...,
    backend: str = ...,
    inplace_gradient: bool = ...,
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]: ...


def interpolated_kl(
    student_logits: Float[Tensor, "N V"],
    teacher_logits: Float[Tensor, "N V2"],
    lambda_t: float | Float[Tensor, " N"],
    *,
    temperature: float = 1.0,
    labels: Int[Tensor, " N"] | None = None,
    mask: Bool[Tensor, " N"] | None = None,
    vocab_size: int | None = None,
    backend: str = "auto",
    inplace_gradient: bool = False,
) -> Float[Tensor, " N"] | tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """KL(r || softmax(student / T)) per row; the interpolated target r is held constant.

    r = softmax(((1 - lambda) student + lambda teacher) / T): lambda = 1 is forward KL, lambda = 0 is 0. The
    gradient is (softmax(student / T) - r) / T.

    Logits may be -inf. An entry at -inf on both sides is skipped. For 0 < lambda < 1, r = 0 at an entry that
    is -inf on either side. At lambda = 0 the teacher is not read. At lambda = 1 the student does not enter r:
    a student entry at -inf where the teacher is finite gives +inf. A row without an entry finite on both
    sides is NaN for 0 < lambda < 1, and so is a row that is -inf throughout.

    Args:
        student_logits: [N, V], fp32, bf16 or fp16 (fp64 is summed in fp64).
        teacher_logits: [N, V], frozen; may differ in dtype and, with vocab_size, in width.
        lambda_t: number or [N] in [0, 1], the teacher's share of the target. No gradient.
        temperature: T > 0, of both sides.
        labels: [N] token ids; adds the cross-entropy at T = 1 over the same columns, in the same pass.
        mask: [N] bool. Rows at False are not read and give 0 with gradient 0.
        vocab_size: use the first vocab_size columns of both sides; the others get gradient 0.
        backend: "auto" (triton on a GPU, native on a CPU, else torch), "triton" (one pass for the statistics,
            one for the gradient), "native" (C), "torch" (row blocks; holds a few MiB beyond the gradient) or
            "reference" (the definition).
        inplace_gradient: overwrite student_logits with the gradient, which saves one [N, V]. Nothing else in
            the graph may use them, and a second backward raises.

    Returns:
        kl [N] fp32, nats, not scaled by T²; with labels, (kl [N], ce [N]). Differentiable once.

    Raises:
        ValueError: types, shapes, devices or dtypes do not match; the teacher or lambda_t requires grad; an
            input has a forward-mode tangent (except with "reference"). On CPU also: lambda_t outside [0, 1],
            or labels outside the columns in use.

    Source: TIDE (arXiv 2604.26951) §2.1; derivation in docs/kernels/divergences.md.
    """
    return row_divergence(
        OP,
        student_logits,
        teacher_logits,
        lambda_t,
        temperature,
        labels,
        mask,
        vocab_size,
        backend,
        inplace_gradient,
    )
