"""Public op: KL between the interpolated target and the student, per row."""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

from tide_kernels._shared.divergence import register_divergence, row_divergence
from tide_kernels.interpolated_kl.chunked import INTERPOLATED_KL

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from tide_kernels._shared.divergence_launch import DivergenceKernels


def _kernels() -> DivergenceKernels:
    from tide_kernels.interpolated_kl.launch import KERNELS  # needs triton

    return KERNELS


OP = register_divergence("interpolated_kl", INTERPOLATED_KL, _kernels)


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
    """KL(r || softmax(student / T)) per row, towards the interpolated target r, which is held constant.

    r = softmax(((1 - lambda) student + lambda teacher) / T): lambda = 1 is forward KL, lambda = 0 is 0. The
    gradient is (softmax(student / T) - r) / T.

    Logits may be -inf. An entry at -inf on both sides contributes nothing. For 0 < lambda < 1, an entry at
    -inf on either side has r = 0. At lambda = 0, r is the student and the teacher is not consulted: KL and
    gradient are 0. At lambda = 1 the student does not enter r: the student at -inf where the teacher is
    finite gives +inf. A row without any entry that both sides allow is NaN for 0 < lambda < 1, as is a row
    that is -inf throughout.

    Args:
        student_logits: [N, V], fp32, bf16 or fp16 (fp64 works and sums in fp64).
        teacher_logits: [N, V], frozen; may differ in dtype and, with vocab_size, in width.
        lambda_t: number or [N] in [0, 1], the teacher's share of the target. No gradient.
        temperature: T > 0, of both sides.
        labels: [N] token ids; adds the cross-entropy at T = 1 over the same columns to the pass.
        mask: [N] bool. Rows at False are neither read nor counted: 0, with gradient 0, whatever they hold.
        vocab_size: use the first vocab_size columns of both sides; the others get gradient 0.
        backend: "triton" (one pass for every statistic, one for the gradient), "torch" (row chunks; beyond
        the
            gradient it holds a few MiB), "reference" (the definition), or "auto": triton on a GPU, else
            torch.
        inplace_gradient: write the gradient over student_logits, which no other part of the graph may use.
            Saves one [N, V]. A second backward raises.

    Returns:
        kl [N] fp32, nats, not scaled by T²; with labels, (kl [N], ce [N]). Differentiable once.

    Raises:
        ValueError: types, shapes, devices or dtypes that do not fit; a teacher or lambda_t that requires
            grad; lambda_t outside [0, 1]; labels outside the columns in use (the last two read values on
            CPU only); a forward-mode tangent, but for backend "reference".

    Source: TIDE (arXiv 2604.26951) §2.1.
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
