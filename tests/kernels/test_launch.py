"""Launch parameters: how many programs share a row.

Mutants that this file kills: warps per program ignored, one wave of programs, shares of less than two tiles.
"""

from __future__ import annotations

import pytest
import torch

from tide_kernels._shared import launch
from tide_kernels._shared.launch import Blocks, splits_for

GPU = torch.device("cuda", 0)
MULTIPROCESSORS = 132
VOCAB = 151_936
BLOCKS = (Blocks(512, 1, 96), Blocks(512, 1, 128), Blocks(1024, 2), Blocks(2048, 4))


@pytest.fixture(autouse=True)
def h200(monkeypatch):
    monkeypatch.setattr(launch, "multiprocessors", lambda _: MULTIPROCESSORS)


def test_resident_programs_follow_registers_and_warps():
    assert [blocks.resident_programs() for blocks in BLOCKS] == [20, 16, 8, 4]
    assert Blocks(4096, 32, 255).resident_programs() == 1


@pytest.mark.parametrize("blocks", BLOCKS, ids=str)
@pytest.mark.parametrize("num_rows", [342, 700, 1100, 4096, 8192, 30_000])
def test_four_waves_or_more_but_no_splits_beyond(num_rows, blocks):
    splits = splits_for(num_rows, VOCAB, blocks, GPU)
    assert splits.bit_count() == 1
    waves = num_rows * splits / MULTIPROCESSORS / blocks.resident_programs()
    assert waves >= 4
    assert splits == 1 or waves < 8


@pytest.mark.parametrize("blocks", BLOCKS, ids=str)
def test_few_rows_fill_the_device_with_shares_of_two_tiles_or_more(blocks):
    for num_rows in (1, 8, 64):
        splits = splits_for(num_rows, VOCAB, blocks, GPU)
        tiles = VOCAB / blocks.block_v / splits
        assert tiles >= 2
        # Full, or halving the shares would leave less than two tiles.
        assert num_rows * splits >= MULTIPROCESSORS * blocks.resident_programs() or tiles < 4


def test_short_rows_are_not_split_and_neither_is_an_empty_batch():
    assert splits_for(4, 1023, BLOCKS[0], GPU) == 1
    assert splits_for(4, 2048, BLOCKS[0], GPU) == 2
    assert splits_for(0, VOCAB, BLOCKS[0], GPU) == 1
    assert splits_for(4, VOCAB, BLOCKS[0], torch.device("cpu")) == 1
