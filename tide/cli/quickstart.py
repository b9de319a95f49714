"""tide quickstart: distil small students by five methods on real text, with a table and a report."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from tide.cli.subparsers import count

if TYPE_CHECKING:
    from tide.cli.subparsers import Subparsers


def add_parser(commands: Subparsers) -> None:
    """Adds the command."""
    parser = commands.add_parser(
        "quickstart",
        help="distil small students by five methods, with a table and a report",
        description="Distil a small student from the shipped teacher on functions of the Python standard "
        "library: without a teacher, by KL and TIDE-Shared within one tokenizer, by CALM and TIDE-Cross "
        "across two. Run it from a clone of the repository. An interrupted quickstart goes on where it "
        "stopped.",
    )
    parser.add_argument("--full", action="store_true", help="more seeds and steps: the table of the README")
    parser.add_argument("--output-dir", type=Path, help="default: runs/quickstart, or runs/quickstart-full")
    parser.add_argument(
        "--fresh", action="store_true", help="discard what an earlier quickstart left in the output directory"
    )
    parser.add_argument("--steps", type=count, help="optimiser steps of each run instead of the usual number")
    parser.add_argument("--seeds", type=count, help="number of seeds instead of the usual number")
    parser.add_argument("--jobs", type=count, help="runs side by side (default: one per core, at most six)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    from tide.quickstart.run import Settings, quickstart

    settings = Settings.full() if arguments.full else Settings.quick()
    settings = settings.changed(steps=arguments.steps, num_seeds=arguments.seeds)
    default = Path("runs/quickstart-full" if arguments.full else "runs/quickstart")
    quickstart(settings, arguments.output_dir or default, fresh=arguments.fresh, jobs=arguments.jobs)
    return 0
