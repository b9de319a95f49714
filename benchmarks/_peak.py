"""Peak memory of one step beyond its inputs.

    python -m benchmarks._peak --worker '{"case": {...}, "contestant": "torch", "threads": 2}'

On a GPU by the allocator's count. On a CPU by resident set, in one process per measurement: otherwise
libraries and freed tensors of other contestants would count.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import torch

from benchmarks._cases import Case
from benchmarks._memory import ALLOCATOR, CLEAR_REFS, track_peak
from benchmarks._op import Contestant, Loss, Op, Tensors, load_op, step
from benchmarks._worker import in_process


def fresh(contestant: Contestant, tensors: Tensors) -> Tensors:
    """The inputs, with a copy of the student if the contestant overwrites it."""
    if not contestant.overwrites:
        return tensors
    return {**tensors, "student": tensors["student"].detach().clone().requires_grad_()}


def gpu_peak(op: Op, contestant: Contestant, loss: Loss, case: Case, tensors: Tensors) -> int:
    """Peak bytes of a step beyond its inputs on the current GPU."""
    inputs = fresh(contestant, tensors)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step(loss, inputs, case.mode, op.trained)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def cpu_peak(case: Case, contestant: str) -> int | None:
    """Peak bytes on a CPU, in a new process; None if the system cannot reset its high-water mark.

    Raises:
        RuntimeError: the process failed.
    """
    if not os.access(CLEAR_REFS, os.W_OK):
        return None
    task = {"case": case.as_dict(), "contestant": contestant, "threads": torch.get_num_threads()}
    return int(in_process("benchmarks._peak", task, ALLOCATOR)["peak"])


def _worker(task: dict[str, Any]) -> dict[str, int]:
    torch.set_num_threads(task["threads"])
    case = Case(**task["case"])
    op = load_op(case.op)
    contestant = op.contestant(task["contestant"])
    loss = contestant.build(case)
    tensors = op.inputs(case, torch.device("cpu"), False)
    # Unmeasured warm-up: compilation and library initialisation.
    step(loss, fresh(contestant, tensors), case.mode, op.trained)
    inputs = fresh(contestant, tensors)
    with track_peak() as peak:
        step(loss, inputs, case.mode, op.trained)
    return {"peak": peak.added}


if __name__ == "__main__":
    print(json.dumps(_worker(json.loads(sys.argv[2]))))
