"""Recipe to distilled student, as `tide distill` runs it.

recipe -> tokenizers, model configurations, data (checked) -> models -> trainer -> student on disk
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from accelerate.utils import broadcast_object_list, get_int_from_env

from tide.config import Record, at_key, decode
from tide.disk import writing
from tide.evaluation import (
    HeldOutLikelihood,
    HeldOutReferences,
    evaluate_references,
    held_out_likelihood,
    read_references,
)
from tide.masking import check_teacher
from tide.methods import METHODS
from tide.models import (
    DiffusionModel,
    check_weights,
    contract_of,
    load_config,
    load_model,
    record_contract,
    without_progress_bars,
)
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
from tide.training.checkpoints import checkpoints_in, latest_complete_checkpoint
from tide.training.progress import StepLog
from tide.training.run_directory import SUMMARY_FILE, RunDirectory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from transformers import TrainerCallback

    from tide.batch import Example
    from tide.config import ModelConfig, Recipe
    from tide.contract import Contract
    from tide.preparation import Tokenizers, TrainingData


_RANKS = ["RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK"]  # as accelerate reads it


class RunSummary(Record):
    """Figures of a finished run, as summary.json holds them.

    Attributes:
        steps: optimiser steps done.
        seconds: training time without loading, over all processes of a resumed run.
        peak_memory_mib: peak resident memory of the largest of those processes.
        held_out: likelihood of `data.held_out` under the finished student, where the recipe names it.
        references: the same of the start and the teacher.
        log_history: the Trainer's logs, with the metrics of every term.
    """

    method: str
    steps: int
    seconds: float
    peak_memory_mib: float
    held_out: HeldOutLikelihood | None = None
    references: HeldOutReferences | None = None
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
    progress: bool = False,
) -> DistillResult:
    """Train the recipe's student and write it to `training.output_dir`.

    Paths, tokenizers, vocabularies and data are checked before any weights load.

    Args:
        recipe: checked on reading.
        resume: go on from the newest undamaged checkpoint in the output directory, or start if there is none.
            A finished run stays as it is.
        callbacks: further callbacks of the Trainer.
        log: called with each status line, and with the figures of every logging step.
        progress: show a progress bar on the standard error.
    Raises:
        ValueError: the output directory holds another run or other files, another process writes to it, an
            input is missing or invalid, or a weight, loss or gradient is NaN or infinite.
        OSError: the output directory cannot be written; names it and the free space.
    """
    directory = RunDirectory(recipe)
    # The other processes of a run write beside the first one.
    with directory.locked() if is_first_process() else nullcontext(), writing(directory.path):
        return _distilled(recipe, directory, resume, callbacks, log, progress)


def is_first_process() -> bool:
    """True for the process of a run that logs and writes, by the launcher's environment."""
    return bool(get_int_from_env(_RANKS, 0) == 0)


def _distilled(
    recipe: Recipe,
    directory: RunDirectory,
    resume: bool,
    callbacks: Sequence[TrainerCallback],
    log: Callable[[str], None],
    progress: bool,
) -> DistillResult:
    directory.check(resume=resume)
    tokenizers, contracts, data, held_out = _checked_inputs(recipe)
    directory.check_examples(data.fingerprint)
    if resume and (finished := _finished_result(directory)) is not None:
        return finished
    if is_first_process():
        log(f"loading {' and '.join(getattr(recipe, role).path for role in tokenizers.by_role())}")
    with without_progress_bars():
        models = load_models(recipe, contracts)
    # Each takes `progress`.
    likelihoods = {
        role: partial(
            held_out_likelihood,
            models[role],
            tokenizer,
            held_out[role],
            batch_size=recipe.training.batch_size,
        )
        for role, tokenizer in tokenizers.by_role().items()
    }
    likelihood = likelihoods["student"]
    stop, meter = StopOnSignal(), RunMeter()
    steps = StepLog(log, bar=progress and not recipe.training.disable_tqdm)
    trainer = build_trainer(
        recipe,
        data.examples,
        student=models["student"],
        student_tokenizer=tokenizers.student,
        teacher=models.get("teacher"),
        teacher_tokenizer=tokenizers.teacher,
        shared_vocab_size=tokenizers.shared_vocab_size,
        evaluation=lambda: _figures(likelihood()),
        callbacks=[stop, meter, steps, *callbacks],
    )
    is_main = trainer.is_world_process_zero()
    # One rank reads and hashes; the others wait for its answer.
    found: list[Path | None] = [None]
    if is_main and resume:
        found = [latest_complete_checkpoint(directory.path, log)]
    [checkpoint] = broadcast_object_list(found)
    if resume and checkpoint is None and checkpoints_in(directory.path):
        raise ValueError(
            f"distill: every checkpoint in {str(directory.path)!r} is damaged, or has no manifest. Name "
            "another training.output_dir, or remove them to start from the beginning."
        )
    if is_main:
        directory.begin(data.fingerprint)
    if is_main and data.counts.rejected:
        log(str(data.counts))
    if resume and is_main:
        beginning = f"no checkpoint in {directory.path}: starting from the beginning"
        log(beginning if checkpoint is None else f"going on from {checkpoint}")
    num_held_out = len(held_out["student"])
    if is_main and num_held_out and checkpoint is None:
        and_teacher = " and the teacher" if "teacher" in models else ""
        log(f"evaluating the start{and_teacher} on {num_held_out} held-out texts")
        evaluate_references(directory.path, likelihood, likelihoods.get("teacher"), progress=progress)
    meter.start(checkpoint)
    with stop.installed(), steps.shown():
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
    if is_main:
        directory.reopen()
    trainer.save_model()
    if is_main and num_held_out:
        log(f"evaluating the student on {num_held_out} held-out texts")
        figures = {"held_out": likelihood(progress=progress), "references": read_references(directory.path)}
        result = result.model_copy(update=figures)
    if is_main:
        directory.finish(result.model_dump_json(indent=1, include=set(RunSummary.model_fields)))
    return result


