"""Public op: KL between the student and the teacher, from hidden states."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tide_kernels._shared.backends import resolve_plain_backend
from tide_kernels._shared.linear_divergence import LinearDivergence, check_linear_divergence
from tide_kernels.linear_reverse_kl.chunked import linear_reverse_kl_chunked
from tide_kernels.linear_reverse_kl.reference import linear_reverse_kl_reference

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


def linear_reverse_kl(
    student_hidden: Float[Tensor, "N ds"],
    student_weight: Float[Tensor, "V ds"],
    teacher_hidden: Float[Tensor, "N dt"],
    teacher_weight: Float[Tensor, "V2 dt"],
    *,
    temperature: float = 1.0,
    labels: Int[Tensor, " N"] | None = None,
    weight: Float[Tensor, " N"] | None = None,
    ce_weight: Float[Tensor, " N"] | None = None,
    student_bias: Float[Tensor, " V"] | None = None,
    teacher_bias: Float[Tensor, " V2"] | None = None,
    vocab_size: int | None = None,
    workspace_bytes: int | None = None,
    backend: str = "auto",
) -> LinearDivergence:
    """sum(weight * kl) + sum(ce_weight * ce) over rows, with logits = hidden @ weight.T + bias that are never
    held.

    kl = KL(softmax(student / T) || softmax(teacher / T)); ce = -log softmax(student)_label at T = 1. Products
    accumulate in fp32 and logits are not rounded to the model's dtype. Gradients are made in forward, row
    chunk by row chunk, so no product with a head runs twice; they are kept in fp32 until backward: N ds + V
    ds numbers (the latter only if the head is trained). A second backward through a retained graph makes them
    again.

    Args:
        student_hidden: [N, ds], fp32, bf16 or fp16 (fp64 works in fp64): the rows a loss reads, and no
            others.
        student_weight: [V, ds], the student's head; may require grad, be frozen, or be tied to an embedding.
        teacher_hidden: [N, dt], frozen.
        teacher_weight: [V2, dt], frozen.
        temperature: T > 0, of both sides.
        labels: [N] token ids; adds the cross-entropy at T = 1.
        weight: [N] factor of kl; None for 1. No gradient. Carries T² and 1/N where they are wanted.
        ce_weight: [N] factor of ce; None for 1. No gradient.
        student_bias: [V] or None.
        teacher_bias: [V2] or None, frozen.
        vocab_size: use the first vocab_size rows of both heads; the others get gradient 0.
        workspace_bytes: for logits of both sides in flight, at least one row's; None for the environment
            variable TIDE_WORKSPACE_BYTES, or 256 MiB on CPU and 2 GiB on a GPU.
        backend: "auto", "torch" (row chunks) or "reference" (all logits at once).

    Returns:
        LinearDivergence(loss, kl, ce): loss fp32 scalar, differentiable once; kl [N] and ce [N] or None,
        fp32, nats, detached.

    Raises:
        ValueError: shapes, devices or dtypes that do not fit; a teacher, lambda or weight that requires grad;
            a value outside its range (values of tensors are read on CPU only).

    Source: TIDE (arXiv 2604.26951), reverse objective on a shared tokenizer.
    """
    name = "linear_reverse_kl"
    which = resolve_plain_backend(name, backend)
    arguments = check_linear_divergence(
        name,
        student_hidden,
        student_weight,
        teacher_hidden,
        teacher_weight,
        1.0,  # reverse KL has no interpolation
        temperature=temperature,
        labels=labels,
        weight=weight,
        ce_weight=ce_weight,
        student_bias=student_bias,
        teacher_bias=teacher_bias,
        vocab_size=vocab_size,
        workspace_bytes=workspace_bytes,
    )
    if which == "reference":
        return linear_reverse_kl_reference(arguments)
    return linear_reverse_kl_chunked(arguments, workspace_bytes)
