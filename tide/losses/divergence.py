"""What TIDAL, forward KL and reverse KL have in common: rows in, one op, a weighted sum out.

The vocabulary axis belongs to ``tide_kernels``; here a row is already a number.
"""

from __future__ import annotations

import difflib
import inspect
import math
from typing import TYPE_CHECKING, NamedTuple, TypedDict

import torch
from torch import Tensor

from tide.losses.reductions import broadcast_rows, check_reduction, partial_mask, row_factors
from tide_kernels._shared.checks import check_tensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Bool, Float, Int
    from torch.distributed import ProcessGroup

    from tide_kernels import LinearDivergence


class DivergenceLoss(NamedTuple):
    """A divergence and the cross-entropy that rode along: ``loss = divergence + cross_entropy``, all reduced
    alike.

    ``divergence`` and ``cross_entropy`` are detached, for metrics; only ``loss`` carries a gradient.
    """

    loss: Float[Tensor, " ..."]
    divergence: Float[Tensor, " ..."]
    cross_entropy: Float[Tensor, " ..."]


class HiddenOptions(TypedDict, total=False):
    """What few heads need, passed on by every loss over hidden states of student and teacher.

    Attributes:
        student_logit_scale, teacher_logit_scale: factor of ``hidden @ weight.T + bias``.
        student_softcap, teacher_softcap: cap c of the scaled logits, c tanh(logits / c).
        logits_dtype: of the logits in flight, fp32 by default; bf16 or fp16 halves them, where hidden states
            and heads have that dtype, and costs 2 to 16 % of the gradient.
        vocab_group: processes that hold equal runs of both heads' rows, in the order of their ranks. Hidden
            states, labels (ids of the whole vocabulary) and results are the same on all of them.
    """

    student_logit_scale: float
    teacher_logit_scale: float
    student_softcap: float | None
    teacher_softcap: float | None
    logits_dtype: torch.dtype | None
    vocab_group: ProcessGroup | None


HIDDEN_OPTIONS = tuple(HiddenOptions.__annotations__)


def check_hidden_options(called: Callable[..., object], options: HiddenOptions) -> None:
    """Refuse an option that `HiddenOptions` lacks, in the name of what the user called.

    Args:
        called: the public function, or the module's class; it has parameters of its own beside ``options``.
        options: what it was given beyond those.

    Raises:
        TypeError: an unknown option, as of any Python function; it names the nearest one.
    """
    for option in options:
        if option in HIDDEN_OPTIONS:
            continue
        own = [name for name in inspect.signature(called).parameters if name != "options"]
        names = [*own, *HIDDEN_OPTIONS]
        forward = getattr(called, "forward", None)
        if forward is not None and option in inspect.signature(forward).parameters:
            remedy = f"Pass {option} to each call of the module."
        elif near := difflib.get_close_matches(option, names, n=1):
            remedy = f"Did you mean {near[0]}?"
        else:
            remedy = f"Choose from {', '.join(names)}."
        raise TypeError(f"{called.__name__}: unexpected keyword argument {option!r}. {remedy}")


