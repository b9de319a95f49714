"""Shared code of the ops: row blocks, and the precision of a likely label.

Mutants that this file kills: a last row block left out, overlapping row blocks, log(1 + rest) in place of
log1p(rest).
"""

from __future__ import annotations

import pytest
import torch

from tide_kernels._shared import row_blocks
from tide_kernels._shared.label import label_gradient, label_statistics
from tide_kernels._shared.row_blocks import RowBlocks, map_blocks, rows_per_block
from tide_kernels._shared.vocabulary import Vocabulary

CPU = torch.device("cpu")


def blocks_of(num_rows, vocab=10, active=None, dtype=torch.float32):
    return RowBlocks(num_rows, active, vocab, dtype, CPU)


def test_a_buffer_holds_as_many_rows_as_its_bytes_allow():
    budget = row_blocks.CPU_BUFFER_BYTES
    assert rows_per_block(151_936, torch.float32, CPU) == 1  # the budget was measured for this size
    assert rows_per_block(budget // 4, torch.float32, CPU) == 1
    assert rows_per_block(budget // 4 // 7, torch.float32, CPU) == 7
    assert rows_per_block(budget // 4 // 7, torch.float64, CPU) == 3
    assert rows_per_block(10 * budget, torch.float32, CPU) == 1


@pytest.mark.parametrize("num_rows", [0, 1, 4, 5, 6, 23])
def test_row_blocks_cover_every_row_once(num_rows, monkeypatch):
    monkeypatch.setattr(row_blocks, "CPU_BUFFER_BYTES", 5 * 10 * 4)
    covered = [row for rows in blocks_of(num_rows) for row in range(rows.start, rows.stop)]
    assert covered == list(range(num_rows))
    sizes = [rows.stop - rows.start for rows in blocks_of(num_rows)]
    assert max(sizes) <= 5 and len(sizes) == max(1, -(-num_rows // 5))


def test_rows_are_read_in_place_or_through_a_buffer(monkeypatch):
    monkeypatch.setattr(row_blocks, "CPU_BUFFER_BYTES", 5 * 10 * 4)
    x = torch.randn(12, 13)
    plain = blocks_of(12)
    assert plain.buffer_for(x) is None
    assert plain.load(x, slice(5, 10), None).data_ptr() == x[5].data_ptr()
    for stored in (x.bfloat16(), x.T.contiguous().T):
        buffer = plain.buffer_for(stored)
        assert buffer.shape == (5, 10) and buffer.dtype == torch.float32
        assert torch.equal(plain.load(stored, slice(10, 12), buffer), stored[10:12, :10].float())
    active = torch.tensor([1, 4, 5, 9, 10, 11])
    some = blocks_of(12, active=active)
    buffer = some.buffer_for(x)
    assert torch.equal(some.load(x, slice(5, 6), buffer), x[11:, :10])

    d_x = some.gradient_like(x)
    for rows in some:
        some.target(d_x, rows, buffer).copy_(x[active[rows], :10])
        some.store(d_x, rows, buffer)
    expected = torch.zeros(12, 13)
    expected[active, :10] = x[active, :10]
    assert torch.equal(d_x, expected)


def test_every_row_block_runs_once_and_returns_in_order():
    def run(rows, buffers):
        buffers.append(rows.start)
        return rows.start, len(buffers), torch.is_grad_enabled()

    work = [slice(start, start + 1) for start in range(50)]
    assert map_blocks(work, run, list) == [(start, start + 1, False) for start in range(50)]
    assert torch.is_grad_enabled() and map_blocks([], run, list) == []


def test_a_likely_label_keeps_the_digits_of_its_distance_from_one():
    # p = 1 - 2e-9 is 1 in fp32; its logarithm is not 0.
    logits = torch.tensor([[20.0, 0.0, -50.0]])
    statistics = label_statistics(
        logits, logits.amax(1), torch.tensor([0]), Vocabulary(logits.shape[1]), torch.empty_like(logits)
    )
    expected = torch.log_softmax(logits.double(), 1)[0, 0]
    assert abs(float(statistics.log_p) - float(expected)) < 1e-7 * abs(float(expected))
    out = torch.empty_like(logits)
    label_gradient(logits, statistics, torch.tensor([0]), torch.ones(1), Vocabulary(logits.shape[1]), out)
    d_expected = torch.tensor([1.0, 0, 0]) - torch.softmax(logits.double(), 1)
    assert torch.allclose(out.double(), d_expected, rtol=1e-6, atol=0)
