"""The whole TIDE-Shared step at the paper's sizes, on a GPU (`benchmarks/distillation_step.py`).

A case of `make gpu` beside the operations; its figures go to `distillation_step-ATTENTION.json`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

    from benchmarks._session import Measurements

# What the case takes at most: random weights of 8.8 billion parameters, then steps of about a second.
SECONDS = 75.0
BATCH_SIZES, TIMES = [8], [0.5]


@pytest.mark.parametrize("attention", ["sdpa", "flex_attention"])
def bench_distillation_step(attention: str, measurements: Measurements, benchmark: BenchmarkFixture) -> None:
    """Both sides in one run; pytest-benchmark gets this project's median."""
    benchmark.skipped = True  # until there is a figure
    if measurements.device.type != "cuda":
        pytest.skip("needs a GPU; `python -m benchmarks.distillation_step` measures a CPU")
    pytest.importorskip("transformers")
    budget = measurements.budget_seconds
    if budget is not None and budget - (time.monotonic() - measurements.started) < SECONDS:
        pytest.skip("the time budget was used")
    from benchmarks.distillation_step import ROUNDS, markdown, measure_all

    results = measure_all("real", BATCH_SIZES, TIMES, measurements.device, ROUNDS["cuda"], attention)
    folder = measurements.store.folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"distillation_step-{attention}.json").write_text(json.dumps(results, indent=1) + "\n")
    print(markdown(results["steps"]))
    torch.cuda.empty_cache()
    benchmark.skipped = False
    seconds = results["steps"][0]["time_s"]["tide"]["median"]
    run: Callable[..., Any] = benchmark.pedantic
    run(lambda: measurements.clock.advance(seconds), rounds=1, iterations=1)
