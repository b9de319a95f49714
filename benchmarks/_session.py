"""A benchmark run. The first request for a case measures all its contestants."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
import torch

from benchmarks._cases import BOTH, Case
from benchmarks._gate import Errors, errors_of, truth_of, verdict
from benchmarks._op import Contestant, Loss, Op, Tensors, step
from benchmarks._peak import cpu_peak, fresh, gpu_peak
from benchmarks._results import ABSENT, MEASURED, NOT_REACHED, RED, Row, Store
from benchmarks._timing import COPY, Copy, Rounds, Timed, alternate, quantiles

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

MEMORY_FAILED = "out of memory"
Result = TypeVar("Result")


@dataclass
class Measurements:
    """State of a run.

    Attributes:
        device: measured device.
        store: receives the rows.
        rounds: of every case.
        budget_seconds: a case starts only if the longest so far would end within it.
        clock: replays rounds to pytest-benchmark.
        started: start of the run, monotonic clock.
    """

    device: torch.device
    store: Store
    rounds: Rounds
    budget_seconds: float | None = None
    clock: Clock = field(default_factory=lambda: Clock())
    started: float = field(default_factory=time.monotonic)
    _copy: Copy | None = None
    _longest: float = 0.0
    _done: dict[Case, dict[str, tuple[Row, list[float]]]] = field(default_factory=dict)

    def of(self, op: Op, case: Case, contestant: str) -> tuple[Row, list[float]]:
        """(row, seconds per round) of one contestant; no seconds unless it was measured."""
        if case not in self._done:
            self._done[case] = self._measure(op, case)
            for row, _ in self._done[case].values():
                self.store.add(row)
        return self._done[case][contestant]

    def _measure(self, op: Op, case: Case) -> dict[str, tuple[Row, list[float]]]:
        start = time.monotonic()
        if self.budget_seconds is not None:
            left = self.budget_seconds - (start - self.started)
            if left < self._longest or left <= 0:
                reason = "the time budget was used"
                return {c.name: (_row(case, c, NOT_REACHED, reason), []) for c in _entered(op, case)}
        if self._copy is None:
            self._copy = Copy(self.device)
        measured = measure_case(op, case, self.device, self._copy, self.rounds)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self._longest = max(self._longest, time.monotonic() - start)
        return measured


class Clock:
    """Replays measured seconds; pytest-benchmark reads it before and after every round."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Advance the clock."""
        self.now += seconds


def report(measurements: Measurements, op: Op, case: Case, name: str, benchmark: BenchmarkFixture) -> None:
    """Pass one contestant's rounds to pytest-benchmark; skip if absent, fail if red.

    Args:
        measurements: of the run.
        op: operation.
        case: its case.
        name: of the contestant.
        benchmark: pytest-benchmark's fixture, on the run's clock.
    """
    row, seconds = measurements.of(op, case, name)
    if row["status"] in (ABSENT, NOT_REACHED):
        benchmark.skipped = True
        pytest.skip(row["reason"])
    if row["status"] == RED:
        pytest.fail(f"no time is reported: {row['reason']}", pytrace=False)
    benchmark.group = case.label
    benchmark.extra_info.update(row)
    rounds = iter(seconds)
    run: Callable[..., Any] = benchmark.pedantic
    run(lambda: measurements.clock.advance(next(rounds)), rounds=len(seconds), iterations=1)


