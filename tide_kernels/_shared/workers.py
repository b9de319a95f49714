"""Row blocks on CPU threads: one thread takes a row block through all its steps.

Splitting every operation among the threads meets a barrier about forty times per row block, each costing
microseconds on an idle machine and a time slice on a busy one. Here threads meet once per pass over the
logits. Rows are independent, so results do not depend on the number of threads.
"""

from __future__ import annotations

import itertools
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Workspace = TypeVar("Workspace")
Result = TypeVar("Result")

# The interpreter runs one thread at a time and needs a tenth of a row block's time: more threads would queue.
MAX_WORKERS = 8

_pool: ThreadPoolExecutor | None = None
_pool_size = 0
_pool_lock = threading.Lock()


def map_blocks(
    blocks: Iterable[slice],
    run: Callable[[slice, Workspace], Result],
    workspace: Callable[[], Workspace],
    device: torch.device,
) -> list[Result]:
    """Return [run(rows, buffers) for rows in blocks], computed on as many threads as torch uses.

    Args:
        blocks: ranges of rows; they must not write to the same memory.
        run: processes one range, without autograd and in the caller's inference mode; its operations run on
            one thread.
        workspace: allocates the buffers of one thread.
        device: of the rows. Off the CPU everything runs in the calling thread.
    """
    work = list(blocks)
    num_workers = min(torch.get_num_threads(), MAX_WORKERS, len(work)) if device.type == "cpu" else 1
    if num_workers <= 1:
        buffers = workspace()
        with torch.no_grad():
            return [run(rows, buffers) for rows in work]

    # Inference mode is per thread, and outside it a thread may not write into inference tensors.
    inference = torch.is_inference_mode_enabled()
    results: list[Result | None] = [None] * len(work)
    # next() on a count is atomic: a free thread takes the next row block.
    numbers = itertools.count()

    def take_blocks() -> None:
        # In this order: inference_mode(False) enables gradients.
        with torch.inference_mode(inference), torch.no_grad():
            buffers = workspace()
            while (number := next(numbers)) < len(work):
                results[number] = run(work[number], buffers)

    pool = _get_pool(num_workers)
    futures = [pool.submit(take_blocks) for _ in range(num_workers)]
    for future in futures:
        future.result()
    return results  # type: ignore[return-value]  # every number was taken


def _get_pool(size: int) -> ThreadPoolExecutor:
    global _pool, _pool_size
    with _pool_lock:
        if _pool is None or _pool_size < size:
            if _pool is not None:
                _pool.shutdown(wait=False)
            _pool, _pool_size = _start_pool(size), size
        return _pool


def _start_pool(size: int) -> ThreadPoolExecutor:
    """Start threads whose operations stay on one thread.

    The setting is per thread, but the last value set is also the initial value of threads started later, so
    the caller's value is set again at the end.
    """
    everyone_started = threading.Barrier(size)

    def single_threaded() -> None:
        # Read first: a thread's first use initialises the number from the last value set anywhere.
        torch.get_num_threads()
        torch.set_num_threads(1)
        everyone_started.wait()

    pool = ThreadPoolExecutor(size, thread_name_prefix="tide-rows")
    for future in [pool.submit(single_threaded) for _ in range(size)]:
        future.result()
    torch.set_num_threads(torch.get_num_threads())
    return pool


def _forget_pool() -> None:
    # A forked child inherits the pool object without its threads, and would wait for them forever.
    global _pool, _pool_size, _pool_lock
    _pool, _pool_size, _pool_lock = None, 0, threading.Lock()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_forget_pool)
