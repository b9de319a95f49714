"""A whole TIDE-Shared step, forward and backward, as the Trainer runs it and as the published code does.

    python -m benchmarks.distillation_step [--batch-sizes 1 2 --times 0.5] [--models real] [--out FILE.json]

Random Qwen3 models, small or of the paper's sizes (on a GPU), block 32, texts of 512 tokens that are half
prompt. Both sides get the same noised batch, and must first agree in loss and gradients. There is no
optimiser. Times are medians of alternating steps; other load does not stretch the processor's. Peaks are
of the resident set on a CPU, in a process per side, of the allocator's count on a GPU: all of it, and what
the step adds to models and libraries. `benchmarks/_steps.py` has both sides.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks._environment import describe
from benchmarks._memory import ALLOCATOR, in_process, peak_of
from benchmarks._results import write
from benchmarks._steps import BLOCK_SIZE, MODELS, SIDES, Models, Work, build
from benchmarks._timing import Rounds, Step, alternate, quantiles

ROUNDS = {"cpu": Rounds(20.0, 3, 7, 0), "cuda": Rounds(10.0, 5, 20, 1)}
# Largest difference over the size, by bf16: both sides round, at different places.
LIMITS = {
    False: {"loss_difference": 1e-5, "gradient_difference": 1e-4},
    True: {"loss_difference": 1e-2, "gradient_difference": 0.2},
}


def measure(
    models: Models, batch_size: int, t: float, device: torch.device, rounds: Rounds, attention: str = "sdpa"
) -> dict[str, Any]:
    """Time of a step on both sides and, on a GPU, their peaks.

    By side ``time_s`` and, on a CPU, ``processor_s`` (median, p20, p80), ``tokens`` per example and, on a
    GPU, ``peak`` (bytes); the differences between the sides; ``rows``, the number of masked tokens. Raises
    RuntimeError if the sides disagree: no time is reported. attention: of the side ``tide``.
    """
    work = build(models, batch_size, t, device, attention)
    differences = _differences(work)
    if not all(differences[name] <= limit for name, limit in LIMITS[models.bf16].items()):
        raise RuntimeError(f"distillation_step: the sides disagree: {differences}; no time is reported.")
    steps = {side: _step(work, side) for side in SIDES}
    times = alternate(steps, device, rounds)
    result: dict[str, Any] = {
        "batch_size": batch_size,
        "length": models.length,
        "t": t,
        "attention": attention,
        "rows": len(work.noised.student.rows),
        "rounds": len(times["tide"].seconds),
        "time_s": {side: quantiles(times[side].seconds) for side in SIDES},
        "tokens": tokens_per_example(work, models),
        **differences,
    }
    if device.type == "cuda":
        return result | {"peak": {side: _peak(work, side, device) for side in SIDES}}
    return result | {"processor_s": {side: quantiles(times[side].processor) for side in SIDES}}


def _step(work: Work, side: str) -> Step:
    return Step(lambda _: work.steps[side](), work.clear)


def tokens_per_example(work: Work, models: Models) -> dict[str, dict[str, float]]:
    """Tokens that student and teacher compute per example, by side; padding included."""
    sides = {"student": work.layouts.student, "teacher": work.layouts.teacher}
    ours = {
        side: layout.token_ids.numel() / len(work.noised.t)
        for side, layout in sides.items()
        if layout is not None
    }
    return {"official": {"student": 2.0 * models.length, "teacher": 4.0 * models.length}, "tide": ours}


def _worker(task: dict[str, Any]) -> dict[str, int]:
    """Peak of one side in this process, after an unmeasured step for code and threads of libraries."""
    cpu = torch.device("cpu")
    build(MODELS["tiny"], 1, task["t"], cpu).steps[task["side"]]()
    work = build(MODELS[task["models"]], task["batch_size"], task["t"], cpu)
    return _peak(work, task["side"], cpu)


def _peak(work: Work, side: str, device: torch.device) -> dict[str, int]:
    """Bytes at the step's peak, and what it adds to what was there."""
    work.clear()
    peak = peak_of(work.steps[side], device)
    work.clear()
    return {"all": peak.before + peak.added, "step": peak.added}


