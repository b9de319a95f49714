"""The jobs of the quickstart, each run in a process of its own, so that its peak memory is its own."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import TrainerCallback

from tide.config import DataConfig, Recipe
from tide.contract import Contract
from tide.data import TextRow
from tide.evaluation import held_out_likelihood
from tide.methods import METHODS
from tide.models import DiffusionModel, load_model, load_tokenizer
from tide.pipeline import distill
from tide.preparation import Built, ExampleBuilder
from tide.quickstart.results import Completion, CurvePoint, Evaluation, ModelFacts, Run
from tide.quickstart.table import mean_nats_per_byte
from tide.sampling import generate
from tide.training.checkpoints import checkpoints_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedModel, TrainerControl, TrainerState, TrainingArguments

# Logged beside the loss terms, and no term.
_NOT_TERMS = {
    "epoch",
    "step",
    "learning_rate",
    "grad_norm",
    "tokens_per_second",
    "lambda",
    "active_chunks",
    "loss",
}


@dataclass(frozen=True)
class HeldOut:
    """What models are evaluated on: rows, and prompts (with their true completions) to complete."""

    rows: tuple[TextRow, ...]
    prompts: tuple[TextRow, ...]
    max_length: int
    block_size: int


class _Progress(TrainerCallback):  # type: ignore[misc]
    """Reports every optimiser step."""

    def __init__(self, report: Callable[[int], None]) -> None:
        self.report = report

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self.report(state.global_step)


def evaluate_checkpoint(path: str, held_out: HeldOut) -> tuple[ModelFacts, Evaluation]:
    """Facts and held-out figures of a checkpoint as it is."""
    tokenizer, model = load_tokenizer(path), load_model(path, trainable=False)
    facts = ModelFacts(Path(path).name, model.num_parameters(), len(tokenizer))
    return facts, _evaluation(model, path, held_out)


def run_method(
    recipe: Recipe, held_out: HeldOut, *, with_completions: bool, report: Callable[[int], None]
) -> Run:
    """Distils by a recipe, from the start, and evaluates the student at every checkpoint."""
    # Half a run is repeated, not resumed: its time and curve are then of one piece.
    shutil.rmtree(recipe.training.output_dir, ignore_errors=True)
    result = distill(recipe, callbacks=[_Progress(report)])
    if not result.finished:
        raise KeyboardInterrupt
    folder = result.output_dir
    logs = [entry for entry in result.log_history if "loss" in entry]
    curve = [
        CurvePoint(
            int(entry["step"]), {key: float(value) for key, value in entry.items() if key not in _NOT_TERMS}
        )
        for entry in logs
    ]
    student = load_model(str(folder), trainable=False)
    evaluation = _evaluation(student, str(folder), held_out)
    held_out_curve = []
    for checkpoint in checkpoints_in(folder):
        step = int(checkpoint.name.split("-")[-1])
        # The last checkpoint is the student.
        at_step = evaluation if step == result.steps else evaluate_checkpoint(str(checkpoint), held_out)[1]
        held_out_curve.append((step, mean_nats_per_byte(at_step)))
    completions = []
    if with_completions:
        texts = generate(
            student,
            load_tokenizer(str(folder)),
            [row.prompt for row in held_out.prompts],
            max_new_tokens=96,
            block_size=held_out.block_size,
        )
        completions = [
            Completion(row.prompt, text.rstrip() + "\n", row.completion)
            for row, text in zip(held_out.prompts, texts, strict=True)
        ]
    run = Run(
        method=recipe.method,
        seed=recipe.training.seed,
        evaluation=evaluation,
        seconds=result.seconds,
        peak_memory_mib=result.peak_memory_mib,
        tokens_per_second=sum(entry["tokens_per_second"] for entry in logs) / max(len(logs), 1),
        curve=curve,
        held_out_curve=held_out_curve,
        completions=completions,
    )
    for checkpoint in checkpoints_in(folder):
        shutil.rmtree(checkpoint)
    return run


def _evaluation(model: PreTrainedModel, path: str, held_out: HeldOut) -> Evaluation:
    tokenizer = load_tokenizer(path)
    data = DataConfig(max_length=held_out.max_length)
    build = ExampleBuilder(data, METHODS["none"], tokenizer, block_size=held_out.block_size)
    examples = [row.example for row in build(list(held_out.rows)) if isinstance(row, Built)]
    contract = Contract(tokenizer.mask_token_id, held_out.block_size)
    measured = held_out_likelihood(DiffusionModel(model, contract), tokenizer, examples)
    return Evaluation(
        nats_per_byte={f"{time:g}": value for time, value in measured.nats_per_byte.items()},
        accuracy={f"{time:g}": value for time, value in measured.accuracy.items()},
        tokens=measured.num_tokens,
        bytes=measured.num_bytes,
    )
