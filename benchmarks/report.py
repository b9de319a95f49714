"""Write tables, plots and verdicts on the GPU targets from the JSON of earlier runs.

    python -m benchmarks.report benchmarks/results

Takes a device's folder, or a folder of several. Needs no GPU; without matplotlib there are no plots.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import Any

from benchmarks._cases import Case, hidden_name
from benchmarks._results import ABSENT, MEASURED, NOT_REACHED, RED, Row, read
from benchmarks._targets import HEADLINE, verdict
from benchmarks.ops import OPS

# Columns for the share of the limit: a copy if memory is the limit, else the products.
SHARES = {
    "copy_percent": ("GB/s | % of copy", (("gb_s", ".1f"), ("copy_percent", ".1f"))),
    "gemm_percent": ("TFLOP/s | % of GEMMs", (("tflop_s", ".4g"), ("gemm_percent", ".1f"))),
}
LEGEND = (
    "Contestants alternate within a run ({clock}). GB/s: least bytes (formulas in `benchmarks/ops`) over the "
    "median. % of copy: of the bandwidth of a large copy, read plus written, measured in the same rounds. "
    "% of GEMMs (from hidden states): the matrix products that cannot be avoided, measured in the same "
    "rounds, over the median; TFLOP/s: their operations over the median. Peak: beyond the inputs ({memory}), "
    "gradients included. Errors: against fp64; loss relative, gradient norm over norm (worst of several), in "
    "parentheses as a multiple of what rounding to the dtype costs; near: teacher within 1e-3 of the "
    "student, from hidden states 1e-2 (token_logprob: a student sure of its tokens)."
)
CLOCKS = {"cuda": "CUDA events, L2 overwritten before each step", "cpu": "wall clock"}
MEMORY = {"cuda": "allocator's count", "cpu": "resident set of a process for each case"}


def render(folder: Path) -> str:
    """Write plots and README.md of one device into its folder; return the text.

    Raises:
        ValueError: the folder holds no rows.
    """
    environment, rows = read(folder)
    plots: list[str] = []
    if importlib.util.find_spec("matplotlib"):
        from benchmarks._plots import draw

        plots = draw(environment, rows, folder)
    text = markdown(environment, rows, plots)
    (folder / "README.md").write_text(text)
    return text


def markdown(environment: dict[str, Any], rows: list[Row], plots: list[str]) -> str:
    """The page of one device. plots: names of PNG files beside it."""
    kind = environment["device_type"]
    settings = [
        ", ".join(f"{key} {value}" for key, value in row["environment"].items() if value is not None)
        for row in rows
    ]
    parts = [f"# Benchmarks: {environment['device']}", "  \n".join(dict.fromkeys(settings))]
    parts.append(LEGEND.format(clock=CLOCKS[kind], memory=MEMORY[kind]))
    if kind == "cuda":
        parts += ["## Targets", targets_table(rows)]
    parts += [f"![{Path(name).stem}]({name})" for name in plots]
    for op in dict.fromkeys(r["op"] for r in rows):
        parts.append(f"## {op}")
        cases: dict[Case, list[Row]] = {}
        for row in (r for r in rows if r["op"] == op):
            case = Case(**{key: row[key] for key in Case.__dataclass_fields__ if key in row})
            cases.setdefault(case, []).append(row)
        for case, of_case in cases.items():
            parts += _case_section(case, of_case)
    return "\n\n".join(parts) + "\n"


def targets_table(rows: list[Row]) -> str:
    """Tables of the GPU targets: met, missed or unmeasured. rows: of one device, or none."""
    parts = [f"Backend triton, N = {HEADLINE['rows']:,}, {HEADLINE['dtype']}, {HEADLINE['mode']}."]
    for targets in dict.fromkeys(op.targets for op in OPS if op.targets):
        headlines = [
            case
            for op in OPS
            if op.targets == targets
            for case in op.cases("cuda", None)
            if case.stage == 0 and case.mode == HEADLINE["mode"]
        ]
        lines = [f"| target | {' | '.join(map(_headline, headlines))} |", "|---" * (len(headlines) + 1) + "|"]
        for target in targets:
            outcomes = [verdict(target, [r for r in rows if _is_of(case, r)]) for case in headlines]
            lines.append(f"| {target.name} | {' | '.join(outcomes)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _headline(case: Case) -> str:
    hidden = hidden_name(case.student_hidden, case.teacher_hidden)
    return f"{case.variant}, V {case.vocab:,}" + (f", d {hidden}" if case.student_hidden else "")


def _is_of(case: Case, row: Row) -> bool:
    return all(row.get(key, 0) == value for key, value in case.as_dict().items() if key != "stage")


def _case_section(case: Case, rows: list[Row]) -> list[str]:
    measured = [r for r in rows if r["status"] == MEASURED]
    parts = [f"**{case.label}**"]
    if measured:
        share = "gemm_percent" if "gemm_percent" in measured[0] else "copy_percent"
        columns = (
            f"contestant | median ms | p20 | p80 | {SHARES[share][0]} | peak MiB | loss error | "
            "gradient error | near: loss error | near: gradient error"
        )
        lines = [f"| {columns} |", "|:--" + "|--:" * columns.count("|") + "|"]
        lines += [_line(r, share) for r in measured]
        parts.append("\n".join(lines))
    for status in (RED, ABSENT, NOT_REACHED):
        by_reason: dict[str, list[str]] = {}
        for row in (r for r in rows if r["status"] == status):
            by_reason.setdefault(row["reason"], []).append(row["contestant"])
        parts += [f"{status}: {', '.join(names)} ({reason})." for reason, names in by_reason.items()]
    return parts


def _line(row: Row, share: str) -> str:
    bold = "**" if row["ours"] else ""
    cells = [
        f"{bold}{row['contestant']}{bold}",
        *(_number(row[k], ".4g") for k in ("median_ms", "p20_ms", "p80_ms")),
        *(_number(row.get(k), form) for k, form in SHARES[share][1]),
        _number(row["peak_mib"], ",.0f"),
    ]
    for kind in ("", "near_"):
        cells += [_number(row[f"{kind}loss_error"], ".1e"), _gradient(row, kind)]
    return f"| {' | '.join(cells)} |"


def _gradient(row: Row, kind: str) -> str:
    error, floor = row[f"{kind}gradient_error"], row[f"{kind}gradient_floor"]
    if error is None:
        return "-"
    return f"{error:.1e} ({error / floor:.1f})" if floor else f"{error:.1e}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def main(arguments: list[str] | None = None) -> None:
    """Render every device's folder, and print the targets."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="a device's folder, or one of several")
    folder = parser.parse_args(arguments).folder
    inside = sorted(f for f in folder.iterdir() if f.is_dir()) if folder.is_dir() else []
    if not importlib.util.find_spec("matplotlib"):
        print("no plots: matplotlib is not installed")
    seen_gpu = False
    for device in inside or [folder]:
        try:
            environment, rows = read(device)
        except ValueError as error:
            print(error)
            continue
        render(device)
        count = sum(r["status"] == MEASURED for r in rows)
        print(f"{environment['device']}: {count} rows, {device / 'README.md'}")
        if environment["device_type"] == "cuda":
            seen_gpu = True
            print(f"\n{targets_table(rows)}\n")
    if not seen_gpu:
        print(f"\nno GPU was measured:\n\n{targets_table([])}")


if __name__ == "__main__":
    main()
