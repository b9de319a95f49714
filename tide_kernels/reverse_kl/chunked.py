"""Reverse KL of a row block: formulas of the `torch` backend and of the hidden-in op.

KL(p || q) is the log-mean of the tilt at lambda = 1 (`_shared/tilt.py`), and its gradient needs no second
exponential: p (log p - log q - KL) = -p (u - E_p[u]).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tide_kernels._shared.divergence_blocks import RowDivergence, RowStatistics
from tide_kernels._shared.tilt import load_tilt, tilt_statistics
from tide_kernels.reverse_kl.reference import reverse_kl_gradient, reverse_kl_reference

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from tide_kernels._shared.row_blocks import Scratch
    from tide_kernels._shared.vocabulary import Vocabulary


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


def _reference(
    student_logits: Float[Tensor, "N V"],
    teacher_logits: Float[Tensor, "N V"],
    lambda_t: Float[Tensor, " N"],
    temperature: float,
    labels: Int[Tensor, " N"] | None,
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"] | None]:
    return reverse_kl_reference(student_logits, teacher_logits, temperature, labels)


REVERSE_KL = RowDivergence(reverse_kl_block_statistics, reverse_kl_block_gradient, _reference)
