"""The order of training: every example once, batches of like length, nothing but seed and epoch in it."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tide.data import LengthBuckets
from tide.data.batches import BATCHES_PER_BUCKET


def batches_of(order: list[int], batch_size: int) -> list[list[int]]:
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def padding(order: list[int], lengths: list[int], batch_size: int) -> int:
    """Tokens added when each batch is padded to its longest."""
    return sum(
        max(lengths[index] for index in batch) - lengths[index]
        for batch in batches_of(order, batch_size)
        for index in batch
    )


@given(
    lengths=st.lists(st.integers(0, 9), max_size=150),
    batch_size=st.integers(1, 5),
    seed=st.integers(0, 3),
    epoch=st.integers(0, 3),
)
def test_every_example_comes_once(lengths, batch_size, seed, epoch):
    buckets = LengthBuckets(lengths, batch_size=batch_size, seed=seed)
    buckets.set_epoch(epoch)
    order = list(buckets)
    assert sorted(order) == list(range(len(lengths))) and len(buckets) == len(lengths)
    assert all(type(index) is int for index in order)


@pytest.mark.parametrize("num", [2000, 2003])
def test_batches_are_of_like_length(num):
    lengths = np.random.default_rng(1).integers(1, 400, num).tolist()
    shuffled = np.random.default_rng(2).permutation(num).tolist()
    order = list(LengthBuckets(lengths, batch_size=8, seed=0))
    assert padding(order, lengths, 8) < 0.1 * padding(shuffled, lengths, 8)


def test_batches_of_a_bucket_are_shuffled_not_sorted():
    lengths = np.random.default_rng(1).integers(1, 400, 8 * BATCHES_PER_BUCKET).tolist()
    order = list(LengthBuckets(lengths, batch_size=8, seed=0))
    longest = [max(lengths[index] for index in batch) for batch in batches_of(order, 8)]
    ascents = sum(later > earlier for earlier, later in pairwise(longest))
    assert 0.25 * BATCHES_PER_BUCKET < ascents < 0.75 * BATCHES_PER_BUCKET


def test_a_bucket_by_hand_with_a_short_last_batch():
    """Ten examples of lengths 1 to 10: two batches of four in either order, and the two that are left."""
    lengths = [7, 2, 9, 4, 1, 10, 3, 8, 5, 6]
    seen = set()
    for seed in range(8):
        order = list(LengthBuckets(lengths, batch_size=4, seed=seed))
        seen.add(tuple(tuple(lengths[index] for index in batch) for batch in batches_of(order, 4)))
    short, long = (1, 2, 3, 4), (5, 6, 7, 8)
    assert seen == {(short, long, (9, 10)), (long, short, (9, 10))}


def test_the_order_depends_on_seed_and_epoch_alone():
    lengths = [index % 7 for index in range(500)]

    def order(seed: int, epoch: int) -> list[int]:
        buckets = LengthBuckets(lengths, batch_size=4, seed=seed)
        buckets.set_epoch(epoch)
        return list(buckets)

    first = order(3, 2)
    # Neither the epochs that went before nor anyone else's random numbers change it.
    walked = LengthBuckets(lengths, batch_size=4, seed=3)
    for epoch in range(3):
        random.seed(epoch)
        np.random.seed(epoch)
        torch.manual_seed(epoch)
        walked.set_epoch(epoch)
        last = list(walked)
    assert last == first == list(walked)
    orders = [order(seed, epoch) for seed in range(3) for epoch in range(3)]
    assert len({tuple(found) for found in orders}) == 9
    # Batches are made anew as well: few keep their members from one epoch to the next.
    members = [{frozenset(batch) for batch in batches_of(order(0, epoch), 4)} for epoch in (0, 1)]
    assert len(members[0] & members[1]) < 5
