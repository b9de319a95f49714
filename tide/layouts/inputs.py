"""What a forward pass reads: of noised texts the tokens that some row needs, or a text that is being decoded.

Legend: B texts, L tokens of a text (padded), K noised views, N tokens to predict, R rows of W tokens.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from tide.batch import Layout, Layouts
from tide.layouts.mask import CLEAN, contract_mask

if TYPE_CHECKING:
    from jaxtyping import Bool, Int
    from torch import Tensor

    from tide.batch import NoisedBatch, NoisedTokens
    from tide.contract import Contract


def batch_layouts(noised: NoisedBatch, student: Contract, teacher: Contract | None) -> Layouts:
    """Layouts of both sides, each by its model's contract; arguments and errors of `noised_layout`."""
    return Layouts(
        student=noised_layout(noised.student, student),
        teacher=None if noised.teacher is None or teacher is None else noised_layout(noised.teacher, teacher),
    )


def noised_layout(noised: NoisedTokens, contract: Contract) -> Layout:
    """`[x_0 | x_t^1 | ... | x_t^K]` of every text without the blocks that no row reads, packed into a grid.

    A row reads its block in its own view, and the blocks of x_0 before it. An autoregressive model reads x_0
    alone, up to the last row. The grid is as wide as the longest text; shorter ones share its rows.

    Args:
        noised: on the host, since sizes depend on the masks.
        contract: of the model that reads it.
    Returns:
        The layout; `rows` are in the order of `noised.rows`.
    Raises:
        ValueError: an autoregressive model has to predict the first token of a text.
    """
    num_texts, num_views, length = noised.views.shape
    text, token = noised.rows // length, noised.rows % length
    if contract.autoregressive and bool((token < contract.shift).any()):
        raise ValueError(
            "noised_layout: an autoregressive model cannot predict a token that has none before it; got the "
            f"first token of texts {text[token < contract.shift].tolist()}. Leave it out of the loss mask."
        )
    position = torch.arange(length)
    block, place = _block(position, contract), _place(token, contract)
    segment = torch.full_like(text, CLEAN) if contract.autoregressive else noised.row_views + 1

    read = torch.zeros((num_texts, num_views + 1, length), dtype=torch.bool)
    if contract.autoregressive:
        end = torch.zeros(num_texts, dtype=torch.long).scatter_reduce(0, text, place + 1, "amax")
        read[:, CLEAN] = position < end[:, None]
    else:
        # Indexed by block here, by token after.
        read[text, segment, block[place]] = True
        read = read[:, :, block] & noised.valid[:, None]
        last_block = torch.where(read, block, 0).amax((1, 2))
        read[:, CLEAN] = block < last_block[:, None]

    start, shape = _first_fit(read.sum((1, 2)).tolist())
    slot = start[:, None, None] + (read.flatten(1).cumsum(1) - 1).view_as(read)

    def on_grid(values: Tensor, padding: Tensor | None = None) -> Tensor:
        grid = torch.zeros(shape, dtype=values.dtype) if padding is None else padding.repeat(shape[0], 1)
        grid.view(-1)[slot[read]] = values.expand_as(read)[read]
        return grid

    clean = noised.token_ids[:, None]
    copies = torch.cat([clean, noised.views], dim=1)
    of_text = on_grid(torch.arange(num_texts)[:, None, None], -1 - torch.arange(shape[1]))
    of_segment = on_grid(torch.arange(num_views + 1)[:, None])
    return Layout(
        token_ids=on_grid(copies),
        positions=on_grid(position),
        text=of_text,
        segment=of_segment,
        block=on_grid(block),
        masked=on_grid(copies != clean),
        rows=slot[text, segment, place],
        mask=partial(contract_mask, in_block=contract.in_block),
        causal=contract.autoregressive,
        starts=_starts(of_text, of_segment) if contract.separate_segments else None,
    )


def text_layout(
    token_ids: Int[Tensor, "B L"],
    valid: Bool[Tensor, "B L"],
    counted: Bool[Tensor, "B L"],
    contract: Contract,
) -> Layout:
    """One text, finished blocks before the one that is being denoised; on any device.

    Args:
        token_ids: texts start at position 0.
        valid: False on what is not part of the text, or not yet.
        counted: tokens to predict.
        contract: of the model that decodes.
    """
    position = torch.arange(token_ids.shape[1], device=token_ids.device)
    number = torch.arange(len(token_ids), device=token_ids.device)[:, None]
    row, token = counted.nonzero(as_tuple=True)
    of_text, of_segment = torch.where(valid, number, -1 - position), torch.full_like(token_ids, CLEAN)
    return Layout(
        token_ids=token_ids,
        positions=position.expand_as(token_ids),
        text=of_text,
        segment=of_segment,
        block=_block(position, contract).expand_as(token_ids),
        masked=token_ids == (-1 if contract.mask_id is None else contract.mask_id),
        rows=row * token_ids.shape[1] + _place(token, contract),
        mask=partial(contract_mask, in_block=contract.in_block),
        causal=contract.autoregressive,
        starts=_starts(of_text, of_segment) if contract.separate_segments else None,
    )


def _starts(text: Int[Tensor, "R W"], segment: Int[Tensor, "R W"]) -> Int[Tensor, "S"]:
    """Flat starts of all segments, and the end; every padding token is one."""
    key = torch.stack([text, segment]).flatten(1)
    first = torch.nn.functional.pad((key[:, 1:] != key[:, :-1]).any(0), (1, 1), value=True)
    return first.nonzero().flatten().int()


def _block(position: Int[Tensor, "L"], contract: Contract) -> Int[Tensor, "L"]:
    """The block of every position."""
    return torch.zeros_like(position) if contract.block_size is None else position // contract.block_size


def _place(token: Int[Tensor, "N"], contract: Contract) -> Int[Tensor, "N"]:
    """The position that predicts each token; in shifted models the first token of a text has its own."""
    return (token - contract.shift).clamp_min(0)


def _first_fit(sizes: list[int]) -> tuple[Int[Tensor, "B"], tuple[int, int]]:
    """First-fit decreasing: the flat start of every text in the grid, and the grid's shape."""
    width = max(1, *sizes)
    room: list[int] = []  # left in every row
    starts = [0] * len(sizes)
    for text in sorted(range(len(sizes)), key=lambda text: -sizes[text]):
        row = next((row for row, left in enumerate(room) if left >= sizes[text]), len(room))
        if row == len(room):
            room.append(width)
        starts[text] = (row + 1) * width - room[row]
        room[row] -= sizes[text]
    return torch.tensor(starts), (len(room), width)
