"""The losses of the official TIDE code, under its names and signatures; `patch` installs them there.

Names follow the official code (taid, alm); docs/glossary.md maps them to the paper's. docs/drop-in.md shows
how to use both, and lists every difference.

Source: TIDE (arXiv 2604.26951) and its official code.
Legend: B sequences, L positions (Ls, Lt: student's, teacher's), V, V2 vocabulary entries, C chunks.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from tide.integrations.alignment_matrix import chunk_ids_from_matrix, chunks_of_both, tokens_of
from tide.integrations.patching import Replacement, replace, restore
from tide.integrations.published import (
    published_bce,
    published_likelihoods,
    published_log1mexp,
    published_taid,
)
from tide.losses import (
    calm_loss,
    lambda_schedule,
    reverse_calm_loss,
    tidal_loss,
    timestep_weight,
    token_log_probs,
)
from tide.losses.options import check_choice
from tide_kernels import log1mexp as accurate_log1mexp

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

__all__ = [
    "Replacement",
    "chunk_ids_from_matrix",
    "compute_alm_loss",
    "compute_taid_loss",
    "log1mexp",
    "patch",
    "unpatch",
]

AXES = {"both": "both", "training_only": "training", "timestep_only": "timestep"}


def compute_taid_loss(
    student_logits: Float[Tensor, "B L V"],
    teacher_logits: Float[Tensor, "B L V2"],
    masked_mask: Bool[Tensor, "B L"],
    t: Float[Tensor, " B"],
    config: object,
    global_step: int,
    max_steps: int,
    entropy_weights: Float[Tensor, "B L"] | None = None,
    *,
    exact: bool = True,
    backend: str = "auto",
) -> Float[Tensor, ""]:
    """TIDAL: T² times the weighted mean over masked rows of KL(interpolated target || student).

    Args:
        student_logits: [B, L, V], fp32, bf16 or fp16.
        teacher_logits: [B, L, V2]; gets no gradient.
        masked_mask: [B, L] bool, True on the rows that count.
        t: [B] diffusion time in [0, 1].
        config: a mapping or an object with these optional keys or attributes: lambda_init (0.1), lambda_max
            (0.9), lambda_decay (``cosine`` or ``linear``), timestep_weight (``uniform`` or ``midrange``),
            shared_vocab_size (None; required where V and V2 differ), temperature (2.0), axis_mode (``both``,
            ``training_only`` or ``timestep_only``).
        global_step, max_steps: optimiser steps done, and in all. Past the last, λ stays at its maximum.
        entropy_weights: [B, L] factor of each row, or None.
        exact: compute in fp32 from the logits as they are. False rounds as the official code does.
        backend: of ``tide.losses.tidal_loss``; unused without ``exact``.

    Returns:
        Scalar fp32, nats. No masked row: 0 with a connected graph (officially a constant).

    Raises:
        ValueError: shapes that do not fit, vocabularies of different width without shared_vocab_size, an
            unknown name in config, or a value outside its range.
    """
    get: Any = config.get if isinstance(config, Mapping) else functools.partial(getattr, config)
    axis, shared, temperature = (
        get("axis_mode", "both"),
        get("shared_vocab_size", None),
        get("temperature", 2.0),
    )
    check_choice("compute_taid_loss", "axis_mode", axis, tuple(AXES))
    sizes = [logits.shape[-1] for logits in (student_logits, teacher_logits)]
    vocab_size, teacher_size = sizes if shared is None else [min(size, shared) for size in sizes]
    if vocab_size != teacher_size:
        raise ValueError(
            f"compute_taid_loss: student and teacher logits have {sizes[0]} and {sizes[1]} entries, of which "
            f"shared_vocab_size = {shared} leaves {vocab_size} and {teacher_size}. Set shared_vocab_size to "
            "the number of leading ids that both tokenizers share."
        )
    lambda_t = lambda_schedule(
        t,
        global_step / max(max_steps, 1),
        lambda_init=get("lambda_init", 0.1),
        lambda_max=get("lambda_max", 0.9),
        decay=get("lambda_decay", "cosine"),
        axis=AXES[axis],
    )
    weight = timestep_weight(t, get("timestep_weight", "uniform"))
    if entropy_weights is not None:
        weight = weight[:, None] * entropy_weights.reshape(masked_mask.shape)
    if not exact:
        rows = weight if weight.ndim == 2 else weight[:, None].expand(masked_mask.shape)
        student, teacher = student_logits[..., :vocab_size], teacher_logits[..., :vocab_size]
        return published_taid(student, teacher, masked_mask, lambda_t, rows, temperature)
    loss = tidal_loss(
        student_logits,
        teacher_logits.detach(),
        masked_mask,
        lambda_t=lambda_t,
        temperature=temperature,
        weight=weight,
        vocab_size=vocab_size,
        backend=backend,
    )
    assert isinstance(loss, torch.Tensor), "without labels a divergence is one tensor"
    return loss


def compute_alm_loss(
    student_logits: Float[Tensor, "B Ls V"],
    teacher_logits: Float[Tensor, "B Lt V2"],
    student_input_ids: Int[Tensor, "B Ls"],
    teacher_input_ids: Int[Tensor, "B Lt"],
    alignment_matrix_student: Bool[Tensor, "B Ls C"],
    alignment_matrix_teacher: Bool[Tensor, "B Lt C"],
    chunk_mask: Bool[Tensor, "B C"],
    temperature: float = 2.0,
    chunk_weights: Float[Tensor, "B C"] | None = None,
    reverse: bool = False,
    *,
    exact: bool = True,
    empty_chunks: str = "error",
    backend: str = "auto",
) -> Float[Tensor, ""]:
    """CALM, or Reverse CALM: binary cross-entropy of chunk likelihoods, mean over active chunks.

    Args:
        student_logits: [B, Ls, V], fp32, bf16 or fp16.
        teacher_logits: [B, Lt, V2]; gets no gradient.
        student_input_ids: [B, Ls] clean token ids. Tokens outside active chunks are not read.
        teacher_input_ids: [B, Lt].
        alignment_matrix_student: [B, Ls, C] bool, True where a token belongs to a chunk.
        alignment_matrix_teacher: [B, Lt, C] bool.
        chunk_mask: [B, C] bool, True on the active chunks.
        temperature: T > 0, divides a chunk's log-likelihood.
        chunk_weights: factor of each chunk, [B, C] or broadcast to it, or None. The divisor stays the number
            of active chunks.
        reverse: Reverse CALM.
        exact: compute in fp32 from the logits as they are. False rounds as the official code does: token
            log-probabilities and their sums in the dtype of the logits.
        empty_chunks: ``error`` refuses an active chunk without a token on one side, whose likelihood would be
            1; ``drop`` leaves it out of sum and divisor. Without ``exact`` it counts as 1, as published.
        backend: of ``tide.losses``; unused without ``exact``.

    Returns:
        Scalar fp32, nats, not scaled by T². No active chunk: 0 with a connected graph.

    Raises:
        ValueError: shapes or dtypes that do not fit, a token in two chunks, an active chunk without a token,
            or a value outside its range.
    """
    weights = None if chunk_weights is None else chunk_weights.broadcast_to(chunk_mask.shape)
    if not exact:
        student = published_likelihoods(
            student_logits, student_input_ids, alignment_matrix_student, temperature
        )
        teacher = published_likelihoods(
            teacher_logits.detach(), teacher_input_ids, alignment_matrix_teacher, temperature
        )
        target, predicted = (student, teacher) if reverse else (teacher, student)
        return published_bce(target, predicted, chunk_mask, weights)
    student_chunks, teacher_chunks, active = chunks_of_both(
        "compute_alm_loss", alignment_matrix_student, alignment_matrix_teacher, chunk_mask, empty_chunks
    )
    student_log_p = token_log_probs(
        student_logits, student_input_ids, tokens_of(student_chunks, active), backend=backend
    )
    teacher_log_p = token_log_probs(
        teacher_logits.detach(), teacher_input_ids, tokens_of(teacher_chunks, active), backend=backend
    )
    loss = reverse_calm_loss if reverse else calm_loss
    return loss(
        student_log_p,
        teacher_log_p,
        student_chunks,
        teacher_chunks,
        active,
        temperature=temperature,
        chunk_weights=weights,
        backend=backend,
    )


def log1mexp(x: Float[Tensor, " ..."], *, exact: bool = True) -> Float[Tensor, " ..."]:
    """log(1 - e^x) for x <= 0; -inf at 0.

    ``exact`` keeps all digits on both sides of -log 2. False takes the official branches, which are exchanged
    and lose them near 0.
    """
    return accurate_log1mexp(x) if exact else published_log1mexp(x)


def patch(
    package: str = "dllm",
    *,
    exact: bool = True,
    empty_chunks: str = "error",
    backend: str = "auto",
    verbose: bool = True,
) -> list[Replacement]:
    """Replace the official losses by those above, wherever the imported package holds them.

    These are ``compute_taid_loss``, under any name in any module, and the static methods ``compute_alm_loss``
    and ``log1mexp`` of ``DistillBD3LMTrainer``. Everything is checked before anything is replaced. A second
    call with the same options changes nothing.

    Args:
        package: name under which the official code is imported.
        exact, empty_chunks, backend: options of `compute_taid_loss` and `compute_alm_loss`.
        verbose: print each replaced name to stderr.

    Returns:
        One record per replaced name.

    Raises:
        ImportError: the package, or a module of it that holds one of the losses, cannot be imported.
        ValueError: an attribute is missing or is no static method, or a signature is not the official one.
    """
    options: dict[str, Any] = {"exact": exact, "backend": backend}
    losses, trainer = f"{package}.core.trainers.losses.taid", f"{package}.core.trainers.distill_bd3lm"
    taid = _with_options(compute_taid_loss, **options)
    alm = _with_options(compute_alm_loss, **options, empty_chunks=empty_chunks)
    targets = [
        (losses, "compute_taid_loss", taid),
        (trainer, "DistillBD3LMTrainer.compute_alm_loss", alm),
        (trainer, "DistillBD3LMTrainer.log1mexp", _with_options(log1mexp, exact=exact)),
    ]
    records, changed = replace(package, targets, {**options, "empty_chunks": empty_chunks})
    if verbose and changed:
        for record in records:
            print(f"tide: replaced {record.where} (exact={exact})", file=sys.stderr)
    return records


def unpatch(package: str = "dllm") -> list[Replacement]:
    """Put back what `patch` replaced, except names that something else has replaced since.

    Returns:
        One record per name put back; none if the package is not patched.
    """
    return restore(package)


def _with_options(function: Any, **options: Any) -> Any:
    """The function with keyword-only options set; the function itself if they are its defaults."""
    if all(function.__kwdefaults__[name] == value for name, value in options.items()):
        return function
    return functools.update_wrapper(functools.partial(function, **options), function)
