"""Layouts: what is in them, who sees whom, and the rows that count."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.batches import STUDENT_MASK as MASK
from tests.batches import noised_tokens, random_masked
from tests.layouts.plain import CONTRACTS, may_attend, noised_texts
from tide.batch import Layout, Layouts, NoisedTokens
from tide.contract import AUTOREGRESSIVE, Contract
from tide.layouts import noised_layout, text_layout
from tide.models.attention import dense_mask


def seen(layout: Layout) -> torch.Tensor:
    """[R, W, W] bool."""
    return dense_mask(layout.attends, layout.token_ids)[:, 0]


def masked_at(length: int, *tokens: int) -> torch.Tensor:
    return torch.zeros((1, length), dtype=torch.bool).index_fill(
        1, torch.tensor(tokens, dtype=torch.long), True
    )


def decoding(lengths: list[int], length: int, block_size: int) -> Layout:
    valid = torch.arange(length) < torch.tensor(lengths)[:, None]
    return text_layout(torch.zeros_like(valid, dtype=torch.long), valid, valid, Contract(MASK, block_size))


def sizes_by_text(noised: NoisedTokens, contract: Contract) -> list[int]:
    """Tokens of each text that some row reads, counted block by block."""
    num_texts, length = noised.token_ids.shape
    rows = [
        (row // length, view, max(row % length - contract.shift, 0))
        for row, view in zip(noised.rows.tolist(), noised.row_views.tolist(), strict=True)
    ]
    sizes = []
    for text in range(num_texts):
        end = int(noised.valid[text].sum())
        if contract.autoregressive:
            sizes.append(max((place + 1 for number, _, place in rows if number == text), default=0))
            continue
        size = contract.block_size or max(end, 1)
        blocks = {(view, place // size) for number, view, place in rows if number == text}
        noisy = sum(min(size, end - block * size) for _, block in blocks)
        sizes.append(noisy + size * max((block for _, block in blocks), default=0))
    return sizes


@given(noised=noised_texts(), contract=st.sampled_from(list(CONTRACTS.values())))
def test_a_layout_holds_what_some_row_reads_and_no_more(noised, contract):
    layout, sizes = noised_layout(noised, contract), sizes_by_text(noised, contract)
    assert [int((layout.text == text).sum()) for text in range(len(sizes))] == sizes
    num_texts, num_views, length = noised.views.shape
    assert layout.token_ids.shape[1] == max(1, *sizes)
    assert layout.token_ids.shape[0] <= num_texts
    assert layout.token_ids.numel() <= num_texts * (num_views + 1) * length
    for row in layout.text.tolist():
        # Every text is whole in one row, and no two paddings are alike.
        runs = [text for place, text in enumerate(row) if place == 0 or text != row[place - 1]]
        assert len(runs) == len(set(runs))


@given(noised=noised_texts(), contract=st.sampled_from(list(CONTRACTS.values())))
def test_rows_lie_at_their_tokens_in_their_view(noised, contract):
    layout, length = noised_layout(noised, contract), noised.token_ids.shape[1]
    text, token = noised.rows // length, noised.rows % length
    place = (token - contract.shift).clamp_min(0)
    assert torch.equal(layout.text.flatten()[layout.rows], text)
    assert torch.equal(layout.positions.flatten()[layout.rows], place)
    segment = 0 if contract.autoregressive else noised.row_views + 1
    assert (layout.segment.flatten()[layout.rows] == segment).all()
    if contract.shift == 0:
        assert (layout.token_ids.flatten()[layout.rows] == MASK).all()
        assert layout.masked.flatten()[layout.rows].all()
    for copy in range(noised.views.shape[1] + 1):
        mine = (layout.segment == copy) & (layout.text >= 0)
        ids = noised.token_ids if copy == 0 else noised.views[:, copy - 1]
        assert torch.equal(layout.token_ids[mine], ids[layout.text[mine], layout.positions[mine]])


@given(noised=noised_texts(), contract=st.sampled_from(list(CONTRACTS.values())))
def test_every_token_sees_itself_and_padding_only_itself(noised, contract):
    """A query without a key is NaN, and NaN times a zero weight is NaN in every later layer."""
    layout = noised_layout(noised, contract)
    mask, padding = seen(layout), layout.text < 0
    assert mask.diagonal(dim1=1, dim2=2).all()
    assert (mask[padding].sum(1) == 1).all()
    assert (mask.transpose(1, 2)[padding].sum(1) == 1).all()


@pytest.mark.parametrize("contract", [c for c in CONTRACTS.values() if c.block_size], ids=str)
def test_the_mask_is_its_definition_where_nothing_can_be_left_out(contract):
    length = 7  # of blocks of 4, 3; all but the last block of x_0 is read
    masked = masked_at(length, 1, 3, 4, 6) if contract.block_size == 4 else torch.ones(1, length).bool()
    layout = noised_layout(noised_tokens(masked), contract)
    whole = layout.positions + length * (layout.segment == 0)  # the place in [x_t | x_0]
    flags = masked[0].tolist()
    expected = [
        [may_attend(query, key, contract, flags) for key in whole[0].tolist()] for query in whole[0].tolist()
    ]
    assert seen(layout)[0].tolist() == expected


def test_masks_by_hand():
    noised = noised_tokens(masked_at(4, 2))  # two blocks of two: x_0 is [0, 1], x_t is [2, 3]
    assert seen(noised_layout(noised, Contract(MASK, 2)))[0].int().tolist() == [
        [1, 1, 0, 0],
        [1, 1, 0, 0],
        [1, 1, 1, 1],
        [1, 1, 1, 1],
    ]
    # Token 3 is observed, and comes before 2.
    assert seen(noised_layout(noised, Contract(MASK, 2, "observed_first")))[0].int().tolist() == [
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [1, 1, 1, 1],
        [1, 1, 0, 1],
    ]
    assert seen(noised_layout(noised, Contract(MASK, None)))[0].int().tolist() == [[1] * 4] * 4
    assert seen(noised_layout(noised, AUTOREGRESSIVE))[0].int().tolist() == [[1, 0], [1, 1]]


def test_short_texts_share_a_row():
    masked = torch.zeros((4, 12), dtype=torch.bool)
    masked[0, 11] = masked[1, 3] = masked[2, 8] = masked[3, 2] = True
    noised = noised_tokens(masked)
    layout = noised_layout(noised, AUTOREGRESSIVE)  # 11, 3, 8 and 2 tokens
    assert layout.text.tolist() == [[0] * 11, [2] * 8 + [1] * 3, [3] * 2 + list(range(-3, -12, -1))]
    assert layout.rows.tolist() == [10, 21, 18, 23]
    assert not seen(layout)[1, :8, 8:].any() and not seen(layout)[1, 8:, :8].any()


def test_prompts_cost_one_copy():
    """512 tokens, half of them prompt: the padded layouts have 1024 and 1536."""
    masked = torch.zeros((1, 512), dtype=torch.bool)
    masked[0, 256::2] = True
    contract = Contract(MASK, 32)
    one, two = (noised_layout(noised_tokens(masked, views=views), contract) for views in (1, 2))
    assert one.token_ids.shape == (1, 480 + 256) and two.token_ids.shape == (1, 480 + 2 * 256)
    assert noised_layout(noised_tokens(masked), AUTOREGRESSIVE).token_ids.shape == (1, 510)
    # Blocks without a mask go: the first answer block is all that is left.
    masked[0, 288:] = False
    assert noised_layout(noised_tokens(masked), contract).token_ids.shape == (1, 256 + 32)


@pytest.mark.parametrize("contract", CONTRACTS.values(), ids=CONTRACTS)
def test_nothing_masked_is_one_token_of_padding(contract):
    layout = noised_layout(noised_tokens(torch.zeros((3, 5), dtype=torch.bool)), contract)
    assert layout.token_ids.shape == (1, 1) and len(layout.rows) == 0
    assert layout.text.tolist() == [[-1]] and seen(layout).all()


def test_an_autoregressive_model_cannot_predict_the_first_token():
    noised = noised_tokens(torch.tensor([[False, True], [True, False]]))
    with pytest.raises(ValueError, match=r"noised_layout: .* first token of texts \[1\].* loss mask"):
        noised_layout(noised, AUTOREGRESSIVE)
    assert noised_layout(noised, Contract(MASK, None, shift=1)).rows.tolist() == [0, 2]


def test_tokens_and_padding_are_counted_by_side():
    noised = noised_tokens(random_masked(), lengths=(10, 7, 9))
    student = noised_layout(noised, Contract(MASK, 4))
    metrics = Layouts(student, None).metrics(num_examples=3)
    sizes = sizes_by_text(noised, Contract(MASK, 4))
    assert metrics.keys() == {"student_tokens", "student_padding"}
    assert float(metrics["student_tokens"]) == pytest.approx(sum(sizes) / 3)
    assert float(metrics["student_padding"]) == pytest.approx(1 - sum(sizes) / student.token_ids.numel())
    assert Layouts(student, student).metrics(3).keys() > {"teacher_tokens", "teacher_padding"}


def test_a_moved_layout_keeps_its_mask():
    layout = noised_layout(noised_tokens(random_masked()), CONTRACTS["observed first"])
    moved = layout.on_device("meta")
    assert all(
        getattr(moved, field.name).is_meta
        for field in dataclasses.fields(moved)
        if field.name not in ("mask", "causal", "starts")
    )
    assert seen(moved).is_meta and torch.equal(seen(layout.on_device("cpu")), seen(layout))


@given(num_valid=st.integers(0, 7), block_size=st.integers(1, 8))
def test_a_text_alone_is_read_block_by_block(num_valid, block_size):
    layout = decoding([num_valid], 7, block_size)
    assert seen(layout)[0].tolist() == [
        [
            (max(query, key) < num_valid and query // block_size >= key // block_size) or query == key
            for key in range(7)
        ]
        for query in range(7)
    ]
    assert layout.positions.tolist() == [list(range(7))]
    assert layout.rows.tolist() == list(range(num_valid))


@pytest.mark.parametrize("block_size", [0, -1])
def test_a_block_size_below_one_is_an_error(block_size):
    with pytest.raises(ValueError, match=f"Contract: block_size .* got {block_size}"):
        Contract(MASK, block_size)
