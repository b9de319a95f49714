"""Weights of rows: matching from the left, means over active rows, cross-entropy normalisers."""

from __future__ import annotations

import pytest
import torch

from tide.losses import row_weights
from tide.losses.reductions import broadcast_rows, row_factors

MASKED = torch.tensor([[True, False, True, False], [False, False, True, False], [False] * 4])
LOSS_MASK = torch.tensor([[True, True, True, True], [False, True, True, False], [False] * 4])


def spread(value, shape):
    return broadcast_rows("test", "weight", value, shape, torch.device("cpu"))


def test_one_number_per_sequence_is_matched_from_the_left():
    value = torch.tensor([1.0, 2.0])
    assert torch.equal(spread(value, (2, 3)), value[:, None].expand(2, 3))
    # Also where both dimensions are equal, and broadcasting from the right would be silently wrong.
    assert torch.equal(spread(value, (2, 2)), torch.tensor([[1.0, 1.0], [2.0, 2.0]]))
    assert torch.equal(spread(value[None], (2, 2)), torch.tensor([[1.0, 2.0], [1.0, 2.0]]))
    assert torch.equal(spread(3, (2, 2)), torch.full((2, 2), 3.0))
    assert spread(torch.rand(2, 3, dtype=torch.float64), (2, 3)).dtype == torch.float64
    assert spread(torch.rand(2, 3).bfloat16(), (2, 3)).dtype == torch.float32


@pytest.mark.parametrize("shape", [(3,), (2, 4), (2, 3, 1)])
def test_shapes_that_do_not_match_are_errors(shape):
    with pytest.raises(ValueError, match=r"test: weight must be a number.*\(2, 3\); got .*Reshape it"):
        spread(torch.ones(shape), (2, 3))


def test_mean_divides_by_active_rows_and_ignores_the_others():
    weight = torch.tensor([[2.0, torch.nan], [4.0, torch.inf]])
    mask = torch.tensor([[True, False], [True, False]])
    like = torch.zeros(2, 2)
    factors = row_factors("test", "weight", weight, mask, like, "mean")
    assert torch.equal(factors, torch.tensor([[1.0, 0.0], [2.0, 0.0]]))
    assert torch.equal(row_factors("test", "weight", weight, mask, like, "sum"), 2 * factors)
    assert torch.equal(row_factors("test", "weight", None, None, like, "mean"), torch.full((2, 2), 0.25))
    empty = row_factors("test", "weight", None, torch.zeros(2, 2, dtype=torch.bool), like, "mean")
    assert torch.equal(empty, torch.zeros(2, 2))
    assert row_factors("test", "weight", None, None, torch.zeros(0, 2), "mean").shape == (0, 2)


@pytest.mark.parametrize(
    ("normalizer", "denominators"),
    [("token", [6, 6]), ("sequence", [3 * 4, 3 * 2]), ("batch", [3, 3]), ("sum", [1, 1])],
)
def test_normalizers_count_the_loss_mask(normalizer, denominators):
    t = torch.tensor([0.5, 0.25, 0.1])
    weights = row_weights(MASKED, LOSS_MASK, 1 / t, normalizer=normalizer)
    expected = torch.zeros(3, 4)
    expected[0, [0, 2]] = 2.0 / denominators[0]
    expected[1, 2] = 4.0 / denominators[1]
    torch.testing.assert_close(weights, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("normalizer", ["token", "sequence"])
def test_weights_of_one_over_t_average_to_one(normalizer):
    """Masking with probability t and weighting by 1/t leaves the expected total at 1, whatever t is."""
    generator = torch.Generator().manual_seed(0)
    loss_mask = torch.ones(4, 20_000, dtype=torch.bool)
    t = torch.tensor([0.1, 0.3, 0.6, 1.0])
    masked = torch.rand(4, 20_000, generator=generator) < t[:, None]
    assert float(row_weights(masked, loss_mask, 1 / t, normalizer=normalizer).sum()) == pytest.approx(
        1, rel=0.02
    )


def test_count_replaces_the_denominator_of_the_batch():
    weights = row_weights(MASKED, LOSS_MASK, count=60)
    assert float(weights.sum()) == pytest.approx(3 / 60)
    assert float(
        row_weights(MASKED, LOSS_MASK, normalizer="batch", count=torch.tensor(30)).sum()
    ) == pytest.approx(0.1)
    sequence = row_weights(MASKED, LOSS_MASK, normalizer="sequence", count=30)
    assert float(sequence.sum()) == pytest.approx((2 / 4 + 1 / 2) / 30)


def test_micro_batches_with_a_common_count_add_up_to_the_whole():
    whole = row_weights(MASKED, LOSS_MASK, torch.tensor([2.0, 4.0, 1.0]))
    parts = [
        row_weights(MASKED[i : i + 1], LOSS_MASK[i : i + 1], torch.tensor([w]), count=LOSS_MASK.sum())
        for i, w in enumerate((2.0, 4.0, 1.0))
    ]
    torch.testing.assert_close(torch.cat(parts), whole)


@pytest.mark.parametrize("normalizer", ["token", "sequence", "batch", "sum"])
def test_empty_loss_mask_gives_zero(normalizer):
    none = torch.zeros(2, 3, dtype=torch.bool)
    assert torch.equal(row_weights(none, none, normalizer=normalizer), torch.zeros(2, 3))
    assert row_weights(none[:0], none[:0], normalizer=normalizer).shape == (0, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: row_weights(MASKED, LOSS_MASK, normalizer="tokens"),
            "normalizer must be one of token, sequence",
        ),
        (
            lambda: row_weights(MASKED.int(), LOSS_MASK),
            "masked and loss_mask must be boolean; got torch.int32",
        ),
        (lambda: row_weights(MASKED, LOSS_MASK[:2]), r"must share \[B, L\]; got \(3, 4\) and \(2, 4\)"),
        (lambda: row_weights(MASKED[0], LOSS_MASK[0], normalizer="batch"), "Flattened rows: use 'token'"),
        (lambda: row_weights(MASKED, LOSS_MASK, torch.ones(4)), "row_weights: weight must be a number"),
    ],
)
def test_bad_arguments_are_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
