"""The losses as ``nn.Module``: options fixed once, tensors and what changes every step given to each call.

Each class is one function of this package and has no parameters, no buffers and no state.

Legend: B sequences, C chunks, L positions (Ls, Lt: student's, teacher's), V, V2 vocabulary entries, ds, dt
hidden sizes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from tide.losses.chunk_likelihood import calm_loss, reverse_calm_loss, tidal_chunk_loss
from tide.losses.cross_entropy import cross_entropy_loss
from tide.losses.divergence import check_hidden_options
from tide.losses.kl import forward_kl_loss, linear_forward_kl_loss, linear_reverse_kl_loss, reverse_kl_loss
from tide.losses.tidal import linear_tidal_loss, tidal_loss

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import ClassVar

    from jaxtyping import Bool, Float, Int
    from torch import Tensor
    from typing_extensions import Unpack

    from tide.losses.divergence import DivergenceLoss, HiddenOptions


class FixedOptions(nn.Module):
    """Holds the options of a loss, and shows them in its ``repr``."""

    options: dict[str, Any]

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())


class _LogitsDivergence(FixedOptions):
    def __init__(
        self,
        *,
        temperature: float = 2.0,
        vocab_size: int | None = None,
        reduction: str = "mean",
        backend: str = "auto",
        inplace_gradient: bool = False,
    ) -> None:
        super().__init__(
            temperature=temperature,
            vocab_size=vocab_size,
            reduction=reduction,
            backend=backend,
            inplace_gradient=inplace_gradient,
        )


class _HiddenDivergence(FixedOptions):
    def __init__(
        self,
        *,
        temperature: float = 2.0,
        vocab_size: int | None = None,
        workspace_bytes: int | None = None,
        reduction: str = "mean",
        backend: str = "auto",
        **options: Unpack[HiddenOptions],
    ) -> None:
        check_hidden_options(type(self), options)
        super().__init__(
            temperature=temperature,
            vocab_size=vocab_size,
            workspace_bytes=workspace_bytes,
            reduction=reduction,
            backend=backend,
            **options,
        )


class _KLLoss(_LogitsDivergence):
    _function: ClassVar[Callable[..., Tensor | DivergenceLoss]]

    def forward(
        self,
        student_logits: Float[Tensor, "... V"],
        teacher_logits: Float[Tensor, "... V2"],
        mask: Bool[Tensor, " ..."] | None = None,
        *,
        labels: Int[Tensor, " ..."] | None = None,
        weight: Tensor | None = None,
        ce_weight: Tensor | None = None,
    ) -> Tensor | DivergenceLoss:
        return type(self)._function(
            student_logits,
            teacher_logits,
            mask,
            labels=labels,
            weight=weight,
            ce_weight=ce_weight,
            **self.options,
        )


class _LinearKLLoss(_HiddenDivergence):
    _function: ClassVar[Callable[..., Tensor | DivergenceLoss]]

    def forward(
        self,
        student_hidden: Float[Tensor, "... ds"],
        student_weight: Float[Tensor, "V ds"],
        teacher_hidden: Float[Tensor, "... dt"],
        teacher_weight: Float[Tensor, "V2 dt"],
        mask: Bool[Tensor, " ..."] | None = None,
        *,
        labels: Int[Tensor, " ..."] | None = None,
        weight: Tensor | None = None,
        ce_weight: Tensor | None = None,
        student_bias: Float[Tensor, " V"] | None = None,
        teacher_bias: Float[Tensor, " V2"] | None = None,
    ) -> Tensor | DivergenceLoss:
        return type(self)._function(
            student_hidden,
            student_weight,
            teacher_hidden,
            teacher_weight,
            mask,
            labels=labels,
            weight=weight,
            ce_weight=ce_weight,
            student_bias=student_bias,
            teacher_bias=teacher_bias,
            **self.options,
        )


class ForwardKLLoss(_KLLoss):
    """``forward_kl_loss`` with fixed temperature, vocab_size, reduction, backend, inplace_gradient."""

    _function = staticmethod(forward_kl_loss)


class ReverseKLLoss(_KLLoss):
    """``reverse_kl_loss`` with fixed temperature, vocab_size, reduction, backend, inplace_gradient."""

    _function = staticmethod(reverse_kl_loss)


class LinearForwardKLLoss(_LinearKLLoss):
    """``linear_forward_kl_loss`` with fixed temperature, vocab_size, reduction, ... and `HiddenOptions`."""

    _function = staticmethod(linear_forward_kl_loss)


class LinearReverseKLLoss(_LinearKLLoss):
    """``linear_reverse_kl_loss`` with fixed temperature, vocab_size, reduction, ... and `HiddenOptions`."""

    _function = staticmethod(linear_reverse_kl_loss)


class TIDALLoss(_LogitsDivergence):
    """``tidal_loss`` with fixed temperature, vocab_size, reduction, ...; lambda_t comes every step."""

    def forward(
        self,
        student_logits: Float[Tensor, "... V"],
        teacher_logits: Float[Tensor, "... V2"],
        mask: Bool[Tensor, " ..."] | None = None,
        *,
        lambda_t: float | Tensor,
        labels: Int[Tensor, " ..."] | None = None,
        weight: Tensor | None = None,
        ce_weight: Tensor | None = None,
    ) -> Tensor | DivergenceLoss:
        return tidal_loss(
            student_logits,
            teacher_logits,
            mask,
            lambda_t=lambda_t,
            labels=labels,
            weight=weight,
            ce_weight=ce_weight,
            **self.options,
        )


class LinearTIDALLoss(_HiddenDivergence):
    """``linear_tidal_loss`` with fixed temperature, ... and `HiddenOptions`; lambda_t comes every step."""

    def forward(
        self,
        student_hidden: Float[Tensor, "... ds"],
        student_weight: Float[Tensor, "V ds"],
        teacher_hidden: Float[Tensor, "... dt"],
        teacher_weight: Float[Tensor, "V2 dt"],
        mask: Bool[Tensor, " ..."] | None = None,
        *,
        lambda_t: float | Tensor,
        labels: Int[Tensor, " ..."] | None = None,
        weight: Tensor | None = None,
        ce_weight: Tensor | None = None,
        student_bias: Float[Tensor, " V"] | None = None,
        teacher_bias: Float[Tensor, " V2"] | None = None,
    ) -> Tensor | DivergenceLoss:
        return linear_tidal_loss(
            student_hidden,
            student_weight,
            teacher_hidden,
            teacher_weight,
            mask,
            lambda_t=lambda_t,
            labels=labels,
            weight=weight,
            ce_weight=ce_weight,
            student_bias=student_bias,
            teacher_bias=teacher_bias,
            **self.options,
        )


class _BernoulliLoss(FixedOptions):
    _function: ClassVar[Callable[..., Tensor]]

    def __init__(
        self,
        *,
        temperature: float = 2.0,
        eps: float = 1e-7,
        divergence: str = "bce",
        reduction: str = "mean",
        backend: str = "auto",
    ) -> None:
        super().__init__(
            temperature=temperature, eps=eps, divergence=divergence, reduction=reduction, backend=backend
        )

    def forward(
        self,
        student_token_log_probs: Float[Tensor, "B Ls"],
        teacher_token_log_probs: Float[Tensor, "B Lt"],
        student_chunks: Int[Tensor, "B Ls"],
        teacher_chunks: Int[Tensor, "B Lt"],
        chunk_mask: Bool[Tensor, "B C"],
        *,
        chunk_weights: Tensor | None = None,
    ) -> Float[Tensor, " ..."]:
        return type(self)._function(
            student_token_log_probs,
            teacher_token_log_probs,
            student_chunks,
            teacher_chunks,
            chunk_mask,
            chunk_weights=chunk_weights,
            **self.options,
        )


class CALMLoss(_BernoulliLoss):
    """``calm_loss`` with fixed temperature, eps, divergence, reduction and backend."""

    _function = staticmethod(calm_loss)


class ReverseCALMLoss(_BernoulliLoss):
    """``reverse_calm_loss`` with fixed temperature, eps, divergence, reduction and backend."""

    _function = staticmethod(reverse_calm_loss)


class TIDALChunkLoss(FixedOptions):
    """``tidal_chunk_loss`` with fixed temperature, eps, reduction and backend; lambda_t comes every step."""

    def __init__(
        self,
        *,
        temperature: float = 2.0,
        eps: float = 1e-7,
        reduction: str = "mean",
        backend: str = "auto",
    ) -> None:
        super().__init__(temperature=temperature, eps=eps, reduction=reduction, backend=backend)

    def forward(
        self,
        student_token_log_probs: Float[Tensor, "B Ls"],
        teacher_token_log_probs: Float[Tensor, "B Lt"],
        student_chunks: Int[Tensor, "B Ls"],
        teacher_chunks: Int[Tensor, "B Lt"],
        chunk_mask: Bool[Tensor, "B C"],
        *,
        lambda_t: float | Tensor,
        chunk_weights: Tensor | None = None,
    ) -> Float[Tensor, " ..."]:
        return tidal_chunk_loss(
            student_token_log_probs,
            teacher_token_log_probs,
            student_chunks,
            teacher_chunks,
            chunk_mask,
            lambda_t=lambda_t,
            chunk_weights=chunk_weights,
            **self.options,
        )


class CrossEntropyLoss(FixedOptions):
    """``cross_entropy_loss`` with fixed normalizer, ignore_index, vocab_size and backend."""

    def __init__(
        self,
        *,
        normalizer: str = "token",
        ignore_index: int = -100,
        vocab_size: int | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__(
            normalizer=normalizer, ignore_index=ignore_index, vocab_size=vocab_size, backend=backend
        )

    def forward(
        self,
        logits: Float[Tensor, "... V"],
        labels: Int[Tensor, " ..."],
        mask: Bool[Tensor, " ..."] | None = None,
        *,
        weight: Float[Tensor, " ..."] | None = None,
        maskable: Bool[Tensor, " ..."] | None = None,
        count: float | Tensor | None = None,
    ) -> Float[Tensor, ""]:
        return cross_entropy_loss(
            logits, labels, mask, weight=weight, maskable=maskable, count=count, **self.options
        )
