"""Peak memory of CPU work, by resident set.

Unlike the allocator's count, the resident set includes libraries and fragmentation.
"""

from __future__ import annotations

import contextlib
import gc
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# Makes glibc return freed tensors to the system, so that resident memory is live memory.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(1 << 18)}
STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")


def resident_bytes() -> int:
    """Resident set of this process, bytes; the peak on systems that report only that."""
    return _status("VmRSS")


def peak_bytes() -> int:
    """Largest resident set of this process since its start or the start of ``track_peak``, bytes."""
    return _status("VmHWM")


class Peak:
    """Bytes that a ``track_peak`` block added at its peak; set when the block ends."""

    added: int = 0


@contextlib.contextmanager
def track_peak() -> Iterator[Peak]:
    """Measure how far the resident set rises inside the block.

    Run the same work on small inputs first: libraries load code and start threads on first use. On a system
    that cannot reset the high-water mark, run one measurement per process.

    Yields:
        Peak whose ``added`` is set at the end.
    """
    gc.collect()
    with contextlib.suppress(OSError):
        CLEAR_REFS.write_text("5")  # proc(5): resets the high-water mark of the resident set
    before = resident_bytes()
    peak = Peak()
    yield peak
    peak.added = max(peak_bytes() - before, 0)


def _status(field: str) -> int:
    if STATUS.exists():
        for line in STATUS.read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    # KiB on Linux, bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
