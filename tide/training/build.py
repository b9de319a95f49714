"""Recipe -> trainer: the parts of a run, put together, and `training:` as transformers' TrainingArguments."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

import torch
import transformers
from transformers import PrinterCallback, ProgressCallback, TrainingArguments
from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from tide.config import at_key
from tide.data import Collator
from tide.losses.objective import Objective
from tide.masking import Noiser
from tide.methods import METHODS
from tide.models import set_attention
from tide.training.hf_trainer import DistillationTrainer
from tide.training.step import DistillationModule

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from transformers import PreTrainedTokenizerFast, TrainerCallback

    from tide.batch import Example
    from tide.config import ModelConfig, Recipe
    from tide.data import ShardedExamples
    from tide.models import DiffusionModel

# Our key -> its name in TrainingArguments. A key of another meaning is set in `training_arguments`.
RENAMED = {"batch_size": "per_device_train_batch_size", "lr_scheduler": "lr_scheduler_type"}
OTHER_MEANING = {"precision", "warmup_ratio", "gradient_checkpointing", "report_to"}


def build_trainer(
    recipe: Recipe,
    examples: Sequence[Example] | ShardedExamples,
    *,
    student: DiffusionModel,
    student_tokenizer: PreTrainedTokenizerFast,
    teacher: DiffusionModel | None,
    teacher_tokenizer: PreTrainedTokenizerFast | None,
    shared_vocab_size: int | None = None,
    evaluation: Callable[[], dict[str, float]] = dict,
    callbacks: Sequence[TrainerCallback] = (),
) -> DistillationTrainer:
    """Put together everything but the loop itself, for a checked recipe.

    Args:
        examples: prepared for this recipe's tokenizers and lengths.
        student, teacher: loaded; the teacher frozen.
        shared_vocab_size: width of the common vocabulary, where the heads differ.
        evaluation: figures of the student on held-out text, for `training.eval_steps`.
    Raises:
        ValueError: a model's `attn_implementation` is not installed, or does not fit it.
    """
    if recipe.training.gradient_checkpointing:
        student.network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    method = METHODS[recipe.method]
    objective = Objective(method, recipe.objective, shared_vocab_size=shared_vocab_size)
    arguments = training_arguments(recipe)
    for role, model in {"student": student, "teacher": teacher}.items():
        if model is not None:
            config: ModelConfig = getattr(recipe, role)
            device = arguments.device if config.device is None else model.network.device
            with at_key(role):
                set_attention(model.network, model.contract, device, config.attn_implementation)
    trainer = DistillationTrainer(
        DistillationModule(student, teacher, objective),
        noiser=Noiser(
            recipe.masking, method, student.contract, None if teacher is None else teacher.contract
        ),
        collator=Collator(
            student_pad_id=_pad_id(student_tokenizer),
            teacher_pad_id=None if teacher_tokenizer is None else _pad_id(teacher_tokenizer),
            pad_to_multiple_of=student.contract.block_size or 1,
        ),
        args=arguments,
        evaluation=evaluation,
        train_dataset=examples,
        eval_dataset=[],  # the Trainer asks for one; `evaluation` has its own
        processing_class=student_tokenizer,
        callbacks=list(callbacks),
    )
    for shown_otherwise in (ProgressCallback, PrinterCallback):  # by `tide.training.progress`
        trainer.remove_callback(shown_otherwise)
    return trainer


def _pad_id(tokenizer: PreTrainedTokenizerFast) -> int:
    # Nothing reads padding, so any id of the vocabulary serves.
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0


def training_arguments(recipe: Recipe) -> TrainingArguments:
    """Build the arguments of the Trainer; nothing is written or loaded.

    Raises:
        ValueError: the installed transformers lacks an argument, refuses its value, or lacks a tracker.
    """
    training = recipe.training
    _check_trackers(training.report_to)
    given = training.model_dump(exclude_none=True, exclude=OTHER_MEANING)
    names = {field.name for field in fields(TrainingArguments)}
    for key in given:
        if RENAMED.get(key, key) not in names:
            raise ValueError(f"training.{key}: transformers {transformers.__version__} has no such argument.")
    values = {RENAMED.get(key, key): value for key, value in given.items()}
    with at_key("training"):
        arguments = TrainingArguments(
            **{
                # Below 1 it is a share of all steps.
                "warmup_steps": min(training.warmup_ratio, 1 - 2**-20),
                "bf16": training.precision == "bf16",
                "data_seed": training.seed,
                "report_to": training.report_to or "none",
                "dataloader_num_workers": recipe.data.num_workers,
                "dataloader_pin_memory": False,
                "remove_unused_columns": False,
                "eval_strategy": "no" if training.eval_steps is None else "steps",
                # No method leaves any, and transformers would search at every step.
                "ddp_find_unused_parameters": False,
                # The filter reads the loss at every step, to log a mean where it is NaN.
                "logging_nan_inf_filter": False,
                # transformers requires this for bf16 on a CPU, and takes any accelerator otherwise. Apple's
                # lack the fp64 in which a few rows of a loss may be computed.
                "use_cpu": not torch.accelerator.is_available() or torch.backends.mps.is_available(),
            }
            | values
        )
    # One device per process: several come from `accelerate launch`, not from torch's DataParallel, which
    # copies a batch to every device instead of splitting it.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _check_trackers(names: Sequence[str]) -> None:
    """The Trainer looks for trackers only after the models are loaded."""
    if list(names) in (["all"], ["none"]):  # words of transformers
        return
    # transformers does not list flyte where it is installed.
    available = {*get_available_reporting_integrations(), "flyte"}
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            raise ValueError(
                f"training.report_to: transformers knows no tracker {name!r}. "
                f"Name some of {', '.join(sorted(INTEGRATION_TO_CALLBACK))}, or leave the list empty."
            )
        if name not in available:
            raise ValueError(
                f"training.report_to: {name!r} is not installed. "
                f"Install it (pip install {name}), or take it out of the list."
            )
