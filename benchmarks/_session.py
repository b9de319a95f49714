"""Measure cases: gate, time and peak memory of every contestant, within a time budget.

    python -m benchmarks._session --worker '{"work": [[{...case}, "torch"]], "threads": 2}'

is the process that measures peaks on a CPU.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch

from benchmarks._cases import BOTH, Case
from benchmarks._gate import KINDS, Errors, errors_of, truth_of, verdict
from benchmarks._memory import ALLOCATOR, can_reset_peak, in_process, peak_of
from benchmarks._op import Contestant, Loss, Op, Tensors, step
from benchmarks._results import ABSENT, MEASURED, NOT_REACHED, RED, Row, Store
from benchmarks._timing import Copy, Rounds, Step, Times, alternate, quantiles
from benchmarks.ops import load_op

COPY = "large copy"
# From hidden states a step takes tens of milliseconds on a GPU.
LEAST_HIDDEN_ROUNDS = 7
Result = TypeVar("Result")


@dataclass
class Session:
    """A run.

    Attributes:
        device: measured device.
        store: receives the rows.
        rounds: of every case.
        budget_seconds: a case starts only if the longest so far would end within it.
        started: start of the run, monotonic clock.
    """

    device: torch.device
    store: Store
    rounds: Rounds
    budget_seconds: float | None = None
    started: float = field(default_factory=time.monotonic)
    _copy: Copy | None = None
    _longest: float = 0.0

    def measure(self, op: Op, case: Case) -> list[Row]:
        """Measure a case and store a row for each contestant."""
        start = time.monotonic()
        if self.left() <= self._longest:
            reason = "the time budget was used"
            rows = [row_of(case, contestant, NOT_REACHED, reason) for contestant in op.contestants]
        else:
            self._copy = self._copy or Copy(self.device)
            rows = measure_case(op, case, self.device, self.rounds, self._copy)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self._longest = max(self._longest, time.monotonic() - start)
        self.store.add(op.name, rows)
        return rows

    def left(self) -> float:
        """Seconds left of the budget."""
        budget = float("inf") if self.budget_seconds is None else self.budget_seconds
        return budget - (time.monotonic() - self.started)


def measure_case(
    op: Op,
    case: Case,
    device: torch.device,
    rounds: Rounds,
    copy: Copy,
    names: Sequence[str] = (),
    *,
    peaks: bool = True,
) -> list[Row]:
    """Gate, time and peak memory of a case: a row for each contestant in `names`, by default all."""
    entered = {c.name: c for c in op.contestants if not names or c.name in names}
    rows: dict[str, Row] = {}
    losses: dict[str, Loss] = {}
    for name, contestant in entered.items():
        reason = contestant.absent(case, device)
        built = _attempt(contestant, partial(contestant.build, case)) if reason is None else reason
        if isinstance(built, str):
            rows[name] = row_of(case, contestant, ABSENT, built)
        else:
            losses[name] = built

    errors: dict[str, dict[str, Errors]] = {name: {} for name in entered}
    for kind in KINDS:
        tensors = op.inputs(case, device, kind == "near")
        truth = truth_of(op, case, tensors)
        for name in [n for n in losses if n not in rows and not entered[n].floor]:
            contestant = entered[name]
            given = contestant.fresh(tensors)
            found = _attempt(contestant, partial(errors_of, op, losses[name], case, given, truth))
            if isinstance(found, Errors):
                errors[name][kind] = found
            else:
                rows[name] = row_of(case, contestant, ABSENT, found)
        del truth
    for name in [n for n in losses if n not in rows]:
        if red := verdict(entered[name], case, errors[name]):
            rows[name] = row_of(case, entered[name], RED, red) | _error_columns(errors[name])

    green = [name for name in losses if name not in rows]
    if case.student_hidden:
        rounds = rounds._replace(least=min(rounds.least, LEAST_HIDDEN_ROUNDS))
    steps = {name: _step(op, entered[name], losses[name], case, tensors) for name in green}
    times = alternate({**steps, COPY: copy.step()}, device, rounds)
    bandwidth = copy.bytes_moved / quantiles(times[COPY].seconds)["median"]
    implementations = [name for name in green if peaks and not entered[name].floor]
    found_peaks = _peaks(case, steps, device, implementations)
    floor = [quantiles(times[name].seconds)["median"] for name in green if entered[name].floor]
    for name in green:
        rows[name] = row_of(case, entered[name], MEASURED, None) | _error_columns(errors[name])
        rows[name] |= _figures(op, case, tensors, times[name], bandwidth, found_peaks.get(name), floor)
    return [rows[name] for name in entered]


def peaks_in_process(work: Sequence[tuple[Case, str]], threads: int | None = None) -> list[dict[str, int]]:
    """Peaks of steps on a CPU, each of a (case, contestant), in one new process.

    Of each: ``step``, the bytes it added to its inputs, and ``all``, with the inputs.
    """
    task = {"work": [(case.as_dict(), name) for case, name in work], "threads": threads}
    peaks: list[dict[str, int]] = in_process("benchmarks._session", task, ALLOCATOR)["peaks"]
    return peaks


def row_of(case: Case, contestant: Contestant, status: str, reason: str | None) -> Row:
    """The columns that every row has."""
    return {
        **case.as_dict(),
        "contestant": contestant.name,
        "ours": contestant.ours,
        "status": status,
        "reason": reason,
    }


def _attempt(contestant: Contestant, run: Callable[[], Result]) -> Result | str:
    """Return the result, or the reason why the contestant cannot run.

    Ours may fail for lack of memory only; their other errors propagate.
    """
    try:
        return run()
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return "out of memory"
    except Exception as error:
        if contestant.ours:
            raise
        first = (str(error).strip().splitlines() or [""])[0]
        return f"{type(error).__name__}: {first}"[:200]


def _step(op: Op, contestant: Contestant, loss: Loss, case: Case, tensors: Tensors) -> Step:
    if contestant.floor:
        return Step(loss, lambda: tensors)
    return Step(lambda given: step(op, loss, given, case.mode), lambda: contestant.fresh(tensors))


def _peaks(case: Case, steps: dict[str, Step], device: torch.device, names: list[str]) -> dict[str, int]:
    """Bytes that each step adds to its inputs; on a CPU forward and backward only, all in one process."""
    if device.type == "cuda":
        return {
            name: peak_of(partial(steps[name].run, steps[name].prepare()), device).added for name in names
        }
    if case.mode != BOTH or not names or not can_reset_peak():
        return {}
    peaks = peaks_in_process([(case, name) for name in names], torch.get_num_threads())
    return {name: peak["step"] for name, peak in zip(names, peaks, strict=True)}


def _worker(task: dict[str, Any]) -> dict[str, Any]:
    if task["threads"]:
        torch.set_num_threads(task["threads"])
    return {"peaks": [_resident_peak(Case(**case), name) for case, name in task["work"]]}


def _resident_peak(case: Case, name: str) -> dict[str, int]:
    op, cpu = load_op(case.op), torch.device("cpu")
    contestant = op.contestant(name)
    loss = contestant.build(case)
    # Unmeasured: compilation, and code and threads of libraries.
    step(op, loss, contestant.fresh(op.inputs(case, cpu, False)), case.mode)
    empty = peak_of(lambda: None, cpu).before
    tensors = contestant.fresh(op.inputs(case, cpu, False))
    peak = peak_of(lambda: step(op, loss, tensors, case.mode), cpu)
    return {"step": peak.added, "all": peak.before + peak.added - empty}


def _error_columns(errors: dict[str, Errors]) -> dict[str, float | None]:
    columns: dict[str, float | None] = {}
    for kind, start in (("near", "near_"), ("ordinary", "")):
        error = errors.get(kind)
        columns |= {
            f"{start}loss_error": None if error is None else error.loss,
            f"{start}gradient_error": None if error is None else error.gradient,
            f"{start}gradient_floor": None if error is None else error.floor,
        }
    return columns


def _figures(
    op: Op, case: Case, tensors: Tensors, times: Times, copy: float, peak: int | None, floor: list[float]
) -> dict[str, Any]:
    """Time, and its relation to the copy's bandwidth and to the floor's time."""
    seconds = quantiles(times.seconds)
    bandwidth = op.least_bytes(case) / seconds["median"]
    gradient = sum(tensors[name].nbytes for name in op.trained) if case.mode == BOTH else None
    figures = {
        "rounds": len(times.seconds),
        **{f"{name}_ms": value * 1e3 for name, value in seconds.items()},
        "processor_ms": quantiles(times.processor)["median"] * 1e3,
        "least_bytes": op.least_bytes(case),
        "gb_s": bandwidth / 1e9,
        "copy_gb_s": copy / 1e9,
        "copy_percent": 100 * bandwidth / copy,
        "peak_mib": None if peak is None else peak / 2**20,
        "gradient_mib": None if gradient is None else gradient / 2**20,
    }
    if op.least_flops is None or not floor:
        return figures
    flops = op.least_flops(case)
    return figures | {
        "least_flops": flops,
        "tflop_s": flops / seconds["median"] / 1e12,
        "gemm_ms": floor[0] * 1e3,
        "gemm_percent": 100 * floor[0] / seconds["median"],
    }


if __name__ == "__main__":
    print(json.dumps(_worker(json.loads(sys.argv[2]))))
