"""Run the GPU tests, then the GPU benchmarks, within a time limit (`make gpu`).

    python -m benchmarks.gpu --tests tests/gpu --seconds 450

Needs torch, triton, pytest and pytest-benchmark; installs nothing. Liger-kernel takes part if installed.
Without matplotlib there are no plots; `python -m benchmarks.report` draws them later, on any machine. The
test results go to `tests.json` beside the figures. Failing tests do not stop the benchmarks, whose gate
judges each contestant, but set the exit status.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks._environment import describe, slug

ROOT = Path(__file__).resolve().parent.parent
INI = ["-c", "benchmarks/pytest.ini"]
# The suite's conftest enables the interpreter and needs packages that may be missing.
ALONE = ["--noconftest", "--benchmark-disable"]
RESULTS = ROOT / "benchmarks" / "results"
# Reserved for the benchmarks, and for the last case and the report.
BENCHMARK_SECONDS = 180.0
CLOSING_SECONDS = 20.0


def run_tests(paths: list[str], seconds: float, folder: Path, device: torch.device) -> int:
    """Run the tests without the project's conftest and options; write tests.json.

    Args:
        paths: files, folders and options for pytest.
        seconds: time limit.
        folder: receives tests.json.
        device: described in tests.json.

    Returns:
        pytest's exit status; 124 on timeout.
    """
    command = [sys.executable, "-m", "pytest", *INI, *ALONE, "-q", *paths]
    start = time.monotonic()
    # The kernels must be compiled here.
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
            check=False,
        )
        status, output = done.returncode, done.stdout
    except subprocess.TimeoutExpired as expired:
        text: str | bytes = expired.stdout or b""
        status, output = 124, text.decode(errors="replace") if isinstance(text, bytes) else text
    print(output)
    lines = output.strip().splitlines()
    outcome = {
        "tests": paths,
        "status": status,
        "seconds": round(time.monotonic() - start, 1),
        "summary": lines[-1].strip("= ") if lines else "",
        "failed": [line for line in lines if line.startswith(("FAILED", "ERROR"))],
        "environment": describe(device),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tests.json").write_text(json.dumps(outcome, indent=1) + "\n")
    return status


def main(arguments: list[str] | None = None) -> int:
    """Run tests, benchmarks and report. Returns 0 only if all succeed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tests", nargs="*", default=["tests/gpu"], help="paths for pytest; none: no tests")
    parser.add_argument("--seconds", type=float, default=450.0, help="for all of it")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder that gets a folder per device")
    options, further = parser.parse_known_args(arguments)
    if not torch.cuda.is_available():
        print("gpu: torch sees no GPU; `make bench` measures what a CPU can do.", file=sys.stderr)
        return 2
    start = time.monotonic()
    folder = options.results / slug(torch.device("cuda"))
    tests = 0
    if options.tests:
        allowed = max(options.seconds - BENCHMARK_SECONDS - CLOSING_SECONDS, 1.0)
        tests = run_tests(options.tests, allowed, folder, torch.device("cuda"))
    left = options.seconds - CLOSING_SECONDS - (time.monotonic() - start)
    budget = ["--device", "cuda", "--budget-seconds", f"{left:.0f}", "--results", str(options.results)]
    command = [sys.executable, "-m", "pytest", *INI, "benchmarks", *budget, *further]
    benchmarks = subprocess.run(command, cwd=ROOT, check=False).returncode
    report = [sys.executable, "-m", "benchmarks.report", str(folder)]
    reported = subprocess.run(report, cwd=ROOT, check=False).returncode
    print(f"tests: exit status {tests}; benchmarks: {benchmarks}; {time.monotonic() - start:.0f} s in all")
    return int(bool(tests or benchmarks or reported))


if __name__ == "__main__":
    sys.exit(main())
