"""Interpolated KL of a row block: formulas of the `torch` backend and of the hidden-in op.

`_shared/tilt.py` derives them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tide_kernels._shared.divergence_blocks import RowDivergence, RowStatistics
from tide_kernels._shared.tilt import PLAIN_EXP_W_E, load_tilt, tilt_statistics
from tide_kernels.interpolated_kl.reference import interpolated_kl_gradient, interpolated_kl_reference

if TYPE_CHECKING:
    from jaxtyping import Float
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


INTERPOLATED_KL = RowDivergence(
    interpolated_kl_block_statistics, interpolated_kl_block_gradient, interpolated_kl_reference
)
