"""Time and peak memory of the losses on CPU, against the published formulas, eager and compiled.

    python -m benchmarks.cpu_losses [--rows 64 256 --vocab 151936] [--dtype float32] [--linear] [--out FILE]

Memory: one process per loss and side; the rise of the resident set from before the inputs are created, in
units of one fp32 [N, V] tensor (N V 4 bytes). Logits-in losses hold two inputs and write one gradient, so 3
is the floor. Time: one process per loss, all sides alternating, medians, so that the machine's load affects
them alike; beside them what no side can do without, a copy of both logits or the products with the heads. If
the sides disagree in loss or gradient, the process reports no time and fails.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks._cpu_cases import LINEAR_CASES, LOGITS_CASES, SIDES, Sizes, Work, build
from benchmarks._environment import commit, processor
from benchmarks._memory import ALLOCATOR, track_peak
from benchmarks._timing import quantiles
from benchmarks._worker import in_process

MEASURED = ("eager", "tide")  # of which memory and deviation are measured
WARM_UP = Sizes(rows=4, vocab=512, student_width=16, teacher_width=32, dtype="float32")
# Largest deviation between the sides. Eager rounds an interpolated target of small lambda, and in bf16
# everything.
LOSS_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.2}
GRADIENT_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.2}


def measure_memory(work: list[tuple[str, str]], sizes: Sizes, threads: int | None = None) -> list[int]:
    """Peak bytes of forward and backward, inputs included, of each task in one new process.

    Args:
        work: (case of LOGITS_CASES or LINEAR_CASES, side ``eager`` or ``tide``). More than one task needs a
            system that can reset the high-water mark.
        sizes: shapes and dtype.
        threads: of torch; None for its default.

    Raises:
        RuntimeError: the process failed.
    """
    result = _in_process({"what": "memory", "work": work, "sizes": asdict(sizes), "threads": threads})
    peaks: list[int] = result["peaks"]
    return peaks


def measure_time(case: str, sizes: Sizes, repeats: int, threads: int | None = None) -> dict[str, Any]:
    """Seconds of forward and backward on every side, alternating in one process.

    Args:
        case: one of LOGITS_CASES or LINEAR_CASES.
        sizes: shapes and dtype.
        repeats: measured steps per side, after one warm-up step.
        threads: of torch; None for its default.

    Returns:
        ``{side: {"median": s, "p20": s, "p80": s, "cpu": s}}`` (cpu: median processor time, which other load
        does not stretch), ``loss_deviation`` and ``gradient_deviation`` between eager and tide.

    Raises:
        RuntimeError: the process failed, or the sides disagree.
    """
    return _in_process(
        {"what": "time", "case": case, "sizes": asdict(sizes), "repeats": repeats, "threads": threads}
    )


def _in_process(task: dict[str, Any]) -> dict[str, Any]:
    return in_process("benchmarks.cpu_losses", task, ALLOCATOR if task["what"] == "memory" else None)


def _worker(task: dict[str, Any]) -> dict[str, Any]:
    if task["threads"]:
        torch.set_num_threads(task["threads"])
    sizes = Sizes(**task["sizes"])
    if task["what"] == "time":
        return _times(task, sizes)
    return {"peaks": [_peak(case, side, sizes) for case, side in task["work"]]}


def _peak(case: str, side: str, sizes: Sizes) -> int:
    build(case, WARM_UP).steps[side]()
    with track_peak() as peak:
        build(case, sizes).steps[side]()
    return peak.added


def _times(task: dict[str, Any], sizes: Sizes) -> dict[str, Any]:
    work = build(task["case"], sizes)
    deviations = _deviations(work)
    for name, limits in (("loss", LOSS_TOLERANCE), ("gradient", GRADIENT_TOLERANCE)):
        if not deviations[f"{name}_deviation"] <= limits[sizes.dtype]:
            raise SystemExit(
                f"{task['case']}: the sides disagree in {name}: {deviations}; no time is reported."
            )
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    cpu: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(task["repeats"]):
        for side in SIDES:
            start, cpu_start = time.perf_counter(), time.process_time()
            work.steps[side]()
            seconds[side].append(time.perf_counter() - start)
            cpu[side].append(time.process_time() - cpu_start)
            work.clear()
    times = {side: {**quantiles(seconds[side]), "cpu": statistics.median(cpu[side])} for side in SIDES}
    return {**times, **deviations}


def _deviations(work: Work) -> dict[str, float]:
    """Loss difference over the eager loss; largest gradient difference over the largest gradient."""
    loss = {}
    gradients = {}
    work.steps["compile"]()  # compiles
    work.clear()
    for side in MEASURED:
        loss[side] = float(work.steps[side]())
        gradients[side] = [parameter.grad for parameter in work.parameters]
        work.clear()
    worst = 0.0
    for ours, theirs in zip(gradients["tide"], gradients["eager"], strict=True):
        if ours is None or theirs is None:
            raise SystemExit("cpu_losses: a side left a parameter without a gradient.")
        scale = float(theirs.abs().max())
        worst = max(worst, float(ours.sub_(theirs).abs().max()) / scale)
    return {
        "loss_deviation": abs(loss["tide"] - loss["eager"]) / abs(loss["eager"]),
        "gradient_deviation": worst,
    }


def measure(case: str, sizes: Sizes, repeats: int, threads: int | None) -> dict[str, Any]:
    """Measure one row of the table: time first, since a wrong result makes its memory meaningless.

    Arguments and errors are those of ``measure_time``.
    """
    print(f"measuring {case} ...", file=sys.stderr, flush=True)
    times = measure_time(case, sizes, repeats, threads)
    memory = {side: measure_memory([(case, side)], sizes, threads)[0] for side in MEASURED}
    return {
        "case": case,
        **asdict(sizes),
        "time_s": {side: times[side] for side in SIDES},
        "peak_units": {side: memory[side] / sizes.unit_bytes for side in MEASURED},
        "peak_mib": {side: memory[side] / 2**20 for side in MEASURED},
        "time_over": {
            side: times["tide"]["median"] / times[side]["median"] for side in SIDES if side != "tide"
        },
        "cpu_over_eager": times["tide"]["cpu"] / times["eager"]["cpu"],
        "loss_deviation": times["loss_deviation"],
        "gradient_deviation": times["gradient_deviation"],
    }


def markdown(rows: list[dict[str, Any]], floor: str) -> str:
    """Markdown table of the results of ``measure``; `floor` names what no side can do without."""
    lines = [
        f"| loss | N | eager peak | tide peak | tide ms | time, tide / eager | / torch.compile | / {floor} "
        "| gradient vs eager |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        peak, over = row["peak_units"], row["time_over"]
        lines.append(
            f"| {row['case']} | {row['rows']} | {peak['eager']:.2f} | {peak['tide']:.2f} | "
            f"{1e3 * row['time_s']['tide']['median']:.1f} | {over['eager']:.3f} | {over['compile']:.2f} | "
            f"{over['floor']:.2f} | {row['gradient_deviation']:.1e} |"
        )
    return "\n".join(lines)


def environment(threads: int | None) -> dict[str, Any]:
    """Processor, threads, versions and commit, which every figure carries."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": threads or torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit(),
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the tables, and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[64, 256], help="N")
    parser.add_argument("--vocab", type=int, default=151936, help="V")
    parser.add_argument("--dtype", choices=sorted(LOSS_TOLERANCE), default="float32")
    parser.add_argument("--cases", nargs="+", choices=LOGITS_CASES + LINEAR_CASES, default=None)
    parser.add_argument(
        "--linear", action="store_true", help="also the hidden-in losses against heads run eagerly"
    )
    parser.add_argument("--student-width", type=int, default=1024)
    parser.add_argument("--teacher-width", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--out", type=Path, default=None, help="JSON file, or a folder for it")
    parser.add_argument("--worker", type=json.loads, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker is not None:
        print(json.dumps(_worker(options.worker)))
        return
    widths = options.vocab, options.student_width, options.teacher_width, options.dtype
    cases = options.cases or LOGITS_CASES + (LINEAR_CASES if options.linear else ())
    setting = environment(options.threads)
    results = []
    for title, group, floor in (
        ("Logits in", LOGITS_CASES, "copy"),
        ("Hidden states in", LINEAR_CASES, "products"),
    ):
        rows = [
            measure(case, Sizes(number, *widths), options.repeats, options.threads)
            for case in group
            if case in cases
            for number in options.rows
        ]
        if rows:
            print(f"\n{title}: V = {options.vocab}, {options.dtype}")
            print(f"Peaks in N V 4 bytes, inputs included\n\n{markdown(rows, floor)}", flush=True)
        results += rows
    print(f"\n{json.dumps(setting)}")
    if options.out is not None:
        file = options.out if options.out.suffix == ".json" else options.out / "cpu_losses.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"environment": setting, "results": results}, indent=1) + "\n")
        print(f"written to {file}")


if __name__ == "__main__":
    main()
