"""Recipe -> distilled student: what `tide distill` runs.

recipe -> tokenizers, configurations (checked) -> examples -> models -> trainer -> student on disk
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tide.config import at_key
from tide.contract import Contract
from tide.evaluation import HeldOutLikelihood, held_out_likelihood
from tide.methods import METHODS
from tide.models import DiffusionModel, check_weights, load_config, load_model
from tide.preparation import (
    check_embeddings,
    check_shared_ids,
    held_out_examples,
    load_tokenizers,
    training_data,
)
from tide.training import build_trainer
from tide.training.checkpoints import StopOnSignal
from tide.training.meter import RunMeter
from tide.training.run_directory import RunDirectory
from tide.training.trackers import check_trackers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from transformers import TrainerCallback

    from tide.batch import Example
    from tide.config import Recipe
    from tide.preparation import Tokenizers, TrainingData


@dataclass(frozen=True)
class DistillResult:
    """What a run left behind.

    Attributes:
        output_dir: the student, as `save_pretrained` writes it, with recipe.yaml and summary.json.
        finished: False when a signal stopped it early; a checkpoint is there to resume from.
        steps: optimiser steps done.
        seconds: of training, without loading; with those of the processes that it was resumed from.
        peak_memory_mib: peak resident memory of the process, or of an earlier one if that was larger.
        log_history: the Trainer's logs, with the metrics of every term.
        held_out: likelihood of `data.held_out` under the finished student, where the recipe names it.
        already_finished: the run was complete before: nothing was loaded, trained or written.
    """

    output_dir: Path
    finished: bool
    steps: int
    seconds: float
    peak_memory_mib: float
    log_history: list[dict[str, float]]
    held_out: HeldOutLikelihood | None = None
    already_finished: bool = False


def distill(
    recipe: Recipe,
    *,
    resume: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    say: Callable[[str], None] = lambda line: None,
) -> DistillResult:
    """Trains the recipe's student and writes it to `training.output_dir`.

    Everything that can be wrong without the weights, paths, tokenizers, vocabularies, data, is checked before
    they load.

    Args:
        recipe: checked on reading.
        resume: go on from the newest complete checkpoint in the output directory (or start, where there is
            none). A finished run is left as it is.
        callbacks: further callbacks of the Trainer.
        say: told, in a line each, where the run starts and what takes long after training.
    Raises:
        ValueError: the output directory holds another run, or an input is missing or unfit.
    """
    directory = RunDirectory(recipe)
    directory.check(resume=resume)
    tokenizers, data, held_out = _checked_inputs(recipe)
    directory.check_examples(data.fingerprint)
    if resume and (summary := directory.finished_summary()) is not None:
        return _result_of(summary, directory)
    student, teacher = load_models(recipe, tokenizers)
    stop, meter = StopOnSignal(), RunMeter()
    trainer = build_trainer(
        recipe,
        data.examples,
        student=student,
        student_tokenizer=tokenizers.student,
        teacher=teacher,
        teacher_tokenizer=tokenizers.teacher,
        shared_vocab_size=tokenizers.shared_vocab_size,
        callbacks=[stop, meter, *callbacks],
    )
    is_main = trainer.is_world_process_zero()
    with trainer.args.main_process_first(local=False):
        if is_main:
            directory.begin(data.fingerprint)
        checkpoint = directory.newest_checkpoint() if resume else None
    if is_main and data.counts.rejected:
        say(str(data.counts))
    if resume and is_main:
        beginning = f"no checkpoint in {directory.path}: starting from the beginning"
        say(beginning if checkpoint is None else f"going on from {checkpoint}")
    meter.start(checkpoint)
    with stop.installed():
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    result = DistillResult(
        output_dir=directory.path,
        finished=trainer.state.global_step >= trainer.state.max_steps,
        steps=trainer.state.global_step,
        seconds=meter.seconds,
        peak_memory_mib=meter.peak_memory_mib,
        log_history=trainer.state.log_history,
    )
    if not result.finished:
        return result
    trainer.save_model()
    if is_main and held_out:
        say(f"evaluating {len(held_out)} held-out texts")
        likelihood = held_out_likelihood(
            student,
            tokenizers.student,
            held_out,
            batch_size=recipe.training.batch_size,
        )
        result = replace(result, held_out=likelihood)
    if is_main:
        directory.finish(_summary(result, recipe))
    return result


def load_models(recipe: Recipe, tokenizers: Tokenizers) -> tuple[DiffusionModel, DiffusionModel | None]:
    """Load the student and, if the method has one, the teacher."""
    block_size, teacher = recipe.masking.block_size, None
    with at_key("student.path"):
        network = load_model(recipe.student.path, trainable=True)
        student = DiffusionModel(network, Contract(tokenizers.student.mask_token_id, block_size))
    if recipe.teacher is not None and tokenizers.teacher is not None:
        with at_key("teacher.path"):
            network = load_model(recipe.teacher.path, dtype=recipe.teacher.dtype, trainable=False)
        teacher = DiffusionModel(network, Contract(tokenizers.teacher.mask_token_id, block_size))
    return student, teacher


def check(recipe: Recipe, *, resume: bool = False) -> str:
    """Checks all that `distill` checks before it loads weights; returns what it found, in one line.

    One more, indented, for every reason for which rows were dropped. The output directory comes last: a
    recipe is also checked while its run, or an earlier one, is there.

    Raises:
        ValueError: as `distill`; that of the output directory says that all else is fit.
    """
    tokenizers, data, _ = _checked_inputs(recipe)
    directory = RunDirectory(recipe)
    try:
        directory.check(resume=resume)
        directory.check_examples(data.fingerprint)
    except ValueError as error:
        raise ValueError(f"{error} All else is fit to run.") from error
    sides = ", ".join(
        f"{role}'s vocabulary {len(tokenizer):,}" for role, tokenizer in tokenizers.by_role().items()
    )
    return f"fit to run; method {recipe.method}, {sides}; {data.counts}"


def _checked_inputs(recipe: Recipe) -> tuple[Tokenizers, TrainingData, list[Example]]:
    """Tokenizers, training examples and held-out examples (the student's side)."""
    check_trackers(recipe.training.report_to)
    _check_models(recipe)
    tokenizers = load_tokenizers(recipe)
    check_embeddings(recipe, tokenizers)
    data = training_data(recipe, tokenizers)
    check_shared_ids(tokenizers, data.counts.highest_id)
    return tokenizers, data, held_out_examples(recipe, tokenizers)


def _check_models(recipe: Recipe) -> None:
    needs_teacher = METHODS[recipe.method].has_teacher
    models = {"student": recipe.student, "teacher": recipe.teacher if needs_teacher else None}
    for role, model in models.items():
        if model is not None:
            with at_key(f"{role}.path"):
                load_config(model.path)
                check_weights(model.path)


def _summary(result: DistillResult, recipe: Recipe) -> dict[str, object]:
    return {
        "method": recipe.method,
        "steps": result.steps,
        "seconds": result.seconds,
        "peak_memory_mib": result.peak_memory_mib,
        "held_out": None if result.held_out is None else result.held_out.model_dump(mode="json"),
        "log_history": result.log_history,
    }


def _result_of(summary: dict[str, Any], directory: RunDirectory) -> DistillResult:
    """The inverse of `_summary`."""
    held_out = summary["held_out"]
    if held_out is not None:
        held_out = HeldOutLikelihood.model_validate(held_out, strict=False)  # the keys of JSON are strings
    return DistillResult(
        output_dir=directory.path,
        finished=True,
        steps=summary["steps"],
        seconds=summary["seconds"],
        peak_memory_mib=summary["peak_memory_mib"],
        log_history=summary["log_history"],
        held_out=held_out,
        already_finished=True,
    )
