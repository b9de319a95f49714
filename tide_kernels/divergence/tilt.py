"""Statistics of softmax(s/T) tilted towards the teacher, from which both divergences and gradients follow.

With p = softmax(s/T), u = scale * (z - s) and scale = lambda/T, the interpolated target is r = p e^u /
E_p[e^u]. Let c = E_p[u], w = u - c, e = expm1(w). Then, exactly,

    D = log E_p[e^u] = c + log1p(E_p[e - w])
    KL(r || p) = E_p[w e] / (1 + E_p[e - w]) - log1p(E_p[e - w])        KL(p || r) = log1p(E_p[e - w])
    p - r = -p expm1(u - D)

No term is a difference of log-sum-exps, whose relative error at lambda = 0.01 and V = 152k is 1e-1 in fp32;
here it is 1e-5. KL, r and the gradient are invariant to a constant added to z; centring by c removes it.

Two corrections at the ends of the range:
- Rows with |w| <= 1/2 throughout use e - w = w e h(w), h(w) = 1/2 - w/12 + w^3/720 (relative error below
  3e-6); the subtraction would lose eps/|w|. Only in fp32.
- Rows in which w is so large that p e^w may be 0 times infinity, and rows with a value that is not finite,
  are marked `careful`: the caller evaluates them by the definition (reference.py) in fp64. They do not occur
  in training.

Entries at -inf: if the student's is, p = 0 and the entry is skipped. If only the teacher's is, r = 0 but
p > 0: the sums run over the other entries with p renormalised, and -log p(others) is added to KL(r || p).
Legend: n rows of a row block, V vocabulary entries in use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from tide_kernels._shared.row_blocks import Scratch
    from tide_kernels._shared.vocabulary import Vocabulary

# p underflows below exp(-87) in fp32 and exp(-708) in fp64. With w below these bounds the loss is less than
# 1e-11 of E_p[e^w] >= 1.
LARGEST_W = {torch.float32: 60.0, torch.float64: 650.0}
# Range of the series for h.
SERIES_W = 0.5
# expm1 takes seven times as long as exp on a CPU. Above E_p[w e] = 0.1 an error of 1e-7 in E_p[e] is within
# fp32 rounding.
PLAIN_EXP_W_E = 0.1


class Tilt(NamedTuple):
    """One value per row."""

    row_max: Float[Tensor, " n"]  # max s
    total: Float[Tensor, " n"]  # sum of exp((s - max s)/T)
    mean_difference: Float[Tensor, " n"]  # E_p[z - s], rounded; times scale it is the centre of w
    mean_w: Float[Tensor, " n"]  # E_p[w], the rounding error of the centre
    log_mean_w: Float[Tensor, " n"]  # log E_p[e^w] = D - scale * mean_difference
    log_mean: Float[Tensor, " n"]  # log1p(E_p[e - w]), D - c with c exact
    excess: Float[Tensor, " n"]  # E_p[e - w]
    mean_w_e: Float[Tensor, " n"]  # E_p[w e]
    careful: Bool[Tensor, " n"]  # the values above are unreliable
    infinite: Bool[Tensor, " n"]  # some entry of the row is not finite
    outside: Outside | None  # set if any row is infinite


class Outside(NamedTuple):
    """Entries at -inf on one side only, one value per row."""

    log_share: Float[Tensor, " n"]  # -log of the p mass where the teacher is finite; 0 if everywhere
    of_student: Bool[Tensor, " n"]  # the teacher has mass where the student has none


def tilt_statistics(
    student: Float[Tensor, "n V"],
    teacher: Float[Tensor, "n V"],
    scale: Float[Tensor, " n"],
    temperature: float,
    vocabulary: Vocabulary,
    scratch: Scratch,
) -> Tilt:
    """Statistics of a row block. Reads student and teacher, overwrites the scratch."""
    p, w, x = scratch
    row_max = vocabulary.max(student)
    _unnormalised_p(student, row_max, temperature, p)
    total = vocabulary.sum(p)
    torch.sub(teacher, student, out=w)
    largest, smallest = vocabulary.max(w), vocabulary.min(w)
    mean_difference = vocabulary.sum(torch.mul(p, w, out=x)).div_(total)
    spread = largest - smallest

    inside, outside = total, None
    infinite = ~(spread < torch.inf)
    if bool(infinite.any()):
        outside, inside, mean_difference = _exclude_infinite(student, teacher, scale, vocabulary, scratch)
        largest, smallest = vocabulary.max(w), vocabulary.min(w)
        spread = largest - smallest

    # Centre, then scale: at an entry that holds most of p the two differences cancel exactly.
    w.sub_(mean_difference[:, None]).mul_(scale[:, None])
    # The mean is rounded; the residual of E_p[w] belongs to D.
    residual = vocabulary.sum(torch.mul(p, w, out=x)).div_(inside)

    # w lies in an interval of this length that contains 0.
    small = spread * scale <= SERIES_W
    any_small = p.dtype == torch.float32 and bool(small.any())
    if not any_small:
        torch.exp(w, out=x).mul_(p)
        excess = vocabulary.sum(x).div_(inside).sub_(1.0)
        mean_w_e = vocabulary.sum(x.mul_(w)).div_(inside).sub_(residual)
    if any_small or not bool((mean_w_e >= PLAIN_EXP_W_E).all()):
        torch.expm1(w, out=x).mul_(p)
        excess = vocabulary.sum(x).div_(inside)
        mean_w_e = vocabulary.sum(x.mul_(w)).div_(inside)
    log_mean_w = excess.log1p()
    excess.sub_(residual)
    if any_small:
        # x holds p w e; p is free.
        torch.mul(w, w, out=p).mul_(1 / 720).sub_(1 / 12).mul_(w).add_(0.5)
        excess = torch.where(small, vocabulary.sum(x.mul_(p)).div_(inside), excess)
    log_mean = excess.log1p()
    trusted = ((largest - mean_difference) * scale <= LARGEST_W[p.dtype]) & (
        (log_mean + mean_w_e).abs() < torch.inf
    )
    return Tilt(
        row_max=row_max,
        total=total,
        mean_difference=mean_difference,
        mean_w=residual,
        log_mean_w=log_mean_w,
        log_mean=log_mean,
        excess=excess,
        mean_w_e=mean_w_e,
        careful=~trusted,
        infinite=infinite,
        outside=outside,
    )


def load_tilt(
    student: Float[Tensor, "n V"],
    teacher: Float[Tensor, "n V"],
    scale: Float[Tensor, " n"],
    mean_difference: Float[Tensor, " n"],
    offset: Float[Tensor, " n"],
    row_max: Float[Tensor, " n"],
    temperature: float,
    scratch: Scratch,
    infinite: Bool[Tensor, " n"],
) -> None:
    """Load scratch.p = exp((s - max s)/T) and scratch.w = scale * (z - s - mean_difference) - offset.

    They are the factors of a gradient. w is computed in the same steps as the offset: at an entry that holds
    most of p it is orders of magnitude smaller than u.

    w is 0 where the student is -inf (p is 0 there) and -inf where only the teacher is.
    """
    p, w, _ = scratch
    _unnormalised_p(student, row_max, temperature, p)
    torch.sub(teacher, student, out=w)
    # Else NaN or +inf would meet p = 0, and -inf a scale of 0.
    hidden = None
    if bool(infinite.any()):
        hidden = student.isneginf() | (w.isneginf() & (scale == 0)[:, None])
    w.sub_(mean_difference[:, None]).mul_(scale[:, None]).sub_(offset[:, None])
    if hidden is not None:
        w.masked_fill_(hidden, 0.0)


def _exclude_infinite(
    student: Float[Tensor, "n V"],
    teacher: Float[Tensor, "n V"],
    scale: Float[Tensor, " n"],
    vocabulary: Vocabulary,
    scratch: Scratch,
) -> tuple[Outside, Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Restrict scratch.p and .w to entries finite on both sides; also return their sum of p and mean w.

    The other entries get p = 0 and w = the mean. At scale = 0 the teacher does not count and p stays whole.
    """
    p, w, x = scratch
    student_infinite = student.isneginf()
    of_student = vocabulary.any(teacher.isfinite() & student_infinite)
    teacher_infinite = w.isneginf()
    left_out = student_infinite | teacher_infinite
    w.masked_fill_(left_out, 0.0)
    teacher_infinite &= (scale > 0)[:, None]
    excluded = vocabulary.sum(torch.mul(p, teacher_infinite, out=x))
    p.masked_fill_(teacher_infinite, 0.0)
    inside = vocabulary.sum(p)
    mean_difference = vocabulary.sum(torch.mul(p, w, out=x)).div_(inside)
    torch.where(left_out, mean_difference[:, None], w, out=w)
    return Outside((excluded / inside).log1p_(), of_student), inside, mean_difference


def _unnormalised_p(
    student: Float[Tensor, "n V"], row_max: Float[Tensor, " n"], temperature: float, p: Float[Tensor, "n V"]
) -> None:
    # One fused multiply-add per entry. Rounding max s / T scales the whole row and cancels in p / total.
    torch.add(row_max[:, None] * (-1.0 / temperature), student, alpha=1.0 / temperature, out=p)
    p.exp_()
