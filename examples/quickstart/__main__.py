"""Run the quickstart, from the root of a clone:

python -m examples.quickstart [--full] [--seeds N] [--steps N] [--jobs N] [--output-dir DIR] [--fresh]
"""

from __future__ import annotations

import argparse
import sys
from os.path import expanduser
from pathlib import Path

from examples.quickstart.commands import exit_status
from examples.quickstart.run import FULL, QUICK, quickstart
from tide.cli.subparsers import count


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(
        prog="quickstart",
        description="Distil small students from the shipped teacher on functions of the Python standard "
        "library: without a teacher, by KL and TIDE-Shared within one tokenizer, by CALM and TIDE-Cross "
        "across two. Run the same command again to go on with an interrupted quickstart.",
    )
    parser.add_argument("--full", action="store_true", help="more seeds and steps: docs/quickstart.md")
    parser.add_argument(
        "--output-dir", type=expanduser, help="default: runs/quickstart, or runs/quickstart-full"
    )
    parser.add_argument(
        "--fresh", action="store_true", help="remove an earlier quickstart from the output directory"
    )
    parser.add_argument("--steps", type=count, help="optimiser steps of each run")
    parser.add_argument("--seeds", type=count, help="number of seeds")
    parser.add_argument("--jobs", type=count, help="runs side by side (default: one per core, at most six)")
    arguments = parser.parse_args()
    settings = FULL if arguments.full else QUICK
    if arguments.steps:
        settings = settings._replace(steps=arguments.steps)
    if arguments.seeds:
        settings = settings._replace(seeds=tuple(range(arguments.seeds)))
    default = Path("runs/quickstart-full" if arguments.full else "runs/quickstart")
    output_dir = Path(arguments.output_dir or default)
    return exit_status(
        "quickstart", lambda: quickstart(settings, output_dir, fresh=arguments.fresh, jobs=arguments.jobs)
    )


if __name__ == "__main__":
    sys.exit(main())