def _differences(work: Work) -> dict[str, float]:
    """Difference of the losses over the loss; of the gradients, in norm over norm, of all parameters."""
    losses, gradients = {}, {}
    for side in SIDES:
        losses[side] = float(work.steps[side]())
        gradients[side] = [parameter.grad for parameter in work.parameters]
        work.clear()
    squares = torch.zeros(2, dtype=torch.float64)
    for ours, theirs in zip(gradients["tide"], gradients["official"], strict=True):
        assert ours is not None and theirs is not None
        squares += torch.stack([(ours - theirs).norm(), theirs.norm()]).double().cpu().square()
    return {
        "loss_difference": abs(losses["tide"] - losses["official"]) / abs(losses["official"]),
        "gradient_difference": float((squares[0] / squares[1]).sqrt()),
    }


def markdown(results: list[dict[str, Any]]) -> str:
    """Table of the results of ``measure``."""
    columns = "B | t | attention | N | tokens, student | tokens, teacher | s, official | s, tide | faster"
    columns += " | by processor time | GiB, official | GiB, tide | share | GiB added, official"
    columns += " | GiB added, tide | share"
    lines = [f"| {columns} |", "|" + "--:|" * 16]
    for row in results:
        tokens = [
            " / ".join(f"{row['tokens'][side][of]:,.0f}" for side in SIDES) for of in ("student", "teacher")
        ]
        cells = [f"{row['batch_size']}", f"{row['t']}", row["attention"], f"{row['rows']:,}", *tokens]
        seconds = [row["time_s"][side]["median"] for side in SIDES]
        cells += [f"{seconds[0]:.3g}", f"{seconds[1]:.3g}", f"{seconds[0] / seconds[1]:.1f}x"]
        processor = [times["median"] for times in row.get("processor_s", {}).values()]
        cells.append(f"{processor[0] / processor[1]:.1f}x" if processor else "-")
        for kind in ("all", "step"):
            peaks = [row["peak"][side][kind] / 2**30 for side in SIDES]
            cells += [f"{peaks[0]:.2f}", f"{peaks[1]:.2f}", f"{peaks[1] / peaks[0]:.0%}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def measure_all(
    models: str,
    batch_sizes: list[int],
    times: list[float],
    device: torch.device,
    rounds: Rounds,
    attention: str = "sdpa",
) -> dict[str, Any]:
    """Every batch size at every time, with the machine and versions; errors of ``measure``."""
    results = []
    for batch_size in batch_sizes:
        for t in times:
            print(f"measuring B = {batch_size}, t = {t} ...", file=sys.stderr, flush=True)
            result = measure(MODELS[models], batch_size, t, device, rounds, attention)
            if device.type == "cpu":
                task = {"models": models, "batch_size": batch_size, "t": t}
                result["peak"] = {
                    side: in_process("benchmarks.distillation_step", task | {"side": side}, ALLOCATOR)
                    for side in SIDES
                }
            results.append(result)
    sizes = {side: getattr(MODELS[models], side)._asdict() for side in ("student", "teacher")}
    return {
        "environment": describe(device),
        "models": models,
        **sizes,
        "block_size": BLOCK_SIZE,
        "steps": results,
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table, and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", choices=list(MODELS), default="small")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 2], help="B")
    parser.add_argument("--times", type=float, nargs="+", default=[0.5], help="t, the rate of masked tokens")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--attention", choices=("sdpa", "flex_attention"), default="sdpa", help="of tide")
    parser.add_argument("--out", type=Path, default=None, help="JSON file")
    parser.add_argument("--worker", type=json.loads, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker is not None:
        print(json.dumps(_worker(options.worker)))
        return
    device = torch.device(options.device)
    rounds = ROUNDS[device.type]
    results = measure_all(
        options.models, options.batch_sizes, options.times, device, rounds, options.attention
    )
    print(f"{markdown(results['steps'])}\n\n{json.dumps(results['environment'])}")
    if options.out is not None:
        write(options.out, results)


if __name__ == "__main__":
    main()