def divergence_from_logits(
    function: str,
    op: Callable[..., Tensor | tuple[Tensor, Tensor]],
    student_logits: Float[Tensor, "... V"],
    teacher_logits: Float[Tensor, "... V2"],
    mask: Bool[Tensor, " ..."] | None,
    *,
    lambda_t: float | Tensor | None = None,
    temperature: float,
    labels: Int[Tensor, " ..."] | None,
    weight: Tensor | None,
    ce_weight: Tensor | None,
    vocab_size: int | None,
    reduction: str,
    backend: str,
    inplace_gradient: bool,
) -> Tensor | DivergenceLoss:
    """Flatten the leading dimensions, run ``op`` on the rows, weight, scale the divergence by T² and reduce.

    Args:
        function: name of the public loss, for messages.
        op: ``interpolated_kl`` (with lambda_t) or ``reverse_kl`` (without).
        student_logits: [..., V].
        teacher_logits: [..., V2].
        mask: [...] or None; the other arguments as the public losses document them.

    Raises:
        ValueError: types or shapes that do not fit, a mask that is not boolean, an unknown reduction, or the
            op's own.
    """
    check_reduction(function, reduction)
    for name, value in (("student_logits", student_logits), ("teacher_logits", teacher_logits)):
        check_tensor(function, name, value)
    leading = _leading_shape(function, "logits", student_logits, teacher_logits)
    _check_rows(function, leading, mask, labels)
    _check_ce(function, labels, ce_weight)
    mask = partial_mask(mask)
    num_rows = math.prod(leading)
    targets = _lambda_rows(function, lambda_t, leading, mask, student_logits.device)
    values = op(
        student_logits.reshape(num_rows, student_logits.shape[-1]),
        teacher_logits.reshape(num_rows, teacher_logits.shape[-1]),
        *targets,
        temperature=temperature,
        labels=None if labels is None else labels.reshape(num_rows),
        mask=None if mask is None else mask.reshape(num_rows),
        vocab_size=vocab_size,
        backend=backend,
        inplace_gradient=inplace_gradient,
    )
    kl, ce = values if isinstance(values, tuple) else (values, None)
    kl = kl.reshape(leading)
    divergence = temperature**2 * kl * row_factors(function, "weight", weight, mask, kl, reduction)
    if ce is None:
        return divergence if reduction == "none" else divergence.sum()
    ce = ce.reshape(leading)
    cross_entropy = ce * row_factors(function, "ce_weight", ce_weight, mask, ce, reduction)
    if reduction != "none":
        divergence, cross_entropy = divergence.sum(), cross_entropy.sum()
    return DivergenceLoss(divergence + cross_entropy, divergence.detach(), cross_entropy.detach())


def divergence_from_hidden(
    function: str,
    op: Callable[..., LinearDivergence],
    student_hidden: Float[Tensor, "... ds"],
    student_weight: Float[Tensor, "V ds"],
    teacher_hidden: Float[Tensor, "... dt"],
    teacher_weight: Float[Tensor, "V2 dt"],
    mask: Bool[Tensor, " ..."] | None,
    *,
    lambda_t: float | Tensor | None = None,
    temperature: float,
    labels: Int[Tensor, " ..."] | None,
    weight: Tensor | None,
    ce_weight: Tensor | None,
    student_bias: Tensor | None,
    teacher_bias: Tensor | None,
    vocab_size: int | None,
    workspace_bytes: int | None,
    reduction: str,
    backend: str,
    options: HiddenOptions,
) -> Tensor | DivergenceLoss:
    """The same from hidden states: inactive rows are dropped before the heads, and no [N, V] tensor exists.

    Args:
        function: name of the public loss, for messages.
        op: ``linear_interpolated_kl`` (with lambda_t) or ``linear_reverse_kl`` (without).
        student_hidden: [..., ds].
        student_weight: [V, ds].
        teacher_hidden: [..., dt].
        teacher_weight: [V2, dt].
        mask: [...] or None; the other arguments as the public losses document them.

    Raises:
        ValueError: as ``divergence_from_logits``, reduction ``none``, or a weight that requires grad.
    """
    check_reduction(function, reduction, rows_available=False)
    heads = (("student_weight", student_weight), ("teacher_weight", teacher_weight))
    for name, given in (("student_hidden", student_hidden), ("teacher_hidden", teacher_hidden), *heads):
        check_tensor(function, name, given)
    leading = _leading_shape(function, "hidden states", student_hidden, teacher_hidden)
    _check_rows(function, leading, mask, labels)
    _check_ce(function, labels, ce_weight)
    mask = partial_mask(mask)
    for name, value in (("weight", weight), ("ce_weight", ce_weight)):
        if isinstance(value, Tensor) and value.requires_grad:
            raise ValueError(
                f"{function}: {name} must not require grad: gradients are made in the forward pass, for "
                f"the student alone. Pass {name}.detach(), or use the loss that takes logits."
            )
    num_rows = math.prod(leading)
    like = student_hidden[..., 0]
    kl_factor = temperature**2 * row_factors(function, "weight", weight, mask, like, reduction).reshape(
        num_rows
    )
    ce_factor = row_factors(function, "ce_weight", ce_weight, mask, like, reduction).reshape(num_rows)
    targets = _lambda_rows(function, lambda_t, leading, mask, student_hidden.device)
    student_rows = student_hidden.reshape(num_rows, student_hidden.shape[-1])
    teacher_rows = teacher_hidden.reshape(num_rows, teacher_hidden.shape[-1])
    row_labels = None if labels is None else labels.reshape(num_rows)
    if mask is not None:
        # The one place that asks the device for a size: the heads run on the rows that are read, and no
        # others.
        active = mask.reshape(num_rows).nonzero().squeeze(1)
        student_rows, teacher_rows = student_rows[active], teacher_rows[active]
        kl_factor, ce_factor = kl_factor[active], ce_factor[active]
        targets = tuple(value[active] if isinstance(value, Tensor) else value for value in targets)
        row_labels = None if row_labels is None else row_labels[active]
    values = op(
        student_rows,
        student_weight,
        teacher_rows,
        teacher_weight,
        *targets,
        temperature=temperature,
        labels=row_labels,
        weight=kl_factor,
        ce_weight=None if labels is None else ce_factor,
        student_bias=student_bias,
        teacher_bias=teacher_bias,
        vocab_size=vocab_size,
        workspace_bytes=workspace_bytes,
        backend=backend,
        **options,
    )
    if values.ce is None:
        return values.loss
    divergence, cross_entropy = (kl_factor * values.kl).sum(), (ce_factor * values.ce).sum()
    return DivergenceLoss(values.loss, divergence, cross_entropy)


