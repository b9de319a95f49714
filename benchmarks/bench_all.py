"""All benchmarks, most important first: headlines, the whole step on a GPU, sweeps.

python -m pytest -c benchmarks/pytest.ini benchmarks -k tidal
"""

from __future__ import annotations

import pytest
import torch

from benchmarks._cases import Case
from benchmarks._op import Op
from benchmarks._results import MEASURED, NOT_REACHED, RED, write
from benchmarks._session import Session

# What a whole step takes at most: random weights of 8.8 billion parameters, then steps of about a second.
STEP_SECONDS = 75.0


def bench_headline(op: Op, case: Case, session: Session) -> None:
    """An operation at the shape of its targets."""
    _run(op, case, session)


@pytest.mark.parametrize("attention", ["sdpa", "flex_attention"])
def bench_distillation_step(attention: str, session: Session) -> None:
    """The whole TIDE-Shared step at the paper's sizes; figures go to `distillation_step-ATTENTION.json`."""
    if session.device.type != "cuda":
        pytest.skip("needs a GPU; `python -m benchmarks.distillation_step` measures a CPU")
    pytest.importorskip("transformers")
    if session.left() < STEP_SECONDS:
        pytest.skip("the time budget was used")
    from benchmarks.distillation_step import ROUNDS, markdown, measure_all

    results = measure_all("real", [8], [0.5], session.device, ROUNDS["cuda"], attention)
    write(session.store.folder / f"distillation_step-{attention}.json", results)
    print(markdown(results["steps"]))
    torch.cuda.empty_cache()


def bench_sweep(op: Op, case: Case, session: Session) -> None:
    """An operation over N and over vocabularies."""
    _run(op, case, session)


def _run(op: Op, case: Case, session: Session) -> None:
    rows = session.measure(op, case)
    print(f"\n{case.label}")
    for row in rows:
        result = f"{row['median_ms']:.4g} ms" if row["status"] == MEASURED else row["status"]
        print(f"  {row['contestant']:28} {result}")
    if rows[0]["status"] == NOT_REACHED:
        pytest.skip(rows[0]["reason"])
    if red := [f"{row['contestant']}: {row['reason']}" for row in rows if row["status"] == RED]:
        pytest.fail(f"no time is reported: {'; '.join(red)}", pytrace=False)
