"""Row chunks on the CPU's threads: one thread takes a chunk through all its steps.

The usual way, splitting every operation among the threads, meets at a barrier some forty times per chunk,
which costs microseconds each on an idle machine and a time slice each on a busy one. Here threads meet once
per pass over the logits. Rows are independent, so the result does not depend on how many threads there are.
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

# Python itself runs one thread at a time and needs a tenth of a chunk's time: more threads would queue for
# it.
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
    """[run(rows, buffers) for rows in chunks], on as many threads as torch uses for one operation.

    Args:
        blocks: ranges of rows; no two may write to the same place.
        run: the work on one range. Runs without autograd, in inference mode where the caller does, and its
            operations are not split among threads.
        workspace: makes the buffers of one thread.
        device: where the rows lie. Elsewhere than on the CPU everything runs in the calling thread.
    """
    work = list(blocks)
    num_workers = min(torch.get_num_threads(), MAX_WORKERS, len(work)) if device.type == "cpu" else 1
    if num_workers <= 1:
        buffers = workspace()
        with torch.no_grad():
            return [run(rows, buffers) for rows in work]

    # A thread's own, like grad mode. Outside of it a thread may not write into tensors that were made in it.
    inference = torch.is_inference_mode_enabled()
    results: list[Result | None] = [None] * len(work)
    # next() on a count is atomic: whoever is free takes the next chunk.
    numbers = itertools.count()

    def take_blocks() -> None:
        # In this order: inference_mode(False) turns gradients on.
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
    """Threads whose own operations stay on one thread.

    The setting is per thread, but the last value set is also what threads started later begin with, so the
    value of the calling thread is put back.
    """
    everyone_started = threading.Barrier(size)

    def single_threaded() -> None:
        # Asked first: a thread's first use of the number initialises it, from the last value set anywhere.
        torch.get_num_threads()
        torch.set_num_threads(1)
        everyone_started.wait()

    pool = ThreadPoolExecutor(size, thread_name_prefix="tide-rows")
    for future in [pool.submit(single_threaded) for _ in range(size)]:
        future.result()
    torch.set_num_threads(torch.get_num_threads())
    return pool


def _forget_pool() -> None:
    # A forked child has the pool object but none of its threads, and would wait for them for ever.
    global _pool, _pool_size, _pool_lock
    _pool, _pool_size, _pool_lock = None, 0, threading.Lock()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_forget_pool)
