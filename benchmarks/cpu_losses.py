"""Time and peak memory of the losses on CPU, against the published formulas, eager and compiled.

    python -m benchmarks.cpu_losses [--rows 64 256 --vocab 151936] [--dtype float32] [--linear] [--out FILE]

Memory: one process per loss; the rise of the resident set from before the inputs are created, in units of
one fp32 [N, V] tensor (N V 4 bytes). Logits-in losses hold two inputs and write one gradient, so 3 is the
floor. Time: all sides alternate in this process, medians, so that the machine's load affects them alike;
beside them what no side can do without, a copy of both logits or the products with the heads. If a side's
loss or gradient differs from the definition in fp64, no time is reported and the run fails. That check takes
three times the memory of the heads.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks._cases import BOTH, Case
from benchmarks._environment import describe
from benchmarks._results import MEASURED, write
from benchmarks._session import measure_case, peaks_in_process
from benchmarks._timing import Copy, Rounds
from benchmarks.ops import load_op

# Losses to operations.
LOGITS_CASES = {
    "tidal": "interpolated_kl",
    "forward_kl": "interpolated_kl",
    "reverse_kl": "reverse_kl",
    "calm": "calm",
}
LINEAR_CASES = {f"linear_{variant}": f"linear_{op}" for variant, op in LOGITS_CASES.items()}
CPU = torch.device("cpu")


def case_of(variant: str, rows: int, vocab: int, widths: tuple[int, int], dtype: str = "float32") -> Case:
    """The case of a loss. widths: hidden sizes of student and teacher, for losses over hidden states."""
    op = (LOGITS_CASES | LINEAR_CASES)[variant]
    hidden = widths if variant in LINEAR_CASES else (0, 0)
    return Case(op, variant, rows, vocab, vocab, dtype, BOTH, 0, *hidden)


def measure(case: Case, repeats: int, copy: Copy) -> dict[str, Any]:
    """Measure one row of the table.

    Raises:
        RuntimeError: a side computes something else, or cannot run.
    """
    print(f"measuring {case.label} ...", file=sys.stderr, flush=True)
    op = load_op(case.op)
    (floor,) = (c.name for c in op.contestants if c.floor)
    sides = {"eager": "eager", "compile": "compile", "tide": "tide", "floor": floor}
    rounds = Rounds(0.0, repeats, repeats, 1)
    found = measure_case(op, case, CPU, rounds, copy, list(sides.values()), peaks=False)
    if failed := [r for r in found if r["status"] != MEASURED]:
        reasons = "; ".join(f"{r['contestant']}: {r['status']}, {r['reason']}" for r in failed)
        raise RuntimeError(f"cpu_losses: no time is reported for {case.variant}: {reasons}")
    rows = {side: next(r for r in found if r["contestant"] == name) for side, name in sides.items()}
    memory = ("eager", "tide")
    peaks = peaks_in_process([(case, side) for side in memory], torch.get_num_threads())
    peak = {side: peak["all"] for side, peak in zip(memory, peaks, strict=True)}
    ours = rows["tide"]
    return {
        "case": case.variant,
        **{
            name: getattr(case, name)
            for name in ("rows", "vocab", "dtype", "student_hidden", "teacher_hidden")
        },
        "time_s": {
            side: {name: row[f"{name}_ms"] / 1e3 for name in ("median", "p20", "p80", "processor")}
            for side, row in rows.items()
        },
        "peak_units": {side: added / (4 * case.rows * case.vocab) for side, added in peak.items()},
        "peak_mib": {side: added / 2**20 for side, added in peak.items()},
        "time_over": {
            side: ours["median_ms"] / row["median_ms"] for side, row in rows.items() if side != "tide"
        },
        "cpu_over_eager": ours["processor_ms"] / rows["eager"]["processor_ms"],
        "loss_error": {side: rows[side]["loss_error"] for side in memory},
        "gradient_error": {side: rows[side]["gradient_error"] for side in memory},
    }


def markdown(rows: list[dict[str, Any]], floor: str) -> str:
    """Markdown table of the results of ``measure``; `floor` names what no side can do without."""
    lines = [
        "| loss | N | eager peak | tide peak | tide ms | time, tide / eager | / torch.compile "
        f"| / {floor} | processor time, tide / eager | gradient error |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        peak, over = row["peak_units"], row["time_over"]
        lines.append(
            f"| {row['case']} | {row['rows']} | {peak['eager']:.2f} | {peak['tide']:.2f} | "
            f"{1e3 * row['time_s']['tide']['median']:.1f} | {over['eager']:.3f} | {over['compile']:.2f} | "
            f"{over['floor']:.2f} | {row['cpu_over_eager']:.2f} | {row['gradient_error']['tide']:.1e} |"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the tables, and write the results after every row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[64, 256], help="N, even")
    parser.add_argument("--vocab", type=int, default=151936, help="V")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--cases", nargs="+", choices=[*LOGITS_CASES, *LINEAR_CASES], default=None)
    parser.add_argument(
        "--linear", action="store_true", help="also the hidden-in losses against heads run eagerly"
    )
    parser.add_argument("--student-width", type=int, default=1024)
    parser.add_argument("--teacher-width", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--out", type=Path, default=None, help="JSON file, or a folder for it")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    widths = options.student_width, options.teacher_width
    cases = options.cases or [*LOGITS_CASES, *(LINEAR_CASES if options.linear else ())]
    file = options.out
    if file is not None and file.suffix != ".json":
        file = file / "cpu_losses.json"
    setting, copy = describe(CPU), Copy(CPU)
    results: list[dict[str, Any]] = []
    for title, group, floor in (
        ("Logits in", LOGITS_CASES, "copy"),
        ("Hidden states in", LINEAR_CASES, "products"),
    ):
        first = len(results)
        for variant in (name for name in group if name in cases):
            for rows in options.rows:
                case = case_of(variant, rows, options.vocab, widths, options.dtype)
                results.append(measure(case, options.repeats, copy))
                if file is not None:
                    write(file, {"environment": setting, "results": results})
        if results[first:]:
            print(f"\n{title}: V = {options.vocab}, {options.dtype}")
            table = markdown(results[first:], floor)
            print(f"Peaks in N V 4 bytes, inputs included\n\n{table}", flush=True)
    print(f"\n{json.dumps(setting)}")


if __name__ == "__main__":
    main()
