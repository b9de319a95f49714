"""Divergences of a row block: formulas of the `torch` backend, over logits and over hidden states.

`tilt.py` derives them. KL(p || q) is the log-mean of the tilt at lambda = 1, and its gradient needs no second
exponential: p (log p - log q - KL) = -p (u - E_p[u]).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tide_kernels.divergence.chunked import ChunkedDivergence, RowDivergence, RowStatistics
from tide_kernels.divergence.reference import (
    interpolated_kl_gradient,
    interpolated_kl_reference,
    reverse_kl_gradient,
    reverse_kl_reference,
)
from tide_kernels.divergence.tilt import PLAIN_EXP_W_E, load_tilt, tilt_statistics

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from tide_kernels._shared.row_blocks import Scratch
    from tide_kernels._shared.vocabulary import Vocabulary


def interpolated_kl_block_statistics(
    student: Float[Tensor, "n V"],
    teacher: Float[Tensor, "n V"],
    lambda_t: Float[Tensor, " n"],
    temperature: float,
    vocabulary: Vocabulary,
    scratch: Scratch,
) -> RowStatistics:
    """KL(r || softmax(student / T)) per row. Reads the logits, overwrites the scratch."""
    tilt = tilt_statistics(student, teacher, lambda_t / temperature, temperature, vocabulary, scratch)
    kl = tilt.mean_w_e / (1 + tilt.excess) - tilt.log_mean
    offset, careful = tilt.log_mean_w, tilt.careful
    if tilt.outside is not None:
        kl = kl + tilt.outside.log_share
        # r is normalised without the entries outside the teacher's support, where p - r = p.
        offset = offset - tilt.outside.log_share
        # At lambda = 1 the student does not enter r: teacher mass where p = 0 makes the KL infinite.
        careful = careful | (tilt.outside.of_student & (lambda_t == 1))
    if bool(careful.any()):
        rows = careful.nonzero().squeeze(1)
        whole = [vocabulary.whole(x[rows]).double() for x in (student, teacher)]
        exact, _ = interpolated_kl_reference(whole[0], whole[1], lambda_t[rows].double(), temperature)
        kl[rows] = exact.to(kl.dtype)
    return RowStatistics(kl, tilt.row_max, tilt.total, tilt.mean_difference, offset, tilt.infinite, careful)


def interpolated_kl_block_gradient(
    student: Float[Tensor, "n V"],
    teacher: Float[Tensor, "n V"],
    lambda_t: Float[Tensor, " n"],
    temperature: float,
    vocabulary: Vocabulary,
    scratch: Scratch,
    statistics: RowStatistics,
    weight: Float[Tensor, " n"],
    out: Float[Tensor, "n V"],
) -> None:
    """out = weight * (softmax(student / T) - r) / T. Overwrites the scratch; out is written last."""
    p, w, _ = scratch
    kl, row_max, total, mean_difference, offset, infinite, careful = statistics
    load_tilt(
        student,
        teacher,
        lambda_t / temperature,
        mean_difference,
        offset,
        row_max,
        temperature,
        scratch,
        infinite,
    )
    # If r is far from p, exp - 1 is within rounding of expm1, which takes seven times as long.
    if bool((kl >= PLAIN_EXP_W_E).all()):
        w.exp_().sub_(1.0)
    else:
        w.expm1_()
    w.mul_((weight / (total * -temperature))[:, None])
    if not bool(careful.any()):
        torch.mul(p, w, out=out)
        return
    rows = careful.nonzero().squeeze(1)
    whole = [vocabulary.whole(x[rows]).double() for x in (student, teacher)]
    exact = interpolated_kl_gradient(whole[0], whole[1], lambda_t[rows].double(), temperature)
    torch.mul(p, w, out=out)
    out[rows] = (weight[rows].double()[:, None] * vocabulary.own(exact)).to(out.dtype)


def reverse_kl_block_statistics(
    student: Float[Tensor, "n V"],
    teacher: Float[Tensor, "n V"],
    lambda_t: Float[Tensor, " n"],
    temperature: float,
    vocabulary: Vocabulary,
    scratch: Scratch,
) -> RowStatistics:
    """KL(softmax(student / T) || softmax(teacher / T)) per row; lambda_t is not used."""
    tilt = tilt_statistics(
        student,
        teacher,
        lambda_t.new_full(lambda_t.shape, 1 / temperature),
        temperature,
        vocabulary,
        scratch,
    )
    kl, careful = tilt.log_mean, tilt.careful
    if tilt.outside is not None:
        # Teacher mass where the student has none scales the ratio of every entry alike.
        kl = kl + _log_share(student, teacher, temperature, vocabulary, scratch)
        # Student mass outside the teacher's support gives +inf, which the definition returns.
        careful = careful | (tilt.outside.log_share > 0) | ~kl.isfinite()
    if bool(careful.any()):
        rows = careful.nonzero().squeeze(1)
        whole = [vocabulary.whole(x[rows]).double() for x in (student, teacher)]
        exact, _ = reverse_kl_reference(whole[0], whole[1], temperature)
        kl[rows] = exact.to(kl.dtype)
    return RowStatistics(
        kl, tilt.row_max, tilt.total, tilt.mean_difference, tilt.mean_w, tilt.infinite, careful
    )


def reverse_kl_block_gradient(
    student: Float[Tensor, "n V"],
    teacher: Float[Tensor, "n V"],
    lambda_t: Float[Tensor, " n"],
    temperature: float,
    vocabulary: Vocabulary,
    scratch: Scratch,
    statistics: RowStatistics,
    weight: Float[Tensor, " n"],
    out: Float[Tensor, "n V"],
) -> None:
    """out = weight * p (log p - log q - KL) / T, p the student's distribution; lambda_t is not used."""
    p, w, _ = scratch
    _, row_max, total, mean_difference, offset, infinite, careful = statistics
    scale = lambda_t.new_full(lambda_t.shape, 1 / temperature)
    load_tilt(student, teacher, scale, mean_difference, offset, row_max, temperature, scratch, infinite)
    if bool(infinite.any()):
        # In rows that are not careful w is -inf only where p underflowed, and 0 * inf would be NaN.
        w.masked_fill_(w.isneginf(), 0.0)
    w.mul_((weight / (total * -temperature))[:, None])
    if not bool(careful.any()):
        torch.mul(p, w, out=out)
        return
    rows = careful.nonzero().squeeze(1)
    whole = [vocabulary.whole(x[rows]).double() for x in (student, teacher)]
    exact = reverse_kl_gradient(whole[0], whole[1], temperature)
    torch.mul(p, w, out=out)
    out[rows] = (weight[rows].double()[:, None] * vocabulary.own(exact)).to(out.dtype)


