"""CompDemo: two views that reveal complementary halves, each predicting only what it hides."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.batches import TEACHER_MASK, plain_batch
from tide.masking import complementary_masks, random_mask


def split(masked: torch.Tensor, ids: torch.Tensor, *, ratio: float = 0.5, seed: int = 0):
    """The two views, and the one that predicts each masked token."""
    noise = torch.rand(masked.shape, generator=torch.Generator().manual_seed(seed))
    hidden = complementary_masks(masked, noise, demo_ratio=ratio)
    return ids[:, None].expand_as(hidden).masked_fill(hidden, TEACHER_MASK), hidden.long().argmax(1)


@given(
    rows=st.lists(st.lists(st.booleans(), min_size=7, max_size=7), min_size=1, max_size=4),
    ratio=st.floats(0.01, 0.99),
    seed=st.integers(0, 1000),
)
def test_the_views_split_the_masked_set_and_hide_what_they_predict(rows, ratio, seed):
    masked = torch.tensor(rows)
    ids = plain_batch(*masked.shape).token_ids
    views, view_of_token = split(masked, ids, ratio=ratio, seed=seed)
    hidden = views == TEACHER_MASK
    assert torch.equal(hidden[:, 0] | hidden[:, 1], masked)
    assert not (hidden[:, 0] & hidden[:, 1]).any()
    assert torch.equal(torch.where(hidden, ids[:, None], views), ids[:, None].expand(-1, 2, -1))
    # The view that predicts a token is the one that hides it.
    predicting = hidden.gather(1, view_of_token[:, None])[:, 0]
    assert predicting[masked].all()


@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.8])
def test_the_first_view_reveals_the_share_asked_for_and_independently(ratio):
    tokens = plain_batch(1000, 200)
    masked = random_mask(tokens, torch.full((1000,), 0.5), generator=torch.Generator().manual_seed(1))
    views, _ = split(masked, tokens.token_ids, ratio=ratio)
    revealed = (views[:, 0] != TEACHER_MASK) & masked
    count = int(masked.sum())
    assert abs(int(revealed.sum()) / count - ratio) <= 5 * (ratio * (1 - ratio) / count) ** 0.5
    both, pairs = (revealed[:, 1:] & revealed[:, :-1]).sum(), (masked[:, 1:] & masked[:, :-1]).sum()
    expected = ratio**2
    assert abs(int(both) / int(pairs) - expected) <= 5 * (expected * (1 - expected) / int(pairs)) ** 0.5


def test_the_callers_ids_are_not_written_to():
    ids = plain_batch(2, 5).token_ids
    before = ids.clone()
    split(torch.ones((2, 5), dtype=torch.bool), ids)
    assert torch.equal(ids, before)


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.5, 1.5])
def test_a_ratio_that_splits_nothing_is_an_error(ratio):
    masked = torch.ones((1, 3), dtype=torch.bool)
    with pytest.raises(
        ValueError, match=rf"complementary_masks: demo_ratio must be in \(0, 1\); got {ratio}"
    ):
        split(masked, plain_batch(1, 3).token_ids, ratio=ratio)
