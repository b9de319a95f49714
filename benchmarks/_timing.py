"""Time several steps alternately, so that changes in the machine's load affect all alike."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

# Larger than any GPU's L2 cache (H200: 60 MB); written before every timed step.
FLUSH_BYTES = 256 << 20
# Size of one side of the copy that measures bandwidth; larger than any cache.
COPY_BYTES = {"cuda": 1 << 30, "cpu": 256 << 20}


class Rounds(NamedTuple):
    """Rounds after warm-up: `least` to `most`, about `seconds` in total."""

    seconds: float
    least: int
    most: int
    warm_up: int


ROUNDS = {"cuda": Rounds(1.5, 20, 100, 3), "cpu": Rounds(4.0, 5, 21, 1)}


class Step(NamedTuple):
    """A step, and the untimed function that prepares its argument."""

    run: Callable[[Any], object]
    prepare: Callable[[], Any] = lambda: None


class Times(NamedTuple):
    """Seconds of every round: by the clock, and of the processor, which other load does not stretch."""

    seconds: list[float]
    processor: list[float]


class Copy:
    """Device-to-device copy between two dedicated buffers, which measures the bandwidth."""

    def __init__(self, device: torch.device) -> None:
        count = COPY_BYTES[device.type] // 4
        # Random values: memory systems may compress zeros.
        self.source = torch.rand(count, device=device)
        self.target = torch.empty_like(self.source)
        self.bytes_moved = 2 * COPY_BYTES[device.type]

    def step(self) -> Step:
        """The copy as a timed step."""
        return Step(lambda _: self.target.copy_(self.source))


def quantiles(seconds: list[float]) -> dict[str, float]:
    """Median, 20th and 80th percentile of at least one value."""
    ordered = sorted(seconds)
    last = len(ordered) - 1
    return {
        "median": statistics.median(ordered),
        "p20": ordered[round(0.2 * last)],
        "p80": ordered[round(0.8 * last)],
    }


def alternate(steps: dict[str, Step], device: torch.device, rounds: Rounds) -> dict[str, Times]:
    """Times of every step; the order rotates by one per round.

    On a GPU by CUDA events around the step, after a write over the L2 cache, which also gives the host a head
    start: a long step hides its launches. On a CPU by the wall clock.
    """
    names = list(steps)
    clock = _gpu_clock(device) if device.type == "cuda" else _wall_clock
    for _ in range(rounds.warm_up):
        for name in names:
            clock(steps[name])
    times = {name: Times([], []) for name in names}
    gc.collect()
    collecting = gc.isenabled()
    gc.disable()
    try:
        start = time.perf_counter()
        for done in range(rounds.most):
            if done >= rounds.least and time.perf_counter() - start > rounds.seconds:
                break
            turn = done % len(names)
            for name in names[turn:] + names[:turn]:
                for kept, seconds in zip(times[name], clock(steps[name]), strict=True):
                    kept.append(seconds)
    finally:
        if collecting:
            gc.enable()
    return times


def _wall_clock(step: Step) -> tuple[float, float]:
    argument = step.prepare()
    start, processor = time.perf_counter(), time.process_time()
    made = step.run(argument)
    elapsed = time.perf_counter() - start, time.process_time() - processor
    del made  # freed outside the measured time
    return elapsed


def _gpu_clock(device: torch.device) -> Callable[[Step], tuple[float, float]]:
    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device=device)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    def one(step: Step) -> tuple[float, float]:
        argument = step.prepare()
        torch.cuda.synchronize(device)
        flush.zero_()
        processor = time.process_time()
        begin.record()
        step.run(argument)
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) * 1e-3, time.process_time() - processor

    return one
