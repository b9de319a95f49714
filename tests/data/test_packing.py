"""Bins of whole examples: never over capacity, nearly full, and as best fit packs them one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tide.data.packing import pack


@st.composite
def cases(draw) -> tuple[list[int], int]:
    capacity = draw(st.integers(1, 40))
    return draw(st.lists(st.integers(1, capacity), max_size=60)), capacity


def best_fit(lengths: list[int], capacity: int) -> int:
    """How many bins best fit, longest first, needs, placed one by one."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [room for room in rooms if room >= length]
        room = min(fitting) if fitting else capacity
        if fitting:
            rooms.remove(room)
        rooms.append(room - length)
    return len(rooms)


@given(case=cases())
def test_every_example_is_in_one_bin_and_no_bin_is_over_full(case):
    lengths, capacity = case
    bins = pack(lengths, capacity)
    assert sorted(index for members in bins for index in members) == list(range(len(lengths)))
    assert all(0 < sum(lengths[index] for index in members) <= capacity for members in bins)
    assert all(members == sorted(members) for members in bins)
    assert [members[0] for members in bins] == sorted(members[0] for members in bins)
    assert len(bins) == best_fit(lengths, capacity)
    assert bins == pack(np.array(lengths, dtype=np.int32), capacity)


def test_bins_by_hand():
    assert pack([], 8) == []
    assert pack([8, 8], 8) == [[0], [1]]
    assert pack([3, 5, 3, 5], 8) == [[0, 1], [2, 3]]
    assert pack([1, 1, 1, 6, 2, 5], 8) == [[0, 1, 2, 5], [3, 4]]


@pytest.mark.parametrize("capacity", [1024, 2048, 4096])
def test_bins_are_nearly_full(capacity):
    """Lengths as instructions have them: many short, some that fill a bin."""
    draw = np.random.default_rng(0)
    lengths = np.clip(draw.lognormal(np.log(350), 0.9, 50_000), 8, capacity).astype(int)
    bins = pack(lengths, capacity)
    assert lengths.sum() / (len(bins) * capacity) > 0.99


@pytest.mark.parametrize(("lengths", "at"), [([4, 9, 10], 1), ([8, 0], 1), ([-1], 0)])
def test_an_example_that_fits_no_bin_is_an_error(lengths, at):
    with pytest.raises(
        ValueError, match=rf"pack: example {at} has {lengths[at]} tokens; a bin takes 1 to 8\."
    ):
        pack(lengths, 8)
