"""Forward and reverse KL divergence between student and teacher at a temperature."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tide.losses.divergence import (
    DivergenceLoss,
    check_hidden_options,
    divergence_from_hidden,
    divergence_from_logits,
)
from tide_kernels import interpolated_kl, linear_interpolated_kl, linear_reverse_kl, reverse_kl

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor
    from typing_extensions import Unpack

    from tide.losses.divergence import HiddenOptions


def forward_kl_loss(
    student_logits: Float[Tensor, "... V"],
    teacher_logits: Float[Tensor, "... V2"],
    mask: Bool[Tensor, " ..."] | None = None,
    *,
    temperature: float = 2.0,
    labels: Int[Tensor, " ..."] | None = None,
    weight: Tensor | None = None,
    ce_weight: Tensor | None = None,
    vocab_size: int | None = None,
    reduction: str = "mean",
    backend: str = "auto",
    inplace_gradient: bool = False,
) -> Tensor | DivergenceLoss:
    """T² KL(softmax(z / T) || softmax(s / T)): mode-covering.

    This is ``tidal_loss`` at lambda = 1; the gradient with respect to s is T (softmax(s / T) - softmax(z /
    T)).

    Args:
        student_logits: s, [..., V], fp32, bf16 or fp16.
        teacher_logits: z, [..., V2], frozen; may differ in dtype.
        mask: [...], True on the rows that count; None for all.
        temperature: T > 0.
        labels: [...] token ids; adds the cross-entropy of the same rows at T = 1 from the same pass.
        weight: factor of the divergence, [B] or [...].
        ce_weight: factor of the cross-entropy, [B] or [...].
        vocab_size: use only the first ``vocab_size`` entries of both sides; required where V and V2 differ.
        reduction: ``mean`` (sum over active rows / their number), ``sum``, or ``none`` ([...], 0 where
            inactive).
        backend: ``auto`` (Triton on a GPU, else ``torch``), ``triton``, ``torch`` or ``reference``.
        inplace_gradient: write the gradient over the student's logits, which nothing else may use.

    Returns:
        fp32 loss in nats; with labels, ``DivergenceLoss(loss, divergence, cross_entropy)``.

    Raises:
        ValueError: types, shapes or vocabularies that do not fit, a value outside its range, or a teacher
            that requires grad.

    Source: Hinton et al. (arXiv 1503.02531) for temperature and T²; TIDE (arXiv 2604.26951), baselines.
    """
    return divergence_from_logits(
        "forward_kl_loss",
        interpolated_kl,
        student_logits,
        teacher_logits,
        mask,
        lambda_t=1.0,
        temperature=temperature,
        labels=labels,
        weight=weight,
        ce_weight=ce_weight,
        vocab_size=vocab_size,
        reduction=reduction,
        backend=backend,
        inplace_gradient=inplace_gradient,
    )


def reverse_kl_loss(
    student_logits: Float[Tensor, "... V"],
    teacher_logits: Float[Tensor, "... V2"],
    mask: Bool[Tensor, " ..."] | None = None,
    *,
    temperature: float = 2.0,
    labels: Int[Tensor, " ..."] | None = None,
    weight: Tensor | None = None,
    ce_weight: Tensor | None = None,
    vocab_size: int | None = None,
    reduction: str = "mean",
    backend: str = "auto",
    inplace_gradient: bool = False,
) -> Tensor | DivergenceLoss:
    """T² KL(softmax(s / T) || softmax(z / T)): mode-seeking.

    The gradient with respect to s is T p (log p - log q - KL), with p and q the student's and the teacher's
    softmax.

    Args:
        student_logits: s, [..., V], fp32, bf16 or fp16.
        teacher_logits: z, [..., V2], frozen; may differ in dtype.
        mask: [...], True on the rows that count; None for all.
        temperature: T > 0.
        labels: [...] token ids; adds the cross-entropy of the same rows at T = 1 from the same pass.
        weight: factor of the divergence, [B] or [...].
        ce_weight: factor of the cross-entropy, [B] or [...].
        vocab_size: use only the first ``vocab_size`` entries of both sides; required where V and V2 differ.
        reduction: ``mean`` (sum over active rows / their number), ``sum``, or ``none`` ([...], 0 where
            inactive).
        backend: ``auto`` (Triton on a GPU, else ``torch``), ``triton``, ``torch`` or ``reference``.
        inplace_gradient: write the gradient over the student's logits, which nothing else may use.

    Returns:
        fp32 loss in nats; with labels, ``DivergenceLoss(loss, divergence, cross_entropy)``.

    Raises:
        ValueError: types, shapes or vocabularies that do not fit, a value outside its range, or a teacher
            that requires grad.

    Source: Hinton et al. (arXiv 1503.02531) for temperature and T²; TIDE (arXiv 2604.26951), baselines.
    """
    return divergence_from_logits(
        "reverse_kl_loss",
        reverse_kl,
        student_logits,
        teacher_logits,
        mask,
        temperature=temperature,
        labels=labels,
        weight=weight,
        ce_weight=ce_weight,
        vocab_size=vocab_size,
        reduction=reduction,
        backend=backend,
        inplace_gradient=inplace_gradient,
    )


def linear_forward_kl_loss(
    student_hidden: Float[Tensor, "... ds"],
    student_weight: Float[Tensor, "V ds"],
    teacher_hidden: Float[Tensor, "... dt"],
    teacher_weight: Float[Tensor, "V2 dt"],
    mask: Bool[Tensor, " ..."] | None = None,
    *,
    temperature: float = 2.0,
    labels: Int[Tensor, " ..."] | None = None,
    weight: Tensor | None = None,
    ce_weight: Tensor | None = None,
    student_bias: Float[Tensor, " V"] | None = None,
    teacher_bias: Float[Tensor, " V2"] | None = None,
    vocab_size: int | None = None,
    workspace_bytes: int | None = None,
    reduction: str = "mean",
    backend: str = "auto",
    **options: Unpack[HiddenOptions],
) -> Tensor | DivergenceLoss:
    """``forward_kl_loss`` of ``hidden @ weight.T + bias``, without ever holding [N, V] logits.

    Args:
        student_hidden: [..., ds], the states before the output head.
        student_weight: [V, ds], the head; a tied embedding and a frozen head both work.
        teacher_hidden: [..., dt], frozen.
        teacher_weight: [V2, dt], frozen.
        mask: [...], True on the rows that count; the others are dropped before the heads. None for all.
        temperature: T > 0.
        labels: [...] token ids; adds the cross-entropy at T = 1.
        weight: factor of the divergence, [B] or [...]; must not require grad.
        ce_weight: factor of the cross-entropy, [B] or [...]; must not require grad.
        student_bias: [V] or None.
        teacher_bias: [V2] or None, frozen.
        vocab_size: use only the first ``vocab_size`` rows of both heads.
        workspace_bytes: bytes for logits in flight; None for the environment variable TIDE_WORKSPACE_BYTES or
            a default.
        reduction: ``mean`` or ``sum``.
        backend: ``auto`` (Triton on a GPU, else ``torch``), ``triton``, ``torch`` or ``reference``.
        options: logit scales, soft-caps, the dtype of logits, heads shared by processes: `HiddenOptions`.

    Returns:
        fp32 scalar in nats; with labels, ``DivergenceLoss(loss, divergence, cross_entropy)``.

    Raises:
        ValueError: as ``forward_kl_loss``, and for reduction ``none``.
        TypeError: an option that does not exist.

    Source: TIDE (arXiv 2604.26951), baselines.
    """
    check_hidden_options(linear_forward_kl_loss, options)
    return divergence_from_hidden(
        "linear_forward_kl_loss",
        linear_interpolated_kl,
        student_hidden,
        student_weight,
        teacher_hidden,
        teacher_weight,
        mask,
        lambda_t=1.0,
        temperature=temperature,
        labels=labels,
        weight=weight,
        ce_weight=ce_weight,
        student_bias=student_bias,
        teacher_bias=teacher_bias,
        vocab_size=vocab_size,
        workspace_bytes=workspace_bytes,
        reduction=reduction,
        backend=backend,
        options=options,
    )


def linear_reverse_kl_loss(
    student_hidden: Float[Tensor, "... ds"],
    student_weight: Float[Tensor, "V ds"],
    teacher_hidden: Float[Tensor, "... dt"],
    teacher_weight: Float[Tensor, "V2 dt"],
    mask: Bool[Tensor, " ..."] | None = None,
    *,
    temperature: float = 2.0,
    labels: Int[Tensor, " ..."] | None = None,
    weight: Tensor | None = None,
    ce_weight: Tensor | None = None,
    student_bias: Float[Tensor, " V"] | None = None,
    teacher_bias: Float[Tensor, " V2"] | None = None,
    vocab_size: int | None = None,
    workspace_bytes: int | None = None,
    reduction: str = "mean",
    backend: str = "auto",
    **options: Unpack[HiddenOptions],
) -> Tensor | DivergenceLoss:
    """``reverse_kl_loss`` of ``hidden @ weight.T + bias``, without ever holding [N, V] logits.

    Args:
        student_hidden: [..., ds], the states before the output head.
        student_weight: [V, ds], the head; a tied embedding and a frozen head both work.
        teacher_hidden: [..., dt], frozen.
        teacher_weight: [V2, dt], frozen.
        mask: [...], True on the rows that count; the others are dropped before the heads. None for all.
        temperature: T > 0.
        labels: [...] token ids; adds the cross-entropy at T = 1.
        weight: factor of the divergence, [B] or [...]; must not require grad.
        ce_weight: factor of the cross-entropy, [B] or [...]; must not require grad.
        student_bias: [V] or None.
        teacher_bias: [V2] or None, frozen.
        vocab_size: use only the first ``vocab_size`` rows of both heads.
        workspace_bytes: bytes for logits in flight; None for the environment variable TIDE_WORKSPACE_BYTES or
            a default.
        reduction: ``mean`` or ``sum``.
        backend: ``auto`` (Triton on a GPU, else ``torch``), ``triton``, ``torch`` or ``reference``.
        options: logit scales, soft-caps, the dtype of logits, heads shared by processes: `HiddenOptions`.

    Returns:
        fp32 scalar in nats; with labels, ``DivergenceLoss(loss, divergence, cross_entropy)``.

    Raises:
        ValueError: as ``reverse_kl_loss``, and for reduction ``none``.
        TypeError: an option that does not exist.

    Source: TIDE (arXiv 2604.26951), baselines.
    """
    check_hidden_options(linear_reverse_kl_loss, options)
    return divergence_from_hidden(
        "linear_reverse_kl_loss",
        linear_reverse_kl,
        student_hidden,
        student_weight,
        teacher_hidden,
        teacher_weight,
        mask,
        temperature=temperature,
        labels=labels,
        weight=weight,
        ce_weight=ce_weight,
        student_bias=student_bias,
        teacher_bias=teacher_bias,
        vocab_size=vocab_size,
        workspace_bytes=workspace_bytes,
        reduction=reduction,
        backend=backend,
        options=options,
    )
