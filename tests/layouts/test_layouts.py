"""Layouts against loops written from the definition: the mask, the positions, and the rows that count."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.batches import STUDENT_MASK, noised_tokens, random_masked
from tide.batch import Layout
from tide.contract import Contract
from tide.layouts import block_diffusion_layout, text_layout
from tide.models.forward import dense_mask


def contract(block_size: int) -> Contract:
    return Contract(STUDENT_MASK, block_size)


def layout_of(lengths: list[int], length: int, block_size: int, views: int = 1) -> Layout:
    """Of texts in which nothing is masked."""
    masked = torch.zeros((len(lengths), length), dtype=torch.bool)
    return block_diffusion_layout(
        noised_tokens(masked, views=views, lengths=tuple(lengths)), contract(block_size)
    )


def decoding(lengths: list[int], length: int, block_size: int) -> Layout:
    valid = torch.arange(length) < torch.tensor(lengths)[:, None]
    return text_layout(torch.zeros_like(valid, dtype=torch.long), valid, valid, contract(block_size))


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
    mask = dense_mask(layout_of(lengths, length, block_size, num_views))
    size = (num_views + 1) * length
    assert mask.dtype == torch.bool and mask.shape == (len(lengths), 1, size, size)
    sizes = {"length": length, "block_size": block_size, "num_views": num_views}
    for sequence, num_valid in enumerate(lengths):
        expected = [
            [
                (key % length < num_valid and may_attend(query, key, **sizes)) or query == key
                for key in range(size)
            ]
            for query in range(size)
        ]
        assert mask[sequence, 0].tolist() == expected


def test_block_diffusion_mask_by_hand():
    """Two blocks of two, the second cut to one token: x_t then x_0."""
    assert dense_mask(layout_of([3], 3, block_size=2))[0, 0].int().tolist() == [
        [1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 0, 1, 1, 1, 0],
        [0, 0, 0, 1, 1, 0],
        [0, 0, 0, 1, 1, 0],
        [0, 0, 0, 1, 1, 1],
    ]


@given(num_valid=st.integers(0, 7), block_size=st.integers(1, 8))
def test_a_text_alone_is_read_block_by_block(num_valid, block_size):
    layout = decoding([num_valid], 7, block_size)
    assert dense_mask(layout)[0, 0].tolist() == [
        [(key < num_valid and query // block_size >= key // block_size) or query == key for key in range(7)]
        for query in range(7)
    ]
    assert layout.positions.tolist() == [list(range(7))]
    assert layout.rows.tolist() == list(range(num_valid))


def test_every_query_attends_to_something():
    """An all-masked row is NaN in attention, and NaN times a zero weight is NaN in every later layer."""
    for layout in (layout_of([0, 0], 5, block_size=2, views=2), decoding([0, 0], 5, block_size=2)):
        assert dense_mask(layout).any(-1).all()


@pytest.mark.parametrize("views", [1, 2])
def test_rows_are_mask_tokens_at_the_place_of_their_labels(views):
    noised = noised_tokens(random_masked(), views=views, lengths=(10, 7, 9))
    layout = block_diffusion_layout(noised, contract(4))
    length, size = noised.token_ids.shape[1], layout.token_ids.shape[1]
    assert size == (views + 1) * length and len(layout.rows) > 8
    assert torch.equal(layout.token_ids[:, views * length :], noised.token_ids)
    assert (layout.token_ids.flatten()[layout.rows] == STUDENT_MASK).all()
    assert torch.equal(layout.rows // size, noised.rows // length)
    assert torch.equal(layout.positions.flatten()[layout.rows], noised.rows % length)
    assert torch.equal(layout.rows % size // length, noised.row_views)


@pytest.mark.parametrize("block_size", [0, -1])
def test_a_block_size_below_one_is_an_error(block_size):
    with pytest.raises(ValueError, match=f"Contract: block_size .* got {block_size}"):
        contract(block_size)
