"""Shared code of the ops: row blocks, threads, and the precision of a likely label.

Mutants that this file kills: a last row block left out, overlapping row blocks, a thread pool that changes
the caller's number of threads, threads outside the caller's inference mode, log(1 + rest) in place of
log1p(rest).
"""

from __future__ import annotations

import os
import threading
import time

import pytest
import torch

from tide_kernels._shared import row_blocks, workers
from tide_kernels._shared.label import label_gradient, label_statistics
from tide_kernels._shared.row_blocks import RowBlocks, rows_per_block
from tide_kernels._shared.vocabulary import Vocabulary
from tide_kernels._shared.workers import MAX_WORKERS, map_blocks

CPU = torch.device("cpu")


def blocks_of(num_rows, vocab=10, active=None, dtype=torch.float32):
    return RowBlocks(num_rows, active, vocab, dtype, CPU)


@pytest.fixture
def three_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(threads)


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


def test_every_row_block_runs_once_and_returns_in_order(three_threads):
    seen = []

    def run(rows, buffers):
        buffers.append(threading.get_ident())
        # Otherwise one thread may finish everything before the next starts.
        time.sleep(0.001)
        seen.append((rows.start, threading.get_ident(), torch.get_num_threads(), torch.is_grad_enabled()))
        return rows.start, len(set(buffers))

    work = [slice(start, start + 1) for start in range(50)]
    results = map_blocks(work, run, list, CPU)
    # Each thread has its own buffers.
    assert results == [(start, 1) for start in range(50)]
    starts, identities, threads, grad_modes = zip(*seen, strict=True)
    assert sorted(starts) == list(range(50))
    assert len(set(identities)) == 3 and threading.get_ident() not in identities
    assert set(threads) == {1} and set(grad_modes) == {False}


@pytest.mark.parametrize("inference", [False, True])
def test_threads_work_in_the_callers_inference_mode(inference, three_threads):
    seen = []

    def run(rows, buffer):
        seen.append((torch.is_inference_mode_enabled(), torch.is_grad_enabled(), threading.get_ident()))
        out[rows] = buffer.fill_(rows.start)

    with torch.inference_mode(inference):
        out = torch.empty(20)
        map_blocks([slice(row, row + 1) for row in range(20)], run, lambda: torch.empty(1), CPU)
    assert torch.equal(out, torch.arange(20.0))
    modes, grad_modes, identities = zip(*seen, strict=True)
    assert set(modes) == {inference} and set(grad_modes) == {False}
    assert threading.get_ident() not in identities


def test_the_callers_threads_stay_as_they_were(three_threads):
    workers._forget_pool()  # so that this call starts one
    found = []
    map_blocks([slice(0, 1), slice(1, 2)], lambda rows, _: found.append(rows), lambda: None, CPU)
    assert torch.get_num_threads() == 3 and torch.is_grad_enabled()
    later = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert found[-1] == 3


def test_one_thread_or_one_row_block_needs_no_pool(three_threads):
    identities = []

    def run(rows, _):
        identities.append((threading.get_ident(), torch.is_grad_enabled()))

    map_blocks([slice(0, 9)], run, lambda: None, CPU)
    torch.set_num_threads(1)
    map_blocks([slice(0, 1), slice(1, 2)], run, lambda: None, CPU)
    assert set(identities) == {(threading.get_ident(), False)}
    assert map_blocks([], run, lambda: None, CPU) == []
    assert MAX_WORKERS >= 2


def test_an_error_in_a_row_block_reaches_the_caller(three_threads):
    def run(rows, _):
        if rows.start == 7:
            raise ArithmeticError("row 7")

    with pytest.raises(ArithmeticError, match="row 7"):
        map_blocks([slice(start, start + 1) for start in range(20)], run, lambda: None, CPU)
    assert map_blocks([slice(0, 1), slice(1, 2)], lambda rows, _: rows.start, lambda: None, CPU) == [0, 1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_starts_its_own_pool(three_threads):
    work = [slice(0, 1), slice(1, 2)]
    map_blocks(work, lambda rows, _: rows.start, lambda: None, CPU)
    assert workers._pool is not None
    child = os.fork()
    if child == 0:
        answer = map_blocks(work, lambda rows, _: rows.start, lambda: None, CPU)
        os._exit(0 if answer == [0, 1] else 1)
    for _ in range(1000):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.01)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
        pytest.fail("the child waits for threads that it did not inherit")
    assert os.waitstatus_to_exitcode(status) == 0


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
