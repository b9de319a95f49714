"""Public op: KL of the student's distribution from the teacher's, per row."""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

from tide_kernels._shared.divergence import register_divergence, row_divergence
from tide_kernels.reverse_kl.chunked import REVERSE_KL

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from tide_kernels._shared.divergence_launch import DivergenceKernels


def _kernels() -> DivergenceKernels:
    from tide_kernels.reverse_kl.launch import KERNELS  # needs triton

    return KERNELS


OP = register_divergence("reverse_kl", REVERSE_KL, _kernels)


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

    Logits may be -inf. A student entry at -inf contributes nothing, whatever the teacher holds there. A
    teacher entry at -inf where the student has mass makes the KL +inf, and the gradient of such a row is not
    finite: mask the row, or exclude the entry from the student too. A row that is -inf throughout is NaN.

    Args:
        student_logits: [N, V], fp32, bf16 or fp16 (fp64 works and sums in fp64).
        teacher_logits: [N, V], frozen; may differ in dtype and, with vocab_size, in width.
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
        ValueError: types, shapes, devices or dtypes that do not fit; a teacher that requires grad; labels
            outside the columns in use (values are read on CPU only); a forward-mode tangent, but for
            backend "reference".

    Source: TIDE (arXiv 2604.26951), the reverse KL baseline.
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
