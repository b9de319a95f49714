"""Peak memory of a step: on a GPU by the allocator's count, on a CPU by the resident set.

The resident set includes libraries, threads and fragmentation: measure in a new process (``in_process``),
after the same step has run once.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

ROOT = Path(__file__).resolve().parent.parent
# Makes glibc return freed tensors to the system, so that resident memory is live memory.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(1 << 18)}
STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")


class Peak(NamedTuple):
    """Bytes before a step, and how many it added at its peak."""

    before: int
    added: int


def can_reset_peak() -> bool:
    """Return True if the system can reset a process's high-water mark."""
    return os.access(CLEAR_REFS, os.W_OK)


def peak_of(step: Callable[[], object], device: torch.device) -> Peak:
    """Run a step and measure its peak."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        return Peak(before, torch.cuda.max_memory_allocated() - before)
    with contextlib.suppress(OSError):
        CLEAR_REFS.write_text("5")  # proc(5): resets the high-water mark of the resident set
    before = resident_bytes()
    step()
    return Peak(before, max(_status("VmHWM") - before, 0))


def resident_bytes() -> int:
    """Resident set of this process; the peak on systems that report only that."""
    return _status("VmRSS")


def in_process(
    module: str, task: Mapping[str, Any], environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run `python -m MODULE --worker TASK` and decode the JSON in its last line of output.

    Raises RuntimeError if the process fails. environment: additional variables.
    """
    command = [sys.executable, "-m", module, "--worker", json.dumps(task)]
    variables = os.environ | dict(environment or {})
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"measurement {task} failed:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _status(field: str) -> int:
    if STATUS.exists():
        for line in STATUS.read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    # KiB on Linux, bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
