"""Recipe -> trainer: the parts of a run, put together."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from transformers import TrainingArguments

from tide.data import Collator
from tide.losses.objective import Objective
from tide.masking import Noiser
from tide.methods import METHODS
from tide.training.hf_trainer import DistillationTrainer
from tide.training.module import DistillationModule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerFast, TrainerCallback

    from tide.batch import Example
    from tide.config import Recipe
    from tide.data import ShardedExamples
    from tide.models import DiffusionModel


def build_trainer(
    recipe: Recipe,
    examples: Sequence[Example] | ShardedExamples,
    *,
    student: DiffusionModel,
    student_tokenizer: PreTrainedTokenizerFast,
    teacher: DiffusionModel | None,
    teacher_tokenizer: PreTrainedTokenizerFast | None,
    shared_vocab_size: int | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> DistillationTrainer:
    """Everything but the loop itself.

    Args:
        recipe: checked.
        examples: prepared for this recipe's tokenizers and lengths.
        student, teacher: loaded; the teacher frozen.
        shared_vocab_size: width of the common vocabulary, where the heads differ.
        callbacks: the Trainer's.
    """
    if recipe.training.gradient_checkpointing:
        student.network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    objective = Objective(METHODS[recipe.method], recipe.objective, shared_vocab_size=shared_vocab_size)
    return DistillationTrainer(
        DistillationModule(student, teacher, objective),
        noiser=Noiser(
            recipe.masking,
            METHODS[recipe.method],
            student_mask_id=student.contract.mask_id,
            teacher_mask_id=None if teacher is None else teacher.contract.mask_id,
        ),
        collator=Collator(
            student_pad_id=_pad_id(student_tokenizer),
            teacher_pad_id=None if teacher_tokenizer is None else _pad_id(teacher_tokenizer),
            pad_to_multiple_of=student.contract.block_size,
        ),
        args=_training_arguments(recipe),
        train_dataset=examples,
        processing_class=student_tokenizer,
        callbacks=list(callbacks),
    )


def _training_arguments(recipe: Recipe) -> TrainingArguments:
    training = recipe.training
    arguments = TrainingArguments(
        output_dir=training.output_dir,
        max_steps=training.max_steps,
        per_device_train_batch_size=training.batch_size,
        gradient_accumulation_steps=training.gradient_accumulation_steps,
        learning_rate=training.learning_rate,
        # As steps, because transformers 5 no longer reads a ratio.
        warmup_steps=math.ceil(training.warmup_ratio * training.max_steps),
        lr_scheduler_type=training.lr_scheduler,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        bf16=training.precision == "bf16",
        # transformers asks for this before it allows bf16 on a CPU; left to itself elsewhere.
        # Apple's devices lack the fp64 in which a few rows of a loss may be computed.
        use_cpu=not torch.accelerator.is_available() or torch.backends.mps.is_available(),
        seed=training.seed,
        data_seed=training.seed,
        logging_steps=training.logging_steps,
        save_steps=training.save_steps,
        save_total_limit=training.save_total_limit,
        report_to=training.report_to or "none",
        dataloader_num_workers=recipe.data.num_workers,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        eval_strategy="no",
        # It would read the loss back at every step, to show a mean where the loss is NaN. See `log`.
        logging_nan_inf_filter=False,
    )
    # One device per process: several come from `accelerate launch`, never from torch's DataParallel, which
    # would copy a batch to every device instead of splitting it.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _pad_id(tokenizer: PreTrainedTokenizerFast) -> int:
    # Nothing reads padding, so any id of the vocabulary serves.
    return tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
