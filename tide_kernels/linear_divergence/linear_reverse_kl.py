"""Public op: KL of the student from the teacher, from hidden states."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tide_kernels.linear_divergence.arguments import check_linear_divergence
from tide_kernels.linear_divergence.op import (
    LinearDivergence,
    linear_divergence,
    register_linear_divergence,
)
from tide_kernels.linear_divergence.reference import linear_reverse_kl_reference

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float, Int
    from torch import Tensor
    from torch.distributed import ProcessGroup


_OP = register_linear_divergence("linear_reverse_kl", linear_reverse_kl_reference)


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

    kl = KL(softmax(student / T) || softmax(teacher / T)); ce = -log softmax(student)_label at T = 1.

    Arguments, results, precision and errors are those of `linear_interpolated_kl`, without lambda_t.

    Source: TIDE (arXiv 2604.26951), reverse objective on a shared tokenizer; docs/kernels/hidden.md.
    """
    arguments, settings = check_linear_divergence(
        _OP.name,
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
