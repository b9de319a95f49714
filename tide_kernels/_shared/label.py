"""log softmax at one entry per row, T = 1, accurate for probabilities near 1.

Used by token_logprob and by the cross-entropy of the divergences.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from tide_kernels._shared.vocabulary import Vocabulary


class LabelStatistics(NamedTuple):
    """A label's log-probability and the numbers its gradient needs, per row."""

    log_p: Float[Tensor, " n"]  # log softmax(x)_y, nats
    row_max: Float[Tensor, " n"]  # m = max x
    rest: Float[Tensor, " n"]  # sum of exp(x - m) over all entries except y
    total: Float[Tensor, " n"]  # sum of exp(x - m) over all entries


class LabelCoefficients(NamedTuple):
    """Per-row factors of the gradient as columns."""

    row_max: Float[Tensor, "n 1"]
    minus_scale: Float[Tensor, "n 1"]  # -weight / sum of exp(x - m)
    at_label: Float[Tensor, "n 1"]  # weight * (1 - p_y)
    labels: Int[Tensor, "n 1"]

    def at(self, rows: slice) -> LabelCoefficients:
        """The factors of some rows."""
        return LabelCoefficients(*(column[rows] for column in self))


def label_rest(
    logits: Float[Tensor, "n V"],
    row_max: Float[Tensor, " n"],
    labels: Int[Tensor, " n"],
    vocabulary: Vocabulary,
    buffer: Float[Tensor, "n V"],
) -> Float[Tensor, " n"]:
    """Sum of exp(x - m) over all entries except the label. Overwrites the buffer, not the logits."""
    torch.sub(logits, row_max[:, None], out=buffer)
    return vocabulary.sum(vocabulary.put(buffer.exp_(), labels[:, None], 0.0))


def label_statistics_from(
    label_logit: Float[Tensor, " n"], row_max: Float[Tensor, " n"], rest: Float[Tensor, " n"]
) -> LabelStatistics:
    """log softmax at the labels from the sums over V."""
    shifted = label_logit - row_max
    label_exp = shifted.exp()
    total = rest + label_exp
    # A label at the maximum has label_exp = 1, and its p may be within an ulp of 1. log1p(rest) keeps the
    # relative precision of log p, from which chunk likelihoods compute 1 - P.
    log_total = torch.where(label_exp == 1, rest.log1p(), total.log())
    return LabelStatistics(shifted - log_total, row_max, rest, total)


def label_statistics(
    logits: Float[Tensor, "n V"],
    row_max: Float[Tensor, " n"],
    labels: Int[Tensor, " n"],
    vocabulary: Vocabulary,
    buffer: Float[Tensor, "n V"],
) -> LabelStatistics:
    """log softmax(logits) at the labels. Overwrites the buffer, which must not be the logits."""
    rest = label_rest(logits, row_max, labels, vocabulary, buffer)
    return label_statistics_from(vocabulary.at(logits, labels), row_max, rest)


def label_coefficients(
    statistics: LabelStatistics, labels: Int[Tensor, " n"], weight: Float[Tensor, " n"]
) -> LabelCoefficients:
    """Factors for the gradient of sum(weight * log_p)."""
    scale = weight / statistics.total
    # 1 - p_y as the sum of the others: accurate where p_y rounds to 1.
    columns = (statistics.row_max, -scale, scale * statistics.rest, labels)
    return LabelCoefficients(*(column[:, None] for column in columns))


def write_label_gradient(
    logits: Float[Tensor, "n V"],
    coefficients: LabelCoefficients,
    vocabulary: Vocabulary,
    out: Float[Tensor, "n V"],
) -> None:
    """out = weight * (onehot(y) - softmax). out may be the logits."""
    row_max, minus_scale, at_label, labels = coefficients
    torch.sub(logits, row_max, out=out)
    vocabulary.put(out.exp_().mul_(minus_scale), labels, at_label)


def label_gradient(
    logits: Float[Tensor, "n V"],
    statistics: LabelStatistics,
    labels: Int[Tensor, " n"],
    weight: Float[Tensor, " n"],
    vocabulary: Vocabulary,
    out: Float[Tensor, "n V"],
) -> None:
    """out = gradient of sum(weight * log_p). out may be the logits."""
    write_label_gradient(logits, label_coefficients(statistics, labels, weight), vocabulary, out)
