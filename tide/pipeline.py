"""Recipe to distilled student, as `tide distill` runs it.

recipe -> tokenizers, model configurations, data (checked) -> models -> trainer -> student on disk
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tide.config import Record, at_key, decode
from tide.evaluation import HeldOutLikelihood, held_out_likelihood
from tide.masking import check_teacher
from tide.methods import METHODS
from tide.models import DiffusionModel, check_weights, contract_of, load_config, load_model, record_contract
from tide.preparation import (
    check_embeddings,
    check_shared_ids,
    held_out_examples,
    load_tokenizers,
    training_data,
)
from tide.training import build_trainer
from tide.training.build import training_arguments
from tide.training.callbacks import RunMeter, StopOnSignal
from tide.training.run_directory import SUMMARY_FILE, RunDirectory, latest_complete_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from transformers import TrainerCallback

    from tide.batch import Example
    from tide.config import ModelConfig, Recipe
    from tide.contract import Contract
    from tide.preparation import Tokenizers, TrainingData


class RunSummary(Record):
    """Figures of a finished run, as summary.json holds them.

    Attributes:
        steps: optimiser steps done.
        seconds: training time without loading, over all processes of a resumed run.
        peak_memory_mib: peak resident memory of the largest of those processes.
        held_out: likelihood of `data.held_out` under the finished student, where the recipe names it.
        log_history: the Trainer's logs, with the metrics of every term.
    """

    method: str
    steps: int
    seconds: float
    peak_memory_mib: float
    held_out: HeldOutLikelihood | None = None
    log_history: list[dict[str, int | float]]


class DistillResult(RunSummary):
    """The figures of a run, finished or not.

    Attributes:
        output_dir: the student, as `save_pretrained` writes it, with recipe.yaml and summary.json.
        max_steps: optimiser steps of the whole run.
        finished: False after a signal, which leaves a checkpoint to resume from.
        already_finished: True if the run was complete before: nothing was loaded, trained or written.
    """

    output_dir: Path
    max_steps: int
    finished: bool
    already_finished: bool = False


def distill(
    recipe: Recipe,
    *,
    resume: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    log: Callable[[str], None] = lambda line: None,
) -> DistillResult:
    """Train the recipe's student and write it to `training.output_dir`.

    Paths, tokenizers, vocabularies and data are checked before any weights load.

    Args:
        recipe: checked on reading.
        resume: go on from the newest complete checkpoint in the output directory, or start if there is none.
            A finished run stays as it is.
        callbacks: further callbacks of the Trainer.
        log: called with each status line.
    Raises:
        ValueError: the output directory holds another run, or an input is missing or invalid.
    """
    directory = RunDirectory(recipe)
    directory.check(resume=resume)
    tokenizers, data, held_out = _checked_inputs(recipe)
    directory.check_examples(data.fingerprint)
    if resume and (finished := _finished_result(directory)) is not None:
        return finished
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
        checkpoint = latest_complete_checkpoint(directory.path) if resume else None
    if is_main and data.counts.rejected:
        log(str(data.counts))
    if resume and is_main:
        beginning = f"no checkpoint in {directory.path}: starting from the beginning"
        log(beginning if checkpoint is None else f"going on from {checkpoint}")
    meter.start(checkpoint)
    with stop.installed():
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    result = DistillResult(
        output_dir=directory.path,
        method=recipe.method,
        steps=trainer.state.global_step,
        max_steps=trainer.state.max_steps,
        finished=trainer.state.global_step >= trainer.state.max_steps,
        seconds=meter.seconds,
        peak_memory_mib=meter.peak_memory_mib,
        log_history=trainer.state.log_history,
    )
    if not result.finished:
        return result
    trainer.save_model()
    if is_main and held_out:
        log(f"evaluating {len(held_out)} held-out texts")
        likelihood = held_out_likelihood(
            student,
            tokenizers.student,
            held_out,
            batch_size=recipe.training.batch_size,
        )
        result = result.model_copy(update={"held_out": likelihood})
    if is_main:
        directory.finish(result.model_dump_json(indent=1, include=set(RunSummary.model_fields)))
    return result


def load_models(recipe: Recipe, tokenizers: Tokenizers) -> tuple[DiffusionModel, DiffusionModel | None]:
    """Load the student and, if the method has one, the teacher, each with its contract."""
    contracts, teacher = model_contracts(recipe, tokenizers), None
    with at_key("student.path"):
        network = load_model(recipe.student.path, trainable=True)
    record_contract(network.config, contracts["student"])
    student = DiffusionModel(network, contracts["student"])
    if recipe.teacher is not None and "teacher" in contracts:
        with at_key("teacher.path"):
            network = load_model(
                recipe.teacher.path,
                dtype=recipe.teacher.dtype,
                trainable=False,
                quantization=recipe.teacher.quantization,
                device=recipe.teacher.device,
            )
        teacher = DiffusionModel(network, contracts["teacher"])
    return student, teacher


def model_contracts(recipe: Recipe, tokenizers: Tokenizers) -> dict[str, Contract]:
    """The contracts of the student and, if the method has one, the teacher, from their configurations.

    Raises:
        ValueError: a contract is unknown or ambiguous, or the recipe's block size is not the student's.
    """
    contracts = {}
    for role, tokenizer in tokenizers.by_role().items():
        model: ModelConfig = getattr(recipe, role)
        with at_key(f"{role}.contract"):
            contracts[role] = contract_of(
                load_config(model.path),
                tokenizer,
                name=model.contract,
                values=model.contract_values,
                block_size=recipe.masking.block_size if role == "student" else None,
            )
    trained, wanted = contracts["student"].block_size, recipe.masking.block_size
    if trained != wanted:
        raise ValueError(
            f"masking.block_size: {wanted}, and the student was trained at {trained or 'the whole text'}. "
            f"Set it to {trained or 'the size of a block'}, or train another: student.contract_values: "
            f"{{block_size: {wanted}}}."
        )
    return contracts


def check(recipe: Recipe, *, resume: bool = False) -> str:
    """Check all that `distill` checks before it loads weights, and return the findings.

    The output directory comes last, so that a recipe can be checked while its run exists.

    Returns:
        One line, and an indented one for every reason why rows were rejected.
    Raises:
        ValueError: as `distill`; the error of the output directory adds that all else is fit to run.
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
    training_arguments(recipe)
    _check_models(recipe)
    tokenizers = load_tokenizers(recipe)
    check_embeddings(recipe, tokenizers)
    check_teacher(METHODS[recipe.method], model_contracts(recipe, tokenizers).get("teacher"))
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


def _finished_result(directory: RunDirectory) -> DistillResult | None:
    """The result of a run that is complete in `directory`, or None."""
    try:
        text = directory.finished_summary()
        summary = decode(RunSummary, text, where=SUMMARY_FILE, remedy="Resume the run.") if text else None
    except ValueError:  # torn, or written by another program
        return None
    if summary is None or directory.last_step < summary.steps:
        return None
    return DistillResult(
        **dict(summary),
        output_dir=directory.path,
        max_steps=summary.steps,
        finished=True,
        already_finished=True,
    )
