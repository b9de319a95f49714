"""Request huge pages for large CPU tensors.

Writing a fresh [N, V] gradient spends most of its time in page faults, one per 4 KiB. Asking Linux for 2 MiB
pages halves it. NumPy does the same for large arrays.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

HUGE_PAGE_BYTES = 2 << 20
# Below this size the call costs as much as it saves.
SMALLEST_BYTES = 4 * HUGE_PAGE_BYTES
MADV_HUGEPAGE = 14


def on_huge_pages(x: Tensor) -> Tensor:
    """Request huge pages for x (contiguous, not yet written) and return it. A hint; never raises."""
    num_bytes = x.numel() * x.element_size()
    if x.device.type == "cpu" and num_bytes >= SMALLEST_BYTES and (advise := _madvise()) is not None:
        start = -(-x.data_ptr() // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES
        stop = (x.data_ptr() + num_bytes) // HUGE_PAGE_BYTES * HUGE_PAGE_BYTES
        advise(start, stop - start, MADV_HUGEPAGE)
    return x


@functools.cache
def _madvise() -> Callable[[int, int, int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        function = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    function.restype = ctypes.c_int
    return function
