"""Statistics of softmax(s/T) tilted towards the teacher: both divergences and their gradients follow.

With p = softmax(s/T), u = scale * (z - s) and scale = lambda/T, the interpolated target is r = p e^u /
E_p[e^u]. Let c = E_p[u], w = u - c, e = expm1(w). Then, exactly,

    D = log E_p[e^u] = c + log1p(E_p[e - w])
    KL(r || p) = E_p[w e] / (1 + E_p[e - w]) - log1p(E_p[e - w])        KL(p || r) = log1p(E_p[e - w])
    p - r = -p expm1(u - D)

No term is a difference of log-sum-exps: at lambda = 0.01 and V = 152k that difference errs by 1e-1 in fp32,
this by 1e-5. KL, r and the gradient do not change when a constant is added to z; c takes it out.

Two corrections keep the form exact at the ends of the range:
- Rows with |w| <= 1/2 throughout use e - w = w e h(w), h(w) = 1/2 - w/12 + w^3/720 (relative error under
  3e-6): the subtraction would lose eps/|w| there. Only in fp32; fp64 has the digits.
- Rows with a w so large that p e^w may be a product of 0 and infinity are marked `careful`, and so are rows
  whose value is not finite: the caller takes them through the definition (reference.py) in fp64. In training
  they do not occur.

Entries at minus infinity: where the student has one, p = 0 and the entry is left out. Where only the teacher
has one, r = 0 but p is not: the sums run over the other entries, with p renormalised to them, and -log
p(others) is added to KL(r || p).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from tide_kernels._shared.row_blocks import Scratch
    from tide_kernels._shared.vocabulary import Vocabulary

# p underflows to 0 below exp(-87) in fp32 and exp(-708) in fp64. With w under these bounds, what is lost that
# way is smaller than 1e-11 of E_p[e^w] >= 1.
LARGEST_W = {torch.float32: 60.0, torch.float64: 650.0}
# Bound of the series for h.
SERIES_W = 0.5
# expm1 takes seven times as long as exp on a CPU. From E_p[w e] = 0.1 on, 1e-7 of error in E_p[e] is of the
# order of fp32.
PLAIN_EXP_W_E = 0.1


class Tilt(NamedTuple):
    """One value per row."""

    row_max: Float[Tensor, " n"]  # max s
    total: Float[Tensor, " n"]  # sum of exp((s - max s)/T)
    mean_difference: Float[Tensor, " n"]  # E_p[z - s], rounded; times scale it is the centre of w
    mean_w: Float[Tensor, " n"]  # E_p[w], what the rounding left
    log_mean_w: Float[Tensor, " n"]  # log E_p[e^w] = D - scale * mean_difference
    log_mean: Float[Tensor, " n"]  # log1p(E_p[e - w]), D - c with c exact
    excess: Float[Tensor, " n"]  # E_p[e - w]
    mean_w_e: Float[Tensor, " n"]  # E_p[w e]
    careful: Bool[Tensor, " n"]  # the values above are not to be trusted
    infinite: Bool[Tensor, " n"]  # the row holds an entry that is not finite
    outside: Outside | None  # set when a row of the chunk is infinite


class Outside(NamedTuple):
    """Entries at minus infinity on one side only, one value per row."""

    log_share: Float[Tensor, " n"]  # -log of the p mass where the teacher is finite; 0 for all of it
    of_student: Bool[Tensor, " n"]  # the teacher has mass where the student has none


def tilt_statistics(
    student: Float[Tensor, "n V"],
    teacher: Float[Tensor, "n V"],
    scale: Float[Tensor, " n"],
    temperature: float,
    vocabulary: Vocabulary,
    scratch: Scratch,
) -> Tilt:
    """Statistics of a chunk of rows. Reads student and teacher, overwrites the scratch."""
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

    # Centred before it is scaled: at an entry that p sits on, the two differences cancel exactly.
    w.sub_(mean_difference[:, None]).mul_(scale[:, None])
    # The mean was rounded; what that leaves of E_p[w] belongs into D.
    residual = vocabulary.sum(torch.mul(p, w, out=x)).div_(inside)

    # w lies in an interval of this length around 0.
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
        # x holds p w e. p is not needed any more.
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

    They are the factors of a gradient. w is built in the steps in which the offset was measured: at an entry
    that p sits on, it is orders of magnitude smaller than u.

    w is 0 where the student is at minus infinity (p is 0 there) and minus infinity where only the teacher is.
    """
    p, w, _ = scratch
    _unnormalised_p(student, row_max, temperature, p)
    torch.sub(teacher, student, out=w)
    # A NaN or plus infinity would meet p = 0, and minus infinity a scale of 0.
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
    """Restrict scratch.p and .w to entries finite on both sides; also their sum of p and their mean w.

    The others get p = 0 and that mean, so that they are in nobody's way. At scale = 0 the teacher does not
    count, and p stays whole.
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
    # One fused multiply-add per entry; that max s / T is rounded first scales the whole row and cancels in p.
    torch.add(row_max[:, None] * (-1.0 / temperature), student, alpha=1.0 / temperature, out=p)
    p.exp_()