def _figures(likelihood: HeldOutLikelihood) -> dict[str, float]:
    bound = likelihood.bound
    error = {} if bound.standard_error is None else {"standard_error": bound.standard_error}
    return {"bound": bound.nats_per_byte, **error}


def load_models(recipe: Recipe, contracts: Mapping[str, Contract]) -> dict[str, DiffusionModel]:
    """Load the student and, if the method has one, the teacher: each role of `contracts`."""
    with at_key("student.path"):
        student = load_model(recipe.student.path, trainable=True)
    record_contract(student.config, contracts["student"])
    models = {"student": DiffusionModel(student, contracts["student"])}
    if recipe.teacher is not None and "teacher" in contracts:
        with at_key("teacher.path"):
            teacher = load_model(
                recipe.teacher.path,
                dtype=recipe.teacher.dtype,
                trainable=False,
                quantization=recipe.teacher.quantization,
                device=recipe.teacher.device,
            )
        models["teacher"] = DiffusionModel(teacher, contracts["teacher"])
    return models


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

    The output directory comes last, so that a recipe can be checked while its run exists. It is
    written to, and left as it was.

    Returns:
        One line, and an indented one for every reason why rows were rejected.
    Raises:
        ValueError: as `distill`; the error of the output directory adds that all else is fit to run.
    """
    tokenizers, _, data, _ = _checked_inputs(recipe)
    directory = RunDirectory(recipe)
    try:
        with directory.locked():
            directory.check(resume=resume)
            directory.check_examples(data.fingerprint)
    except (ValueError, OSError) as error:
        raise ValueError(f"{error} All else is fit to run.") from error
    sides = ", ".join(
        f"{role}'s vocabulary {len(tokenizer):,}" for role, tokenizer in tokenizers.by_role().items()
    )
    return f"fit to run; method {recipe.method}, {sides}; {data.counts}"


class _Inputs(NamedTuple):
    """All that a run reads but the weights."""

    tokenizers: Tokenizers
    contracts: dict[str, Contract]  # by role
    data: TrainingData
    held_out: dict[str, list[Example]]  # by role, as each model reads them


def _checked_inputs(recipe: Recipe) -> _Inputs:
    training_arguments(recipe)
    _check_models(recipe)
    tokenizers = load_tokenizers(recipe)
    check_embeddings(recipe, tokenizers)
    contracts = model_contracts(recipe, tokenizers)
    check_teacher(METHODS[recipe.method], contracts.get("teacher"))
    data = training_data(recipe, tokenizers)
    check_shared_ids(tokenizers, data.counts.highest_id)
    held_out = {"student": held_out_examples(recipe, tokenizers)}
    if "teacher" in contracts:
        held_out["teacher"] = held_out_examples(recipe, tokenizers, contracts["teacher"])
    return _Inputs(tokenizers, contracts, data, held_out)


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
    wanted = directory.recipe.training.max_steps or (summary.steps if summary else 0)
    if summary is None or directory.last_step < summary.steps or summary.steps < wanted:
        return None
    return DistillResult(
        **dict(summary),
        output_dir=directory.path,
        max_steps=summary.steps,
        finished=True,
        already_finished=True,
    )
