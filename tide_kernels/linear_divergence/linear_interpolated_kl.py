"""Public op: KL between the interpolated target and the student, from hidden states."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tide_kernels.linear_divergence.arguments import check_linear_divergence
from tide_kernels.linear_divergence.op import (
    LinearDivergence,
    linear_divergence,
    register_linear_divergence,
)
from tide_kernels.linear_divergence.reference import linear_interpolated_kl_reference

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float, Int
    from torch import Tensor
    from torch.distributed import ProcessGroup


_OP = register_linear_divergence("linear_interpolated_kl", linear_interpolated_kl_reference)


def linear_interpolated_kl(
    student_hidden: Float[Tensor, "N ds"],
    student_weight: Float[Tensor, "V ds"],
    teacher_hidden: Float[Tensor, "N dt"],
    teacher_weight: Float[Tensor, "V2 dt"],
    lambda_t: float | Float[Tensor, " N"],
    *,
    temperature: float = 1.0,
    labels: Int[Tensor, " N"] | None = None,
    weight: Float[Tensor, " N"] | None = None,
    ce_weight: Float[Tensor, " N"] | None = None,
    student_bias: Float[Tensor, " V"] | None = None,
    teacher_bias: Float[Tensor, " V2"] | None = None,
    vocab_size: int | None = None,
    student_logit_scale: float = 1.0,
    teacher_logit_scale: float = 1.0,
    student_softcap: float | None = None,
    teacher_softcap: float | None = None,
    logits_dtype: torch.dtype | None = None,
    workspace_bytes: int | None = None,
    vocab_group: ProcessGroup | None = None,
    backend: str = "auto",
) -> LinearDivergence:
    """sum(weight * kl) + sum(ce_weight * ce) over rows, without holding [N, V] logits.

    kl = KL(r || softmax(student / T)) with the target r of `interpolated_kl`, held constant; ce = -log
    softmax(student)_label at T = 1. Products accumulate in fp32, and logits are not rounded to the model's
    dtype. Forward computes the gradients, row block by row block, so that no head product runs twice, and
    keeps them in fp32 until backward: N ds numbers, and V ds more if the head is trained. A second backward
    through a retained graph recomputes them.

    Args:
        student_hidden: [N, ds], fp32, bf16 or fp16 (fp64 is computed in fp64). Pass only rows that the loss
            reads.
        student_weight: [V, ds], the student's head: trained, frozen, or tied to an embedding.
        teacher_hidden: [N, dt], frozen.
        teacher_weight: [V2, dt], frozen.
        lambda_t: number or [N] in [0, 1], the teacher's share of the target. No gradient.
        temperature: T > 0, of both sides.
        labels: [N] token ids; adds the cross-entropy at T = 1.
        weight: [N] factor of kl, e.g. T² / N; None for 1. No gradient.
        ce_weight: [N] factor of ce; None for 1. No gradient.
        student_bias: [V] or None.
        teacher_bias: [V2] or None, frozen.
        vocab_size: use the first vocab_size rows of both heads; the others get gradient 0.
        student_logit_scale, teacher_logit_scale: factor of hidden @ weight.T + bias.
        student_softcap, teacher_softcap: cap c > 0 of the scaled logits, c tanh(logits / c); None for none.
        logits_dtype: None for fp32. bf16 or fp16, if all hidden states and heads have it, halves the logits
            and costs 2 to 16 % of the gradient; product, bias, scale and cap stay fp32, rounded once.
        workspace_bytes: budget for logits and their gradient, at least one row; None for the environment
            variable TIDE_WORKSPACE_BYTES, or 160 MiB on CPU and 768 MiB on a GPU.
        vocab_group: process group that shards the heads in equal runs of rows, in rank order. Hidden states
            and results are the same on every rank; labels and vocab_size refer to the whole vocabulary; the
            weight's gradient is the shard's. Backend "torch" only.
        backend: "auto" (triton on a CUDA or ROCm GPU, native on a CPU, else torch), "triton", "native" (C
            between products), "torch" (row blocks) or
            "reference" (all logits at once).

    Returns:
        LinearDivergence(loss, kl, ce): loss fp32 scalar, differentiable once; kl [N] and ce ([N] or None)
        fp32, nats, not scaled by T², detached.

    Raises:
        ValueError: types, shapes, devices or dtypes do not match; the teacher, lambda_t or a row weight
            requires grad; a value is outside its range (tensor values are checked on CPU only); an input has
            a forward-mode tangent (except with "reference"). With vocab_group, every process raises if one
            does or if their arguments differ.

    Source: TIDE (arXiv 2604.26951) §2.1; docs/kernels/hidden.md.
    """
    arguments, settings = check_linear_divergence(
        _OP.name,
        student_hidden,
        student_weight,
        teacher_hidden,
        teacher_weight,
        lambda_t,
        temperature=temperature,
        labels=labels,
        weight=weight,
        ce_weight=ce_weight,
        student_bias=student_bias,
        teacher_bias=teacher_bias,
        student_logit_scale=student_logit_scale,
        teacher_logit_scale=teacher_logit_scale,
        student_softcap=student_softcap,
        teacher_softcap=teacher_softcap,
        vocab_size=vocab_size,
        logits_dtype=logits_dtype,
        workspace_bytes=workspace_bytes,
        vocab_group=vocab_group,
        backend=backend,
    )
    return linear_divergence(_OP, arguments, settings)