def _leading_shape(function: str, what: str, student: Tensor, teacher: Tensor) -> torch.Size:
    if student.ndim < 1 or student.shape[:-1] != teacher.shape[:-1]:
        raise ValueError(
            f"{function}: student and teacher {what} must share their leading dimensions; got "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}. Select the same positions on both sides, or "
            "use chunk likelihoods where the tokenizers differ."
        )
    return student.shape[:-1]


def _check_rows(function: str, leading: torch.Size, mask: Tensor | None, labels: Tensor | None) -> None:
    if mask is not None:
        check_tensor(function, "mask", mask)
    if labels is not None:
        check_tensor(function, "labels", labels)
    if mask is not None and mask.dtype != torch.bool:
        raise ValueError(f"{function}: mask must be boolean; got {mask.dtype}. Weights go into weight=.")
    for name, value in (("mask", mask), ("labels", labels)):
        if value is not None and value.shape != leading:
            raise ValueError(
                f"{function}: {name} must have the rows' shape {tuple(leading)}; got {tuple(value.shape)}. "
                "Expand it, or drop the vocabulary dimension."
            )


def _check_ce(function: str, labels: Tensor | None, ce_weight: Tensor | None) -> None:
    if ce_weight is not None and labels is None:
        raise ValueError(f"{function}: ce_weight needs labels; pass labels= or leave ce_weight out.")


def _lambda_rows(
    function: str,
    lambda_t: float | Tensor | None,
    leading: torch.Size,
    mask: Tensor | None,
    device: torch.device,
) -> tuple[float | Tensor, ...]:
    """lambda_t as the op takes it: nothing, a number, or [N]."""
    if lambda_t is None:
        return ()
    if not isinstance(lambda_t, Tensor):
        return (lambda_t,)
    spread = broadcast_rows(function, "lambda_t", lambda_t.detach(), leading, device)
    # A row that nobody reads may carry anything, also in its lambda.
    spread = spread if mask is None else spread.masked_fill(~mask, 0.0)
    return (spread.reshape(math.prod(leading)),)
