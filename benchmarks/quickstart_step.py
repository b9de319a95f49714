"""The quickstart's training with the ops over hidden states, beside both heads and all logits in full.

    python -m benchmarks.quickstart_step [--steps 40] [--methods kl tide_shared calm tide_cross]

The same recipe, data order and noise on both sides, each in a process of its own: largest difference of the
loss of a step over the loss, and peak memory of the process. In full means the definitions of the ops
(`backend="reference"`), run eagerly. The text is the quickstart's.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks._memory import in_process

RECIPES = {
    "none": "recipes/quickstart_same.yaml",
    "shared": "recipes/quickstart_same.yaml",
    "any": "recipes/quickstart_cross.yaml",
}
SIDES = {"in full": "reference", "ops": "auto"}


def trained(method: str, backend: str, steps: int) -> dict[str, Any]:
    """Losses of all steps and the peak in MiB, of a new process."""
    task = {"method": method, "backend": backend, "steps": steps}
    return in_process("benchmarks.quickstart_step", task)


def _worker(task: dict[str, Any]) -> dict[str, Any]:
    from examples.quickstart.corpus import split_functions, write_rows
    from tide.config import load_recipe
    from tide.losses.objective import Objective
    from tide.methods import METHODS
    from tide.pipeline import distill

    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "data" / "train.jsonl"
        write_rows(split_functions()[0], rows)
        overrides = [
            f"method={task['method']}",
            f"training.max_steps={task['steps']}",
            "training.logging_steps=1",
            f"training.output_dir={folder}/run",
            f"data.train={rows}",
            "data.held_out=null",
        ]
        recipe = load_recipe(RECIPES[METHODS[task["method"]].teacher], overrides)
        with mock.patch("tide.training.build.Objective", partial(Objective, backend=task["backend"])):
            result = distill(recipe)
    losses = [entry["loss"] for entry in result.log_history if "loss" in entry]
    return {"losses": losses, "peak_mib": result.peak_memory_mib}


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--methods", nargs="+", default=["kl", "tide_shared", "calm", "tide_cross"])
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker is not None:
        print(json.dumps(_worker(arguments.worker)))
        return 0
    print("| method | steps | largest difference of a loss | peak in full, MiB | peak with ops, MiB |")
    print("|---|--:|--:|--:|--:|")
    for method in arguments.methods:
        full, ops = (trained(method, backend, arguments.steps) for backend in SIDES.values())
        pairs = list(zip(full["losses"], ops["losses"], strict=True))
        worst = max(abs(one - other) / abs(one) for one, other in pairs)
        print(
            f"| {method} | {len(pairs)} | {worst:.1e} | {full['peak_mib']:.0f} | {ops['peak_mib']:.0f} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
