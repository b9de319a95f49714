"""Write tables, plots and verdicts on the GPU targets from the JSON of earlier runs.

    python -m benchmarks.report benchmarks/results

Takes a device's folder, or a folder of several. Needs no GPU; without matplotlib there are no plots.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import Any

from benchmarks._cases import HEADLINE_VOCAB, Case
from benchmarks._results import ABSENT, MEASURED, NOT_REACHED, RED, Row, read
from benchmarks._targets import HEADLINE, Verdict, judge, judge_hidden_in

# Columns for the share of the limit: a copy if memory is the limit, else the products.
SHARES = {
    "copy_percent": ("GB/s | % of copy", (("gb_s", ".1f"), ("copy_percent", ".1f"))),
    "gemm_percent": ("TFLOP/s | % of GEMMs", (("tflop_s", ".4g"), ("gemm_percent", ".1f"))),
}


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
    parts = [f"# Benchmarks: {environment['device']}", _setting(rows), _legend(environment)]
    if environment["device_type"] == "cuda":
        parts += ["## Targets", targets_table(rows)]
    parts += [f"![{Path(name).stem}]({name})" for name in plots]
    for op in dict.fromkeys(r["op"] for r in rows):
        parts.append(f"## {op}")
        own = [r for r in rows if r["op"] == op]
        for key in dict.fromkeys(_case_key(r) for r in own):
            parts += _case_section([r for r in own if _case_key(r) == key])
    return "\n\n".join(parts) + "\n"


def targets_table(rows: list[Row]) -> str:
    """Tables of the GPU targets: met, missed or unmeasured. rows: of one device, or none."""
    case = f"N = {HEADLINE['rows']:,}, {HEADLINE['dtype']}, {HEADLINE['mode']}"
    logits_in, hidden_in = _verdict_table(judge(rows)), _verdict_table(judge_hidden_in(rows))
    vocab = f"V = {HEADLINE_VOCAB:,}"
    return (
        f"Backend triton, {case}, {vocab}.\n\n{logits_in}\n\n"
        f"From hidden states: {vocab}, and 157,184 at d 2,048.\n\n{hidden_in}"
    )


def _verdict_table(verdicts: list[Verdict]) -> str:
    names = list(dict.fromkeys(v.variant for v in verdicts))
    lines = [f"| target | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for target in dict.fromkeys(v.target for v in verdicts):
        outcomes = [v.outcome for v in verdicts if v.target == target]
        lines.append(f"| {target} | {' | '.join(outcomes)} |")
    return "\n".join(lines)


def _setting(rows: list[Row]) -> str:
    """One line per environment; files of different runs may differ."""
    lines = []
    for environment in [r["environment"] for r in rows]:
        known = ", ".join(f"{key} {value}" for key, value in environment.items() if value is not None)
        if known not in lines:
            lines.append(known)
    return "  \n".join(lines)


def _legend(environment: dict[str, Any]) -> str:
    where = (
        "CUDA events, L2 overwritten before each step"
        if environment["device_type"] == "cuda"
        else "wall clock"
    )
    memory = "allocator's count" if environment["device_type"] == "cuda" else "resident set, one process each"
    return (
        f"Contestants alternate within a run ({where}). GB/s: least bytes (formula at the top of each "
        "`benchmarks/bench_*.py`) over the median. % of copy: of the bandwidth of a large copy, read plus "
        "written, measured in the same rounds. % of GEMMs (from hidden states): the matrix products that "
        "cannot be avoided, measured in the same rounds, over the median; TFLOP/s: their operations over the "
        f"median. Peak: beyond the inputs ({memory}), gradients included. Errors: against fp64; loss "
        "relative, gradient norm over norm (the worst of several), in parentheses as a multiple of what "
        "rounding to the dtype costs; near: teacher within 1e-3 of the student, from hidden states 1e-2 "
        "(token_logprob: a student sure of its tokens)."
    )


def _case_key(row: Row) -> tuple[Any, ...]:
    return tuple(row.get(k, 0) for k in Case.__dataclass_fields__)


def _case_section(rows: list[Row]) -> list[str]:
    case = Case(**{k: rows[0][k] for k in Case.__dataclass_fields__ if k in rows[0]})
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
        for row in rows:
            if row["status"] == status:
                by_reason.setdefault(row["reason"], []).append(row["contestant"])
        parts += [f"{status}: {', '.join(names)} ({reason})." for reason, names in by_reason.items()]
    return parts


def _line(row: Row, share: str) -> str:
    errors = [_number(row["loss_error"], ".1e"), _gradient(row, ""), _number(row["near_loss_error"], ".1e")]
    cells = [
        f"{'**' if row['ours'] else ''}{row['contestant']}{'**' if row['ours'] else ''}",
        *(_number(row[k], ".4g") for k in ("median_ms", "p20_ms", "p80_ms")),
        *(_number(row.get(k), form) for k, form in SHARES[share][1]),
        _number(row["peak_mib"], ",.0f"),
        *errors,
        _gradient(row, "near_"),
    ]
    return f"| {' | '.join(cells)} |"


def _gradient(row: Row, start: str) -> str:
    error, floor = row[f"{start}gradient_error"], row[f"{start}gradient_floor"]
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
