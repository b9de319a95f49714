"""Peak memory of one step beyond its inputs.

    python -m benchmarks._peak '{"case": {...}, "contestant": "torch"}'

On a GPU by the allocator's count. On a CPU by the resident set, one process per measurement: libraries and
freed tensors of other contestants would count otherwise.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks._cases import Case
from benchmarks._memory import CLEAR_REFS, track_peak
from benchmarks._op import Contestant, Loss, Op, Tensors, load_op, step

ROOT = Path(__file__).resolve().parent.parent
# glibc: freed tensors go back to the system, so that resident means alive; by default it keeps some of them.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(1 << 18)}


def fresh(contestant: Contestant, tensors: Tensors) -> Tensors:
    """The inputs, or, where the contestant overwrites it, with a copy of the student.

    Args:
        contestant: who will run.
        tensors: the inputs.
    """
    if not contestant.overwrites:
        return tensors
    return {**tensors, "student": tensors["student"].detach().clone().requires_grad_()}


def gpu_peak(op: Op, contestant: Contestant, loss: Loss, case: Case, tensors: Tensors) -> int:
    """Bytes beyond the inputs at the highest point of a step on the current GPU.

    Args:
        op: the operation.
        contestant: who runs.
        loss: as built.
        case: for its mode.
        tensors: the inputs.
    """
    inputs = fresh(contestant, tensors)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step(loss, inputs, case.mode, op.trained)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def cpu_peak(case: Case, contestant: str) -> int | None:
    """The same on a CPU, in a process of its own; None where the system cannot reset its high-water mark.

    Args:
        case: what runs.
        contestant: who runs it, by name.

    Raises:
        RuntimeError: the process failed.
    """
    if not os.access(CLEAR_REFS, os.W_OK):
        return None
    task = json.dumps({"case": case.as_dict(), "contestant": contestant, "threads": torch.get_num_threads()})
    command = [sys.executable, "-m", "benchmarks._peak", task]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | ALLOCATOR, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"memory of {contestant} on {case.label} failed:\n{done.stderr[-2000:]}")
    return int(done.stdout.splitlines()[-1])


def _worker(task: dict[str, Any]) -> int:
    torch.set_num_threads(task["threads"])
    case = Case(**task["case"])
    op = load_op(case.op)
    contestant = op.contestant(task["contestant"])
    loss = contestant.build(case)
    tensors = op.inputs(case, torch.device("cpu"), False)
    # Once unmeasured: compilation, and what libraries set up on first use.
    step(loss, fresh(contestant, tensors), case.mode, op.trained)
    inputs = fresh(contestant, tensors)
    with track_peak() as peak:
        step(loss, inputs, case.mode, op.trained)
    return peak.added


if __name__ == "__main__":
    print(_worker(json.loads(sys.argv[1])))
