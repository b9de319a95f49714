"""The masks, against loops written from the definition."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tide.models import block_causal_mask, block_diffusion_mask


def may_attend(query: int, key: int, *, length: int, block_size: int, num_views: int) -> bool:
    """Block-diagonal within a noised view, offset block-causal onto x_0, block-causal within x_0."""
    query_part, query_block = query // length, query % length // block_size
    key_part, key_block = key // length, key % length // block_size
    query_is_clean, key_is_clean = query_part == num_views, key_part == num_views
    if query_is_clean:
        return key_is_clean and query_block >= key_block
    if key_is_clean:
        return query_block > key_block
    return query_part == key_part and query_block == key_block


@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=3),
    block_size=st.integers(1, 10),
    num_views=st.integers(1, 3),
)
def test_block_diffusion_mask_is_its_definition(lengths, block_size, num_views):
    length = 9  # not a multiple of most sizes: the last block is short
    valid = torch.arange(length)[None] < torch.tensor(lengths)[:, None]
    mask = block_diffusion_mask(valid, block_size=block_size, num_views=num_views)
    size = (num_views + 1) * length
    assert mask.dtype == torch.bool and mask.shape == (len(lengths), 1, size, size)
    layout = {"length": length, "block_size": block_size, "num_views": num_views}
    for sequence, num_valid in enumerate(lengths):
        expected = [
            [
                (key % length < num_valid and may_attend(query, key, **layout)) or query == key
                for key in range(size)
            ]
            for query in range(size)
        ]
        assert mask[sequence, 0].tolist() == expected


def test_block_diffusion_mask_by_hand():
    """Two blocks of two, the second cut to one token: x_t then x_0."""
    mask = block_diffusion_mask(torch.ones((1, 3), dtype=torch.bool), block_size=2)[0, 0].int()
    assert mask.tolist() == [
        [1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 0, 1, 1, 1, 0],
        [0, 0, 0, 1, 1, 0],
        [0, 0, 0, 1, 1, 0],
        [0, 0, 0, 1, 1, 1],
    ]


@given(num_valid=st.integers(0, 7), block_size=st.integers(1, 8))
def test_block_causal_mask_is_its_definition(num_valid, block_size):
    mask = block_causal_mask(torch.arange(7)[None] < num_valid, block_size=block_size)
    assert mask[0, 0].tolist() == [
        [(key < num_valid and query // block_size >= key // block_size) or query == key for key in range(7)]
        for query in range(7)
    ]


def test_every_query_attends_to_something():
    """An all-masked row is NaN in attention, and NaN times a zero weight is NaN in every later layer."""
    nothing = torch.zeros((2, 5), dtype=torch.bool)
    assert block_diffusion_mask(nothing, block_size=2, num_views=2).any(-1).all()
    assert block_causal_mask(nothing, block_size=2).any(-1).all()


@pytest.mark.parametrize(("block_size", "num_views"), [(0, 1), (-1, 1), (4, 0)])
def test_sizes_below_one_are_errors(block_size, num_views):
    with pytest.raises(
        ValueError, match=f"block_diffusion_mask: .* at least 1; got {block_size} and {num_views}"
    ):
        block_diffusion_mask(torch.ones((1, 4), dtype=torch.bool), block_size=block_size, num_views=num_views)
