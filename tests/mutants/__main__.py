"""Plant each fault in a copy of the tree and run the tests that must fail for it.

    python -m tests.mutants [--only WORD] [--out docs/kernels/mutants.md]

The unchanged copy must pass the same tests first. Exit status 1 if a fault survives.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.mutants.faults import Fault
from tests.mutants.linear_faults import FAULTS

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("benchmarks", "csrc", "tests", "tide", "tide_kernels")
PROCESSES = 2
# Exit statuses of pytest: tests failed; no test was collected.
FAILED, NOTHING = 1, 5
PAGE = """# Mutants

Written by `make mutants`, which plants one fault at a time in a copy of the tree and runs the tests that must
fail for it, after the same tests passed without the fault. `faults.py`, `linear_faults.py` and
`native_faults.py` in `tests/mutants` list the faults. A 32-bit row offset needs a larger tensor than a CPU
test can hold: the ahead-of-time builds find it in the intermediate code.

"""


class Outcome(NamedTuple):
    """Result of the tests for a fault."""

    fault: Fault
    caught: bool
    by: str  # the first test that failed


def main() -> int:
    """Run all faults. Returns 1 if one survives."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--only", default="", help="faults whose op, backend or name contains this")
    parser.add_argument("--out", type=Path, help="the page to write")
    options = parser.parse_args()
    if options.only and options.out:
        parser.error("--out takes all faults; drop --only")
    faults = [f for f in FAULTS if options.only in f"{f.op} {f.backend} {f.name}"]
    with ThreadPoolExecutor(PROCESSES) as pool:
        # Each selection of tests once.
        sound = list(pool.map(untouched, sorted({fault.tests for fault in faults})))
        if broken := [line for line in sound if line]:
            print("mutants: these tests fail without a fault; fix them first\n" + "\n".join(broken))
            return 1
        outcomes = []
        for outcome in pool.map(planted, faults):
            outcomes.append(outcome)
            print(
                "caught  " if outcome.caught else "SURVIVED",
                *outcome.fault[:3],
                outcome.by,
                sep=" | ",
                flush=True,
            )
    survivors = sum(not outcome.caught for outcome in outcomes)
    print(f"{len(outcomes) - survivors} of {len(outcomes)} faults caught")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(PAGE + "\n".join(table(outcomes)) + "\n")
    return 1 if survivors else 0


def untouched(tests: tuple[str, ...]) -> str:
    """Empty if the tests pass in an unchanged copy, else what failed."""
    with tempfile.TemporaryDirectory() as folder:
        status, by = run(copy_to(Path(folder)), tests)
    return "" if status == 0 else f"{' '.join(tests)}: {by or f'status {status}'}"


def planted(fault: Fault) -> Outcome:
    """Plant a fault in a copy of the tree and run its tests."""
    with tempfile.TemporaryDirectory() as folder:
        tree = copy_to(Path(folder))
        source = (tree / fault.file).read_text()
        if source.count(fault.old) != 1:
            raise ValueError(
                f"mutants: the old text of {fault.name!r} must occur once in {fault.file}; it occurs "
                f"{source.count(fault.old)} times. Update it to the current source."
            )
        (tree / fault.file).write_text(source.replace(fault.old, fault.new))
        status, by = run(tree, fault.tests)
    if status == NOTHING:
        raise ValueError(
            f"mutants: no test matches {' '.join(fault.tests)}; name some in tests/mutants/faults.py"
        )
    # A fault that breaks the import or ends the process is caught, too.
    return Outcome(fault, status != 0, by if status == FAILED else f"status {status}" if status else "")


def copy_to(folder: Path) -> Path:
    """Copy the folders that tests read."""
    for name in COPIED:
        ignored = shutil.ignore_patterns("__pycache__", "results")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def run(tree: Path, tests: tuple[str, ...]) -> tuple[int, str]:
    """(pytest's status, the first test that failed)."""
    # No bytecode and no inherited path: imports must find the copy.
    kept = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "TRITON_INTERPRET")
    }
    environment = kept | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(tree)}
    environment["XDG_CACHE_HOME"] = str(tree / "cache")  # of the C library, which faults change
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    failed = re.search(r"^(?:FAILED|ERROR) (?:tests/)?(\S+?)(?: - .*)?$", done.stdout, re.MULTILINE)
    return done.returncode, failed[1] if failed else ""


def table(outcomes: list[Outcome]) -> list[str]:
    """Markdown table, a row per fault."""
    survivors = sum(not outcome.caught for outcome in outcomes)
    lines = [f"{len(outcomes) - survivors} of {len(outcomes)} faults caught.", ""]
    lines += ["| op | backend | fault | found by |", "|---|---|---|---|"]
    for fault, caught, by in outcomes:
        found = f"`{by}`" if caught else "**no test**"
        lines.append(f"| {fault.op} | {fault.backend} | {fault.name} | {found} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
