"""TIDAL: KL to a target that moves from the student to the teacher as noise falls and training goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tide.losses.divergence import (
    DivergenceLoss,
    check_hidden_options,
    divergence_from_hidden,
    divergence_from_logits,
)
from tide_kernels import interpolated_kl, linear_interpolated_kl

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor
    from typing_extensions import Unpack

    from tide.losses.divergence import HiddenOptions


def tidal_loss(
    student_logits: Float[Tensor, "... V"],
    teacher_logits: Float[Tensor, "... V2"],
    mask: Bool[Tensor, " ..."] | None = None,
    *,
    lambda_t: float | Tensor,
    temperature: float = 2.0,
    labels: Int[Tensor, " ..."] | None = None,
    weight: Tensor | None = None,
    ce_weight: Tensor | None = None,
    vocab_size: int | None = None,
    reduction: str = "mean",
    backend: str = "auto",
    inplace_gradient: bool = False,
) -> Tensor | DivergenceLoss:
    """T² KL(r || softmax(s / T)) with the detached target r = softmax(((1 - lambda) s + lambda z) / T).

    The gradient with respect to a row of s is T (softmax(s / T) - r) times the row's factor.

    Args:
        student_logits: s, [..., V], fp32, bf16 or fp16.
        teacher_logits: z, [..., V2], frozen; may differ in dtype.
        mask: [...], True on the rows that count; None for all. Other rows are neither read nor counted.
        lambda_t: share of the teacher in the target, in [0, 1]: a number, [B] per sequence, or [...]; see
            ``lambda_schedule``. 1 is forward KL.
        temperature: T > 0.
        labels: [...] token ids; adds the cross-entropy of the same rows at T = 1 from the same pass.
        weight: factor of the divergence, [B] or [...]; see ``timestep_weight``.
        ce_weight: factor of the cross-entropy, [B] or [...]; see ``row_weights``.
        vocab_size: use only the first ``vocab_size`` entries of both sides; required where V and V2 differ.
        reduction: ``mean`` (sum over active rows / their number), ``sum``, or ``none`` ([...], 0 where
            inactive).
        backend: ``auto`` (Triton on a GPU, else ``torch``), ``triton``, ``torch`` or ``reference``.
        inplace_gradient: write the gradient over the student's logits, which nothing else may use.

    Returns:
        fp32 loss in nats; with labels, ``DivergenceLoss(loss, divergence, cross_entropy)``. No active row: 0
        with a connected graph.

    Raises:
        ValueError: types, shapes or vocabularies that do not fit, a value outside its range, or a teacher
            that requires grad.

    Source: TIDE (arXiv 2604.26951), TIDAL; with lambda independent of t, TAID (arXiv 2501.16937).
    """
    return divergence_from_logits(
        "tidal_loss",
        interpolated_kl,
        student_logits,
        teacher_logits,
        mask,
        lambda_t=lambda_t,
        temperature=temperature,
        labels=labels,
        weight=weight,
        ce_weight=ce_weight,
        vocab_size=vocab_size,
        reduction=reduction,
        backend=backend,
        inplace_gradient=inplace_gradient,
    )


def linear_tidal_loss(
    student_hidden: Float[Tensor, "... ds"],
    student_weight: Float[Tensor, "V ds"],
    teacher_hidden: Float[Tensor, "... dt"],
    teacher_weight: Float[Tensor, "V2 dt"],
    mask: Bool[Tensor, " ..."] | None = None,
    *,
    lambda_t: float | Tensor,
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
    """``tidal_loss`` of ``hidden @ weight.T + bias``, without ever holding [N, V] logits.

    Gradients are made in the forward pass, so every head product runs once.

    Args:
        student_hidden: [..., ds], the states before the output head.
        student_weight: [V, ds], the head; a tied embedding and a frozen head both work.
        teacher_hidden: [..., dt], frozen.
        teacher_weight: [V2, dt], frozen.
        mask: [...], True on the rows that count; the others are dropped before the heads. None for all.
        lambda_t: as in ``tidal_loss``, with temperature, labels, weight, ce_weight and vocab_size. weight and
            ce_weight must not require grad.
        temperature: T > 0.
        labels: [...] token ids; adds the cross-entropy at T = 1.
        weight: factor of the divergence, [B] or [...].
        ce_weight: factor of the cross-entropy, [B] or [...].
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
        ValueError: as ``tidal_loss``, and for reduction ``none``.
        TypeError: an option that does not exist.

    Source: TIDE (arXiv 2604.26951), TIDAL.
    """
    check_hidden_options(linear_tidal_loss, options)
    return divergence_from_hidden(
        "linear_tidal_loss",
        linear_interpolated_kl,
        student_hidden,
        student_weight,
        teacher_hidden,
        teacher_weight,
        mask,
        lambda_t=lambda_t,
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
