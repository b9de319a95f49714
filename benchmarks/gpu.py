"""Tests and benchmarks of a GPU within a time limit, most important first (`make gpu`).

    python -m benchmarks.gpu --tests tests/gpu --seconds 360

First the tests that compare each operation with its definition in fp64, then the benchmarks, the targets'
cases before all others, then the remaining tests and the report. Every test function is a process of its own,
as many at a time as there are cores: the first run compiles some 85 variants of the kernels, in parallel.
Outcomes go to `tests.json` after every process, figures to a file per operation after every case.

Needs torch, triton and pytest; installs nothing. Peers take part if installed. Without matplotlib there are
no plots; `python -m benchmarks.report` draws them later, on any machine. Failing tests do not stop the
benchmarks, whose gate judges each contestant, but set the exit status.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

from benchmarks._environment import describe, slug
from benchmarks._results import write

ROOT = Path(__file__).resolve().parent.parent
# Without the suite's conftest, which enables the interpreter and needs packages that may be missing.
PYTEST = [sys.executable, "-m", "pytest", "-c", "benchmarks/pytest.ini"]
TESTS = [*PYTEST, "--noconftest", "-q"]
RESULTS = ROOT / "benchmarks" / "results"
# Test functions that compare an operation with its definition; the others follow the benchmarks.
CORRECTNESS = "equal_the_definition_in_fp64"
# The correctness tests' part of the time, and what the benchmarks leave for the other tests and the report.
CORRECTNESS_SHARE = 0.35
REST_SHARE, CLOSING_SECONDS = 0.2, 10.0
# Each has a context of its own on the GPU, and its copy of the libraries on the host.
MOST_PROCESSES = 12
TIMED_OUT = 124


class Outcomes:
    """Outcomes of test functions in tests.json, written after each."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.file = folder / "tests.json"
        self.environment = describe(device)
        self.tests: list[dict[str, Any]] = []

    def add(self, outcome: dict[str, Any]) -> None:
        """Add an outcome and rewrite the file."""
        self.tests.append(outcome)
        write(self.file, {"environment": self.environment, "tests": self.tests})

    @property
    def passed(self) -> bool:
        """True if no function failed or ran out of time."""
        return all(outcome["status"] == 0 for outcome in self.tests)


def functions_in(paths: list[str]) -> list[str]:
    """Node ids of the test functions in files and folders, without parameters."""
    files = [
        file
        for path in map(Path, paths)
        for file in (sorted(path.glob("test_*.py")) if path.is_dir() else [path])
    ]
    return [
        f"{file}::{name}"
        for file in files
        for name in re.findall(r"^def (test_\w+)", file.read_text(), flags=re.MULTILINE)
    ]


def run_tests(functions: list[str], end: float, outcomes: Outcomes) -> None:
    """Run test functions in parallel processes until `end`, of the monotonic clock."""
    processes = max(1, min(MOST_PROCESSES, (os.cpu_count() or 1) - 1))
    with ThreadPoolExecutor(processes) as pool:
        for done in as_completed([pool.submit(_run_test, function, end) for function in functions]):
            outcome = done.result()
            outcomes.add(outcome)
            print(f"{outcome['summary']}: {outcome['test']}", *outcome["failed"], sep="\n  ", flush=True)


def _run_test(function: str, end: float) -> dict[str, Any]:
    start = time.monotonic()
    try:
        done = subprocess.run(
            [*TESTS, function],
            cwd=ROOT,
            env=_environment(),
            capture_output=True,
            text=True,
            timeout=max(end - start, 0.1),
            check=False,
        )
        status, lines = done.returncode, done.stdout.strip().splitlines()
    except subprocess.TimeoutExpired:
        status, lines = TIMED_OUT, ["the time budget was used"]
    return {
        "test": function,
        "status": status,
        "seconds": round(time.monotonic() - start, 1),
        "summary": lines[-1].strip("= ") if lines else "",
        "failed": [line for line in lines if re.match("FAILED|ERROR|E  ", line)],
    }


def _environment() -> dict[str, str]:
    # The kernels must be compiled here.
    return {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}


def main(arguments: list[str] | None = None) -> int:
    """Run tests, benchmarks and report. Returns 0 only if all succeed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tests", nargs="*", default=["tests/gpu"], help="paths for pytest; none: no tests")
    parser.add_argument("--seconds", type=float, default=360.0, help="for all of it")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder that gets a folder per device")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: to try this command")
    options, further = parser.parse_known_args(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("gpu: torch sees no GPU; `make bench` measures what a CPU can do.", file=sys.stderr)
        return 2
    start = time.monotonic()
    end = start + options.seconds - CLOSING_SECONDS
    folder = options.results / slug(device)
    outcomes = Outcomes(folder, device)
    functions = functions_in(options.tests)
    run_tests(
        [f for f in functions if CORRECTNESS in f], start + CORRECTNESS_SHARE * options.seconds, outcomes
    )
    rest = [f for f in functions if CORRECTNESS not in f]
    budget = end - time.monotonic() - (REST_SHARE * options.seconds if rest else 0.0)
    command = [*PYTEST, "benchmarks", "--device", device.type, "--budget-seconds", f"{budget:.0f}"]
    command += ["--results", str(options.results), *further]
    try:
        benchmarks = subprocess.run(
            command, cwd=ROOT, timeout=max(end - time.monotonic(), 0.1), check=False
        ).returncode
    except subprocess.TimeoutExpired:  # what was measured is written
        benchmarks = TIMED_OUT
    run_tests(rest, end, outcomes)
    report = [sys.executable, "-m", "benchmarks.report", str(folder)]
    reported = subprocess.run(report, cwd=ROOT, check=False).returncode
    tests = "passed" if outcomes.passed else "failed"
    print(f"tests: {tests}; benchmarks: exit status {benchmarks}; {time.monotonic() - start:.0f} s in all")
    return int(bool(not outcomes.passed or benchmarks or reported))


if __name__ == "__main__":
    sys.exit(main())
