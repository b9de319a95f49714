"""Forward KL, reverse KL and TIDAL, over logits and over hidden states.

Per row, with student logits s, teacher logits z, temperature T, p_s = softmax(s / T), p_t = softmax(z / T):

    forward KL   T² KL(p_t || p_s)   gradient in s: T (p_s - p_t)                    mode-covering
    reverse KL   T² KL(p_s || p_t)   gradient in s: T p_s (log p_s - log p_t - KL)   mode-seeking
    TIDAL        T² KL(r || p_s)     gradient in s: T (p_s - r)

where TIDAL's target r = softmax(((1 - λ) s + λ z) / T) is detached; λ = 1 is forward KL. The vocabulary axis
is reduced in ``tide_kernels``; here a row is already one number.

`tidal_loss` documents the arguments over logits, `linear_tidal_loss` those over hidden states; the other
losses take the same.

Source: TIDE (arXiv 2604.26951), TIDAL and baselines; TAID (arXiv 2501.16937) is TIDAL with λ independent of
the timestep; temperature and T² after Hinton et al. (arXiv 1503.02531).
Legend: B sequences, V and V2 vocabulary entries, ds and dt hidden sizes of student and teacher.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from tide.losses.options import HIDDEN_OPTIONS, unknown_option
from tide.losses.reductions import (
    broadcast_rows,
    check_rows,
    flat_rows,
    partial_mask,
    reduce_rows,
    row_factors,
)
from tide_kernels import (
    check_tensor,
    interpolated_kl,
    linear_interpolated_kl,
    linear_reverse_kl,
    reverse_kl,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Bool, Float, Int
    from typing_extensions import Unpack

    from tide.losses.options import HiddenOptions
    from tide_kernels import LinearDivergence


class DivergenceLoss(NamedTuple):
    """``loss = divergence + cross_entropy``, all reduced alike.

    Only ``loss`` carries a gradient; the parts are detached, for metrics.
    """

    loss: Float[Tensor, " ..."]
    divergence: Float[Tensor, " ..."]
    cross_entropy: Float[Tensor, " ..."]


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
    """T² KL(r || softmax(s / T)), with the detached target r = softmax(((1 - λ) s + λ z) / T).

    Args:
        student_logits: s, [..., V], fp32, bf16 or fp16.
        teacher_logits: z, [..., V2], frozen; may differ in dtype.
        mask: [...], True on the rows that count; None for all. Other rows are neither read nor counted.
        lambda_t: λ, the teacher's share of the target, in [0, 1]: a number, [B] or [...]; see
            ``lambda_schedule``.
        temperature: T > 0.
        labels: [...] token ids; adds the cross-entropy of the same rows at T = 1 from the same pass.
        weight: factor of the divergence, [B] or [...]; see ``timestep_weight``.
        ce_weight: factor of the cross-entropy, [B] or [...]; see ``row_weights``.
        vocab_size: use only the first ``vocab_size`` entries of both sides; required where V and V2 differ.
        reduction: ``mean`` (sum over active rows / their number), ``sum``, or ``none`` ([...], 0 where
            inactive).
        backend: ``auto`` (``triton`` on a GPU, ``native`` on a CPU, else ``torch``) or one of these, or
            ``reference``.
        inplace_gradient: write the gradient over the student's logits, which nothing else may use.

    Returns:
        fp32 loss in nats; with labels, ``DivergenceLoss(loss, divergence, cross_entropy)``. No active row: 0
        with a connected graph.

    Raises:
        ValueError: types, shapes or vocabularies that do not fit, a value outside its range, or a teacher
            that requires grad.
    """
    rows = _Rows(tidal_loss, mask, lambda_t, temperature, labels, weight, ce_weight, reduction)
    settings = {"vocab_size": vocab_size, "backend": backend, "inplace_gradient": inplace_gradient}
    return _over_logits(interpolated_kl, student_logits, teacher_logits, rows, **settings)


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
    """T² KL(softmax(z / T) || softmax(s / T)): `tidal_loss` at λ = 1, with its other arguments."""
    rows = _Rows(forward_kl_loss, mask, 1.0, temperature, labels, weight, ce_weight, reduction)
    settings = {"vocab_size": vocab_size, "backend": backend, "inplace_gradient": inplace_gradient}
    return _over_logits(interpolated_kl, student_logits, teacher_logits, rows, **settings)


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
    """T² KL(softmax(s / T) || softmax(z / T)). Arguments: `tidal_loss`, without lambda_t."""
    rows = _Rows(reverse_kl_loss, mask, None, temperature, labels, weight, ce_weight, reduction)
    settings = {"vocab_size": vocab_size, "backend": backend, "inplace_gradient": inplace_gradient}
    return _over_logits(reverse_kl, student_logits, teacher_logits, rows, **settings)


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
    """`tidal_loss` of ``hidden @ weight.T + bias``, without ever holding [N, V] logits.

    Gradients are made in the forward pass, so each product with a head runs once.

    Args:
        student_hidden: [..., ds], the states before the output head.
        student_weight: [V, ds], the head; a tied embedding and a frozen head both work.
        teacher_hidden: [..., dt], frozen.
        teacher_weight: [V2, dt], frozen.
        mask: [...], True on the rows that count; the others are dropped before the heads. None for all.
        lambda_t, temperature, labels, vocab_size, backend: as in `tidal_loss`.
        weight, ce_weight: as in `tidal_loss`; must not require grad.
        student_bias, teacher_bias: [V] and [V2], or None; the teacher's frozen.
        workspace_bytes: bytes for logits in flight; None for the environment variable TIDE_WORKSPACE_BYTES or
            a default.
        reduction: ``mean`` or ``sum``.
        options: logit scales, soft-caps, the dtype of logits, heads shared by processes: `HiddenOptions`.

    Returns:
        fp32 scalar in nats; with labels, ``DivergenceLoss(loss, divergence, cross_entropy)``.

    Raises:
        ValueError: as `tidal_loss`, and for reduction ``none``.
        TypeError: an option that does not exist.
    """
    rows = _Rows(linear_tidal_loss, mask, lambda_t, temperature, labels, weight, ce_weight, reduction)
    heads = (student_hidden, student_weight, student_bias, teacher_hidden, teacher_weight, teacher_bias)
    settings = {"vocab_size": vocab_size, "workspace_bytes": workspace_bytes, "backend": backend}
    return _over_hidden(linear_interpolated_kl, heads, rows, options, **settings)


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
    """`forward_kl_loss` of ``hidden @ weight.T + bias``. Arguments: `linear_tidal_loss`, without lambda_t."""
    rows = _Rows(linear_forward_kl_loss, mask, 1.0, temperature, labels, weight, ce_weight, reduction)
    heads = (student_hidden, student_weight, student_bias, teacher_hidden, teacher_weight, teacher_bias)
    settings = {"vocab_size": vocab_size, "workspace_bytes": workspace_bytes, "backend": backend}
    return _over_hidden(linear_interpolated_kl, heads, rows, options, **settings)


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
    """`reverse_kl_loss` of ``hidden @ weight.T + bias``. Arguments: `linear_tidal_loss`, without lambda_t."""
    rows = _Rows(linear_reverse_kl_loss, mask, None, temperature, labels, weight, ce_weight, reduction)
    heads = (student_hidden, student_weight, student_bias, teacher_hidden, teacher_weight, teacher_bias)
    settings = {"vocab_size": vocab_size, "workspace_bytes": workspace_bytes, "backend": backend}
    return _over_hidden(linear_reverse_kl, heads, rows, options, **settings)


class _Rows(NamedTuple):
    """Per-row arguments and reduction of a call, as the public function was given them."""

    called: Callable[..., object]
    mask: Tensor | None
    lambda_t: float | Tensor | None  # None where the op takes none
    temperature: float
    labels: Tensor | None
    weight: Tensor | None
    ce_weight: Tensor | None
    reduction: str

    def checked(self, **sides: Tensor) -> _Rows:
        """Refuse what does not fit the named student and teacher; spread λ, drop a full CPU mask."""
        function = self.called.__name__
        for name, x in sides.items():
            check_tensor(function, name, x)
        student, teacher = sides.values()
        leading = student.shape[:-1]
        if student.ndim < 1 or teacher.shape[:-1] != leading:
            raise ValueError(
                f"{function}: {' and '.join(sides)} must share their leading dimensions; got "
                f"{tuple(student.shape)} and {tuple(teacher.shape)}. Select the same positions on both "
                "sides, or use chunk likelihoods where the tokenizers differ."
            )
        check_rows(function, leading, mask=self.mask, labels=self.labels)
        if self.ce_weight is not None and self.labels is None:
            raise ValueError(f"{function}: ce_weight needs labels; pass labels= or leave ce_weight out.")
        mask, lambda_t = partial_mask(self.mask), self.lambda_t
        if isinstance(lambda_t, Tensor):
            lambda_t = broadcast_rows(function, "lambda_t", lambda_t.detach(), leading, student.device)
            # A row outside the mask may carry anything, a NaN too.
            lambda_t = lambda_t if mask is None else lambda_t.masked_fill(~mask, 0.0)
        return self._replace(mask=mask, lambda_t=lambda_t)


def _over_logits(
    op: Callable[..., Tensor | tuple[Tensor, Tensor]],
    student_logits: Float[Tensor, "... V"],
    teacher_logits: Float[Tensor, "... V2"],
    rows: _Rows,
    **settings: object,
) -> Tensor | DivergenceLoss:
    """Run ``op`` on the flattened rows, scale the divergence by T², weight and reduce."""
    rows = rows.checked(student_logits=student_logits, teacher_logits=teacher_logits)
    leading = student_logits.shape[:-1]
    per_row = (student_logits, teacher_logits, rows.labels, rows.mask, rows.lambda_t)
    student, teacher, labels, mask, lambda_t = (flat_rows(x, leading) for x in per_row)
    target = () if lambda_t is None else (lambda_t,)
    values = op(student, teacher, *target, temperature=rows.temperature, labels=labels, mask=mask, **settings)
    kl, ce = values if isinstance(values, tuple) else (values, None)
    function, reduction = rows.called.__name__, rows.reduction
    kl = rows.temperature**2 * kl.reshape(leading)
    divergence = reduce_rows(function, "weight", rows.weight, rows.mask, kl, reduction)
    if ce is None:
        return divergence
    ce = ce.reshape(leading)
    cross_entropy = reduce_rows(function, "ce_weight", rows.ce_weight, rows.mask, ce, reduction)
    return DivergenceLoss(divergence + cross_entropy, divergence.detach(), cross_entropy.detach())


def _over_hidden(
    op: Callable[..., LinearDivergence],
    heads: tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor, Tensor | None],
    rows: _Rows,
    options: HiddenOptions,
    **settings: object,
) -> Tensor | DivergenceLoss:
    """The same from hidden states: inactive rows are dropped before the heads."""
    function = rows.called.__name__
    for option in options:
        if option not in HIDDEN_OPTIONS:
            own = [name for name in inspect.signature(rows.called).parameters if name != "options"]
            raise unknown_option(function, option, [*own, *HIDDEN_OPTIONS])
    if rows.reduction == "none":
        raise ValueError(
            f"{function}: reduction 'none' is not available: the gradient is made in the forward pass, which "
            "needs the weight of every row. Pass weight= (and ce_weight=) with reduction='sum', or use the "
            "loss that takes logits."
        )
    student, student_weight, student_bias, teacher, teacher_weight, teacher_bias = heads
    check_tensor(function, "student_weight", student_weight)
    check_tensor(function, "teacher_weight", teacher_weight)
    rows = rows.checked(student_hidden=student, teacher_hidden=teacher)
    factors = []
    for name, value in (("weight", rows.weight), ("ce_weight", rows.ce_weight)):
        if isinstance(value, Tensor) and value.requires_grad:
            raise ValueError(
                f"{function}: {name} must not require grad: gradients are made in the forward pass, for the "
                f"student alone. Pass {name}.detach(), or use the loss that takes logits."
            )
        factors.append(row_factors(function, name, value, rows.mask, student[..., 0], rows.reduction))
    # The op refuses a temperature that requires grad.
    kl_factor, ce_factor = (rows.temperature**2 * factors[0]).detach(), factors[1]
    leading = student.shape[:-1]
    given = (student, teacher, rows.labels, kl_factor, ce_factor, rows.lambda_t)
    per_row = [flat_rows(x, leading) for x in given]
    if rows.mask is not None:
        # The one place that asks the device for a size.
        active = rows.mask.flatten().nonzero().squeeze(1)
        per_row = [x[active] if isinstance(x, Tensor) else x for x in per_row]
    student, teacher, labels, kl_factor, ce_factor, lambda_t = per_row
    target = () if lambda_t is None else (lambda_t,)
    values = op(
        student,
        student_weight,
        teacher,
        teacher_weight,
        *target,
        temperature=rows.temperature,
        labels=labels,
        weight=kl_factor,
        ce_weight=None if labels is None else ce_factor,
        student_bias=student_bias,
        teacher_bias=teacher_bias,
        **options,
        **settings,
    )
    if values.ce is None:
        return values.loss
    return DivergenceLoss(values.loss, (kl_factor * values.kl).sum(), (ce_factor * values.ce).sum())
