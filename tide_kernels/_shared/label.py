"""log softmax at one entry per row, T = 1, with the digits of a probability near 1 kept.

Shared by token_logprob and by the cross-entropy that rides along with the divergences.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


class LabelStatistics(NamedTuple):
    """What the gradient of a label's log-probability needs, one value per row."""

    log_p: Float[Tensor, " n"]  # log softmax(x)_y, nats
    row_max: Float[Tensor, " n"]  # m = max x
    rest: Float[Tensor, " n"]  # sum of exp(x - m) over all entries but y
    total: Float[Tensor, " n"]  # the same sum over all entries


def label_statistics(
    logits: Float[Tensor, "n V"],
    row_max: Float[Tensor, " n"],
    labels: Int[Tensor, " n"],
    buffer: Float[Tensor, "n V"],
) -> LabelStatistics:
    """log softmax(logits) at the labels. Overwrites the buffer, which must not be the logits."""
    column = labels[:, None]
    torch.sub(logits, row_max[:, None], out=buffer)
    label_logit = buffer.gather(1, column).squeeze(1)
    buffer.exp_().scatter_(1, column, 0.0)
    rest = buffer.sum(1)
    label_exp = label_logit.exp()
    total = rest + label_exp
    # A label that is the row's maximum has label_exp = 1, and its p may be within an ulp of 1: log1p of the
    # rest keeps the relative precision of log p, which 1 - P of a chunk is made of.
    log_total = torch.where(label_exp == 1, rest.log1p(), total.log())
    return LabelStatistics(label_logit - log_total, row_max, rest, total)


def label_gradient(
    logits: Float[Tensor, "n V"],
    statistics: LabelStatistics,
    labels: Int[Tensor, " n"],
    weight: Float[Tensor, " n"],
    out: Float[Tensor, "n V"],
) -> None:
    """out = gradient of sum(weight * log_p): weight * (onehot(y) - softmax). out may be the logits."""
    scale = weight / statistics.total
    torch.sub(logits, statistics.row_max[:, None], out=out)
    out.exp_().mul_(-scale[:, None])
    # 1 - p_y as the sum of the others: exact where p_y rounds to 1.
    out.scatter_(1, labels[:, None], (scale * statistics.rest)[:, None])