def _log_share(
    student: Float[Tensor, "n V"],
    teacher: Float[Tensor, "n V"],
    temperature: float,
    vocabulary: Vocabulary,
    scratch: Scratch,
) -> Float[Tensor, " n"]:
    """-log of the teacher's mass on entries where the student is not -inf."""
    p, w, _ = scratch
    torch.sub(teacher, vocabulary.max(teacher)[:, None], out=p).mul_(1 / temperature).exp_()
    outside = vocabulary.sum(torch.mul(p, student.isneginf(), out=w))
    return (outside / vocabulary.sum(p.sub_(w))).log1p_()


def _reverse_reference(
    student_logits: Float[Tensor, "N V"],
    teacher_logits: Float[Tensor, "N V"],
    lambda_t: Float[Tensor, " N"],
    temperature: float,
    labels: Int[Tensor, " N"] | None,
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"] | None]:
    return reverse_kl_reference(student_logits, teacher_logits, temperature, labels)


INTERPOLATED_KL = ChunkedDivergence(
    RowDivergence(interpolated_kl_block_statistics, interpolated_kl_block_gradient, interpolated_kl_reference)
)
REVERSE_KL = ChunkedDivergence(
    RowDivergence(reverse_kl_block_statistics, reverse_kl_block_gradient, _reverse_reference)
)
