"""Public op: divergence between the chunk likelihoods of student and teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tide_kernels._shared.backends import BACKENDS, resolve_backend
from tide_kernels._shared.checks import (
    FLOAT_DTYPES,
    INTEGER_DTYPES,
    accumulation_dtype,
    check_frozen,
    check_lambda_values,
    check_no_tangent,
    check_same_length,
    check_temperature,
    check_tensor,
    row_lambda,
    scalar_tensor,
)
from tide_kernels._shared.first_order import forbid_double_backward
from tide_kernels.chunk_likelihood.reference import OBJECTIVES, chunk_likelihood_reference, tokens_read

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

NAME = "chunk_likelihood"


def chunk_likelihood(
    student_token_log_probs: Float[Tensor, "B Ls"],
    teacher_token_log_probs: Float[Tensor, "B Lt"],
    student_chunks: Int[Tensor, "B Ls"],
    teacher_chunks: Int[Tensor, "B Lt"],
    chunk_mask: Bool[Tensor, "B C"],
    *,
    objective: str = "forward",
    lambda_t: float | Float[Tensor, " B"] | None = None,
    temperature: float = 1.0,
    eps: float = 1e-7,
    backend: str = "auto",
) -> Float[Tensor, "B C"]:
    """Loss per chunk from P = exp(sum of token log-probabilities / T), clamped to [eps, 1 - eps].

    With s the student's P and t the teacher's:

    - "forward" (CALM): -(t log s + (1 - t) log(1 - s))
    - "reverse" (Reverse CALM): -(s log t + (1 - s) log(1 - t)). The teacher bounds its slope, but it is
      linear in s: the optimum is an end of the range, not s = t.
    - "kl": Bernoulli KL(s || t), i.e. "reverse" minus the student's entropy; minimal at s = t.
    - "interpolated" (TIDAL on chunks): "forward" with t replaced by (1 - lambda) s + lambda t, held constant.
      The entropy of that target is not subtracted, so the loss at s = t is not 0.

    A student likelihood outside the clamp gets no gradient.

    Args:
        student_token_log_probs: [B, Ls], floating, nats.
        teacher_token_log_probs: [B, Lt], frozen.
        student_chunks, teacher_chunks: [B, L] chunk id of each token, in [0, C), or -1 for none.
        chunk_mask: [B, C] bool. Chunks at False give 0, and their tokens are not read.
        objective: "forward", "reverse", "kl" or "interpolated".
        lambda_t: number or [B] in [0, 1], for "interpolated" only. No gradient.
        temperature: T > 0, divides the summed log-probability.
        eps: clamp, in (0, 0.5).
        backend: "auto" (triton on a GPU, native on a CPU, else torch), "triton" (one launch each way),
            "native" (C), "torch" (span sums, no graph) or "reference" (the definition).

    Returns:
        [B, C] fp32, nats, not scaled by T². Differentiable once in student_token_log_probs.

    Raises:
        ValueError: types, shapes, dtypes or devices do not match; the objective is unknown; lambda_t is
            missing or does not apply; the teacher requires grad; an input has a forward-mode tangent (except
            with "reference"). On CPU also: a chunk id outside [-1, C), or an active chunk without a token on
            one side, whose P would be 1.

    Source: TIDE (arXiv 2604.26951), CALM and Reverse CALM.
    """
    student_chunks, teacher_chunks = _check_tensors(
        student_token_log_probs, teacher_token_log_probs, student_chunks, teacher_chunks, chunk_mask
    )
    temperature = check_temperature(NAME, temperature)
    if not 0.0 < eps < 0.5:
        raise ValueError(f"{NAME}: eps must lie in (0, 0.5); got {eps}.")
    if objective not in OBJECTIVES:
        raise ValueError(f"{NAME}: unknown objective {objective!r}; choose one of {', '.join(OBJECTIVES)}.")
    if (objective == "interpolated") != (lambda_t is not None):
        need = "needs lambda_t" if lambda_t is None else "takes no lambda_t"
        raise ValueError(f"{NAME}: objective {objective!r} {need}; lambda_t is for 'interpolated' only.")

    dtype = accumulation_dtype(student_token_log_probs, teacher_token_log_probs)
    which = resolve_backend(NAME, backend, chunk_mask.device, dtype)
    batch, num_chunks = chunk_mask.shape
    if num_chunks == 0:
        return student_token_log_probs[:, :0].to(dtype)
    shares = None
    if lambda_t is not None:
        arithmetic = dtype if which == "reference" else torch.float64
        shares = row_lambda(NAME, lambda_t, batch, arithmetic, chunk_mask.device)
    given = {"student_token_log_probs": student_token_log_probs, "lambda_t": shares}
    check_no_tangent(NAME, which, given | {"teacher_token_log_probs": teacher_token_log_probs})
    if which != "reference":
        loss: Float[Tensor, "B C"] = _forward(
            student_token_log_probs,
            teacher_token_log_probs,
            student_chunks,
            teacher_chunks,
            chunk_mask,
            shares,
            objective,
            scalar_tensor(temperature),
            scalar_tensor(eps),
            which,
        )[0]
        return loss
    if not torch.compiler.is_compiling():
        _check_values(student_chunks, teacher_chunks, chunk_mask, shares)
    return chunk_likelihood_reference(
        student_token_log_probs.to(dtype),
        teacher_token_log_probs.to(dtype),
        student_chunks,
        teacher_chunks,
        chunk_mask,
        objective,
        shares,
        temperature,
        eps,
    )


def _check_tensors(
    student_token_log_probs: Float[Tensor, "B Ls"],
    teacher_token_log_probs: Float[Tensor, "B Lt"],
    student_chunks: Int[Tensor, "B Ls"],
    teacher_chunks: Int[Tensor, "B Lt"],
    chunk_mask: Bool[Tensor, "B C"],
) -> tuple[Int[Tensor, "B Ls"], Int[Tensor, "B Lt"]]:
    """Check both sides; return the chunk ids as int64."""
    check_tensor(NAME, "chunk_mask", chunk_mask)
    check_tensor(NAME, "teacher_token_log_probs", teacher_token_log_probs)
    if chunk_mask.dtype != torch.bool or chunk_mask.dim() != 2:
        raise ValueError(
            f"{NAME}: chunk_mask must be bool [B, C]; got {chunk_mask.dtype} {tuple(chunk_mask.shape)}."
        )
    check_frozen(NAME, "teacher_token_log_probs", teacher_token_log_probs)
    student_chunks = _check_side("student", student_token_log_probs, student_chunks, chunk_mask)
    return student_chunks, _check_side("teacher", teacher_token_log_probs, teacher_chunks, chunk_mask)


def _check_side(
    side: str,
    token_log_probs: Float[Tensor, "B L"],
    chunks: Int[Tensor, "B L"],
    chunk_mask: Bool[Tensor, "B C"],
) -> Int[Tensor, "B L"]:
    batch = chunk_mask.shape[0]
    check_tensor(NAME, f"{side}_token_log_probs", token_log_probs)
    check_tensor(NAME, f"{side}_chunks", chunks)
    if token_log_probs.dtype not in FLOAT_DTYPES or token_log_probs.dim() != 2:
        raise ValueError(
            f"{NAME}: {side}_token_log_probs must be floating [B, L]; "
            f"got {token_log_probs.dtype} {tuple(token_log_probs.shape)}."
        )
    if chunks.dtype not in INTEGER_DTYPES or chunks.shape != token_log_probs.shape:
        raise ValueError(
            f"{NAME}: {side}_chunks must be integers, one per token, {tuple(token_log_probs.shape)}; "
            f"got {chunks.dtype} {tuple(chunks.shape)}. Convert a dense [B, L, C] alignment to chunk ids."
        )
    for name, x in ((f"{side}_token_log_probs", token_log_probs), (f"{side}_chunks", chunks)):
        check_same_length(NAME, name, x, batch, chunk_mask.device)
    return chunks.long()


def _check_values(
    student_chunks: Int[Tensor, "B Ls"],
    teacher_chunks: Int[Tensor, "B Lt"],
    chunk_mask: Bool[Tensor, "B C"],
    lambda_t: Float[Tensor, " B"] | None,
) -> None:
    """Check chunk ids, tokens of active chunks on both sides, and lambda. CPU tensors only."""
    if chunk_mask.device.type != "cpu":
        return
    for side, chunks in (("student", student_chunks), ("teacher", teacher_chunks)):
        num_chunks = chunk_mask.shape[1]
        outside = (chunks < -1) | (chunks >= num_chunks)
        if bool(outside.any()):
            raise ValueError(
                f"{NAME}: {side}_chunks must lie in [-1, {num_chunks}), -1 for none; "
                f"got {int(chunks[outside][0])}."
            )
        count = torch.zeros_like(chunk_mask, dtype=torch.long).scatter_add_(
            1, chunks.clamp(min=0), tokens_read(chunks, chunk_mask).long()
        )
        empty = (chunk_mask & (count == 0)).nonzero()
        if len(empty):
            sequence, chunk = empty[0].tolist()
            raise ValueError(
                f"{NAME}: active chunk {chunk} of sequence {sequence} has no {side} token, so its likelihood "
                "would be 1; clear it in chunk_mask."
            )
    if lambda_t is not None:
        check_lambda_values(NAME, lambda_t, None)


@torch.library.custom_op(
    f"tide_kernels::{NAME}",
    mutates_args=(),
    schema="(Tensor student_token_log_probs, Tensor teacher_token_log_probs, Tensor student_chunks, "
    "Tensor teacher_chunks, Tensor chunk_mask, Tensor? lambda_t, str objective, Tensor temperature, "
    "Tensor eps, str backend) -> (Tensor, Tensor)",
)
def _forward(
    student_token_log_probs: Tensor,
    teacher_token_log_probs: Tensor,
    student_chunks: Tensor,
    teacher_chunks: Tensor,
    chunk_mask: Tensor,
    lambda_t: Tensor | None,
    objective: str,
    temperature: Tensor,
    eps: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor]:
    _check_values(student_chunks, teacher_chunks, chunk_mask, lambda_t)
    loss, slope = (
        BACKENDS[NAME][backend]
        .load()
        .forward(
            student_token_log_probs,
            teacher_token_log_probs,
            student_chunks,
            teacher_chunks,
            chunk_mask,
            lambda_t,
            objective,
            float(temperature),
            float(eps),
        )
    )
    return loss, slope


@_forward.register_fake
def _(
    student: Tensor, teacher: Tensor, _s: Tensor, _t: Tensor, mask: Tensor, *_: Any
) -> tuple[Tensor, Tensor]:
    dtype = accumulation_dtype(student, teacher)
    return student.new_empty(mask.shape, dtype=dtype), student.new_empty(mask.shape, dtype=torch.float64)


@torch.library.custom_op(
    f"tide_kernels::{NAME}_backward",
    mutates_args=(),
    schema="(Tensor student_token_log_probs, Tensor student_chunks, Tensor slope, Tensor d_loss, str backend)"
    " -> Tensor",
)
def _backward(
    student_token_log_probs: Tensor, student_chunks: Tensor, slope: Tensor, d_loss: Tensor, backend: str
) -> Tensor:
    gradient: Tensor = (
        BACKENDS[NAME][backend].load().backward(student_token_log_probs, student_chunks, slope, d_loss)
    )
    return gradient


@_backward.register_fake
def _(student_token_log_probs: Tensor, *_: Any) -> Tensor:
    return student_token_log_probs.new_empty(student_token_log_probs.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.backend = inputs[-1]
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(inputs[0], inputs[2], output[1])


def _differentiate(ctx: Any, d_loss: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    return _backward(*ctx.saved_tensors, d_loss, ctx.backend), *(None,) * 9


_forward.register_autograd(_differentiate, setup_context=_setup_context)
forbid_double_backward(_backward)
