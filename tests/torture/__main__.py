"""Kill, damage, double and misuse `tide`, and count what holds.

    python -m tests.torture [--scale N] [--seed N] [--only WORD] [--out docs/reliability.md]

Minutes. Exit status 1 if anything did not hold.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
import unittest
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.torture.lab import Lab

INSIDE = "TIDE_TORTURE_INSIDE"
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
MARK = "<!-- Written by `make torture`. -->\n"


class Trial(NamedTuple):
    """Something to try `times` times; it fails by an AssertionError."""

    what: str
    holds: str
    run: Callable[[Lab, random.Random], None]
    times: int


def trials() -> tuple[Trial, ...]:
    """All of them, in the order of the table."""
    from tests.torture import inputs, runs

    same = "ends as an undisturbed run, bit for bit"
    named = "rows, or one line that names the file"
    tables = partial(inputs.corrupt_file, named="arrow|parquet")
    texts = partial(inputs.corrupt_file, named="(?i)json")
    return (
        Trial("`tide distill` killed 1 to 3 times, then `--resume`", same, runs.killed, 12),
        Trial("checkpoint files flipped, cut, emptied, removed", f"passed over, {same}", runs.damaged, 20),
        Trial("a disk that fills, then room and `--resume`", f"one line, {same}", runs.out_of_space, 10),
        Trial("two `tide distill` in one directory", f"one is refused, one {same}", runs.doubled, 10),
        Trial("`tide prepare` killed, then two at once", "the same shards, byte for byte", runs.prepared, 10),
        Trial("Arrow and Parquet files flipped or cut", named, tables, 60),
        Trial("JSON and JSON lines, plain and gzip, flipped or cut", named, texts, 30),
        Trial("1 to 4 bad rows among 8 good ones", "8 examples, reasons counted", inputs.bad_rows, 40),
        Trial(
            "an absurd value of a recipe's key", "status 0 or 2; 2 if out of bounds", inputs.bad_recipe, 100
        ),
    )


def main() -> int:
    """Run all trials. Returns 1 if one did not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--scale", type=float, default=1, help="so many times as many trials")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="trials whose text contains this")
    parser.add_argument("--out", type=Path, help="the page whose end is replaced by the table")
    options = parser.parse_args()
    if options.only and options.out:
        parser.error("--out takes all trials; drop --only")
    in_namespace()
    from tests.torture.lab import Lab

    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(ENVIRONMENT, TMPDIR=folder)
        lab, failures = Lab(Path(folder)), []
        lines = heading(options)
        print(*lines, sep="\n")
        lab.tide("recipe").end()  # starts the fork server, which no later time includes
        for trial in trials():
            if options.only in trial.what:
                row, failed = tried(trial, lab, options)
                lines.append(row)
                failures += failed
                print(row, *failed, sep="\n", flush=True)
    if options.out:
        before = options.out.read_text().partition(MARK)[0]
        options.out.write_text(
            "\n".join([f"{before}{MARK}", *lines, *([""] if failures else []), *failures, ""])
        )
    return 1 if failures else 0


def heading(options: argparse.Namespace) -> list[str]:
    """The machine, the versions and the head of the table."""
    from benchmarks._environment import commit, processor

    packages = ("torch", "transformers", "tokenizers", "pyarrow")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    return [
        f"{processor()}, {os.cpu_count()} cores, {platform.system()}; Python {platform.python_version()}, "
        f"{versions}; commit {commit()}, seed {options.seed}, scale {options.scale:g}.",
        "",
        "| tried | holds if | times | held | did not | s |",
        "|---|---|---|---|---|---|",
    ]


def tried(trial: Trial, lab: Lab, options: argparse.Namespace) -> tuple[str, list[str]]:
    """Row of the table, and a line for each time that it did not hold."""
    times, failures, skipped = max(1, round(trial.times * options.scale)), [], ""
    start = time.monotonic()
    for number in range(times):
        try:
            trial.run(lab, random.Random(f"{options.seed} {trial.what} {number}"))
        except unittest.SkipTest as reason:
            skipped = f"skipped: {reason}"
            break
        except Exception as error:
            text = " ".join(str(error).split()).replace(str(lab.folder), "")
            failures.append(f"- {trial.what}, {number}: {type(error).__name__}: {text}")
    counts = (0, skipped, "") if skipped else (times, times - len(failures), len(failures))
    cells = (trial.what, trial.holds, *counts, round(time.monotonic() - start))
    return f"| {' | '.join(map(str, cells))} |", failures


def in_namespace() -> None:
    """Start again where file systems can be mounted, if this machine lets us."""
    enter = ["unshare", "--user", "--map-root-user", "--mount"]
    try:
        allowed = not subprocess.run([*enter, "true"], capture_output=True).returncode
    except FileNotFoundError:
        return
    if allowed and INSIDE not in os.environ:
        os.environ[INSIDE] = "1"
        os.execvp(enter[0], [*enter, sys.executable, "-m", "tests.torture", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