def measure_case(
    op: Op, case: Case, device: torch.device, copy: Copy, rounds: Rounds
) -> dict[str, tuple[Row, list[float]]]:
    """Gate, time and peak memory of every contestant of a case.

    Returns:
        (row, seconds per round) by contestant; no seconds unless it is green.
    """
    results: dict[str, tuple[Row, list[float]]] = {}
    runners: dict[str, tuple[Contestant, Loss]] = {}
    for contestant in _entered(op, case):
        reason = contestant.absent(case, device)
        attempt = functools.partial(_attempt, contestant, functools.partial(contestant.build, case))
        built: Loss | str = attempt() if reason is None else reason
        if isinstance(built, str):
            results[contestant.name] = (_row(case, contestant, ABSENT, built), [])
        else:
            runners[contestant.name] = (contestant, built)

    errors: dict[str, dict[str, Errors]] = {name: {} for name in runners}
    for kind in ("near", "ordinary"):
        tensors = op.inputs(case, device, kind == "near")
        truth = truth_of(op, case, tensors)
        for name in [n for n in runners if n not in results and not runners[n][0].products]:
            contestant, loss = runners[name]
            own = fresh(contestant, tensors)
            found = _attempt(contestant, functools.partial(errors_of, loss, case, own, truth))
            if isinstance(found, Errors):
                errors[name][kind] = found
            else:
                results[name] = (_row(case, contestant, ABSENT, found), [])
    for name in [n for n in runners if n not in results]:
        red = verdict(runners[name][0], case.dtype, errors[name], op.bounds)
        if red is not None:
            results[name] = (_row(case, runners[name][0], RED, red) | _error_columns(errors[name]), [])

    green = {name: pair for name, pair in runners.items() if name not in results}
    steps = {name: _timed(op, *pair, case, tensors) for name, pair in green.items()}
    if op.least_rounds is not None:
        rounds = rounds._replace(least=min(rounds.least, op.least_rounds))
    seconds = alternate({**steps, COPY: copy.timed()}, device, rounds)
    copy_bandwidth = copy.bytes_moved / quantiles(seconds[COPY])["median"]
    products = [quantiles(seconds[name])["median"] for name, (c, _) in green.items() if c.products]
    for name, (contestant, loss) in green.items():
        peak: int | None = None
        if device.type == "cuda" and not contestant.products:
            peak = gpu_peak(op, contestant, loss, case, tensors)
        elif case.mode == BOTH and not contestant.products:
            peak = cpu_peak(case, name)
        row = _row(case, contestant, MEASURED, None) | _error_columns(errors[name])
        row |= _figures(op, case, tensors, seconds[name], copy_bandwidth, peak)
        row |= _product_figures(op, case, seconds[name], products)
        results[name] = (row, seconds[name])
    return {contestant.name: results[contestant.name] for contestant in _entered(op, case)}


def _entered(op: Op, case: Case) -> list[Contestant]:
    return [c for c in op.contestants if case.stage == 0 or not c.headline_only]


def _attempt(contestant: Contestant, run: Callable[[], Result]) -> Result | str:
    """Return the result, or the reason why the contestant cannot run.

    Our backends may fail for lack of memory only; their other errors propagate.
    """
    try:
        return run()
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return MEMORY_FAILED
    except Exception as error:
        if contestant.strict or contestant.name == "reference":
            raise
        first = (str(error).strip().splitlines() or [""])[0]
        return f"{type(error).__name__}: {first}"[:200]


def _timed(op: Op, contestant: Contestant, loss: Loss, case: Case, tensors: Tensors) -> Timed:
    if contestant.products:
        return Timed(lambda: tensors, loss)
    return Timed(lambda: fresh(contestant, tensors), lambda given: step(loss, given, case.mode, op.trained))


def _row(case: Case, contestant: Contestant, status: str, reason: str | None) -> Row:
    return {
        **case.as_dict(),
        "contestant": contestant.name,
        "ours": contestant.strict or contestant.name == "reference",
        "status": status,
        "reason": reason,
    }


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
    op: Op, case: Case, tensors: Tensors, seconds: list[float], copy_bandwidth: float, peak: int | None
) -> dict[str, Any]:
    times = quantiles(seconds)
    num_bytes = op.least_bytes(case)
    bandwidth = num_bytes / times["median"]
    trained = [tensors[name] for name in op.trained]
    gradient = sum(x.numel() * x.element_size() for x in trained) if case.mode == BOTH else None
    return {
        "rounds": len(seconds),
        **{f"{name}_ms": value * 1e3 for name, value in times.items()},
        "least_bytes": num_bytes,
        "gb_s": bandwidth / 1e9,
        "copy_gb_s": copy_bandwidth / 1e9,
        "copy_percent": 100 * bandwidth / copy_bandwidth,
        "peak_mib": None if peak is None else peak / 2**20,
        "gradient_mib": None if gradient is None else gradient / 2**20,
    }


def _product_figures(op: Op, case: Case, seconds: list[float], products: list[float]) -> dict[str, Any]:
    """Columns that compare with the unavoidable products; empty if the operation has none."""
    if op.least_flops is None or not products:
        return {}
    median, flops = quantiles(seconds)["median"], op.least_flops(case)
    return {
        "least_flops": flops,
        "tflop_s": flops / median / 1e12,
        "gemm_ms": products[0] * 1e3,
        "gemm_percent": 100 * products[0] / median,
    }
