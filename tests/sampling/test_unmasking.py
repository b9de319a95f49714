"""Which positions a step fills."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from tide.sampling import most_confident, tokens_per_step


def test_the_most_confident_candidates_by_hand():
    confidence = torch.tensor([[-1.0, -0.1, -5.0, -0.2], [-3.0, -2.0, -1.0, -0.0]])
    masked = torch.tensor([[True, False, True, True], [True, True, True, False]])
    chosen = most_confident(confidence, masked, torch.tensor([2, 1]))
    assert chosen.tolist() == [[True, False, False, True], [False, False, True, False]]


def test_ties_go_to_the_earlier_position():
    chosen = most_confident(torch.zeros(1, 6), torch.tensor([[False] + [True] * 5]), torch.tensor([2]))
    assert chosen.tolist() == [[False, True, True, False, False, False]]


def test_no_more_than_the_candidates_are_taken_and_none_for_zero():
    masked = torch.tensor([[True, False, True], [True, True, True], [False, False, False]])
    chosen = most_confident(torch.full((3, 3), -torch.inf), masked, torch.tensor([9, 0, 2]))
    assert chosen.tolist() == [[True, False, True], [False] * 3, [False] * 3]


@given(
    rows=st.lists(
        st.lists(st.tuples(st.sampled_from([-4.0, -1.0, -0.5, 0.0]), st.booleans()), min_size=5, max_size=5),
        min_size=1,
        max_size=3,
    ),
    count=st.integers(0, 6),
)
def test_the_choice_is_that_of_a_sort(rows, count):
    confidence = torch.tensor([[value for value, _ in row] for row in rows])
    masked = torch.tensor([[candidate for _, candidate in row] for row in rows])
    chosen = most_confident(confidence, masked, torch.full((len(rows),), count))
    for row, got in zip(rows, chosen.tolist(), strict=True):
        candidates = [position for position, (_, candidate) in enumerate(row) if candidate]
        best = sorted(candidates, key=lambda position: (-row[position][0], position))[:count]
        assert got == [position in best for position in range(5)]


def test_masked_positions_are_shared_evenly_over_the_steps_left():
    assert tokens_per_step(torch.tensor([0, 1, 4, 5, 8]), 4).tolist() == [0, 1, 1, 2, 2]
    assert tokens_per_step(torch.tensor([7]), 1).tolist() == [7]


@given(num_masked=st.integers(0, 64), steps=st.integers(1, 70))
def test_the_steps_fill_everything_in_shares_that_differ_by_one(num_masked, steps):
    left, taken = torch.tensor([num_masked]), []
    for step in range(steps):
        count = tokens_per_step(left, steps - step)
        taken.append(int(count))
        left = left - count
    assert int(left) == 0
    assert max(taken) - min(taken) <= 1 and taken == sorted(taken, reverse=True)
