"""tide distill RECIPE.yaml [key=value ...]: train a student by a recipe."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from tide.cli.subparsers import INTERRUPTED, add_recipe, to_stderr

if TYPE_CHECKING:
    from tide import DistillResult
    from tide.cli.subparsers import Subparsers


def add_parser(commands: Subparsers) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "distill",
        help="train a student by a recipe",
        description="Train the student of a recipe. The student, recipe.yaml and summary.json go to "
        "training.output_dir. Ctrl-C writes a checkpoint and stops; --resume goes on from it. Options and "
        "key=value may come in any order.",
    )
    add_recipe(parser, "training.max_steps=10")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the newest checkpoint in training.output_dir; without one, start from the beginning",
    )
    parser.add_argument(
        "--check", action="store_true", help="check recipe, tokenizers and data, and stop before training"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command."""
    from tide.config import load_recipe

    # Before torch is imported, so that a typo is answered at once.
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    from tide.pipeline import check, distill, is_first_process

    if arguments.check:
        print(f"{arguments.recipe}: {check(recipe, resume=arguments.resume)}")
        return 0
    result = distill(recipe, resume=arguments.resume, log=to_stderr, progress=True)
    if not is_first_process():
        return 0 if result.finished else INTERRUPTED
    if not result.finished:
        print(
            f"tide distill: stopped after step {result.steps} of {result.max_steps}, with a checkpoint in "
            f"{result.output_dir}. Add --resume to go on.",
            file=sys.stderr,
        )
        return INTERRUPTED
    already = "already finished: " if result.already_finished else ""
    print(
        f"{result.output_dir}: {already}{result.steps} steps in {result.seconds:.0f} s, peak "
        f"{result.peak_memory_mib:.0f} MiB"
    )
    if result.held_out is not None:
        print(_held_out_table(result))
    print(f'next: tide sample {result.output_dir} "PROMPT"')
    return 0


def _held_out_table(result: DistillResult) -> str:
    """Start, teacher and student by the bound of nats per byte, which compares across tokenizers."""
    assert result.held_out is not None
    references = result.references
    found = {"start": references.start, "teacher": references.teacher} if references else {}
    found["student"] = result.held_out
    bounds = {name: one.bound for name, one in found.items() if one is not None}
    lines = [f"  {name:8}{bound}" for name, bound in bounds.items()]
    if "teacher" in bounds:
        start, teacher, student = (bounds[name].nats_per_byte for name in ("start", "teacher", "student"))
        if start > teacher:
            lines[-1] += f"   {(start - student) / (start - teacher):.0%} of the gap closed"
    heading = f"held out, {result.held_out.num_texts} texts: bound of nats per byte ± standard error"
    return "\n".join([heading, *lines])
